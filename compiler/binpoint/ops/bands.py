"""CumSum and LRN: sums over a part of an axis, read as products with a constant matrix.

The matrix has ones, or one same number, in a band; a `Dense` over the axis is exact up to its one
rounding.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import Reader
from binpoint.ops.dense import Dense
from binpoint.ops.elementwise import Binary, Kind, Scalar
from binpoint.ops.shape import transpose_value


class Bands(Reader):
    """Sums of what precedes along an axis, or of neighbouring channels; read as products."""

    onnx: ClassVar[tuple[str, ...]] = ("CumSum", "LRN")

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """The band of each operator."""
        return (_cumulative(node, build) if node.op == "CumSum" else _responses(node, build),)


def _cumulative(node: OnnxNode, build: GraphBuilder) -> Value:
    """Each sum over what comes before, and itself unless `exclusive`; or after, if `reverse`."""
    x, rank = node.operand(0), len(node.operand(0).shape)
    axis = int(node.array(1).reshape(()))
    if not -rank <= axis < rank:
        node.refuse(f"axis {axis} is outside rank {rank}")
    count = x.shape[axis % rank]
    taken = np.tri(count, k=-1 if node.int("exclusive", 0) else 0, dtype=np.float32)
    if node.int("reverse", 0):
        taken = taken[::-1, ::-1]
    return _product(build, x, axis % rank, taken)


def _responses(node: OnnxNode, build: GraphBuilder) -> Value:
    """Y = x / (bias + alpha / size · Σ x²)^beta, the sum over `size` channels around each."""
    x, size = node.operand(0), node.int("size", 1)
    alpha, beta = node.float("alpha", 1e-4), node.float("beta", 0.75)
    count = x.shape[1]
    places = np.arange(count)
    ahead = places[None] - places[:, None]
    band = (ahead >= -((size - 1) // 2)) & (ahead <= size // 2)
    squares = build.one(Scalar(Kind.POW, 2.0), x)
    sums = _product(build, squares, 1, band * np.float32(alpha / size))
    shifted = build.one(Scalar(Kind.ADD, node.float("bias", 1.0)), sums)
    return build.one(Binary(Kind.MUL), x, build.one(Scalar(Kind.POW, -beta), shifted))


def _product(build: GraphBuilder, x: Value, axis: int, matrix: NDArray[np.float32]) -> Value:
    """Σ_k matrix[n, k]·x[…, k, …] over an axis."""
    order = [i for i in range(len(x.shape)) if i != axis] + [axis]
    weights = build.constant(np.ascontiguousarray(matrix, np.float32))
    y = build.one(Dense(), transpose_value(build, x, order), weights)
    return transpose_value(build, y, np.argsort(order).tolist())
