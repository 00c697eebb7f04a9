"""Arena offsets from lifetimes.

First fit in several orders, then CP-SAT where the bound is not met.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

ALIGNMENT = 4


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A buffer of `size` bytes that is live from step `start` to step `stop`, both included."""

    name: str
    size: int
    start: int
    stop: int

    def meets(self, other: Lifetime) -> bool:
        """Whether both are live at some step."""
        return self.start <= other.stop and other.start <= self.stop


@dataclass(frozen=True, slots=True)
class Placement:
    """Offsets by buffer name, and the arena's size in bytes."""

    offsets: dict[str, int]
    total: int


def aligned(size: int) -> int:
    """`size` rounded up to the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def peak(lifetimes: Sequence[Lifetime]) -> int:
    """The most bytes live at one step: no placement is smaller."""
    steps = {life.start for life in lifetimes}
    return max((sum(o.size for o in lifetimes if o.start <= s <= o.stop) for s in steps), default=0)


def place(lifetimes: Sequence[Lifetime], *, exact: bool) -> Placement:
    """The smallest placement found; `exact` allows the solver where first fit misses the peak."""
    bound = peak(lifetimes)
    orders: tuple[Callable[[Lifetime], tuple[int | str, ...]], ...] = (
        lambda b: (-b.size, b.start, b.name),
        lambda b: (-b.size * (b.stop - b.start + 1), b.name),
        lambda b: (b.start - b.stop, -b.size, b.name),
        lambda b: (b.start, -b.size, b.name),
        lambda b: (-b.stop, -b.size, b.name),
    )
    best = min(
        (_first_fit(sorted(lifetimes, key=order)) for order in orders), key=lambda p: p.total
    )
    if best.total > bound and exact:
        solved = _solve(lifetimes, bound, best.total)
        if solved is not None:
            return solved
    return best


def _first_fit(lifetimes: Sequence[Lifetime]) -> Placement:
    """Each buffer at the lowest offset that is free over its lifetime, in the order given."""
    offsets: dict[str, int] = {}
    placed: list[Lifetime] = []
    total = 0
    for life in lifetimes:
        offset = 0
        for other in sorted((o for o in placed if o.meets(life)), key=lambda o: offsets[o.name]):
            if offset + life.size <= offsets[other.name]:
                break
            offset = max(offset, offsets[other.name] + other.size)
        offsets[life.name] = offset
        placed.append(life)
        total = max(total, offset + life.size)
    return Placement(offsets, total)


def _solve(lifetimes: Sequence[Lifetime], bound: int, limit: int) -> Placement | None:
    """A placement below `limit`, by CP-SAT with one worker and a deterministic limit.

    None without ortools.
    """
    try:
        from ortools.sat.python import cp_model
    except ImportError:
        return None
    model = cp_model.CpModel()
    total = model.new_int_var(bound // ALIGNMENT, (limit - 1) // ALIGNMENT, "total")
    starts = {
        b.name: model.new_int_var(0, (limit - b.size) // ALIGNMENT, b.name) for b in lifetimes
    }
    times: list[cp_model.IntervalVar] = []
    places: list[cp_model.IntervalVar] = []
    for life in lifetimes:
        size = life.size // ALIGNMENT
        times.append(
            model.new_fixed_size_interval_var(
                life.start, life.stop - life.start + 1, f"t_{life.name}"
            )
        )
        places.append(model.new_fixed_size_interval_var(starts[life.name], size, f"p_{life.name}"))
        model.add(starts[life.name] + size <= total)
    model.add_no_overlap_2d(times, places)
    model.minimize(total)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_deterministic_time = 5.0
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    offsets = {name: solver.value(start) * ALIGNMENT for name, start in starts.items()}
    return Placement(offsets, max(offsets[b.name] + b.size for b in lifetimes))
