"""Convolution, one and two spatial axes, channel-last: Conv, QLinearConv, ConvInteger.

    acc[n, o, c] = bias[c] + Σ_taps,i (x[n, o·stride + tap·dilation − before, i] − zx) · w[c, tap,
    i]

in exact 32-bit integers, padding contributing nothing; then one Requantize per channel. A kernel of
one tap is an `IntDense`; groups of one channel are an `IntDepthwise`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.kernel import Buffer, KernelCall, Number, Work
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import FloatArray, FloatOp, IntArray, IntegerOp, Role, Site
from binpoint.numeric.fixed import FixedType, FloatType, TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.dense import IntDense
from binpoint.ops.linear import (
    Weights,
    channel_reach,
    finish,
    imported_bias,
    imported_kernel,
    read_weights,
)
from binpoint.ops.requantize import Ranges
from binpoint.ops.shape import to_channel_first, to_channel_last
from binpoint.ops.window import Window


def correlate(patches: NDArray[Any], weights: NDArray[Any], groups: int) -> NDArray[Any]:
    """``[N, *out, C, *kernel]`` with ``[O, *kernel, C/groups]`` to ``[N, *out, O]``."""
    rank = (patches.ndim - 2) // 2
    outputs, channels = patches.shape[: rank + 1], patches.shape[rank + 1]
    kernel = patches.shape[rank + 2 :]
    count = weights.shape[0]
    if channels == groups:
        return _each_channel(patches, weights[..., 0], kernel)
    # Channels innermost, so that copying the windows reads memory in order.
    windows = np.moveaxis(patches, rank + 1, -1).reshape(*outputs, -1, groups, channels // groups)
    columns = np.moveaxis(windows, -2, 0).reshape(
        groups, -1, windows.shape[-3] * channels // groups
    )
    rows = weights.reshape(groups, count // groups, -1)
    result = np.moveaxis((columns @ np.swapaxes(rows, 1, 2)).reshape(groups, *outputs, -1), 0, -2)
    return result.reshape(*outputs, count)


def _each_channel(
    patches: NDArray[Any], weights: NDArray[Any], kernel: tuple[int, ...]
) -> NDArray[Any]:
    """The same with one input channel a group, tap by tap: ``[O, *kernel]`` weights."""
    repeat = weights.shape[0] // patches.shape[-len(kernel) - 1]
    total = scratch = None
    for tap in np.ndindex(*kernel):
        values = (
            np.repeat(patches[(..., *tap)], repeat, axis=-1) if repeat > 1 else patches[(..., *tap)]
        )
        scratch = np.multiply(values, weights[(slice(None), *tap)], out=scratch)
        total = scratch.copy() if total is None else np.add(total, scratch, out=total)
    assert total is not None
    return total


@dataclass(frozen=True, slots=True)
class Conv(FloatOp):
    """Convolution of ``[N, *spatial, C]`` with ``[O, *kernel.

    C/groups]`` and an optional bias ``[O]``.
    """

    onnx: ClassVar[tuple[str, ...]] = ("Conv", "QLinearConv", "ConvInteger")

    window: Window
    groups: int = 1

    def roles(self, count: int) -> tuple[Role, ...]:
        """Data, weights, bias."""
        return (Role.ACTIVATION, Role.WEIGHT, Role.BIAS)[:count]

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """Import with its operands channel-last; the result is brought back to channel-first."""
        x, w, kernel = imported_kernel(node)
        groups = node.int("group", 1)
        if x.shape[1] != w.shape[1] * groups or w.shape[0] % groups:
            node.refuse(
                f"{x.shape[1]} channels in {groups} groups do not fit weights {list(w.shape)}"
            )
        window = Window.from_onnx(node, kernel, x.shape[2:])
        operands = [to_channel_last(build, x), to_channel_last(build, w)]
        if node.has(2):
            operands.append(imported_bias(node, w.shape[0]))
        return (to_channel_first(build, build.one(cls(window, groups), *operands)),)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """``[N, *outputs, O]``."""
        x, w = inputs[0].shape, inputs[1].shape
        return (TensorType((x[0], *self.window.outputs(x[1:-1]), w[0]), FloatType()),)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """Float convolution, zero padding."""
        y = correlate(self.window.patches(inputs[0], 0), inputs[1], self.groups)
        return (y + inputs[2] if len(inputs) > 2 else y,)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """Exact sums, then one rounding."""
        x = site.inputs[0]
        weights = read_weights(site, bias=2)
        depthwise = weights.codes.shape[-1] == 1 and self.groups == x.shape[-1] > 1
        single = self.window.taps == 1 and self.groups == 1
        if single and not self.window.padded and set(self.window.strides) == {1}:
            return (self._dense(site, build, weights),)
        reach = channel_reach(weights, x, padded=self.window.padded)
        zero = x.elem.zero_point
        if not self.window.padded:
            weights, zero = weights.folded(zero), 0
        kind = IntDepthwise if depthwise else IntConv
        codes = np.moveaxis(weights.codes[..., 0], 0, -1) if depthwise else weights.codes
        op = kind(self.window, self.groups, zero, weights.scales(x.elem, len(x.shape)))
        acc = build.one(op, x, weights.constant(build, codes), weights.bias_constant(build))
        return (finish(site, build, acc, weights, reach),)

    def _dense(self, site: Site, build: GraphBuilder, weights: Weights) -> Value:
        """One tap: a matrix product over positions."""
        x = site.inputs[0]
        flat = replace(weights, codes=weights.codes.reshape(weights.codes.shape[0], -1))
        reach = channel_reach(flat, x, padded=False)
        flat = flat.folded(x.elem.zero_point)
        op = IntDense(flat.scales(x.elem, len(x.shape)))
        acc = build.one(op, x, flat.constant(build, flat.codes), flat.bias_constant(build))
        return finish(site, build, acc, flat, reach)


@dataclass(frozen=True, slots=True)
class IntConv(IntegerOp):
    """acc = bias + Σ (x − zero)·w over the window.

    Weights ``[O, *kernel, C/groups]``, bias ``[O]`` int32.
    """

    stem: ClassVar[str] = "conv"
    accumulates: ClassVar[bool] = True

    window: Window
    groups: int
    zero: int
    result: FixedType
    notes: tuple[str, ...] = ()

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """``[N, *outputs, O]`` of the accumulator's type."""
        x, w, _ = inputs
        shape = (x.shape[0], *self.window.outputs(x.shape[1:-1]), self._channels(w))
        return (TensorType(shape, self.result),)

    def _channels(self, w: Value) -> int:
        return w.shape[0]

    def rows(self, w: Value) -> IntArray:
        """Weights as ``[O, taps·inputs]``."""
        assert w.constant is not None
        return w.constant.array.reshape(w.shape[0], -1).astype(np.int64)

    def unrowed(self, rows: IntArray, shape: Sequence[int]) -> IntArray:
        """The weights of this shape that have these `rows`."""
        return rows.reshape(shape)

    def reach(self, *inputs: Value) -> Ranges:
        """The exact range of each channel's sums; a padded tap may also contribute zero."""
        x, w, bias = inputs
        assert bias.constant is not None
        weights = Weights(self.rows(w), bias.constant.array.astype(np.int64), w.elem)
        return channel_reach(weights, x, padded=self.window.padded, zero=self.zero)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """From the actual weights."""
        reach = self.reach(*inputs)
        return (Interval(min(lo for lo, _ in reach), max(hi for _, hi in reach)),)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition; products of float64 matrices are exact below 2^53."""
        x, w, bias = inputs
        patches = self.window.patches((x - self.zero).astype(np.float64), 0)
        return (correlate(patches, w.astype(np.float64), self.groups).astype(np.int64) + bias,)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Taps side by side, then one matrix product a group."""
        x, weights, bias = inputs
        taps = self.window.taps_onnx(w, w.sub(x, w.const(self.zero)), 0)
        flat = [w.reshape(t, (int(np.prod(t.shape[:-1])), t.shape[-1])) for t in taps]
        size, count = weights.shape[-1], weights.shape[0] // self.groups
        matrix = w.transpose(
            w.reshape(weights, (weights.shape[0], self.window.taps * size)), (1, 0)
        )
        reach = x.range - Interval(self.zero, self.zero)
        bound = (reach * weights.range * (self.window.taps * size)).union(Interval(0, 0))
        parts: list[Tensor] = []
        for group in range(self.groups):
            rows = flat[0].shape[0]
            columns = [
                w.strided(t, (0, group * size), (rows, (group + 1) * size), (1, 1)) for t in flat
            ]
            first = group * count
            block = w.strided(matrix, (0, first), (matrix.shape[0], first + count), (1, 1))
            parts.append(
                w.matmul(w.concat(columns, 1) if len(columns) > 1 else columns[0], block, bound)
            )
        whole = w.concat(parts, 1) if len(parts) > 1 else parts[0]
        shape = (x.shape[0], *self.window.outputs(x.shape[1:-1]), weights.shape[0])
        return (w.reshape(w.add(whole, bias), shape),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Loops over positions and output channels."""
        x, w, bias = inputs
        (y,) = outputs
        window, size = self.window.planar(x.shape[1:-1])
        _, out = self.window.planar(y.shape[1:-1])
        numbers = {
            "batches": x.shape[0],
            "in_h": size[0], "in_w": size[1], "in_c": x.shape[-1],
            "out_h": out[0], "out_w": out[1], "out_c": y.shape[-1],
            "kernel_h": window.kernel[0], "kernel_w": window.kernel[1],
            "stride_h": window.strides[0], "stride_w": window.strides[1],
            "dilation_h": window.dilations[0], "dilation_w": window.dilations[1],
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
        """Multiply-accumulates of all positions, padding included."""
        size = outputs[0].type.size
        macs = size * self.window.taps * (inputs[0].shape[-1] // self.groups)
        return Work(macs=macs, stores=size, notes=self.notes)


@dataclass(frozen=True, slots=True)
class IntDepthwise(IntConv):
    """The same with one input channel a group; weights ``[*kernel, O]``."""

    stem: ClassVar[str] = "depthwise"

    def _channels(self, w: Value) -> int:
        return w.shape[-1]

    def rows(self, w: Value) -> IntArray:
        """Weights as ``[O, taps]``."""
        assert w.constant is not None
        return np.moveaxis(w.constant.array, -1, 0).reshape(w.shape[-1], -1).astype(np.int64)

    def unrowed(self, rows: IntArray, shape: Sequence[int]) -> IntArray:
        """The weights of this shape that have these `rows`."""
        return np.moveaxis(rows.reshape(shape[-1], *shape[:-1]), 0, -1)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        x, w, bias = inputs
        return IntConv.reference(self, x, np.moveaxis(w, -1, 0)[..., None], bias)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """One multiply-add a tap."""
        x, weights, bias = inputs
        taps = self.window.taps_onnx(w, w.sub(x, w.const(self.zero)), 0)
        repeat = weights.shape[-1] // x.shape[-1]
        channels = np.repeat(np.arange(x.shape[-1]), repeat)
        rows = w.reshape(weights, (self.window.taps, weights.shape[-1]))
        acc = bias
        for index, tap in enumerate(taps):
            wide = tap if repeat == 1 else w.take(tap, channels, len(tap.shape) - 1)
            row = w.take(rows, np.array(index), 0)
            acc = w.add(acc, w.mul(wide, row))
        return (acc,)
