"""What stages of patches would take: memory and extra work of every stage and grid, estimated.

Patches need only what they read of the maps of a stage, but neighbours compute their common halos
twice. For a limit of memory the division of a net into stages with the least extra work is found
exactly, over all divisions (dynamic programming over the maps where a stage may end).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.graph import Graph, Node, Value
from binpoint.ir.op import IntArray, IntegerOp
from binpoint.ops.halo import spatial, windowed
from binpoint.plan.fuse import Step
from binpoint.plan.memory import ALIGNMENT, aligned
from binpoint.plan.program import Place, Program
from binpoint.plan.stages import Span, joined, spans, view_of

_MOST_PARTS = 8
_STAGE_COST = 1e-6
"""Extra work that is not worth one more stage."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Choice:
    """A stage and its grid: what it is estimated to take.

    Attributes:
        extents: positions of the result in a patch, along each spatial axis.
        peak: bytes of the arena while the stage runs.
        extra: multiply-accumulates that halos add, as a fraction of the whole net's.
    """

    span: Span
    extents: tuple[int, ...]
    peak: int
    extra: float


@dataclass(frozen=True, slots=True)
class Division:
    """Stages, with the peak of the whole net and the extra work of all."""

    stages: tuple[Choice, ...]
    peak: int
    extra: float


@dataclass(frozen=True)
class Estimates:
    """Of a net with the plain plan `program`."""

    graph: Graph
    program: Program

    @cached_property
    def runs(self) -> list[list[Span]]:
        """Neighbouring spans that can be computed in parts."""
        return spans(self.graph)

    @cached_property
    def macs(self) -> dict[str, int]:
        """Multiply-accumulates of each node."""
        return {
            n.name: n.op.work(self.graph.arguments(n), self.graph.results(n)).macs
            for n in self.graph.nodes()
            if isinstance(n.op, IntegerOp)
        }

    @cached_property
    def live(self) -> dict[str, int]:
        """Bytes of the arena in use while each step of the plain plan runs, by its first node."""
        steps = self.program.steps
        starts = {name: i for i, s in enumerate(steps) for name in s.writes}
        ends = {name: i for i, s in enumerate(steps) for name in s.reads}
        ends |= dict.fromkeys(self.graph.outputs, len(steps))
        placed = {n: s.index for n, s in self.program.storage.items() if s.place is Place.ARENA}
        found: dict[str, int] = {}
        for index, step in enumerate(steps):
            used: dict[int, int] = {}
            for name, offset in placed.items():
                first = starts.get(name, -1)
                if first <= index <= ends.get(name, first):
                    used[offset] = max(used.get(offset, 0), _bytes(self.graph.value(name)))
            found[step.nodes[0].name] = sum(used.values()) + aligned(step.call.memory)
        return found

    @cached_property
    def choices(self) -> list[dict[tuple[int, int], list[Choice]]]:
        """For each run the stages from span i to before span j: the best grids."""
        return [self._of_run(run) for run in self.runs]

    def _of_run(self, run: list[Span]) -> dict[tuple[int, int], list[Choice]]:
        found: dict[tuple[int, int], list[Choice]] = {}
        for i in range(len(run)):
            for j in range(i + 1, len(run) + 1):
                found[i, j] = _front(self._grids(joined(run[i:j])))
        return found

    def peak_of(self, nodes: Sequence[Node]) -> int:
        """The plain plan's most bytes while these nodes run."""
        return max((self.live[n.name] for n in nodes if n.name in self.live), default=0)

    def _grids(self, span: Span) -> list[Choice]:
        """All grids of a stage."""
        table = Table.of(self.graph, span, self.program)
        axes = [table.axis(i) for i in range(len(spatial(self.graph.value(span.end))))]
        bytes_ = table.peaks(axes) + self._kept(span)
        work = np.array([self.macs[n.name] for n in span.nodes], np.float64)
        each = [axis.total[:, table.results] / axis.size[table.results] for axis in axes]
        shares = each[0] if len(each) == 1 else each[0][:, None] * each[1][None, :]
        extra = (shares - 1) @ work / max(1, sum(self.macs.values()))
        return [
            Choice(
                span,
                _extents(axes, index),
                int(bytes_[index]),
                float(extra[index]) + _STAGE_COST,
            )
            for index in np.ndindex(*bytes_.shape)
            if any(index)
        ]

    def _kept(self, span: Span) -> int:
        """Bytes in the arena for all of the stage: the whole result, and what it reads."""
        names = (view_of(self.graph, span.start)[0], span.end)
        storage = self.program.storage
        return sum(_bytes(self.graph.value(n)) for n in names if storage[n].place is Place.ARENA)

    # ---- divisions

    def least_work(self, limit: int) -> Division | None:
        """The division with the least extra work whose peak is within the limit, if one is."""
        outside = {n.name for n in self.graph.nodes()}
        stages: tuple[Choice, ...] = ()
        for run, choices in zip(self.runs, self.choices, strict=True):
            best = self._divide(run, choices, limit)
            if best is None:
                return None
            stages += best
            outside -= {n.name for choice in best for n in choice.span.nodes}
            outside -= {copy for choice in best for copy in self._skipped(choice)}
        rest = self.peak_of([n for n in self.graph.nodes() if n.name in outside])
        if rest > limit:
            return None
        peak = max([rest, *(c.peak for c in stages)])
        return Division(stages, peak, sum(c.extra for c in stages))

    def _skipped(self, choice: Choice) -> list[str]:
        """The copy that the stage makes needless."""
        producer = self.graph.producer(choice.span.start)
        source, _ = view_of(self.graph, choice.span.start)
        return [producer.name] if producer is not None and source != choice.span.start else []

    def _divide(
        self, run: list[Span], choices: dict[tuple[int, int], list[Choice]], limit: int
    ) -> tuple[Choice, ...] | None:
        best: list[tuple[float, tuple[Choice, ...]] | None] = [(0.0, ())]
        for j in range(1, len(run) + 1):
            found: tuple[float, tuple[Choice, ...]] | None = None
            for i in range(j):
                before = best[i]
                if before is None:
                    continue
                for more in self._ways(run, choices, (i, j), limit):
                    cost = before[0] + (0.0 if more is None else more.extra)
                    if found is None or cost < found[0]:
                        found = (cost, before[1] + (() if more is None else (more,)))
            best.append(found)
        last = best[-1]
        return None if last is None else last[1]

    def _ways(
        self,
        run: list[Span],
        choices: dict[tuple[int, int], list[Choice]],
        ends: tuple[int, int],
        limit: int,
    ) -> list[Choice | None]:
        """How spans may be computed within the limit: as they are (None), or as a stage."""
        i, j = ends
        if j == i + 1 and self.peak_of(run[i].nodes) <= limit:
            return [None]
        within = (choice for choice in choices[ends] if choice.peak <= limit)
        first = next(within, None)
        return [] if first is None else [first]

    def limits(self) -> list[int]:
        """All peaks that a division may have, descending."""
        peaks = {c.peak for of in self.choices for grids in of.values() for c in grids}
        return sorted(peaks | set(self.live.values()), reverse=True)

    def least_memory(self, extra: float) -> Division | None:
        """The division of the lowest peak whose extra work is within a fraction of the net's."""
        limits = self.limits()
        low, high = 0, len(limits)
        found: Division | None = None
        while low < high:
            middle = (low + high) // 2
            division = self.least_work(limits[middle])
            if division is not None and division.extra <= extra:
                found, low = division, middle + 1
            else:
                high = middle
        return found


def _extents(axes: Sequence[AxisTable], index: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axis.extents[i] for axis, i in zip(axes, index, strict=True))


def _front(choices: list[Choice]) -> list[Choice]:
    """By extra work; each with less memory than all before it."""
    kept: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.extra, c.peak, c.extents)):
        if not kept or choice.peak < kept[-1].peak:
            kept.append(choice)
    return kept


def _bytes(value: Value) -> int:
    return aligned(value.type.size * value.elem.storage.dtype.itemsize)


# ---- sizes of maps in patches


@dataclass(frozen=True, slots=True)
class AxisTable:
    """Along one axis, for every number of parts ``[ways, maps]``: positions of each map.

    Attributes:
        most: in the part that has the most.
        total: in all parts.
        size: of the whole map.
    """

    extents: tuple[int, ...]
    most: IntArray
    total: IntArray
    size: IntArray


@dataclass(frozen=True, slots=True)
class Table:
    """The maps of a stage in order, and which of them are live while each step runs."""

    graph: Graph
    span: Span
    names: tuple[str, ...]
    channels: Floats
    alive: Floats
    scratch: Floats

    @classmethod
    def of(cls, graph: Graph, span: Span, program: Program) -> Table:
        """From the steps in the order of the plain plan."""
        inner = {node.name for node in span.nodes}
        steps = [s for s in program.steps if s.nodes[0].name in inner]
        names = (span.start, *(node.outputs[0] for node in span.nodes))
        place = {name: i for i, name in enumerate(names)}
        width = [
            graph.value(n).shape[-1] * graph.value(n).elem.storage.dtype.itemsize for n in names
        ]
        scratch = np.array([s.call.memory for s in steps], np.float64)
        alive = _alive(steps, place, span)
        return cls(graph, span, names, np.array(width, np.float64), alive, scratch)

    @property
    def results(self) -> list[int]:
        """The map of each node's result."""
        return list(range(1, len(self.names)))

    def axis(self, axis: int) -> AxisTable:
        """Sizes along an axis, for every number of parts up to eight."""
        values = [self.graph.value(name) for name in self.names]
        size = spatial(values[-1])[axis]
        most = range(1, min(_MOST_PARTS, size) + 1)
        extents = tuple(sorted({-(-size // parts) for parts in most}, reverse=True))
        first = np.concatenate([np.arange(0, size, e) for e in extents])
        last = np.concatenate([np.minimum(np.arange(0, size, e) + e, size) - 1 for e in extents])
        counts = [-(-size // e) for e in extents]
        starts = np.cumsum([0, *counts[:-1]])
        spans_of = _needed(self.graph, self.span, axis, (first, last))
        sizes = np.stack([spans_of[n][1] - spans_of[n][0] + 1 for n in self.names], axis=1)
        return AxisTable(
            extents,
            np.maximum.reduceat(sizes, starts, axis=0),
            np.add.reduceat(sizes, starts, axis=0),
            np.array([spatial(v)[axis] for v in values]),
        )

    def peaks(self, axes: Sequence[AxisTable]) -> IntArray:
        """Bytes of a patch's maps at most, ``[ways of each axis]``; they are aligned each."""
        shape = tuple(len(axis.extents) for axis in axes)
        most = axes[0].most if len(axes) == 1 else axes[0].most[:, None] * axes[1].most[None, :]
        held = most * self.channels + ALIGNMENT
        whole = np.zeros((*shape, 1)) if len(axes) == 1 else np.indices(shape)[1][..., None]
        ends = np.zeros(len(self.names), bool)
        ends[[0, -1]] = True
        # Rows as wide as the map lie in the whole map already, and are read and written there.
        held = np.where(ends & (whole == 0), 0, held)
        return (held @ self.alive.T + self.scratch).max(axis=-1).astype(np.int64)


def _alive(steps: Sequence[Step], place: dict[str, int], span: Span) -> Floats:
    """``[steps, maps]``: what is live; the memory of an operand taken over counts once."""
    last = {name: i for i, s in enumerate(steps) for name in s.reads}
    first = {name: i for i, s in enumerate(steps) for name in s.writes} | {span.start: 0}
    alive = np.zeros((len(steps), len(place)))
    for name, column in place.items():
        if name in first:
            alive[first[name] : last.get(name, first[name]) + 1, column] = 1
    for index, step in enumerate(steps):
        taken = [n for n in step.in_place if last[n] == index and n in place]
        if taken:
            alive[index, place[step.writes[0]]] = 0
    return alive


def _needed(
    graph: Graph, span: Span, axis: int, region: tuple[IntArray, IntArray]
) -> dict[str, tuple[IntArray, IntArray]]:
    """Of many parts at once: the first and last position that is needed of each map."""
    needed = {span.end: region}
    for node in reversed(span.nodes):
        first, last = needed[node.outputs[0]]
        for name in node.inputs:
            value = graph.value(name)
            if value.constant is not None:
                continue
            u, v = first, last
            window = windowed(node.op)
            if window is not None:
                stride, before, reach = (
                    window.strides[axis], window.before[axis], window.reach[axis],
                )  # fmt: skip
                u = np.maximum(0, first * stride - before)
                v = np.minimum(spatial(value)[axis] - 1, last * stride - before + reach - 1)
            if name in needed:
                u, v = np.minimum(u, needed[name][0]), np.maximum(v, needed[name][1])
            needed[name] = (u, v)
    return needed
