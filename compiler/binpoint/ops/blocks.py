"""Integer ops that reduce the middle of ``[outer, n, inner]``: exact sums, extremes, places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from binpoint.errors import AccumulatorOverflow
from binpoint.ir.graph import Value
from binpoint.ir.kernel import Buffer, KernelCall, Number, Work
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import IntArray, IntegerOp
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I32, FixedType, TensorType
from binpoint.numeric.interval import Interval

PLACE = FixedType.per_tensor(I32, Dyadic.one())
"""The type of places: whole numbers in 32 bits."""


@dataclass(frozen=True, slots=True)
class Block:
    """A tensor seen as ``[outer, n, inner]``, its middle reduced, and the shape of the result."""

    outer: int
    n: int
    inner: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, shape: Sequence[int], axes: Sequence[int]) -> Block:
        """Adjacent axes of a shape; they stay with size one."""
        first, last = axes[0], axes[-1]
        assert tuple(axes) == tuple(range(first, last + 1)), "the axes are not adjacent"
        kept = tuple(1 if i in axes else n for i, n in enumerate(shape))
        sizes = shape[:first], shape[first : last + 1], shape[last + 1 :]
        outer, n, inner = (math.prod(s) for s in sizes)
        return cls(outer, n, inner, kept)

    def view(self, x: IntArray) -> IntArray:
        """The operand in three axes."""
        return x.reshape(self.outer, self.n, self.inner)

    def flat(self, w: OnnxWriter, x: Tensor) -> Tensor:
        """The same in the check graph."""
        return w.reshape(x, (self.outer, self.n, self.inner))

    def arguments(self, x: Value, y: Value) -> tuple[Buffer | Number, ...]:
        """Buffers and sizes of a kernel."""
        return (
            Buffer("x", x.name, x.elem.storage),
            Buffer("y", y.name, y.elem.storage, written=True),
            Number("outer", self.outer),
            Number("n", self.n),
            Number("inner", self.inner),
        )


def place_of(x: NDArray[Any], *, largest: bool, last: bool) -> IntArray:
    """Places along the middle of three axes."""
    ordered = x[:, ::-1] if last else x
    place = ordered.argmax(axis=1) if largest else ordered.argmin(axis=1)
    return (x.shape[1] - 1 - place if last else place).astype(np.int64)


@dataclass(frozen=True, slots=True)
class IntSum(IntegerOp):
    """acc[o, i] = Σ_k (x[o, k, i] − zero), int32."""

    stem: ClassVar[str] = "sum"
    accumulates: ClassVar[bool] = True

    block: Block
    zero: int
    result: FixedType
    notes: tuple[str, ...] = ()

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The reduced shape, the accumulator's type."""
        return (TensorType(self.block.shape, self.result),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """The operand's range n times; partial sums of codes fit as well."""
        (x,) = inputs
        partial = x.interval.union(Interval(0, 0)) - Interval(0, 0).union(
            Interval(self.zero, self.zero)
        )
        if not Interval.of_type(I32).contains(partial * self.block.n):
            raise AccumulatorOverflow("a sum may leave 32 bits", have=str(partial * self.block.n))
        return ((x.interval - self.zero) * self.block.n,)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        return ((self.block.view(inputs[0]) - self.zero).sum(axis=1).reshape(self.block.shape),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """ReduceSum."""
        centred = w.sub(self.block.flat(w, inputs[0]), w.const(self.zero))
        return (w.reshape(w.reduce_sum(centred, 1, keep=False), self.block.shape),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """A loop over each sum."""
        arguments = self.block.arguments(inputs[0], outputs[0])
        start = Number("start", -self.zero * self.block.n)
        return KernelCall(self.stem, (*arguments, start), formula=f"acc = sum(x - {self.zero})")

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """One load an element."""
        return Work(loads=inputs[0].type.size, stores=outputs[0].type.size, notes=self.notes)


@dataclass(frozen=True, slots=True)
class IntExtreme(IntegerOp):
    """y[o, i] = max or min over k of x[o, k, i]."""

    stem: ClassVar[str] = "extreme"

    block: Block
    largest: bool

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The reduced shape, the operand's type."""
        return (TensorType(self.block.shape, inputs[0].elem),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """The operand's."""
        return (inputs[0].interval,)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        x = self.block.view(inputs[0])
        return ((x.max(axis=1) if self.largest else x.min(axis=1)).reshape(self.block.shape),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """ReduceMax; a minimum is −1 − the maximum of −1 − x, which stays within 32 bits."""
        x = self.block.flat(w, inputs[0])
        if self.largest:
            return (w.reshape(w.reduce_max(x, 1, keep=False), self.block.shape),)
        ones = w.const(-1)
        top = w.reduce_max(w.sub(ones, x), 1, keep=False)
        return (w.reshape(w.sub(ones, top), self.block.shape),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """A loop over each set."""
        name = "max" if self.largest else "min"
        arguments = self.block.arguments(inputs[0], outputs[0])
        return KernelCall(self.stem, arguments, (("form", name),), formula=f"y = {name}(x)")

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """One load an element."""
        return Work(loads=inputs[0].type.size, stores=outputs[0].type.size)


@dataclass(frozen=True, slots=True)
class IntArgExtreme(IntegerOp):
    """y[o, i] = the first, or last, k at which x[o, k, i] is largest, or smallest; int32."""

    stem: ClassVar[str] = "arg"

    block: Block
    largest: bool
    last: bool

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The reduced shape of whole numbers."""
        return (TensorType(self.block.shape, PLACE),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """All places."""
        return (Interval(0, self.block.n - 1),)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        place = place_of(self.block.view(inputs[0]), largest=self.largest, last=self.last)
        return (place.reshape(self.block.shape),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """ArgMax, or ArgMin, on int32."""
        x = self.block.flat(w, inputs[0])
        narrow = w.emit("Cast", [x.name], x.shape, x.range, to=TensorProto.INT32)
        shape = (self.block.outer, self.block.inner)
        bounds = Interval(0, self.block.n - 1)
        op = "ArgMax" if self.largest else "ArgMin"
        place = w.emit(
            op, [narrow.name], shape, bounds, axis=1, keepdims=0, select_last_index=int(self.last)
        )
        return (w.reshape(place, self.block.shape),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """A loop over each set."""
        relation = ("ge" if self.last else "gt") if self.largest else ("le" if self.last else "lt")
        arguments = self.block.arguments(inputs[0], outputs[0])
        name = "argmax" if self.largest else "argmin"
        return KernelCall(self.stem, arguments, (("form", relation),), formula=f"y = {name}(x)")

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """One load an element."""
        return Work(loads=inputs[0].type.size, stores=outputs[0].type.size)
