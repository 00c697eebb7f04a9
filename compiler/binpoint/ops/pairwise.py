"""Integer ops on pairs of elements: sums, products, extremes, and chains of float operators.

``IntAdd``            y = clamp(((a − za)·ma + (b − zb)·mb + 2^(s−1) >> s) + zy, lo, hi)
``IntMul``            y = clamp(((a − za)·(b − zb)·m + 2^(s−1) >> s) + zy, lo, hi)
``OnnxruntimeAdd``    QLinearAdd of onnxruntime, ``OnnxruntimeMul`` its QLinearMul, and
``OnnxruntimeChain``  DequantizeLinear twice, one float32 operator, QuantizeLinear.

The last three are defined in float32 and emitted as the same multiply, add and shift where that is
proved equal on every pair of codes, else in their exact integer form.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from binpoint.ir.constant import Constant
from binpoint.ir.exchange import OnnxWriter, Tensor
from binpoint.ir.graph import Value
from binpoint.ir.kernel import Argument, KernelCall, Number, Table, Work
from binpoint.ir.op import IntArray, IntegerOp
from binpoint.numeric import float32
from binpoint.numeric.binary import AddExact, MulExact, Operand, prove_add, prove_mul
from binpoint.numeric.fixed import I64, FixedType, IntType, TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.broadcast import Broadcast, pair_buffers
from binpoint.ops.chain import Chain, prove_linear
from binpoint.ops.requantize import Form

_NARROW = 2**31 - 1
_BITS = IntType(32, signed=False)


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


def _linear_call(
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
        return _linear_call(self, inputs, outputs, self.form)


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
        return _product_call(self, inputs, outputs, self.form, self.zero_a, self.zero_b)


def _product_call(
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


class OnnxruntimePair(Clamped):
    """An op that onnxruntime defines in float32, of the types `a` and `b`.

    `reach_a` and `reach_b` are the codes that occur; the proof covers all their pairs.
    """

    a: FixedType
    b: FixedType
    reach_a: Interval
    reach_b: Interval
    proof: Form | None

    @abstractmethod
    def proved(self) -> OnnxruntimePair:
        """The op with a form that is proved equal on every pair, if one was found."""

    @property
    def form(self) -> Form:
        """The proved form, else `exact`."""
        return self.proof if self.proof is not None else Form("exact")

    def operands(self) -> tuple[Operand, Operand, Operand]:
        """Both operands and the clamped result, with the codes that occur."""
        return (
            Operand(float(self.a.scale), self.a.zero_point, self.reach_a),
            Operand(float(self.b.scale), self.b.zero_point, self.reach_b),
            Operand(float(self.result.scale), self.result.zero_point, Interval(self.lo, self.hi)),
        )

    def quantized(self, w: OnnxWriter, op: str, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The operator itself, on operands of one shape: so it cannot swap them."""
        a, b = (self.axes.expand(w, x) for x in inputs)
        parameters = [
            (np.array(float(t.scale), np.float32), np.array(t.zero_point, t.storage.dtype))
            for t in (self.a, self.b, self.result)
        ]
        operands = [(a, self.a.storage), *parameters[0], (b, self.b.storage), *parameters[1]]
        storage = self.result.storage
        y = w.quantized(op, [*operands, *parameters[2]], self.axes.shape, storage)
        return (w.clamp(y, self.lo, self.hi),)


@dataclass(frozen=True, slots=True)
class OnnxruntimeAdd(OnnxruntimePair):
    """QLinearAdd: y = clamp(rne(fma(a, rA, fma(b, rB, f))), lo, hi), see `float32.qlinear_add`."""

    stem: ClassVar[str] = "add"

    axes: Broadcast
    a: FixedType
    b: FixedType
    reach_a: Interval
    reach_b: Interval
    result: FixedType
    lo: int
    hi: int
    proof: Form | None = None

    def clamped(self, lo: int, hi: int) -> OnnxruntimeAdd:
        """The same op with its result clamped further; the proof is to be made anew."""
        low, high = self.narrowed(lo, hi)
        return replace(self, lo=low, hi=high, proof=None)

    def proved(self) -> OnnxruntimeAdd:
        """With ``(a·ma + b·mb + offset) >> shift``, if that is equal for some constants."""
        form = prove_add(*self.operands())
        if form is None:
            return replace(self, proof=None)
        proof = Form("mulshift", (form.ma, form.mb), (form.shift,), (form.offset,))
        return replace(self, proof=proof)

    def codes(self, a: IntArray, b: IntArray) -> IntArray:
        """The definition."""
        x, z, y = self.operands()
        first, second, result = ((o.scale, o.zero_point) for o in (x, z, y))
        return float32.qlinear_add(a, b, *first, *second, *result, self.lo, self.hi)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """QLinearAdd."""
        return self.quantized(w, "QLinearAdd", *inputs)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """A loop over pairs."""
        if self.proof is not None:
            return _linear_call(self, inputs, outputs, self.proof)
        exact = AddExact.of(*self.operands())
        arguments = (
            Table("table", Constant(np.array(exact.table, np.int64)), I64),
            Number("table_lo", exact.b_lo),
            Number("multiplier", exact.multiplier, "int64_t"),
            Number("shift", exact.fraction_bits, "uint32_t"),
            Number("window", exact.window, "uint32_t"),
        )
        return self.call((inputs, outputs), self.stem, "exact", arguments, "y = QLinearAdd(a, b)")


@dataclass(frozen=True, slots=True)
class OnnxruntimeMul(OnnxruntimePair):
    """QLinearMul: y = clamp(rne(fl(fl((a − za)·(b − zb)·r) + zy)), lo, hi)."""

    stem: ClassVar[str] = "mul"

    axes: Broadcast
    a: FixedType
    b: FixedType
    reach_a: Interval
    reach_b: Interval
    result: FixedType
    lo: int
    hi: int
    proof: Form | None = None

    def clamped(self, lo: int, hi: int) -> OnnxruntimeMul:
        """The same op with its result clamped further; the proof is to be made anew."""
        low, high = self.narrowed(lo, hi)
        return replace(self, lo=low, hi=high, proof=None)

    def proved(self) -> OnnxruntimeMul:
        """With ``((a − za)·(b − zb)·m + offset) >> shift``, if that is equal for some constants."""
        form = prove_mul(*self.operands())
        if form is None:
            return replace(self, proof=None)
        proof = Form("mulshift", (form.multiplier,), (form.shift,), (form.offset,))
        return replace(self, proof=proof)

    def codes(self, a: IntArray, b: IntArray) -> IntArray:
        """The definition."""
        x, z, y = self.operands()
        first, second, result = ((o.scale, o.zero_point) for o in (x, z, y))
        return float32.qlinear_mul(a, b, *first, *second, *result, self.lo, self.hi)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """QLinearMul."""
        return self.quantized(w, "QLinearMul", *inputs)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """A loop over pairs."""
        zeros = self.a.zero_point, self.b.zero_point
        if self.proof is not None:
            return _product_call(self, inputs, outputs, self.proof, *zeros)
        exact = MulExact.of(*self.operands())
        arguments = (
            Number("zero_a", zeros[0]),
            Number("zero_b", zeros[1]),
            Number("multiplier", exact.mantissa),
            Number("offset", exact.offset, "int64_t"),
            Number("shift", exact.shift, "uint32_t"),
            Number("window", exact.window, "uint32_t"),
            Number("zero_y", self.result.zero_point),
        )
        return self.call((inputs, outputs), self.stem, "exact", arguments, "y = QLinearMul(a, b)")


@dataclass(frozen=True, slots=True)
class OnnxruntimeChain(OnnxruntimePair):
    """y = QuantizeLinear(DequantizeLinear(a) ∘ DequantizeLinear(b)), one float32 operator ∘."""

    stem: ClassVar[str] = "chain"

    axes: Broadcast
    kind: Chain
    a: FixedType
    b: FixedType
    reach_a: Interval
    reach_b: Interval
    result: FixedType
    lo: int
    hi: int
    proof: Form | None = None

    def clamped(self, lo: int, hi: int) -> OnnxruntimeChain:
        """The same op with its result clamped further; the proof is to be made anew."""
        low, high = self.narrowed(lo, hi)
        return replace(self, lo=low, hi=high, proof=None)

    def proved(self) -> OnnxruntimeChain:
        """Sums and differences with ``(a·ma + b·mb + offset) >> shift``, if that is equal."""
        if self.kind is Chain.MUL:
            return self
        x, z, y = self.operands()
        result = self.codes(x.all_codes()[:, None], z.all_codes()[None, :])
        sign = -1 if self.kind is Chain.SUB else 1
        ratios = x.scale / y.scale, sign * z.scale / y.scale
        found = prove_linear(x.all_codes(), z.all_codes(), result, ratios, self.lo, self.hi)
        proof = None if found is None else Form("mulshift", found[:2], found[2:3], found[3:])
        return replace(self, proof=proof)

    def codes(self, a: IntArray, b: IntArray) -> IntArray:
        """The definition."""
        x = float32.dequantize_linear(a, float(self.a.scale), self.a.zero_point)
        z = float32.dequantize_linear(b, float(self.b.scale), self.b.zero_point)
        zero = self.result.zero_point
        scale = float(self.result.scale)
        return float32.quantize_linear(self.kind.apply(x, z), scale, zero, self.lo, self.hi)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """A table of all pairs of codes."""
        a, b = inputs
        x, z = (np.arange(r.lo, r.hi + 1) for r in (self.reach_a, self.reach_b))
        table = self.codes(x[:, None], z[None, :])
        row = w.mul(w.sub(a, w.const(self.reach_a.lo)), w.const(len(z)))
        index = w.add(row, w.sub(b, w.const(self.reach_b.lo)))
        return (w.lookup(table.reshape(-1), index),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """A loop over pairs; the exact form carries the float operations out on integers."""
        if self.proof is not None:
            return _linear_call(self, inputs, outputs, self.proof)
        tables: list[Argument] = []
        for name, kind, reach in (("fa", self.a, self.reach_a), ("fb", self.b, self.reach_b)):
            codes = np.arange(reach.lo, reach.hi + 1)
            real = float32.dequantize_linear(codes, float(kind.scale), kind.zero_point)
            tables.append(Table(name, Constant(real.view(np.uint32)), _BITS))
            tables.append(Number(f"{name}_lo", reach.lo))
        scale = int(np.float32(float(self.result.scale)).view(np.uint32))
        arguments = (
            *tables,
            Number("scale", scale, "uint32_t"),
            Number("zero", self.result.zero_point),
        )
        formula = f"y = quantize(dequantize(a) {self.kind} dequantize(b))"
        return self.call((inputs, outputs), self.stem, str(self.kind), arguments, formula)


@dataclass(frozen=True, slots=True)
class IntMinMax(Pairwise):
    """y = max(a, b) or min(a, b), all of one type."""

    stem: ClassVar[str] = "minmax"

    axes: Broadcast
    largest: bool
    result: FixedType

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """Operands and result have one type."""
        assert all(v.elem == self.result for v in inputs), "operands of different types"
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
