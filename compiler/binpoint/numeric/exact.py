"""Requantizing in integers for every scale: the always exact form, for what no proof covers.

``s = m * 2**-sh`` with a 24-bit mantissa. The float definition rounds twice to 24 bits before it
rounds to an integer; the integers below do the same. Since both roundings move a value by very
little, they can matter only within a narrow window around a tie, and one test on the bits below the
binary point tells whether a value lies there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from binpoint.errors import NoIntegerForm
from binpoint.numeric.float32 import Ints, float32_scale
from binpoint.numeric.interval import Interval
from binpoint.numeric.mulshift import FLOAT_BITS, decompose
from binpoint.numeric.rounding import Rounding, shift_right

_MAX_SHIFT: Final = 53


def window_bits(zero_point: int, lo: int, hi: int, *, exact_acc: bool) -> int:
    """Return w such that float32 rounding changes nothing further than ``2**-w`` from a tie.

    Let ``R = max(hi - zp, zp - lo)`` and y the exact product ``acc * s``. Where ``|y| >= R + 1``
    both arithmetics saturate alike. Elsewhere ``fl(fl(acc) * s)`` is off by less than
    ``(R + 1) * (2**-23 + 2**-48)`` (two relative errors of 2**-24), or ``(R + 1) * 2**-24`` when
    the accumulator is itself a float32 (``exact_acc``: all ``|acc| <= 2**24``). A value that is at
    least 2**-w away from every tie, 2**-w no less than that bound, therefore keeps its nearest
    integer. For 8-bit outputs w is 14 or 15, and 16 or 17 with ``exact_acc``.

    Raises:
        NoIntegerForm: the output has more than 16 bits.
    """
    if hi - lo >= 1 << 16:
        raise NoIntegerForm("an output has more than 16 bits", have=f"codes {lo} to {hi}")
    reach = max(hi - zero_point, zero_point - lo) + 1
    if exact_acc:
        return FLOAT_BITS - (reach - 1).bit_length()
    return 2 * FLOAT_BITS - (reach * ((1 << (FLOAT_BITS + 1)) + 1) - 1).bit_length()


def near_tie(total: Ints, bits: npt.ArrayLike, window: int) -> npt.NDArray[np.bool_]:
    """Whether ``total - half - edge`` lies within ``edge = 2**(bits - window)`` of a tie.

    The caller added half and edge already, so that this is one test for zero: the bits of ``total``
    from ``bits - window + 1`` up to the binary point (all bits below it if that is negative).
    """
    point = np.asarray(bits, dtype=np.int64)
    below = total & ((np.int64(1) << point) - 1)
    return below >> np.maximum(point - window + 1, 0) == 0


def requantize_exact(
    acc: npt.ArrayLike,
    m: npt.ArrayLike,
    sh: npt.ArrayLike,
    zp: int,
    lo: int,
    hi: int,
) -> Ints:
    """Return ``float32.requantize`` with scale ``m * 2**-sh``, in integers only, broadcasting.

    The bits of ``acc * m + 2**(sh-1)`` from ``sh`` up are the product rounded half up. Only where
    those below are within ``2**(sh-w)`` of 0 or ``2**sh``, which is a tie (see ``window_bits``),
    the two float roundings are carried out (``requantize_rounded``).

    Args:
        acc: int64 values within int32.
        m: 24-bit mantissas, 2**23 <= m < 2**24.
        sh: any shifts.
        zp: output zero point.
        lo: least output code.
        hi: largest output code; hi - lo < 2**16.
    """
    codes, mantissa, shift = np.broadcast_arrays(
        np.asarray(acc, dtype=np.int64),
        np.asarray(m, dtype=np.int64),
        np.asarray(sh, dtype=np.int64),
    )
    # At 62 every product is below 2**-7 and at 1 each but 0 saturates, as beyond these ends.
    bounded = np.clip(shift, 1, 62)
    width = window_bits(zp, lo, hi, exact_acc=False)
    half = np.int64(1) << (bounded - 1)
    window = (np.int64(1) << bounded) >> width
    total = codes * mantissa + half + window
    near = near_tie(total, bounded, width)
    result = np.clip((total >> bounded) + zp, lo, hi)
    result[near] = requantize_rounded(codes[near], mantissa[near], shift[near], zp, lo, hi)
    return result


def requantize_rounded(acc: Ints, m: Ints, sh: Ints, zp: int, lo: int, hi: int) -> Ints:
    """Return the same by carrying out both float32 roundings on integers (the tie routine)."""
    magnitude, first = round_to_float(np.abs(acc))
    product, second = round_to_float(magnitude * m)
    shift = np.asarray(sh - first - second)
    # A left shift means a value of at least 2**23, which saturates already unshifted.
    nearest = shift_right(product, np.clip(shift, 0, 63), Rounding.HALF_EVEN)
    return np.clip(np.where(acc < 0, -nearest, nearest) + zp, lo, hi)


def round_to_float(value: Ints) -> tuple[Ints, Ints]:
    """Return ``(mantissa, exponent)`` of non-negative int64 rounded to float32, ties to even.

    The mantissa has at most 24 bits, or is 2**24.
    """
    high = value >> 32
    # Each half is exact in float64, where frexp counts bits.
    bits = np.where(high > 0, bit_length(high) + 32, bit_length(value & 0xFFFFFFFF))
    exponent = np.maximum(bits - FLOAT_BITS, 0)
    return shift_right(value, exponent, Rounding.HALF_EVEN), exponent


def bit_length(value: Ints) -> Ints:
    """Return the bit length of non-negative integers below 2**53."""
    return np.frexp(value.astype(np.float64))[1].astype(np.int64)


@dataclass(frozen=True, slots=True)
class ExactScale:
    """Constants of the exact form of one channel, within int64.

    ``u = acc * mantissa + offset``; the output is ``clamp(u >> shift, lo, hi)`` unless
    ``(u >> (shift - window + 1)) & (2**(window - 1) - 1)`` is zero (if that shift is negative, all
    bits below ``shift``): there the tie routine decides. Multiplying mantissa and offset by 2**j
    and adding j to the shift changes nothing, which can bring the binary point to a word's end.

    Args:
        mantissa: 24 bits; 0 if every reachable accumulator rounds to zero.
        shift: 1 to 53.
        window: w of ``window_bits``.
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
    def of(
        cls, scale: float | np.floating, zero_point: int, lo: int, hi: int, acc: Interval
    ) -> Self:
        """Return the constants for a float32 scale and the reachable accumulators.

        Raises:
            NoIntegerForm: the scale is below 2**-30 and yet some accumulator does not vanish.
        """
        mantissas, shifts = decompose(float32_scale(scale))
        mantissa, shift = int(mantissas), int(shifts)
        largest = max(abs(acc.lo), abs(acc.hi))
        if shift > _MAX_SHIFT and largest * mantissa >= 1 << (shift - 2):
            raise NoIntegerForm(
                "a requantizing scale is too small for the exact form",
                have=f"{float(scale)!r}, accumulators {acc}",
                want="a scale of at least 2^-30",
            )
        width = window_bits(zero_point, lo, hi, exact_acc=largest <= 1 << FLOAT_BITS)
        if shift > _MAX_SHIFT:
            return cls(0, _MAX_SHIFT, width, zero_point, lo, hi)
        return cls(mantissa, max(shift, 1), width, zero_point, lo, hi)

    @property
    def offset(self) -> int:
        """Zero point, one half and the window, in units of ``2**-shift``."""
        window = (1 << self.shift) >> self.window
        return (self.zero_point << self.shift) + (1 << (self.shift - 1)) + window

    def apply(self, acc: npt.ArrayLike) -> Ints:
        """Return the output codes of int64 accumulators by these constants."""
        codes = np.asarray(acc, dtype=np.int64)
        total = codes * self.mantissa + self.offset
        near = near_tie(total, self.shift, self.window)
        result = np.clip(total >> self.shift, self.lo, self.hi)
        mantissa = np.full(codes.shape, self.mantissa, dtype=np.int64)[near]
        shift = np.full(codes.shape, self.shift, dtype=np.int64)[near]
        ties = requantize_rounded(codes[near], mantissa, shift, self.zero_point, self.lo, self.hi)
        result[near] = ties
        return result
