"""Integer ops on pairs of elements: sums, products and extremes.

``IntAdd``            y = clamp(((a − za)·ma + (b − zb)·mb + 2^(s−1) >> s) + zy, lo, hi)
``IntMul``            y = clamp(((a − za)·(b − zb)·m + 2^(s−1) >> s) + zy, lo, hi)
``IntMinMax``         y = max(a, b) or min(a, b)

Those that onnxruntime defines in float32 are in `runtime_pair`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from binpoint.ir.graph import Value
from binpoint.ir.kernel import Argument, KernelCall, Number, Work
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import IntArray, IntegerOp
from binpoint.numeric.fixed import FixedType, TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.broadcast import Broadcast, pair_buffers
from binpoint.ops.requantize import Form

_NARROW = 2**31 - 1


class Pairwise(IntegerOp):
    """What all of them share. `codes` is monotone in each operand, or bilinear."""

    axes: Broadcast
    result: FixedType

    @abstractmethod
    def codes(self, a: IntArray, b: IntArray) -> IntArray:
        """The definition, on operands that numpy broadcasts."""

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The broadcast shape, the result's type."""
        a, b = inputs
        assert np.broadcast_shapes(a.shape, b.shape) == self.axes.shape, f"{a.type} and {b.type}"
        return (TensorType(self.axes.shape, self.result),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """Exact: extremes are reached at the ends of the operands' ranges."""
        a, b = (np.array([v.interval.lo, v.interval.hi], np.int64) for v in inputs)
        return (Interval.of(self.codes(a[:, None], b[None, :])),)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        a, b = inputs
        return (self.codes(*self.axes.pair(a, b)),)

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """A load per operand and one store an element."""
        size = outputs[0].type.size
        return Work(loads=len(inputs) * size, stores=size)

    def in_place(self) -> tuple[int, ...]:
        """Operands of the result's shape."""
        return self.axes.in_place()


class Clamped(Pairwise):
    """With a clamp of the result."""

    lo: int
    hi: int

    def narrowed(self, lo: int, hi: int) -> tuple[int, int]:
        """The clamp, narrowed further."""
        both = Interval(self.lo, self.hi).clamp(lo, hi)
        return both.lo, both.hi

    def call(
        self,
        values: tuple[Sequence[Value], Sequence[Value]],
        stem: str,
        form: str,
        constants: Sequence[Argument],
        formula: str,
    ) -> KernelCall:
        """The kernel call: buffers, axes, the constants of the form, the clamp."""
        (a, b), (y,) = values
        arguments = (
            *pair_buffers(a, b, y),
            *self.axes.numbers(),
            *constants,
            Number("lo", self.lo),
            Number("hi", self.hi),
        )
        exact = "softfloat" if form not in ("narrow", "wide") else ""
        traits = (*self.axes.traits, ("form", form), ("softfloat", exact))
        return KernelCall(stem, arguments, traits, formula=formula)


def linear_call(
    op: Clamped, inputs: Sequence[Value], outputs: Sequence[Value], form: Form
) -> KernelCall:
    """``clamp((a·ma + b·mb + offset) >> shift)`` on raw codes, in 32 bits where every sum fits."""
    (ma, mb), (shift,), (offset,) = form.multipliers, form.shifts, form.offsets
    reach = sum(
        abs(m) * max(abs(v.interval.lo), abs(v.interval.hi))
        for m, v in zip((ma, mb), inputs, strict=True)
    )
    narrow = reach + abs(offset) <= _NARROW
    arguments = (
        Number("ma", ma),
        Number("mb", mb),
        Number("offset", offset, "int32_t" if narrow else "int64_t"),
        Number("shift", shift, "uint32_t"),
    )
    formula = f"y = clamp((a * {ma} + b * {mb} + {offset}) >> {shift}, {op.lo}, {op.hi})"
    return op.call((inputs, outputs), "add", "narrow" if narrow else "wide", arguments, formula)


@dataclass(frozen=True, slots=True)
class IntAdd(Clamped):
    """y = clamp(floor(((a − za)·ma + (b − zb)·mb + 2^(s−1)) / 2^s) + zy, lo, hi).

    A difference has a negative multiplier.
    """

    stem: ClassVar[str] = "add"

    axes: Broadcast
    ma: int
    mb: int
    shift: int
    zero_a: int
    zero_b: int
    result: FixedType
    lo: int
    hi: int

    @property
    def form(self) -> Form:
        """On raw codes, with the zero points in the offset."""
        zero = (self.result.zero_point << self.shift) + (1 << (self.shift - 1))
        offset = zero - self.zero_a * self.ma - self.zero_b * self.mb
        return Form("mulshift", (self.ma, self.mb), (self.shift,), (offset,))

    def clamped(self, lo: int, hi: int) -> IntAdd:
        """The same op with its result clamped further."""
        low, high = self.narrowed(lo, hi)
        return replace(self, lo=low, hi=high)

    def codes(self, a: IntArray, b: IntArray) -> IntArray:
        """The definition."""
        total = (a - self.zero_a) * self.ma + (b - self.zero_b) * self.mb + (1 << (self.shift - 1))
        return np.clip((total >> self.shift) + self.result.zero_point, self.lo, self.hi)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Multiply, add, divide down, move the zero point, clamp."""
        a = w.mul(w.sub(inputs[0], w.const(self.zero_a)), w.const(self.ma))
        b = w.mul(w.sub(inputs[1], w.const(self.zero_b)), w.const(self.mb))
        total = w.add(w.add(a, b), w.const(1 << (self.shift - 1)))
        moved = w.add(w.floor_shift(total, self.shift), w.const(self.result.zero_point))
        return (w.clamp(moved, self.lo, self.hi),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """A loop over pairs."""
        return linear_call(self, inputs, outputs, self.form)


@dataclass(frozen=True, slots=True)
class IntMul(Clamped):
    """y = clamp(floor(((a − za)·(b − zb)·m + 2^(s−1)) / 2^s) + zy, lo, hi)."""

    stem: ClassVar[str] = "mul"

    axes: Broadcast
    multiplier: int
    shift: int
    zero_a: int
    zero_b: int
    result: FixedType
    lo: int
    hi: int

    @property
    def form(self) -> Form:
        """Of the centred product, with the zero point of the result in the offset."""
        offset = (self.result.zero_point << self.shift) + (1 << (self.shift - 1))
        return Form("mulshift", (self.multiplier,), (self.shift,), (offset,))

    def clamped(self, lo: int, hi: int) -> IntMul:
        """The same op with its result clamped further."""
        low, high = self.narrowed(lo, hi)
        return replace(self, lo=low, hi=high)

    def codes(self, a: IntArray, b: IntArray) -> IntArray:
        """The definition."""
        product = (a - self.zero_a) * (b - self.zero_b)
        total = product * self.multiplier + (1 << (self.shift - 1))
        return np.clip((total >> self.shift) + self.result.zero_point, self.lo, self.hi)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Multiply twice, add half, divide down, move the zero point, clamp."""
        a, b = w.sub(inputs[0], w.const(self.zero_a)), w.sub(inputs[1], w.const(self.zero_b))
        total = w.add(w.mul(w.mul(a, b), w.const(self.multiplier)), w.const(1 << (self.shift - 1)))
        moved = w.add(w.floor_shift(total, self.shift), w.const(self.result.zero_point))
        return (w.clamp(moved, self.lo, self.hi),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """A loop over pairs."""
        return product_call(self, inputs, outputs, self.form, self.zero_a, self.zero_b)


def product_call(
    op: Clamped,
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    form: Form,
    zero_a: int,
    zero_b: int,
) -> KernelCall:
    """``clamp((a − za)·(b − zb)·m + offset >> shift)``, in 32 bits where every sum fits."""
    (multiplier,), (shift,), (offset,) = form.multipliers, form.shifts, form.offsets
    a, b = inputs
    product = (a.interval - zero_a) * (b.interval - zero_b)
    reach = max(abs(product.lo), abs(product.hi)) * multiplier
    narrow = reach + abs(offset) <= _NARROW
    arguments = (
        Number("zero_a", zero_a),
        Number("zero_b", zero_b),
        Number("multiplier", multiplier),
        Number("offset", offset, "int32_t" if narrow else "int64_t"),
        Number("shift", shift, "uint32_t"),
    )
    formula = (
        f"y = clamp(((a - {zero_a}) * (b - {zero_b}) * {multiplier} + {offset}) >> {shift}, "
        f"{op.lo}, {op.hi})"
    )
    return op.call((inputs, outputs), "mul", "narrow" if narrow else "wide", arguments, formula)


@dataclass(frozen=True, slots=True)
class IntMinMax(Pairwise):
    """y = max(a, b) or min(a, b), all of one scale; the result is stored as wide as an operand."""

    stem: ClassVar[str] = "minmax"

    axes: Broadcast
    largest: bool
    result: FixedType

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """Operands and result have one scale and zero point."""
        kinds = [replace(v.elem, storage=self.result.storage) for v in inputs]
        assert all(kind == self.result for kind in kinds), "operands of different types"
        reach = Interval.of_type(self.result.storage)
        assert all(reach.contains(v.interval) for v in inputs), "an operand wider than the result"
        return Pairwise.infer(self, *inputs)

    def codes(self, a: IntArray, b: IntArray) -> IntArray:
        """The definition."""
        return np.maximum(a, b) if self.largest else np.minimum(a, b)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """A selection."""
        return (w.maximum(*inputs) if self.largest else w.minimum(*inputs),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """A loop over pairs."""
        (a, b), (y,) = inputs, outputs
        name = "max" if self.largest else "min"
        arguments = (*pair_buffers(a, b, y), *self.axes.numbers())
        traits = (*self.axes.traits, ("form", name))
        return KernelCall(self.stem, arguments, traits, formula=f"y = {name}(a, b)")
