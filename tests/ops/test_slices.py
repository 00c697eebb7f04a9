"""Selections of elements by constant indices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binpoint.errors import UnsupportedOperator
from binpoint.numeric.fixed import I8, U8
from binpoint.ops.copy import IntCopy
from binpoint.ops.onehot import Rows
from binpoint.ops.slices import IntGather, Progression, Take, index_map
from tests.ops.moves import Case, agreed, codes_for, kind, lowered, ops, results, runtime_codes

X = kind(I8, 0.05, 3)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def case(op: str, *operands: tuple[int, ...] | np.ndarray | None, **more: object) -> Case:
    outputs, opset = int(str(more.pop("outputs", 1))), int(str(more.pop("opset", 21)))
    return Case(
        op,
        Rows if op == "Gather" else Take,
        operands,
        outputs=outputs,
        opset=opset,
        attributes=more,
    )


IRREGULAR = case("Gather", (3, 9, 5), i64(4, 0, 0, 8), axis=1)
REGULAR = {
    "slice": case("Slice", (3, 9, 5), i64(-1, 2), i64(-100, 9), i64(1, 2), i64(-2, 3)),
    "slice-clipped": case("Slice", (3, 9), i64(-100), i64(100), i64(0)),
    "slice-end-to-start": case("Slice", (4, 6), i64(10), i64(-100), i64(1), i64(-1)),
    "slice-attributes": case(
        "Slice", (3, 9, 5), opset=9, axes=[0, 2], starts=[1, -3], ends=[3, -1]
    ),
    "split-equal": case("Split", (3, 9, 5), outputs=3, axis=1, opset=13),
    "split-sizes": case("Split", (3, 9, 5), i64(2, 6, 1), outputs=3, axis=-2),
    "split-attribute": case("Split", (3, 9), outputs=2, axis=1, opset=11, split=[4, 5]),
    "split-count": case("Split", (3, 9, 5), outputs=5, axis=1, num_outputs=5),
    "gather-scalar": case("Gather", (3, 9, 5), np.array(-2), axis=2),
    "gather-progression": case("Gather", (3, 9, 5), i64(7, 4, 1), axis=1),
    "gather-matrix": case("Gather", (3, 9, 5), np.array([[1, 3], [5, 7]]), axis=1),
    "expand": case("Expand", (3, 1, 5), i64(2, 1, 4, 1)),
    "tile": case("Tile", (3, 2, 5), i64(2, 1, 3)),
    "depth-to-space": case("DepthToSpace", (2, 12, 3, 5), blocksize=2),
    "depth-to-space-crd": case("DepthToSpace", (2, 12, 3, 5), blocksize=2, mode="CRD"),
    "space-to-depth": case("SpaceToDepth", (2, 3, 4, 6), blocksize=2),
}
CASES = {**REGULAR, "gather-irregular": IRREGULAR}


@pytest.mark.parametrize("name", CASES)
def test_float_results_are_those_of_onnxruntime(name: str, rng: np.random.Generator) -> None:
    inputs = CASES[name].samples(rng)
    wanted = CASES[name].runtime(inputs)
    for found, want in zip(CASES[name].run_float(inputs), wanted, strict=True):
        np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("name", [n for n in CASES if CASES[n].opset >= 10])
def test_codes_are_those_of_onnxruntime(name: str, rng: np.random.Generator) -> None:
    graph = lowered(CASES[name].graph({0: X}, X), "onnxruntime")
    codes = codes_for(graph, rng)
    wanted = runtime_codes(CASES[name], {0: X}, X, codes)
    for found, want in zip(results(graph, codes), wanted, strict=True):
        np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("name", REGULAR)
def test_regular_selections_are_copies(name: str) -> None:
    graph = lowered(REGULAR[name].graph({0: X}, X), "dyadic")
    assert any(isinstance(op, IntCopy) for op in ops(graph))
    assert not any(isinstance(op, IntGather) for op in ops(graph))


@pytest.mark.parametrize("name", ["slice", "tile", "depth-to-space-crd", "gather-irregular"])
def test_all_witnesses_agree(name: str, rng: np.random.Generator) -> None:
    agreed(lowered(CASES[name].graph({0: X}, X), "dyadic"), rng)


def test_a_selection_may_change_its_type(rng: np.random.Generator) -> None:
    other = kind(U8, 0.07, 100)
    graph = lowered(IRREGULAR.graph({0: X}, other), "onnxruntime")
    codes = codes_for(graph, rng)
    (want,) = runtime_codes(IRREGULAR, {0: X}, other, codes)
    np.testing.assert_array_equal(results(graph, codes)[0], want)


def test_many_regular_axes_become_several_copies(rng: np.random.Generator) -> None:
    wide = case("Tile", (2, 2, 2, 2), i64(2, 2, 2, 2))
    graph = lowered(wide.graph({0: X}, X), "dyadic")
    codes = codes_for(graph, rng)
    np.testing.assert_array_equal(results(graph, codes)[0], np.tile(codes["x0"], (2, 2, 2, 2)))
    assert sum(isinstance(op, IntCopy) for op in ops(graph)) > 1


@given(
    st.integers(-3, 3),
    st.lists(st.tuples(st.integers(1, 4), st.integers(-3, 3)), min_size=1, max_size=3),
)
def test_a_progression_lists_its_indices(start: int, loops: list[tuple[int, int]]) -> None:
    index = np.array([start])
    for size, stride in loops:
        index = (index[:, None] + np.arange(size) * stride).reshape(-1)
    found = Progression.of(index.tolist())
    if found is None:
        return
    again = np.array([found.offset])
    for size, stride in zip(found.sizes, found.strides, strict=True):
        again = (again[:, None] + np.arange(size) * stride).reshape(-1)
    np.testing.assert_array_equal(again, index)


def test_progressions_of_the_usual_selections_are_found() -> None:
    assert Progression.of([0, 0, 1, 1, 2, 2]) == Progression(0, (3, 2), (1, 0))
    assert Progression.of([0, 1, 2, 0, 1, 2]) == Progression(0, (2, 3), (0, 1))
    assert Progression.of([5, 3, 1]) == Progression(5, (3,), (-2,))
    assert Progression.of([0, 1, 3]) is None


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_an_index_map_keeps_its_indices(indices: list[int]) -> None:
    assert list(index_map(indices)) == indices


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (case("Slice", (3, 9), i64(5), i64(5), i64(1)), "empty"),
        (case("Slice", (3, 9), i64(0), i64(5), i64(2)), "axis 2"),
        (case("Split", (3, 9), outputs=2, axis=1, opset=13), "do not split"),
        (case("Gather", (3, 9), i64(9), axis=1), "outside"),
        (case("Gather", (3, 9), (2,), axis=1), "no constant table"),
        (case("Tile", (3, 9), i64(0, 1)), "repeats"),
        (case("DepthToSpace", (1, 6, 2, 2), blocksize=2), "blocks"),
        (case("SpaceToDepth", (1, 6, 3, 2), blocksize=2), "blocks"),
    ],
)
def test_what_cannot_be_selected_is_refused(bad: Case, text: str) -> None:
    with pytest.raises(UnsupportedOperator, match=text):
        bad.graph()
