"""Quantizers, and operators on stored integers: what they read and write gets a type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from binpoint.frontend.qcdq import quantize_linear
from binpoint.frontend.quantizers import QUANTIZED, Layout, check_channels, make_type, storage_of
from binpoint.frontend.tensors import REAL
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import Reader
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I32, FixedType, IntType
from binpoint.ops.refused import hint_for
from binpoint.ops.rescaled import Quantize


class Stored:
    """Reads nodes on stored integers into a graph.

    `types` are the integer types of inputs that the model itself takes as stored integers.
    """

    def __init__(
        self, graph: Graph, readers: Mapping[str, int], ops: Mapping[str, type[Reader]]
    ) -> None:
        """For one import: its graph, how often each ONNX tensor is read, ops by operator."""
        self.graph = graph
        self.readers = readers
        self.ops = ops
        self.types: dict[str, IntType] = {}

    def read(self, build: GraphBuilder, node: OnnxNode) -> tuple[tuple[Value, ...], bool] | None:
        """Results of a quantizer or an operator on codes, and whether they are codes; else None."""
        match node.op.removeprefix("com.microsoft."):
            case "QuantizeLinear":
                return (self._quantize(build, node),), True
            case "DequantizeLinear":
                return (self._dequantize(build, node),), False
            case "QLinearConcat":
                return (self._concat(build, node),), True
            case "MatMulInteger" | "ConvInteger":
                return (self._exact(build, node),), False
            case _ if node.op in QUANTIZED:
                return (self._quantized(build, node, QUANTIZED[node.op]),), True
            case _:
                return None

    def check_cast(self, node: OnnxNode, x: Value) -> None:
        """Refuse a Cast of codes to integers that cannot hold all of them."""
        to = node.int("to", 1)
        kind = x.fixed.storage if x.fixed is not None else self.types.get(x.name)
        if to in REAL or kind is None:
            return
        wanted = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(to))
        if not np.can_cast(kind.dtype, wanted):
            node.refuse(f"from {kind.dtype} to {wanted} would wrap")

    def _quantize(self, build: GraphBuilder, node: OnnxNode) -> Value:
        x = node.operand(0)
        scale, zero = node.array(1), node.optional_array(2)
        self._no_blocks(node)
        if zero is not None:
            dtype = zero.dtype
        else:
            code = node.int("output_dtype", 0) or onnx.TensorProto.UINT8
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(code))
        axis = self._axis(node, x)
        kind = make_type(storage_of(dtype, node), scale, zero, axis, node)
        check_channels(kind, x.shape, node)
        if x.constant is not None:
            codes = kind.quantize(x.constant.array) if x.fixed is None else None
            if codes is None:
                node.refuse("a quantized constant quantized again")
            return build.constant(
                codes.astype(kind.storage.dtype), fixed=kind, hint=node.outputs[0]
            )
        self.graph.quantized = True
        if self.graph.rational:
            return quantize_linear(node, build, kind)
        if x.fixed == kind:
            return x
        if x.fixed is None and self.readers[node.proto.input[0]] == 1 and kind.axis is None:
            x = replace(x, fixed=kind)
            self.graph.set_value(x)
            return x
        if kind.axis is not None:
            node.refuse(
                "activations with a scale per channel", hint="quantize activations per tensor"
            )
        result = replace(build.one(Quantize(kind), x), fixed=kind)
        self.graph.set_value(result)
        return result

    def _dequantize(self, build: GraphBuilder, node: OnnxNode) -> Value:
        self._no_blocks(node)
        x = node.operand(0)
        return self._typed(
            build, node, x, node.array(1), node.optional_array(2), self._axis(node, x)
        )

    @staticmethod
    def _no_blocks(node: OnnxNode) -> None:
        if node.int("block_size", 0):
            node.refuse("blocked quantization", hint="quantize per tensor or per channel")

    @staticmethod
    def _axis(node: OnnxNode, x: Value) -> int:
        axis = node.int("axis", 1)
        return axis + len(x.shape) if axis < 0 else axis

    def _typed(
        self,
        build: GraphBuilder,
        node: OnnxNode,
        x: Value,
        scale: NDArray[Any],
        zero: NDArray[Any] | None,
        axis: int,
    ) -> Value:
        """The real meaning of codes `x`; constants alone do not make a model quantized."""
        self.graph.quantized |= x.constant is None
        if x.constant is not None:
            if x.fixed is None:
                kind = make_type(storage_of(x.constant.array.dtype, node), scale, zero, axis, node)
                check_channels(kind, x.shape, node)
                return build.constant(x.constant.array, fixed=kind, hint=x.source or x.name)
            storage = x.fixed.storage
        elif x.fixed is not None:
            storage = x.fixed.storage
        else:
            storage = self._storage(x, zero, node)
        kind = make_type(storage, scale, zero, axis, node)
        if x.fixed == kind:
            return x
        if x.fixed is not None:
            node.refuse(
                "reads codes with another scale than they were written with",
                have=str(kind),
                want=str(x.fixed),
            )
        if kind.axis is not None:
            node.refuse(
                "activations with a scale per channel", hint="quantize activations per tensor"
            )
        x = replace(x, fixed=kind)
        self.graph.set_value(x)
        return x

    def _storage(self, x: Value, zero: NDArray[Any] | None, node: OnnxNode) -> IntType:
        found = self.types.get(x.name)
        if found is not None:
            return found
        if zero is None:
            node.refuse("codes of unknown type", hint="give the zero point")
        return storage_of(zero.dtype, node)

    def as_integers(self, x: Value) -> Value:
        """Codes read as plain integers: scale one, if no other type was stated."""
        storage = self.types.get(x.name)
        if x.fixed is not None or storage is None:
            return x
        x = replace(x, fixed=FixedType.per_tensor(storage, Dyadic.one()))
        self.graph.set_value(x)
        return x

    def _quantized(self, build: GraphBuilder, node: OnnxNode, layout: Layout) -> Value:
        """One of the QLinear operators: operands typed, the float op, the result typed."""
        operands: list[Value] = []
        for data, scale, zero in layout.data:
            axis = 0 if node.op == "QLinearConv" else 1
            if node.op == "com.microsoft.QGemm" and node.int("transB", 0):
                axis = 0
            operands.append(
                self._typed(
                    build,
                    node,
                    node.operand(data),
                    node.array(scale),
                    node.optional_array(zero),
                    axis,
                )
            )
        if layout.bias is not None and node.has(layout.bias):
            operands.append(self._bias(build, node, operands, layout.bias))
        result = self._call(build, node, operands)
        if layout.result is None or not node.has(layout.result[0]):
            return result
        scale, zero = node.array(layout.result[0]), node.optional_array(layout.result[1])
        first = operands[0].fixed
        assert first is not None
        storage = storage_of(zero.dtype, node) if zero is not None else first.storage
        kind = make_type(storage, scale, zero, None, node)
        result = replace(self.graph.value(result.name), fixed=kind)
        self.graph.set_value(result)
        return result

    def _bias(
        self, build: GraphBuilder, node: OnnxNode, operands: list[Value], index: int
    ) -> Value:
        x, w = operands[0].fixed, operands[1].fixed
        assert x is not None
        assert w is not None
        scales = tuple(x.scale * s for s in w.scales)
        array = node.array(index).reshape(-1)
        kind = (
            FixedType.per_tensor(I32, scales[0])
            if len(scales) == 1
            else FixedType(I32, scales, (0,), 0)
        )
        return build.constant(array, fixed=kind, hint=node.operand(index).name)

    def _concat(self, build: GraphBuilder, node: OnnxNode) -> Value:
        """QLinearConcat: scale and zero point of the result, then triples."""
        operands = [
            self._typed(
                build, node, node.operand(i), node.array(i + 1), node.optional_array(i + 2), 1
            )
            for i in range(2, len(node.inputs), 3)
        ]
        result = self._call(build, node, operands)
        first = operands[0].fixed
        assert first is not None
        kind = make_type(first.storage, node.array(0), node.optional_array(1), None, node)
        result = replace(self.graph.value(result.name), fixed=kind)
        self.graph.set_value(result)
        return result

    def _exact(self, build: GraphBuilder, node: OnnxNode) -> Value:
        """MatMulInteger and ConvInteger: codes minus zero point, exact in int32."""
        axis = 0 if node.op == "ConvInteger" else 1
        operands: list[Value] = []
        for index in (0, 1):
            value = node.operand(index)
            if (
                value.constant is None
                and value.fixed is not None
                and (value.fixed.scale != Dyadic.one())
            ):
                zero = node.optional_array(index + 2)
                if int(value.fixed.zero_point) != (
                    0 if zero is None else int(np.asarray(zero).reshape(-1)[0])
                ):
                    node.refuse("a zero point other than that of its operand")
                node.refuse(
                    "on codes with a scale", hint="use QLinearMatMul or QLinearConv, or QDQ"
                )
            zero = node.optional_array(index + 2)
            ones = np.ones(1 if zero is None else zero.size, np.float32)
            operands.append(self._typed(build, node, value, ones, zero, axis))
        result = self._call(build, node, operands)
        result = replace(
            self.graph.value(result.name), fixed=FixedType.per_tensor(I32, Dyadic.one())
        )
        self.graph.set_value(result)
        return result

    def _call(self, build: GraphBuilder, node: OnnxNode, operands: list[Value]) -> Value:
        if node.op not in self.ops:
            node.refuse("is not supported", hint=hint_for(node.op))
        (result,) = self.ops[node.op].from_onnx(replace(node, inputs=tuple(operands)), build)
        return result
