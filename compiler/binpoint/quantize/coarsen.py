"""Coarser types for a map: the scale of few bits with the least squared error, and what it loses.

A map is known by how often each of its codes occurs; so all candidates are tried exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.op import IntArray
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import FixedType, IntType

_GRID = 32
"""Ends of a range that are tried, as parts of what was seen."""


@dataclass(frozen=True, slots=True)
class Occurrences:
    """How often codes occur: of a type of at most 8 bits, ``[codes]`` from its smallest on."""

    kind: FixedType
    counts: IntArray

    @classmethod
    def of(cls, kind: FixedType, codes: NDArray[Any]) -> Occurrences:
        """Those of an array of codes."""
        storage = kind.storage
        size = storage.max - storage.min + 1
        flat = codes.reshape(-1).astype(np.int64) - storage.min
        return cls(kind, np.bincount(flat, minlength=size))

    def __add__(self, other: Occurrences) -> Occurrences:
        """Those of both."""
        return Occurrences(self.kind, self.counts + other.counts)

    @property
    def codes(self) -> IntArray:
        """All codes."""
        return np.arange(len(self.counts), dtype=np.int64) + self.kind.storage.min

    def entropy(self) -> float:
        """Bits of information in a value, Σ −p·log2 p."""
        return entropy(self.counts)

    def coarser(self, bits: int) -> FixedType:
        """The type of `bits` with the least squared error; zero stays a code."""
        seen = np.flatnonzero(self.counts)
        centred = self.codes - self.kind.zero_point
        weights = self.counts[seen].astype(np.float64)
        real = centred[seen].astype(np.float64)
        storage = IntType(bits, signed=self.kind.storage.signed)
        if not seen.size or not real.any():
            return FixedType.per_tensor(storage, self.kind.scale, storage.min)
        low, high = min(real.min(), 0.0), max(real.max(), 0.0)
        parts = np.arange(_GRID, 0, -1) / _GRID
        lows, highs = (low * parts if low else np.zeros(1)), (high * parts if high else np.zeros(1))
        steps = (highs[None, :] - lows[:, None]) / (2**bits - 1)
        zeros = np.rint(-lows[:, None] / steps)
        steps, zeros = steps.reshape(-1, 1), zeros.reshape(-1, 1)
        levels = np.clip(np.rint(real / steps) + zeros, 0, 2**bits - 1)
        error = (((levels - zeros) * steps - real) ** 2) @ weights
        best = int(np.argmin(error))
        scale = np.float32(float(self.kind.scale) * steps[best, 0])
        zero = int(zeros[best, 0]) + storage.min
        return FixedType.per_tensor(storage, Dyadic.from_float(scale), zero)

    def lost(self, kind: FixedType) -> float:
        """The part of the entropy that goes with a coarser type: |H(f) − H(Q(f))| / H(f)."""
        whole = self.entropy()
        levels = recoded(self.codes, self.kind, kind) - kind.storage.min
        rest = entropy(np.bincount(levels, self.counts, 2**kind.storage.width))
        return abs(whole - rest) / whole if whole else 0.0


def entropy(counts: NDArray[Any]) -> float:
    """Σ −p·log2 p of what occurs so often."""
    found = counts[counts > 0].astype(np.float64)
    if found.size == 0:
        return 0.0
    p = found / found.sum()
    return float(-(p * np.log2(p)).sum())


def step_of(old: FixedType, new: FixedType) -> Fraction:
    """How many steps of the old type one of the new is."""
    return new.scale.as_fraction() / old.scale.as_fraction()


def recoded(codes: NDArray[Any], old: FixedType, new: FixedType) -> IntArray:
    """The nearest codes of the new type, ties to even, clamped."""
    real = (np.asarray(codes, np.int64) - old.zero_point) / float(step_of(old, new))
    levels = np.rint(real).astype(np.int64) + new.zero_point
    return np.clip(levels, new.storage.min, new.storage.max)
