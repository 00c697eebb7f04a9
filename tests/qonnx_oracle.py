"""QONNX's own execution beside ours: codes at every quantizer, compared exactly."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from binpoint.frontend.qonnx import is_quantizer
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph, Node
from binpoint.numeric import float32
from binpoint.ops.thresholds import IntThresholds
from binpoint.passes.convert import real

DOMAIN = "qonnx.custom_op.general"
Arrays = dict[str, npt.NDArray[Any]]


def run_qonnx(
    model: onnx.ModelProto, inputs: Mapping[str, npt.NDArray[Any]], *, whole: bool = True
) -> Arrays:
    """Every tensor of a model, or its outputs, as qonnx executes it node by node in float32."""
    execution = importlib.import_module("qonnx.core.onnx_exec")
    wrapper = importlib.import_module("qonnx.core.modelwrapper").ModelWrapper
    shapes = importlib.import_module("qonnx.transformation.infer_shapes").InferShapes
    wrapped = wrapper(canonical(model)).transform(shapes())
    found: Arrays = execution.execute_onnx(wrapped, dict(inputs), return_full_exec_context=whole)
    return found


def canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with all quantizers in the one domain that qonnx 1.0 executes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        if is_quantizer(node):
            node.domain = DOMAIN
    if DOMAIN not in {o.domain for o in copy.opset_import}:
        copy.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    copy.ir_version = min(copy.ir_version, 9)
    return copy


@dataclass(slots=True)
class Counts:
    """Codes compared, those that differ, and how near to a tie the first of them lie."""

    codes: int = 0
    differ: int = 0
    quantizers: set[str] = field(default_factory=set[str])
    distances: list[float] = field(default_factory=list[float])
    outputs: int = 0
    worst_output: float = 0.0


def compare(
    model: onnx.ModelProto, graph: Graph, samples: Iterable[Mapping[str, npt.NDArray[Any]]]
) -> Counts:
    """Run both on samples of the graph's inputs, given as the codes' own real numbers.

    The execution of qonnx is float32: a sum next to a tie may fall on its other side. For each
    quantizer of a sample that differs where none before it did, `distances` has how far from the
    tie the exact value lies, in steps.
    """
    counts = Counts()
    made = {n.name or n.output[0]: n for n in canonical(model).graph.node}
    last = {n.origin.names[-1]: n for n in graph.nodes() if n.origin.names}
    pairs = [(n, made[k]) for k, n in last.items() if k in made and is_quantizer(made[k])]
    for sample in samples:
        codes = {name: _codes(graph, name, sample[name]) for name in graph.inputs}
        ours = evaluate(graph, codes)
        feeds = {graph.value(n).source or n: sample[n] for n in graph.inputs}
        theirs = run_qonnx(model, feeds)
        seen = False
        for node, quantizer in pairs:
            wrong = _compare_node(counts, graph, node, ours, theirs[quantizer.output[0]])
            if wrong.any() and not seen:
                counts.distances += _distances(node, ours, wrong)
                seen = True
        _compare_outputs(counts, graph, ours, theirs)
    return counts


def _codes(graph: Graph, name: str, array: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    kind = graph.value(name).elem
    low, high = kind.storage.min, kind.storage.max
    return float32.quantize_linear(array, float(kind.scale), kind.zero_point, low, high)


def _compare_node(
    counts: Counts, graph: Graph, node: Node, ours: Arrays, theirs: npt.NDArray[Any]
) -> npt.NDArray[np.bool_]:
    (name,) = node.outputs
    kind = graph.value(name).elem
    mine = ours[name]
    if theirs.ndim > 2 and np.moveaxis(theirs, 1, -1).shape == mine.shape:
        theirs = np.moveaxis(theirs, 1, -1)
    assert kind.axis in (None, mine.ndim - 1)
    scales = np.array([float(s) for s in kind.scales])
    steps = theirs.reshape(mine.shape).astype(np.float64) / scales + kind.zero_points[0]
    assert np.abs(steps - np.rint(steps)).max() < 1e-3, f"{name}: no codes of its type"
    wrong = np.rint(steps).astype(np.int64) != mine
    counts.quantizers.add(name)
    counts.codes += wrong.size
    counts.differ += int(wrong.sum())
    return wrong


def _distances(node: Node, ours: Arrays, wrong: npt.NDArray[np.bool_]) -> list[float]:
    """How far each wrong result's exact value lies from the nearest tie, in steps."""
    op = node.op
    assert isinstance(op, IntThresholds)
    assert op.exact
    found: list[float] = []
    for index in np.argwhere(wrong):
        a, b = op.exact[index[-1] if len(op.exact) > 1 else 0]
        value = a * int(ours[node.inputs[0]][tuple(index)]) + b
        found.append(float(abs(value % 1 - Fraction(1, 2))))
    return found


def _compare_outputs(counts: Counts, graph: Graph, ours: Arrays, theirs: Arrays) -> None:
    for name, source in zip(graph.outputs, graph.output_names, strict=True):
        mine = real(graph.value(name), ours[name])
        difference = np.abs(mine.reshape(-1) - theirs[source].reshape(-1))
        counts.outputs += difference.size
        counts.worst_output = max(counts.worst_output, float(difference.max(initial=0)))
