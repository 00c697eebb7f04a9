"""FIFO depths of a design: found from its schedule, then proved by running it with bounded streams.

Every unit is one loop whose reads and writes happen in known iterations, so a design is a network
of processes that communicate through bounded streams and never test whether a word is there. Such
a network gives the same words in the same order whatever the timing, and whether it deadlocks
depends on the depths alone: one run without time proves all runs (Kahn 1974; Parks 1995). After one
inference all streams are empty again, so a run of one proves any number of them.

A synthesis tool may let a pipeline drain while it waits for a word, or hold it as a whole. The
first is the loop as it is written; the second lets a result out only after as many further
iterations as the pipeline is deep. Depths are found, and proved, for both.

No stream is shallower than `SHIFT` words: a shift register of look-up tables has as many places.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from binpoint.errors import EmissionError
from binpoint.ir.op import IntArray
from binpoint.plan.design import Design
from binpoint.plan.units import Unit

SHIFT = 16
_INFERENCES = 4
Latency = Callable[[Unit], int]
Times = Mapping[str, IntArray]


@dataclass(frozen=True, slots=True)
class Process:
    """One loop: for each stream the iterations, ascending, in which it reads or writes a word.

    Args:
        name: of the layer or the port.
        reads, writes: by stream.
        length: iterations of one inference, with those in which the pipeline drains.
    """

    name: str
    reads: Mapping[str, IntArray]
    writes: Mapping[str, IntArray]
    length: int


@dataclass(frozen=True, slots=True)
class Blocked:
    """A process that waits for ever: in which iteration, and for which streams."""

    process: str
    iteration: int
    empty: tuple[str, ...]
    full: tuple[str, ...]

    def __str__(self) -> str:
        """One line."""
        parts = [f"`{s}` is empty" for s in self.empty] + [f"`{s}` is full" for s in self.full]
        return f"{self.process} at iteration {self.iteration}: {', '.join(parts)}"


@dataclass(frozen=True, slots=True)
class Sizing:
    """Depths, and what they were computed for.

    Args:
        depths: words by stream.
        interval: cycles between inferences, which these depths sustain.
        latency: cycles from the first word in to the last word out.
    """

    depths: Mapping[str, int]
    interval: int
    latency: int


def processes(design: Design, latency: Latency | None = None) -> tuple[Process, ...]:
    """The processes of a design, each after those it reads from; ports move a word a cycle.

    With `latency` a result leaves that many iterations after the one that computed it.
    """
    found: list[Process] = []
    for port in design.inputs:
        words = design.streams[port.stream].words
        found.append(Process(port.name, {}, {port.stream: np.arange(words)}, words))
    for layer in design.layers:
        late = latency(layer.unit) if latency else 0
        reads = dict(zip(layer.reads, layer.unit.reads(), strict=True))
        writes = {s: at + late for s, at in zip(layer.writes, layer.unit.writes(), strict=True)}
        found.append(Process(layer.name, reads, writes, layer.unit.iterations + late))
    for port in design.outputs:
        words = design.streams[port.stream].words
        found.append(Process(port.name, {port.stream: np.arange(words)}, {}, words))
    return tuple(found)


def sized(design: Design, latency: Latency) -> Sizing:
    """The depths at which the design runs at the pace of its slowest process, free of deadlock.

    Inputs are paced evenly over an interval; a stream is as deep as it then ever gets. So a
    schedule that fits these depths exists, and loops that start as early as they can are never
    later than it. Of two such schedules, eager and even, that with fewer bits in FIFOs is taken.

    Raises:
        EmissionError: the proof found a deadlock.
    """
    kinds = (processes(design), processes(design, latency))
    interval = max(p.length for p in kinds[1])
    plans = [_scheduled(kinds, interval, even=even) for even in (False, True)]
    sizing = min(plans, key=lambda plan: _bits(design, plan.depths))
    for kind in kinds:
        stuck = simulate(kind, sizing.depths)
        if stuck:
            have = "; ".join(map(str, stuck))
            raise EmissionError("the streams of the design deadlock", have=have)
    return sizing


def _scheduled(kinds: Sequence[Sequence[Process]], interval: int, *, even: bool) -> Sizing:
    """Depths and latency of one kind of schedule."""
    depths: dict[str, int] = {}
    last = 0
    for kind in kinds:
        written, read = paced(kind, interval, even=even)
        for stream, times in written.items():
            depths[stream] = max(SHIFT, depths.get(stream, 0), occupancy(times, read[stream]))
        sinks = [p for p in kind if not p.writes]
        last = max(last, *(int(read[s][at.size - 1]) for p in sinks for s, at in p.reads.items()))
    return Sizing(depths, interval, last + 1)


def _bits(design: Design, depths: Mapping[str, int]) -> int:
    """Bits of streams that are longer than a shift register."""
    streams = [design.streams[s] for s, depth in depths.items() if depth > SHIFT]
    return sum(depths[s.name] * s.lanes * s.elem.width for s in streams)


# ---- with time, streams without bounds


def paced(
    network: Sequence[Process], interval: int, *, even: bool, inferences: int = _INFERENCES
) -> tuple[Times, Times]:
    """Cycles in which every word is written and read, by streams that hold any number of words.

    Inputs come evenly. A process takes every iteration as early as it can, or with `even` as
    slowly as the interval allows.
    """
    written: dict[str, IntArray] = {}
    read: dict[str, IntArray] = {}
    for process in network:
        if not process.reads:
            for stream, at in process.writes.items():
                written[stream] = np.arange(at.size * inferences) * interval // at.size
            continue
        slow = (interval, process.length) if even else (1, 1)
        again = partial(_repeated, length=process.length, inferences=inferences, slow=slow)
        starts = {stream: again(at) for stream, at in process.reads.items()}
        delays = {s: np.maximum.accumulate(written[s] + 1 - at) for s, at in starts.items()}
        for stream, at in starts.items():
            read[stream] = at + _delay(at, starts, delays)
        for stream, own in process.writes.items():
            at = again(own)
            written[stream] = at + _delay(at, starts, delays)
    return written, read


def _repeated(at: IntArray, length: int, inferences: int, slow: tuple[int, int]) -> IntArray:
    """Iterations of all inferences, as cycles of a loop that never waits."""
    return (np.arange(inferences)[:, None] * length + at).reshape(-1) * slow[0] // slow[1]


def _delay(at: IntArray, starts: Times, delays: Times) -> IntArray:
    """How long the loop has waited in all by each of some iterations."""
    total = np.zeros(at.size, np.int64)
    for stream, reads in starts.items():
        seen = np.searchsorted(reads, at, side="right")
        waited = np.concatenate([np.zeros(1, np.int64), delays[stream]])
        total = np.maximum(total, waited[seen])
    return total


def occupancy(written: IntArray, read: IntArray) -> int:
    """The most words that a stream holds; a place is free in the cycle after its word was read."""
    before = np.searchsorted(read, written, side="left")
    return int((np.arange(1, written.size + 1) - before).max())


# ---- without time, streams that block


@dataclass(slots=True)
class _Turn:
    """A process as it runs: next iteration, words moved so far."""

    process: Process
    reads: dict[str, list[int]]
    writes: dict[str, list[int]]
    at: int = 0


def simulate(network: Sequence[Process], depths: Mapping[str, int]) -> tuple[Blocked, ...]:
    """Run one inference with streams that hold no more than their depth; who is stuck, if anyone.

    An iteration takes place when all words it reads are there and all that it writes have room.
    """
    turns = [_Turn(p, _lists(p.reads), _lists(p.writes)) for p in network]
    ends: dict[str, list[int]] = {}
    for index, process in enumerate(network):
        for stream in (*process.reads, *process.writes):
            ends.setdefault(stream, []).append(index)
    written, read = dict.fromkeys(ends, 0), dict.fromkeys(ends, 0)
    waiting = deque(range(len(turns)))
    queued = set(waiting)
    while waiting:
        index = waiting.popleft()
        queued.discard(index)
        for stream in _advance(turns[index], depths, written, read):
            for other in ends[stream]:
                if other != index and other not in queued:
                    waiting.append(other)
                    queued.add(other)
    return tuple(_blocked(t, depths, written, read) for t in turns if t.at < t.process.length)


def _lists(events: Mapping[str, IntArray]) -> dict[str, list[int]]:
    return {stream: at.tolist() for stream, at in events.items()}


def _advance(
    turn: _Turn, depths: Mapping[str, int], written: dict[str, int], read: dict[str, int]
) -> list[str]:
    """Run up to the first iteration that must wait; the streams on which words were moved."""
    until = turn.process.length
    for stream, at in turn.reads.items():
        if written[stream] < len(at):
            until = min(until, at[written[stream]])
    for stream, at in turn.writes.items():
        if read[stream] + depths[stream] < len(at):
            until = min(until, at[read[stream] + depths[stream]])
    if until <= turn.at:
        return []
    turn.at = until
    moved: list[str] = []
    for events, counts in ((turn.reads, read), (turn.writes, written)):
        for stream, at in events.items():
            count = bisect_left(at, until, counts[stream])
            if count != counts[stream]:
                counts[stream] = count
                moved.append(stream)
    return moved


def _blocked(
    turn: _Turn, depths: Mapping[str, int], written: dict[str, int], read: dict[str, int]
) -> Blocked:
    """What a stuck process waits for."""
    empty = [s for s, at in turn.reads.items() if turn.at in at[written[s] : written[s] + 1]]
    room = {s: read[s] + depths[s] for s in turn.writes}
    full = [s for s, at in turn.writes.items() if turn.at in at[room[s] : room[s] + 1]]
    return Blocked(turn.process.name, turn.at, tuple(empty), tuple(full))


def least(network: Sequence[Process], depths: Mapping[str, int], stream: str) -> int:
    """The smallest depth of one stream without deadlock, the others as given, which have none."""
    low, high = 0, depths[stream]
    while high - low > 1:
        middle = (low + high) // 2
        if simulate(network, {**depths, stream: middle}):
            low = middle
        else:
            high = middle
    return high
