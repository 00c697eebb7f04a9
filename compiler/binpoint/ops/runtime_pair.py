"""Integer ops on pairs of elements that onnxruntime defines in float32.

``OnnxruntimeAdd`` is its QLinearAdd, ``OnnxruntimeMul`` its QLinearMul, and ``OnnxruntimeChain``
DequantizeLinear twice, one float32 operator, QuantizeLinear. They are emitted as the multiply, add
and shift of `pairwise` where that is proved equal on every pair of codes, else in their exact
integer form.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from binpoint.ir.constant import Constant
from binpoint.ir.graph import Value
from binpoint.ir.kernel import Argument, KernelCall, Number, Table
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import IntArray
from binpoint.numeric import float32
from binpoint.numeric.binary import AddExact, MulExact, Operand, prove_add, prove_mul
from binpoint.numeric.fixed import I64, FixedType, IntType
from binpoint.numeric.interval import Interval
from binpoint.ops.broadcast import Broadcast
from binpoint.ops.chain import Chain, prove_linear
from binpoint.ops.pairwise import Clamped, linear_call, product_call
from binpoint.ops.requantize import Form

_BITS = IntType(32, signed=False)


@dataclass(frozen=True, slots=True)
class OnnxruntimePair(Clamped):
    """An op that onnxruntime defines in float32, of the types `a` and `b`.

    `reach_a` and `reach_b` are the codes that occur; the proof covers all their pairs.
    """

    axes: Broadcast
    a: FixedType
    b: FixedType
    reach_a: Interval
    reach_b: Interval
    result: FixedType
    lo: int
    hi: int
    proof: Form | None = None

    def clamped(self, lo: int, hi: int) -> OnnxruntimePair:
        """The same op with its result clamped further; the proof is to be made anew."""
        low, high = self.narrowed(lo, hi)
        return replace(self, lo=low, hi=high, proof=None)

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
            return linear_call(self, inputs, outputs, self.proof)
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
            return product_call(self, inputs, outputs, self.proof, *zeros)
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

    kind: Chain = field(kw_only=True)

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
            return linear_call(self, inputs, outputs, self.proof)
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
