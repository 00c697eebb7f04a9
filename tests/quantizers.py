"""Random QDQ models: a random float model with quantizers after every op.

As exporters place them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.strategies import Weave, finished

Array = NDArray[Any]

_KEEPS = frozenset(
    [
        "MaxPool",
        "GlobalMaxPool",
        "ReduceMax",
        "ReduceMin",
        "Reshape",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Slice",
        "Split",
        "Gather",
        "Tile",
        "Expand",
        "DepthToSpace",
        "SpaceToDepth",
        "Concat",
        "Resize",
        "Identity",
        "Dropout",
        "Relu",
        "Clip",
    ]
)
"""Operators whose result mostly gets its operand's parameters."""

_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_PAIRS = frozenset({"Add", "Sub", "Mul", "Min", "Max", "Concat"})
_BEFORE_RELU = frozenset({"Conv", "Gemm", "MatMul", "Add", "BatchNormalization"})


@dataclass(frozen=True, slots=True)
class Parameters:
    """Scale and zero point of an 8-bit tensor."""

    scale: np.float32
    zero: int
    dtype: np.dtype[Any]

    def quantize(self, array: Array) -> Array:
        """QuantizeLinear."""
        limits = np.iinfo(self.dtype)
        codes = np.rint(array.astype(np.float32) / self.scale) + self.zero
        return np.clip(codes, limits.min, limits.max).astype(self.dtype)


@dataclass(slots=True)
class Quantizer:
    """Writes the QDQ form of a model: `tensors` maps its names to those of dequantized values."""

    weave: Weave
    random: Random
    dtype: np.dtype[Any]
    mixed: bool
    """Whether tensors may have the other 8-bit type."""
    nodes: list[onnx.NodeProto] = field(default_factory=list[onnx.NodeProto])
    constants: dict[str, Array] = field(default_factory=dict[str, Array])
    tensors: dict[str, str] = field(default_factory=dict[str, str])
    parameters: dict[str, Parameters] = field(default_factory=dict[str, Parameters])

    def constant(self, name: str, array: Array) -> str:
        """An initializer."""
        self.constants[name] = array
        return name

    def chosen(self, name: str) -> Parameters:
        """Parameters from the values of a tensor.

        The range is a little off, so that some saturate.
        """
        array = self.weave.values[name]
        dtype = self.dtype
        if self.mixed and self.random.random() < 0.3:
            dtype = np.dtype(np.uint8 if dtype == np.int8 else np.int8)
        low, high = min(0.0, float(array.min())), max(0.0, float(array.max()))
        spread = max(high - low, 0.01) * self.random.choice((0.7, 1.0, 1.0, 1.3))
        limits = np.iinfo(dtype)
        if self.random.random() < 0.2:
            bound = max(-low, high, 0.01)
            return Parameters(np.float32(bound / 127), 0 if dtype == np.int8 else 128, dtype)
        scale = np.float32(spread / 255)
        zero = int(np.clip(round(limits.min - low / float(scale)), limits.min, limits.max))
        return Parameters(scale, zero, dtype)

    def requantized(self, name: str, parameters: Parameters, given: str | None = None) -> None:
        """QuantizeLinear and DequantizeLinear after a tensor."""
        operands = self._operands(f"{name}_p", parameters)
        codes, real = f"{name}_q", f"{name}_dq"
        self.nodes.append(
            helper.make_node("QuantizeLinear", [given or name, *operands], [codes], f"{name}_Q")
        )
        self.nodes.append(
            helper.make_node("DequantizeLinear", [codes, *operands], [real], f"{name}_DQ")
        )
        self.tensors[name], self.parameters[name] = real, parameters

    def _operands(self, name: str, p: Parameters) -> list[str]:
        scale = self.constant(f"{name}_scale", np.array(p.scale, np.float32))
        return [scale, self.constant(f"{name}_zero", np.array(p.zero, p.dtype))]

    def stored(self, name: str, p: Parameters) -> str:
        """A constant as codes and DequantizeLinear."""
        codes = self.constant(f"{name}_codes", p.quantize(self.weave.constants[name]))
        real = f"{name}_dq{len(self.nodes)}"
        operands = [codes, *self._operands(f"{name}_p", p)]
        self.nodes.append(helper.make_node("DequantizeLinear", operands, [real], f"{real}_DQ"))
        return real

    def weights(self, node: onnx.NodeProto, name: str) -> tuple[str, NDArray[np.float32]]:
        """Symmetric weights, per channel or per tensor; returns their scales too."""
        array = self.weave.constants[name]
        axis = _channel_axis(node)
        many = self.random.random() < 0.6 and array.shape[axis] > 1
        rest = tuple(i for i in range(array.ndim) if i != axis) if many else None
        top = np.maximum(np.abs(array).max(axis=rest), 1e-3)
        scales: Array = (top / 127).astype(np.float32)
        spread = (
            scales.reshape([-1 if i == axis else 1 for i in range(array.ndim)]) if many else scales
        )
        codes = np.clip(np.rint(array / spread), -127, 127).astype(np.int8)
        names = [self.constant(f"{name}_codes", codes), self.constant(f"{name}_scale", scales)]
        names.append(self.constant(f"{name}_zero", np.zeros(scales.shape, np.int8)))
        real = f"{name}_dq{len(self.nodes)}"
        self._dequantized(names, real, axis if many else None)
        return real, np.atleast_1d(scales)

    def bias(self, name: str, x: Parameters, scales: NDArray[np.float32]) -> str:
        """int32 codes on the scale of the products."""
        units = (x.scale * scales).astype(np.float32)
        array = self.weave.constants[name]
        # Groups of a transposed convolution share the scales of their channels.
        units = np.tile(units, array.size // units.size) if units.size > 1 else units.reshape(())
        codes = np.rint(array / units).astype(np.int32)
        zero = np.zeros(units.shape, np.int32)
        arrays = {f"{name}_codes": codes, f"{name}_scale": units, f"{name}_zero": zero}
        names = [self.constant(n, a) for n, a in arrays.items()]
        real = f"{name}_dq{len(self.nodes)}"
        self._dequantized(names, real, 0 if units.ndim else None)
        return real

    def _dequantized(self, names: list[str], real: str, axis: int | None) -> None:
        node = helper.make_node("DequantizeLinear", names, [real], f"{real}_DQ")
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self.nodes.append(node)

    def operands(self, node: onnx.NodeProto) -> list[str]:
        """The operands of a node in the QDQ model."""
        names: list[str] = []
        scales: NDArray[np.float32] = np.ones(1, np.float32)
        for index, name in enumerate(node.input):
            if name not in self.weave.constants:
                names.append(self.tensors.get(name, name))
                continue
            first = self.parameters.get(node.input[0])
            if node.op_type in _WEIGHTED and index == 1:
                real, scales = self.weights(node, name)
                names.append(real)
            elif node.op_type in _WEIGHTED and index == 2 and first is not None:
                names.append(self.bias(name, first, scales))
            elif node.op_type in _PAIRS:
                names.append(self.stored(name, self.chosen(name)))
            else:
                names.append(self.constant(name, self.weave.constants[name]))
        return names


def _channel_axis(node: onnx.NodeProto) -> int:
    """The axis of output channels."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    match node.op_type:
        case "Conv":
            return 0
        case "Gemm":
            return 0 if attributes.get("transB") else 1
        case _:
            return 1


def quantized_model(w: Weave, random: Random) -> onnx.ModelProto:
    """The QDQ form of a float model, with random scales and zero points."""
    q = Quantizer(w, random, np.dtype(random.choice((np.int8, np.uint8))), random.random() < 0.15)
    outputs = w.outputs()
    readers = Counter(name for node in w.nodes for name in node.input)
    follower = {name: node for node in w.nodes for name in node.input}
    for name in w.inputs:
        q.requantized(name, q.chosen(name))
    for node in w.nodes:
        operands = q.operands(node)
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        del copy.input[:]
        copy.input.extend(operands)
        q.nodes.append(copy)
        first = q.parameters.get(node.input[0])
        for name in node.output:
            after = follower[name].op_type if readers[name] == 1 and name not in outputs else ""
            if name in w.final or (
                after in ("Relu", "Clip") and node.op_type in _BEFORE_RELU and random.random() < 0.5
            ):
                continue
            # onnxruntime joins two quantizers in a row of different scales, so there are none.
            same = np.array_equal(w.values[name], w.values[node.input[0]])
            keeps = same or (node.op_type in _KEEPS and random.random() < 0.8)
            q.requantized(name, first if keeps and first is not None else q.chosen(name))
    return _assembled(q, outputs)


def _assembled(q: Quantizer, outputs: list[str]) -> onnx.ModelProto:
    w = q.weave
    infos = [_info(name, w.values[name]) for name in w.inputs]
    results = [_info(q.tensors.get(name, name), w.values[name]) for name in outputs]
    used = {name for node in q.nodes for name in node.input}
    initializers = [numpy_helper.from_array(a, n) for n, a in q.constants.items() if n in used]
    return finished(helper.make_graph(q.nodes, "random_qdq", infos, results, initializers), w.opset)


def _info(name: str, array: Array) -> onnx.ValueInfoProto:
    code = TensorProto.FLOAT if array.dtype.kind == "f" else TensorProto.INT64
    return helper.make_tensor_value_info(name, code, array.shape)
