"""Integers as sums of signed powers of two: canonical signed digits, and the nearest of few.

The canonical form has no two neighbouring digits that are not zero, exists once for every integer,
and has as few digits as any sum of signed powers of two (Reitwiesner 1960, "Binary arithmetic").
So an integer is K-hot, a sum of at most K of them, exactly if its canonical form is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from binpoint.errors import InvariantBroken

_WIDEST = 61


@dataclass(frozen=True, slots=True)
class Digit:
    """A signed power of two: 2^shift, or less than zero as much."""

    shift: int
    negative: bool = False

    @property
    def value(self) -> int:
        """The integer."""
        return -(1 << self.shift) if self.negative else 1 << self.shift


def digits(number: int) -> tuple[Digit, ...]:
    """The canonical signed digits of an integer that are not zero, the largest first."""
    found: list[Digit] = []
    rest, shift = number, 0
    while rest:
        if rest & 1:
            negative = rest & 3 == 3
            found.append(Digit(shift, negative))
            rest += 1 if negative else -1
        rest >>= 1
        shift += 1
    return tuple(reversed(found))


def parts(numbers: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The sums of the positive and of the negative digits, so that each number is their difference.

    The digits of n that are positive are the bits of 3n that n has not, one place lower.
    """
    array = np.asarray(numbers, np.int64)
    size = np.abs(array)
    plus, minus = (3 * size & ~size) >> 1, (size & ~(3 * size)) >> 1
    return np.where(array < 0, minus, plus), np.where(array < 0, plus, minus)


def terms(numbers: ArrayLike) -> NDArray[np.int64]:
    """How many signed powers of two each integer is the sum of, at least.

    The digits of n that are not zero are the bits in which 3n and n differ.
    """
    array = np.abs(np.asarray(numbers, np.int64))
    if array.size and int(array.max()) >> _WIDEST:
        raise InvariantBroken("an integer is too large to be split", have=str(array.max()))
    differ = array ^ (3 * array)
    return np.array([int(v).bit_count() for v in differ.reshape(-1)], np.int64).reshape(array.shape)


def grid(count: int, most: int) -> NDArray[np.int64]:
    """All integers from -most to most that are sums of at most `count` signed powers of two."""
    every = np.arange(-most, most + 1, dtype=np.int64)
    return every[terms(every) <= count]


def nearest(numbers: ArrayLike, codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each real number the nearest of ascending codes; of two as near, the one nearer to 0."""
    array = np.asarray(numbers, np.float64)
    above = np.clip(np.searchsorted(codes, array), 1, len(codes) - 1)
    low, high = codes[above - 1], codes[above]
    down, up = array - low, high - array
    return np.where((down < up) | ((down == up) & (np.abs(low) < np.abs(high))), low, high)
