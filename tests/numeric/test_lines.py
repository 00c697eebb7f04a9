"""Thresholds of lines against those of any chain; long multiplications at each step."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from binpoint.numeric import lines, monotone
from binpoint.numeric.monotone import Clip, Round, Rule, Shift, Step
from binpoint.numeric.wide import ONE_WORD, TWO_WORDS, fit_line

NUMBERS = st.fractions(-40, 40, max_denominator=16).filter(bool)
CHANNELS = 3


@st.composite
def chains(draw: st.DrawFn) -> tuple[Step, ...]:
    steps: list[Step] = []
    for _ in range(draw(st.integers(1, 4))):
        rows = draw(st.lists(NUMBERS, min_size=CHANNELS, max_size=CHANNELS))
        match draw(st.integers(0, 2)):
            case 0:
                steps.append(monotone.scale(*rows))
            case 1:
                steps.append(Shift(tuple(rows)))
            case _:
                low, high = sorted(rows[:2])
                steps.append(Clip(draw(st.sampled_from([low, None])), high))
    return (*steps, Clip(Fraction(-6), Fraction(5)), Round(draw(st.sampled_from(list(Rule)))))


@given(chains(), st.integers(-60, 0), st.integers(0, 60))
def test_lines_are_chains(chain: tuple[Step, ...], low: int, high: int) -> None:
    reach = [(low, high)] * CHANNELS
    signs, table = monotone.thresholds(chain, -6, 5, reach)
    found, rows = lines.thresholds(chain, -6, 5, reach)
    assert found == signs
    np.testing.assert_array_equal(rows, table)


def test_a_rounding_of_integers_goes() -> None:
    idle, real = Round(Rule.HALF_EVEN), monotone.scale(Fraction(1, 4))
    last = Round(Rule.FLOOR)
    chain = (monotone.scale(Fraction(3)), idle, real, last)
    assert lines.without_idle_rounds(chain, 1) == (chain[0], real, last)
    kept = (real, idle, monotone.scale(Fraction(1, 2)), last)
    assert lines.without_idle_rounds(kept, 1) == kept


@given(st.fractions(Fraction(1, 2**17), Fraction(1, 2**9)), st.sampled_from([ONE_WORD, TWO_WORDS]))
def test_long_multiplications(slope: Fraction, bits: int) -> None:
    reach, lo, hi = (-(2**26), 2**26), -(2**7), 2**7 - 1
    chain = (monotone.scale(slope), Clip(Fraction(lo), Fraction(hi)), Round(Rule.HALF_AWAY))
    _, table = lines.thresholds(chain, lo, hi, [reach])
    codes = np.arange(lo + 1, hi + 1, dtype=np.int64)
    inside = (table[0] > reach[0]) & (table[0] <= reach[1])
    found = fit_line(slope, codes[inside], table[0][inside], reach, bits)
    if found is None:
        # Exact ties leave no room: half away from zero has them on both sides.
        assert (1 / (2 * slope)).denominator % 2 == 1 or bits == ONE_WORD
        return
    for code, first in zip(codes[inside].tolist(), table[0][inside].tolist(), strict=True):
        assert (first * found.multiplier + found.offset) >> found.shift >= code
        assert ((first - 1) * found.multiplier + found.offset) >> found.shift < code
