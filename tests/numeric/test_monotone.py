"""Chains of exact steps: thresholds against evaluation, rounding rules against QONNX's formulas."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binpoint.errors import InvalidConstant, NoIntegerForm
from binpoint.numeric import monotone
from binpoint.numeric.enclosed import Factor
from binpoint.numeric.monotone import Clip, Count, Reals, Round, Rule, Shift, Slope, Step

LO, HI, REACH = -7, 7, (-60, 45)

FORMULAS: dict[Rule, Callable[[Reals], Reals]] = {
    Rule.HALF_EVEN: lambda x: np.round(x),
    Rule.CEIL: lambda x: np.ceil(x),
    Rule.FLOOR: lambda x: np.floor(x),
    Rule.AWAY: lambda x: np.sign(x) * np.ceil(np.abs(x)),
    Rule.ZERO: lambda x: np.trunc(x),
    Rule.HALF_AWAY: lambda x: np.sign(x) * np.floor(np.abs(x) + 0.5),
    Rule.HALF_ZERO: lambda x: np.sign(x) * np.ceil(np.abs(x) - 0.5),
}

halves = st.integers(-12, 12).map(lambda n: Fraction(n, 4))
steps = st.one_of(
    halves.map(monotone.scale),
    halves.map(lambda b: Shift((b,))),
    st.tuples(st.integers(-9, 0), st.integers(0, 9)).map(lambda b: Clip(*map(Fraction, b))),
    st.integers(0, 4).map(lambda n: Slope((Fraction(n, 4),))),
    st.sampled_from(Rule).map(Round),
)


def codes(chain: tuple[Step, ...], x: np.ndarray) -> np.ndarray:
    signs, table = monotone.thresholds(chain, LO, HI, [REACH])
    return LO + (signs[0] * x[:, None] >= table[0]).sum(axis=1)


@given(st.lists(steps, max_size=5), st.sampled_from(Rule))
def test_thresholds_give_what_the_chain_gives(parts: list[Step], rule: Rule) -> None:
    chain = (*parts, Clip(Fraction(LO), Fraction(HI)), Round(rule))
    x = np.arange(REACH[0], REACH[1] + 1)
    # Binary fractions of few bits: float64 evaluates them exactly.
    assert np.array_equal(codes(chain, x), monotone.evaluate(chain, x.astype(np.float64)))


@pytest.mark.parametrize("rule", Rule)
def test_rule_is_that_of_qonnx(rule: Rule) -> None:
    x = np.arange(-40, 41) / 8
    expected = FORMULAS[rule](x)
    assert np.array_equal(rule.apply(x), expected)
    chain = (monotone.scale(Fraction(1, 8)), Round(rule))
    _, table = monotone.thresholds(chain, -5, 5, [(-40, 40)])
    counted = -5 + (np.arange(-40, 41)[:, None] >= table[0]).sum(axis=1)
    assert np.array_equal(counted, expected)


@pytest.mark.parametrize("channel", [0, 1])
def test_root_is_decided_exactly(channel: int) -> None:
    """x / sqrt(2) reaches n where x² ≥ 2 n², an integer comparison; the second channel falls."""
    factors = (Factor.of(Fraction(1), Fraction(2)), Factor.of(Fraction(-1), Fraction(2)))
    chain = (monotone.Scale(factors), Round(Rule.FLOOR))
    signs, table = monotone.thresholds(chain, 0, 200, [(-400, 400)] * 2)
    assert signs == (1, -1)
    for n in range(1, 201):
        first = int(table[channel, n - 1])
        assert first**2 >= 2 * n**2 > (first - 1) ** 2


def test_perfect_square_leaves_the_root() -> None:
    assert Factor.of(Fraction(3), Fraction(9, 4)) == Factor(Fraction(2))
    assert Factor.of(Fraction(0), Fraction(2)).exact


@given(st.integers(1, 10**12), st.integers(1, 10**12), st.integers(-(10**6), 10**6))
def test_enclosure_holds_the_root(n: int, d: int, numerator: int) -> None:
    factor = Factor.of(Fraction(numerator), Fraction(n, d))
    low, high = factor.bounds(96)
    assert high - low <= abs(numerator) * Fraction(d, n) / 2**90 + Fraction(abs(numerator), 2**90)
    ends = sorted((low**2, high**2))
    assert ends[0] <= Fraction(numerator) ** 2 * d / n <= ends[1]


def test_value_on_an_undecidable_edge_is_refused() -> None:
    """sqrt(2) / sqrt(2) is one, but no precision shows it."""
    root = Factor.of(Fraction(1), Fraction(2))
    back = Factor.of(Fraction(1), Fraction(1, 2))
    chain = (monotone.Scale((root,)), monotone.Scale((back,)), Round(Rule.FLOOR))
    with pytest.raises(NoIntegerForm, match="cannot be decided"):
        monotone.thresholds(chain, 0, 3, [(-9, 9)])


def test_variance_of_zero_is_refused() -> None:
    with pytest.raises(InvalidConstant, match="variance"):
        Factor.of(Fraction(1), Fraction(0))


def test_count_gives_the_number_of_thresholds_reached() -> None:
    rows = ((Fraction(-1), Fraction(1, 2), Fraction(1, 2)),)
    x = np.arange(REACH[0], REACH[1] + 1)
    expected = (x[:, None] >= np.array([-1, 0.5, 0.5])).sum(axis=1)
    assert np.array_equal(codes((Count(rows),), x), expected)


def test_constant_channel_has_one_code() -> None:
    chain = (monotone.scale(Fraction(0)), Shift((Fraction(3),)), Round(Rule.HALF_EVEN))
    assert set(codes(chain, np.arange(*REACH))) == {3}


@given(st.integers(1, 40), st.integers(-100, 100), st.integers(1, 40))
def test_line_of_a_chain(a: int, b: int, c: int) -> None:
    chain = (
        monotone.scale(Fraction(a, c)), Clip(Fraction(0), None), Shift((Fraction(b, 3),)),
        Round(Rule.HALF_EVEN), Shift((Fraction(9),)),
    )  # fmt: skip
    assert monotone.affine(chain, 0) == (Fraction(a, c), Fraction(b, 3))
    assert monotone.slope(chain, 0) == pytest.approx(a / c)
