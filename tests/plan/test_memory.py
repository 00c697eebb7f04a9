"""Placement of buffers, against every packing there is."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from binpoint.plan.memory import ALIGNMENT, Lifetime, Placement, aligned, peak, place

SOLVER = importlib.util.find_spec("ortools") is not None


def random_lifetimes(random: Random, most: int) -> list[Lifetime]:
    found: list[Lifetime] = []
    for index in range(random.randint(0, most)):
        start = random.randint(-1, 8)
        size = ALIGNMENT * random.randint(0, 8)
        found.append(Lifetime(f"b{index}", size, start, start + random.randint(0, 5)))
    return found


def check(lifetimes: Sequence[Lifetime], found: Placement) -> None:
    assert set(found.offsets) == {life.name for life in lifetimes}
    for life in lifetimes:
        offset = found.offsets[life.name]
        assert offset >= 0
        assert offset % ALIGNMENT == 0
        assert offset + life.size <= found.total
    for a, b in itertools.combinations(lifetimes, 2):
        if a.start <= b.stop and b.start <= a.stop:
            first, second = sorted((a, b), key=lambda x: (found.offsets[x.name], x.size))
            assert found.offsets[first.name] + first.size <= found.offsets[second.name]


def least(lifetimes: Sequence[Lifetime]) -> int:
    """The smallest total: any packing pushed down is a first fit in the order of its offsets."""
    best = sum(life.size for life in lifetimes)
    for order in itertools.permutations(lifetimes):
        offsets: dict[str, int] = {}
        done: list[Lifetime] = []
        for life in order:
            near = [o for o in done if o.start <= life.stop and life.start <= o.stop]
            offset = 0
            for other in sorted(near, key=lambda o: offsets[o.name]):
                if offset + life.size <= offsets[other.name]:
                    break
                offset = max(offset, offsets[other.name] + other.size)
            offsets[life.name] = offset
            done.append(life)
        best = min(best, max((offsets[b.name] + b.size for b in lifetimes), default=0))
    return best


@given(random=st.randoms(use_true_random=False), exact=st.booleans())
def test_buffers_that_live_together_lie_apart(random: Random, exact: bool) -> None:
    lifetimes = random_lifetimes(random, 14)
    found = place(lifetimes, exact=exact)
    check(lifetimes, found)
    assert found.total >= peak(lifetimes)


@settings(max_examples=40)
@given(random=st.randoms(use_true_random=False))
def test_the_exact_placement_is_the_smallest(random: Random) -> None:
    lifetimes = random_lifetimes(random, 6)
    exact, greedy = place(lifetimes, exact=True), place(lifetimes, exact=False)
    best = least(lifetimes)
    assert peak(lifetimes) <= best <= greedy.total
    assert exact.total == best if SOLVER else exact.total <= greedy.total


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_buffers_changes_nothing(seed: int) -> None:
    lifetimes = random_lifetimes(Random(seed), 14)
    shuffled = Random(seed + 1).sample(lifetimes, len(lifetimes))
    assert place(lifetimes, exact=False) == place(shuffled, exact=False)


def test_the_solver_goes_on_where_greedy_orders_fail() -> None:
    pytest.importorskip("ortools")
    better = 0
    for seed in range(400):
        lifetimes = random_lifetimes(Random(seed), 14)
        greedy = place(lifetimes, exact=False)
        if greedy.total == peak(lifetimes):
            continue
        exact = place(lifetimes, exact=True)
        check(lifetimes, exact)
        assert exact.total <= greedy.total
        assert exact == place(lifetimes, exact=True)
        better += exact.total < greedy.total
        if better == 3:
            return
    pytest.fail("no case in which the solver was better")


@pytest.mark.parametrize(("size", "whole"), [(0, 0), (1, 4), (4, 4), (5, 8)])
def test_sizes_are_rounded_up(size: int, whole: int) -> None:
    assert aligned(size) == whole


def test_nothing_needs_no_memory() -> None:
    assert place([], exact=True) == Placement({}, 0)
    assert place([Lifetime("empty", 0, 0, 3)], exact=True).total == 0
