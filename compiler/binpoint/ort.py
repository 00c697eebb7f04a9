"""onnxruntime with fixed settings; the only module that imports it.

Two kinds of session: `plain` runs a graph node by node (no optimisations, one thread), `reference`
runs a user's quantized model as the run that counts: all optimisations and
``session.qdqisint8allowed=1``, so that signed 8-bit QDQ groups become integer operators.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from binpoint.errors import InvalidModel

ort: Any = onnxruntime  # its stubs are partial
VERSION: str = ort.__version__
_IR_VERSION = 10
_QGEMM_OPERANDS = 8
"""With a scale for the result; without it, QGemm gives real numbers."""
_BORDERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_REAL = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_DOMAINS = (("com.microsoft", 1),)


_REFERENCE = ("session.qdqisint8allowed", "session.x64quantprecision")
"""Entries of the session that counts. The latter keeps products of u8 and s8 from saturating on
processors without VNNI, by making the weights unsigned there; it refuses QLinearMatMul of signed
operands, which do not saturate: such a model is loaded without."""


def _session(source: bytes | str, entries: Sequence[str] | None, save: str) -> Any:
    """A session of onnxruntime on one thread, with entries set, or without optimisations."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_DISABLE_ALL if entries is None else levels.ORT_ENABLE_ALL
    )
    for entry in entries or ():
        options.add_session_config_entry(entry, "1")
    if save:
        options.optimized_model_filepath = save
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own types, made at run time
        raise InvalidModel(
            "onnxruntime cannot load the model", have=str(error).splitlines()[0]
        ) from error


_INTEGERS: Mapping[str, type[np.generic]] = MappingProxyType(
    {"tensor(bool)": np.bool_, "tensor(int32)": np.int32, "tensor(int64)": np.int64}
)
"""Types of inputs that samples hold as real numbers."""


def _as_wanted(array: NDArray[Any], kind: type[np.generic] | None) -> NDArray[Any]:
    return array if kind is None else array.astype(kind)


class Session:
    """A loaded model; `run` takes and returns arrays by name."""

    def __init__(self, model: onnx.ModelProto | str, *, optimise: bool, save: str = "") -> None:
        """Load a model, given as a message or as a path; `save` is where to write it optimised."""
        source = model if isinstance(model, str) else model.SerializeToString()
        try:
            self._session = _session(source, _REFERENCE if optimise else None, save)
        except InvalidModel:
            if not optimise:
                raise
            self._session = _session(source, _REFERENCE[:1], save)
        inputs = self._session.get_inputs()
        self.inputs = tuple(i.name for i in inputs)
        self._wanted = {i.name: _INTEGERS[i.type] for i in inputs if i.type in _INTEGERS}
        self.outputs = tuple(o.name for o in self._session.get_outputs())

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once.

        Raises:
            InvalidModel: a node refuses its operands, which some find out only now.
        """
        given = {name: _as_wanted(array, self._wanted.get(name)) for name, array in inputs.items()}
        try:
            results = self._session.run(None, given)
        except Exception as error:  # onnxruntime raises its own types, made at run time
            raise InvalidModel(
                "onnxruntime cannot run the model", have=str(error).splitlines()[0]
            ) from error
        return {name: np.asarray(array) for name, array in zip(self.outputs, results, strict=True)}


def plain(model: onnx.ModelProto | str) -> Session:
    """A session that runs the graph as it is written."""
    return Session(model, optimise=False)


def reference(model: onnx.ModelProto | str) -> Session:
    """The session whose results count for a quantized model."""
    return Session(_unsigned_products(model), optimise=True)


def _loaded(path: str) -> onnx.ModelProto:
    """The model of a file, its external data too."""
    model = onnx.load_model_from_string(Path(path).read_bytes())
    onnx.load_external_data_for_model(model, str(Path(path).parent))
    return model


def _unsigned_products(model: onnx.ModelProto | str) -> onnx.ModelProto | str:
    """The model with u8 operands beside each constant s8 one of a QLinearMatMul.

    The integers are the same: codes and zero points rise by 128. Without VNNI u8 times s8
    saturates at 16 bits, and ``session.x64quantprecision`` leaves this operator as it is.
    """
    found = _loaded(model) if isinstance(model, str) else model
    if all(node.op_type != "QLinearMatMul" for node in found.graph.node):
        return model
    changed = onnx.ModelProto()
    changed.CopyFrom(found)
    graph = changed.graph
    constants = {t.name: t for t in graph.initializer}
    for index, node in enumerate(graph.node):
        if node.op_type != "QLinearMatMul":
            continue
        left, *right = (constants.get(node.input[i]) for i in (2, 3, 5))
        if left is None or left.data_type != TensorProto.UINT8:
            continue
        signed = [t for t in right if t is not None and t.data_type == TensorProto.INT8]
        if len(signed) < len(right):
            continue
        for place, tensor in zip((3, 5), signed, strict=True):
            name = f"{tensor.name}/unsigned/{index}"
            codes = numpy_helper.to_array(tensor).astype(np.int16) + 128
            graph.initializer.append(numpy_helper.from_array(codes.astype(np.uint8), name))
            node.input[place] = name
    return changed


def float_operators(model: onnx.ModelProto | str) -> dict[str, int]:
    """Operators of a quantized model that `reference` computes in float, with their number."""
    return dict(sorted(Counter(node.op for node in float_nodes(model)).items()))


@dataclass(frozen=True, slots=True)
class FloatNode:
    """A node computed in float: its operator, and the names of the node and of its results."""

    op: str
    names: tuple[str, ...]


def float_nodes(model: onnx.ModelProto | str) -> tuple[FloatNode, ...]:
    """Nodes of a quantized model that `reference` computes in float.

    A tensor is float where a DequantizeLinear, a float input or constant, or an operator on floats
    gives it; conversions from and to integers do not count. Optimisations join nodes: their names
    are of one of them, without what onnxruntime adds to it.

    Raises:
        InvalidModel: onnxruntime cannot load the model.
    """
    with tempfile.TemporaryDirectory(prefix="binpoint-ort-") as folder:
        path = str(Path(folder) / "optimised.onnx")
        Session(model, optimise=True, save=path)
        graph = onnx.load_model_from_string(Path(path).read_bytes()).graph
    real = {i.name for i in graph.input if i.type.tensor_type.elem_type in _REAL}
    real |= {t.name for t in graph.initializer if t.data_type in _REAL}
    found: list[FloatNode] = []
    for node in graph.node:
        if _gives_real(node, real):
            real.update(node.output)
            if node.op_type not in _BORDERS:
                name = node.name.removeprefix("fused ").removesuffix("/MatMulAddFusion")
                found.append(FloatNode(node.op_type, tuple(filter(None, (name, *node.output)))))
    return tuple(found)


def _gives_real(node: onnx.NodeProto, real: Set[str]) -> bool:
    """Whether a node of an optimised graph gives real numbers."""
    if _is_quantized(node):
        is_open = node.op_type == "QGemm" and len(node.input) < _QGEMM_OPERANDS
        return node.op_type == "DequantizeLinear" or is_open
    return not real.isdisjoint(node.input)


def _is_quantized(node: onnx.NodeProto) -> bool:
    """Whether a node computes on integers, or goes between them and floats."""
    return node.op_type in _BORDERS or node.op_type.startswith(("QLinear", "QGemm"))


def evaluate(
    op: str,
    inputs: Sequence[NDArray[Any] | None],
    *,
    outputs: int = 1,
    domain: str = "",
    opset: int = 21,
    **attributes: Any,
) -> tuple[NDArray[Any], ...]:
    """Run one operator on constant operands."""
    names = ["" if array is None else f"x{i}" for i, array in enumerate(inputs)]
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, results, domain=domain, **attributes)
    return run_node(
        node, {n: a for n, a in zip(names, inputs, strict=True) if a is not None}, opset
    )


def run_node(
    node: onnx.NodeProto, inputs: Mapping[str, NDArray[Any]], opset: int
) -> tuple[NDArray[Any], ...]:
    """Run one node on constant operands, by name."""
    results = [name for name in node.output if name]
    graph = helper.make_graph(
        [node],
        "node",
        [],
        [helper.make_empty_tensor_value_info(name) for name in results],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in inputs.items()],
    )
    domains = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in _DOMAINS)]
    if node.domain and node.domain not in dict(_DOMAINS):
        domains.append(helper.make_opsetid(node.domain, 1))
    model = helper.make_model(graph, opset_imports=domains, ir_version=_IR_VERSION)
    found = plain(model).run({})
    return tuple(found[name] for name in results)
