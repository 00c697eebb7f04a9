"""stage_of(): a Patched or Banded step as a loop, and the programs of the pieces in it.

Patches that are alike - of one body, size and place relative to the borders - are one piece, of
which there are few: first, inner and last along each axis. A piece is planned as a net of its own,
with the kernels of the target; which calls the pieces share is decided in `plan/stage_calls.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

from binpoint.ir.graph import Graph, Node, Value
from binpoint.numeric.fixed import TensorType
from binpoint.ops.banded import Banded
from binpoint.ops.copy import IntCopy
from binpoint.ops.halo import Region, sizes, spatial
from binpoint.ops.outliers import IntOutliers
from binpoint.ops.patched import Patch, Patched, View
from binpoint.options import CompileOptions
from binpoint.plan.fuse import Step
from binpoint.plan.kernels import choose
from binpoint.plan.program import Choice, Paste, PatchCall, Piece, Program, Stage
from binpoint.target import McuTarget


class Arrange(Protocol):
    """`plan.arrange.arrange`."""

    def __call__(
        self,
        graph: Graph,
        options: CompileOptions,
        target: McuTarget | None = None,
        inside: Sequence[str] | None = None,
    ) -> Program:
        """Plan a graph."""
        ...


def stage_of(
    step: Step, graph: Graph, options: CompileOptions, target: McuTarget | None, arrange: Arrange
) -> Stage | None:
    """The stage that a step is, or None."""
    op = step.nodes[0].op
    pieces = _Pieces()
    if isinstance(op, Banded):
        for band, part in zip(op.bands, op.parts, strict=True):
            make = partial(_in_place, part, options, target, arrange)
            piece = pieces.find(_kind(0, part), make)
            sources = zip(band.operands, op.body.inputs, strict=True)
            starts = tuple(_dense_start(region, op.body.value(name)) for region, name in sources)
            pieces.add(piece, starts, _dense_start(band.result, op.target))
        return pieces.stage()
    if not isinstance(op, Patched):
        return None
    (x,), (y,) = graph.arguments(step.nodes[0]), graph.results(step.nodes[0])
    for patch, parts in zip(op.patches, op.parts, strict=True):
        found: list[int] = []
        for body, part in zip(patch.bodies, parts, strict=True):
            make = partial(piece_of, op, patch, (x, part, y), options, target, arrange)
            found.append(pieces.find(_kind(body, part), make))
        piece = found[0]
        if op.test is not None:
            region = (*sizes(patch.operand), op.source.shape[-1])
            count = op.test.region(region, op.view.strides)
            above, below = found
            make = partial(_test, count, x, options, target, arrange)
            test = pieces.test(count, make)
            piece = pieces.choose(Choice(test, op.test.limit(math.prod(region)), above, below))
        source = op.view.offset + _start(patch.operand, op.view.strides)
        pieces.add(piece, (source,), _dense_start(patch.result, y))
    return pieces.stage()


class _Pieces:
    """Patches as they come, and the pieces, one for all that are alike."""

    def __init__(self) -> None:
        self._index: dict[tuple[object, ...], int] = {}
        self._made: list[Piece] = []
        self._patches: list[PatchCall] = []
        self._tests: dict[IntOutliers, Piece] = {}
        self._choices: dict[Choice, None] = {}

    def find(self, kind: tuple[object, ...], make: Callable[[], Piece]) -> int:
        """The index of the piece of this kind, made if there is none yet."""
        if kind not in self._index:
            self._index[kind] = len(self._made)
            self._made.append(make())
        return self._index[kind]

    def test(self, count: IntOutliers, make: Callable[[], Piece]) -> int:
        """The index of what counts these, made if there is none yet."""
        if count not in self._tests:
            self._tests[count] = make()
        return list(self._tests).index(count)

    def choose(self, choice: Choice) -> int:
        """The index of the choice."""
        self._choices.setdefault(choice)
        return list(self._choices).index(choice)

    def add(self, piece: int, sources: tuple[int, ...], target: int) -> None:
        """A patch."""
        self._patches.append(PatchCall(piece, sources, target))

    def stage(self) -> Stage:
        """All of it."""
        tests, choices = tuple(self._tests.values()), tuple(self._choices)
        return Stage(tuple(self._made), tuple(self._patches), tests, choices)


def _kind(body: int, part: Graph) -> tuple[object, ...]:
    """What patches of one piece have in common."""
    shapes = tuple((value.name, value.shape) for value in part.values())
    return (body, shapes, tuple((node.name, _same(node.op), node.inputs) for node in part.nodes()))


def _same(op: object) -> object:
    """What ops that compute alike have in common."""
    return (op.rows, _kind(0, op.body)) if isinstance(op, Banded) else op


def _dense_start(region: Region, value: Value) -> int:
    return _start(region, View.dense(value.shape).strides)


def _start(region: Region, strides: Sequence[int]) -> int:
    return sum(first * step for (first, _), step in zip(region, strides, strict=False))


def piece_of(
    op: Patched,
    patch: Patch,
    values: tuple[Value, Graph, Value],
    options: CompileOptions,
    target: McuTarget | None,
    arrange: Arrange,
) -> Piece:
    """The piece of a patch: `values` are the whole operand, the patch's graph, the whole result."""
    x, part, y = values
    if not (_contiguous(patch.operand, op.source) and op.view == View.dense(op.source.shape)):
        part = _loading(op, part, x)
    if _contiguous(patch.result, y):
        return _in_place(part, options, target, arrange)
    program = arrange(part, options, target, part.outputs)
    shape = sizes(patch.result)
    run = shape[-1] * y.shape[-1]
    pitch = spatial(y)[-1] * y.shape[-1]
    paste = Paste(math.prod(shape[:-1]), run, pitch, *_run_copy(run, y, options, target))
    return Piece(program, paste)


def _in_place(
    part: Graph, options: CompileOptions, target: McuTarget | None, arrange: Arrange
) -> Piece:
    """A piece that reads and writes whole maps where they are."""
    return Piece(arrange(part, options, target, ()), None)


def _test(
    count: IntOutliers,
    x: Value,
    options: CompileOptions,
    target: McuTarget | None,
    arrange: Arrange,
) -> Piece:
    """What counts outliers in the whole operand from where a patch starts."""
    graph = Graph("test")
    _ = graph.add_value(replace(x, bounds=x.interval))
    graph.inputs = (x.name,)
    name = graph.fresh("outliers")
    (kind,), (bounds,) = count.infer(x), count.bounds(x)
    _ = graph.add(Node(name, count, (x.name,), (name,)), [Value(name, kind, bounds=bounds)])
    graph.outputs = (name,)
    return _in_place(graph, options, target, arrange)


def _contiguous(region: Region, value: Value) -> bool:
    """Whether the region is one run of memory of the dense map."""
    inner = zip(region[1:], spatial(value)[1:], strict=True)
    return all(span == (0, n - 1) for span, n in inner)


def _loading(op: Patched, part: Graph, x: Value) -> Graph:
    """The part with a copy before it, from the operand as it is to a dense map."""
    graph = part.copy()
    (name,) = graph.inputs
    value = graph.value(name)
    kind = TensorType(x.shape, value.elem)
    source = replace(x, name=graph.fresh(f"{name}_whole"), type=kind)
    _ = graph.add_value(source)
    graph.inputs = (source.name,)
    shape = value.shape[1:]
    copy = IntCopy.of(value.shape, shape, op.view.strides, 0, value.elem)
    graph.set_producer(Node(graph.fresh(f"{name}_load"), copy, (source.name,), (name,)))
    return graph


def _run_copy(
    run: int, y: Value, options: CompileOptions, target: McuTarget | None
) -> tuple[Graph, Step]:
    """The call that copies a run, by the target's kernel, and its graph."""
    graph = Graph("paste")
    shape = (run,)
    for name in ("x", "y"):
        _ = graph.add_value(Value(name, TensorType(shape, y.elem), bounds=y.interval))
    copy = IntCopy.of(shape, shape, (1,), 0, y.elem)
    node = Node("paste", copy, ("x",), ("y",))
    graph.set_producer(node)
    call = copy.kernel(graph.arguments(node), graph.results(node))
    step = Step("paste", (node,), ("x",), ("y",), call, node.origin)
    return graph, step if target is None else choose((step,), graph, target, options)[0]
