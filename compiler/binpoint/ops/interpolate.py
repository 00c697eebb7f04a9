"""Linear resizing of two axes exactly as onnxruntime computes it between its quantizers.

    X = fl((x − zx)·sx), w = fl(dy·dx), v = fl(fl(fl(w₀₀·X₀₀ + w₀₁·X₀₁) + w₁₀·X₁₀) + w₁₁·X₁₁),
    y = clamp(rne(fl(v / sy)) + zy), every product and sum rounded to float32

The kernel computes the same value in integers, to within 2^-12 steps of x, and emulates the float32
chain only where that lies too near to a tie to decide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from onnx import TensorProto, helper

from binpoint.ir.constant import Constant
from binpoint.ir.graph import Value
from binpoint.ir.kernel import Buffer, KernelCall, Number, Table, Work
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import FloatArray, IntArray, IntegerOp
from binpoint.numeric import float32
from binpoint.numeric.fixed import I32, FixedType, IntType, TensorType
from binpoint.numeric.interval import Interval
from binpoint.numeric.requant import approximate

_U32 = IntType(32, signed=False)
_UNIT_BITS = 22
_ERROR_BITS = 11
"""The integer value is within 2^-12 steps of x: 4·255·2^-23 by weights of 22 bits, and 255·7·2^-24
by the seven roundings of the float32 chain. One bit is spare."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Along one axis: two neighbours of every result and their float32 shares."""

    low: tuple[int, ...]
    high: tuple[int, ...]
    near: tuple[float, ...]
    far: tuple[float, ...]

    @classmethod
    def of(cls, weights: FloatArray) -> Shares:
        """From what the runtime makes of unit vectors, ``[size, count]``.

        At the last element onnxruntime takes one half twice.
        """
        size, count = weights.shape
        low = (weights != 0).argmax(axis=0)
        each = list(range(count))
        high = np.minimum(low + 1, size - 1)
        near = np.where(low == high, np.float32(0.5), weights[low, each])
        far = np.where(low == high, np.float32(0.5), weights[high, each])
        columns = (column.tolist() for column in (low, high, near, far))
        return cls(*(tuple(column) for column in columns))

    @property
    def count(self) -> int:
        """Number of results."""
        return len(self.low)

    @property
    def places(self) -> Constant:
        """``[count, 2]``: the neighbours."""
        return Constant(np.array([self.low, self.high], np.int32).T)

    @property
    def bits(self) -> Constant:
        """``[count, 2]``: bit patterns of the shares."""
        return Constant(np.array([self.near, self.far], np.float32).T.copy().view(np.uint32))


@dataclass(frozen=True, slots=True)
class Request:
    """What the runtime's own Resize is told: mode of coordinates; factors, or none if sizes."""

    coordinates: str
    scales: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class OnnxruntimeResize(IntegerOp):
    """DequantizeLinear, Resize (linear) and QuantizeLinear of ``[N, H, W, C]``, bit for bit."""

    stem: ClassVar[str] = "interpolate"

    rows: Shares
    columns: Shares
    operand: FixedType
    result: FixedType
    request: Request

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """``[N, *counts, C]``."""
        (x,) = inputs
        assert x.elem == self.operand, "the operand has another type"
        shape = (x.shape[0], self.rows.count, self.columns.count, x.shape[-1])
        return (TensorType(shape, self.result),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """The operand's ends in the result's type, and one more for rounding."""
        storage = self.result.storage
        ends = np.array([inputs[0].interval.lo, inputs[0].interval.hi])
        low, high = self.quantized(self._real(ends)).tolist()
        return (Interval(low - 1, high + 1).clamp(storage.min, storage.max),)

    def _real(self, codes: IntArray) -> FloatArray:
        kind = self.operand
        return float32.dequantize_linear(codes, float(kind.scale), kind.zero_point)

    def quantized(self, real: FloatArray) -> IntArray:
        """Codes of float32 numbers."""
        kind, storage = self.result, self.result.storage
        scale, zero = float(kind.scale), kind.zero_point
        return float32.quantize_linear(real, scale, zero, storage.min, storage.max)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition, in float32."""
        x = self._real(inputs[0])
        rows, columns = (_shared(s) for s in (self.rows, self.columns))
        total: FloatArray | None = None
        for row, dy in zip((self.rows.low, self.rows.high), rows, strict=True):
            for column, dx in zip((self.columns.low, self.columns.high), columns, strict=True):
                term = (dy[:, None, None] * dx[:, None]) * x[:, row][:, :, column]
                total = term if total is None else total + term
        assert total is not None
        return (self.quantized(total),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The three operators themselves, on channel-first images."""
        (x,) = inputs
        moved = w.transpose(x, (0, 3, 1, 2))
        shape = (*moved.shape[:2], self.rows.count, self.columns.count)
        code = helper.np_dtype_to_tensor_dtype(self.operand.storage.dtype)
        narrow = w.emit("Cast", [moved.name], moved.shape, x.range, to=code)
        quantizer = _quantizer(w, self.operand)
        real = w.emit("DequantizeLinear", [narrow.name, *quantizer], moved.shape, x.range)
        scales = w.array(np.array([1, 1, *self.request.scales], np.float32))
        operands = ["", "", w.array(np.array(shape, np.int64))]
        if self.request.scales:
            operands = ["", scales]
        mode = self.request.coordinates
        large = w.emit(
            "Resize",
            [real.name, *operands],
            shape,
            x.range,
            mode="linear",
            coordinate_transformation_mode=mode,
        )
        bounds = Interval.of_type(self.result.storage)
        quantizer = _quantizer(w, self.result)
        codes = w.emit("QuantizeLinear", [large.name, *quantizer], shape, bounds)
        wide = w.emit("Cast", [codes.name], shape, bounds, to=TensorProto.INT64)
        return (w.transpose(wide, (0, 2, 3, 1)),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Integers first; the float32 chain near ties."""
        (x,), (y,) = inputs, outputs
        ratio = self.operand.scale.as_fraction() / self.result.scale.as_fraction()
        found = approximate(ratio / 2**_UNIT_BITS, 31, 60)
        # An error of e steps of x is one of e·ratio steps of y.
        window = max(0, _ERROR_BITS - max(0, math.ceil(math.log2(ratio))))
        near = (1 << found.shift) >> window
        arguments = (
            Buffer("x", x.name, x.elem.storage),
            Table("row_places", self.rows.places, I32),
            Table("row_shares", self.rows.bits, _U32),
            Table("column_places", self.columns.places, I32),
            Table("column_shares", self.columns.bits, _U32),
            Buffer("y", y.name, y.elem.storage, written=True),
            Number("batches", x.shape[0]),
            Number("in_h", x.shape[1]),
            Number("in_w", x.shape[2]),
            Number("out_h", self.rows.count),
            Number("out_w", self.columns.count),
            Number("channels", x.shape[3]),
            Number("unit", _float_bits(2.0**_UNIT_BITS), "uint32_t"),
            Number("step_x", _float_bits(float(self.operand.scale)), "uint32_t"),
            Number("step_y", _float_bits(float(self.result.scale)), "uint32_t"),
            Number("zero_x", self.operand.zero_point),
            Number("zero_y", self.result.zero_point),
            Number("multiplier", found.multiplier),
            Number("shift", found.shift, "uint32_t"),
            Number("window", window, "uint32_t"),
            Number("start", ((1 << found.shift) >> 1) + near, "int64_t"),
            Number("lo", self.result.storage.min),
            Number("hi", self.result.storage.max),
        )
        traits = (("softfloat", "softfloat"),)
        return KernelCall(self.stem, arguments, traits, formula="y = Q(Resize(DQ(x)))")

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """Five products an element, without those near ties."""
        size = outputs[0].type.size
        return Work(macs=5 * size, loads=4 * size, stores=size)


def _shared(shares: Shares) -> tuple[FloatArray, FloatArray]:
    return np.array(shares.near, np.float32), np.array(shares.far, np.float32)


def _quantizer(w: OnnxWriter, kind: FixedType) -> list[str]:
    scale = np.array(float(kind.scale), np.float32)
    return [w.array(scale), w.array(np.array(kind.zero_point, kind.storage.dtype))]


def _float_bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))
