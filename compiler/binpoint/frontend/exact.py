"""Constants as exact rationals, the one axis along which they differ, and ops applied along it."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ops.rational import Rational
from binpoint.ops.shape import transpose_value


def exact(value: Value) -> NDArray[Any]:
    """A constant as array of Fractions; stored integers times their exact scale."""
    assert value.constant is not None
    array = value.constant.array
    result = np.empty(array.shape, object)
    flat: list[Any] = array.reshape(-1).tolist()
    result.reshape(-1)[:] = [Fraction(v) for v in flat]
    kind = value.fixed
    if kind is None:
        return result
    shape = [1] * array.ndim
    if kind.axis is not None:
        shape[kind.axis] = -1
    zeros = np.array([Fraction(z) for z in kind.zero_points], object)
    scales = np.array([s.as_fraction() for s in kind.scales], object)
    zeros = zeros.reshape(shape if zeros.size > 1 else [1] * array.ndim)
    return np.asarray((result - zeros) * scales.reshape(shape), object).reshape(array.shape)


def spread(array: NDArray[Any], rank: int) -> tuple[int, ...]:
    """The shape of an array with axes of size one in front, up to a rank."""
    kept = array.shape[max(0, array.ndim - rank) :]
    return (1,) * (rank - len(kept)) + kept


def along(
    node: OnnxNode, array: NDArray[Any], shape: tuple[int, ...]
) -> tuple[NDArray[Any], int | None]:
    """The numbers of an array that broadcasts to `shape`, and the axis along which they lie.

    One number and None if all are equal. Refuses numbers that differ along several axes.
    """
    flat = array.reshape(-1)
    if flat.size and all(v == flat[0] for v in flat):
        return flat[:1], None
    if array.ndim > len(shape):
        node.refuse(f"parameters of shape {list(array.shape)} for {list(shape)}")
    full = spread(array, len(shape))
    wide = [i for i, n in enumerate(full) if n != 1]
    if len(wide) != 1 or full[wide[0]] != shape[wide[0]]:
        node.refuse(
            f"parameters of shape {list(array.shape)} for {list(shape)}",
            want="one number, or one per channel",
        )
    return flat, wide[0]


def apply(build: GraphBuilder, x: Value, op: Rational, axis: int | None) -> Value:
    """`op` on `x` with the axis of its channels moved last, and its result moved back."""
    rank = len(x.shape)
    kind = op.quantizer.type if op.quantizer is not None else None
    if axis is None or axis == rank - 1 or op.channels == 1:
        y = replace(build.one(op, x), fixed=kind)
        build.graph.set_value(y)
        return y
    there = (*(i for i in range(rank) if i != axis), axis)
    y = build.one(op, transpose_value(build, x, there))
    build.graph.set_value(replace(y, fixed=kind))
    return transpose_value(build, build.graph.value(y.name), np.argsort(there).tolist())
