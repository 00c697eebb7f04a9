"""The four ways to round a right shift, defined on int64."""

from __future__ import annotations

from enum import StrEnum
from typing import assert_never

import numpy as np
import numpy.typing as npt

from binpoint.errors import RangeOverflow


class Rounding(StrEnum):
    """What becomes of the bits that a right shift drops."""

    FLOOR = "floor"
    """Towards minus infinity."""
    HALF_UP = "half-up"
    """To nearest, ties towards plus infinity: ``(x + 2**(n-1)) >> n``."""
    HALF_EVEN = "half-even"
    """To nearest, ties to the even result (IEEE, numpy.rint)."""
    HALF_AWAY = "half-away"
    """To nearest, ties away from zero."""


def shift_right(
    x: npt.ArrayLike, n: npt.ArrayLike, rounding: Rounding = Rounding.HALF_UP
) -> npt.NDArray[np.int64]:
    """Return ``x / 2**n`` rounded to an integer, broadcasting; exact for every int64.

    With ``q = x >> n`` and ``r = x - (q << n)`` the result is q, or q + 1 when r is past one half
    (and, at r == half, as the rule says), so that nothing can overflow.

    Args:
        x: int64 values.
        n: shifts, 0 to 63; 0 returns ``x``.
        rounding: the rule.

    Raises:
        RangeOverflow: a shift outside 0 to 63.
    """
    values = np.asarray(x, dtype=np.int64)
    shifts = np.asarray(n, dtype=np.int64)
    if shifts.size and not (int(shifts.min()) >= 0 and int(shifts.max()) <= 63):
        raise RangeOverflow(
            "a shift is out of range", have=f"{shifts.min()} to {shifts.max()}", want="0 to 63"
        )
    quotient = values >> shifts
    remainder = values - (quotient << shifts)
    half = np.int64(1) << np.maximum(shifts - 1, 0)
    up = (shifts > 0) & _rounds_up(values, quotient, remainder, half, rounding)
    return quotient + up


def _rounds_up(
    values: npt.NDArray[np.int64],
    quotient: npt.NDArray[np.int64],
    remainder: npt.NDArray[np.int64],
    half: npt.NDArray[np.int64],
    rounding: Rounding,
) -> npt.NDArray[np.bool_]:
    tie = remainder == half
    match rounding:
        case Rounding.FLOOR:
            return np.zeros_like(tie)
        case Rounding.HALF_UP:
            return remainder >= half
        case Rounding.HALF_EVEN:
            return (remainder > half) | (tie & ((quotient & 1) == 1))
        case Rounding.HALF_AWAY:
            return (remainder > half) | (tie & (values >= 0))
        case _:
            assert_never(rounding)
