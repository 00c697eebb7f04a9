from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, U8, FixedType, IntType, TensorType
from binpoint.ops.copy import IntCopy
from binpoint.passes.samples import Samples
from binpoint.report.accuracy import Metric, area_under_curve, task_of


def graph_of(
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    scale: float = 1.0,
    storage: IntType = I8,
) -> Graph:
    """A graph whose output is the first elements of its input."""
    kind = FixedType.per_tensor(storage, Dyadic.from_float(scale))
    graph = Graph("g")
    build = GraphBuilder(graph)
    x = build.input("x", TensorType(inputs, kind))
    size = int(np.prod(outputs))
    y = build.one(IntCopy.of(outputs, (size,), (1,), 0, kind), x)
    graph.outputs = (y.name,)
    graph.output_names = ("y",)
    return graph


def samples_of(x: NDArray[Any], labels: NDArray[Any] | None = None, **more: Any) -> Samples:
    return Samples({"x": x}, labels, **more)


def test_one_class_a_sample_is_top_1() -> None:
    graph = graph_of((1, 6), (1, 3))
    task = task_of(graph, samples_of(np.zeros((4, 6), np.float32), np.array([0, 2, 1, 1])))
    assert task is not None
    assert task.metric is Metric.TOP1
    outputs = [np.array([row], np.float32) for row in ([9, 1, 2], [1, 2, 3], [0, 5, 5], [5, 0, 5])]
    assert task.score(outputs) == 0.75  # of equal ones the first counts


@pytest.mark.parametrize(("scale", "storage", "threshold"), [(1 / 256, U8, 0.5), (0.125, I8, 0.0)])
def test_one_channel_is_parted_at_a_half_or_at_zero(
    scale: float, storage: IntType, threshold: float
) -> None:
    graph = graph_of((1, 6), (1, 1), scale, storage)
    task = task_of(graph, samples_of(np.zeros((3, 6), np.float32), np.array([0, 1, 1])))
    assert task is not None
    assert task.threshold == threshold
    values = (threshold - 0.01, threshold + 0.01, threshold - 0.01)
    assert task.score([np.array([[v]], np.float32) for v in values]) == pytest.approx(2 / 3)


def test_a_label_an_element_counts_elements() -> None:
    graph = graph_of((1, 6), (1, 2, 2), 1 / 256, U8)
    labels = np.array([[[0, 1], [1, 0]]])
    task = task_of(graph, samples_of(np.zeros((1, 6), np.float32), labels))
    assert task is not None
    assert task.metric is Metric.ELEMENT
    assert task.score([np.array([0.1, 0.9, 0.4, 0.2])]) == 0.75


def test_an_output_like_the_input_is_a_reconstruction() -> None:
    x = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    task = task_of(graph_of((1, 2), (1, 2)), samples_of(x))
    assert task is not None
    assert task.metric is Metric.MSE
    assert task.score([np.array([[1.0, 4.0]]), np.array([[3.0, 4.0]])]) == 1.0


def test_stored_inputs_are_compared_as_the_numbers_they_stand_for() -> None:
    graph = graph_of((1, 2), (1, 2), 0.5)
    task = task_of(graph, samples_of(np.array([[2, 4]], np.int8)))
    assert task is not None
    assert task.score([np.array([[1.0, 3.0]])]) == 0.5


def test_a_labelled_reconstruction_is_scored_by_how_well_it_parts() -> None:
    x = np.zeros((4, 3), np.float32)
    task = task_of(graph_of((1, 3), (1, 3)), samples_of(x, np.array([0, 1, 0, 1])))
    assert task is not None
    assert task.metric is Metric.AUC
    assert task.score([np.full((1, 3), e) for e in (0.1, 0.4, 0.2, 0.15)]) == 0.75


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([0, 1], 1.0), ([1, 0], 0.0), ([1, 1], 0.5)],
)
def test_the_area_under_the_curve_counts_ties_half(scores: list[int], expected: float) -> None:
    assert area_under_curve(np.array(scores, np.float64), np.array([0, 1])) == expected


@pytest.mark.parametrize(
    "samples",
    [
        samples_of(np.zeros((2, 6), np.float32)),
        samples_of(np.zeros((2, 6), np.float32), np.array([0, 1]), random=True),
        samples_of(np.zeros((2, 6), np.float32), np.array([0, 7])),
        samples_of(np.zeros((2, 6), np.float32), np.zeros((2, 5))),
        samples_of(np.zeros((0, 6), np.float32)),
    ],
    ids=["no labels", "noise", "more classes than outputs", "a map of another size", "none"],
)
def test_where_nothing_says_what_is_right_nothing_is_measured(samples: Samples) -> None:
    assert task_of(graph_of((1, 6), (1, 3)), samples) is None
