"""Integer ops over windows of ``[N, *spatial, C]``: maximum, and averages in both semantics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from binpoint.ir.constant import Constant
from binpoint.ir.graph import Value
from binpoint.ir.kernel import Argument, Buffer, KernelCall, Number, Table, Work
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import IntArray, IntegerOp
from binpoint.numeric import float32
from binpoint.numeric.fixed import I32, FixedType, IntType, TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.window import Window

_BITS = IntType(32, signed=False)
_UNIT = 2.0**-24
Edge = tuple[int, ...] | None


def pooled(window: Window, shape: tuple[int, ...]) -> tuple[int, ...]:
    """``[N, *outputs, C]``."""
    return (shape[0], *window.outputs(shape[1:-1]), shape[-1])


def tap_axes(window: Window) -> tuple[int, ...]:
    """The axes of `Window.patches` that run over the elements of a window."""
    return tuple(range(-len(window.kernel), 0))


def counts_of(window: Window, edge: Edge, spatial: tuple[int, ...]) -> IntArray:
    """How many elements of each window count, ``[*outputs]``.

    `edge` None: those on the input. Else also all padding before, and `edge` of it after each axis.
    """
    if edge is None:
        return window.counts(spatial)
    sizes = tuple(b + n + e for b, n, e in zip(window.before, spatial, edge, strict=True))
    after = tuple(a - e for a, e in zip(window.after, edge, strict=True))
    none = (0,) * len(spatial)
    return replace(window, before=none, after=after).counts(sizes)


def _geometry(window: Window, x: Value, y: Value) -> tuple[Argument, ...]:
    """Buffers, and sizes as if there were two spatial axes."""
    flat, size = window.planar(x.shape[1:-1])
    _, out = window.planar(y.shape[1:-1])
    numbers = {
        "images": x.shape[0], "channels": x.shape[-1],
        "in_h": size[0], "in_w": size[1], "out_h": out[0], "out_w": out[1],
        "kernel_h": flat.kernel[0], "kernel_w": flat.kernel[1],
        "stride_h": flat.strides[0], "stride_w": flat.strides[1],
        "dilation_h": flat.dilations[0], "dilation_w": flat.dilations[1],
        "pad_h": flat.before[0], "pad_w": flat.before[1],
    }  # fmt: skip
    return (
        Buffer("x", x.name, x.elem.storage),
        Buffer("y", y.name, y.elem.storage, written=True),
        *(Number(name, value) for name, value in numbers.items()),
    )


def _counted(window: Window, edge: Edge, spatial: tuple[int, ...]) -> tuple[Number, ...]:
    """The elements that count, per axis: how many before the input, and how many in all."""
    flat, size = window.planar(spatial)
    if edge is None:
        sizes = dict(
            zip(("before_h", "before_w", "count_h", "count_w"), (0, 0, *size), strict=True)
        )
    else:
        after = (0,) * (2 - len(edge)) + edge
        totals = [b + n + e for b, n, e in zip(flat.before, size, after, strict=True)]
        names = ("before_h", "before_w", "count_h", "count_w")
        sizes = dict(zip(names, (*flat.before, *totals), strict=True))
    return tuple(Number(name, value) for name, value in sizes.items())


@dataclass(frozen=True, slots=True)
class IntMaxPool(IntegerOp):
    """y = max of x over the window, without its padding; the type stays."""

    stem: ClassVar[str] = "maxpool"

    window: Window

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's type."""
        return (TensorType(pooled(self.window, inputs[0].shape), inputs[0].elem),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """The operand's."""
        return (inputs[0].interval,)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        patches = self.window.patches(inputs[0], np.iinfo(np.int64).min)
        return (patches.max(axis=tap_axes(self.window)),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Taps side by side, padded with what cannot win."""
        first, *rest = self.window.taps_onnx(w, inputs[0], inputs[0].range.lo)
        for tap in rest:
            first = w.maximum(first, tap)
        return (first,)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Loops over positions and channels."""
        arguments = _geometry(self.window, inputs[0], outputs[0])
        return KernelCall(self.stem, arguments, formula="y = max(x)")

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """A load for each element of each window."""
        size = outputs[0].type.size
        return Work(loads=len(inputs) * size * self.window.taps, stores=size)


@dataclass(frozen=True, slots=True)
class IntAverage(IntegerOp):
    """y = clamp(floor((Σ (x − zero)·m[count − least] + 2^(s−1)) / 2^s) + zy, lo, hi).

    The sum runs over the elements on the input, the count over those that count (`counts_of`).
    """

    stem: ClassVar[str] = "average"

    window: Window
    edge: Edge
    least: int
    multipliers: tuple[int, ...]
    shift: int
    zero: int
    result: FixedType
    lo: int
    hi: int

    def clamped(self, lo: int, hi: int) -> IntAverage:
        """The same op with its result clamped further."""
        both = Interval(self.lo, self.hi).clamp(lo, hi)
        return replace(self, lo=both.lo, hi=both.hi)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The result's type."""
        return (TensorType(pooled(self.window, inputs[0].shape), self.result),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """From the ends of the operand's range, for each count."""
        span = inputs[0].interval - self.zero
        if self.edge is not None:
            span = span.union(Interval(0, 0))
        counts = self.least + np.arange(len(self.multipliers))
        ends = np.array([counts * span.lo, counts * span.hi])
        return (Interval.of(self._rounded(ends, np.array(self.multipliers))),)

    def _rounded(self, total: IntArray, multiplier: IntArray) -> IntArray:
        scaled = (total * multiplier + (1 << (self.shift - 1))) >> self.shift
        return np.clip(scaled + self.result.zero_point, self.lo, self.hi)

    def _of(self, spatial: tuple[int, ...]) -> IntArray:
        """The multiplier of each position, ``[1, *outputs, 1]``."""
        counts = counts_of(self.window, self.edge, spatial)
        return np.array(self.multipliers)[counts - self.least][None, ..., None]

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        patches = self.window.patches(inputs[0] - self.zero, 0)
        total = patches.sum(axis=tap_axes(self.window))
        return (self._rounded(total, self._of(inputs[0].shape[1:-1])),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Taps added up, then multiply, add half, divide down, move the zero point, clamp."""
        (x,) = inputs
        total, *rest = self.window.taps_onnx(w, w.sub(x, w.const(self.zero)), 0)
        for tap in rest:
            total = w.add(total, tap)
        scaled = w.mul(total, w.const(self._of(x.shape[1:-1])))
        shifted = w.floor_shift(w.add(scaled, w.const(1 << (self.shift - 1))), self.shift)
        return (w.clamp(w.add(shifted, w.const(self.result.zero_point)), self.lo, self.hi),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Loops over positions and channels."""
        x, y = inputs[0], outputs[0]
        offset = (self.result.zero_point << self.shift) + (1 << (self.shift - 1))
        arguments = (
            *_geometry(self.window, x, y),
            *_counted(self.window, self.edge, x.shape[1:-1]),
            Number("zero_x", self.zero),
            Number("least", self.least),
            Table("multiplier", Constant(np.array(self.multipliers, np.int32)), I32),
            Number("shift", self.shift, "uint32_t"),
            Number("offset", offset, "int64_t"),
            Number("lo", self.lo),
            Number("hi", self.hi),
        )
        formula = f"y = clamp((sum(x - {self.zero}) * m[count] + {offset}) >> {self.shift})"
        return KernelCall(self.stem, arguments, formula=formula)

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """A load for each element of each window."""
        size = outputs[0].type.size
        return Work(loads=len(inputs) * size * self.window.taps, stores=size)


@dataclass(frozen=True, slots=True)
class OnnxruntimeAverage(IntegerOp):
    """QLinearAveragePool: `float32.qlinear_average` of each window.

    In C an integer sum decides unless it lies near a tie, where the float operations are carried
    out on integers. With K elements in a window, M the largest |x − zx| and u = 2^-24, the float
    result before rounding is off the exact mean, in steps of the result, by less than
    ``(K + 4)·u·M·sx/sy + u·|zy|``: a rounding per product, K − 1 per sum, three after it, each
    relative to a magnitude of at most M·sx/sy.
    """

    stem: ClassVar[str] = "average"

    window: Window
    x: FixedType
    edge: Edge
    result: FixedType
    lo: int
    hi: int

    def clamped(self, lo: int, hi: int) -> OnnxruntimeAverage:
        """The same op with its result clamped further."""
        both = Interval(self.lo, self.hi).clamp(lo, hi)
        return replace(self, lo=both.lo, hi=both.hi)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The result's type."""
        assert inputs[0].elem == self.x, f"{inputs[0].elem} for {self.x}"
        return (TensorType(pooled(self.window, inputs[0].shape), self.result),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """The clamp."""
        return (Interval(self.lo, self.hi),)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        patches = self.window.patches(inputs[0], self.x.zero_point)
        windows = patches.reshape(*pooled(self.window, inputs[0].shape), self.window.taps)
        counts = counts_of(self.window, self.edge, inputs[0].shape[1:-1])[None, ..., None]
        x, y = self.x, self.result
        kinds = float(x.scale), x.zero_point, float(y.scale), y.zero_point
        return (float32.qlinear_average(windows, counts, *kinds, self.lo, self.hi),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """QLinearAveragePool, channel-first."""
        (x,) = inputs
        rank = len(x.shape)
        first = w.transpose(x, (0, rank - 1, *range(1, rank - 1)))
        shape = pooled(self.window, x.shape)
        parameters = [
            np.array(value, kind)
            for t in (self.x, self.result)
            for value, kind in ((float(t.scale), np.float32), (t.zero_point, t.storage.dtype))
        ]
        y = w.quantized(
            "QLinearAveragePool",
            [(first, self.x.storage), *parameters],
            (shape[0], shape[-1], *shape[1:-1]),
            self.result.storage,
            kernel_shape=self.window.kernel,
            strides=self.window.strides,
            pads=(*self.window.before, *self.window.after),
            count_include_pad=int(self.edge is not None),
        )
        last = w.transpose(y, (0, *range(2, rank), 1))
        return (w.clamp(last, self.lo, self.hi),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Loops over positions and channels."""
        x, y = inputs[0], outputs[0]
        counts = counts_of(self.window, self.edge, x.shape[1:-1])
        least = int(counts.min())
        divisors = np.arange(least, int(counts.max()) + 1)
        codes = np.arange(x.interval.lo, x.interval.hi + 1)
        real = float32.dequantize_linear(codes, float(self.x.scale), self.x.zero_point)
        multipliers, shift, window = self._near(x, divisors)
        arguments = (
            *_geometry(self.window, x, y),
            *_counted(self.window, self.edge, x.shape[1:-1]),
            Number("zero_x", self.x.zero_point),
            Number("least", least),
            Table("multiplier", Constant(multipliers.astype(np.int32)), I32),
            Number("shift", shift, "uint32_t"),
            Number("window", window, "uint32_t"),
            Table("real", Constant(_bits(real)), _BITS),
            Number("real_lo", x.interval.lo),
            Table("divisor", Constant(_bits(divisors)), _BITS),
            Number("scale", int(_bits(float(self.result.scale))), "uint32_t"),
            Number("zero", int(_bits(self.result.zero_point)), "uint32_t"),
            Number("zero_y", self.result.zero_point),
            Number("lo", self.lo),
            Number("hi", self.hi),
        )
        traits = (("form", "float"), ("softfloat", "softfloat"))
        return KernelCall(self.stem, arguments, traits, formula="y = QLinearAveragePool(x)")

    def _near(self, x: Value, divisors: IntArray) -> tuple[IntArray, int, int]:
        """Multipliers by count, their shift, and the window around ties left to floats."""
        ratio = float(self.x.scale) / float(self.result.scale)
        largest = max(
            abs(x.interval.lo - self.x.zero_point), abs(x.interval.hi - self.x.zero_point)
        )
        shift = min(30 - math.frexp(ratio / int(divisors[0]))[1], 53)
        multipliers = np.rint(ratio / divisors * 2.0**shift).astype(np.int64)
        taps = self.window.taps
        error = ((taps + 4) * largest * ratio + abs(self.result.zero_point)) * _UNIT
        error += taps * largest * 2.0**-shift
        # The last bit covers what a float64 ratio rounds off.
        window = max(0, math.floor(-math.log2(error + 2.0**-30)) - 1)
        return multipliers, shift, window

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """A load for each element of each window."""
        size = outputs[0].type.size
        return Work(loads=len(inputs) * size * self.window.taps, stores=size)


def _bits(real: object) -> np.ndarray[tuple[int, ...], np.dtype[np.uint32]]:
    """The bit patterns of float32 numbers."""
    return np.asarray(real, np.float32).view(np.uint32)
