"""Transposed convolution, one and two spatial axes, channel-last.

    acc[o, c] = bias[c] + Σ_taps,i (x[(o + before − tap·dilation) / stride, i] − zx) · w[c, tap, i]

over the taps for which the division leaves no rest and the index lies on x; in exact 32-bit
integers, then one Requantize per channel. The same as a convolution of x with zeros inserted, with
the taps reversed, which is how the check graph computes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.kernel import Buffer, KernelCall, Number, Work
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import FloatArray, FloatOp, IntArray, IntegerOp, Role, Semantics, Site
from binpoint.numeric.fixed import FixedType, FloatType, TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.conv import IntConv
from binpoint.ops.linear import (
    Weights,
    channel_reach,
    finish,
    imported_bias,
    imported_kernel,
    read_weights,
)
from binpoint.ops.shape import to_channel_first, to_channel_last
from binpoint.ops.window import Window

_NOTE = "transposed convolution: onnxruntime sums in float32 and may differ by one in rare cases"


@dataclass(frozen=True, slots=True)
class Spread:
    """Where each element of ``[N, *spatial, C]`` goes: window, what is cut off, sizes after.

    `after` of the window is not used: `outputs` tells where the result ends.
    """

    window: Window
    outputs: tuple[int, ...]

    @classmethod
    def from_onnx(cls, node: OnnxNode, kernel: tuple[int, ...], spatial: tuple[int, ...]) -> Spread:
        """Read strides, dilations, pads, output_padding, output_shape and auto_pad."""
        rank = len(spatial)
        strides, dilations = node.ints("strides", [1] * rank), node.ints("dilations", [1] * rank)
        extra, pads = node.ints("output_padding", [0] * rank), node.ints("pads", [0] * (2 * rank))
        if {len(strides), len(dilations), len(extra), len(kernel)} != {rank} or len(
            pads
        ) != 2 * rank:
            node.refuse("kernel, strides, dilations and pads must have one entry per spatial axis")
        if min((*kernel, *strides, *dilations)) < 1 or min((*pads, *extra)) < 0:
            node.refuse("kernel, strides and dilations must be positive, pads not negative")
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        sizes = zip(spatial, strides, reach, extra, strict=True)
        whole = tuple((n - 1) * s + r + e for n, s, r, e in sizes)
        auto = node.string("auto_pad", "NOTSET")
        if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
            node.refuse(f"auto_pad `{auto}` is unknown")
        wanted = node.ints("output_shape")[-rank:]
        most = [w + s - 1 for w, s in zip(whole, strides, strict=True)]
        if any(o > m for o, m in zip(wanted, most, strict=False)):
            node.refuse(f"output_shape {list(wanted)}", want=f"at most {most}")
        if wanted or auto.startswith("SAME"):
            sizes = zip(spatial, strides, whole, strict=True)
            wanted = wanted or tuple(min(n * s, w) for n, s, w in sizes)
            cut = [max(0, w - o) for w, o in zip(whole, wanted, strict=True)]
            before = tuple(c // 2 if auto == "SAME_UPPER" else c - c // 2 for c in cut)
        else:
            before = pads[:rank] if auto == "NOTSET" else (0,) * rank
            after = pads[rank:] if auto == "NOTSET" else (0,) * rank
            wanted = tuple(w - b - a for w, b, a in zip(whole, before, after, strict=True))
        if len(wanted) != rank or min(wanted) < 1:
            node.refuse(f"a result of {list(wanted)}")
        return cls(Window(tuple(kernel), strides, before, (0,) * rank, dilations), wanted)

    @property
    def whole(self) -> tuple[int, ...]:
        """Where the result ends before it is cut in front."""
        return tuple(b + o for b, o in zip(self.window.before, self.outputs, strict=True))

    def scatter(self, x: NDArray[Any], weights: NDArray[Any], groups: int) -> NDArray[Any]:
        """``[N, *spatial, C]`` with ``[O, *kernel, C/groups]`` to ``[N, *outputs, O]``."""
        window = self.window
        spatial, rows = x.shape[1:-1], weights.reshape(groups, -1, *weights.shape[1:])
        columns = x.reshape(*x.shape[:-1], groups, -1)
        room = tuple(
            max(w, (n - 1) * s + r)
            for w, n, s, r in zip(self.whole, spatial, window.strides, window.reach, strict=True)
        )
        y = np.zeros((x.shape[0], *room, weights.shape[0]), x.dtype)
        for tap in np.ndindex(*window.kernel):
            part = np.einsum("...gi,goi->...go", columns, rows[(slice(None), slice(None), *tap)])
            starts = [t * d for t, d in zip(tap, window.dilations, strict=True)]
            places = [
                slice(b, b + (n - 1) * s + 1, s)
                for b, n, s in zip(starts, spatial, window.strides, strict=True)
            ]
            y[(slice(None), *places)] += part.reshape(*x.shape[:-1], -1)
        cut = [slice(b, w) for b, w in zip(window.before, self.whole, strict=True)]
        return y[(slice(None), *cut)]

    def as_convolution(self, spatial: tuple[int, ...]) -> tuple[Window, list[int], list[int]]:
        """A window over x with zeros inserted, and what to add around it (below zero: cut off)."""
        before: list[int] = []
        after: list[int] = []
        reach = self.window.reach
        sizes = zip(
            spatial, self.window.strides, reach, self.window.before, self.outputs, strict=True
        )
        for n, stride, extent, cut, count in sizes:
            before.append(extent - 1 - cut)
            after.append(count + extent - 1 - n * stride - before[-1])
        none = (0,) * len(spatial)
        window = Window(self.window.kernel, (1,) * len(spatial), none, none, self.window.dilations)
        return window, before, after


@dataclass(frozen=True, slots=True)
class ConvTranspose(FloatOp):
    """Of ``[N, *spatial, C]`` with ``[O, *kernel, C/groups]`` and an optional bias ``[O]``."""

    onnx: ClassVar[tuple[str, ...]] = ("ConvTranspose",)

    spread: Spread
    groups: int = 1

    def roles(self, count: int) -> tuple[Role, ...]:
        """Data, weights, bias."""
        return (Role.ACTIVATION, Role.WEIGHT, Role.BIAS)[:count]

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """Import channel-last; weights ``[C, O/groups, *kernel]`` get output channels first."""
        x, w, kernel = imported_kernel(node)
        groups = node.int("group", 1)
        if groups < 1 or x.shape[1] != w.shape[0] or x.shape[1] % groups:
            node.refuse(
                f"{x.shape[1]} channels in {groups} groups do not fit weights {list(w.shape)}"
            )
        spread = Spread.from_onnx(node, kernel, x.shape[2:])
        operands = [to_channel_last(build, x), _outputs_first(node, build, w, groups)]
        if node.has(2):
            operands.append(imported_bias(node, w.shape[1] * groups))
        return (to_channel_first(build, build.one(cls(spread, groups), *operands)),)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """``[N, *outputs, O]``."""
        shape = (inputs[0].shape[0], *self.spread.outputs, inputs[1].shape[0])
        return (TensorType(shape, FloatType()),)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """Every element of x spread over its window."""
        y = self.spread.scatter(inputs[0], inputs[1], self.groups)
        return (y + inputs[2] if len(inputs) > 2 else y,)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """Exact sums, then one rounding.

        onnxruntime has no quantized kernel for this op: it computes in float32 between
        DequantizeLinear and QuantizeLinear. In ONNXRUNTIME semantics the result is here defined as
        QLinearConv's rounding of the exact sum; the runtime's may differ by one where its float32
        sums come out on the other side of a tie.
        """
        x = site.inputs[0]
        weights = read_weights(site, bias=2)
        reach = channel_reach(weights, x, padded=True)
        kind = weights.scales(x.elem, len(x.shape))
        notes = (_NOTE,) if site.semantics is Semantics.ONNXRUNTIME else ()
        op = IntConvTranspose(self.spread, self.groups, x.elem.zero_point, kind, notes)
        codes, bias = weights.constant(build, weights.codes), weights.bias_constant(build)
        return (finish(site, build, build.one(op, x, codes, bias), weights, reach),)


def _outputs_first(node: OnnxNode, build: GraphBuilder, w: Value, groups: int) -> Value:
    """Weights ``[C, O/groups, *kernel]`` as ``[O, *kernel, C/groups]``, with their scales."""
    assert w.constant is not None
    kind = w.fixed
    if kind is not None and kind.axis is not None:
        if kind.axis != 1:
            node.refuse(
                "weights with a scale per input channel", want="per output channel (axis 1)"
            )
        zeros = kind.zero_points if len(kind.zero_points) == 1 else kind.zero_points * groups
        kind = FixedType(kind.storage, kind.scales * groups, zeros, 0)
    channels, outputs, *kernel = w.shape
    split = w.constant.array.reshape(groups, channels // groups, outputs, *kernel)
    moved = np.moveaxis(split, 1, -1).reshape(groups * outputs, *kernel, channels // groups)
    return build.constant(moved, fixed=kind, hint=w.name)


@dataclass(frozen=True, slots=True)
class IntConvTranspose(IntegerOp):
    """acc = bias + Σ (x − zero)·w over the taps that meet x; weights ``[O, *kernel, C/groups]``."""

    stem: ClassVar[str] = "conv_transpose"
    accumulates: ClassVar[bool] = True

    spread: Spread
    groups: int
    zero: int
    result: FixedType
    notes: tuple[str, ...] = ()

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """``[N, *outputs, O]`` of the accumulator's type."""
        shape = (inputs[0].shape[0], *self.spread.outputs, inputs[1].shape[0])
        return (TensorType(shape, self.result),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """From the actual weights; any tap may miss x."""
        x, w, bias = inputs
        assert w.constant is not None
        assert bias.constant is not None
        arrays = w.constant.array.astype(np.int64), bias.constant.array.astype(np.int64)
        reach = channel_reach(Weights(*arrays, w.elem), x, padded=True, zero=self.zero)
        return (Interval(min(lo for lo, _ in reach), max(hi for _, hi in reach)),)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        x, w, bias = inputs
        return (self.spread.scatter(x - self.zero, w, self.groups) + bias,)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Zeros between the elements, then a convolution with the taps reversed."""
        x, weights, bias = inputs
        spatial, channels = x.shape[1:-1], x.shape[-1]
        y = w.sub(x, w.const(self.zero))
        for axis, stride in enumerate(self.spread.window.strides, 1):
            split = (*y.shape[: axis + 1], 1, *y.shape[axis + 1 :])
            none = [0] * len(split)
            gaps = [stride - 1 if i == axis + 1 else 0 for i in range(len(split))]
            wide = w.pad(w.reshape(y, split), none, gaps, 0)
            y = w.reshape(wide, (*y.shape[:axis], y.shape[axis] * stride, *y.shape[axis + 1 :]))
        window, before, after = self.spread.as_convolution(spatial)
        y = w.pad(y, [0, *(max(0, b) for b in before), 0], [0, *(max(0, a) for a in after), 0], 0)
        starts = [0, *(max(0, -b) for b in before), 0]
        stops = [n - max(0, -a) for n, a in zip(y.shape, (0, *after, 0), strict=True)]
        y = w.strided(y, starts, stops, [1] * len(starts))
        for axis, size in enumerate(self.spread.window.kernel, 1):
            weights = w.take(weights, np.arange(size - 1, -1, -1, dtype=np.int64), axis)
        assert y.shape[-1] == channels
        return IntConv(window, self.groups, 0, self.result).to_onnx(w, y, weights, bias)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Loops over positions and output channels; taps that meet x lie `step` apart."""
        x, w, bias = inputs
        (y,) = outputs
        window, size = self.spread.window.planar(x.shape[1:-1])
        _, out = self.spread.window.planar(y.shape[1:-1])
        step = [s // math.gcd(s, d) for s, d in zip(window.strides, window.dilations, strict=True)]
        numbers = {
            "batches": x.shape[0], "in_h": size[0], "in_w": size[1], "in_c": x.shape[-1],
            "out_h": out[0], "out_w": out[1], "out_c": y.shape[-1],
            "kernel_h": window.kernel[0], "kernel_w": window.kernel[1],
            "stride_h": window.strides[0], "stride_w": window.strides[1],
            "dilation_h": window.dilations[0], "dilation_w": window.dilations[1],
            "step_h": step[0], "step_w": step[1],
            "pad_h": window.before[0], "pad_w": window.before[1],
            "groups": self.groups, "zero_x": self.zero,
        }  # fmt: skip
        arguments = (
            Buffer("x", x.name, x.elem.storage),
            Buffer("w", w.name, w.elem.storage),
            Buffer("bias", bias.name, bias.elem.storage),
            Buffer("y", y.name, y.elem.storage, written=True),
            *(Number(name, value) for name, value in numbers.items()),
        )
        return KernelCall(self.stem, arguments, formula=f"acc = bias + sum((x - {self.zero}) * w)")

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """Every element of x times every tap and output channel of its group."""
        x, w, _ = inputs
        taps = self.spread.window.taps * w.shape[0] // self.groups
        return Work(macs=x.type.size * taps, stores=outputs[0].type.size, notes=self.notes)
