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
from binpoint.frontend.masks import holds_infinity, read_masked_sum
from binpoint.frontend.nodes import check_node, check_sizes
from binpoint.frontend.qcdq import clip_codes
from binpoint.frontend.qonnx import is_quantizer, is_rational, read_quantizer
from binpoint.frontend.quant_lstm import is_quant_lstm, read_quant_lstm
from binpoint.frontend.quantizers import storage_of
from binpoint.frontend.read import (
    check_size,
    control_flow,
    names_read,
    opsets_of,
    ordered_nodes,
    read_model,
    static_shape,
)
from binpoint.frontend.stored import Stored
from binpoint.frontend.tensors import REAL, array_of, is_sound, type_name
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Origin, Value
from binpoint.ir.names import identifier
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import FloatOp, Reader
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import FloatType, TensorType
from binpoint.ops import OPS
from binpoint.ops.elementwise import Binary, Kind
from binpoint.ops.refused import hint_for

_ORDERED = frozenset({"ArgMax", "ArgMin"})
"""Operators that tell the same of stored integers as of what they stand for."""
_FUSED = (Kind.ADD, Kind.MUL)
_SHAPES = frozenset({"Shape", "Size"})
_ALIASES = frozenset({"Identity", "Dropout", "Cast", "CastLike"})
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
_MOVES = frozenset(
    {"Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split"}
    | {"Squeeze", "Transpose", "Unsqueeze"}
)
_PLACES = frozenset(
    {("Gather", 1), ("OneHot", 0)}
    | {(name, i) for name in ("Equal", "Greater", "Less") for i in range(2)}
)
"""Operators, and which of their operands they read as a whole number."""
_CODES = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)


def load(path: Path, *, exact: bool = False) -> Graph:
    """Read an ONNX file into a float graph; quantizer nodes become annotations.

    Args:
        path: of the file.
        exact: read QuantizeLinear as exact quantizers also where nothing tells that they are meant
            so, as the option `semantics=rational` asks.

    Raises:
        ModelError: the file is not valid, or uses what has no integer form here (by name, with a
        way out).
        InputNotFound: the file cannot be read.
    """
    model, digest = read_model(path)
    graph = Importer(model, path.stem, digest, exact=exact).run()
    _follow_runtime(graph, path)
    return graph


def _follow_runtime(graph: Graph, path: Path) -> None:
    """Mark sums and products of a quantized model that onnxruntime leaves in float32.

    Which they are depends on what stands between them and their quantizer: onnxruntime knows.
    """
    nodes = [n for n in graph.nodes() if isinstance(n.op, Binary) and n.op.kind in _FUSED]
    if not nodes or not graph.quantized or graph.rational:
        return
    try:
        floats = {name for found in ort.float_nodes(str(path)) for name in found.names}
    except InvalidModel:
        return
    for node in nodes:
        assert isinstance(node.op, Binary)
        if not floats.isdisjoint(node.origin.names):
            graph.replace(replace(node, op=replace(node.op, apart=True)))


class Importer:
    """The state of one import: which ONNX name is which value of the graph."""

    def __init__(
        self, model: onnx.ModelProto, name: str, digest: str, *, exact: bool = False
    ) -> None:
        """Prepare; `run` does the work."""
        self.proto = model.graph
        self.opsets = opsets_of(model)
        self.graph = Graph(identifier(name))
        self.graph.digest = digest
        self.graph.rational = is_rational(self.proto, exact=exact)
        self.values: dict[str, Value] = {}
        self.codes: set[str] = set()
        self.whole: set[str] = set()
        self.nodes: list[onnx.NodeProto] = []
        self.ops: Mapping[str, type[Reader]] = {name: op for op in OPS for name in op.onnx}
        self.readers = Counter(name for node in self.proto.node for name in names_read(node))
        self.readers.update(o.name for o in self.proto.output)
        self.stored = Stored(self.graph, self.readers, self.ops)

    def run(self) -> Graph:
        """Import inputs, constants, nodes, outputs."""
        build = GraphBuilder(self.graph)
        stored = {t.name: t for t in self.proto.initializer}
        free = [info for info in self.proto.input if info.name not in stored]
        self.nodes = ordered_nodes(self.proto, [*stored, *(info.name for info in free)])
        for info in free:
            self._input(build, info)
        for name in sorted(stored):
            self.values[name] = self._constant(
                build, array_of(stored[name], name, masks=True), name
            )
        for index, node in enumerate(self.nodes):
            self._node(build, node, index)
        if not self.proto.output:
            raise InvalidModel("the graph has no outputs")
        for info in self.proto.output:
            self._output(info.name)
        return self.graph

    # ---- borders

    def _input(self, build: GraphBuilder, info: onnx.ValueInfoProto) -> None:
        kind = info.type.tensor_type.elem_type
        if kind not in (*REAL, *_CODES) and not self._is_place(info):
            raise UnsupportedOperator(
                f"the input `{info.name}` is of type {type_name(kind)}",
                want="float, int8, uint8, bool, or integers that Gather, OneHot or Cast read",
            )
        value = build.input(
            info.name, TensorType(static_shape(info), FloatType()), source=info.name
        )
        self.values[info.name] = value
        if kind in _WHOLE:
            self.whole.add(value.name)
        if kind in _CODES:
            self.codes.add(info.name)
            storage = storage_of(
                np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)), _input_node(info.name)
            )
            self.stored.types[value.name] = storage
            self.graph.coded = {**self.graph.coded, value.name: storage}

    def _is_place(self, info: onnx.ValueInfoProto) -> bool:
        """Whether an input holds truth values, or integers that tell places or become real."""
        kind = info.type.tensor_type.elem_type
        if kind not in _WHOLE:
            return kind == onnx.TensorProto.BOOL
        names = {info.name}
        for node in self.nodes:
            read = [i for i, name in enumerate(node.input) if name in names]
            real = node.op_type == "Cast" and _nowhere(node).int("to", 1) in REAL
            if not read or real or (node.op_type, *read) in _PLACES:
                continue
            if node.op_type not in _MOVES:
                return False
            names.update(node.output)
        return True

    def _constant(self, build: GraphBuilder, array: NDArray[Any], name: str) -> Value:
        value = build.constant(array, hint=name)
        value = replace(value, source=name)
        self.graph.set_value(value)
        return value

    def _output(self, name: str) -> None:
        if name not in self.values:
            raise InvalidModel(f"the output `{name}` is never computed")
        value = self.graph.value(self.values[name].name)
        if holds_infinity(value):
            raise InvalidConstant(f"the constant `{name}` holds NaN or infinity")
        if value.fixed is None and value.name in self.stored.types:
            value = self.stored.as_integers(value)
        if not value.source or value.constant is None:
            self.graph.set_value(
                replace(value, source=value.source if value.name in self.graph.inputs else name)
            )
        self.graph.outputs += (value.name,)
        self.graph.output_names += (name,)

    # ---- nodes

    def _node(self, build: GraphBuilder, proto: onnx.NodeProto, index: int) -> None:
        if proto.op_type == "If" and proto.domain in ("", "ai.onnx"):
            self._branch(build, proto, index)
            return
        inputs = tuple(self._current(name) for name in proto.input)
        flags = tuple(name in self.codes for name in proto.input)
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        read = tuple(bool(name and self.readers[name]) for name in proto.output)
        node = OnnxNode(
            proto, inputs, self.opsets.get(domain, 1), index, tuple(proto.output), flags, read
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

    def _branch(self, build: GraphBuilder, proto: onnx.NodeProto, index: int) -> None:
        """The branch that a constant condition takes, in place of the node."""
        condition = self._current(proto.input[0]) if proto.input else None
        if condition is None or condition.constant is None:
            raise control_flow(proto)
        taken = "then_branch" if condition.constant.array.all() else "else_branch"
        graph = next((a.g for a in proto.attribute if a.name == taken), onnx.GraphProto())
        if len(graph.output) != len(proto.output):
            raise InvalidModel("a branch has other results than its node", at=proto.name)
        for tensor in graph.initializer:
            array = array_of(tensor, tensor.name, masks=True)
            self.values[tensor.name] = self._constant(build, array, tensor.name)
        self.readers.update(name for node in graph.node for name in names_read(node))
        self.readers.update(o.name for o in graph.output)
        for node in ordered_nodes(graph, tuple(self.values)):
            self._node(build, node, index)
        for name, result in zip(proto.output, graph.output, strict=True):
            self.values[name] = self.values[result.name]
            if result.name in self.codes:
                self.codes.add(name)

    def _current(self, name: str) -> Value | None:
        return self.graph.value(self.values[name].name) if name else None

    def _import(self, build: GraphBuilder, node: OnnxNode) -> tuple[tuple[Value, ...], bool]:
        """Results, and whether they are codes."""
        kind = node.op
        read = self.stored.read(build, node)
        if read is not None:
            return read
        if kind in _SHAPES or (kind != "Constant" and kind in _ALIASES):
            return self._known(build, node)
        if (
            all(v is None or (v.constant is not None and v.fixed is None) for v in node.inputs)
            and kind not in _RANDOM
        ):
            return self._fold(build, node), False
        masked = read_masked_sum(node, build)
        if masked is not None:
            return masked, False
        if kind not in self.ops:
            node.refuse("is not supported", hint=hint_for(kind))
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
        plain = (self.stored.as_integers(v) if v is not None and c else v for v, c in pairs)
        return replace(node, inputs=tuple(plain))

    def _rational(
        self, build: GraphBuilder, node: OnnxNode
    ) -> tuple[tuple[Value, ...], bool] | None:
        """A quantizer, codes clipped, or an exact function of one operand; None if none of them."""
        if not self.graph.rational:
            return None
        if is_quantizer(node.proto):
            return (read_quantizer(node, build),), False
        if is_quant_lstm(node.proto):
            return read_quant_lstm(node, build), False
        if node.op == "Clip" and node.codes[0]:
            alone = self.readers[node.proto.input[0]] == 1
            return (clip_codes(node, build, alone=alone),), True
        function = read_function(node, build)
        return None if function is None else ((function,), False)

    def _known(self, build: GraphBuilder, node: OnnxNode) -> tuple[tuple[Value, ...], bool]:
        """Shape and size of a static value; Identity, Dropout and Cast as their operand."""
        x = node.operand(0)
        if node.op == "Size":
            return (build.constant(np.array(x.type.size, np.int64)),), False
        if node.op == "Shape":
            end = node.int("end", len(x.shape))
            array = np.array(x.shape[node.int("start", 0) : end], np.int64)
            return (build.constant(array),), False
        if x.constant is not None and x.fixed is None and node.op != "CastLike":
            return self._fold(build, node), False
        if node.op == "Dropout" and node.has(2) and node.array(2).any():
            node.refuse("in training mode", hint="export the model in evaluation mode")
        coded = bool(node.codes) and node.codes[0]
        if node.op == "Cast" and coded:
            self.stored.check_cast(node, x)
            return (self.stored.as_integers(x),), False
        to_integers = node.op == "Cast" and node.int("to", 1) not in REAL
        is_whole = node.int("to", 1) in _WHOLE and self._is_whole(x)
        if to_integers and x.fixed is None and not is_whole:
            node.refuse("from real numbers to integers", hint="quantize with QuantizeLinear")
        return (x,), coded

    def _is_whole(self, x: Value) -> bool:
        """Whether a value holds whole numbers: an input of them, or by what computes it."""
        producer = self.graph.producer(x.name)
        if producer is None or not isinstance(producer.op, FloatOp):
            return x.name in self.whole
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
                array_of(attribute.t, node.place, masks=True)
        try:
            arrays = ort.run_node(node.proto, operands, self.opsets[""])
        except InvalidModel as error:
            raise UnsupportedOperator(
                f"`{node.op}` on constants cannot be computed", at=node.place, have=error.have
            ) from error
        if any(a.dtype.kind == "f" and not is_sound(a, masks=True) for a in arrays):
            raise InvalidConstant(f"`{node.op}` on constants gives NaN or infinity", at=node.place)
        names = [name for name in node.proto.output if name]
        return tuple(self._constant(build, a, n) for a, n in zip(arrays, names, strict=True))


def _name(node: onnx.NodeProto, index: int) -> str:
    """The node's name, else that of its first result, else its place in the file."""
    return (*filter(None, (node.name, *node.output)), f"node {index}")[0]


def _input_node(name: str) -> OnnxNode:
    return _nowhere(onnx.NodeProto(op_type="input", name=name, output=[name]))


def _nowhere(node: onnx.NodeProto) -> OnnxNode:
    """A view of a node whose operands are not known yet."""
    return OnnxNode(node, (), 1, 0, tuple(node.output))
