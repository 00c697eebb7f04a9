"""Addition and multiplication in integers equal the float definition on every pair of codes."""

from __future__ import annotations

import numpy as np
import pytest

from binpoint.errors import NoIntegerForm
from binpoint.numeric.binary import AddExact, MulExact, Operand, prove_add, prove_mul
from binpoint.numeric.float32 import Ints, qlinear_add, qlinear_mul
from binpoint.numeric.interval import Interval

Rng = np.random.Generator


def pairs(a: Operand, b: Operand) -> tuple[Ints, Ints]:
    """Return all pairs of codes, as a column and a row."""
    return a.all_codes()[:, None], b.all_codes()[None, :]


def added(a: Operand, b: Operand, y: Operand) -> Ints:
    """Return the definition on all pairs."""
    one = (a.scale, a.zero_point, b.scale, b.zero_point)
    return qlinear_add(*pairs(a, b), *one, y.scale, y.zero_point, y.codes.lo, y.codes.hi)


def multiplied(a: Operand, b: Operand, y: Operand) -> Ints:
    """Return the definition on all pairs."""
    one = (a.scale, a.zero_point, b.scale, b.zero_point)
    return qlinear_mul(*pairs(a, b), *one, y.scale, y.zero_point, y.codes.lo, y.codes.hi)


def products(a: Operand, b: Operand) -> Ints:
    """Return the product of centred codes of all pairs."""
    left, right = pairs(a, b)
    return (left - a.zero_point) * (right - b.zero_point)


def operands(rng: Rng, index: int, spread: tuple[float, float]) -> tuple[Operand, Operand, Operand]:
    """Return random operands: scales free or powers of two, ranges full or partial."""
    lo, hi = ((-128, 127), (0, 255))[index % 2]
    result: list[Operand] = []
    for side in range(3):
        scale = float(np.float32(np.exp(rng.uniform(*spread))))
        if index % 5 == 0:
            scale = float(2.0 ** rng.integers(-7, -3))
        ends = sorted(int(v) for v in rng.integers(lo, hi + 1, 2))
        partial = index % 3 == 0 and side < 2
        codes = Interval(*ends) if partial else Interval(lo, hi)
        result.append(Operand(scale, int(rng.integers(lo, hi + 1)), codes))
    return result[0], result[1], result[2]


def test_a_proved_addition_is_equal_on_all_pairs(generator: Rng) -> None:
    proved = 0
    for index in range(30):
        a, b, y = operands(generator, index, (-5, -2))
        form = prove_add(a, b, y)
        if form is None:
            continue
        proved += 1
        have = form.apply(*pairs(a, b), y.codes.lo, y.codes.hi)
        np.testing.assert_array_equal(have, added(a, b, y))
        largest = max(
            abs(p * form.ma + q * form.mb + form.offset)
            for p in (a.codes.lo, a.codes.hi)
            for q in (b.codes.lo, b.codes.hi)
        )
        assert not form.narrow or largest < 2**31
    assert proved > 15


def test_a_proved_multiplication_is_equal_on_all_pairs(generator: Rng) -> None:
    proved = narrow = 0
    for index in range(60):
        a, b, y = operands(generator, index, (-5, -2))
        y = Operand(
            float(np.float32(a.scale * b.scale * generator.uniform(10, 400))), y.zero_point, y.codes
        )
        form = prove_mul(a, b, y)
        if form is None:
            continue
        proved, narrow = proved + 1, narrow + form.narrow
        have = form.apply(products(a, b), y.codes.lo, y.codes.hi)
        np.testing.assert_array_equal(have, multiplied(a, b, y))
        total = np.abs(products(a, b)).max() * form.multiplier + abs(form.offset)
        assert form.narrow == (total < 2**31)
    assert proved > 40
    assert narrow > 5


@pytest.mark.parametrize("spread", [(-5.0, -2.0), (-3.0, 3.0), (-9.0, 1.0)])
def test_the_exact_forms_are_equal_for_every_scale(
    spread: tuple[float, float], generator: Rng
) -> None:
    for index in range(40):
        a, b, y = operands(generator, index, spread)
        np.testing.assert_array_equal(AddExact.of(a, b, y).apply(*pairs(a, b)), added(a, b, y))
        have = MulExact.of(a, b, y).apply(products(a, b))
        np.testing.assert_array_equal(have, multiplied(a, b, y))


def test_multiplication_next_to_its_ties(generator: Rng) -> None:
    full = Interval(-128, 127)
    for ratio in (0.5, 0.25, 1.5, 2.0**-9, 3 * 2.0**-10, 1.0, 2.0**-40, 2.0**30):
        for zero in (-128, 0, 77, 127):
            a, b = Operand(1.0, zero, full), Operand(ratio, -3, full)
            y = Operand(1.0, int(generator.integers(-128, 128)), full)
            have = MulExact.of(a, b, y).apply(products(a, b))
            np.testing.assert_array_equal(have, multiplied(a, b, y))


def test_addition_of_equal_binary_points_needs_the_exact_form() -> None:
    full = Interval(-128, 127)
    a, b, y = Operand(0.25, 0, full), Operand(0.25, 0, full), Operand(0.5, 0, full)
    assert prove_add(a, b, y) is None
    np.testing.assert_array_equal(AddExact.of(a, b, y).apply(*pairs(a, b)), added(a, b, y))


def test_scales_too_far_apart_are_refused() -> None:
    full = Interval(-128, 127)
    near, far = Operand(1.0, 0, full), Operand(2.0**-60, 0, full)
    with pytest.raises(NoIntegerForm):
        AddExact.of(near, far, near)
    with pytest.raises(NoIntegerForm):
        AddExact.of(far, far, near)
    assert prove_add(Operand(2.0**40, 0, full), near, near) is None


def test_an_addition_that_only_saturates_is_proved() -> None:
    full, one = Interval(-128, 127), Interval(5, 5)
    big = Operand(1.0, -128, Interval(100, 127))
    for goal, clamped in ((-128, Interval(-128, -100)), (127, full)):
        form = prove_add(big, Operand(1.0, -128, one), Operand(0.5, goal, clamped))
        assert form is not None
        want = added(big, Operand(1.0, -128, one), Operand(0.5, goal, clamped))
        assert np.unique(want).size == 1
        have = form.apply(*pairs(big, Operand(1.0, -128, one)), clamped.lo, clamped.hi)
        np.testing.assert_array_equal(have, want)
