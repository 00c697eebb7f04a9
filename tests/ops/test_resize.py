"""Resize and Upsample."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from binpoint.errors import AccumulatorOverflow, UnsupportedOperator
from binpoint.numeric import float32
from binpoint.numeric.fixed import I8, U8, FixedType
from binpoint.ops.copy import IntCopy
from binpoint.ops.resize import IntResizeLinear, Resize, Weights
from binpoint.ops.slices import IntGather
from tests.ops.moves import Case, agreed, codes_for, kind, lowered, ops, results, runtime_codes

X, Y = kind(I8, 0.05, 3), kind(U8, 0.043, 120)
COORDINATES = ("asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
SIZES = ((2, 3, 14, 18), (2, 3, 13, 1), (2, 3, 3, 18), (2, 3, 21, 27))
SCALES = ((1, 1, 2, 2), (1, 1, 1.5, 3.3), (1, 1, 0.5, 0.7), (1, 1, 4, 2.6))
INTEGRAL = ((1, 1, 2, 2), (1, 1, 3, 1), (1, 1, 2, 3), (1, 1, 1.5, 0.5))


def by_size(sizes: tuple[int, ...], **attributes: str) -> Case:
    operands = ((2, 3, 7, 9), None, None, np.array(sizes, np.int64))
    return Case("Resize", Resize, operands, attributes=attributes)


def by_scale(scales: tuple[float, ...], **attributes: str) -> Case:
    operands = ((2, 3, 7, 9), None, np.array(scales, np.float32))
    return Case("Resize", Resize, operands, attributes=attributes)


@pytest.mark.parametrize("coordinates", [*COORDINATES, "half_pixel_symmetric"])
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_nearest_is_onnxruntimes(coordinates: str, rounding: str, rng: np.random.Generator) -> None:
    modes = {"coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
    for case in (*(by_size(s, **modes) for s in SIZES), *(by_scale(s, **modes) for s in SCALES)):
        inputs = case.samples(rng)
        np.testing.assert_array_equal(case.run_float(inputs)[0], case.runtime(inputs)[0])


def test_nearest_of_older_opsets_is_onnxruntimes(rng: np.random.Generator) -> None:
    for scales in SCALES[:3]:
        operands = ((2, 3, 7, 9), np.array(scales, np.float32))
        cases = [Case("Resize", Resize, operands, opset=10)]
        if min(scales) >= 1:
            cases.append(Case("Upsample", Resize, operands, opset=9))
        for case in cases:
            inputs = case.samples(rng)
            np.testing.assert_array_equal(case.run_float(inputs)[0], case.runtime(inputs)[0])


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_linear_is_onnxruntimes_but_for_float_rounding(
    coordinates: str, rng: np.random.Generator
) -> None:
    modes = {"coordinate_transformation_mode": coordinates, "mode": "linear"}
    for case in (by_size(SIZES[0], **modes), *(by_scale(s, **modes) for s in INTEGRAL)):
        inputs = case.samples(rng)
        found, want = case.run_float(inputs)[0], case.runtime(inputs)[0]
        np.testing.assert_allclose(found, want, rtol=0, atol=2e-6)


def test_linear_along_one_axis_is_onnxruntimes(rng: np.random.Generator) -> None:
    operands = ((2, 3, 7), None, np.array([1, 1, 4], np.float32))
    case = Case("Resize", Resize, operands, attributes={"mode": "linear"})
    inputs = case.samples(rng)
    found, want = case.run_float(inputs)[0], case.runtime(inputs)[0]
    np.testing.assert_allclose(found, want, rtol=0, atol=2e-6)


def test_nearest_codes_are_onnxruntimes(rng: np.random.Generator) -> None:
    for case in (by_scale(SCALES[0]), by_scale(SCALES[1])):
        graph = lowered(case.graph({0: X}, X), "onnxruntime")
        codes = codes_for(graph, rng)
        (want,) = runtime_codes(case, {0: X}, X, codes)
        np.testing.assert_array_equal(results(graph, codes)[0], want)


def test_nearest_by_an_integer_is_one_copy() -> None:
    def kinds(scales: tuple[float, ...]) -> list[type]:
        return [type(op) for op in ops(lowered(by_scale(scales).graph({0: X}, X), "dyadic"))]

    assert kinds((1, 1, 2, 3)) == [IntCopy]
    assert kinds((1, 1, 1.5, 3)) == [IntCopy, IntGather]


@pytest.mark.parametrize("semantics", ["dyadic", "onnxruntime"])
@pytest.mark.parametrize("scales", INTEGRAL)
def test_all_witnesses_agree(
    semantics: str, scales: tuple[float, ...], rng: np.random.Generator
) -> None:
    graph = by_scale(scales, mode="linear").graph({0: X}, Y)
    agreed(lowered(graph, "dyadic" if semantics == "dyadic" else "onnxruntime"), rng, count=2)


def test_all_witnesses_agree_along_one_axis(rng: np.random.Generator) -> None:
    operands = ((2, 3, 7), None, np.array([1, 1, 2], np.float32))
    case = Case("Resize", Resize, operands, attributes={"mode": "linear"})
    agreed(lowered(case.graph({0: X}, Y), "dyadic"), rng, count=2)


def test_dyadic_linear_is_the_exact_value_rounded(rng: np.random.Generator) -> None:
    graph = lowered(by_scale((1, 1, 2, 3), mode="linear").graph({0: X}, Y), "dyadic")
    codes = codes_for(graph, rng)
    (found,) = results(graph, codes)
    ratio = X.scale.as_fraction() / Y.scale.as_fraction()
    for (n, c, i, j), code in np.ndenumerate(found):
        total = Fraction(0)
        for y, wy in _hat(Fraction(2 * i + 1, 4) - Fraction(1, 2), 7):
            for x, wx in _hat(Fraction(2 * j + 1, 6) - Fraction(1, 2), 9):
                total += wy * wx * (int(codes["x0"][n, c, y, x]) - X.zero_point)
        steps = min(max(total * ratio + Y.zero_point, Fraction(0)), Fraction(255))
        assert abs(int(code) - steps) <= Fraction(1, 2) + Fraction(1, 2**16)


def _hat(at: Fraction, size: int) -> list[tuple[int, Fraction]]:
    """The elements around a coordinate with their weights, edges repeated."""
    low = at.numerator // at.denominator
    share = at - low
    places = [min(max(low + i, 0), size - 1) for i in (0, 1)]
    return [(places[0], 1 - share), (places[1], share)]


LINEAR = [
    by_scale(scales, mode="linear", coordinate_transformation_mode=coordinates)
    for scales in (*INTEGRAL, (1, 1, 4, 2.6))
    for coordinates in (*COORDINATES, "half_pixel_symmetric")
]


@pytest.mark.parametrize("case", [*LINEAR, by_size(SIZES[1], mode="linear")])
@pytest.mark.parametrize("y", [X, kind(I8, 0.043, 120), kind(I8, 0.0011, -5), kind(I8, 2.5, -5)])
def test_linear_codes_are_onnxruntimes(case: Case, y: FixedType, rng: np.random.Generator) -> None:
    graph = lowered(case.graph({0: X}, y), "onnxruntime")
    for _ in range(3):
        codes = codes_for(graph, rng)
        (want,) = runtime_codes(case, {0: X}, y, codes)
        np.testing.assert_array_equal(results(graph, codes)[0], want)


@pytest.mark.parametrize(
    "types",
    [
        (X, X),
        (X, kind(I8, 0.0011, -5)),
        (X, kind(U8, 2.5, 5)),
        (kind(U8, 0.05, 255), kind(I8, 0.05, 127)),
        (kind(I8, 0.25, -128), kind(I8, 0.25, -128)),
    ],
)
def test_the_integer_path_never_decides_wrongly(
    types: tuple[FixedType, FixedType], rng: np.random.Generator
) -> None:
    for scales in ((1, 1, 2, 2), (1, 1, 3, 1.4)):
        operands = ((1, 40, 9, 11), None, np.array(scales, np.float32))
        case = Case("Resize", Resize, operands, attributes={"mode": "linear"})
        graph = lowered(case.graph({0: types[0]}, types[1]), "onnxruntime")
        agreed(graph, rng, count=4)


def test_one_axis_is_the_exact_sum_rounded_in_float32(rng: np.random.Generator) -> None:
    operands = ((2, 3, 7), None, np.array([1, 1, 4], np.float32))
    case = Case("Resize", Resize, operands, attributes={"mode": "linear"})
    graph = lowered(case.graph({0: X}, Y), "onnxruntime")
    (op,) = (op for op in ops(graph) if isinstance(op, IntResizeLinear))
    codes = codes_for(graph, rng)
    (sums,) = op.reference(np.moveaxis(codes["x0"], 1, -1))
    factor = np.float32(float(X.scale)) / np.float32(float(Y.scale) * op.denominator)
    want = float32.requantize(sums, factor, Y.zero_point, 0, 255)
    np.testing.assert_array_equal(results(graph, codes)[0], np.moveaxis(want, -1, 1))


def test_weights_sum_to_the_denominator_on_neighbours() -> None:
    weights = Weights.of(4, [Fraction(o, 3) - Fraction(1, 3) for o in range(12)])
    assert weights.denominator == 3
    assert weights.low == (0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3)
    assert weights.weight == (0, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0)


def test_a_resize_to_the_same_size_is_nothing() -> None:
    graph = by_scale((1, 1, 1, 1)).graph()
    assert graph.outputs == graph.inputs


def test_weights_of_large_numbers_are_refused() -> None:
    graph = by_scale((1, 1, 1.4995117, 1.4995117), mode="linear").graph({0: X}, Y)
    with pytest.raises(AccumulatorOverflow, match="leave 32 bits"):
        lowered(graph, "dyadic")


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (by_scale((1, 1, 2, 2), mode="cubic"), "no integer form"),
        (by_scale((1, 1, 2, 2), coordinate_transformation_mode="tf_crop_and_resize"), "tf_crop"),
        (by_scale((1, 2, 2, 2), mode="linear"), "linear along axes"),
        (by_scale((1, 1, 1.2345678, 2), mode="linear"), "ratio of small integers"),
        (by_size((2, 3, 9, 9), keep_aspect_ratio_policy="not_larger"), "keep_aspect_ratio"),
        (by_scale((1, 1, 2)), "3 scales for 4 axes"),
        (by_size((2, 3)), "2 sizes for 4 axes"),
        (by_size((2, 3, 0, 4)), "at least one"),
    ],
)
def test_what_cannot_be_resized_is_refused(bad: Case, text: str) -> None:
    with pytest.raises(UnsupportedOperator, match=text):
        bad.graph()
