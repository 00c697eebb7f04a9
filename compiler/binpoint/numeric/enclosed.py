"""Real numbers known between rationals: where a half-line begins, and factors with a root.

What cannot be told at some precision is `Undecided`; whoever asks enlarges the precision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

from binpoint.errors import InvalidConstant


class Undecided(Exception):
    """An enclosure is too wide to tell on which side of a number it lies."""


@dataclass(frozen=True, slots=True)
class Edge:
    """All numbers from a place on: upwards, or downwards. The place lies in ``low..high``."""

    low: Fraction
    high: Fraction
    closed: bool
    up: bool = True

    def opposite(self) -> Edge:
        """All other numbers."""
        return replace(self, closed=not self.closed, up=not self.up)

    def holds(self, x: Fraction) -> bool:
        """Whether ``x`` is among them."""
        if self.low != self.high and self.low <= x <= self.high:
            raise Undecided
        if x == self.low:
            return self.closed
        return (x > self.low) == self.up

    def integer(self) -> int:
        """The first integer among them, counted from the place."""
        ends = {self._integer(self.low), self._integer(self.high)}
        if len(ends) > 1:
            raise Undecided
        return ends.pop()

    def _integer(self, place: Fraction) -> int:
        if self.up:
            return math.ceil(place) if self.closed else math.floor(place) + 1
        return math.floor(place) if self.closed else math.ceil(place) - 1


Places = Edge | bool
"""A half-line; or all numbers, or none."""


@dataclass(frozen=True, slots=True)
class Factor:
    """The real number ``numerator / sqrt(radicand)``."""

    numerator: Fraction
    radicand: Fraction = Fraction(1)

    @classmethod
    def of(cls, numerator: Fraction, radicand: Fraction = Fraction(1)) -> Factor:
        """The same in lowest terms: a perfect square leaves the root."""
        if radicand <= 0:
            raise InvalidConstant("a variance is not positive", have=str(float(radicand)))
        roots = math.isqrt(radicand.numerator), math.isqrt(radicand.denominator)
        if Fraction(roots[0] ** 2, roots[1] ** 2) == radicand:
            return cls(numerator / Fraction(*roots))
        return cls(numerator, radicand) if numerator else cls(numerator)

    @property
    def exact(self) -> bool:
        """Whether it is rational."""
        return self.radicand == 1

    def __float__(self) -> float:
        """The nearest float64, or its neighbour."""
        low, high = self.bounds(128)
        return float((low + high) / 2)

    def bounds(self, bits: int) -> tuple[Fraction, Fraction]:
        """Rationals that enclose it, ``bits`` significant bits apart; equal if it is rational."""
        if self.exact:
            return self.numerator, self.numerator
        n, d = self.radicand.numerator, self.radicand.denominator
        scale = 1 << (bits + max(0, (n.bit_length() - d.bit_length()) // 2 + 1))
        root = math.isqrt(d * scale * scale // n)
        low, high = sorted(self.numerator * Fraction(r, scale) for r in (root, root + 1))
        return low, high
