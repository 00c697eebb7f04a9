"""Padding."""

from __future__ import annotations

import numpy as np
import pytest

from binpoint.errors import NoIntegerForm, UnsupportedOperator
from binpoint.ir.evaluate import evaluate
from binpoint.numeric.fixed import I8
from binpoint.ops.pad import IntPad, Pad
from tests.ops.moves import Case, agreed, codes_for, kind, lowered, ops, results, runtime_codes

X, Y = kind(I8, 0.05, 3), kind(I8, 0.09, -7)
MODES = ("constant", "reflect", "edge", "wrap")
PADS = ([0, 0, 2, 1, 0, 0, 3, 2], [0, 1, -2, 1, 0, 0, 3, -2], [1, 0, 0, -1, 1, 0, 2, 0])


def case(mode: str, pads: list[int], *more: np.ndarray | None) -> Case:
    operands = ((2, 3, 6, 5), np.array(pads, np.int64), *more)
    return Case("Pad", Pad, operands, attributes={"mode": mode})


def test_float_results_are_those_of_onnxruntime(rng: np.random.Generator) -> None:
    for mode in MODES:
        for pads in PADS:
            each = case(mode, pads)
            inputs = each.samples(rng)
            np.testing.assert_array_equal(each.run_float(inputs)[0], each.runtime(inputs)[0])


def test_axes_and_older_forms_are_read(rng: np.random.Generator) -> None:
    some = np.array([2, 1, 0, 3], np.int64)
    value, axes = np.array(1.5, np.float32), np.array([-1, 1], np.int64)
    old = {"pads": [0, 1, 2, 0], "value": 2.5}
    for each in (
        Case("Pad", Pad, ((2, 3, 6), some, value, axes)),
        Case("Pad", Pad, ((2, 3),), opset=9, attributes=old),
    ):
        inputs = each.samples(rng)
        np.testing.assert_array_equal(each.run_float(inputs)[0], each.runtime(inputs)[0])


@pytest.mark.parametrize("value", [0.0, 1.25, -3.0, 1000.0])
@pytest.mark.parametrize("result", [X, Y])
def test_codes_are_those_of_onnxruntime(
    value: float, result: object, rng: np.random.Generator
) -> None:
    kinds = X if result == X else Y
    each = case("constant", PADS[1], np.array(value, np.float32))
    graph = lowered(each.graph({0: X}, kinds), "onnxruntime")
    codes = codes_for(graph, rng)
    (want,) = runtime_codes(each, {0: X}, kinds, codes)
    np.testing.assert_array_equal(results(graph, codes)[0], want)


@pytest.mark.parametrize("mode", MODES)
def test_all_witnesses_agree(mode: str, rng: np.random.Generator) -> None:
    agreed(lowered(case(mode, PADS[0]).graph({0: X}, X), "dyadic"), rng)


def test_a_padding_of_one_code_is_filled_around() -> None:
    graph = lowered(
        case("constant", PADS[0], np.array(-1.3, np.float32)).graph({0: X}, X), "dyadic"
    )
    (op,) = (op for op in ops(graph) if isinstance(op, IntPad))
    assert op.code == -23
    (value,) = (v for v in graph.values() if v.name in graph.outputs)
    zeros = evaluate(graph, {"x0": np.full((2, 3, 6, 5), 3)})[value.name]
    assert set(np.unique(zeros)) == {-23, 3}


def test_codes_are_padded_with_a_code(rng: np.random.Generator) -> None:
    each = case("constant", PADS[0], np.array(-5, np.int8))
    graph = lowered(each.graph({0: X}, codes=(0, 2)), "onnxruntime")
    (op,) = (op for op in ops(graph) if isinstance(op, IntPad))
    assert op.code == -5
    each = case("constant", PADS[0])
    graph = lowered(each.graph({0: X}, codes=(0,)), "onnxruntime")
    codes = codes_for(graph, rng)
    want = np.pad(codes["x0"], [(0, 0), (0, 0), (2, 3), (1, 2)])
    np.testing.assert_array_equal(results(graph, codes)[0], want)


def test_a_value_outside_the_result_type_is_refused() -> None:
    each = case("constant", PADS[0], np.array(100.0, np.float32))
    with pytest.raises(NoIntegerForm, match="lies outside"):
        lowered(each.graph({0: X}, X), "dyadic")


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (case("symmetric", PADS[0]), "mode"),
        (case("reflect", [0, 0, 0, 5, 0, 0, 0, 0]), "reflect of 5"),
        (case("wrap", [0, 0, 0, 6, 0, 0, 0, 0]), "wrap of 6"),
        (case("constant", [0, 0, 0, -5, 0, 0, 0, 0]), "empty"),
        (case("constant", [0, 0, 0, -5, 0, 0, 0, 1]), "cut everything"),
        (case("constant", [0, 0, 1]), "do not fit"),
        (case("constant", PADS[0], np.array(-np.inf, np.float32)), "padding with -inf"),
    ],
)
def test_what_cannot_be_padded_is_refused(bad: Case, text: str) -> None:
    with pytest.raises(UnsupportedOperator, match=text):
        bad.graph()
