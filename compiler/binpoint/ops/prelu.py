"""PRelu with constant slopes: one for all is a LeakyRelu by table; one per channel is a `PRelu`.

DYADIC        d = x − zx, y = clamp((d·(d ≥ 0 ? p[c] : n[c]) + k[c]) >> s[c], lo, hi)
ONNXRUNTIME   a table of all codes for each channel
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from binpoint.ir.build import GraphBuilder
from binpoint.ir.constant import Constant
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Value
from binpoint.ir.kernel import Buffer, KernelCall, Number, Table, Work
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import FloatArray, FloatOp, IntArray, IntegerOp, Permuted, Role, Site
from binpoint.numeric.fixed import I32, I64, U8, FixedType, FloatType, TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.affine import common_shift, in_tables, per_tensor, tabulate_channels
from binpoint.ops.shape import transpose_value
from binpoint.ops.unary import Unary


@dataclass(frozen=True, slots=True)
class PRelu(FloatOp):
    """y = x ≥ 0 ? x : x·slope[c] of ``[…, C]``; slope is a constant ``[C]``."""

    onnx: ClassVar[tuple[str, ...]] = ("PRelu",)

    def roles(self, count: int) -> tuple[Role, ...]:
        """Data and slopes."""
        return (Role.ACTIVATION, Role.PARAMETER)[:count]

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """Slopes may vary along one axis, which is brought last."""
        x = node.operand(0)
        node.array(1)
        slope = constant_array(node.operand(1)).astype(np.float32)
        shape = (1,) * (len(x.shape) - slope.ndim) + slope.shape
        if slope.size == 1:
            return build.add(Unary("LeakyRelu", (("alpha", float(slope.reshape(()))),)), x)
        wide = [axis for axis, n in enumerate(shape) if n != 1]
        if len(wide) != 1 or len(shape) != len(x.shape) or shape[wide[0]] != x.shape[wide[0]]:
            node.refuse(
                f"slopes of shape {list(slope.shape)} for {list(x.shape)}",
                want="one slope, or one per channel",
            )
        rest = [axis for axis in range(len(shape)) if axis != wide[0]]
        order = (*rest, wide[0])
        back = tuple(order.index(axis) for axis in range(len(shape)))
        moved = transpose_value(build, x, order)
        y = build.one(cls(), moved, build.constant(slope.reshape(-1)))
        return (transpose_value(build, y, back),)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's shape."""
        x, slope = inputs
        assert slope.shape == x.shape[-1:], f"{slope.shape} for {x.shape}"
        return (TensorType(x.shape, FloatType()),)

    def permuted(self, order: tuple[int, ...], *inputs: Value) -> Permuted | None:
        """The same, where channels stay last."""
        return Permuted(self, order) if order[-1] == len(order) - 1 else None

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """The definition."""
        x, slope = inputs
        return (np.where(x >= 0, x, x * slope),)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """Two multipliers per channel with a shift in common, or tables."""
        x = per_tensor(site, build)
        slope = constant_array(site.inputs[1])
        target = site.result
        if in_tables(site, x):
            return (
                tabulate_channels(build, x, target, lambda real: self.reference(real, slope)[0]),
            )
        positive = x.elem.scale.as_fraction() / target.scale.as_fraction()
        negative = [positive * Fraction(float(v)) for v in slope]
        bits = site.limits.multiplier_bits - 1
        zero = target.zero_point + Fraction(1, 2)
        shifts = [common_shift(site, [positive, n], zero, bits) for n in negative]
        op = IntPRelu(
            positive=tuple(round(positive * 2**s) for s in shifts),
            negative=tuple(round(n * 2**s) for n, s in zip(negative, shifts, strict=True)),
            shifts=tuple(shifts),
            offsets=tuple(round(zero * 2**s) for s in shifts),
            zero=x.elem.zero_point,
            result=target,
        )
        return (build.one(op, x),)


@dataclass(frozen=True, slots=True)
class IntPRelu(IntegerOp):
    """d = x − zero; y = clamp((d·(d ≥ 0 ? positive : negative) + offset) >> shift), per channel."""

    stem: ClassVar[str] = "prelu"

    positive: tuple[int, ...]
    negative: tuple[int, ...]
    shifts: tuple[int, ...]
    offsets: tuple[int, ...]
    zero: int
    result: FixedType

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's shape."""
        assert inputs[0].shape[-1] == len(self.positive), "channels do not fit"
        return (TensorType(inputs[0].shape, self.result),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """Exact: both branches are monotone, so the ends and zero tell."""
        x = inputs[0].interval
        ends = [x.lo, x.hi] + [c for c in (self.zero, self.zero - 1) if x.contains(c)]
        grid = np.repeat(np.array(ends, np.int64)[:, None], len(self.positive), axis=1)
        return (Interval.of(self.reference(grid)[0]),)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        d = inputs[0] - self.zero
        columns = (self.positive, self.negative, self.offsets, self.shifts)
        positive, negative, offsets, shifts = (np.array(c, np.int64) for c in columns)
        scaled = (d * np.where(d >= 0, positive, negative) + offsets) >> shifts
        return (np.clip(scaled, self.result.storage.min, self.result.storage.max),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Select the multiplier, multiply, add, divide down, clamp."""
        d = w.sub(inputs[0], w.const(self.zero))
        positive, negative = w.const(np.array(self.positive)), w.const(np.array(self.negative))
        factor = w.select(d, "Less", w.const(0), negative, positive)
        total = w.add(w.mul(d, factor), w.const(np.array(self.offsets)))
        scaled = w.floor_divide(total, w.const(np.array([1 << s for s in self.shifts])))
        return (w.clamp(scaled, self.result.storage.min, self.result.storage.max),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Channels within rows."""
        (x,), (y,) = inputs, outputs
        storage = self.result.storage
        arguments = (
            Buffer("x", x.name, x.elem.storage),
            Buffer("y", y.name, y.elem.storage, written=True),
            Table("positive", Constant(np.array(self.positive, np.int32)), I32),
            Table("negative", Constant(np.array(self.negative, np.int32)), I32),
            Table("shift", Constant(np.array(self.shifts, np.uint8)), U8),
            Table("offset", Constant(np.array(self.offsets, np.int64)), I64),
            Number("rows", x.type.size // x.shape[-1]),
            Number("channels", x.shape[-1]),
            Number("zero_x", self.zero),
            Number("lo", storage.min),
            Number("hi", storage.max),
        )
        return KernelCall(
            self.stem, arguments, formula="y = clamp((d * (d >= 0 ? p : n) + k) >> s)"
        )

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """One load, one multiply and one store an element."""
        size = inputs[0].type.size
        return Work(macs=size, loads=size, stores=size)

    def in_place(self) -> tuple[int, ...]:
        """Element by element."""
        return (0,)
