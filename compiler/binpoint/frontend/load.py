"""ONNX → Graph[FLOAT]: read, check, fold constants, hand nodes to ops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from binpoint import ort
from binpoint.errors import BinpointError, InvalidConstant, InvalidModel, UnsupportedOperator
from binpoint.frontend.between import read_function
from binpoint.frontend.nodes import check_node, check_sizes
from binpoint.frontend.qonnx import (
    clip_codes,
    is_quantizer,
    is_rational,
    quantize_linear,
    read_quantizer,
)
from binpoint.frontend.quantizers import QUANTIZED, Layout, check_channels, make_type, storage_of
from binpoint.frontend.read import (
    check_size,
    opsets_of,
    ordered_nodes,
    read_model,
    static_shape,
)
from binpoint.frontend.tensors import array_of, type_name
from binpoint.ir.build import GraphBuilder
from binpoint.ir.exchange import OnnxNode
from binpoint.ir.graph import Graph, Origin, Value
from binpoint.ir.names import identifier
from binpoint.ir.op import FloatOp
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I32, FixedType, FloatType, IntType, TensorType
from binpoint.ops import OPS
from binpoint.ops.refused import HINTS
from binpoint.ops.rescaled import Quantize

_HINT = "`binpoint list ops` shows what is; cut the model before this node, or rewrite it"
_ORDERED = frozenset({"ArgMax", "ArgMin"})
"""Operators that tell the same of stored integers as of what they stand for."""
_ALIASES = frozenset({"Identity", "Dropout", "Cast"})
_REAL = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.BFLOAT16,
)
_RANDOM = frozenset(
    {"Bernoulli", "Multinomial"}
    | {f"Random{kind}{like}" for kind in ("Normal", "Uniform") for like in ("", "Like")}
)
_MISFITS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)
_WHOLE = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
_CODES = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)


def load(path: Path) -> Graph:
    """Read an ONNX file into a float graph; quantizer nodes become annotations.

    Raises:
        ModelError: the file is not valid, or uses what has no integer form here (by name, with a
        way out).
        InputNotFound: the file cannot be read.
    """
    model, digest = read_model(path)
    return Importer(model, path.stem, digest).run()


class Importer:
    """The state of one import: which ONNX name is which value of the graph."""

    def __init__(self, model: onnx.ModelProto, name: str, digest: str) -> None:
        """Prepare; `run` does the work."""
        self.proto = model.graph
        self.opsets = opsets_of(model)
        self.graph = Graph(identifier(name))
        self.graph.digest = digest
        self.graph.rational = is_rational(self.proto)
        self.values: dict[str, Value] = {}
        self.codes: set[str] = set()
        self.stored: dict[str, IntType] = {}
        self.ops: Mapping[str, type[FloatOp]] = {name: op for op in OPS for name in op.onnx}
        self.readers = Counter(name for node in self.proto.node for name in node.input)
        self.readers.update(o.name for o in self.proto.output)

    def run(self) -> Graph:
        """Import inputs, constants, nodes, outputs."""
        build = GraphBuilder(self.graph)
        stored = {t.name: t for t in self.proto.initializer}
        free = [info for info in self.proto.input if info.name not in stored]
        nodes = ordered_nodes(self.proto, [*stored, *(info.name for info in free)])
        for info in free:
            self._input(build, info)
        for name in sorted(stored):
            self.values[name] = self._constant(build, array_of(stored[name], name), name)
        for index, node in enumerate(nodes):
            self._node(build, node, index)
        if not self.proto.output:
            raise InvalidModel("the graph has no outputs")
        for info in self.proto.output:
            self._output(info.name)
        return self.graph

    # ---- borders

    def _input(self, build: GraphBuilder, info: onnx.ValueInfoProto) -> None:
        kind = info.type.tensor_type.elem_type
        if kind not in (*_REAL, *_CODES):
            raise UnsupportedOperator(
                f"the input `{info.name}` is of type {type_name(kind)}",
                want="float, int8 or uint8",
            )
        value = build.input(
            info.name, TensorType(static_shape(info), FloatType()), source=info.name
        )
        self.values[info.name] = value
        if kind in _CODES:
            self.codes.add(info.name)
            storage = storage_of(
                np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)), _nowhere(info.name)
            )
            self.stored[value.name] = storage
            self.graph.coded = {**self.graph.coded, value.name: storage}

    def _constant(self, build: GraphBuilder, array: NDArray[Any], name: str) -> Value:
        value = build.constant(array, hint=name)
        value = replace(value, source=name)
        self.graph.set_value(value)
        return value

    def _output(self, name: str) -> None:
        if name not in self.values:
            raise InvalidModel(f"the output `{name}` is never computed")
        value = self.graph.value(self.values[name].name)
        if value.fixed is None and value.name in self.stored:
            value = self._as_integers(value)
        if not value.source or value.constant is None:
            self.graph.set_value(
                replace(value, source=value.source if value.name in self.graph.inputs else name)
            )
        self.graph.outputs += (value.name,)
        self.graph.output_names += (name,)

    # ---- nodes

    def _node(self, build: GraphBuilder, proto: onnx.NodeProto, index: int) -> None:
        inputs = tuple(self._current(name) for name in proto.input)
        flags = tuple(name in self.codes for name in proto.input)
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        node = OnnxNode(
            proto, inputs, self.opsets.get(domain, 1), index, tuple(proto.output), flags
        )
        here = build.at(
            (*(name for name in proto.output if name), proto.op_type)[0],
            Origin((_name(proto, index),)),
        )
        try:
            check_node(proto, self.opsets, node.place)
            check_sizes(node)
            results, coded = self._rational(here, node) or self._import(here, node)
        except BinpointError:
            raise
        except _MISFITS as error:
            # Operands and attributes of a hostile file may be anything; ops state what they need
            # by using it.
            node.refuse(
                "its operands or attributes do not fit", have=f"{type(error).__name__}: {error}"
            )
        for name in proto.output[len(results) :]:
            if name and self.readers[name]:
                node.refuse(f"its result `{name}` is not computed here")
        for name, value in zip(proto.output, results, strict=False):
            check_size(value.shape, name)
            self.values[name] = value
            if coded:
                self.codes.add(name)

    def _current(self, name: str) -> Value | None:
        return self.graph.value(self.values[name].name) if name else None

    def _import(self, build: GraphBuilder, node: OnnxNode) -> tuple[tuple[Value, ...], bool]:
        """Results, and whether they are codes."""
        kind = node.op
        quantizer = self._quantizer(build, node)
        if quantizer is not None:
            return quantizer
        if kind == "Shape" or (kind != "Constant" and kind in _ALIASES):
            return self._known(build, node)
        if (
            all(v is None or (v.constant is not None and v.fixed is None) for v in node.inputs)
            and kind not in _RANDOM
        ):
            return self._fold(build, node), False
        if kind not in self.ops:
            node.refuse("is not supported", hint=HINTS.get(kind, _HINT))
        coded = bool(node.codes) and node.codes[0] and self.ops[kind].keeps_type
        if not coded:
            node = self._compared(node)
        return self.ops[kind].from_onnx(node, build), coded

    def _compared(self, node: OnnxNode) -> OnnxNode:
        """The node with stored integers as plain ones, if all it does is to compare them."""
        if not any(node.codes):
            return node
        if node.op not in _ORDERED:
            node.refuse("computes on stored integers", hint="dequantize them first")
        pairs = zip(node.inputs, node.codes, strict=True)
        plain = (self._as_integers(v) if v is not None and c else v for v, c in pairs)
        return replace(node, inputs=tuple(plain))

    def _quantizer(
        self, build: GraphBuilder, node: OnnxNode
    ) -> tuple[tuple[Value, ...], bool] | None:
        """A quantizer, or an operator on codes; None if it is none of them."""
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

    def _rational(
        self, build: GraphBuilder, node: OnnxNode
    ) -> tuple[tuple[Value, ...], bool] | None:
        """A quantizer, codes clipped, or an exact function of one operand; None if none of them."""
        if not self.graph.rational:
            return None
        if is_quantizer(node.proto):
            return (read_quantizer(node, build),), False
        if node.op == "Clip" and node.codes[0]:
            alone = self.readers[node.proto.input[0]] == 1
            return (clip_codes(node, build, alone=alone),), True
        function = read_function(node, build)
        return None if function is None else ((function,), False)

    def _known(self, build: GraphBuilder, node: OnnxNode) -> tuple[tuple[Value, ...], bool]:
        """Shape of a static value; Identity, Dropout and Cast as their operand."""
        x = node.operand(0)
        if node.op == "Shape":
            end = node.int("end", len(x.shape))
            array = np.array(x.shape[node.int("start", 0) : end], np.int64)
            return (build.constant(array),), False
        if x.constant is not None and x.fixed is None:
            return self._fold(build, node), False
        if node.op == "Dropout" and node.has(2) and node.array(2).any():
            node.refuse("in training mode", hint="export the model in evaluation mode")
        coded = bool(node.codes) and node.codes[0]
        if node.op == "Cast" and coded:
            self._keeps_codes(node, x)
            return (self._as_integers(x),), False
        to_integers = node.op == "Cast" and node.int("to", 1) not in _REAL
        is_whole = node.int("to", 1) in _WHOLE and self._is_whole(x)
        if to_integers and x.fixed is None and not is_whole:
            node.refuse("from real numbers to integers", hint="quantize with QuantizeLinear")
        return (x,), coded

    def _keeps_codes(self, node: OnnxNode, x: Value) -> None:
        """Refuse a Cast of codes to integers that cannot hold all of them."""
        to = node.int("to", 1)
        kind = x.fixed.storage if x.fixed is not None else self.stored.get(x.name)
        if to in _REAL or kind is None:
            return
        wanted = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(to))
        if not np.can_cast(kind.dtype, wanted):
            node.refuse(f"from {kind.dtype} to {wanted} would wrap")

    def _is_whole(self, x: Value) -> bool:
        """Whether a value holds whole numbers by what computes it, such as ArgMax."""
        producer = self.graph.producer(x.name)
        if producer is None or not isinstance(producer.op, FloatOp):
            return False
        if producer.op.keeps_type:
            return self._is_whole(self.graph.value(producer.inputs[0]))
        kind = producer.op.result_type(*(None for _ in producer.inputs))
        return kind is not None and kind.scales == (Dyadic.one(),)

    def _fold(self, build: GraphBuilder, node: OnnxNode) -> tuple[Value, ...]:
        """Compute a node whose operands are all constant."""
        operands = {
            name: value.constant.array
            for name, value in zip(node.proto.input, node.inputs, strict=True)
            if value is not None and value.constant is not None
        }
        for attribute in node.proto.attribute:
            if attribute.HasField("t"):
                array_of(attribute.t, node.place)
        try:
            arrays = ort.run_node(node.proto, operands, self.opsets[""])
        except InvalidModel as error:
            raise UnsupportedOperator(
                f"`{node.op}` on constants cannot be computed", at=node.place, have=error.have
            ) from error
        if any(a.dtype.kind == "f" and not np.isfinite(a).all() for a in arrays):
            raise InvalidConstant(f"`{node.op}` on constants gives NaN or infinity", at=node.place)
        names = [name for name in node.proto.output if name]
        return tuple(self._constant(build, a, n) for a, n in zip(arrays, names, strict=True))

    # ---- quantizers

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
        found = self.stored.get(x.name)
        if found is not None:
            return found
        if zero is None:
            node.refuse("codes of unknown type", hint="give the zero point")
        return storage_of(zero.dtype, node)

    def _as_integers(self, x: Value) -> Value:
        """Codes read as plain integers: scale one, if no other type was stated."""
        storage = self.stored.get(x.name)
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
            node.refuse("is not supported", hint=HINTS.get(node.op, _HINT))
        (result,) = self.ops[node.op].from_onnx(replace(node, inputs=tuple(operands)), build)
        return result


def _name(node: onnx.NodeProto, index: int) -> str:
    """The node's name, else that of its first result, else its place in the file."""
    return (*filter(None, (node.name, *node.output)), f"node {index}")[0]


def _nowhere(name: str) -> OnnxNode:
    return OnnxNode(onnx.NodeProto(op_type="input", name=name, output=[name]), (), 1, 0, (name,))
