"""Operands joined along an axis."""

from __future__ import annotations

import numpy as np
import pytest

from binpoint.errors import UnsupportedOperator
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph
from binpoint.numeric import float32
from binpoint.numeric.fixed import I8, U8, FixedType, FloatType, TensorType
from binpoint.ops.concat import Concat, IntConcat
from binpoint.ops.lookup import IntLookup
from binpoint.ops.shape import to_channel_first, to_channel_last
from tests.ops.moves import Case, agreed, codes_for, kind, lowered, ops, results, runtime_codes

A, B, Y = kind(I8, 0.05, 3), kind(I8, 0.031, -20), kind(I8, 0.05, 3)
CONSTANT = np.linspace(-3, 3, 10, dtype=np.float32).reshape(2, 1, 5)
TWO = Case("Concat", Concat, ((2, 3, 5), (2, 4, 5)), attributes={"axis": -2})
THREE = Case("Concat", Concat, ((2, 3, 5), CONSTANT, (2, 4, 5)), attributes={"axis": 1})


@pytest.mark.parametrize("case", [TWO, THREE])
def test_float_results_are_those_of_onnxruntime(case: Case, rng: np.random.Generator) -> None:
    inputs = case.samples(rng)
    np.testing.assert_array_equal(case.run_float(inputs)[0], case.runtime(inputs)[0])


@pytest.mark.parametrize("result", [Y, kind(I8, 0.08, 11)])
def test_operands_of_other_types_are_converted_as_qlinearconcat_does(
    result: FixedType, rng: np.random.Generator
) -> None:
    graph = lowered(TWO.graph({0: A, 1: B}, result), "onnxruntime")
    codes = codes_for(graph, rng)
    (want,) = runtime_codes(TWO, {0: A, 1: B}, result, codes)
    np.testing.assert_array_equal(results(graph, codes)[0], want)
    parts = [
        float32.concat_table(
            codes[name],
            float(t.scale),
            t.zero_point,
            float(result.scale),
            result.zero_point,
            -128,
            127,
        )
        for name, t in (("x0", A), ("x1", B))
    ]
    np.testing.assert_array_equal(np.concatenate(parts, 1), want)


def test_equal_types_are_joined_without_tables() -> None:
    graph = lowered(TWO.graph({0: A, 1: A}, A), "onnxruntime")
    assert [type(op) for op in ops(graph)] == [IntConcat]
    graph = lowered(TWO.graph({0: A, 1: B}, A), "onnxruntime")
    assert [type(op) for op in ops(graph)] == [IntLookup, IntConcat]


def test_a_constant_is_converted_at_once(rng: np.random.Generator) -> None:
    types = {0: A, 2: B}
    graph = lowered(THREE.graph(types, Y), "onnxruntime")
    codes = codes_for(graph, rng)
    (want,) = runtime_codes(THREE, types, Y, codes)
    np.testing.assert_array_equal(results(graph, codes)[0], want)
    assert sum(isinstance(op, IntLookup) for op in ops(graph)) == 1


def test_all_witnesses_agree(rng: np.random.Generator) -> None:
    agreed(lowered(THREE.graph({0: A, 2: B}, Y), "dyadic"), rng)


def test_transposed_operands_are_joined_before_their_transpositions(
    rng: np.random.Generator,
) -> None:
    graph = Graph("one")
    build = GraphBuilder(graph)
    parts = [
        to_channel_first(
            build, build.input(f"x{i}", TensorType((1, 4, 5, c), FloatType()), fixed=A)
        )
        for i, c in enumerate((2, 3))
    ]
    joined = to_channel_last(build, build.one(Concat(1), *parts))
    graph.outputs = (joined.name,)
    graph = lowered(graph, "dyadic")
    assert [type(op) for op in ops(graph)] == [IntConcat]
    codes = codes_for(graph, rng)
    want = np.concatenate([codes["x0"], codes["x1"]], 3)
    np.testing.assert_array_equal(results(graph, codes)[0], want)


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (Case("Concat", Concat, ((2, 3), (3, 3)), attributes={"axis": 1}), "do not fit"),
        (Case("Concat", Concat, ((2, 3), (2, 3, 1)), attributes={"axis": 1}), "do not fit"),
        (Case("Concat", Concat, ((2, 3), (2, 3)), attributes={"axis": 2}), "outside rank"),
    ],
)
def test_what_cannot_be_joined_is_refused(bad: Case, text: str) -> None:
    with pytest.raises(UnsupportedOperator, match=text):
        bad.graph()


def test_codes_of_different_scales_are_not_joined_as_they_are() -> None:
    with pytest.raises(UnsupportedOperator, match="different scales"):
        TWO.graph({0: A, 1: kind(U8, 0.05)}, codes=(0, 1))
