"""A stage of patches or bands as C: one loop, calls of the pieces, code that pieces share.

Calls of one kernel with the same constants are one function for all pieces. Numbers in which the
pieces differ - sizes, padding, offsets - come from a table with a row for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from binpoint.emit.calls import formulas, parameter, title, wrapped
from binpoint.emit.environment import c_int, comment, ctype
from binpoint.ir.constant import Constant
from binpoint.ir.graph import Graph
from binpoint.ir.kernel import Argument, Buffer, Number, Table
from binpoint.numeric.fixed import I32
from binpoint.numeric.interval import Interval
from binpoint.plan.fuse import Step
from binpoint.plan.program import Piece, Place, Program

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
class PieceView:
    """The calls of a piece, in order; `target` is the C type of its result."""

    function: str
    title: str
    target: str
    calls: tuple[str, ...]
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


@dataclass(slots=True)
class _Group:
    """Calls that share a function: numbers by name for each piece, in the order of pieces."""

    function: str
    graph: Graph
    step: Step
    numbers: dict[int, tuple[int, ...]] = field(default_factory=dict[int, tuple[int, ...]])

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

    def row_of(self, piece: int) -> int:
        """The row of a piece."""
        return self.rows.index(tuple(self.numbers[piece][i] for i in self.varying))


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


def _coded(piece: Piece) -> list[Step]:
    return [step for step in piece.program.steps if not step.alias]


def _groups(
    program: Program, pieces: Sequence[Piece], function: str
) -> dict[tuple[object, ...], _Group]:
    groups: dict[tuple[object, ...], _Group] = {}
    taken: set[str] = set()
    for index, piece in enumerate(pieces):
        graph = piece.program.graph
        for step in _coded(piece):
            key = _key(program, graph, step)
            if key not in groups:
                name = f"{function}_{step.name}"
                while name in taken:
                    name = f"{name}_{len(taken)}"
                taken.add(name)
                groups[key] = _Group(name, graph, step)
            groups[key].numbers[index] = tuple(a.value for a in _numbers(step))
    return groups


def _key(program: Program, graph: Graph, step: Step) -> tuple[object, ...]:
    """What calls that share a function have in common: all but 32-bit numbers and places."""
    parts = tuple(_same(program, graph, a) for a in step.call.all_arguments)
    return (step.name, step.call.symbol, bool(step.call.scratch), parts)


def _same(program: Program, graph: Graph, argument: Argument) -> object:
    match argument:
        case Number(name=name, kind=kind):
            return (name, argument.value if _held(argument) else kind)
        case Table() | Buffer():
            array = _constant(graph, argument)
            where = "" if array is None else program.constant_like(array, argument.elem).name
            return (argument.name, where, str(argument.elem))


def _held(number: Number) -> bool:
    """Whether the number must be the same for all that share a function."""
    return number.kind not in ("int32_t", "uint32_t") or not _WORD.contains(
        Interval(number.value, number.value)
    )


def _constant(graph: Graph, argument: Buffer | Table) -> Constant | None:
    return argument.array if isinstance(argument, Table) else graph.value(argument.value).constant


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
                array = _constant(group.graph, argument)
                words.append(
                    argument.name
                    if array is None
                    else f"{program.name}_{program.constant_like(array, argument.elem).name}"
                )
    parameters = [parameter(a) for a in _moving(group.graph, step)]
    if step.call.scratch:
        parameters.append("uint8_t *scratch")
        words.append("scratch")
    if varying:
        parameters.append("const int32_t *n")
    return CallView(
        function=group.function,
        title=title(step),
        lines=tuple(comment(line) for line in formulas(step)),
        parameters=", ".join(parameters),
        call=wrapped(f"{step.call.symbol}({', '.join(words)})", 8),
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
    calls: list[str] = []
    for step in _coded(piece):
        group = groups[_key(program, graph, step)]
        words = [_place(piece, a) for a in _moving(graph, step)]
        if step.call.scratch:
            words.append(f"arena + {piece.program.scratch[step.name]}")
        if group.varying:
            words.append(f"{group.function}_numbers[{group.row_of(index)}]")
        calls.append(f"{group.function}({', '.join(words)})")
    (start, *_), (end,) = graph.inputs, (graph.value(name) for name in graph.outputs)
    return PieceView(
        function,
        f"Patches from {list(graph.value(start).shape)} to {list(end.shape)}.",
        ctype(end.elem.storage),
        tuple(calls),
        _paste_view(piece),
    )


def _paste_view(piece: Piece) -> PasteView | None:
    if piece.paste is None:
        return None
    (name,) = piece.program.graph.outputs
    value = piece.program.graph.value(name)
    paste = piece.paste
    words = [
        {"x": "source", "y": "to"}[a.name] if isinstance(a, Buffer) else c_int(a.value, a.kind)
        for a in paste.copy.call.all_arguments
        if not isinstance(a, Table)
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


def _place(piece: Piece, argument: Buffer) -> str:
    """Where a value is, as an expression in the piece's function."""
    storage = piece.program.storage[argument.value]
    match storage.place:
        case Place.INPUT:
            return _start(storage.index, len(piece.program.inputs))
        case Place.OUTPUT:
            return "to"
        case _:
            qualifier = "" if argument.written else "const "
            return f"({qualifier}{ctype(argument.elem)} *)(void *)(arena + {storage.index})"
