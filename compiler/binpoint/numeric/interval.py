"""Exact integer ranges, and the narrowest type that holds one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from binpoint.errors import AccumulatorOverflow, InvariantBroken
from binpoint.numeric.fixed import IntType


@dataclass(frozen=True, slots=True)
class Interval:
    """All integers from ``lo`` to ``hi``, both included. Arithmetic is exact and never wraps."""

    lo: int
    hi: int

    def __post_init__(self) -> None:
        if self.lo > self.hi:
            raise InvariantBroken("an interval is empty", have=f"[{self.lo}, {self.hi}]")

    @classmethod
    def of(cls, values: npt.ArrayLike) -> Self:
        """Return the range of a non-empty integer array (or of one int)."""
        array = np.asarray(values)
        if array.size == 0 or not np.issubdtype(array.dtype, np.integer):
            raise InvariantBroken(
                "a range needs integers", have=f"{array.size} values of {array.dtype}"
            )
        return cls(int(array.min()), int(array.max()))

    @classmethod
    def of_type(cls, storage: IntType) -> Self:
        """Return all values of an integer type."""
        return cls(storage.min, storage.max)

    def __add__(self, other: Interval | int) -> Interval:
        """Return the range of all sums."""
        right = _interval(other)
        return Interval(self.lo + right.lo, self.hi + right.hi)

    def __sub__(self, other: Interval | int) -> Interval:
        """Return the range of all differences."""
        right = _interval(other)
        return Interval(self.lo - right.hi, self.hi - right.lo)

    def __mul__(self, other: Interval | int) -> Interval:
        """Return the range of all products."""
        right = _interval(other)
        corners = [a * b for a in (self.lo, self.hi) for b in (right.lo, right.hi)]
        return Interval(min(corners), max(corners))

    def __neg__(self) -> Interval:
        """Return the mirrored range."""
        return Interval(-self.hi, -self.lo)

    def union(self, other: Interval) -> Interval:
        """Return the smallest interval that contains both."""
        return Interval(min(self.lo, other.lo), max(self.hi, other.hi))

    def clamp(self, lo: int, hi: int) -> Interval:
        """Return the range after every value was clamped to ``lo``..``hi``."""
        bounds = Interval(lo, hi)
        return Interval(
            min(max(self.lo, bounds.lo), bounds.hi), min(max(self.hi, bounds.lo), bounds.hi)
        )

    def contains(self, other: Interval | int) -> bool:
        """Whether every value of ``other`` lies in this interval."""
        inner = _interval(other)
        return self.lo <= inner.lo and inner.hi <= self.hi

    def int_type(self) -> IntType:
        """Return the smallest type that holds the range: signed exactly if ``lo < 0``.

        Raises:
            AccumulatorOverflow: 64 bits do not suffice.
        """
        signed = self.lo < 0
        magnitude = max(self.hi, -self.lo - 1).bit_length()
        width = max(1, magnitude + int(signed))
        if width > 64:
            raise AccumulatorOverflow(
                "a range needs more than 64 bits", have=f"{self}, {width} bits"
            )
        return IntType(width, signed)

    def width_in(self, candidates: Iterable[IntType]) -> IntType:
        """Return the narrowest of the candidate types that holds the range (the first of equals).

        Raises:
            AccumulatorOverflow: none of them does.
        """
        types = sorted(candidates, key=lambda candidate: candidate.width)
        for storage in types:
            if Interval.of_type(storage).contains(self):
                return storage
        raise AccumulatorOverflow(
            "a range fits none of the types available",
            have=str(self),
            want=", ".join(map(str, types)),
        )

    def __str__(self) -> str:
        """Return ``[lo, hi]``."""
        return f"[{self.lo}, {self.hi}]"


def _interval(value: Interval | int) -> Interval:
    return value if isinstance(value, Interval) else Interval(value, value)
