"""Exponentials of small integers by shifts or a polynomial, as I-ViT and I-BERT compute them.

Of a distance d ≥ 0 in steps of size S both give an integer near peak·exp(−d·S), at most `peak`.

``ShiftExp``       I-ViT (ICCV 2023), ShiftExp: with u = ⌈1/S⌉ steps to one
                   p = min(d + ⌈d/2⌉ − ⌈d/16⌉, n·u)       d·log2(e), taken for 1.4375·d
                   q = ⌊p/u⌋,  r = p − q·u                 whole and rest of the power of two
                   e = ⌊(2u − r)·2^(n−q) / 2⌋              2^−r/u ≈ 1 − r/2u; peak u·2^n
``PolynomialExp``  I-BERT (ICML 2021), i-exp: with l = ⌈ln 2/S⌉, d first at most n·l,
                   q = ⌊d/l⌋,  r = q·l − d
                   z = (r + b)·r + c                       0.3585·((x + 1.353)² + 0.96), x = r·S
                   e = ⌊(z·m + 2^(s+q−1)) / 2^(s+q)⌋       in 15 bits: peak is 32767

The shifts are off by up to 0.044 of the peak for fine scales, by more for coarse ones, of which 1/S
is no whole number; the polynomial by 0.0021.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from binpoint.errors import NoIntegerForm
from binpoint.ir.kernel import Number
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import IntArray
from binpoint.numeric.interval import Interval

_LN2 = 0.6931
_A, _B, _C = 0.35815147, 0.96963238 / 0.35815147, 1 / 0.35815147
_HALVINGS = 30
_PEAK = 2**15 - 1
_WORD = 32
_LEAST_BITS = 4


class Exponential(ABC):
    """An integer near peak·exp(−d·S) of a distance d ≥ 0."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def peak(self) -> int:
        """Of distance zero: the largest."""

    @abstractmethod
    def terms(self, distance: IntArray) -> IntArray:
        """The definition."""

    @abstractmethod
    def to_onnx(self, w: OnnxWriter, distance: Tensor) -> Tensor:
        """The same in integer operators."""

    @abstractmethod
    def numbers(self) -> tuple[Number, ...]:
        """Arguments of the C function ``bp_exp_<name>`` behind the distance."""


@dataclass(frozen=True, slots=True)
class ShiftExp(Exponential):
    """ShiftExp of I-ViT.

    Args:
        unit: u, steps to one.
        bits: n, halvings before the result stays where it is.
    """

    name: ClassVar[str] = "shift"

    unit: int
    bits: int

    @classmethod
    def of(cls, scale: float, most: int, top: int, where: str) -> ShiftExp:
        """For steps of size `scale`: at most `most` halvings, and a peak of at most `top`.

        Raises:
            NoIntegerForm: the steps are so fine that fewer than four halvings are left.
        """
        unit = -math.floor(-1 / scale)
        bits = min(most, (top // unit).bit_length() - 1)
        if bits < _LEAST_BITS:
            raise NoIntegerForm(
                "an exponential by shifts in steps this fine",
                at=where,
                have=f"a scale of {scale:g}",
                hint="quantize its operand to fewer bits, or choose another method",
            )
        return cls(unit, bits)

    @property
    def peak(self) -> int:
        """u·2^n."""
        return self.unit << self.bits

    def terms(self, distance: IntArray) -> IntArray:
        """The definition."""
        power = distance + (distance + 1 >> 1) - (distance + 15 >> 4)
        power = np.minimum(power, self.bits * self.unit)
        whole = power // self.unit
        rest = power - whole * self.unit
        return ((2 * self.unit - rest) << (self.bits - whole)) >> 1

    def to_onnx(self, w: OnnxWriter, distance: Tensor) -> Tensor:
        """Two roundings up, a division by a constant, and a power of two by table."""
        halves = w.floor_shift(w.add(distance, w.const(1)), 1)
        power = w.add(distance, w.sub(halves, w.floor_shift(w.add(distance, w.const(15)), 4)))
        power = Tensor(power.name, power.shape, Interval(0, 2 * distance.range.hi))
        power = w.minimum(power, w.const(self.bits * self.unit))
        whole = w.floor_divide(power, w.const(self.unit))
        rest = w.sub(power, w.mul(whole, w.const(self.unit)))
        rest = Tensor(rest.name, rest.shape, Interval(0, self.unit - 1))
        doubled = 1 << np.arange(self.bits, -1, -1, dtype=np.int64)
        left = w.mul(w.sub(w.const(2 * self.unit), rest), w.lookup(doubled, whole))
        result = w.floor_shift(left, 1)
        return Tensor(result.name, result.shape, Interval(1, self.peak))

    def numbers(self) -> tuple[Number, ...]:
        """The fields, in order."""
        return (Number("unit", self.unit, "uint32_t"), Number("bits", self.bits, "uint32_t"))


@dataclass(frozen=True, slots=True)
class PolynomialExp(Exponential):
    """I-exp of I-BERT.

    Args:
        ln2: l, steps to ln 2.
        b, c: of the polynomial.
        multiplier, shift: m and s, which bring c to 32767.
    """

    name: ClassVar[str] = "polynomial"

    ln2: int
    b: int
    c: int
    multiplier: int
    shift: int

    @classmethod
    def of(cls, scale: float, where: str) -> PolynomialExp:
        """For steps of size `scale`.

        Raises:
            NoIntegerForm: the coefficients vanish in steps this coarse, or leave 32 bits.
        """
        ln2, b = -math.floor(-_LN2 / scale), math.floor(_B / scale)
        c = math.floor(_C / scale**2)
        rest = -np.arange(ln2, dtype=np.int64)
        if not 0 < c < 2**31 or int(((rest + b) * rest + c).min()) <= 0:
            raise NoIntegerForm(
                "an exponential by polynomial in steps of this size",
                at=where,
                have=f"a scale of {scale:g}",
                want="a scale from 0.0001 to 1.6",
                hint="choose another method",
            )
        shift = next(s for s in range(_WORD, 0, -1) if round(_PEAK * 2**s / c) < 2**31)
        return cls(ln2, b, c, round(_PEAK * 2**shift / c), shift)

    @property
    def peak(self) -> int:
        """About 32767: c times m, rounded."""
        return int(self.terms(np.zeros(1, np.int64))[0])

    def terms(self, distance: IntArray) -> IntArray:
        """The definition."""
        near = np.minimum(distance, _HALVINGS * self.ln2)
        whole = near // self.ln2
        rest = whole * self.ln2 - near
        value = ((rest + self.b) * rest + self.c) * self.multiplier
        shift = whole + self.shift
        return (value + (np.int64(1) << (shift - 1))) >> shift

    def to_onnx(self, w: OnnxWriter, distance: Tensor) -> Tensor:
        """A division by a constant, the polynomial, and a rounded division by a power of two."""
        near = w.minimum(distance, w.const(_HALVINGS * self.ln2))
        whole = w.floor_divide(near, w.const(self.ln2))
        rest = w.sub(w.mul(whole, w.const(self.ln2)), near)
        rest = Tensor(rest.name, rest.shape, Interval(1 - self.ln2, 0))
        value = w.add(w.mul(w.add(rest, w.const(self.b)), rest), w.const(self.c))
        # The polynomial is positive (see `of`) and largest at zero.
        value = Tensor(value.name, value.shape, Interval(0, self.c))
        powers = np.int64(1) << (self.shift + np.arange(_HALVINGS + 1, dtype=np.int64))
        divisor = w.lookup(powers, whole)
        half = w.floor_shift(divisor, 1)
        result = w.floor_divide(w.add(w.mul(value, w.const(self.multiplier)), half), divisor)
        return Tensor(result.name, result.shape, Interval(0, self.peak))

    def numbers(self) -> tuple[Number, ...]:
        """The fields, in order."""
        return (
            Number("ln2", self.ln2, "uint32_t"),
            Number("b", self.b),
            Number("c", self.c),
            Number("multiplier", self.multiplier, "uint32_t"),
            Number("fine", self.shift, "uint32_t"),
        )
