"""Exact positive scales: an odd multiplier times a power of two."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import total_ordering
from typing import Self

import numpy as np

from binpoint.errors import InvalidConstant, InvariantBroken

_TEXT = re.compile(r"(?:([0-9]+)\*)?2\^(-?[0-9]+)")


@total_ordering
@dataclass(frozen=True, slots=True)
class Dyadic:
    """An exact positive number ``multiplier * 2**exponent`` with an odd multiplier.

    The form is canonical: equal values are equal objects. Every finite positive float is dyadic.
    """

    multiplier: int
    exponent: int

    def __post_init__(self) -> None:
        if self.multiplier <= 0 or self.multiplier % 2 == 0:
            raise InvariantBroken(
                "a dyadic multiplier is odd and positive",
                have=str(self.multiplier),
                hint="build it with Dyadic.of, which brings any multiplier into canonical form",
            )

    @classmethod
    def of(cls, multiplier: int, exponent: int) -> Self:
        """Return ``multiplier * 2**exponent`` in canonical form; the multiplier may be even."""
        if multiplier <= 0:
            raise InvalidConstant("a scale must be positive", have=f"{multiplier}*2^{exponent}")
        zeros = (multiplier & -multiplier).bit_length() - 1
        return cls(multiplier >> zeros, exponent + zeros)

    @classmethod
    def from_float(cls, value: float | np.floating) -> Self:
        """Return the exact value of a float; InvalidConstant unless positive and finite."""
        number = float(value)
        if not 0.0 < number < float("inf"):
            raise InvalidConstant(
                "a scale must be a positive finite number",
                have=repr(number),
                want="0 < scale < inf",
            )
        return cls.from_fraction(Fraction(number))

    @classmethod
    def from_fraction(cls, value: Fraction) -> Self:
        """Return a fraction over a power of two; any other denominator is InvalidConstant."""
        denominator = value.denominator
        if denominator & (denominator - 1):
            raise InvalidConstant(
                "a scale must be an integer times a power of two",
                have=str(value),
                hint="approximate a ratio of scales with binpoint.numeric.requant.approximate",
            )
        return cls.of(value.numerator, 1 - denominator.bit_length())

    @classmethod
    def one(cls) -> Self:
        """Return the scale 1."""
        return cls(1, 0)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form, ``2^-5`` or ``1447*2^-16``."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise InvalidConstant("not a scale", have=text, want="2^-5 or 1447*2^-16")
        return cls.of(int(match[1] or "1"), int(match[2]))

    @property
    def is_power_of_two(self) -> bool:
        """Whether the scale is a binary point."""
        return self.multiplier == 1

    def as_fraction(self) -> Fraction:
        """Return the exact value."""
        if self.exponent >= 0:
            return Fraction(self.multiplier << self.exponent)
        return Fraction(self.multiplier, 1 << -self.exponent)

    def __mul__(self, other: Dyadic) -> Dyadic:
        """Return the exact product."""
        return Dyadic(self.multiplier * other.multiplier, self.exponent + other.exponent)

    def __lt__(self, other: Dyadic) -> bool:
        """Compare by value."""
        return self.as_fraction() < other.as_fraction()

    def __float__(self) -> float:
        """Return the nearest float64 (exact for scales that came from a float)."""
        try:
            return float(self.as_fraction())
        except OverflowError:
            raise InvalidConstant("the scale is too large for a float", have=str(self)) from None

    def __str__(self) -> str:
        """Return the text form, ``2^-5`` or ``1447*2^-16``; ``parse`` reads it back."""
        if self.multiplier == 1:
            return f"2^{self.exponent}"
        return f"{self.multiplier}*2^{self.exponent}"
