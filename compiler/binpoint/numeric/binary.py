"""QLinearAdd and QLinearMul in integers: a formula proved on every pair, or the exact form.

Two 8-bit operands have 65,536 pairs, so a formula is proved by trying them all. Where none exists
the exact form carries out the float roundings on integers, and only near ties.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from binpoint.errors import NoIntegerForm
from binpoint.numeric.exact import near_tie, round_to_float, window_bits
from binpoint.numeric.float32 import Ints, add_ratios, fma, mul_product, mul_ratio, qlinear_add
from binpoint.numeric.interval import Interval
from binpoint.numeric.mulshift import FLOAT_BITS, Steps, decompose, fit
from binpoint.numeric.rounding import Rounding, shift_right

_NARROW_LIMIT: Final = 2**31 - 1
_MULTIPLIER_LIMIT: Final = 2**31
_SHIFTS: Final = range(6, 41)
_MUL_BITS: Final = (12, 13, 14, 15, 31)
_MAX_SHIFT: Final = 53
_LARGEST_BITS: Final = 61


@dataclass(frozen=True, slots=True)
class Operand:
    """One 8-bit side of an operator: float32 scale, zero point, and the codes that occur."""

    scale: float
    zero_point: int
    codes: Interval

    def all_codes(self) -> Ints:
        """Return every code that occurs, ascending."""
        return np.arange(self.codes.lo, self.codes.hi + 1, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class AddForm:
    """``clamp((a * ma + b * mb + offset) >> shift, lo, hi)`` on raw codes.

    Args:
        ma: multiplier of ``a``, below 2**31.
        mb: multiplier of ``b``, below 2**31.
        offset: added once.
        shift: arithmetic right shift.
        narrow: whether every partial sum fits int32 (else int64).
    """

    ma: int
    mb: int
    offset: int
    shift: int
    narrow: bool

    def apply(self, a: npt.ArrayLike, b: npt.ArrayLike, lo: int, hi: int) -> Ints:
        """Return the output codes."""
        left, right = np.asarray(a, dtype=np.int64), np.asarray(b, dtype=np.int64)
        return np.clip((left * self.ma + right * self.mb + self.offset) >> self.shift, lo, hi)


def prove_add(a: Operand, b: Operand, y: Operand) -> AddForm | None:
    """Return the cheapest form equal to ``qlinear_add`` on all pairs of codes, or None.

    Shifts are tried in increasing order, so that a form within int32 is found before a wider one;
    for each, the nearest multipliers and their neighbours. Which offsets are admissible follows
    exactly from the pairs.

    Args:
        a: first operand.
        b: second operand.
        y: output; its codes are the clamp.
    """
    lo, hi = y.codes.lo, y.codes.hi
    left, right = a.all_codes()[:, None], b.all_codes()[None, :]
    result = qlinear_add(
        left, right, a.scale, a.zero_point, b.scale, b.zero_point, y.scale, y.zero_point, lo, hi
    )
    ra, rb, _ = add_ratios(a.scale, a.zero_point, b.scale, b.zero_point, y.scale, y.zero_point)
    pairs = _Pairs.of(left, right, result, lo, hi)
    largest = float(max(ra, rb))
    for shift in (s for s in _SHIFTS if largest * 2**s < _MULTIPLIER_LIMIT - 2):
        ma, mb = round(float(ra) * 2**shift), round(float(rb) * 2**shift)
        for step_a, step_b in _NEIGHBOURS:
            form = pairs.form(max(ma + step_a, 0), max(mb + step_b, 0), shift)
            if form is not None:
                return form
    return None


_NEIGHBOURS: Final = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1))


@dataclass(frozen=True, slots=True)
class _Pairs:
    """All pairs that bound the offset from below (y > lo) and from above (y < hi): a, b and y."""

    below: tuple[Ints, Ints, Ints]
    above: tuple[Ints, Ints, Ints]
    largest: tuple[int, int]

    @classmethod
    def of(cls, left: Ints, right: Ints, result: Ints, lo: int, hi: int) -> Self:
        first, second = (np.broadcast_to(side, result.shape) for side in (left, right))
        below, above = result > lo, result < hi
        return cls(
            (first[below], second[below], result[below]),
            (first[above], second[above], result[above]),
            (int(np.abs(left).max()), int(np.abs(right).max())),
        )

    def form(self, ma: int, mb: int, shift: int) -> AddForm | None:
        low, high = -(1 << 62), 1 << 62
        if self.below[0].size:
            a, b, y = self.below
            low = int(((y << shift) - a * ma - b * mb).max())
        if self.above[0].size:
            a, b, y = self.above
            high = int((((y + 1) << shift) - a * ma - b * mb).min()) - 1
        if low > high:
            return None
        offset = min(max(0, low), high)
        reach = self.largest[0] * ma + self.largest[1] * mb + abs(offset)
        return AddForm(ma, mb, offset, shift, reach <= _NARROW_LIMIT)


@dataclass(frozen=True, slots=True)
class AddExact:
    """QLinearAdd for every scale, in int64: ``v = a * multiplier + table[b - b_lo]``.

    v counts units of ``2**-fraction_bits`` and is the exact value that the last fused multiply-add
    rounds; the table holds the exact inner one, ``fma(b, rB, f)``. The output is
    ``clamp((v + half) >> fraction_bits)`` unless v lies within the window (``near``) around a tie,
    where v is first rounded to 24 bits and then to even.

    Args:
        multiplier: rA in those units.
        table: one word per code of ``b``.
        b_lo: the code of the first word.
        fraction_bits: position of the binary point.
        window: w: float rounding changes nothing further than ``2**-w`` from a tie.
        lo: least output code.
        hi: largest output code.
    """

    multiplier: int
    table: tuple[int, ...]
    b_lo: int
    fraction_bits: int
    window: int
    lo: int
    hi: int

    @classmethod
    def of(cls, a: Operand, b: Operand, y: Operand) -> Self:
        """Return the constants.

        Everything is a multiple of the finer last bit of rA and rB, which sets the unit.

        Raises:
            NoIntegerForm: the scales lie too far apart for int64.
        """
        ra, rb, inner = add_ratios(
            a.scale, a.zero_point, b.scale, b.zero_point, y.scale, y.zero_point
        )
        width = window_bits(0, y.codes.lo, y.codes.hi, exact_acc=True)
        bits = max(width, *(int(decompose(ratio)[1]) for ratio in (ra, rb)))
        multiplier = _units(ra, bits)
        words = tuple(_units(word, bits) for word in fma(b.all_codes(), rb, inner))
        largest = max(abs(a.codes.lo), abs(a.codes.hi)) * multiplier + max(map(abs, words))
        if max(bits, largest.bit_length()) > _LARGEST_BITS:
            raise NoIntegerForm(
                "the scales of an addition lie too far apart for 64-bit integers",
                have=f"{a.scale!r} + {b.scale!r} -> {y.scale!r}",
            )
        return cls(multiplier, words, b.codes.lo, bits, width, y.codes.lo, y.codes.hi)

    def apply(self, a: npt.ArrayLike, b: npt.ArrayLike) -> Ints:
        """Return the output codes."""
        table = np.array(self.table, dtype=np.int64)
        left, index = np.broadcast_arrays(
            np.asarray(a, dtype=np.int64), np.asarray(b, dtype=np.int64) - self.b_lo
        )
        value = left * self.multiplier + table[index]
        half = 1 << (self.fraction_bits - 1)
        total = value + half + ((1 << self.fraction_bits) >> self.window)
        result, near = total >> self.fraction_bits, near_tie(total, self.fraction_bits, self.window)
        rounded = _round_to_float(value[near])
        result[near] = shift_right(rounded, self.fraction_bits, Rounding.HALF_EVEN)
        return np.clip(result, self.lo, self.hi)


@dataclass(frozen=True, slots=True)
class MulForm:
    """``clamp((p * multiplier + offset) >> shift, lo, hi)`` with ``p = (a - za) * (b - zb)``.

    Args:
        multiplier: below 2**31.
        offset: added once.
        shift: arithmetic right shift.
        narrow: whether every partial sum fits int32 (else int64).
    """

    multiplier: int
    offset: int
    shift: int
    narrow: bool

    def apply(self, product: npt.ArrayLike, lo: int, hi: int) -> Ints:
        """Return the output codes of products."""
        total = np.asarray(product, dtype=np.int64) * self.multiplier + self.offset
        return np.clip(total >> self.shift, lo, hi)


def prove_mul(a: Operand, b: Operand, y: Operand) -> MulForm | None:
    """Return a form equal to ``qlinear_mul`` on all pairs of codes, within int32 if any, or None.

    QLinearMul is a monotone function of the exact product, so its steps over the products that
    occur decide, as for requantizing.
    """
    centred = [side.all_codes() - side.zero_point for side in (a, b)]
    products = np.unique(centred[0][:, None] * centred[1][None, :])
    ratio = mul_ratio(a.scale, b.scale, y.scale)
    result = mul_product(products, ratio, y.zero_point, y.codes.lo, y.codes.hi)
    steps = _steps(products, result, y.codes)
    for bits in _MUL_BITS:
        (found,) = fit(steps, np.array([ratio]), bits)
        if found is None:
            continue
        reach = int(np.abs(products).max()) * found.multiplier + abs(found.offset)
        form = MulForm(found.multiplier, found.offset, found.shift, reach <= _NARROW_LIMIT)
        if form.narrow or bits == _MUL_BITS[-1]:
            return form
    return None


@dataclass(frozen=True, slots=True)
class MulExact:
    """QLinearMul for every scale, in int64, from ``p = (a - za) * (b - zb)``.

    ``u = p * mantissa + offset``; the output is ``clamp(u >> shift, lo, hi)`` unless u lies near a
    tie (``exact.near_tie``), where ``p * mantissa`` is rounded to 24 bits, the zero point added,
    the sum rounded to 24 bits and then to even.

    Args:
        mantissa: 24 bits of the ratio; 0 if every product vanishes.
        shift: 1 to 53.
        window: w: float rounding changes nothing further than ``2**-w`` from a tie.
        zero_point: of the output.
        lo: least output code.
        hi: largest output code.
    """

    mantissa: int
    shift: int
    window: int
    zero_point: int
    lo: int
    hi: int

    @classmethod
    def of(cls, a: Operand, b: Operand, y: Operand) -> Self:
        """Return the constants.

        The first rounding is off by at most ``2**-24`` of the product, the second of the sum; with
        ``|y| < R + 1``, R the largest code, both are below ``(2 * (R + 1) + |zp| + 1) * 2**-24``.
        """
        ratio = mul_ratio(a.scale, b.scale, y.scale)
        mantissa, shift = (int(part) for part in decompose(ratio))
        reach = max(abs(y.codes.lo), abs(y.codes.hi)) + 1
        window = FLOAT_BITS - (2 * reach + abs(y.zero_point)).bit_length()
        # Beyond 53 every 8-bit product is below 2**-12; below 1 each but 0 saturates, as at 1.
        if shift > _MAX_SHIFT:
            mantissa, shift = 0, _MAX_SHIFT
        return cls(mantissa, max(shift, 1), window, y.zero_point, y.codes.lo, y.codes.hi)

    @property
    def offset(self) -> int:
        """Zero point, one half and the window, in units of ``2**-shift``."""
        window = (1 << self.shift) >> self.window
        return (self.zero_point << self.shift) + (1 << (self.shift - 1)) + window

    def apply(self, product: npt.ArrayLike) -> Ints:
        """Return the output codes of products."""
        scaled = np.asarray(product, dtype=np.int64) * self.mantissa
        total = scaled + self.offset
        result, near = total >> self.shift, near_tie(total, self.shift, self.window)
        inner = _round_to_float(scaled[near]) + (self.zero_point << self.shift)
        result[near] = shift_right(_round_to_float(inner), self.shift, Rounding.HALF_EVEN)
        return np.clip(result, self.lo, self.hi)


def _round_to_float(value: Ints) -> Ints:
    """Return integers rounded to 24 significant bits, ties to even."""
    mantissa, exponent = round_to_float(np.abs(value))
    return np.sign(value) * (mantissa << exponent)


def _units(value: np.float32, bits: int) -> int:
    """Return ``value * 2**bits``, an integer by choice of ``bits``."""
    scaled = Fraction(float(value)) * 2**bits
    assert scaled.denominator == 1, "sums and float roundings of multiples are multiples"
    return scaled.numerator


def _steps(products: Ints, result: Ints, codes: Interval) -> Steps:
    """Return where a monotone function, given on ascending arguments, reaches each code."""
    wanted = np.arange(codes.lo + 1, codes.hi + 1, dtype=np.int64)
    index = np.searchsorted(result, wanted)
    first = products[np.minimum(index, len(products) - 1)]
    last = products[np.maximum(index - 1, 0)]
    reached, preceded = index < len(products), index > 0
    return Steps(wanted, first[None], last[None], reached[None], preceded[None])
