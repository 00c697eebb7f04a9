"""Rows of a table at computed places: Gather, as embeddings are exported, and OneHot.

A place becomes a row of zeros with a one in it, and the embedding a product with the table: exact
but for the table's own rounding, and the kernels are those of all products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from binpoint.errors import NoIntegerForm
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import FloatArray, FloatOp, Reader, Site
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, I16, U8, FixedType, FloatType, TensorType
from binpoint.ops.broadcast import Broadcast
from binpoint.ops.dense import Dense
from binpoint.ops.elementwise import Kind, Scalar
from binpoint.ops.lookup import codes_of, lookup
from binpoint.ops.pairwise import IntAdd
from binpoint.ops.shape import reshape_value, transpose_value
from binpoint.ops.slices import gathered

_MOST = 2**12
"""Rows of a table at most: a place takes as many products, and as many bytes in between."""
_SMALL = FixedType.per_tensor(U8, Dyadic.one())
_LARGE = FixedType.per_tensor(I16, Dyadic.one())
_SIGN = FixedType.per_tensor(I8, Dyadic.one())


@dataclass(frozen=True, slots=True)
class OneHot(FloatOp):
    """y[…, i] = 1 where x is i, else 0, for whole numbers x ``[…, 1]`` and i below `count`.

    Stored integers have no place for what is below zero.
    """

    onnx: ClassVar[tuple[str, ...]] = ("OneHot",)

    count: int

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """The depth and the two values are constants."""
        x, count = node.operand(0), int(node.array(1).reshape(()))
        off, on = (float(v) for v in node.array(2))
        y = _one_hot(node, build, x, count)
        rank = len(y.shape)
        axis = node.int("axis", -1)
        if not -rank <= axis < rank:
            node.refuse(f"axis {axis} is outside rank {rank}")
        order = list(range(rank - 1))
        order.insert(axis % rank, rank - 1)
        if on - off != 1.0:
            y = build.one(Scalar(Kind.MUL, on - off), y)
        if off:
            y = build.one(Scalar(Kind.ADD, off), y)
        return (transpose_value(build, y, order),)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The last axis takes the count."""
        assert inputs[0].shape[-1] == 1, f"{inputs[0].shape}"
        return (TensorType((*inputs[0].shape[:-1], self.count), FloatType()),)

    def operand_types(self) -> tuple[FixedType | None, ...]:
        """Whole numbers."""
        return (_SMALL if self.count <= U8.max + 1 else _LARGE,)

    def result_type(self, *inputs: FixedType | None) -> FixedType | None:
        """Zeros and ones."""
        return _SIGN

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """A comparison with all numbers below the count; what is below zero counts from the end."""
        places = np.rint(inputs[0])
        places = np.where(places < 0, places + self.count, places)
        return ((places == np.arange(self.count)).astype(inputs[0].dtype),)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """Distances from all numbers, cut to one, and a table of them."""
        x = build.integer(site.inputs[0])
        if x.elem not in (_SMALL, _LARGE):
            raise NoIntegerForm(
                "a place that is no whole number",
                at=site.name,
                have=str(x.elem),
                hint="make the places an input of the model",
            )
        places = build.constant(
            np.arange(self.count).reshape(*(1,) * (len(x.shape) - 1), -1), x.elem
        )
        axes = Broadcast.of(x.shape, places.shape, site.name)
        apart = build.one(IntAdd(axes, 2, -2, 1, 0, 0, _SIGN, -1, 1), x, places)
        entries = (codes_of(_SIGN.storage) == 0).astype(np.int64)
        return (lookup(build, apart, entries, site.results[0] or _SIGN),)


class Rows(Reader):
    """Elements at constant places are a `Take`; rows at computed ones of a constant a `Dense`."""

    onnx: ClassVar[tuple[str, ...]] = ("Gather",)

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """Places that are computed are counted from the start of the first axis."""
        table, places = node.operand(0), node.operand(1)
        if places.constant is not None:
            return (gathered(node, build),)
        kind = table.fixed
        if table.constant is None or node.int("axis", 0) != 0 or (kind and kind.axis is not None):
            node.refuse(
                "places that are computed, in what is no constant table of rows of one scale",
                hint="multiply by a one-hot matrix",
            )
        if kind is None and table.constant.array.dtype.kind != "f":
            node.refuse("rows of stored integers", hint="dequantize the table before: QDQ")
        inner = table.shape[1:]
        rows = table.constant.array.reshape(table.shape[0], math.prod(inner))
        chosen = _one_hot(node, build, places, len(rows))
        weights = build.constant(np.ascontiguousarray(rows.T), fixed=kind, hint=table.name)
        y = build.one(Dense(), chosen, weights)
        return (reshape_value(build, y, (*places.shape, *inner)),)


def _one_hot(node: OnnxNode, build: GraphBuilder, places: Value, count: int) -> Value:
    if not 0 < count <= _MOST:
        node.refuse(
            f"a table of {count} rows",
            want=f"at most {_MOST}",
            hint="let the model take the rows instead of their places",
        )
    return build.one(OneHot(count), reshape_value(build, places, (*places.shape, 1)))
