"""ways(): products of computed matrices read and write their matrices where they lie.

Attention splits rows of tokens into heads before its products and joins them behind, which as code
would be copies. The kernels of products take the places of their matrices as strides. So moves of
elements before a product go, and its kernel reads what they would have copied; moves behind it go,
and it writes what they would have made. The graph keeps them: they say what the values are.

Which element goes where a move itself tells, applied to the places of its operand's elements. What
all of them come to must be matrices at one distance from each other, or groups of them, with the
elements of a row side by side; of the right operand that may be the transposed one. Where it is
anything else, or where moved values have other readers, the copy stays; and so it does where the
part of a larger value that is read where it lies would make the arena grow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from binpoint.ir.graph import Graph, Value
from binpoint.ir.kernel import Argument, Buffer, KernelCall, Number
from binpoint.ir.op import IntArray, IntegerOp
from binpoint.ops.copy import IntCopy, IntReshape
from binpoint.ops.dense import IntMatMul
from binpoint.ops.logshares import IntShiftMatMul
from binpoint.ops.slices import IntGather
from binpoint.plan.fuse import Step


@dataclass(frozen=True, slots=True)
class View:
    """Where the matrices of an operand or result lie; distances are in elements.

    Args:
        value: the value that they are elements of.
        start: its first element that is one of theirs.
        levels: by how many matrices make a group, from one group and from one matrix to the next.
        row: from one row to the next; of the transposed matrices if they are `turned`.
    """

    value: str
    start: int
    levels: Mapping[int, tuple[int, int]]
    row: int
    turned: bool


def ways(steps: tuple[Step, ...], graph: Graph) -> tuple[tuple[Step, ...], ...]:
    """The steps without moves that kernels of products do by strides.

    If operands are parts of larger values, which then live as long as the part, these are copied
    in a second way.
    """
    first, second = (_strided(steps, graph, parts) for parts in (True, False))
    return (first,) if len(first) == len(second) else (first, second)


def _strided(steps: tuple[Step, ...], graph: Graph, parts: bool) -> tuple[Step, ...]:
    makers = {s.writes[0]: s for s in steps if _moves(s)}
    copied: frozenset[str] = frozenset()
    while True:
        # What is copied for another reader is read as it is; so moves before it may have to stay.
        sources = {name: s for name, s in makers.items() if name not in copied}
        found = _needed(tuple(_reading(s, sources, graph, parts) for s in steps), graph)
        left = frozenset(s.writes[0] for s in found if _moves(s) and not s.alias)
        if left <= copied:
            return _written(found, graph)
        copied |= left


def _moves(step: Step) -> bool:
    return isinstance(step.nodes[0].op, IntCopy | IntGather | IntReshape)


def _multiplies(step: Step) -> bool:
    return isinstance(step.nodes[0].op, IntMatMul | IntShiftMatMul)


def _places(step: Step, operand: Value) -> IntArray:
    """Which element of its operand each element of a move's result is."""
    op = step.nodes[0].op
    assert isinstance(op, IntegerOp)
    (moved,) = op.reference(np.arange(operand.type.size).reshape(operand.shape))
    return moved.reshape(-1)


def _in_order(index: IntArray) -> bool:
    return np.array_equal(index, np.arange(index.size))


# ---- operands


def _reading(step: Step, makers: Mapping[str, Step], graph: Graph, parts: bool) -> Step:
    """A product, with operands from before the moves that made them."""
    if not _multiplies(step):
        return step
    ways = (
        [
            *_operands(value, makers, graph, _shape(step.call, side), parts),
            _view_of(step.call, side),
        ]
        for side, value in zip("ab", graph.arguments(step.nodes[0]), strict=True)
    )
    for a, b in product(*ways):
        call = _told(step.call, a=a, b=b)
        if call is not None:
            reads = (v.value for v in (a, b) if graph.value(v.value).constant is None)
            return replace(step, call=call, reads=tuple(dict.fromkeys(reads)))
    raise AssertionError("operands as they are fit each other")


def _operands(
    value: Value,
    makers: Mapping[str, Step],
    graph: Graph,
    shape: tuple[int, int, int],
    parts: bool,
) -> list[View]:
    """An operand in the values that it was moved from, the first of them first."""
    size = value.type.size
    index, found = np.arange(size), list[View]()
    while value.name in makers:
        step = makers[value.name]
        (value,) = graph.arguments(step.nodes[0])
        if value.constant is not None:
            break
        index = _places(step, value)[index]
        view = _view(value.name, index.reshape(shape))
        if view is not None and not _in_order(index) and (parts or value.type.size <= size):
            found.insert(0, view)
    return found


def _needed(steps: tuple[Step, ...], graph: Graph) -> tuple[Step, ...]:
    """Without moves whose results nobody reads."""
    needed, found = set(graph.outputs), list[Step]()
    for step in reversed(steps):
        if not _moves(step) or step.writes[0] in needed:
            needed.update(step.reads)
            found.append(step)
    return tuple(reversed(found))


# ---- results


def _written(steps: tuple[Step, ...], graph: Graph) -> tuple[Step, ...]:
    """Products that make what moves behind them would make."""
    readers: dict[str, list[Step]] = {}
    for step in steps:
        for name in step.reads:
            readers.setdefault(name, []).append(step)
    made, gone = dict[str, Step](), set[str]()
    for step in steps:
        for moves, view in _results(step, readers, graph) if _multiplies(step) else ():
            call = _told(step.call, y=view)
            if call is not None:
                gone.update(s.name for s in moves)
                made[step.name] = _joined(step, moves, call)
                break
    return tuple(made.get(s.name, s) for s in steps if s.name not in gone)


def _results(
    step: Step, readers: Mapping[str, list[Step]], graph: Graph
) -> list[tuple[tuple[Step, ...], View]]:
    """The moves behind a product and its result in what they make, the most of them first."""
    (name,) = step.writes
    index = np.arange(graph.value(name).type.size)
    moves: tuple[Step, ...] = ()
    found: list[tuple[tuple[Step, ...], View]] = []
    while name not in graph.outputs and len(readers.get(name, ())) == 1:
        (reader,) = readers[name]
        if not _moves(reader):
            break
        index = index[_places(reader, graph.value(name))]
        moves, (name,) = (*moves, reader), reader.writes
        if not np.array_equal(np.sort(index), np.arange(index.size)):
            break
        view = _view(name, np.argsort(index).reshape(_shape(step.call, "y")))
        if view is not None and not view.turned and not _in_order(index):
            found.insert(0, (moves, view))
    return found


def _joined(step: Step, moves: tuple[Step, ...], call: KernelCall) -> Step:
    nodes = (*step.nodes, *(node for move in moves for node in move.nodes))
    origin = sum((move.origin for move in moves), step.origin)
    return replace(step, nodes=nodes, writes=moves[-1].writes, call=call, origin=origin)


# ---- places


def _shape(call: KernelCall, side: str) -> tuple[int, int, int]:
    """Matrices, their rows and columns."""
    n = call.numbers
    ends = {"a": ("rows", "depth"), "b": ("depth", "columns"), "y": ("rows", "columns")}[side]
    return (n["outer"] * n["batches"], n[ends[0]], n[ends[1]])


def _view(value: str, places: IntArray) -> View | None:
    """Matrices whose elements are at ``places[matrix, row, column]`` of a value.

    None if they are at no one distance, or neither rows nor columns are side by side.
    """
    starts = places[:, 0, 0]
    height, width = (int(n) for n in places.shape[1:])
    row = int(places[0, 1, 0] - starts[0]) if height > 1 else width
    column = int(places[0, 0, 1] - starts[0]) if width > 1 else 1
    turned = column != 1
    if turned and height == 1:
        row = 1
    levels = _levels(starts)
    steps = np.arange(height)[:, None] * row + np.arange(width) * column
    regular = np.array_equal(places, starts[:, None, None] + steps)
    if not levels or not regular or (turned and row != 1):
        return None
    return View(value, int(starts[0]), levels, column if turned else row, turned)


def _levels(starts: IntArray) -> dict[int, tuple[int, int]]:
    """For every size of groups at one distance that the starts are in: both distances."""
    found: dict[int, tuple[int, int]] = {}
    for size in (n for n in range(1, starts.size + 1) if starts.size % n == 0):
        groups = starts.reshape(-1, size)
        outer = int(groups[1, 0] - groups[0, 0]) if groups.shape[0] > 1 else 0
        batch = int(groups[0, 1] - groups[0, 0]) if size > 1 else 0
        steps = np.arange(groups.shape[0])[:, None] * outer + np.arange(size) * batch
        if (groups == starts[0] + steps).all():
            found[size] = (outer, batch)
    return found


def _view_of(call: KernelCall, side: str) -> View:
    """What a call tells of one of its values."""
    n = call.numbers
    buffer = next(a for a in call.arguments if isinstance(a, Buffer) and a.name == side)
    outer = np.arange(n["outer"])[:, None] * n[f"{side}_outer"]
    starts = (outer + np.arange(n["batches"]) * n[f"{side}_batch"]).reshape(-1)
    turned = side == "b" and bool(dict(call.traits)["b"])
    return View(buffer.value, buffer.start, _levels(starts), n[f"{side}_row"], turned)


def _told(call: KernelCall, **views: View) -> KernelCall | None:
    """The call with values where `views` say; None where their matrices form no like groups."""
    found = {side: _view_of(call, side) for side in "aby"} | views
    common = set[int].intersection(*(set(view.levels) for view in found.values()))
    if not common or found["a"].turned:
        return None
    size, matrices = max(common), _shape(call, "a")[0]
    told = {"outer": matrices // size, "batches": size}
    for side, view in found.items():
        outer, batch = view.levels[size]
        told |= {f"{side}_outer": outer, f"{side}_batch": batch, f"{side}_row": view.row}
    arguments = tuple(_placed(argument, found, told) for argument in call.arguments)
    traits = dict(call.traits) | {"b": "turned" if found["b"].turned else ""}
    return replace(call, arguments=arguments, traits=tuple(traits.items()))


def _placed(argument: Argument, views: Mapping[str, View], told: Mapping[str, int]) -> Argument:
    match argument:
        case Buffer(name=name) if name in views:
            return replace(argument, value=views[name].value, start=views[name].start)
        case Number(name=name) if name in told:
            return replace(argument, value=told[name])
        case _:
            return argument
