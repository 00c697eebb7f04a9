"""Concat: operands brought to the type of the result, then joined along an axis.

A change of type is a table per operand, which is what QLinearConcat computes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Value
from binpoint.ir.kernel import Argument, Buffer, KernelCall, Number, Work
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import FloatArray, FloatOp, IntArray, IntegerOp, Permuted, Semantics, Site
from binpoint.numeric import float32
from binpoint.numeric.fixed import FixedType, FloatType, TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.lookup import convert


@dataclass(frozen=True, slots=True)
class Concat(FloatOp):
    """Operands side by side along `axis`; constants are operands too."""

    onnx: ClassVar[tuple[str, ...]] = ("Concat", "com.microsoft.QLinearConcat")
    keeps_type: ClassVar[bool] = True

    axis: int

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """Empty operands are left out."""
        given = [node.operand(i) for i in range(len(node.inputs))]
        parts = [v for v in given if v.type.size > 0]
        if not parts:
            node.refuse("all operands are empty")
        if node.op == "Concat" and any(node.codes) and len({v.fixed for v in parts}) > 1:
            node.refuse("joins codes of different scales", hint="use QLinearConcat, or QDQ")
        rank = len(parts[0].shape)
        axis = node.int("axis", 0)
        if not -rank <= axis < rank:
            node.refuse(f"axis {axis} is outside rank {rank}")
        axis %= rank
        rests = {v.shape[:axis] + v.shape[axis + 1 :] for v in parts if len(v.shape) == rank}
        if len(rests) != 1 or any(len(v.shape) != rank for v in parts):
            node.refuse("operands do not fit", have=", ".join(str(list(v.shape)) for v in parts))
        if len(parts) == 1:
            return (parts[0],)
        return build.add(cls(axis), *parts)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The axis takes the sum of sizes."""
        return (TensorType(_joined_shape([v.shape for v in inputs], self.axis), FloatType()),)

    def permuted(self, order: tuple[int, ...], *inputs: Value) -> Permuted | None:
        """Along the axis where it lies then."""
        return Permuted(Concat(order.index(self.axis)), order)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """numpy.concatenate."""
        return (np.concatenate(inputs, self.axis),)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """Every operand in the result's type, then copies."""
        target = site.results[0] or next(v for v in site.inputs if v.constant is None).elem
        parts = [typed(build, v, target, site.semantics) for v in site.inputs]
        return (build.one(IntConcat(self.axis, target), *parts),)


def typed(build: GraphBuilder, x: Value, target: FixedType, semantics: Semantics) -> Value:
    """`x` in type `target`; a constant is converted at once, as its table would convert it."""
    if x.constant is None or isinstance(x.type.elem, FixedType):
        return convert(build, x, target, semantics)
    if x.fixed == target:
        return build.integer(x)
    real = constant_array(x)
    if semantics is Semantics.ONNXRUNTIME:
        lo, hi = target.storage.min, target.storage.max
        scale = float(target.scale)
        return build.constant(
            float32.quantize_linear(real, scale, target.zero_point, lo, hi), target
        )
    return build.constant(target.quantize(real), target)


def _joined_shape(shapes: Sequence[tuple[int, ...]], axis: int) -> tuple[int, ...]:
    joined = sum(shape[axis] for shape in shapes)
    return (*shapes[0][:axis], joined, *shapes[0][axis + 1 :])


@dataclass(frozen=True, slots=True)
class IntConcat(IntegerOp):
    """Operands of one type side by side along `axis`."""

    stem: ClassVar[str] = "concat"

    axis: int
    result: FixedType

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The axis takes the sum of sizes; all types are the result's."""
        assert all(v.elem == self.result for v in inputs), "operands of a Concat differ in type"
        return (TensorType(_joined_shape([v.shape for v in inputs], self.axis), self.result),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """The union of the operands'."""
        los, his = [v.interval.lo for v in inputs], [v.interval.hi for v in inputs]
        return (Interval(min(los), max(his)),)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        return (np.concatenate(inputs, self.axis),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Concat."""
        return (w.concat(inputs, self.axis),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """For every outer index a row of each operand."""
        (y,) = outputs
        buffers: list[Argument] = [
            Buffer(f"x{i}", v.name, v.elem.storage) for i, v in enumerate(inputs)
        ]
        rows = [Number(f"n{i}", math.prod(v.shape[self.axis :])) for i, v in enumerate(inputs)]
        arguments = (
            *buffers,
            Buffer("y", y.name, y.elem.storage, written=True),
            Number("outer", math.prod(y.shape[: self.axis])),
            *rows,
        )
        traits = (("parts", str(len(inputs))),)
        return KernelCall(self.stem, arguments, traits, formula="y = [x0, x1, ...]")

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """One load and one store an element."""
        size = outputs[0].type.size
        return Work(loads=size, stores=size)
