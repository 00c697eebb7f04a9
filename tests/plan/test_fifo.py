"""FIFO depths: enough for the pace and against deadlock, and not much more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binpoint.plan import fifo
from binpoint.plan.fifo import Process
from binpoint.plan.units import Unit
from tests.plan.designs import residual


def late(unit: Unit) -> int:
    """A pipeline of seven stages, whatever the unit."""
    assert unit.iterations > 0
    return 7


def cycles(
    network: Sequence[Process], depths: Mapping[str, int], inferences: int
) -> list[int] | None:
    """The cycle in which each inference ends, found cycle by cycle; None in a deadlock."""
    places = [(p, 0) for p in network]
    moved = {s: [0, 0] for p in network for s in (*p.reads, *p.writes)}
    ends: list[int] = []
    now = 0
    while len(ends) < inferences:
        before = {s: tuple(counts) for s, counts in moved.items()}
        active = False
        for index, (process, at) in enumerate(places):
            turn, local = divmod(at, process.length)
            if turn == inferences:
                continue
            reads = [s for s, events in process.reads.items() if local in events]
            writes = [s for s, events in process.writes.items() if local in events]
            empty = any(before[s][0] == before[s][1] for s in reads)
            full = any(before[s][0] - before[s][1] >= depths[s] for s in writes)
            if empty or full:
                continue
            active = True
            for stream in reads:
                moved[stream][1] += 1
            for stream in writes:
                moved[stream][0] += 1
            places[index] = (process, at + 1)
            if not process.writes and local == process.length - 1:
                ends.append(now)
        if not active:
            return None
        now += 1
    return ends


def test_a_residual_net_runs_at_the_depths_found() -> None:
    design = residual()
    sizing = fifo.sized(design, late)
    for network in (fifo.processes(design), fifo.processes(design, late)):
        assert fifo.simulate(network, sizing.depths) == ()


def test_halving_the_depth_of_the_short_branch_is_a_deadlock() -> None:
    design = residual()
    sizing = fifo.sized(design, late)
    network = fifo.processes(design)
    halved = {**sizing.depths, "skip": sizing.depths["skip"] // 2}
    stuck = {b.process: b for b in fifo.simulate(network, halved)}
    assert stuck["fork"].full == ("skip",)
    assert stuck["sum"].empty == ("e",)
    assert "`skip` is full" in str(stuck["fork"])


def test_the_least_depth_is_the_edge_of_deadlock() -> None:
    design = residual()
    sizing = fifo.sized(design, late)
    network = fifo.processes(design)
    least = fifo.least(network, sizing.depths, "skip")
    assert 1 < least <= sizing.depths["skip"]
    assert not fifo.simulate(network, {**sizing.depths, "skip": least})
    assert fifo.simulate(network, {**sizing.depths, "skip": least - 1})


@pytest.mark.parametrize("pipelined", [False, True])
def test_cycle_by_cycle_the_depths_keep_the_pace(pipelined: bool) -> None:
    design = residual(4, 2)
    sizing = fifo.sized(design, late)
    network = fifo.processes(design, late if pipelined else None)
    ends = cycles(network, sizing.depths, 4)
    assert ends is not None
    assert np.diff(ends).max() <= sizing.interval
    assert ends[0] < sizing.latency


def test_cycle_by_cycle_too_little_depth_is_a_deadlock_too() -> None:
    design = residual(4, 2)
    network = fifo.processes(design)
    depths = fifo.sized(design, late).depths
    least = fifo.least(network, depths, "skip")
    assert cycles(network, {**depths, "skip": least}, 1) is not None
    assert cycles(network, {**depths, "skip": least - 1}, 1) is None


def network_of(data: st.DataObject, words: int) -> list[Process]:
    """A source, a fork, a loop on one branch that takes words in runs, a join, a sink."""

    def events(late_by: int, run: int, gap: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        at = np.arange(words, dtype=np.int64)
        return late_by + at + at // run * gap

    every = events(0, 1, 0)
    hold = data.draw(st.integers(0, 2 * words))
    run, gap = data.draw(st.integers(1, words)), data.draw(st.integers(0, 5))
    out = np.maximum(events(hold, run, gap), events(0, 1, 0))
    return [
        Process("in", {}, {"x": every}, words),
        Process("fork", {"x": every}, {"a": every, "skip": every}, words),
        Process("loop", {"a": every}, {"b": out}, int(out[-1]) + 1),
        Process("sum", {"skip": every, "b": every}, {"y": every}, words),
        Process("out", {"y": every}, {}, words),
    ]


@given(st.data())
def test_whether_a_network_deadlocks_does_not_depend_on_time(data: st.DataObject) -> None:
    words = data.draw(st.integers(2, 12))
    network = network_of(data, words)
    streams = ("x", "a", "skip", "b", "y")
    depths = {s: data.draw(st.integers(1, words)) for s in streams}
    assert (cycles(network, depths, 1) is None) == bool(fifo.simulate(network, depths))


@given(st.data())
def test_a_network_keeps_its_pace_at_its_occupancy(data: st.DataObject) -> None:
    network = network_of(data, data.draw(st.integers(2, 12)))
    interval = max(p.length for p in network)
    even = data.draw(st.booleans())
    written, read = fifo.paced(network, interval, even=even)
    depths = {s: fifo.occupancy(written[s], read[s]) for s in written}
    ends = cycles(network, depths, 4)
    assert ends is not None
    # The first inference may take a cycle more, while the pace settles.
    assert ends[-1] - ends[1] <= 2 * interval
