"""IntThresholds: all its forms on the interpreter, the check graph and sanitized C."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from binpoint.errors import AccumulatorOverflow, NoIntegerForm
from binpoint.ir.op import Semantics
from binpoint.numeric import monotone
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.enclosed import Factor
from binpoint.numeric.fixed import FixedType, IntType
from binpoint.numeric.monotone import Clip, Count, Rule, Shift, Slope, Step
from binpoint.ops.rational import Quantizer, Rational, meaning, rounding
from binpoint.ops.thresholds import IntThresholds
from tests.ops.kernels import Bench

I20 = IntType(20, signed=True)
SUM = FixedType.per_tensor(I20, Dyadic.from_float(0.0123))


def result(bits: int, *, signed: bool = True, scale: float = 0.7) -> FixedType:
    return FixedType.per_tensor(IntType(bits, signed), Dyadic.from_float(np.float32(scale)))


def bench(
    rng: np.random.Generator,
    steps: tuple[Step, ...],
    kind: FixedType,
    form: str,
    operand: FixedType = SUM,
    rule: Rule = Rule.HALF_EVEN,
) -> IntThresholds:
    """Check one op of three channels on all witnesses, and against float64."""
    b = Bench()
    x = b.input((400, 3), operand)
    quantizer = Quantizer(kind, kind.storage.min, kind.storage.max)
    op = Rational((*steps, *rounding(quantizer, rule)), quantizer)
    b.lower(op, (x,), kind, Semantics.RATIONAL)
    assert b.prove() == [form]
    low, high = operand.storage.min, operand.storage.max
    far, near = rng.integers(low, high + 1, (200, 3)), rng.normal(0, 60, (200, 3)).astype(np.int64)
    codes = np.concatenate([far, np.clip(near, low, high)])
    (found,) = b.agree([codes])
    real = monotone.evaluate((*meaning(operand), *op.steps), codes.astype(np.float64))
    assert (found != real).mean() < 1e-3  # float64 may decide a tie otherwise
    (integer,) = b.ops()
    assert isinstance(integer, IntThresholds)
    return integer


def test_narrow_results_are_compared(rng: np.random.Generator) -> None:
    bench(rng, (Shift((Fraction(1, 3),)),), result(4), "thresholds")


def test_falling_channels_are_compared_with_the_sign_turned(rng: np.random.Generator) -> None:
    factors = tuple(Factor.of(Fraction(n), Fraction(v)) for n, v in ((3, 2), (-2, 7), (0, 5)))
    op = bench(rng, (monotone.Scale(factors), Shift((Fraction(2),) * 3)), result(3), "thresholds")
    assert op.signs == (1, -1, 1)


def test_all_channels_may_fall(rng: np.random.Generator) -> None:
    op = bench(rng, (monotone.scale(Fraction(-3)),), result(2), "thresholds")
    assert op.signs == (-1,)


def test_wide_results_are_one_multiplication(rng: np.random.Generator) -> None:
    bench(rng, (monotone.scale(*(Fraction(n, 7) for n in (2, 30, 5))),), result(8), "mulshift")


def test_falling_and_constant_channels_are_one_multiplication(rng: np.random.Generator) -> None:
    scale = monotone.scale(Fraction(-2, 7), Fraction(0), Fraction(3, 11))
    shift = Shift((Fraction(5), Fraction(-3), Fraction(1, 3)))
    op = bench(rng, (scale, shift), result(8), "mulshift")
    assert op.form.multipliers[0] < 0 == op.form.multipliers[1]


def test_binary_points_round_ties_to_even(rng: np.random.Generator) -> None:
    sums = FixedType.per_tensor(I20, Dyadic(1, -9))
    relu = (Clip(Fraction(0), None),)
    bench(rng, relu, FixedType.per_tensor(IntType(6, signed=False), Dyadic(1, -4)), "even", sums)
    falling = (monotone.scale(Fraction(-1)), Shift((Fraction(5, 32),)))
    bench(rng, falling, FixedType.per_tensor(IntType(8, signed=True), Dyadic(1, -5)), "even", sums)


@pytest.mark.parametrize(
    ("rule", "form"),
    [
        # A slightly larger multiplier turns all ties away from zero, a smaller one towards it.
        (Rule.HALF_AWAY, "mulshift"),
        (Rule.HALF_ZERO, "mulshift"),
        (Rule.AWAY, "thresholds"),
        (Rule.ZERO, "thresholds"),
    ],
)
def test_rounding_by_sign(rng: np.random.Generator, rule: Rule, form: str) -> None:
    sums = FixedType.per_tensor(I20, Dyadic(1, -9))
    kind = FixedType.per_tensor(IntType(6, signed=True), Dyadic(1, -4))
    bench(rng, (), kind, form, sums, rule)


@pytest.mark.parametrize("rule", [Rule.FLOOR, Rule.CEIL])
def test_directed_rounding_is_a_shift(rng: np.random.Generator, rule: Rule) -> None:
    sums = FixedType.per_tensor(I20, Dyadic(1, -9))
    kind = FixedType.per_tensor(IntType(8, signed=True), Dyadic(1, -4))
    bench(rng, (), kind, "mulshift", sums, rule)


def test_bent_functions_are_compared(rng: np.random.Generator) -> None:
    bench(rng, (Slope((Fraction(1, 10),)), Shift((Fraction(7),))), result(6), "thresholds")


def test_sixteen_bits(rng: np.random.Generator) -> None:
    kind = FixedType.per_tensor(IntType(16, signed=True), Dyadic.from_float(np.float32(0.003)))
    bench(rng, (monotone.scale(Fraction(1, 100)),), kind, "mulshift")


@pytest.mark.parametrize(("bits", "form"), [(22, "wide"), (27, "wider")])
def test_sixteen_bits_by_a_long_multiplication(
    rng: np.random.Generator, bits: int, form: str
) -> None:
    kind = FixedType.per_tensor(IntType(16, signed=True), Dyadic.from_float(np.float32(0.003)))
    sums = FixedType.per_tensor(IntType(bits, signed=True), Dyadic(1, 5 - bits))
    steps = (monotone.scale(Fraction(3)), Shift((Fraction(1, 7), Fraction(-2), Fraction(5))))
    bench(rng, steps, kind, form, operand=sums)


def test_sixteen_bits_that_bend_are_refused() -> None:
    sums = FixedType.per_tensor(I20, Dyadic(1, -9))
    kind = FixedType.per_tensor(IntType(16, signed=True), Dyadic(1, -4))
    b = Bench()
    x = b.input((3,), sums)
    quantizer = Quantizer(kind, kind.storage.min, kind.storage.max)
    op = Rational(rounding(quantizer, Rule.ZERO), quantizer)
    b.lower(op, (x,), kind, Semantics.RATIONAL)
    with pytest.raises(NoIntegerForm, match="no straight line"):
        b.prove()


def test_two_values_only_are_told(rng: np.random.Generator) -> None:
    kind = result(2, scale=1.0)
    b = Bench()
    x = b.input((8, 3), SUM)
    count = Count(((Fraction(0),),))
    steps = (count, monotone.scale(Fraction(2)), Shift((Fraction(-1),)))
    b.lower(Rational(steps, Quantizer(kind, -1, 1)), (x,), kind, Semantics.RATIONAL)
    (op,) = b.ops()
    assert isinstance(op, IntThresholds)
    assert op.bipolar
    codes = rng.integers(-5, 6, (8, 3))
    assert np.array_equal(op.reference(codes)[0], np.where(codes >= 0, 1, -1))
    b.agree([codes])


def test_clamping_drops_thresholds() -> None:
    b = Bench()
    x = b.input((8, 3), SUM)
    kind = result(4)
    b.lower(Rational(rounding(Quantizer(kind, -8, 7)), Quantizer(kind, -8, 7)), (x,), kind,
            Semantics.RATIONAL)  # fmt: skip
    (op,) = b.ops()
    assert isinstance(op, IntThresholds)
    codes = np.arange(-2000, 2000).reshape(-1, 1) + np.zeros((1, 3), np.int64)
    (whole,), (part,) = op.reference(codes), op.clamped(-2, 3).reference(codes)
    assert np.array_equal(part, np.clip(whole, -2, 3))


def test_operand_of_all_32_bits_is_refused() -> None:
    b = Bench()
    x = b.input((3,), FixedType.per_tensor(IntType(32, signed=True), Dyadic.one()))
    kind = result(4)
    with pytest.raises(AccumulatorOverflow):
        b.lower(Rational(rounding(Quantizer(kind, -8, 7)), Quantizer(kind, -8, 7)), (x,), kind,
                Semantics.RATIONAL)  # fmt: skip
