"""Rounding to more than 8 bits, or by more than 31: one long multiplication, proved at every step.

    y = (x * multiplier + offset) >> shift

with a multiplier of up to 62 bits. Where the product leaves 64 bits it is made of two words, of
which the lower one counts only by what it carries; the offset is then a multiple of 2^32.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from binpoint.numeric.float32 import Ints

ONE_WORD = 62
TWO_WORDS = 93
_MULTIPLIER_BITS = 62
_WORD = 32


@dataclass(frozen=True, slots=True)
class WideShift:
    """``(x * multiplier + offset) >> shift``.

    Args:
        multiplier: less than 2**62 in size.
        shift: 1 to 63, with two words 33 to 92.
        offset: with two words a multiple of 2**32.
    """

    multiplier: int
    shift: int
    offset: int


def fit_line(
    slope: Fraction, codes: Ints, steps: Ints, reach: tuple[int, int], bits: int
) -> WideShift | None:
    """The constants that reach every code where the steps do, or None.

    The longest multiplier whose product stays within `bits` is the nearest one of the slope; then
    every step gives a least and a largest offset.

    Args:
        slope: of the line that the steps round, not negative.
        codes: [K], ascending.
        steps: [K], the least argument that reaches each code, or one past the reach.
        reach: least and largest argument.
        bits: of a product: `ONE_WORD` or `TWO_WORDS`.
    """
    low, high = reach
    reached, preceded = steps <= high, steps > low
    if slope <= 0 or not (reached & preceded).any():
        # One code only.
        return WideShift(0, 1, (int(codes[0]) - 1 + int((steps <= low).sum())) << 1)
    shift = _shift(slope, max(-low, high, 1), int(np.abs(codes).max()) + 1, bits)
    grain = 1 if bits <= ONE_WORD else 1 << _WORD
    if shift < 1 or (grain > 1 and shift <= _WORD):
        return None
    multiplier = round(slope * (1 << shift))
    goals, first = codes.astype(object) << shift, steps.astype(object) * multiplier
    # Ends that no step states: the clamp brings what lies beyond them to the last code.
    least = max((goals - first)[reached], default=None)
    most = min((goals - first + multiplier - 1)[preceded], default=None)
    assert least is not None
    assert most is not None
    offset = (least + most) // 2 // grain * grain
    offset += grain if offset < least else 0
    return WideShift(multiplier, shift, offset) if least <= offset <= most else None


def _shift(slope: Fraction, reach: int, codes: int, bits: int) -> int:
    """The largest shift with which nothing leaves its bits."""
    size = max(slope * reach, Fraction(codes)) * 2
    by_product = bits - 1 - _bits(size)
    by_multiplier = _MULTIPLIER_BITS - 1 - _bits(slope)
    return min(by_product, by_multiplier, bits - 1)


def _bits(number: Fraction) -> int:
    """The least n with number < 2**n; negative for small numbers."""
    bits = number.numerator.bit_length() - number.denominator.bit_length()
    return bits + 1
