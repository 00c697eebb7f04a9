"""Calls of a stage of patches or bands: which are one function, and what each has of its own.

Calls of one kernel with the same constants are one function for all pieces. Numbers in which the
pieces differ - sizes, padding, offsets - come from a table with a row for each. Bands of a layer
inside of a patch are calls of its piece, neighbours that are alike as a loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from binpoint.ir.graph import Graph
from binpoint.ir.kernel import Argument, Buffer, Expanded, Number, Table
from binpoint.numeric.fixed import I32
from binpoint.numeric.interval import Interval
from binpoint.plan.fuse import Step
from binpoint.plan.program import PatchCall, Piece, Place, Program, constant_of

_WORD = Interval.of_type(I32)
_Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in a piece: bytes into its arena, or elements behind the patch in a whole map.

    Args:
        index: of the operand that the map is.
        step: what every turn of a loop adds to the offset.
    """

    place: Place
    index: int = 0
    offset: int = 0
    step: int = 0

    def behind(self, elements: int, step: int, size: int) -> Spot:
        """So many elements of `size` bytes behind it."""
        each = size if self.place is Place.ARENA else 1
        return replace(self, offset=self.offset + elements * each, step=step * each)


@dataclass(frozen=True, slots=True)
class Function:
    """A function that calls a kernel, for all that call it alike.

    Args:
        name: of the first step that it computes, different from those of the stage's others.
        graph, step: that first step, and the graph of its values.
        varying: which of the call's numbers are not the same for all.
        rows: these numbers, a row for each that differs.
    """

    name: str
    graph: Graph
    step: Step
    varying: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A call that a piece makes.

    Args:
        operands: the pointers that differ from call to call, and where they point.
        scratch: where its scratch memory begins in the piece's arena; None if it needs none.
        row: its row of the function's numbers; None if it has none of its own.
    """

    function: Function
    operands: tuple[tuple[Buffer, Spot], ...]
    scratch: int | None
    row: int | None


@dataclass(frozen=True, slots=True)
class Turns:
    """Calls that are made so many times."""

    turns: int
    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class StageCalls:
    """The functions of a stage, and what each of its pieces and tests calls, in order."""

    functions: tuple[Function, ...]
    pieces: tuple[tuple[Turns, ...], ...]


def stage_calls(program: Program, step: Step) -> StageCalls:
    """The calls of the stage that a step is."""
    pieces = [list(_blocks(program, piece)) for piece in program.stages[step.name].programs]
    alike: dict[_Key, list[_Site]] = {}
    for site in (site for blocks in pieces for _, sites in blocks for site in sites):
        alike.setdefault(site.key, []).append(site)
    functions: dict[_Key, Function] = {}
    names: set[str] = set()
    for key, sites in alike.items():
        name = sites[0].step.name
        while name in names:
            name = f"{name}_{len(names)}"
        names.add(name)
        functions[key] = _function(name, sites)
    made = (
        tuple(Turns(turns, tuple(_call(functions[s.key], s) for s in sites)) for turns, sites in p)
        for p in pieces
    )
    return StageCalls(tuple(functions.values()), tuple(made))


def moving(graph: Graph, step: Step) -> list[Buffer]:
    """The pointers that differ from call to call, each name once."""
    buffers = [a for a in step.call.all_arguments if isinstance(a, Buffer)]
    return list({a.name: a for a in buffers if graph.value(a.value).constant is None}.values())


# ---- places


@dataclass(frozen=True, slots=True)
class _Frame:
    """A program inside of a piece: where its ends and its arena are."""

    program: Program
    inputs: tuple[Spot, ...]
    output: Spot
    arena: int = 0

    def spot(self, value: str) -> Spot:
        """Where a value is."""
        storage = self.program.storage[value]
        match storage.place:
            case Place.INPUT:
                return self.inputs[storage.index]
            case Place.OUTPUT:
                return self.output
            case _:
                return Spot(Place.ARENA, offset=self.arena + storage.index)

    @property
    def steps(self) -> list[Step]:
        """Those that have code."""
        return [step for step in self.program.steps if not step.alias]

    def scratch(self, step: Step) -> int:
        """Where the step's scratch memory is in the piece's arena."""
        return self.arena + self.program.scratch.get(step.name, 0)


@dataclass(frozen=True, slots=True)
class _Site:
    """A call in a piece; those of one key share a function."""

    key: _Key
    frame: _Frame
    step: Step

    @property
    def graph(self) -> Graph:
        """The graph of the step's values."""
        return self.frame.program.graph

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the call, in order."""
        return tuple(a.value for a in self.step.call.all_arguments if isinstance(a, Number))


def _blocks(program: Program, piece: Piece) -> Iterator[tuple[int, list[_Site]]]:
    """The calls of a piece, in order, with how many times neighbouring ones are made."""
    starts = tuple(Spot(Place.INPUT, i) for i in range(len(piece.program.inputs)))
    frame = _Frame(piece.program, starts, Spot(Place.OUTPUT))
    for step in frame.steps:
        stage = piece.program.stages.get(step.name)
        if stage is None:
            yield 1, [_site(program, frame, step)]
            continue
        for calls in _alike(stage.patches):
            inner = _banded(frame, step, stage.pieces[calls[0].piece].program, calls)
            yield len(calls), [_site(program, inner, s) for s in inner.steps]


def _site(program: Program, frame: _Frame, step: Step) -> _Site:
    return _Site(_key(program, frame.program.graph, step), frame, step)


def _alike(bands: Sequence[PatchCall]) -> list[list[PatchCall]]:
    """Runs of neighbours of one piece whose places are equally far apart."""
    runs: list[list[PatchCall]] = []
    for band in bands:
        run = runs[-1] if runs else []
        if run and run[0].piece == band.piece:
            apart = [_apart(a, b) for a, b in zip(run, (*run[1:], band), strict=True)]
            if len(set(apart)) == 1:
                run.append(band)
                continue
        runs.append([band])
    return runs


def _apart(a: PatchCall, b: PatchCall) -> tuple[int, ...]:
    places = zip((*a.sources, a.target), (*b.sources, b.target), strict=True)
    return tuple(y - x for x, y in places)


def _banded(frame: _Frame, step: Step, program: Program, calls: Sequence[PatchCall]) -> _Frame:
    """The program of bands of a step, from the first of them on."""
    first = calls[0]
    steps = _apart(first, calls[1]) if len(calls) > 1 else (0,) * (len(first.sources) + 1)
    places = zip((*step.reads, *step.writes), (*first.sources, first.target), steps, strict=True)
    graph = frame.program.graph
    *inputs, output = (
        frame.spot(name).behind(start, by, graph.value(name).elem.storage.dtype.itemsize)
        for name, start, by in places
    )
    return _Frame(program, tuple(inputs), output, frame.scratch(step))


# ---- functions


def _key(program: Program, graph: Graph, step: Step) -> _Key:
    """What calls that share a function have in common: all but 32-bit numbers and places."""
    parts = tuple(_same(program, graph, a) for a in step.call.all_arguments)
    return (step.name, step.call.symbol, bool(step.call.memory), parts)


def _same(program: Program, graph: Graph, argument: Argument) -> object:
    match argument:
        case Number(name=name, kind=kind):
            return (name, argument.value if _held(argument) else kind)
        case Table() | Buffer() | Expanded():
            array = constant_of(graph, argument)
            where = "" if array is None else program.constant_like(*array).name
            return (argument.name, where, str(argument.elem))


def _held(number: Number) -> bool:
    """Whether the number must be the same for all that share a function."""
    return number.kind not in ("int32_t", "uint32_t") or not _WORD.contains(
        Interval(number.value, number.value)
    )


def _function(name: str, sites: Sequence[_Site]) -> Function:
    numbers = [site.numbers for site in sites]
    columns = enumerate(zip(*numbers, strict=True))
    varying = tuple(i for i, column in columns if len(set(column)) > 1)
    rows = dict.fromkeys(_row(site, varying) for site in sites) if varying else ()
    return Function(name, sites[0].graph, sites[0].step, varying, tuple(rows))


def _row(site: _Site, varying: Sequence[int]) -> tuple[int, ...]:
    return tuple(site.numbers[i] for i in varying)


def _call(function: Function, site: _Site) -> Call:
    operands = [(a, site.frame.spot(a.value)) for a in moving(site.graph, site.step)]
    row = function.rows.index(_row(site, function.varying)) if function.varying else None
    scratch = site.frame.scratch(site.step) if site.step.call.memory else None
    return Call(function, tuple(operands), scratch, row)
