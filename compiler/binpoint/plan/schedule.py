"""An order of steps with the lowest peak of live memory, and a proven lower bound of any order.

Exact by best-first search over sets of executed steps (a minimax shortest path) as long as the
number of such sets stays small, which it does for nets whose branches join again; else a greedy
order, with the bound that every step's own operands and results must be live together.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from binpoint.plan.fuse import Step

_MOST_STATES = 20_000
_MOST_PLAIN = 6_000
"""States up to which all steps are tried, also where one of them can only be of use."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Steps in order; `bound` holds for every order and placement.

    `optimal` if the order reaches it.
    """

    steps: tuple[Step, ...]
    peak: int
    bound: int
    optimal: bool


class State(NamedTuple):
    """Where an order may stand: bit sets of steps and buffers, and the bytes that are alive."""

    executed: int
    ready: int
    alive: int
    live: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Sizes of buffers (aliases share one), and what each step reads and writes, as buffer indices.

    `readers` gives for each buffer the steps that must have run before it is free, as a bit set;
    buffers that are outputs of the model are never free. `takes` are operands whose memory the
    result may take. `needs` are the steps before each step, as a bit set, `followers` those behind.
    """

    sizes: tuple[int, ...]
    reads: tuple[tuple[int, ...], ...]
    writes: tuple[tuple[int, ...], ...]
    takes: tuple[tuple[int, ...], ...]
    needs: tuple[int, ...]
    followers: tuple[tuple[int, ...], ...]
    readers: tuple[int, ...]
    kept: tuple[bool, ...]
    initial: tuple[int, ...]

    @property
    def start(self) -> int:
        """Bytes of all inputs, which are there before the first step, read or not."""
        return sum(self.sizes[b] for b in self.initial)

    @property
    def even(self) -> bool:
        """Whether it makes no difference which of several operands a result takes."""
        return all(len({self.sizes[b] for b in taken}) < 2 for taken in self.takes)

    @property
    def first(self) -> State:
        """Before the first step: inputs that anything needs are alive."""
        alive = [b for b in self.initial if self.kept[b] or self.readers[b]]
        ready = sum(1 << i for i, need in enumerate(self.needs) if not need)
        return State(0, ready, sum(1 << b for b in alive), sum(self.sizes[b] for b in alive))

    def run(self, state: State, step: int) -> tuple[int, State]:
        """Peak while a step runs, then the new state."""
        executed, ready, alive, live = state
        executed |= 1 << step
        for b in self.writes[step]:
            if not alive >> b & 1:
                alive |= 1 << b
                live += self.sizes[b]
        peak = live
        for b in (*self.reads[step], *self.writes[step]):
            if alive >> b & 1 and not self.kept[b] and not self.readers[b] & ~executed:
                alive ^= 1 << b
                live -= self.sizes[b]
        for operand in self.takes[step]:
            if not alive >> operand & 1:
                peak -= self.sizes[operand]
                break
        ready ^= 1 << step
        for follower in self.followers[step]:
            if not self.needs[follower] & ~executed:
                ready |= 1 << follower
        return peak, State(executed, ready, alive, live)


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
    bound = max(problem.start, *(_needed(problem, i) for i in range(len(steps))), 0)
    order, peak = _greedy(problem)
    found = _search(problem, peak, _MOST_PLAIN)
    if found is None and peak > bound and problem.even:
        found = _search(problem, peak, _MOST_STATES, eager=True)
    if found is not None:
        order, peak = found
        return Schedule(tuple(steps[i] for i in order), peak, peak, optimal=True)
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
    before = [{writer[v] for v in step.reads if v in writer} for step in steps]
    return Problem(
        tuple(sizes[name] for name in names),
        reads,
        tuple(buffers(step.writes) for step in steps),
        tuple(buffers(step.in_place) if buffers(step.writes[:1]) else () for step in steps),
        tuple(sum(1 << i for i in earlier) for earlier in before),
        tuple(tuple(k for k, b in enumerate(before) if i in b) for i in range(len(steps))),
        tuple(readers),
        tuple(i in kept for i in range(len(names))),
        buffers(inputs),
    )


def _needed(problem: Problem, step: int) -> int:
    """Bytes that any order has live while a step runs."""
    together = set(problem.reads[step]) | set(problem.writes[step])
    shared = min((problem.sizes[b] for b in problem.takes[step]), default=0)
    return sum(problem.sizes[b] for b in together) - shared


def _steps(ready: int) -> Iterator[int]:
    """The members of a bit set, in order."""
    while ready:
        yield (ready & -ready).bit_length() - 1
        ready &= ready - 1


def _search(
    problem: Problem, highest: int, most: int, *, eager: bool = False
) -> tuple[list[int], int] | None:
    """The best order and its peak, or None where there are too many sets of executed steps.

    Args:
        problem: what is ordered.
        highest: the peak of an order that is known; higher ones are not looked at.
        most: states to look at.
        eager: run a step at once, and look at no other, if the peak so far allows it and it leaves
            no more alive than was: what dies then would not die earlier in any other order, so
            that moving the step to the front raises the peak of none.
    """
    everything = (1 << len(problem.needs)) - 1
    start = problem.start
    best: dict[int, int] = {0: start}
    came: dict[int, tuple[int, int]] = {}
    queue: list[tuple[int, int, State]] = [(start, 0, problem.first)]
    while queue:
        peak, rank, state = heapq.heappop(queue)
        executed = state.executed
        if executed == everything:
            return _path(came, executed), peak
        if peak > best[executed]:
            continue
        if len(best) > most:
            return None
        options = [(step, *problem.run(state, step)) for step in _steps(state.ready)]
        useful = (o for o in options if o[1] <= peak and o[2].live <= state.live)
        if eager and (one := next(useful, None)) is not None:
            options = [one]
        for step, during, then in options:
            top = max(peak, during)
            if top <= highest and top < best.get(then.executed, top + 1):
                best[then.executed] = top
                came[then.executed] = (executed, step)
                heapq.heappush(queue, (top, rank - 1, then))
    return [], start


def _path(came: Mapping[int, tuple[int, int]], state: int) -> list[int]:
    order: list[int] = []
    while state in came:
        state, step = came[state]
        order.append(step)
    return order[::-1]


def _greedy(problem: Problem) -> tuple[list[int], int]:
    """At each point the step that leaves the least alive, then the one with the lowest peak."""
    state = problem.first
    order: list[int] = []
    top = problem.start
    while state.ready:
        options = [(problem.run(state, i), i) for i in _steps(state.ready)]
        (peak, state), step = min(options, key=lambda o: (o[0][1].live, o[0][0], o[1]))
        order.append(step)
        top = max(top, peak)
    return order, top
