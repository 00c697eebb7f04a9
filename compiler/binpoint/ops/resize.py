"""Resize and Upsample: nearest by constant index maps, linear by exact rational weights.

nearest   y[o] = x[index[o]], the indices being those that onnxruntime itself takes
linear    y[o] = x[i]·(D − w)/D + x[i + 1]·w/D along each axis, i and w/D from the coordinate

The linear form sums in integers, weighted over the common denominator of both axes, and rounds once
(`IntResizeLinear`, then a Requantize). Coordinates beyond the edge take the edge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from binpoint.errors import AccumulatorOverflow
from binpoint.ir.build import GraphBuilder
from binpoint.ir.constant import Constant
from binpoint.ir.graph import Value
from binpoint.ir.kernel import Buffer, KernelCall, Number, Table, Work
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import FloatArray, FloatOp, IntArray, IntegerOp, Semantics, Site
from binpoint.numeric.fixed import I32, FixedType, FloatType, TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.interpolate import OnnxruntimeResize, Request, Shares
from binpoint.ops.rescale import accumulator, requantize
from binpoint.ops.resize_axes import read_axes
from binpoint.ops.shape import to_channel_first, to_channel_last
from binpoint.ops.slices import take_value

_NOTE = "linear resizing: onnxruntime interpolates in float32 and may differ by one near ties"


@dataclass(frozen=True, slots=True)
class Weights:
    """Linear interpolation along one axis: y[o] = (x[low]·(D − weight) + x[high]·weight) / D."""

    low: tuple[int, ...]
    high: tuple[int, ...]
    weight: tuple[int, ...]
    denominator: int

    @classmethod
    def of(cls, size: int, coordinates: Sequence[Fraction]) -> Weights:
        """Weights of coordinates on an axis of `size`, those beyond an edge moved onto it."""
        inside = [min(max(c, Fraction(0)), Fraction(size - 1)) for c in coordinates]
        low = tuple(math.floor(c) for c in inside)
        shares = [c - i for c, i in zip(inside, low, strict=True)]
        denominator = math.lcm(*(s.denominator for s in shares))
        weight = tuple(int(s * denominator) for s in shares)
        high = tuple(min(i + 1, size - 1) for i in low)
        return cls(low, high, weight, denominator)

    @property
    def count(self) -> int:
        """Number of results."""
        return len(self.low)

    @property
    def table(self) -> Constant:
        """``[count, 3]``: low, high, weight."""
        columns = [self.low, self.high, self.weight]
        return Constant(np.array(columns, np.int32).T)

    def real(self, x: FloatArray, axis: int) -> FloatArray:
        """Interpolate floating-point values along an axis."""
        shape = [1] * x.ndim
        shape[axis] = -1
        share = (np.array(self.weight) / self.denominator).astype(x.dtype).reshape(shape)
        return np.take(x, self.low, axis) * (1 - share) + np.take(x, self.high, axis) * share

    def whole(self, x: IntArray, axis: int) -> IntArray:
        """The same in integers, times the denominator."""
        shape = [1] * x.ndim
        shape[axis] = -1
        share = np.array(self.weight, np.int64).reshape(shape)
        low, high = np.take(x, self.low, axis), np.take(x, self.high, axis)
        return low * (self.denominator - share) + high * share

    def onnx(self, w: OnnxWriter, x: Tensor, axis: int) -> Tensor:
        """The same in ONNX; the range is the operand's times the denominator."""
        shape = [1] * len(x.shape)
        shape[axis] = -1
        share = np.array(self.weight, np.int64).reshape(shape)
        low = w.take(x, np.array(self.low, np.int64), axis)
        high = w.take(x, np.array(self.high, np.int64), axis)
        rest = w.const(self.denominator - share)
        total = w.add(w.mul(low, rest), w.mul(high, w.const(share)))
        return Tensor(total.name, total.shape, x.range * self.denominator)


@dataclass(frozen=True, slots=True)
class Resize(FloatOp):
    """Linear interpolation of ``[N, *spatial, C]``, one entry of `weights` per spatial axis."""

    onnx: ClassVar[tuple[str, ...]] = ("Resize", "Upsample")

    weights: tuple[Weights, ...]
    shares: tuple[Shares, ...]
    request: Request

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """Nearest becomes a `Take`; linear a `Resize`, channel-last; others are refused."""
        x = node.operand(0)
        mode = node.string("mode", "nearest")
        if mode not in ("nearest", "linear"):
            node.refuse(
                "no integer form",
                have=f'mode="{mode}"',
                want='mode="nearest" or mode="linear"',
                hint="export with nearest or linear upsampling, or cut the model before this node",
            )
        axes = read_axes(node)
        if all(axis.count == axis.size for axis in axes):
            return (x,)
        if mode == "nearest":
            return (take_value(build, x, [axis.nearest(node) for axis in axes]),)
        moving = [i for i, axis in enumerate(axes) if axis.moves]
        if len(x.shape) not in (3, 4) or min(moving) < 2:
            node.refuse(f"linear along axes {moving} of {list(x.shape)}", want="spatial axes only")
        weights = tuple(Weights.of(axis.size, axis.rationals(node)) for axis in axes[2:])
        shares = tuple(axis.shares(node) for axis in axes[2:])
        scales = () if axes[moving[0]].by_size else tuple(axis.scale for axis in axes[2:])
        op = cls(weights, shares, Request(axes[0].coordinates, scales))
        return (to_channel_first(build, build.one(op, to_channel_last(build, x))),)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """``[N, *counts, C]``."""
        x = inputs[0].shape
        return (TensorType((x[0], *(w.count for w in self.weights), x[-1]), FloatType()),)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """Interpolate axis by axis."""
        (y,) = inputs
        for axis, weights in enumerate(self.weights):
            y = weights.real(y, axis + 1)
        return (y,)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """Exact weighted sums, then one rounding with the denominator divided out.

        In ONNXRUNTIME semantics two axes are interpolated as the runtime does it, in float32
        (`OnnxruntimeResize`). Along one axis the sum is exact here too, and the runtime's results
        may differ by one where the exact value lies near a tie.
        """
        x = build.integer(site.inputs[0])
        runtime = site.semantics is Semantics.ONNXRUNTIME and site.result.storage.width <= 8
        if runtime and len(self.shares) == 2 and x.elem.storage.width <= 8:
            op = OnnxruntimeResize(*self.shares, x.elem, site.result, self.request)
            return (build.one(op, x),)
        rank = len(self.weights)
        one = Weights((0,), (0,), (0,), 1)
        op = IntResizeLinear(
            rows=self.weights[0] if rank == 2 else one,
            columns=self.weights[-1],
            rank=rank,
            zero=x.elem.zero_point,
            result=accumulator([x.elem.scale], len(x.shape)),
            notes=(_NOTE,) if site.semantics is Semantics.ONNXRUNTIME else (),
        )
        acc = build.one(op, x)
        scales = None
        if (target := site.result).storage.width <= 8:
            step = np.float32(float(target.scale) * op.denominator)
            scales = [float(np.float32(float(x.elem.scale)) / step)]
        return (requantize(site, build, acc, scales32=scales, divisor=op.denominator),)


# ---- integers


@dataclass(frozen=True, slots=True)
class IntResizeLinear(IntegerOp):
    """acc = Σ (x − zero)·weights, times the product of both denominators.

    Operand ``[N, H, W, C]``, or ``[N, W, C]`` with `rank` 1: rows are then one of weight 1.
    """

    stem: ClassVar[str] = "resize_linear"
    accumulates: ClassVar[bool] = True

    rows: Weights
    columns: Weights
    rank: int
    zero: int
    result: FixedType
    notes: tuple[str, ...] = ()

    @property
    def denominator(self) -> int:
        """What the accumulator is to be divided by."""
        return self.rows.denominator * self.columns.denominator

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """``[N, *counts, C]`` of the accumulator's type."""
        x = inputs[0].shape
        counts = (self.rows.count, self.columns.count)[2 - self.rank :]
        return (TensorType((x[0], *counts, x[-1]), self.result),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """The operand's range times the denominator: weights are not negative and sum to it."""
        bound = (inputs[0].interval - self.zero) * self.denominator
        codes = inputs[0].interval.union(Interval(0, 0)).union(Interval(self.zero, self.zero))
        raw = codes * self.denominator
        if not (Interval.of_type(I32).contains(bound) and Interval.of_type(I32).contains(raw)):
            raise AccumulatorOverflow(
                "an interpolation may leave 32 bits",
                have=f"{bound}, weights over {self.denominator}",
                hint="resize by a factor that is a ratio of smaller integers",
            )
        return (bound,)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        y = inputs[0] - self.zero
        if self.rank == 2:
            y = self.rows.whole(y, 1)
        return (self.columns.whole(y, self.rank),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Two gathers, two products and a sum for each axis."""
        y = w.sub(inputs[0], w.const(self.zero))
        if self.rank == 2:
            y = self.rows.onnx(w, y, 1)
        return (self.columns.onnx(w, y, self.rank),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Four neighbours of every position, all channels."""
        (x,), (y,) = inputs, outputs
        arguments = (
            Buffer("x", x.name, x.elem.storage),
            Table("rows", self.rows.table, I32),
            Table("columns", self.columns.table, I32),
            Buffer("y", y.name, y.elem.storage, written=True),
            Number("batches", x.shape[0]),
            Number("in_h", x.shape[1] if self.rank == 2 else 1),
            Number("in_w", x.shape[-2]),
            Number("out_h", self.rows.count),
            Number("out_w", self.columns.count),
            Number("channels", x.shape[-1]),
            Number("whole_h", self.rows.denominator),
            Number("whole_w", self.columns.denominator),
            Number("zero_sum", self.zero * self.denominator),
        )
        return KernelCall(self.stem, arguments, formula=f"acc = sum((x - {self.zero}) * weight)")

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """Four products an element."""
        size = outputs[0].type.size
        return Work(macs=4 * size, loads=4 * size, stores=size, notes=self.notes)
