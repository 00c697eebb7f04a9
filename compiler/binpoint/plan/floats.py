"""Sums of float32 numbers as hardware units see them: terms by code, and where a result steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.constant import Constant
from binpoint.ir.op import IntArray
from binpoint.numeric import float32
from binpoint.numeric.fixed import FixedType
from binpoint.numeric.interval import Interval
from binpoint.plan.place import Place

_LEAST = 2.0**-126
_BISECTIONS = 32
Floats = NDArray[np.float32]
Quantizer = Callable[[Floats], IntArray]


def terms_of(
    place: Place, codes: IntArray, kind: FixedType, shares: Floats | None = None
) -> Floats:
    """The real numbers of some codes.

    Raises:
        NoIntegerForm: one of them, or a product with a share, is subnormal.
    """
    real = float32.dequantize_linear(codes, float(kind.scale), kind.zero_point)
    least = np.abs(real[real != 0]).min(initial=1.0)
    if shares is not None:
        least = float(least) * float(np.abs(shares[shares != 0]).min(initial=1.0))
    if least < _LEAST:
        raise place.refuse(
            "an average or interpolation of subnormal numbers has no form",
            "choose a scale of its operand above 1e-30",
        )
    return real


def bits_of(numbers: Floats) -> Constant:
    """Bit patterns."""
    return Constant(np.ascontiguousarray(numbers).view(np.uint32).astype(np.int64))


def ordered(numbers: Floats) -> IntArray:
    """Integers in the same order; both zeros are 0."""
    bits = np.ascontiguousarray(numbers).view(np.uint32).astype(np.int64)
    return np.where(bits >> 31 != 0, -(bits & 0x7FFFFFFF), bits)


def _real(order: IntArray) -> Floats:
    """The numbers that `ordered` makes these of."""
    bits = np.where(order < 0, -order | 0x80000000, order)
    return bits.astype(np.uint32).view(np.float32)


def float_steps(quantizers: Sequence[Quantizer], codes: Interval, limit: float) -> Constant:
    """For each quantizer the least sums, `ordered`, that reach every code but the lowest.

    Quantizers must be monotone. A code that no sum up to `limit` reaches steps beyond it.
    """
    end = int(ordered(np.array([limit], np.float32))[0])
    wanted = np.arange(codes.lo + 1, max(codes.hi, codes.lo + 1) + 1, dtype=np.int64)
    lists: list[IntArray] = []
    for quantizer in quantizers:
        low, high = np.full(wanted.size, -end - 1), np.full(wanted.size, end + 1)
        for _ in range(_BISECTIONS):
            middle = (low + high) >> 1
            inside = np.clip(middle, -end, end)
            reached = (quantizer(_real(inside)) >= wanted) | (middle > end)
            moves = high - low > 1
            high = np.where(moves & reached, middle, high)
            low = np.where(moves & ~reached, middle, low)
        lists.append(high)
    return Constant(np.stack(lists))
