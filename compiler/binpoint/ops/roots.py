"""Integer square roots of numbers below 2^62, as definition and in the check graph."""

from __future__ import annotations

import numpy as np

from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import IntArray
from binpoint.numeric.interval import Interval

_TOP = 62
_NEWTON = 5


def half_shift(x: IntArray) -> IntArray:
    """The h with 4^h·x in [2^60, 2^62): the float64 exponent may be one too large near 2^60."""
    bits = np.frexp(x.astype(np.float64))[1].astype(np.int64)
    half = np.maximum(_TOP - bits, 0) // 2
    return half + (x << 2 * half < 1 << (_TOP - 2))


def floor_root(x: IntArray) -> IntArray:
    """⌊√x⌋ for x below 2^62: the float64 root is off by less than one."""
    root = np.sqrt(x.astype(np.float64)).astype(np.int64)
    root -= root * root > x
    return root + ((root + 1) * (root + 1) <= x)


def normalized(w: OnnxWriter, x: Tensor) -> tuple[Tensor, Tensor]:
    """4^h·x in [2^60, 2^62) and 2^h, for x in [1, 2^62)."""
    power, one = w.const(1), w.const(1)
    for half in (16, 8, 4, 2, 1):
        limit = w.const(1 << (_TOP - 2 * half))
        factor = w.select(x, "Less", limit, w.const(4**half), one)
        x = w.emit("Mul", [x.name, factor.name], x.shape, Interval(1, 2**_TOP - 1))
        power = w.mul(power, w.select(factor, "Greater", one, w.const(2**half), one))
    return Tensor(x.name, x.shape, Interval(2**60, 2**_TOP - 1)), power


def newton_root(w: OnnxWriter, x: Tensor) -> Tensor:
    """⌊√x⌋ for x in [2^60, 2^62).

    From 2^31, at most 2^30 too large, steps g ← ⌊(g + ⌊x/g⌋)/2⌋ never fall below the result, and
    exceed √x by at most e²/2g, e the excess before: 2^28, 2^25, 2^19, 2^7, below 1. Then they are
    too large by at most one.
    """
    bounds = Interval(2**30, 2**31)
    root = w.const(2**31)
    for _ in range(_NEWTON):
        step = w.floor_shift(w.add(root, w.floor_divide(x, root)), 1)
        root = Tensor(step.name, step.shape, bounds)
    above = w.select(w.mul(root, root), "Greater", x, w.const(1), w.const(0))
    found = w.sub(root, above)
    return Tensor(found.name, found.shape, Interval(2**30, 2**31 - 1))
