"""Sums, means, extremes and their places over static axes: ReduceMean, ReduceMax, ArgMax.

A tensor is seen as ``[outer, n, inner]`` with n reduced; axes that are not adjacent are brought
together first. Sums are exact in 32 bits and rounded once, with the mean's divisor in the ratio.

In ONNXRUNTIME semantics mean and sum are defined as QLinearGlobalAveragePool defines its own,
``float32.requantize`` of the exact sum by ``fl(sx / fl(sy · fl(n)))``. The runtime itself has no
integer operator for them and adds vectors of float32: rarely (about once in 70,000) it differs by
one, which the report says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import FloatArray, FloatOp, Permuted, Semantics, Site
from binpoint.numeric import float32
from binpoint.numeric.fixed import FixedType, FloatType, TensorType
from binpoint.ops.blocks import PLACE, Block, IntArgExtreme, IntExtreme, IntSum, place_of
from binpoint.ops.copy import IntReshape, transposed
from binpoint.ops.elementwise import Binary, Kind, Scalar
from binpoint.ops.rescale import accumulator, requantize
from binpoint.ops.shape import (
    axes_of,
    finish_moved,
    reshape_value,
)
from binpoint.ops.unary import Unary

_INNER: Mapping[str, FloatOp | None] = MappingProxyType(
    {
        "ReduceL1": Unary("Abs"),
        "ReduceL2": Scalar(Kind.POW, 2.0),
        "ReduceSumSquare": Scalar(Kind.POW, 2.0),
        "ReduceLogSum": None,
        "ReduceLogSumExp": Unary("Exp"),
    }
)
"""What is summed, where it is a function of the elements."""
_OUTER: Mapping[str, FloatOp] = MappingProxyType(
    {"ReduceL2": Unary("Sqrt"), "ReduceLogSum": Unary("Log"), "ReduceLogSumExp": Unary("Log")}
)
"""The function of the sum, where the result is one."""
_NOTE = "sum of a float reduction: onnxruntime adds in float32 and may differ by one in rare cases"


def adjacent(build: GraphBuilder, x: Value, axes: Sequence[int]) -> tuple[Value, Block]:
    """`x` with the reduced axes together, at the end unless they are together already."""
    wide = [i for i in axes if x.shape[i] != 1]
    if not wide:
        return x, Block.of(x.shape, axes[:1])
    inside = range(wide[0], wide[-1] + 1)
    if all(i in axes or x.shape[i] == 1 for i in inside):
        return x, Block.of(x.shape, tuple(inside))
    order = [i for i in range(len(x.shape)) if i not in wide] + wide
    moved = build.one(transposed(x, order), x)
    return moved, Block.of(moved.shape, range(len(order) - len(wide), len(order)))


def _axes(node: OnnxNode) -> tuple[int, ...] | None:
    """Axes to reduce; None if there is nothing to do."""
    x = node.operand(0)
    rank = len(x.shape)
    axes = axes_of(node, 1, rank)
    if not axes:
        if node.int("noop_with_empty_axes", 0):
            return None
        axes = tuple(range(rank))
    if math.prod(x.shape[i] for i in axes) == 0:
        node.refuse("no element to reduce")
    return axes


def _squeezed(node: OnnxNode, build: GraphBuilder, y: Value, given: Sequence[int]) -> Value:
    """`y` without the reduced axes, if the node says so."""
    if node.int("keepdims", 1):
        return y
    return reshape_value(build, y, [n for i, n in enumerate(y.shape) if i not in given])


def _reduced(shape: Sequence[int], axes: Sequence[int]) -> TensorType:
    return TensorType(tuple(1 if i in axes else n for i, n in enumerate(shape)), FloatType())


def _places(axes: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """Where axes lie after a transposition."""
    return tuple(sorted(order.index(axis) for axis in axes))


@dataclass(frozen=True, slots=True)
class Reduce(FloatOp):
    """Sum, or mean, over `axes`, which stay with size one."""

    onnx: ClassVar[tuple[str, ...]] = ("ReduceMean", "ReduceSum", *_INNER)

    axes: tuple[int, ...]
    mean: bool

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """Axes as attribute or constant operand; if none are given all, or none at all.

        Others are functions of a sum of functions. From what is put into exponentials the largest
        is taken first, and added in the end.
        """
        axes, x = _axes(node), node.operand(0)
        inner, outer, apart = _INNER.get(node.op), _OUTER.get(node.op), None
        if node.op == "ReduceLogSumExp" and axes is not None:
            apart = build.one(ReduceExtreme(axes, largest=True), x)
            x = build.one(Binary(Kind.SUB), x, apart)
        y = x if inner is None else build.one(inner, x)
        if axes is not None:
            y = build.one(cls(axes, node.op == "ReduceMean"), y)
        y = y if outer is None else build.one(outer, y)
        y = y if apart is None else build.one(Binary(Kind.ADD), y, apart)
        if axes is None:
            return (y,)
        rank = len(y.shape)
        return (_squeezed(node, build, y, axes_of(node, 1, rank) or tuple(range(rank))),)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The shape with the axes of size one."""
        return (_reduced(inputs[0].shape, self.axes),)

    def permuted(self, order: tuple[int, ...], *inputs: Value) -> Permuted | None:
        """Over the axes where they lie then."""
        return Permuted(replace(self, axes=_places(self.axes, order)), order)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """Summed in float64."""
        total = inputs[0].sum(axis=self.axes, keepdims=True, dtype=np.float64)
        count = math.prod(inputs[0].shape[i] for i in self.axes) if self.mean else 1
        return ((total / count).astype(inputs[0].dtype),)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """Exact sum, then one rounding."""
        x, block = adjacent(build, build.integer(site.inputs[0]), self.axes)
        y = sum_of(site, build, x, block, mean=self.mean, notes=(_NOTE,))
        return (reshape_integer(build, y, site.shapes[0]),)


def sum_of(
    site: Site,
    build: GraphBuilder,
    x: Value,
    block: Block,
    *,
    mean: bool,
    notes: tuple[str, ...] = (),
) -> Value:
    """The sum or mean over a block, rounded to the type of the site's result."""
    exact = site.semantics is not Semantics.ONNXRUNTIME
    op = IntSum(block, x.elem.zero_point, accumulator([x.elem.scale], 1), () if exact else notes)
    acc = build.one(op, x)
    divisor = block.n if mean else 1
    scales = None
    if not exact and site.result.storage.width <= 8:
        scales = [float(float32.average_scale(*_scales(x.elem, site.result), divisor))]
    return requantize(site, build, acc, scales32=scales, divisor=divisor)


def _scales(x: FixedType, y: FixedType) -> tuple[float, float]:
    return float(x.scale), float(y.scale)


def reshape_integer(build: GraphBuilder, x: Value, shape: Sequence[int]) -> Value:
    """An integer value in another shape, without code."""
    return x if x.shape == tuple(shape) else build.one(IntReshape(tuple(shape), x.elem), x)


@dataclass(frozen=True, slots=True)
class ReduceExtreme(FloatOp):
    """Maximum or minimum over `axes`, which stay with size one."""

    onnx: ClassVar[tuple[str, ...]] = ("ReduceMax", "ReduceMin")
    keeps_type: ClassVar[bool] = True

    axes: tuple[int, ...]
    largest: bool

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """As `Reduce`."""
        axes = _axes(node)
        if axes is None:
            return (node.operand(0),)
        y = build.one(cls(axes, node.op == "ReduceMax"), node.operand(0))
        rank = len(y.shape)
        return (_squeezed(node, build, y, axes_of(node, 1, rank) or tuple(range(rank))),)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The shape with the axes of size one."""
        return (_reduced(inputs[0].shape, self.axes),)

    def permuted(self, order: tuple[int, ...], *inputs: Value) -> Permuted | None:
        """Over the axes where they lie then."""
        return Permuted(replace(self, axes=_places(self.axes, order)), order)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """Exact."""
        function = np.max if self.largest else np.min
        return (function(inputs[0], axis=self.axes, keepdims=True),)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """An exact extreme."""
        x, block = adjacent(build, build.integer(site.inputs[0]), self.axes)
        y = build.one(IntExtreme(block, self.largest), x)
        return (finish_moved(site, build, reshape_integer(build, y, site.shapes[0])),)


@dataclass(frozen=True, slots=True)
class ArgExtreme(FloatOp):
    """Place of the maximum or minimum along one axis, which stays with size one."""

    onnx: ClassVar[tuple[str, ...]] = ("ArgMax", "ArgMin")

    axis: int
    largest: bool
    last: bool

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """One axis; the first of equal elements, or the last."""
        rank = len(node.operand(0).shape)
        axis = node.int("axis", 0)
        if not -rank <= axis < rank:
            node.refuse(f"axis {axis} is outside rank {rank}")
        axis %= rank
        if node.operand(0).shape[axis] == 0:
            node.refuse("no element to choose from")
        op = cls(axis, node.op == "ArgMax", bool(node.int("select_last_index", 0)))
        return (_squeezed(node, build, build.one(op, node.operand(0)), (axis,)),)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The shape with the axis of size one."""
        return (_reduced(inputs[0].shape, (self.axis,)),)

    def result_type(self, *inputs: FixedType | None) -> FixedType | None:
        """Whole numbers in 32 bits."""
        return PLACE

    def permuted(self, order: tuple[int, ...], *inputs: Value) -> Permuted | None:
        """Along the axis where it lies then."""
        return Permuted(replace(self, axis=order.index(self.axis)), order)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """The place, as a real number."""
        x = np.moveaxis(inputs[0], self.axis, 0)[None]
        place = place_of(x.reshape(1, x.shape[1], -1), largest=self.largest, last=self.last)
        return (place.reshape(_reduced(inputs[0].shape, (self.axis,)).shape).astype(np.float32),)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """An exact search."""
        x = build.integer(site.inputs[0])
        op = IntArgExtreme(Block.of(x.shape, (self.axis,)), self.largest, self.last)
        return (finish_moved(site, build, build.one(op, x)),)
