"""BatchNormalization that stands alone, and PRelu."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from binpoint import ort
from binpoint.errors import UnsupportedOperator
from binpoint.ir.op import Semantics
from binpoint.numeric import float32
from binpoint.numeric.fixed import I8, I16, U8, FixedType
from binpoint.ops.affine import Affine, AffineRequantize, IntChannelLookup
from binpoint.ops.lookup import IntLookup
from binpoint.ops.prelu import IntPRelu, PRelu
from tests.ops.float_cases import real
from tests.ops.kernels import Bench
from tests.ops.moves import Case, agreed, codes_for, kind, lowered, ops, results, runtime_codes

X, Y = kind(I8, 0.05, 3), kind(U8, 0.031, 120)
CHANNELS = 6
_RNG = np.random.default_rng(7)
SCALE = _RNG.normal(size=CHANNELS).astype(np.float32)
BIAS = _RNG.normal(size=CHANNELS).astype(np.float32)
MEAN = _RNG.normal(size=CHANNELS).astype(np.float32)
VARIANCE = _RNG.uniform(0.1, 2, CHANNELS).astype(np.float32)
SLOPE = np.array([0.25, -0.5, 0, 1, 3, 1e-3], np.float32)


def norm(shape: tuple[int, ...]) -> Case:
    return Case(
        "BatchNormalization", Affine, (shape, SCALE, BIAS, MEAN, VARIANCE), opset=15,
        attributes={"epsilon": 1e-3},
    )  # fmt: skip


def prelu(shape: tuple[int, ...], slope: np.ndarray) -> Case:
    return Case("PRelu", PRelu, (shape, slope), opset=16)


CASES = {
    "norm-image": norm((2, CHANNELS, 4, 5)),
    "norm-rows": norm((3, CHANNELS)),
    "norm-sequence": norm((2, CHANNELS, 7)),
    "prelu-image": prelu((2, CHANNELS, 4, 5), SLOPE.reshape(-1, 1, 1)),
    "prelu-rows": prelu((3, CHANNELS), SLOPE),
    "prelu-last": prelu((2, 5, CHANNELS), SLOPE),
    "prelu-one": prelu((2, CHANNELS, 4), np.array([0.3], np.float32)),
}


@pytest.mark.parametrize("name", CASES)
def test_float_results_are_those_of_onnxruntime(name: str, rng: np.random.Generator) -> None:
    inputs = CASES[name].samples(rng)
    np.testing.assert_array_equal(CASES[name].run_float(inputs)[0], CASES[name].runtime(inputs)[0])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("x", [X, kind(U8, 0.02, 100)])
def test_codes_are_those_of_onnxruntime(name: str, x: FixedType, rng: np.random.Generator) -> None:
    result = kind(x.storage, 0.031, x.storage.max - 100)
    graph = lowered(CASES[name].graph({0: x}, result), "onnxruntime")
    for _ in range(10):
        codes = codes_for(graph, rng)
        (want,) = runtime_codes(CASES[name], {0: x}, result, codes)
        np.testing.assert_array_equal(results(graph, codes)[0], want)


@pytest.mark.parametrize("name", ["norm-image", "prelu-image", "prelu-last"])
@pytest.mark.parametrize("semantics", ["dyadic", "onnxruntime"])
def test_all_witnesses_agree(name: str, semantics: str, rng: np.random.Generator) -> None:
    chosen = "dyadic" if semantics == "dyadic" else "onnxruntime"
    agreed(lowered(CASES[name].graph({0: X}, Y), chosen), rng)


def test_forms_are_chosen_by_semantics_and_width() -> None:
    def kinds(case: Case, semantics: str, x: FixedType) -> set[type]:
        chosen = "dyadic" if semantics == "dyadic" else "onnxruntime"
        return {type(op) for op in ops(lowered(case.graph({0: x}, Y), chosen))}

    wide = kind(I16, 0.001)
    assert AffineRequantize in kinds(CASES["norm-image"], "dyadic", X)
    assert IntPRelu in kinds(CASES["prelu-image"], "dyadic", X)
    assert AffineRequantize in kinds(CASES["norm-image"], "onnxruntime", wide)
    assert IntChannelLookup in kinds(CASES["norm-image"], "onnxruntime", X)
    assert IntChannelLookup in kinds(CASES["prelu-image"], "onnxruntime", X)
    assert kinds(CASES["prelu-one"], "dyadic", X) == {IntLookup}


@pytest.mark.parametrize("x", [X, kind(I16, 0.0005, 100)])
def test_dyadic_results_are_the_rounded_real_ones(x: FixedType, rng: np.random.Generator) -> None:
    """Off by one at most, and only where the real value lies within 2^-16 of a tie."""
    graph = lowered(CASES["norm-rows"].graph({0: x}, Y), "dyadic")
    codes = codes_for(graph, rng)
    scale, zero = Y.scale.as_fraction(), Y.zero_point
    inverse = np.float32(1) / np.sqrt(VARIANCE + np.float32(1e-3))
    a = SCALE * inverse
    b = BIAS - MEAN * a
    for index, found in np.ndenumerate(results(graph, codes)[0]):
        real = (int(codes["x0"][index]) - x.zero_point) * x.scale.as_fraction()
        steps = (real * Fraction(float(a[index[1]])) + Fraction(float(b[index[1]]))) / scale + zero
        if 0 <= steps <= 255:
            assert abs(found - steps) <= Fraction(1, 2) + Fraction(1, 2**16)
        else:
            assert found == (0 if steps < 0 else 255)


def test_dyadic_slopes_are_the_rounded_real_ones() -> None:
    rows = prelu((256, CHANNELS), SLOPE)
    graph = lowered(rows.graph({0: X}, Y), "dyadic")
    codes = {"x0": np.repeat(np.arange(-128, 128)[:, None], CHANNELS, axis=1)}
    for index, found in np.ndenumerate(results(graph, codes)[0]):
        real = (int(codes["x0"][index]) - X.zero_point) * X.scale.as_fraction()
        slope = Fraction(float(SLOPE[index[1]])) if real < 0 else Fraction(1)
        steps = real * slope / Y.scale.as_fraction() + Y.zero_point
        nearest = min(max(steps, Fraction(0)), Fraction(255))
        assert abs(found - nearest) <= Fraction(1, 2) + Fraction(1, 2**16)


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (prelu((2, CHANNELS, 4), np.ones((CHANNELS, 4), np.float32)), "slopes of shape"),
        (prelu((2, CHANNELS), np.ones(3, np.float32)), "slopes of shape"),
        (prelu((2, CHANNELS), np.ones((2, 1, CHANNELS), np.float32)), "slopes of shape"),
        (norm((2, 4, 3)), "do not fit 4 channels"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(bad: Case, text: str) -> None:
    with pytest.raises(UnsupportedOperator, match=text):
        bad.graph()


def test_a_variance_below_zero_is_refused() -> None:
    operands = ((2, CHANNELS), SCALE, BIAS, MEAN, -VARIANCE)
    with pytest.raises(UnsupportedOperator, match="not positive"):
        Case("BatchNormalization", Affine, operands, opset=15).graph()


def test_quotients_are_rounded_as_float32_rounds_them() -> None:
    """By 3, 5, …: results next to ties, which a product with the reciprocal moves."""
    divisors = np.array([3, 5, 6, 7, 9, 11], np.float32)
    x, y = kind(I8, 0.039, 3), kind(I8, 0.013, 5)
    codes = np.repeat(np.arange(-128, 128)[:, None], CHANNELS, axis=1)
    bench = Bench()
    parts = (real(divisors), real(np.zeros(CHANNELS, np.float32)))
    bench.lower(
        Affine(divides=True), [bench.input(codes.shape, x), *parts], y, Semantics.ONNXRUNTIME
    )
    (quotients,) = ort.evaluate(
        "Div", [float32.dequantize_linear(codes, float(x.scale), x.zero_point), divisors]
    )
    wanted = float32.quantize_linear(quotients, float(y.scale), y.zero_point, I8.min, I8.max)
    np.testing.assert_array_equal(bench.reference([codes])[0], wanted)
    bench = Bench()
    parts = (real((1 / divisors).astype(np.float32)), parts[1])
    bench.lower(Affine(), [bench.input(codes.shape, x), *parts], y, Semantics.ONNXRUNTIME)
    assert (bench.reference([codes])[0] != wanted).any()


@pytest.mark.parametrize("semantics", [Semantics.DYADIC, Semantics.ONNXRUNTIME])
def test_all_forms_of_a_quotient_agree(semantics: Semantics, rng: np.random.Generator) -> None:
    bench = Bench()
    for storage in (I8, I16):
        parts = (real(np.linspace(0.5, 3, CHANNELS, dtype=np.float32)), real(BIAS))
        x = bench.input((4, CHANNELS), kind(storage, 0.04, 3))
        bench.lower(Affine(divides=True), [x, *parts], Y, semantics)
    bench.agree(bench.codes(rng))
