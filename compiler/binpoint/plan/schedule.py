"""An order of steps with the lowest peak of live memory, and a proven lower bound of any order.

Exact by best-first search over sets of executed steps (a minimax shortest path) as long as the
number of such sets stays small, which it does for nets whose branches join again; else a greedy
order, with the bound that every step's own operands and results must be live together.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from binpoint.plan.fuse import Step

_MOST_STATES = 60_000


@dataclass(frozen=True, slots=True)
class Schedule:
    """Steps in order; `bound` holds for every order and placement.

    `optimal` if the order reaches it.
    """

    steps: tuple[Step, ...]
    peak: int
    bound: int
    optimal: bool


@dataclass(frozen=True, slots=True)
class Problem:
    """Sizes of buffers (aliases share one), and what each step reads and writes, as buffer indices.

    `last` gives for each buffer the steps that must have run before it is free, as a bit set;
    buffers that are outputs of the model are never free. `takes` are operands whose memory the
    result may take.
    """

    sizes: tuple[int, ...]
    reads: tuple[tuple[int, ...], ...]
    writes: tuple[tuple[int, ...], ...]
    takes: tuple[tuple[int, ...], ...]
    needs: tuple[int, ...]
    readers: tuple[int, ...]
    kept: tuple[bool, ...]
    initial: tuple[int, ...]

    def live_after(self, executed: int, alive: frozenset[int]) -> frozenset[int]:
        """The buffers of `alive` that are still needed."""
        return frozenset(b for b in alive if self.kept[b] or self.readers[b] & ~executed)

    def run(
        self, executed: int, alive: frozenset[int], step: int
    ) -> tuple[int, int, frozenset[int]]:
        """Peak while `step` runs, then the new state."""
        after = executed | (1 << step)
        now = alive | frozenset(self.writes[step])
        then = self.live_after(after, now)
        peak = sum(self.sizes[b] for b in now)
        for operand in self.takes[step]:
            if operand not in then:
                peak -= self.sizes[operand]
                break
        return peak, after, then


def schedule(
    steps: Sequence[Step],
    sizes: Mapping[str, int],
    owner: Mapping[str, str],
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> Schedule:
    """Order `steps`. `sizes` are bytes of buffers in the arena.

    `owner` maps each value to its buffer.

    Values without a buffer in the arena have no size. `inputs` are alive from the start,
    `outputs` to the end.
    """
    problem = _problem(steps, sizes, owner, inputs, outputs)
    found = _search(problem)
    bound = max((_needed(problem, i) for i in range(len(steps))), default=0)
    if found is not None:
        order, peak = found
        return Schedule(tuple(steps[i] for i in order), peak, peak, optimal=True)
    order, peak = _greedy(problem)
    return Schedule(tuple(steps[i] for i in order), peak, bound, peak == bound)


def _problem(
    steps: Sequence[Step],
    sizes: Mapping[str, int],
    owner: Mapping[str, str],
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> Problem:
    names = sorted(sizes)
    index = {name: i for i, name in enumerate(names)}

    def buffers(values: Sequence[str]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(index[owner[v]] for v in values if owner.get(v) in index))

    writer = {value: i for i, step in enumerate(steps) for value in step.writes}
    reads = tuple(buffers(step.reads) for step in steps)
    readers = [0] * len(names)
    for i, operands in enumerate(reads):
        for b in operands:
            readers[b] |= 1 << i
    # A buffer written in one step and aliased by another lives on through the alias's readers.
    for i, step in enumerate(steps):
        for b in buffers(step.writes):
            readers[b] |= 1 << i
    kept = set(buffers(outputs))
    return Problem(
        tuple(sizes[name] for name in names),
        reads,
        tuple(buffers(step.writes) for step in steps),
        tuple(buffers(step.in_place) for step in steps),
        tuple(sum({1 << writer[v] for v in step.reads if v in writer}) for step in steps),
        tuple(readers),
        tuple(i in kept for i in range(len(names))),
        buffers(inputs),
    )


def _needed(problem: Problem, step: int) -> int:
    """Bytes that any order has live while a step runs."""
    together = set(problem.reads[step]) | set(problem.writes[step])
    shared = min((problem.sizes[b] for b in problem.takes[step]), default=0)
    return sum(problem.sizes[b] for b in together) - shared


def _ready(problem: Problem, executed: int) -> list[int]:
    return [
        i for i, need in enumerate(problem.needs) if not executed >> i & 1 and not need & ~executed
    ]


def _search(problem: Problem) -> tuple[list[int], int] | None:
    """The best order and its peak, or None where there are too many sets of executed steps."""
    everything = (1 << len(problem.needs)) - 1
    alive = problem.live_after(0, frozenset(problem.initial))
    start = sum(problem.sizes[b] for b in alive)
    best: dict[int, int] = {0: start}
    came: dict[int, tuple[int, int]] = {}
    queue: list[tuple[int, int, int, frozenset[int]]] = [(start, 0, 0, alive)]
    while queue:
        peak, rank, executed, alive = heapq.heappop(queue)
        if executed == everything:
            return _path(came, executed), peak
        if peak > best[executed]:
            continue
        if len(best) > _MOST_STATES:
            return None
        for step in _ready(problem, executed):
            during, after, then = problem.run(executed, alive, step)
            top = max(peak, during)
            if top < best.get(after, top + 1):
                best[after] = top
                came[after] = (executed, step)
                heapq.heappush(queue, (top, rank - 1, after, then))
    return [], start


def _path(came: Mapping[int, tuple[int, int]], state: int) -> list[int]:
    order: list[int] = []
    while state in came:
        state, step = came[state]
        order.append(step)
    return order[::-1]


def _greedy(problem: Problem) -> tuple[list[int], int]:
    """At each point the step that leaves the least alive, then the one with the lowest peak."""
    executed, alive = 0, problem.live_after(0, frozenset(problem.initial))
    order: list[int] = []
    top = sum(problem.sizes[b] for b in alive)
    while len(order) < len(problem.needs):
        options = [(problem.run(executed, alive, i), i) for i in _ready(problem, executed)]
        ((peak, executed, alive), step) = min(
            options, key=lambda o: (sum(problem.sizes[b] for b in o[0][2]), o[0][0], o[1])
        )
        order.append(step)
        top = max(top, peak)
    return order, top
