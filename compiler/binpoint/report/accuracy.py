"""How well the model does its task: one metric for the float model and for the integers.

Labels choose the metric. Classes: `top-1`. A label per element of the output: `element`. An output
of the input's shape: `mse`, its mean squared distance from the input, or with labels of 0 and 1
`auc`, the area under the ROC curve of that distance. Noise has no accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.graph import Graph, Value
from binpoint.passes.convert import real
from binpoint.passes.samples import Samples

Reals = NDArray[np.floating[Any]]


class Metric(StrEnum):
    """What is measured."""

    TOP1 = "top-1"
    ELEMENT = "element"
    MSE = "mse"
    AUC = "auc"


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy of the float model, of the integers, and of the user's file in onnxruntime."""

    metric: str | None = None
    floating: float | None = None
    integer: float | None = None
    onnxruntime: float | None = None
    samples: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """A metric, the output that it is taken of, and what the samples say is right.

    `threshold` separates the two classes of an output of one channel, in real numbers.
    """

    metric: Metric
    output: str
    samples: Samples
    targets: NDArray[Any]
    threshold: float = 0.5

    def score(self, outputs: Sequence[NDArray[Any]]) -> float:
        """The metric of this output's real numbers, one array for each sample."""
        found = np.stack([np.asarray(o, np.float64).reshape(-1) for o in outputs])
        match self.metric:
            case Metric.TOP1:
                return _share(self._classes(found) == self.targets.reshape(-1))
            case Metric.ELEMENT:
                maps = self.targets.reshape(len(found), -1)
                return _share((found > self.threshold) == (maps > 0.5))
            case Metric.MSE:
                return float(np.mean((found - self._inputs(found)) ** 2))
            case Metric.AUC:
                return area_under_curve(self._distances(found), self.targets.reshape(-1))
            case _:
                assert_never(self.metric)

    def _classes(self, found: Reals) -> NDArray[Any]:
        if found.shape[1] == 1:
            return (found[:, 0] > self.threshold).astype(np.int64)
        return found.argmax(axis=1)

    def _inputs(self, found: Reals) -> Reals:
        (array,) = self.samples.arrays.values()
        return np.asarray(array, np.float64).reshape(found.shape)

    def _distances(self, found: Reals) -> Reals:
        return np.mean((found - self._inputs(found)) ** 2, axis=1)


def task_of(graph: Graph, samples: Samples) -> Task | None:
    """What can be measured with these samples of an integer graph, if anything."""
    if samples.random or samples.count == 0:
        return None
    if samples.labels is not None:
        return _labelled(graph, samples, samples.labels)
    if _reconstructs(graph):
        return Task(Metric.MSE, graph.outputs[0], _real_inputs(graph, samples), np.empty(0))
    return None


def _labelled(graph: Graph, samples: Samples, labels: NDArray[Any]) -> Task | None:
    each = labels[0].size
    if each > 1:
        same = [n for n in graph.outputs if graph.value(n).type.size == each]
        return _thresholded(Metric.ELEMENT, graph, same[0], samples, labels) if same else None
    if _reconstructs(graph) and set(np.unique(labels)) <= {0, 1}:
        return Task(Metric.AUC, graph.outputs[0], _real_inputs(graph, samples), labels)
    for name in graph.outputs:
        if graph.value(name).type.size > max(1, int(labels.max())):
            return Task(Metric.TOP1, name, samples, labels)
    single = [n for n in graph.outputs if graph.value(n).type.size == 1]
    if single and set(np.unique(labels)) <= {0, 1}:
        return _thresholded(Metric.TOP1, graph, single[0], samples, labels)
    return None


def _thresholded(
    metric: Metric, graph: Graph, name: str, samples: Samples, labels: NDArray[Any]
) -> Task:
    """Two classes on one channel: a probability is parted at a half, a logit at zero."""
    low, high = _ends(graph.value(name))
    is_probability = low > -0.1 and high < 1.1
    return Task(metric, name, samples, labels, 0.5 if is_probability else 0.0)


def _ends(value: Value) -> tuple[float, float]:
    """The real numbers at the ends of a value's proven range."""
    ends = real(value, np.array([value.interval.lo, value.interval.hi]))
    return float(ends[0]), float(ends[1])


def _reconstructs(graph: Graph) -> bool:
    """Whether the model's only output has the shape of its only input."""
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        return False
    return graph.value(graph.inputs[0]).shape == graph.value(graph.outputs[0]).shape


def _real_inputs(graph: Graph, samples: Samples) -> Samples:
    """The samples with inputs that are stored integers as the numbers that they stand for."""
    (name,) = graph.inputs
    array = samples.arrays[name]
    if array.dtype.kind == "f":
        return samples
    return Samples({name: real(graph.value(name), array)}, samples.labels)


def _share(right: NDArray[np.bool_]) -> float:
    """The part that is right."""
    return float(np.count_nonzero(right) / right.size)


def area_under_curve(scores: Reals, labels: NDArray[Any]) -> float:
    """The chance that a sample labelled 1 scores above one labelled 0; ties count half."""
    ones, zeros = scores[labels == 1], scores[labels == 0]
    above = (ones[:, None] > zeros[None, :]).mean()
    return float(above + 0.5 * (ones[:, None] == zeros[None, :]).mean())
