"""A stage of patches or bands as C: one loop, calls of the pieces, code that pieces share.

Calls of one kernel with the same constants are one function for all pieces. Numbers in which the
pieces differ - sizes, padding, offsets - come from a table with a row for each. Bands of a layer
inside of a patch are calls of its piece, neighbours that are alike as a loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from binpoint.emit.calls import formulas, parameter, statement, title
from binpoint.emit.environment import c_int, comment, ctype
from binpoint.ir.graph import Graph
from binpoint.ir.kernel import Argument, Buffer, Expanded, Number, Table
from binpoint.numeric.fixed import I32
from binpoint.numeric.interval import Interval
from binpoint.plan.fuse import Step
from binpoint.plan.program import PatchCall, Piece, Place, Program, constant_of

_COUNTS = "How many outliers are in what a patch reads."
_WORD = Interval.of_type(I32)


@dataclass(frozen=True, slots=True)
class CallView:
    """A function that calls a kernel, for all pieces that call it alike."""

    function: str
    title: str
    lines: tuple[str, ...]
    parameters: str
    call: str
    table: str
    rows: tuple[tuple[int, ...], ...]
    width: int


@dataclass(frozen=True, slots=True)
class PasteView:
    """How a piece's result gets into the whole map."""

    source: str
    symbol: str
    arguments: str
    rows: int
    run: int
    pitch: int


@dataclass(frozen=True, slots=True)
class TurnsView:
    """Calls that are made so many times, of which the texts count turns by ``i``."""

    turns: int
    calls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PieceView:
    """The calls of a piece, in order; `target` is the C type of its result."""

    function: str
    title: str
    target: str
    blocks: tuple[TurnsView, ...]
    paste: PasteView | None


@dataclass(frozen=True, slots=True)
class ChoiceView:
    """Patches of one of two pieces: the functions of the test, and with more outliers than not."""

    function: str
    test: str
    limit: int
    above: str
    below: str


@dataclass(frozen=True, slots=True)
class SourceView:
    """An operand of a stage: the node's parameter, and the piece's, which starts at the patch."""

    name: str
    start: str
    ctype: str


@dataclass(frozen=True, slots=True)
class StageView:
    """All of a stage as the template sees it.

    A patch is the index of its function in `entries`, sources and target.
    """

    sources: tuple[SourceView, ...]
    target: str
    calls: tuple[CallView, ...]
    pieces: tuple[PieceView, ...]
    choices: tuple[ChoiceView, ...]
    entries: tuple[str, ...]
    patches: tuple[tuple[int, ...], ...]
    arena: str


@dataclass(frozen=True, slots=True)
class _Spot:
    """A place in a piece: bytes behind ``arena``, or elements behind another pointer.

    `step` is what every turn of a loop adds.
    """

    base: str
    offset: int = 0
    step: int = 0

    def behind(self, elements: int, step: int, size: int) -> _Spot:
        """So many elements of `size` bytes behind it."""
        each = size if self.base == "arena" else 1
        return _Spot(self.base, self.offset + elements * each, step * each)

    @property
    def text(self) -> str:
        """As an expression."""
        turn = f"{self.step} * i" if self.step else ""
        offset = str(self.offset) if self.offset or self.base == "arena" else ""
        return " + ".join(w for w in (self.base, offset, turn) if w)


@dataclass(frozen=True, slots=True)
class _Frame:
    """A program inside of a piece: where its ends and its arena are."""

    program: Program
    inputs: tuple[_Spot, ...]
    output: _Spot
    arena: int = 0

    def spot(self, value: str) -> _Spot:
        """Where a value is."""
        storage = self.program.storage[value]
        match storage.place:
            case Place.INPUT:
                return self.inputs[storage.index]
            case Place.OUTPUT:
                return self.output
            case _:
                return _Spot("arena", self.arena + storage.index)

    @property
    def steps(self) -> list[Step]:
        """Those that have code."""
        return [step for step in self.program.steps if not step.alias]

    def scratch(self, step: Step) -> int:
        """Where the step's scratch memory is in the piece's arena."""
        return self.arena + self.program.scratch.get(step.name, 0)


@dataclass(frozen=True, slots=True)
class _Site:
    """A call in a piece; `key` tells it from all others of the stage."""

    key: tuple[object, ...]
    frame: _Frame
    step: Step

    @property
    def graph(self) -> Graph:
        """The graph of the step's values."""
        return self.frame.program.graph


def _blocks(index: int, piece: Piece) -> Iterator[tuple[int, list[_Site]]]:
    """The calls of a piece, in order, with how many times neighbouring ones are made."""
    count = len(piece.program.inputs)
    starts = tuple(_Spot(_start(i, count)) for i in range(count))
    frame = _Frame(piece.program, starts, _Spot("to"))
    for step in frame.steps:
        stage = piece.program.stages.get(step.name)
        if stage is None:
            yield 1, [_Site((index, step.name), frame, step)]
            continue
        for calls in _alike(stage.patches):
            inner = _banded(frame, step, stage.pieces[calls[0].piece].program, calls)
            key = (index, step.name, calls[0].piece)
            yield len(calls), [_Site((*key, s.name), inner, s) for s in inner.steps]


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


@dataclass(slots=True)
class _Group:
    """Calls that share a function: numbers by name for each site, in order."""

    function: str
    graph: Graph
    step: Step
    numbers: dict[tuple[object, ...], tuple[int, ...]] = field(
        default_factory=dict[tuple[object, ...], tuple[int, ...]]
    )

    @property
    def varying(self) -> tuple[int, ...]:
        """The places of numbers that are not the same for all."""
        columns = zip(*self.numbers.values(), strict=True)
        return tuple(i for i, column in enumerate(columns) if len(set(column)) > 1)

    @property
    def rows(self) -> tuple[tuple[int, ...], ...]:
        """The rows of the table, equal ones once."""
        places = self.varying
        rows = (tuple(numbers[i] for i in places) for numbers in self.numbers.values())
        return tuple(dict.fromkeys(rows))

    def row_of(self, site: _Site) -> int:
        """The row of a call."""
        return self.rows.index(tuple(self.numbers[site.key][i] for i in self.varying))


def stage_view(program: Program, step: Step, function: str) -> StageView:
    """The code of the stage that `step` is, in functions named after `function`."""
    stage = program.stages[step.name]
    groups = _groups(program, stage.programs, function)
    buffers = [a for a in step.call.arguments if isinstance(a, Buffer)]
    sources = tuple(
        SourceView(a.name, _start(i, len(buffers) - 1), ctype(a.elem))
        for i, a in enumerate(buffers[:-1])
    )
    calls = {group.function: _call_view(program, group) for group in groups.values()}
    names = [f"{function}_piece_{i}" for i in range(len(stage.pieces))]
    tests = [f"{function}_test_{i}" for i in range(len(stage.tests))]
    named = zip((*names, *tests), stage.programs, strict=True)
    views = [_piece_view(i, p, groups, program, name) for i, (name, p) in enumerate(named)]
    counting = (replace(view, title=_COUNTS) for view in views[len(names) :])
    pieces = (*views[: len(names)], *counting)
    choices = tuple(
        ChoiceView(f"{function}_choice_{i}", tests[c.test], c.limit, names[c.above], names[c.below])
        for i, c in enumerate(stage.choices)
    )
    entries = tuple(choice.function for choice in choices) or tuple(names)
    patches = tuple((p.piece, *p.sources, p.target) for p in stage.patches)
    arena = "scratch" if stage.bytes else "NULL"
    target = ctype(buffers[-1].elem)
    made = tuple(calls.values())
    return StageView(sources, target, made, pieces, choices, entries, patches, arena)


def _start(index: int, count: int) -> str:
    """The parameter of a piece where an operand starts."""
    return "from" if count == 1 else f"from_{index}"


def _groups(
    program: Program, pieces: Sequence[Piece], function: str
) -> dict[tuple[object, ...], _Group]:
    groups: dict[tuple[object, ...], _Group] = {}
    taken: set[str] = set()
    for index, piece in enumerate(pieces):
        for site in (site for _, sites in _blocks(index, piece) for site in sites):
            key = _key(program, site.graph, site.step)
            if key not in groups:
                name = f"{function}_{site.step.name}"
                while name in taken:
                    name = f"{name}_{len(taken)}"
                taken.add(name)
                groups[key] = _Group(name, site.graph, site.step)
            groups[key].numbers[site.key] = tuple(a.value for a in _numbers(site.step))
    return groups


def _key(program: Program, graph: Graph, step: Step) -> tuple[object, ...]:
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


def _numbers(step: Step) -> list[Number]:
    return [a for a in step.call.all_arguments if isinstance(a, Number)]


def _moving(graph: Graph, step: Step) -> list[Buffer]:
    """The pointers that differ from call to call, each name once."""
    buffers = [a for a in step.call.all_arguments if isinstance(a, Buffer)]
    return list({a.name: a for a in buffers if graph.value(a.value).constant is None}.values())


def _call_view(program: Program, group: _Group) -> CallView:
    step, varying, rows = group.step, group.varying, group.rows
    words: list[str] = []
    numbers = 0
    for argument in step.call.all_arguments:
        match argument:
            case Number(kind=kind):
                if numbers in varying:
                    text = f"n[{varying.index(numbers)}]"
                    words.append(text if kind == "int32_t" else f"({kind}){text}")
                else:
                    words.append(c_int(argument.value, kind))
                numbers += 1
            case _:
                array = constant_of(group.graph, argument)
                words.append(
                    argument.name
                    if array is None
                    else f"{program.name}_{program.constant_like(*array).name}"
                )
    parameters = [parameter(a) for a in _moving(group.graph, step)]
    if step.call.memory:
        parameters.append("uint8_t *scratch")
    if varying:
        parameters.append("const int32_t *n")
    return CallView(
        function=group.function,
        title=title(step),
        lines=tuple(comment(line) for line in formulas(step)),
        parameters=", ".join(parameters),
        call=statement(step.call, words),
        table=f"{group.function}_numbers",
        rows=rows if varying else (),
        width=len(varying),
    )


def _piece_view(
    index: int,
    piece: Piece,
    groups: dict[tuple[object, ...], _Group],
    program: Program,
    function: str,
) -> PieceView:
    graph = piece.program.graph
    blocks: list[TurnsView] = []
    for turns, sites in _blocks(index, piece):
        texts = (_call(groups[_key(program, site.graph, site.step)], site) for site in sites)
        blocks.append(TurnsView(turns, tuple(texts)))
    (start, *_), (end,) = graph.inputs, (graph.value(name) for name in graph.outputs)
    return PieceView(
        function,
        f"Patches from {list(graph.value(start).shape)} to {list(end.shape)}.",
        ctype(end.elem.storage),
        tuple(blocks),
        _paste_view(piece),
    )


def _call(group: _Group, site: _Site) -> str:
    """A call of the function that sites share, with what is this one's own."""
    step = site.step
    words = [_place(site.frame, a) for a in _moving(site.graph, step)]
    if step.call.memory:
        words.append(f"arena + {site.frame.scratch(step)}")
    if group.varying:
        words.append(f"{group.function}_numbers[{group.row_of(site)}]")
    return f"{group.function}({', '.join(words)})"


def _paste_view(piece: Piece) -> PasteView | None:
    if piece.paste is None:
        return None
    (name,) = piece.program.graph.outputs
    value = piece.program.graph.value(name)
    paste = piece.paste
    words = [
        {"x": "source", "y": "to"}[a.name] if isinstance(a, Buffer) else c_int(a.value, a.kind)
        for a in paste.copy.call.all_arguments
        if not isinstance(a, Table | Expanded)
    ]
    kind = ctype(value.elem.storage)
    return PasteView(
        source=f"(const {kind} *)(const void *)(arena + {piece.program.storage[name].index})",
        symbol=paste.copy.call.symbol,
        arguments=", ".join(words),
        rows=paste.rows,
        run=paste.run,
        pitch=paste.pitch,
    )


def _place(frame: _Frame, argument: Buffer) -> str:
    """Where a value is, as an expression in the piece's function."""
    spot = frame.spot(argument.value)
    if spot.base != "arena":
        return f"{spot.text} + {argument.start}" if argument.start else spot.text
    qualifier = "" if argument.written else "const "
    behind = argument.elem.dtype.itemsize * argument.start
    text = f"{spot.text} + {behind}" if behind else spot.text
    return f"({qualifier}{ctype(argument.elem)} *)(void *)({text})"
