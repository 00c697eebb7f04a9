"""Our outputs beside onnxruntime's for the user's own quantized file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint import ort
from binpoint.ir.graph import Graph
from binpoint.passes.convert import stored
from binpoint.passes.samples import Samples


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
