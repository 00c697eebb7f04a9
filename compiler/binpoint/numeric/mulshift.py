"""Requantizing as one multiplication, addition and shift, proved equal to the float definition.

Requantizing is monotone in the accumulator, so it is fully described by its thresholds: the least
accumulator that reaches each output code. A form ``(acc * M + B) >> S`` equals it on the whole
reachable range if and only if it crosses every code at the same place, which is two inequalities
per threshold. Satisfying them is a proof over all accumulators, not a sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from binpoint.numeric.float32 import Floats, Ints, requantize

MULTIPLIER_BITS: Final = 31
FLOAT_BITS: Final = 24
_MAX_SHIFT: Final = 53
_OFFSET_LIMIT: Final = 1 << 61
_SEARCH_STEPS: Final = 25


@dataclass(frozen=True, slots=True)
class MulShift:
    """``clamp((acc * multiplier + offset) >> shift, lo, hi)``, the zero point inside the offset.

    Exact in int64 for every reachable accumulator. The multiplier has 31 bits wherever the scale is
    between 2**-23 and 2**30; then the shift is at least 32 for all scales below one half.

    Args:
        multiplier: 0 <= multiplier < 2**31.
        shift: 0 to 53.
        offset: int64, with as many trailing zero bits as the proof leaves free.
    """

    multiplier: int
    shift: int
    offset: int

    def apply(self, acc: npt.ArrayLike, lo: int, hi: int) -> Ints:
        """Return the output codes of int64 accumulators."""
        total = np.asarray(acc, dtype=np.int64) * self.multiplier + self.offset
        return np.clip(total >> self.shift, lo, hi)


@dataclass(frozen=True, slots=True)
class Steps:
    """Where a monotone step function of each channel reaches each code.

    Code ``codes[k]`` is reached first at ``first[c, k]``; ``last[c, k]`` is the argument before.

    Args:
        codes: int64 [K], ascending.
        first: int64 [C, K].
        last: int64 [C, K].
        reached: bool [C, K], whether ``first`` exists within the range.
        preceded: bool [C, K], whether ``last`` exists within the range.
    """

    codes: Ints
    first: Ints
    last: Ints
    reached: npt.NDArray[np.bool_]
    preceded: npt.NDArray[np.bool_]

    def select(self, channels: npt.NDArray[np.bool_]) -> Self:
        """Return the steps of some channels."""
        return type(self)(
            self.codes,
            self.first[channels],
            self.last[channels],
            self.reached[channels],
            self.preceded[channels],
        )


def decompose(scale: npt.ArrayLike) -> tuple[Ints, Ints]:
    """Return float32 scales as ``m * 2**-sh`` with a 24-bit mantissa, 2**23 <= m < 2**24."""
    fraction, exponent = np.frexp(np.asarray(scale, dtype=np.float32).astype(np.float64))
    return (fraction * (1 << FLOAT_BITS)).astype(np.int64), FLOAT_BITS - exponent.astype(np.int64)


def thresholds(
    scale: Floats, zero_point: int, lo: int, hi: int, acc_lo: Ints, acc_hi: Ints
) -> Ints:
    """Return ``T[c, k]``, the least reachable accumulator whose output is at least ``lo + 1 + k``.

    Found by bisection on the float definition. ``acc_hi[c] + 1`` marks a code that is not reached.

    Args:
        scale: float32 [C].
        zero_point: of the output.
        lo: least output code.
        hi: largest output code.
        acc_lo: int64 [C], least reachable accumulator.
        acc_hi: int64 [C], largest reachable accumulator.

    Returns:
        int64 [C, hi - lo].
    """
    codes = np.arange(lo + 1, hi + 1, dtype=np.int64)
    top = np.asarray(acc_hi, dtype=np.int64)[:, None]
    low = np.broadcast_to(np.asarray(acc_lo, dtype=np.int64)[:, None], (len(top), len(codes)))
    high = np.broadcast_to(top + 1, low.shape)
    factor = np.asarray(scale, dtype=np.float32)[:, None]
    while (low < high).any():
        middle = np.minimum((low + high) >> 1, top)
        above = requantize(middle, factor, zero_point, lo, hi) >= codes
        low, high = np.where(above, low, middle + 1), np.where(above, middle, high)
    return low


def prove_mulshift(
    table: Ints, scale: Floats, lo: int, acc_lo: Ints, acc_hi: Ints
) -> tuple[MulShift | None, ...]:
    """Return for each channel a form proved equal over its reachable range, or None.

    Args:
        table: the ``thresholds`` of the channels, int64 [C, K], for codes lo + 1 to lo + K.
        scale: float32 [C].
        lo: least output code.
        acc_lo: int64 [C], least reachable accumulator.
        acc_hi: int64 [C], largest reachable accumulator.
    """
    codes = np.arange(lo + 1, lo + 1 + table.shape[1], dtype=np.int64)
    bottom = np.asarray(acc_lo, dtype=np.int64)[:, None]
    top = np.asarray(acc_hi, dtype=np.int64)[:, None]
    return fit(Steps(codes, table, table - 1, table <= top, table > bottom), scale)


def fit(
    steps: Steps,
    scale: npt.ArrayLike,
    bits: int = MULTIPLIER_BITS,
    shift: npt.ArrayLike | None = None,
    grain: int = 1,
) -> tuple[MulShift | None, ...]:
    """Return multiplier, shift and offset that take every step where it is, per channel, or None.

    A multiplier M is possible if ``max(q << S - first * M)``, over the codes reached, does not
    exceed ``min(q << S - last * M) - 1``; the difference is concave in M, so bisection on its slope
    finds the best M. The nearest multiplier of the scale is tried first.

    Args:
        steps: of C channels.
        scale: float32 [C], the slope of the steps; float64 counts where `shift` is given.
        bits: of the multiplier, at most 31.
        shift: per channel, to be used instead of the one that gives the multiplier these bits.
        grain: a power of two that divides the offsets.
    """
    if steps.codes.size == 0:
        # No step: there is one output code, to which the clamp brings anything.
        return (MulShift(0, 1, 0),) * len(steps.first)
    mantissa, binary_point = decompose(scale)
    if shift is None:
        shift = np.clip(binary_point + bits - FLOAT_BITS, 0, _MAX_SHIFT)
        nearest = _scaled(mantissa, shift - binary_point)
    else:
        shift = np.broadcast_to(np.asarray(shift, np.int64), binary_point.shape)
        exact = np.rint(np.ldexp(np.asarray(scale, np.float64), shift))
        nearest = np.minimum(exact, (1 << MULTIPLIER_BITS) - 1).astype(np.int64)
    multiplier = nearest
    low, high, _ = _offsets(steps, multiplier, shift)
    failed = _above(low, grain) > high
    if failed.any():
        multiplier = multiplier.copy()
        multiplier[failed] = _search(steps.select(failed), nearest[failed], shift[failed])
        low, high, _ = _offsets(steps, multiplier, shift)
    return tuple(
        MulShift(int(m), int(s), _roundest(int(a), int(b))) if _above(a, grain) <= b else None
        for m, s, a, b in zip(multiplier, shift, low, high, strict=True)
    )


def _above(low: Ints, grain: int) -> Ints:
    """Return the least multiples of ``grain`` that are not less."""
    return -(-low // grain) * grain


def _scaled(mantissa: Ints, left: Ints) -> Ints:
    # Left by at most 7 bits; further left the scale exceeds 2**30 and no 31-bit multiplier exists.
    rounded = np.where(
        left >= 0,
        mantissa << np.clip(left, 0, 30),
        (mantissa + ((np.int64(1) << np.clip(-left, 0, 62)) >> 1)) >> np.clip(-left, 0, 62),
    )
    return np.minimum(rounded, (1 << MULTIPLIER_BITS) - 1)


def _offsets(steps: Steps, multiplier: Ints, shift: Ints) -> tuple[Ints, Ints, Ints]:
    """Return the least and the largest admissible offset, and the slope of their distance in M."""
    goal = steps.codes[None, :] << shift[:, None]
    least = np.where(steps.reached, goal - steps.first * multiplier[:, None], -_OFFSET_LIMIT)
    most = np.where(steps.preceded, goal - steps.last * multiplier[:, None] - 1, _OFFSET_LIMIT)
    rows = np.arange(len(multiplier))
    i, j = least.argmax(axis=1), most.argmin(axis=1)
    low = np.maximum(least[rows, i], -_OFFSET_LIMIT)
    high = np.minimum(most[rows, j], _OFFSET_LIMIT)
    return low, high, steps.first[rows, i] - steps.last[rows, j]


def _search(steps: Steps, nearest: Ints, shift: Ints) -> Ints:
    """Return per channel a multiplier near ``nearest`` that leaves the widest choice of offsets."""
    reach = np.int64(1) << (_SEARCH_STEPS - 1)
    left = np.maximum(nearest - reach, 0)
    right = np.minimum(nearest + reach, (1 << MULTIPLIER_BITS) - 1)
    best, widest = nearest, np.full_like(nearest, -(1 << 62))
    for _ in range(_SEARCH_STEPS):
        middle = (left + right) >> 1
        low, high, slope = _offsets(steps, middle, shift)
        better = high - low > widest
        best, widest = np.where(better, middle, best), np.where(better, high - low, widest)
        left = np.where(slope > 0, np.minimum(middle + 1, right), left)
        right = np.where(slope > 0, right, middle)
    return best


def _roundest(low: int, high: int) -> int:
    """Return the integer of ``low``..``high`` with the most trailing zero bits."""
    if low <= 0 <= high:
        return 0
    zeros = next(k for k in range(64, -1, -1) if high >> k > (low - 1) >> k)
    return (high >> zeros) << zeros
