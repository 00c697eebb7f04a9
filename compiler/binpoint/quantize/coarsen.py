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
    """How often codes occur: of a type of at most 8 bits, ``[channels, codes]`` from its smallest.

    One row for all channels, or one for each where coarser types have a scale for each.
    """

    kind: FixedType
    counts: IntArray

    @classmethod
    def of(cls, kind: FixedType, codes: NDArray[Any], *, apart: bool = False) -> Occurrences:
        """Those of an array of codes ``[..., C]``, of its channels `apart` or together."""
        storage = kind.storage
        size = storage.max - storage.min + 1
        rows = codes.reshape(-1, codes.shape[-1] if apart else 1).astype(np.int64) - storage.min
        count = rows.shape[1]
        places = rows + size * np.arange(count)
        return cls(kind, np.bincount(places.reshape(-1), minlength=size * count).reshape(-1, size))

    def __add__(self, other: Occurrences) -> Occurrences:
        """Those of both."""
        return Occurrences(self.kind, self.counts + other.counts)

    @property
    def codes(self) -> IntArray:
        """All codes."""
        return np.arange(self.counts.shape[1], dtype=np.int64) + self.kind.storage.min

    @property
    def positive(self) -> bool:
        """Whether nothing below zero occurs."""
        return not self.counts[:, self.codes < self.kind.zero_point].any()

    def entropy(self) -> float:
        """Bits of information in a value, Σ −p·log2 p, in the mean of the rows."""
        return float(np.mean([entropy(row) for row in self.counts]))

    def coarser(self, bits: int, axis: int = 0) -> FixedType:
        """The type of `bits` with the least squared error; zero stays a code.

        `axis` is that of channels, where they are apart; nothing below zero occurs then.
        """
        found = [self._best(row, bits) for row in self.counts]
        storage = IntType(bits, signed=self.kind.storage.signed)
        scales = tuple(Dyadic.from_float(np.float32(scale)) for scale, _ in found)
        if len(found) == 1:
            return FixedType(storage, scales, (found[0][1],))
        assert self.positive, "channels with scales of their own need one zero point"
        return FixedType(storage, scales, (storage.min,), axis)

    def _best(self, counts: IntArray, bits: int) -> tuple[float, int]:
        """Scale and zero point for one row."""
        seen = np.flatnonzero(counts)
        real = (self.codes - self.kind.zero_point)[seen].astype(np.float64)
        smallest = IntType(bits, signed=self.kind.storage.signed).min
        if not real.any():
            return float(self.kind.scale), smallest
        low, high = min(real.min(), 0.0), max(real.max(), 0.0)
        parts = np.arange(_GRID, 0, -1) / _GRID
        lows, highs = (low * parts if low else np.zeros(1)), (high * parts if high else np.zeros(1))
        top = 2**bits - 1
        steps = ((highs[None, :] - lows[:, None]) / top).reshape(-1, 1)
        zeros = np.rint(-np.repeat(lows, len(highs))[:, None] / steps)
        levels = np.clip(np.rint(real / steps) + zeros, 0, top)
        error = (((levels - zeros) * steps - real) ** 2) @ counts[seen].astype(np.float64)
        best = int(np.argmin(error))
        return float(self.kind.scale) * float(steps[best, 0]), int(zeros[best, 0]) + smallest

    def error(self, kind: FixedType) -> float:
        """What a coarser type puts wrong, as a part of the deviation."""
        real = (self.codes - self.kind.zero_point).astype(np.float64)
        wrong = signal = 0.0
        for step, row in zip(steps_of(self.kind, kind), self.counts, strict=True):
            levels = recoded(self.codes, self.kind, kind, step) - kind.zero_points[0]
            mean = float(row @ real) / max(1, int(row.sum()))
            wrong += float(row @ (levels * float(step) - real) ** 2)
            signal += float(row @ (real - mean) ** 2)
        return (wrong / signal) ** 0.5 if signal else 0.0

    def lost(self, kind: FixedType) -> float:
        """The part of the entropy that goes with a coarser type: |H(f) − H(Q(f))| / H(f)."""
        whole = self.entropy()
        size = 2**kind.storage.width
        rest: list[float] = []
        for step, row in zip(steps_of(self.kind, kind), self.counts, strict=True):
            levels = recoded(self.codes, self.kind, kind, step) - kind.storage.min
            rest.append(entropy(np.bincount(levels, row, size)))
        return abs(whole - float(np.mean(rest))) / whole if whole else 0.0


def entropy(counts: NDArray[Any]) -> float:
    """Σ −p·log2 p of what occurs so often."""
    found = counts[counts > 0].astype(np.float64)
    if found.size == 0:
        return 0.0
    p = found / found.sum()
    return float(-(p * np.log2(p)).sum())


def steps_of(old: FixedType, new: FixedType) -> tuple[Fraction, ...]:
    """How many steps of the old type one of the new is: for all, or for each channel."""
    return tuple(scale.as_fraction() / old.scale.as_fraction() for scale in new.scales)


def recoded(
    codes: NDArray[Any], old: FixedType, new: FixedType, step: Fraction | NDArray[np.float64]
) -> IntArray:
    """The nearest codes of the new type, ties to even, clamped.

    `step` is that of `steps_of`; an array of them is for the last axis.
    """
    real = (np.asarray(codes, np.int64) - old.zero_points[0]) / np.asarray(step, np.float64)
    levels = np.rint(real).astype(np.int64) + new.zero_points[0]
    return np.clip(levels, new.storage.min, new.storage.max)
