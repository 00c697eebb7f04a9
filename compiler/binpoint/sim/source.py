"""Our outputs beside onnxruntime's for the user's own quantized file, and what may differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint import ort
from binpoint.ir.graph import Graph
from binpoint.ir.op import IntegerOp
from binpoint.ops.pairwise import IntAdd, IntMul
from binpoint.ops.pooling import IntAverage
from binpoint.ops.requantize import DyadicRequantize
from binpoint.passes.samples import Samples
from binpoint.sim.convert import stored

_OWN_ROUNDING = (DyadicRequantize, IntAdd, IntMul, IntAverage)
_OWN = "onnxruntime computes this in float32; here it is rounded once from exact integers"
_FILLED = "the model states no integer type of this value; its type was chosen here"
_OPTION = "the option `semantics` asks for other rounding than onnxruntime's"


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


def departures(graph: Graph, semantics: str = "auto") -> tuple[Departure, ...]:
    """Where an integer graph of a quantized model need not return onnxruntime's bytes.

    None for a model without bytes of its own: one that was quantized here, or is exact.

    Args:
        graph: after the last pass.
        semantics: the option that it was lowered with.
    """
    if not graph.quantized or graph.rational:
        return ()
    if semantics not in ("auto", "onnxruntime"):
        return (Departure("", (), _OPTION),)
    found = [Departure(name, _origin(graph, name), _FILLED) for name in graph.filled]
    for node in graph.nodes():
        assert isinstance(node.op, IntegerOp)
        work = node.op.work(graph.arguments(node), graph.results(node))
        own = (_OWN,) if isinstance(node.op, _OWN_ROUNDING) else ()
        found += [
            Departure(node.outputs[0], node.origin.names, reason) for reason in (*work.notes, *own)
        ]
    return tuple(found)


def _origin(graph: Graph, name: str) -> tuple[str, ...]:
    """ONNX nodes of a value of the typed graph, if the integer graph has it still."""
    producer = graph.producer(name) if graph.has_value(name) else None
    return () if producer is None else producer.origin.names


@dataclass(frozen=True, slots=True)
class SourceComparison:
    """How the codes of all outputs agree, and which ops onnxruntime computed in float.

    Attributes:
        different: codes that differ, of `codes` in all; in `samples` samples.
        largest: the largest difference, in steps of the output.
        float_ops: operators that onnxruntime kept in float, by name, with their number.
    """

    samples: int
    codes: int
    different: int
    largest: int
    float_ops: Mapping[str, int]

    @property
    def equal(self) -> bool:
        """Whether every code agrees."""
        return self.different == 0

    def __str__(self) -> str:
        """One sentence."""
        kept = ", ".join(f"{count} {op}" for op, count in self.float_ops.items())
        floats = f"; onnxruntime runs in float: {kept}" if kept else ""
        if self.equal:
            return f"onnxruntime's own run of the file gives the same codes{floats}"
        return (
            f"{self.different} of {self.codes} codes differ from onnxruntime's own run of the "
            f"file, at most by {self.largest}{floats}"
        )


def run_source(model: Path, graph: Graph, samples: Samples) -> Iterator[dict[str, NDArray[Any]]]:
    """What onnxruntime returns for the user's file, by the model's own output names."""
    session = ort.reference(str(model))
    names = {graph.value(name).source or name: name for name in graph.inputs}
    for sample in samples.inputs():
        yield session.run({source: sample[name] for source, name in names.items()})


def compare_source(
    model: Path, graph: Graph, samples: Samples, ours: Sequence[Mapping[str, NDArray[Any]]]
) -> SourceComparison:
    """Compare `ours`, codes by value name for each sample, with onnxruntime's run of the file."""
    codes = different = largest = 0
    theirs: Iterable[Mapping[str, NDArray[Any]]] = run_source(model, graph, samples)
    for mine, other in zip(ours, theirs, strict=True):
        for name, source in zip(graph.outputs, graph.output_names, strict=True):
            value = graph.value(name)
            have = np.asarray(mine[name]).astype(np.int64).reshape(value.shape)
            steps = np.abs(have - stored(value, other[source]).astype(np.int64))
            codes += steps.size
            different += int((steps != 0).sum())
            largest = max(largest, int(steps.max(initial=0)))
    return SourceComparison(len(ours), codes, different, largest, ort.float_operators(str(model)))
