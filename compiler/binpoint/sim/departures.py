"""Where an integer graph need not return the bytes of onnxruntime's run of the user's file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from binpoint import ort
from binpoint.errors import InvalidModel
from binpoint.ir.graph import Graph, Node
from binpoint.ir.op import IntegerOp
from binpoint.ops.affine import AffineRequantize
from binpoint.ops.blocks import IntSum
from binpoint.ops.conv import IntConv
from binpoint.ops.dense import IntDense, IntMatMul
from binpoint.ops.pairwise import IntAdd, IntMul
from binpoint.ops.patched import Patched, nodes_within
from binpoint.ops.pooling import IntAverage, OnnxruntimeAverage
from binpoint.ops.requantize import DyadicRequantize
from binpoint.ops.runtime_pair import OnnxruntimeAdd, OnnxruntimeMul
from binpoint.ops.softmax import OnnxruntimeSoftmax

_OWN_ROUNDING = (DyadicRequantize, AffineRequantize, IntAdd, IntMul, IntAverage)
_OF_RUNTIME = (
    IntConv,
    IntDense,
    IntMatMul,
    IntSum,
    OnnxruntimeAdd,
    OnnxruntimeMul,
    OnnxruntimeAverage,
    OnnxruntimeSoftmax,
)
"""Ops that give what onnxruntime's quantized operators give."""

_SUMS = ("Conv", "Gemm", "MatMul", "AveragePool")
"""Parts of the names of operators that add up; ConvTranspose is noted by its op."""

_FLOAT = "onnxruntime computes this in float32; here it is rounded once from exact integers"
_FILLED = "the model states no integer type of this value; its type was chosen here"
_OPTION = "the option `semantics` asks for other rounding than onnxruntime's"
_COARSE = "the option `patches` gives maps and weights of patches fewer bits"
_REFUSED = "onnxruntime does not run the model"


@dataclass(frozen=True, slots=True)
class Departure:
    """A place where codes may differ from those of onnxruntime's run of the file, and why.

    Attributes:
        value: the result concerned; empty for all of them.
        origin: ONNX nodes that it came from.
    """

    value: str
    origin: tuple[str, ...]
    reason: str


def departures(
    graph: Graph, model: Path | onnx.ModelProto, semantics: str = "auto"
) -> tuple[Departure, ...]:
    """Where an integer graph of a quantized model need not return onnxruntime's bytes.

    None for a model without bytes of its own: one that was quantized here, or is exact.

    Args:
        graph: after the last pass.
        model: what it was compiled from; onnxruntime tells which of its operators stay in float.
        semantics: the option that it was lowered with.
    """
    if not graph.quantized or graph.rational:
        return ()
    if semantics not in ("auto", "onnxruntime"):
        return (Departure("", (), _OPTION),)
    try:
        floats = ort.float_nodes(str(model) if isinstance(model, Path) else model)
    except InvalidModel:
        return (Departure("", (), _REFUSED),)
    found = [Departure(name, _origin(graph, name), _FILLED) for name in graph.filled]
    found += [
        Departure(node.outputs[0], node.origin.names, _COARSE)
        for node in graph.nodes()
        if isinstance(node.op, Patched) and node.op.mixed
    ]
    for holder, node in nodes_within(graph):
        assert isinstance(node.op, IntegerOp)
        reasons = node.op.work(holder.arguments(node), holder.results(node)).notes
        if isinstance(node.op, _OWN_ROUNDING):
            reasons = (_FLOAT,)
        if not reasons and isinstance(node.op, _OF_RUNTIME) and _meet(node, floats):
            reasons = (_FLOAT,)
        found += [Departure(node.outputs[0], node.origin.names, reason) for reason in reasons]
    return (*found, *_others(found, floats))


def _meet(node: Node, floats: Sequence[ort.FloatNode]) -> bool:
    """Whether a node came from one that onnxruntime computes in float."""
    return any(not set(other.names).isdisjoint(node.origin.names) for other in floats)


def _others(found: Sequence[Departure], floats: Sequence[ort.FloatNode]) -> list[Departure]:
    """Sums in float that were not found by name: they were joined with others."""
    known = {name for departure in found for name in departure.origin}
    return [
        Departure("", other.names[:1], _FLOAT)
        for other in floats
        if known.isdisjoint(other.names)
        and any(part in other.op for part in _SUMS)
        and other.op != "ConvTranspose"
    ]


def _origin(graph: Graph, name: str) -> tuple[str, ...]:
    """ONNX nodes of a value of the typed graph, if the integer graph has it still."""
    producer = graph.producer(name) if graph.has_value(name) else None
    return () if producer is None else producer.origin.names
