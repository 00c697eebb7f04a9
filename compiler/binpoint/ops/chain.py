"""One float32 operator between DequantizeLinear and QuantizeLinear, and its proof as integers."""

from __future__ import annotations

from enum import StrEnum
from typing import assert_never

import numpy as np

from binpoint.ir.op import IntArray
from binpoint.numeric.float32 import Floats

_SHIFTS = range(6, 41)
_MOST = 2**31 - 1
_NEIGHBOURS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))


class Chain(StrEnum):
    """The operator."""

    ADD = "add"
    SUB = "sub"
    MUL = "mul"

    def apply(self, a: Floats, b: Floats) -> Floats:
        """One float32 operation with one rounding."""
        with np.errstate(over="ignore", under="ignore"):
            match self:
                case Chain.ADD:
                    return a + b
                case Chain.SUB:
                    return a - b
                case Chain.MUL:
                    return a * b
                case _:
                    assert_never(self)


def prove_linear(
    a: IntArray, b: IntArray, result: IntArray, ratios: tuple[float, float], lo: int, hi: int
) -> tuple[int, int, int, int] | None:
    """Constants with ``clamp((a·ma + b·mb + offset) >> shift, lo, hi)`` equal to `result`, or None.

    Every pair bounds the offset: from below where y > lo, from above where y < hi. Shifts are tried
    in increasing order with the nearest multipliers and their neighbours.

    Args:
        a: all codes of the first operand, ``[A]``.
        b: all codes of the second, ``[B]``.
        result: ``[A, B]``.
        ratios: the real multipliers; they may be negative.
        lo: least output code.
        hi: largest output code.

    Returns:
        ma, mb, shift, offset.
    """
    left, right = a[:, None], b[None, :]
    below, above = result > lo, result < hi
    for shift in _SHIFTS:
        nearest = [round(ratio * 2**shift) for ratio in ratios]
        if max(abs(m) for m in nearest) >= _MOST:
            return None
        for step_a, step_b in _NEIGHBOURS:
            ma, mb = nearest[0] + step_a, nearest[1] + step_b
            rest = (result << shift) - left * ma - right * mb
            low = int(rest[below].max()) if below.any() else -(1 << 60)
            high = int(rest[above].min()) + (1 << shift) - 1 if above.any() else 1 << 60
            if low <= high:
                return ma, mb, shift, min(max(0, low), high)
    return None
