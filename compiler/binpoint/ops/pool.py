"""Pooling over one or two spatial axes, channel-last: MaxPool, AveragePool and their global forms.

A maximum skips padding and moves codes. An average is an exact sum and one rounding:

``DYADIC``       y = clamp((Σ (x − zx) · m[count] + 2^(s−1) >> s) + zy), one multiplier a count.
``ONNXRUNTIME``  a window equal to the image is QLinearGlobalAveragePool, `float32.requantize` of
                 the exact sum; every other window is QLinearAveragePool, whose sum is sequential
                 float32 (`float32.qlinear_average`) and which divides by the whole window where
                 padding counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from binpoint.errors import NoIntegerForm
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import FloatArray, FloatOp, Semantics, Site
from binpoint.numeric.fixed import FloatType, TensorType
from binpoint.numeric.requant import approximate
from binpoint.ops.blocks import Block, IntExtreme
from binpoint.ops.pooling import (
    Edge,
    IntAverage,
    IntMaxPool,
    OnnxruntimeAverage,
    counts_of,
    pooled,
    tap_axes,
)
from binpoint.ops.reduce import sum_of
from binpoint.ops.shape import finish_moved, reshape_value, to_channel_first, to_channel_last
from binpoint.ops.window import Window

_ROOM = 60
_MOST_AXES = 4
_FARTHEST = 2.0**20
_FINEST = 2.0**-100


@dataclass(frozen=True, slots=True)
class MaxPool(FloatOp):
    """Maximum over a window of ``[N, *spatial, C]``; padding never wins."""

    onnx: ClassVar[tuple[str, ...]] = ("MaxPool", "GlobalMaxPool")
    keeps_type: ClassVar[bool] = True

    window: Window

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """Import channel-last; the result is brought back to channel-first."""
        if len(node.outputs) > 1 and node.outputs[1]:
            node.refuse("its second result, the places of maxima", hint="cut the model before it")
        x, window = _read(node, build)
        _refuse_empty(node, window, None, x)
        return (_written(node, build, build.one(cls(window), x)),)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """``[N, *outputs, C]``."""
        return (_shape(self.window, inputs[0]),)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """Exact."""
        patches = self.window.patches(inputs[0], -np.inf)
        return (patches.max(axis=tap_axes(self.window)),)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """An exact maximum."""
        x = build.integer(site.inputs[0])
        if _whole(self.window, x.shape):
            y = build.one(IntExtreme(_spatial(x.shape), largest=True), x)
        else:
            y = build.one(IntMaxPool(self.window), x)
        return (finish_moved(site, build, y),)


@dataclass(frozen=True, slots=True)
class AveragePool(FloatOp):
    """Mean over a window of ``[N, *spatial, C]``.

    `edge` is the padding after each axis that counts as elements, all padding before counting too;
    None: only elements of the operand count.
    """

    onnx: ClassVar[tuple[str, ...]] = (
        "AveragePool",
        "GlobalAveragePool",
        "com.microsoft.QLinearAveragePool",
        "com.microsoft.QLinearGlobalAveragePool",
    )

    window: Window
    edge: Edge = None

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """Import channel-last; padding that `ceil_mode` adds never counts."""
        x, window = _read(node, build)
        edge = None
        if node.int("count_include_pad", 0) and window.padded:
            edge = window.after
            if node.string("auto_pad", "NOTSET") == "NOTSET":
                rank = len(window.kernel)
                edge = node.ints("pads", [0] * (2 * rank))[rank:]
        op = cls(window, edge)
        _refuse_empty(node, window, edge, x)
        return (_written(node, build, build.one(op, x)),)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """``[N, *outputs, C]``."""
        return (_shape(self.window, inputs[0]),)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """Summed in float64."""
        total = self.window.patches(inputs[0], 0).sum(axis=tap_axes(self.window), dtype=np.float64)
        counts = counts_of(self.window, self.edge, inputs[0].shape[1:-1])
        return ((total / counts[None, ..., None]).astype(inputs[0].dtype),)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """Exact sums, then one rounding; or the sequential float32 sum carried out on integers."""
        x = build.integer(site.inputs[0])
        if _whole(self.window, x.shape):
            return (sum_of(site, build, x, _spatial(x.shape), mean=True),)
        if site.result.axis is not None:
            raise NoIntegerForm("a result with a scale per channel", at=site.name)
        if site.semantics is Semantics.ONNXRUNTIME and site.result.storage.width <= 8:
            return (build.one(self._onnxruntime(site, x), x),)
        return (build.one(self._dyadic(site, x), x),)

    def _dyadic(self, site: Site, x: Value) -> IntAverage:
        """A multiplier for each count between the smallest and the largest, all of one shift."""
        target = site.result
        counts = counts_of(self.window, self.edge, x.shape[1:-1])
        least, most = int(counts.min()), int(counts.max())
        ratio = x.elem.scale.as_fraction() / target.scale.as_fraction()
        largest = max(abs(x.interval.lo), abs(x.interval.hi)) + abs(x.elem.zero_point)
        room = min(site.limits.multiplier_bits, _ROOM - (largest * self.window.taps).bit_length())
        farthest = _ROOM - (abs(target.zero_point) + 1).bit_length()
        found = approximate(ratio / least, room - 1, farthest - 1)
        # A power of two needs one bit, the shares of other counts need all there are.
        spare = room - 1 - found.multiplier.bit_length()
        shift = min(farthest, found.shift + 1 + spare)
        multipliers = tuple(round(ratio / n * 2**shift) for n in range(least, most + 1))
        zero, storage = x.elem.zero_point, target.storage
        constants = self.edge, least, multipliers, shift, zero, target, storage.min, storage.max
        return IntAverage(self.window, *constants)

    def _onnxruntime(self, site: Site, x: Value) -> OnnxruntimeAverage:
        target = site.result
        if target.storage != x.elem.storage or max(self.window.dilations) > 1:
            raise NoIntegerForm(
                "an average that onnxruntime adds in float32, in an order of its own",
                at=site.name,
                have=f"{x.elem} to {target}, dilations {list(self.window.dilations)}",
                want="one integer type for operand and result, and no dilation",
                hint="quantize both with the same integer type",
            )
        ratio = float(x.elem.scale) / float(target.scale)
        if ratio > _FARTHEST or float(x.elem.scale) < _FINEST:
            raise NoIntegerForm(
                "an average between scales too far apart",
                at=site.name,
                have=f"{x.elem} to {target}",
                hint="a quantizer's scale is wrong",
            )
        edge = None if self.edge is None else self.window.after
        storage = target.storage
        return OnnxruntimeAverage(self.window, x.elem, edge, target, storage.min, storage.max)


def _read(node: OnnxNode, build: GraphBuilder) -> tuple[Value, Window]:
    """The operand, channel-last, and the window; that of a global pool is the whole image."""
    x = node.operand(0)
    if len(x.shape) < 3:
        node.refuse(f"input of shape {list(x.shape)}", want="at least one spatial axis")
    last = bool(node.int("channels_last", 0))
    if "Global" not in node.op:
        spatial = x.shape[1:-1] if last else x.shape[2:]
        window = Window.from_onnx(node, node.ints("kernel_shape"), spatial)
        return (x if last else to_channel_last(build, x)), window
    x = x if last else to_channel_last(build, x)
    if len(x.shape) > _MOST_AXES:
        x = reshape_value(build, x, (x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1]))
    rank = len(x.shape) - 2
    ones, none = (1,) * rank, (0,) * rank
    return x, Window(x.shape[1:-1], ones, none, none, ones)


def _written(node: OnnxNode, build: GraphBuilder, y: Value) -> Value:
    """The result in the layout and rank of the node's operand."""
    rank = len(node.operand(0).shape)
    if len(y.shape) < rank:
        y = reshape_value(build, y, (y.shape[0], *(1,) * (rank - 2), y.shape[-1]))
    return y if node.int("channels_last", 0) else to_channel_first(build, y)


def _refuse_empty(node: OnnxNode, window: Window, edge: Edge, x: Value) -> None:
    if counts_of(window, edge, x.shape[1:-1]).min() < 1:
        node.refuse("a window lies on padding alone", have=str(window))


def _shape(window: Window, x: Value) -> TensorType:
    return TensorType(pooled(window, x.shape), FloatType())


def _whole(window: Window, shape: tuple[int, ...]) -> bool:
    """Whether the window is the image."""
    return window.kernel == shape[1:-1] and not window.padded and set(window.dilations) == {1}


def _spatial(shape: tuple[int, ...]) -> Block:
    return Block.of(shape, range(1, len(shape) - 1))
