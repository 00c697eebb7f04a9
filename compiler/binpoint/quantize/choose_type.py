"""From real ranges to integer types of at most 8 bits; float32-exact scales."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.errors import RangeOverflow
from binpoint.ir.graph import Node
from binpoint.numeric.digits import nearest
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, I32, FixedType, IntType
from binpoint.options import CompileOptions
from binpoint.quantize.observe import Range

_NOTHING = 2.0**-7
"""Scale of what is always zero: any would do."""

_SMALLEST = float(np.finfo(np.float32).tiny)


def scale_of(step: float, *, power_of_two: bool) -> float:
    """The float32 nearest to a step, or the next power of two that is no smaller; for 0: 2^-7.

    Raises:
        RangeOverflow: float32 cannot hold it.
    """
    if step == 0.0:
        return _NOTHING
    step = max(step, _SMALLEST)
    scale = 2.0 ** math.ceil(math.log2(step)) if power_of_two else float(np.float32(step))
    if not math.isfinite(scale) or scale > float(np.finfo(np.float32).max):
        raise RangeOverflow(
            "a range is too large", have=f"a step of {step:g}", want="a float32 scale"
        )
    return scale


def activation_type(
    range_: Range, *, symmetric: bool, power_of_two: bool, bits: int = 8
) -> FixedType:
    """The signed type of a range that holds zero.

    Asymmetric, of eight bits: 256 codes from `lo` to `hi`, zero exactly one of them. Symmetric:
    −127..127, zero point 0. What is always zero gets the scale 2^-7.
    """
    storage = IntType(bits, signed=True)
    if symmetric:
        step = max(-range_.lo, range_.hi) / storage.max
        return _type(storage, scale_of(step, power_of_two=power_of_two), 0)
    last = storage.max - storage.min
    scale = scale_of((range_.hi - range_.lo) / last, power_of_two=power_of_two)
    if range_.lo == range_.hi:
        return _type(storage, scale, 0)
    if power_of_two and _codes(range_, scale) > last:
        scale *= 2
    zero = storage.min - round(range_.lo / scale)
    return _type(storage, scale, min(max(zero, storage.min), storage.max))


def narrowed(kind: FixedType, bits: int) -> FixedType:
    """A per-tensor type of at most `bits` bits for the same range: larger steps, fewer codes."""
    storage = kind.storage
    drop = storage.width - bits
    if drop <= 0:
        return kind
    narrow = IntType(bits, signed=storage.signed)
    zero = kind.zero_point >> drop
    return FixedType.per_tensor(narrow, kind.scale * Dyadic(1, drop), zero)


def _codes(range_: Range, scale: float) -> int:
    """How many codes apart the ends of a range are."""
    return round(range_.hi / scale) - round(range_.lo / scale)


def _type(storage: IntType, scale: float, zero: int) -> FixedType:
    return FixedType.per_tensor(storage, Dyadic.from_float(scale), zero)


def weight_bits(node: Node, options: CompileOptions) -> int:
    """How many bits the options give the weights of a node."""
    own = (options.layer_bits[n] for n in node.origin.names if n in options.layer_bits)
    return next(own, options.weight_bits)


def weight_type(
    weights: NDArray[Any],
    bias: NDArray[Any] | None,
    x_scale: float,
    *,
    power_of_two: bool,
    bits: int = 8,
    codes: NDArray[np.int64] | None = None,
) -> FixedType:
    """The symmetric type of weights ``[O, …]``, one scale per output channel.

    Codes of eight bits are −127..127, and of others alike; or those in `codes` alone, ascending. A
    channel of zeros takes the largest scale of the others, or 2^-7. Below eight bits, and with
    `codes`, scales are those of least error (`_least_error`), so a channel's largest weights may
    lie beyond the last code. A scale is widened where the bias, in units of it and `x_scale`, and
    the largest sum of products together could leave 32 bits.

    Raises:
        RangeOverflow: a channel has more products than 32 bits can sum.
    """
    storage = IntType(bits, signed=True)
    rows = weights.reshape(weights.shape[0], -1).astype(np.float64)
    steps = np.abs(rows).max(axis=1, initial=0.0) / storage.max
    if codes is not None:
        steps = _least_error(rows, steps, partial(nearest, codes=codes))
    elif bits < I8.width:
        most = storage.max
        steps = _least_error(rows, steps, lambda x: np.clip(np.rint(x), -most, most))
    reach = bias if bias is not None else np.zeros(1)
    steps = np.maximum(steps, least_step(reach, x_scale, rows.shape[1], storage))
    used = steps[steps > 0]
    steps[steps == 0] = used.max() if used.size else _NOTHING
    scales = tuple(Dyadic.from_float(scale_of(float(s), power_of_two=power_of_two)) for s in steps)
    return FixedType(storage, scales, (0,), 0)


def least_step(
    bias: NDArray[Any], x_scale: float, products: int, storage: IntType
) -> NDArray[np.float64]:
    """The least scale of each channel's weights with which a bias and all products fit 32 bits.

    Raises:
        RangeOverflow: there are more products than 32 bits can sum.
    """
    room = I32.max - products * storage.max * (I8.max - I8.min + 1)
    if room <= 0:
        raise RangeOverflow("a sum of products may leave 32 bits", have=f"{products} products")
    return np.abs(bias.reshape(-1).astype(np.float64)) / x_scale / room * (1 + 2.0**-20)


def _least_error(
    rows: NDArray[np.float64], steps: NDArray[np.float64], rounded: Callable[[Any], NDArray[Any]]
) -> NDArray[np.float64]:
    """Of each row's steps from 0.2 to 1 times the given one, that with the least squared error."""
    best = np.full(len(rows), np.inf)
    found = steps.copy()
    for part in np.linspace(1.0, 0.2, 81):
        tried = np.where(steps > 0, steps * part, 1.0)[:, None]
        error = ((rounded(rows / tried) * tried - rows) ** 2).sum(axis=1)
        better = error < best
        best = np.where(better, error, best)
        found = np.where(better, steps * part, found)
    return found
