"""Runs node tests of onnx.backend.test through import and interpreter."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from binpoint import pipelines
from binpoint.errors import UnsupportedOperator
from binpoint.frontend.load import load
from binpoint.frontend.samples import read_samples
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.ops import OPS
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.passes.convert import real, stored
from binpoint.passes.manager import run
from binpoint.target import load_target

Array = NDArray[Any]

INTEGER = frozenset(
    {
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
        "QuantizeLinear",
        "DequantizeLinear",
    }
)
"""Operators that are run as integers, exactly."""

_WHOLE = ("int64", "int32", "bool")

_IMPORTED = frozenset({"Identity", "Dropout", "Cast", "Shape", "Constant"})
"""Operators that the importer takes itself."""


@dataclass(frozen=True, slots=True)
class NodeTest:
    """A model, with constant operands as initializers, its inputs and what should come out."""

    name: str
    model: onnx.ModelProto
    inputs: Mapping[str, Any]
    expected: Sequence[Any]

    @property
    def operators(self) -> frozenset[str]:
        """The operators of the model, other than constants."""
        return frozenset(n.op_type for n in self.model.graph.node) - {"Constant"}


@cache
def node_tests() -> tuple[NodeTest, ...]:
    """All node tests of operators that are imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        cases: list[Any] = collect_testcases(None)
    known = {name for op in OPS for name in op.onnx} | INTEGER | _IMPORTED
    found: list[NodeTest] = []
    for case in cases:
        if not {n.op_type for n in case.model.graph.node} <= known:
            continue
        names = [i.name for i in case.model.graph.input]
        for inputs, outputs in case.data_sets:
            given = {n: _array(a) for n, a in zip(names, inputs, strict=False)}
            found.append(NodeTest(case.name, case.model, given, [_array(a) for a in outputs]))
    return tuple(found)


def _array(data: Any) -> Any:
    """Tensors of types that numpy does not know come as messages; sequences stay what they are."""
    return numpy_helper.to_array(data) if isinstance(data, onnx.TensorProto) else data


def with_constants(test: NodeTest, names: Sequence[str]) -> NodeTest:
    """The test with these inputs as initializers."""
    model = onnx.ModelProto()
    model.CopyFrom(test.model)
    kept = [i for i in model.graph.input if i.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    for name in names:
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(test.inputs[name]), name))
    inputs = {n: a for n, a in test.inputs.items() if n not in names}
    return NodeTest(test.name, model, inputs, test.expected)


def with_first_result(test: NodeTest) -> NodeTest:
    """The test without optional results: masks, places, means."""
    model = onnx.ModelProto()
    model.CopyFrom(test.model)
    del model.graph.output[1:]
    read = {n for node in model.graph.node for n in node.input} | {model.graph.output[0].name}
    for node in model.graph.node:
        while len(node.output) > 1 and node.output[-1] not in read:
            node.output.pop()
    return NodeTest(test.name, model, test.inputs, test.expected[:1])


def variants(test: NodeTest) -> Iterator[NodeTest]:
    """As it is, or its first result alone; each in the forms of `_forms`."""
    yield from _forms(test)
    if len(test.expected) > 1:
        yield from _forms(with_first_result(test))


def _forms(test: NodeTest) -> Iterator[NodeTest]:
    """Whole numbers as constants, which are shapes and axes; then all operands but the first."""
    names = [
        name for name, array in test.inputs.items() if isinstance(array, np.ndarray | np.generic)
    ]
    whole = [n for n in names[1:] if np.asarray(test.inputs[n]).dtype.name in _WHOLE]
    yield with_constants(test, whole)
    if names[1:] != whole:
        yield with_constants(test, names[1:])


def imported(test: NodeTest) -> tuple[NodeTest, Graph]:
    """The first variant that is imported; if there is none, the last one's refusal."""
    refusal: UnsupportedOperator | None = None
    for variant in variants(test):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(variant.model.SerializeToString())
            try:
                return variant, load(path)
            except UnsupportedOperator as error:
                refusal = error
    assert refusal is not None
    raise refusal


def run_float(test: NodeTest) -> tuple[list[Array], Sequence[Any]]:
    """Outputs by the float ops' references, and what they should be."""
    variant, graph = imported(test)
    inputs = {
        name: np.asarray(variant.inputs[graph.value(name).source]).astype(np.float32)
        for name in graph.inputs
    }
    values = evaluate(graph, inputs)
    return [values[name] for name in graph.outputs], variant.expected


def run_integer(test: NodeTest) -> tuple[list[Array], Sequence[Any]]:
    """Outputs by the integer ops' references, and what they should be.

    Codes, or what they stand for where the model dequantizes.
    """
    variant, graph = imported(test)
    samples = read_samples("random", graph)
    graph = run(pipelines.mcu(), graph, Context(load_target("host"), CompileOptions(), samples))
    inputs = {
        name: stored(graph.value(name), np.asarray(variant.inputs[graph.value(name).source]))
        for name in graph.inputs
    }
    values = evaluate(graph, inputs)
    found: list[Array] = []
    for name, expected in zip(graph.outputs, variant.expected, strict=True):
        codes = values[name]
        wide = np.asarray(expected).dtype.kind == "f"
        found.append(real(graph.value(name), codes) if wide else codes)
    return found, variant.expected
