"""Networks as int8 QDQ files with random weights, for what no real model at hand shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod, sqrt
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]

_RANGE = 4.0
"""Of the values behind a rectifier, whose root mean square is near one."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A dequantized value: channels and map without the batch, scale and zero point."""

    name: str
    shape: tuple[int, ...]
    scale: float
    zero: int


@dataclass(slots=True)
class Builder:
    """Nodes are appended in the order of the calls; weights come from `rng` alone.

    Their codes use `bits` of the eight.
    """

    rng: np.random.Generator
    bits: int = 8
    nodes: list[onnx.NodeProto] = field(default_factory=list[onnx.NodeProto])
    arrays: dict[str, Array] = field(default_factory=dict[str, Array])
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list[onnx.ValueInfoProto])
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list[onnx.ValueInfoProto])

    def input(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Add an input of real values between -4 and 4."""
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, *shape]))
        return self._quantized(name, f"{name}_real", shape, (2 * _RANGE / 255, 0))

    def channels_first(self, x: Tensor) -> Tensor:
        """Add the transposition that files converted from TensorFlow begin with."""
        name, (height, width, channels) = f"{x.name}_first", x.shape
        self.nodes.append(helper.make_node("Transpose", [x.name], [name], name, perm=[0, 3, 1, 2]))
        return Tensor(name, (channels, height, width), x.scale, x.zero)

    def output(self, tensor: Tensor) -> None:
        """Make a value an output."""
        info = helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, [1, *tensor.shape])
        self.outputs.append(info)

    def conv(  # noqa: PLR0913 - all but three have defaults
        self,
        name: str,
        x: Tensor,
        channels: int,
        kernel: tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        dilation: int = 1,
        groups: int = 1,
        live: int | None = None,
    ) -> Tensor:
        """Add a convolution that keeps the map, divided by the stride, and a rectifier.

        Args:
            name: of the node.
            x: what it reads.
            channels: of the result.
            kernel: height and width.
            stride: of height and width, or along both axes; padding is behind the map first, as
                TensorFlow has it.
            dilation: along both axes.
            groups: of channels.
            live: how many channels have weights that are not zero, all by default.
        """
        strides = (stride, stride) if isinstance(stride, int) else stride
        size = [-(-n // s) for n, s in zip(x.shape[1:], strides, strict=True)]
        spans = zip(size, strides, kernel, x.shape[1:], strict=True)
        pads = [max(0, (n - 1) * s + (k - 1) * dilation + 1 - have) for n, s, k, have in spans]
        before = [pad // 2 for pad in pads]
        behind = [pad - b for pad, b in zip(pads, before, strict=True)]
        weights = self._weights(name, x, (channels, x.shape[0] // groups, *kernel), live)
        self.nodes += [
            helper.make_node(
                "Conv",
                [x.name, *weights],
                [f"{name}_sum"],
                name,
                strides=strides,
                dilations=[dilation] * 2,
                pads=[*before, *behind],
                group=groups,
            ),
            helper.make_node("Relu", [f"{name}_sum"], [f"{name}_relu"], f"{name}_rectify"),
        ]
        return self._quantized(f"{name}_relu", f"{name}_out", (channels, *size), _RECTIFIED)

    def dense(self, name: str, x: Tensor, channels: int) -> Tensor:
        """Add a fully connected layer."""
        weights = self._weights(name, x, (channels, prod(x.shape)), None)
        node = helper.make_node("Gemm", [x.name, *weights], [f"{name}_sum"], name, transB=1)
        self.nodes.append(node)
        return self._quantized(f"{name}_sum", f"{name}_out", (channels,), _SIGNED)

    def add(self, name: str, a: Tensor, b: Tensor) -> Tensor:
        """Add a sum of two values and a rectifier."""
        self.nodes += [
            helper.make_node("Add", [a.name, b.name], [f"{name}_sum"], name),
            helper.make_node("Relu", [f"{name}_sum"], [f"{name}_relu"], f"{name}_rectify"),
        ]
        return self._quantized(f"{name}_relu", f"{name}_out", a.shape, _RECTIFIED)

    def pool(self, name: str, x: Tensor) -> Tensor:
        """Add the mean of each channel, and drop the map's axes."""
        self.nodes.append(helper.make_node("GlobalAveragePool", [x.name], [f"{name}_mean"], name))
        kind = (x.scale, x.zero)
        mean = self._quantized(f"{name}_mean", f"{name}_out", (x.shape[0], 1, 1), kind)
        flat = f"{name}_flat"
        self.nodes.append(helper.make_node("Flatten", [mean.name], [flat], f"{name}_flatten"))
        return Tensor(flat, (x.shape[0],), *kind)

    def model(self) -> onnx.ModelProto:
        """The file."""
        constants = [numpy_helper.from_array(array, name) for name, array in self.arrays.items()]
        graph = helper.make_graph(self.nodes, "net", self.inputs, self.outputs, constants)
        opsets = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def _weights(
        self, name: str, x: Tensor, shape: Sequence[int], live: int | None
    ) -> tuple[str, str]:
        """Codes of weights by channel and of biases; a channel not live is never positive."""
        rows = shape[0]
        real = self.rng.normal(0, sqrt(2 / prod(shape[1:])), shape)
        bias = self.rng.normal(0, 0.3, rows)
        most = 2 ** (self.bits - 1) - 1
        scales = (np.abs(real).reshape(rows, -1).max(axis=1) / most).astype(np.float32)
        codes = np.rint(real / scales.reshape(-1, *[1] * (len(shape) - 1))).astype(np.int8)
        if live is not None:
            dead = np.sort(self.rng.permutation(rows)[live:])
            codes[dead], bias[dead] = 0, -np.abs(bias[dead])
        bias_scales = np.float32(x.scale) * scales
        self._constant(f"{name}_w", codes, scales)
        self._constant(f"{name}_b", np.rint(bias / bias_scales).astype(np.int32), bias_scales)
        return f"{name}_w", f"{name}_b"

    def _constant(self, name: str, codes: Array, scales: Array) -> None:
        """Add codes whose first axis has a scale each."""
        self.arrays |= {f"{name}_codes": codes, f"{name}_scales": scales}
        self.arrays[f"{name}_zeros"] = np.zeros(len(scales), codes.dtype)
        operands = [f"{name}_{part}" for part in ("codes", "scales", "zeros")]
        node = helper.make_node("DequantizeLinear", operands, [name], f"{name}_real", axis=0)
        self.nodes.append(node)

    def _quantized(
        self, source: str, result: str, shape: tuple[int, ...], kind: tuple[float, int]
    ) -> Tensor:
        """Quantize a value to int8 and back."""
        scale, zero = kind
        self.arrays[f"{result}_scale"] = np.array(scale, np.float32)
        self.arrays[f"{result}_zero"] = np.array(zero, np.int8)
        parameters, codes = [f"{result}_scale", f"{result}_zero"], f"{result}_codes"
        self.nodes += [
            helper.make_node("QuantizeLinear", [source, *parameters], [codes], f"{result}_q"),
            helper.make_node("DequantizeLinear", [codes, *parameters], [result], f"{result}_dq"),
        ]
        return Tensor(result, shape, scale, zero)


_RECTIFIED = (_RANGE / 255, -128)
_SIGNED = (2 * _RANGE / 255, 0)
