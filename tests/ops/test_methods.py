"""Methods other than tables: how far they are from the functions, and from what was released."""

from __future__ import annotations

import numpy as np
import pytest

from binpoint.errors import NoIntegerForm
from binpoint.ir.op import Semantics
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, I16, FixedType
from binpoint.ops.exponential import Exponential, PolynomialExp, ShiftExp
from binpoint.ops.gate import KINDS, Gated, GatedKind, gated
from binpoint.ops.methods import Method
from binpoint.ops.softmax import Softmax
from tests.ops.kernels import Bench


@pytest.mark.parametrize(
    ("name", "scale", "most"),
    [
        ("shift", 2.0**-9, 0.045),
        ("shift", 1 / 16, 0.065),
        ("polynomial", 2.0**-9, 0.005),
        ("polynomial", 1 / 64, 0.03),
    ],
)
def test_exponentials_are_near(name: str, scale: float, most: float) -> None:
    terms: Exponential = PolynomialExp.of(scale, "")
    if name == "shift":
        terms = ShiftExp.of(scale, 15, 2**30, "")
    distance = np.arange(round(9 / scale), dtype=np.int64)
    values = terms.terms(distance)
    assert values[0] == terms.peak == values.max()
    assert np.abs(values / terms.peak - np.exp(-distance * scale)).max() < most


def gelu_error(method: Method, kind: GatedKind, reach: float) -> float:
    """The largest error on all codes of a row, its largest element the largest code."""
    x = FixedType.per_tensor(I8, Dyadic.from_float(np.float32(reach / 127)))
    y = FixedType.per_tensor(I16, Dyadic(1, -11))
    bench = Bench()
    bench.lower(Gated(kind, method), [bench.input((1, 256), x)], y, Semantics.DYADIC)
    codes = np.arange(-128, 128, dtype=np.int64)[None]
    (result,) = bench.reference([codes])
    return float(np.abs(y.dequantize(result) - gated(kind, x.dequantize(codes))).max())


@pytest.mark.parametrize("kind", KINDS)
def test_shifts_are_five_times_nearer_than_as_released(kind: GatedKind) -> None:
    released = gelu_error(Method.SHIFT_RELEASED, kind, 4.0)
    assert gelu_error(Method.SHIFT, kind, 4.0) * 5 < released
    for reach in (2.0, 4.0, 8.0):
        assert gelu_error(Method.SHIFT, kind, reach) < 0.09
        assert gelu_error(Method.POLYNOMIAL, kind, reach) < 0.04


def test_steps_that_no_method_can_take_are_refused() -> None:
    for method, exponent in ((Method.POLYNOMIAL, 2), (Method.SHIFT, -40)):
        kind = FixedType.per_tensor(I8, Dyadic(1, exponent))
        for op in (Softmax(1, method), Gated("gelu", method)):
            bench = Bench()
            target = FixedType.per_tensor(I8, Dyadic(1, -8))
            with pytest.raises(NoIntegerForm, match="steps"):
                bench.lower(op, [bench.input((2, 8), kind)], target, Semantics.DYADIC)


def test_as_released_results_of_another_type_are_rescaled(rng: np.random.Generator) -> None:
    kind, target = FixedType.per_tensor(I8, Dyadic(1, -4)), FixedType.per_tensor(I8, Dyadic(1, -7))
    bench = Bench()
    x = bench.input((5, 64), kind)
    bench.lower(Softmax(1, Method.SHIFT_RELEASED), [x], None, Semantics.DYADIC)
    bench.lower(Softmax(1, Method.SHIFT_RELEASED), [x], target, Semantics.DYADIC)
    fine, coarse = bench.reference([rng.integers(-128, 128, (5, 64))])
    np.testing.assert_array_equal(coarse, np.minimum((fine + 128) >> 8, 127))
