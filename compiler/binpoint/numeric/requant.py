"""The one place that approximates a ratio of scales: an integer multiplier and a right shift."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from binpoint.errors import RangeOverflow


@dataclass(frozen=True, slots=True)
class Multiplier:
    """``ratio ~ multiplier * 2**-shift``.

    Args:
        multiplier: positive; odd, or with shift 0.
        shift: how far to shift right after the multiplication, at least 0.
        error: ``|multiplier * 2**-shift - ratio| / ratio``, exact.
    """

    multiplier: int
    shift: int
    error: Fraction

    @property
    def value(self) -> Fraction:
        """The ratio that is really applied."""
        return Fraction(self.multiplier, 1 << self.shift)


def approximate(ratio: Fraction, multiplier_bits: int, max_shift: int) -> Multiplier:
    """Return the multiplier and shift nearest to a positive ratio.

    Takes the largest shift up to ``max_shift`` for which ``round(ratio * 2**shift)`` has at most
    ``multiplier_bits`` bits, then drops common factors of two. Exact whenever the bits suffice, so
    a power of two becomes a pure shift (or, above one, a power-of-two multiplier with shift 0).

    Raises:
        RangeOverflow: the ratio is not positive, rounds to zero, or is too large for the bits.
    """
    want = f"a ratio that {multiplier_bits} bits shifted right by 0 to {max_shift} can express"
    if ratio <= 0:
        raise RangeOverflow("a ratio of scales is not positive", have=str(ratio), want=want)
    # floor(log2(ratio)) is this or one more; one step down corrects it below.
    magnitude = ratio.numerator.bit_length() - ratio.denominator.bit_length() - 1
    shift = min(max_shift, multiplier_bits - 1 - magnitude)
    while shift >= 0 and round(ratio * (1 << shift)).bit_length() > multiplier_bits:
        shift -= 1
    if shift < 0:
        raise RangeOverflow("a ratio of scales is too large", have=str(ratio), want=want)
    multiplier = round(ratio * (1 << shift))
    if multiplier == 0:
        raise RangeOverflow("a ratio of scales is too small", have=str(ratio), want=want)
    zeros = min(shift, (multiplier & -multiplier).bit_length() - 1)
    multiplier, shift = multiplier >> zeros, shift - zeros
    return Multiplier(multiplier, shift, abs(Fraction(multiplier, 1 << shift) / ratio - 1))


def approximate_all(
    ratios: Iterable[Fraction], multiplier_bits: int, max_shift: int
) -> tuple[Multiplier, ...]:
    """Return ``approximate`` of each ratio: one multiplier and shift per channel."""
    return tuple(approximate(ratio, multiplier_bits, max_shift) for ratio in ratios)
