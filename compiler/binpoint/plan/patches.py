"""patch-stage: where a net is computed patch by patch, and in which patches, to save memory.

A stage leads from one map that alone is live to another such. Its patches need only what they read
of the maps between, but neighbours compute their common halos twice. Every stage and grid has a
peak of memory and an amount of extra work; the pass takes the cheapest that fits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from binpoint.ir.graph import Graph, Node, Value
from binpoint.ir.op import IntegerOp
from binpoint.ops.copy import IntCopy
from binpoint.ops.halo import Region, divisible, regions, sizes, spatial, whole
from binpoint.ops.patched import Patched, View
from binpoint.ops.requantize import Requantize
from binpoint.plan.fuse import Step
from binpoint.plan.memory import aligned
from binpoint.plan.program import Place, Program

_MOST_PARTS = 8


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the net between two maps that alone are live: names of values, nodes in order."""

    start: str
    end: str
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """A stage and a grid, with the memory and the work that they are estimated to take.

    `extra` is what halos add to the multiply-accumulates of the whole net, as a fraction.
    """

    span: Span
    extents: tuple[int, ...]
    grid: tuple[int, ...]
    arena_bytes: int
    extra: float


def spans(graph: Graph) -> list[list[Span]]:
    """Runs of neighbouring spans all of whose nodes can be computed in parts."""
    nodes = [n for n in graph.nodes() if any(not _constant(graph, i) for i in n.inputs)]
    readers = {
        name: sum(name in n.inputs for n in nodes) + (name in graph.outputs)
        for name in (*graph.inputs, *(o for n in nodes for o in n.outputs))
    }
    live = set(graph.inputs)
    runs: list[list[Span]] = [[]]
    first, start = 0, graph.inputs[0] if len(live) == 1 else None
    for index, node in enumerate(nodes):
        for name in {n for n in node.inputs if n in readers}:
            readers[name] -= 1
        live |= set(node.outputs)
        live -= {name for name in live if readers[name] == 0}
        if len(live) != 1 or node.outputs[0] not in live or _feeds_rounding(graph, node):
            continue
        part = tuple(nodes[first : index + 1])
        if start is not None and all(divisible(graph, n) for n in part):
            runs[-1].append(Span(start, node.outputs[0], part))
        elif runs[-1]:
            runs.append([])
        start, first = node.outputs[0], index + 1
    return [run for run in runs if run]


def _constant(graph: Graph, name: str) -> bool:
    return graph.value(name).constant is not None


def _feeds_rounding(graph: Graph, node: Node) -> bool:
    """Whether the result is sums that are requantized as they come, and so no map in memory."""
    assert isinstance(node.op, IntegerOp)
    reader = graph.sole_consumer(node.outputs[0])
    return node.op.accumulates and reader is not None and isinstance(reader.op, Requantize)


def joined(run: Sequence[Span]) -> Iterator[Span]:
    """The stages that start with the run."""
    nodes: tuple[Node, ...] = ()
    for span in run:
        nodes += span.nodes
        yield Span(run[0].start, span.end, nodes)


def body_of(graph: Graph, span: Span) -> Graph:
    """The stage as a graph of its own."""
    body = Graph(graph.name)
    body.inputs, body.outputs = (span.start,), (span.end,)
    start = graph.value(span.start)
    _ = body.add_value(replace(start, bounds=start.interval))
    for node in span.nodes:
        for value in graph.arguments(node):
            if value.constant is not None and not body.has_value(value.name):
                _ = body.add_value(value)
        _ = body.add(node, graph.results(node))
    return body


def put(graph: Graph, span: Span, bodies: tuple[Graph, ...], extents: tuple[int, ...]) -> Node:
    """Replace the stage by a `Patched` node; a copy that only brings its operand into order goes.

    `graph` is edited.
    """
    result = graph.value(span.end)
    origin = span.nodes[0].origin
    for node in span.nodes[1:]:
        origin += node.origin
    for node in reversed(span.nodes):
        graph.remove(node.name)
        for name in (*node.inputs, *node.outputs):
            if name not in (span.start, span.end) and _unused(graph, name):
                graph.drop_value(name)
    source, view = _viewed(graph, span.start)
    op = Patched(bodies, extents, view)
    node = Node(graph.fresh(f"{result.name}_patches"), op, (source,), (result.name,), origin)
    graph.set_producer(node)
    (bounds,) = op.bounds(graph.value(source))
    graph.set_value(replace(result, bounds=bounds))
    return node


def _unused(graph: Graph, name: str) -> bool:
    if not graph.has_value(name) or name in graph.outputs or name in graph.inputs:
        return False
    return not graph.consumers(name) and graph.producer(name) is None


def _viewed(graph: Graph, name: str) -> tuple[str, View]:
    """What the stage reads: the map, or in its place what a copy makes it from."""
    value = graph.value(name)
    copy = graph.producer(name)
    dense = View.dense(value.shape)
    if copy is None or not isinstance(copy.op, IntCopy) or graph.consumers(name):
        return name, dense
    if name in graph.outputs:
        return name, dense
    view = View.of(copy.op.indices.reshape(value.shape[1:]))
    if view is None:
        return name, dense
    (source,) = copy.inputs
    graph.remove(copy.name)
    graph.drop_value(name)
    return source, view


# ---- estimates


@dataclass(frozen=True, slots=True)
class Axis:
    """Of a number of parts along an axis: the most positions of each map in one, and in all."""

    extent: int
    parts: int
    most: dict[str, int]
    total: dict[str, int]


@dataclass(frozen=True, slots=True)
class Lives:
    """The plain plan's live bytes while each step runs, by the step's results."""

    program: Program
    bytes: dict[str, int]

    @classmethod
    def of(cls, program: Program) -> Lives:
        """From the steps in their order; buffers of the caller count nothing."""
        last: dict[int, int] = {}
        size: dict[int, int] = {}
        first: dict[int, int] = {}
        placed = {
            name: s.index for name, s in program.storage.items() if s.place is Place.ARENA
        }
        lives: list[tuple[int, int, int]] = []
        del last, size, first
        found: dict[str, int] = {}
        ends: dict[str, int] = {}
        for index, step in enumerate(program.steps):
            for name in step.reads:
                ends[name] = index
        for name in program.graph.outputs:
            ends[name] = len(program.steps)
        starts = {name: i for i, s in enumerate(program.steps) for name in s.writes}
        for name in placed:
            value = program.graph.value(name)
            bytes_ = value.type.size * value.elem.storage.dtype.itemsize
            at = starts.get(name, -1)
            lives.append((at, ends.get(name, at), placed[name] + bytes_))
        for index, step in enumerate(program.steps):
            scratch = program.scratch.get(step.name)
            top = 0 if scratch is None else scratch + step.call.scratch
            tops = [end for first_, last_, end in lives if first_ <= index <= last_]
            found[step.writes[0]] = max([top, *tops])
        return cls(program, found)

    def outside(self, graph: Graph, span: Span) -> int:
        """The most bytes while a step runs that is not of the stage."""
        inner = {name for node in span.nodes for name in node.outputs}
        skipped = inner | ({span.start} if _absorbed(graph, span) else set())
        return max((size for name, size in self.bytes.items() if name not in skipped), default=0)

    def in_arena(self, name: str) -> bool:
        """Whether a value lies in the arena."""
        return self.program.storage[name].place is Place.ARENA


def _absorbed(graph: Graph, span: Span) -> bool:
    """Whether the stage would read what a copy reads, in place of the copy's result."""
    copy = graph.producer(span.start)
    if copy is None or not isinstance(copy.op, IntCopy) or span.start in graph.outputs:
        return False
    shape = graph.value(span.start).shape[1:]
    return View.of(copy.op.indices.reshape(shape)) is not None


def points(graph: Graph, program: Program, steps: Sequence[Step]) -> list[Point]:
    """All stages and grids; `program` is the plain plan, `steps` its calls as the target has them."""
    lives = Lives.of(program)
    total = _macs(graph, graph.nodes())
    return [
        point
        for run in spans(graph)
        for span in joined(run)
        for point in _points(graph, span, lives, steps, max(1, total))
    ]


def _macs(graph: Graph, nodes: Iterable[Node]) -> int:
    ops = [(n, n.op) for n in nodes if isinstance(n.op, IntegerOp)]
    return sum(op.work(graph.arguments(n), graph.results(n)).macs for n, op in ops)


def _points(
    graph: Graph, span: Span, lives: Lives, steps: Sequence[Step], total: int
) -> Iterator[Point]:
    body = body_of(graph, span)
    result = body.value(span.end)
    inner = _inner_steps(span, steps)
    rest = lives.outside(graph, span)
    kept = _kept(graph, span, lives)
    axes = [_axes(body, result, axis) for axis in range(len(spatial(result)))]
    for grid in _grids(axes):
        if math.prod(axis.parts for axis in grid) == 1:
            continue
        extra = 0.0
        for node in span.nodes:
            macs = _macs(graph, [node])
            name = node.outputs[0]
            parts = math.prod(axis.total[name] for axis in grid)
            extra += macs * (parts / math.prod(spatial(graph.value(name))) - 1)
        peak = _peak(body, inner, grid) + kept
        extents = tuple(axis.extent for axis in grid)
        counts = tuple(axis.parts for axis in grid)
        yield Point(span, extents, counts, max(rest, peak), extra / total)


def _inner_steps(span: Span, steps: Sequence[Step]) -> list[Step]:
    names = {node.name for node in span.nodes}
    return [step for step in steps if step.nodes[0].name in names]


def _kept(graph: Graph, span: Span, lives: Lives) -> int:
    """Bytes that lie in the arena for all of the stage: the whole result, and what it reads."""
    names = [span.end]
    copy = graph.producer(span.start)
    if _absorbed(graph, span):
        assert copy is not None
        names += copy.inputs
    else:
        names.append(span.start)
    return sum(_bytes(graph.value(n)) for n in names if lives.in_arena(n))


def _bytes(value: Value) -> int:
    return aligned(value.type.size * value.elem.storage.dtype.itemsize)


def _axes(body: Graph, result: Value, axis: int) -> list[Axis]:
    """Every way to divide an axis into at most eight parts that differ from each other."""
    size = spatial(result)[axis]
    extents = sorted({-(-size // parts) for parts in range(1, min(_MOST_PARTS, size) + 1)})
    return [_axis(body, result, axis, extent) for extent in extents]


def _axis(body: Graph, result: Value, axis: int, extent: int) -> Axis:
    size = spatial(result)[axis]
    most: dict[str, int] = {}
    total: dict[str, int] = {}
    for first in range(0, size, extent):
        region: Region = tuple(
            (first, min(first + extent, size) - 1) if i == axis else span
            for i, span in enumerate(whole(result))
        )
        for name, needed in regions(body, region).items():
            count = sizes(needed)[axis]
            most[name] = max(most.get(name, 0), count)
            total[name] = total.get(name, 0) + count
    return Axis(extent, -(-size // extent), most, total)


def _grids(axes: Sequence[Sequence[Axis]]) -> Iterator[tuple[Axis, ...]]:
    if len(axes) == 1:
        yield from ((axis,) for axis in axes[0])
        return
    for row in axes[0]:
        yield from ((row, column) for column in axes[1])


def _peak(body: Graph, steps: Sequence[Step], grid: tuple[Axis, ...]) -> int:
    """Live bytes of a patch at most, with its own operand and result where they are copied."""
    size = {
        value.name: aligned(
            value.shape[-1]
            * value.elem.storage.dtype.itemsize
            * math.prod(axis.most[value.name] for axis in grid)
        )
        for value in body.values()
        if value.constant is None
    }
    rows = all(axis.parts == 1 for axis in grid[1:])
    end: dict[str, int] = {}
    for index, step in enumerate(steps):
        end |= dict.fromkeys(step.reads, index)
    alive = set() if rows else {body.inputs[0]}
    peak = 0
    for index, step in enumerate(steps):
        alive |= {n for n in step.writes if not (rows and n == body.outputs[0])}
        used = sum(size[n] for n in alive)
        taken = [n for n in step.in_place if end[n] == index and n in alive]
        peak = max(peak, used + step.call.scratch - (size[taken[0]] if taken else 0))
        alive -= {n for n in alive if end.get(n, len(steps)) <= index}
    return peak
