"""Monotone functions of one number, exact: what lies between an integer sum and its output code.

A chain of steps (scaling, shifting, clipping, rounding) maps integers to integer codes. Each step
is undone exactly on a half-line, "the result is at least n", so that the least integer that reaches
a code comes out of rational arithmetic alone. A square root, as batch normalisation has it, is
enclosed between rationals (`numeric.enclosed`); the precision grows until every threshold is
decided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction
from typing import Final, TypeVar, assert_never

import numpy as np
import numpy.typing as npt

from binpoint.errors import NoIntegerForm
from binpoint.numeric.enclosed import Edge, Factor, Places, Undecided

Ints = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]

_LINE_BITS = 160
_PRECISIONS: Final = (96, 384, 1536, 6144)
_HALF: Final = Fraction(1, 2)
_T = TypeVar("_T")


class Rule(StrEnum):
    """How a real number becomes an integer, named by what it does; QONNX's names in brackets."""

    HALF_EVEN = "half-even"
    """To nearest, ties to the even integer (ROUND, HALF_EVEN)."""
    HALF_AWAY = "half-away"
    """To nearest, ties away from zero (HALF_UP)."""
    HALF_ZERO = "half-zero"
    """To nearest, ties towards zero (HALF_DOWN)."""
    FLOOR = "floor"
    """Towards minus infinity (FLOOR)."""
    CEIL = "ceil"
    """Towards plus infinity (CEIL)."""
    AWAY = "away"
    """Away from zero (UP)."""
    ZERO = "zero"
    """Towards zero (DOWN)."""

    def apply(self, x: Reals) -> Reals:
        """Round an array of float64."""
        match self:
            case Rule.HALF_EVEN:
                return np.rint(x)
            case Rule.HALF_AWAY:
                return np.sign(x) * np.floor(np.abs(x) + 0.5)
            case Rule.HALF_ZERO:
                return np.sign(x) * np.ceil(np.abs(x) - 0.5)
            case Rule.FLOOR:
                return np.floor(x)
            case Rule.CEIL:
                return np.ceil(x)
            case Rule.AWAY:
                return np.sign(x) * np.ceil(np.abs(x))
            case Rule.ZERO:
                return np.trunc(x)
            case _:
                assert_never(self)

    def reaches(self, n: int) -> tuple[Fraction, bool]:
        """Where results of at least ``n`` begin, and whether the place itself belongs to them."""
        match self:
            case Rule.HALF_EVEN:
                return n - _HALF, n % 2 == 0
            case Rule.HALF_AWAY:
                return n - _HALF, n >= 1
            case Rule.HALF_ZERO:
                return n - _HALF, n <= 0
            case Rule.FLOOR:
                return Fraction(n), True
            case Rule.CEIL:
                return Fraction(n - 1), False
            case Rule.AWAY:
                return (Fraction(n), True) if n <= 0 else (Fraction(n - 1), False)
            case Rule.ZERO:
                return (Fraction(n), True) if n >= 1 else (Fraction(n - 1), False)
            case _:
                assert_never(self)


# ---- the steps: each is monotone, and tells where its results reach a half-line


@dataclass(frozen=True, slots=True)
class Scale:
    """x · factor; one factor, or one per channel."""

    factors: tuple[Factor, ...]

    def sign(self, channel: int) -> int:
        """1 rising, -1 falling, 0 constant."""
        number = _at(self.factors, channel).numerator
        return (number > 0) - (number < 0)

    def undo(self, edge: Edge, channel: int, bits: int) -> Places:
        """Which numbers give results within ``edge``."""
        factor = _at(self.factors, channel)
        if not factor.numerator:
            return edge.holds(Fraction(0))
        ends = [a / f for a in {edge.low, edge.high} for f in set(factor.bounds(bits))]
        up = edge.up == (factor.numerator > 0)
        return Edge(min(ends), max(ends), edge.closed, up)

    def real(self, x: Reals) -> Reals:
        """In float64, channels on the last axis."""
        return x * np.array([float(f) for f in self.factors])


@dataclass(frozen=True, slots=True)
class Shift:
    """x + offset; one offset, or one per channel."""

    offsets: tuple[Fraction, ...]

    def sign(self, channel: int) -> int:
        """Rising."""
        return 1

    def undo(self, edge: Edge, channel: int, bits: int) -> Places:
        """Which numbers give results within ``edge``."""
        offset = _at(self.offsets, channel)
        return replace(edge, low=edge.low - offset, high=edge.high - offset)

    def real(self, x: Reals) -> Reals:
        """In float64."""
        return x + np.array([float(b) for b in self.offsets])


@dataclass(frozen=True, slots=True)
class Clip:
    """min(max(x, low), high); None where there is no bound."""

    low: Fraction | None
    high: Fraction | None

    def sign(self, channel: int) -> int:
        """Rising."""
        return 1

    def undo(self, edge: Edge, channel: int, bits: int) -> Places:
        """Which numbers give results within ``edge``, an upward one."""
        if self.low is not None and edge.holds(self.low):
            return True
        if self.high is not None and not edge.holds(self.high):
            return False
        return edge

    def real(self, x: Reals) -> Reals:
        """In float64."""
        low, high = (None if b is None else float(b) for b in (self.low, self.high))
        return x if low is None and high is None else np.clip(x, low, high)


@dataclass(frozen=True, slots=True)
class Slope:
    """x where x is positive, else x · factor; no factor is negative."""

    factors: tuple[Fraction, ...]

    def sign(self, channel: int) -> int:
        """Rising."""
        return 1

    def undo(self, edge: Edge, channel: int, bits: int) -> Places:
        """Which numbers give results within ``edge``, an upward one."""
        factor = _at(self.factors, channel)
        if not factor and edge.holds(Fraction(0)):
            return True
        if not factor or not edge.holds(Fraction(0)) or edge.high == 0:
            return edge
        return replace(edge, low=edge.low / factor, high=edge.high / factor)

    def real(self, x: Reals) -> Reals:
        """In float64."""
        return np.where(x > 0, x, x * np.array([float(f) for f in self.factors]))


@dataclass(frozen=True, slots=True)
class Round:
    """The integer that a rule gives."""

    rule: Rule

    def sign(self, channel: int) -> int:
        """Rising."""
        return 1

    def undo(self, edge: Edge, channel: int, bits: int) -> Places:
        """Which numbers give results within ``edge``, an upward one."""
        place, closed = self.rule.reaches(edge.integer())
        return Edge(place, place, closed)

    def real(self, x: Reals) -> Reals:
        """In float64."""
        return self.rule.apply(x)


@dataclass(frozen=True, slots=True)
class Count:
    """How many of the ascending thresholds of its channel a number reaches."""

    thresholds: tuple[tuple[Fraction, ...], ...]

    def sign(self, channel: int) -> int:
        """Rising."""
        return 1

    def undo(self, edge: Edge, channel: int, bits: int) -> Places:
        """Which numbers give results within ``edge``, an upward one."""
        row, least = _at(self.thresholds, channel), edge.integer()
        if least <= 0:
            return True
        return Edge(row[least - 1], row[least - 1], closed=True) if least <= len(row) else False

    def real(self, x: Reals) -> Reals:
        """In float64."""
        rows = np.array([[float(t) for t in row] for row in self.thresholds])
        return (x[..., None] >= rows).sum(axis=-1).astype(np.float64)


Step = Scale | Shift | Clip | Slope | Round | Count
Steps = tuple[Step, ...]


def scale(*factors: Fraction) -> Scale:
    """A rational factor, or one per channel."""
    return Scale(tuple(Factor.of(f) for f in factors))


def channels_of(steps: Sequence[Step]) -> int:
    """Number of channels with constants of their own; 1 if all share theirs."""
    counts = {1}
    for step in steps:
        match step:
            case Scale(rows) | Shift(rows) | Slope(rows) | Count(rows):
                counts.add(len(rows))
            case _:
                pass
    return max(counts)


def taken(step: Step, channels: Sequence[int]) -> Step:
    """A step with the constants of some channels."""
    match step:
        case Scale(rows) if len(rows) > 1:
            return Scale(tuple(rows[c] for c in channels))
        case Shift(rows) if len(rows) > 1:
            return Shift(tuple(rows[c] for c in channels))
        case Slope(rows) if len(rows) > 1:
            return Slope(tuple(rows[c] for c in channels))
        case Count(rows) if len(rows) > 1:
            return Count(tuple(rows[c] for c in channels))
        case _:
            return step


def signs_of(steps: Sequence[Step], channels: int) -> tuple[int, ...]:
    """1, -1 or 0 per channel: whether the chain rises, falls or is constant."""
    return tuple(math.prod(s.sign(c) for s in steps) for c in range(channels))


def evaluate(steps: Sequence[Step], x: Reals) -> Reals:
    """The chain in float64, channels on the last axis: for calibration, not exact."""
    for step in steps:
        x = step.real(x)
    return x


def affine(steps: Sequence[Step], channel: int) -> tuple[Fraction, Fraction] | None:
    """The line x·a + b that a chain clips and rounds; None if it is bent.

    Roots in it are taken to 160 bits.
    """
    a, b = Fraction(1), Fraction(0)
    for step in steps:
        match step:
            case Scale(factors):
                low, high = _at(factors, channel).bounds(_LINE_BITS)
                factor = (low + high) / 2
                a, b = a * factor, b * factor
            case Shift(offsets):
                b += _at(offsets, channel)
            case Clip():
                continue
            case Round():
                break
            case _:
                return None
    return a, b


def slope(steps: Sequence[Step], channel: int) -> float:
    """The factor of the chain where nothing clips it, as float64."""
    product = 1.0
    for step in steps:
        if isinstance(step, Scale):
            product *= float(_at(step.factors, channel))
    return product


def reached(steps: Sequence[Step], code: int, channel: int) -> Places:
    """The integers for which the chain gives at least ``code``.

    Raises:
        NoIntegerForm: no precision decides where it begins.
    """
    for bits in _PRECISIONS:
        try:
            return _settled(_undo(steps, code, channel, bits))
        except Undecided:
            continue
    raise NoIntegerForm(
        "a threshold cannot be decided",
        have=f"code {code} of channel {channel}",
        hint="two normalisations in a row may cancel; fold them into one before export",
    )


def _settled(places: Places) -> Places:
    if isinstance(places, bool):
        return places
    first = Fraction(places.integer())
    return Edge(first, first, closed=True, up=places.up)


def _undo(steps: Sequence[Step], code: int, channel: int, bits: int) -> Places:
    edge: Places = Edge(Fraction(code), Fraction(code), closed=True)
    for step in reversed(steps):
        if edge.up:
            edge = step.undo(edge, channel, bits)
        else:
            other = step.undo(edge.opposite(), channel, bits)
            edge = not other if isinstance(other, bool) else other.opposite()
        if isinstance(edge, bool):
            return edge
    return edge


def thresholds(
    steps: Sequence[Step], lo: int, hi: int, reach: Sequence[tuple[int, int]]
) -> tuple[tuple[int, ...], Ints]:
    """Signs and thresholds that define a chain of integers to codes ``lo``..``hi``.

    ``code = lo + #{k: sign[c] · x >= T[c, k]}``. A threshold lies within the reach of its channel,
    or one past it where the code is not reached.

    Args:
        steps: ending in integers.
        lo: least code.
        hi: largest code.
        reach: least and largest argument of each channel.

    Returns:
        A sign per channel, 1 or -1, and int64 ``[C, hi - lo]``.
    """
    signs = tuple(s or 1 for s in signs_of(steps, len(reach)))
    table = np.empty((len(reach), hi - lo), np.int64)
    for channel, (sign, ends) in enumerate(zip(signs, reach, strict=True)):
        low, high = sorted(sign * end for end in ends)
        for k in range(hi - lo):
            places = reached(steps, lo + 1 + k, channel)
            table[channel, k] = _first(places, sign, low, high)
    return signs, table


def _first(places: Places, sign: int, low: int, high: int) -> int:
    if isinstance(places, bool):
        return low if places else high + 1
    return min(max(sign * int(places.low), low), high + 1)


def _at(rows: tuple[_T, ...], channel: int) -> _T:
    return rows[channel if len(rows) > 1 else 0]
