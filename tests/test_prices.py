"""The scoreboard, and the prices that are fitted to it."""

from __future__ import annotations

import pytest

from benchmarks.prices import Layer, first_guess, fit, section
from benchmarks.scoreboard import CORES, cycles, decode, part_cycles, shares
from binpoint.sim.counts import Part, Piece
from binpoint.target import Event, load_target, microcontroller

_PAIR = """
00000000 <f>:
       0:\t1840      \tadds\tr0, r0, r1
       2:\t3301      \tadds\tr3, #1
       4:\t18d2      \tadds\tr2, r2, r3
       6:\tf8d0 4000 \tldr.w\tr4, [r0]
       a:\tfb04 5506 \tmla\tr5, r4, r6, r5
"""
_SUMS = """
00000000 <f>:
       0:\t1840      \tadds\tr0, r0, r1
       2:\t18d2      \tadds\tr2, r2, r3
"""
_VECTORS = """
00000000 <f>:
       0:\ted90 3e00 \tvldrw.u32\tq1, [r0]
       4:\tef24 4842 \tvadd.i32\tq2, q2, q1
       8:\tef24 6950 \tvmul.i32\tq3, q2, q0
       c:\ted82 7e00 \tvstrw.32\tq3, [r2]
"""
_LOADS = """
00000000 <f>:
       0:\ted90 3e00 \tvldrw.u32\tq1, [r0]
       4:\ted91 5e00 \tvldrw.u32\tq2, [r1]
       8:\tfc90 4f06 \tvldrb.u8\tq3, [r2, q0]
       c:\ted82 7e00 \tvstrw.32\tq1, [r3]
"""
_LOOP = """
00000000 <f>:
       0:\t3301      \tadds\tr3, #1
       2:\t3901      \tsubs\tr1, #1
       4:\td1fc      \tbne.n\t0 <f>
"""


def _cycles(listing: str, core: str) -> int:
    code = decode(listing, microcontroller(load_target(core)))
    return cycles(list(code.values()), CORES[core])


def test_two_issue_unless_one_needs_the_other() -> None:
    # Together: the first two, then the third; an address is wanted a cycle early; the product of
    # a word can start with the cycle after its load.
    assert _cycles(_PAIR, "cortex-m7") == 4
    # Pairs of 16 bits of which one is simple: the first two; a word is there two cycles later.
    assert _cycles(_PAIR, "cortex-m33") == 5
    assert _cycles(_SUMS, "cortex-m33") == 2


def test_beats_overlap_in_units_that_differ() -> None:
    assert _cycles(_VECTORS, "cortex-m55") == 5
    # The loads one after the other, sixteen elements, and only then the store.
    assert _cycles(_LOADS, "cortex-m55") == 2 + 2 + 16 + 1


def test_a_loop_is_timed_in_its_steady_state_and_pays_for_its_branch() -> None:
    code = decode(_LOOP, microcontroller(load_target("cortex-m7")))
    part = Part(None, (Piece(0, 3, runs=100, fell=1),))
    # Alone two cycles, of which the second has a place left for the next turn's first; each
    # second turn saves one. The one way out is mispredicted.
    once, twice = _cycles(_LOOP, "cortex-m7"), cycles([*code.values()] * 2, CORES["cortex-m7"])
    assert (once, twice) == (2, 3)
    assert part_cycles(part, code, CORES["cortex-m7"]) == 2 + 99 + 6


def test_shares_of_straight_code_add_up_to_it() -> None:
    code = decode(_VECTORS, microcontroller(load_target("cortex-m55")))
    part = Part(None, (Piece(0, 4, runs=7, fell=7),))
    assert sum(shares(part, code, CORES["cortex-m55"]).values()) == 7 * 5


@pytest.fixture
def rows() -> list[Layer]:
    """Layers that take exactly what a price list says."""
    prices: dict[Event, int] = {"load": 2, "multiply_add": 1, "other": 3}
    counts = ((900, 40_000, 70), (30_000, 500, 900), (7, 80, 60_000), (5_000, 5_000, 5_000))
    found: list[Layer] = []
    for few in counts:
        events = dict(zip(prices, few, strict=True))
        passed: dict[Event, int] = {event: prices[event] * count for event, count in events.items()}
        found.append(Layer("net", events, sum(passed.values()), passed))
    return found


def test_a_fit_finds_the_prices_again(rows: list[Layer]) -> None:
    target = microcontroller(load_target("cortex-m33"))
    guess = first_guess(rows, target)
    found = fit(rows, guess)
    assert (found["load"], found["multiply_add"], found["other"]) == (2, 1, 3)
    far = fit(rows * 100, {**guess, "load": 0.0, "multiply_add": 0.0, "other": 0.0})
    assert far["load"] == pytest.approx(2, abs=0.05)
    assert fit(rows, {**guess, "load": 90.0})["multiply_add"] >= 0
    assert found["divide"] == 7
    assert not {"vector", "gather"} & set(found)
    assert "all within 0 %, networks within 0 %" in section("cortex-m33", rows, found)


@pytest.mark.parametrize("core", list(CORES))
def test_the_shipped_list_has_all_events_of_its_core(core: str, rows: list[Layer]) -> None:
    target = microcontroller(load_target(core))
    assert target.price is not None
    assert list(target.price.cycles) == list(first_guess(rows, target))
    assert target.price.basis == "fitted"
