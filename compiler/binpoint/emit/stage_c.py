"""A stage of patches or bands as C: one loop, and functions that its pieces share.

Which calls share one, and what each has of its own, is decided in `plan/stage_calls.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from binpoint.emit.calls import formulas, parameter, statement, title
from binpoint.emit.environment import c_int, comment, ctype
from binpoint.ir.kernel import Buffer, Expanded, Number, Table
from binpoint.plan.fuse import Step
from binpoint.plan.program import Piece, Place, Program, constant_of
from binpoint.plan.stage_calls import Call, Function, Spot, Turns, moving, stage_calls

_COUNTS = "How many outliers are in what a patch reads."


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


def stage_view(program: Program, step: Step, function: str) -> StageView:
    """The code of the stage that `step` is, in functions named after `function`."""
    stage, calls = program.stages[step.name], stage_calls(program, step)
    buffers = [a for a in step.call.arguments if isinstance(a, Buffer)]
    sources = tuple(
        SourceView(a.name, _start(i, len(buffers) - 1), ctype(a.elem))
        for i, a in enumerate(buffers[:-1])
    )
    names = [f"{function}_piece_{i}" for i in range(len(stage.pieces))]
    tests = [f"{function}_test_{i}" for i in range(len(stage.tests))]
    made = zip((*names, *tests), stage.programs, calls.pieces, strict=True)
    views = [_piece_view(name, piece, turns, function) for name, piece, turns in made]
    counting = (replace(view, title=_COUNTS) for view in views[len(names) :])
    choices = tuple(
        ChoiceView(f"{function}_choice_{i}", tests[c.test], c.limit, names[c.above], names[c.below])
        for i, c in enumerate(stage.choices)
    )
    return StageView(
        sources=sources,
        target=ctype(buffers[-1].elem),
        calls=tuple(_call_view(program, f, f"{function}_{f.name}") for f in calls.functions),
        pieces=(*views[: len(names)], *counting),
        choices=choices,
        entries=tuple(choice.function for choice in choices) or tuple(names),
        patches=tuple((p.piece, *p.sources, p.target) for p in stage.patches),
        arena="scratch" if stage.bytes else "NULL",
    )


def _start(index: int, count: int) -> str:
    """The parameter of a piece where an operand starts."""
    return "from" if count == 1 else f"from_{index}"


def _call_view(program: Program, shared: Function, name: str) -> CallView:
    step, varying = shared.step, shared.varying
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
                array = constant_of(shared.graph, argument)
                words.append(
                    argument.name
                    if array is None
                    else f"{program.name}_{program.constant_like(*array).name}"
                )
    parameters = [parameter(a) for a in moving(shared.graph, step)]
    if step.call.memory:
        parameters.append("uint8_t *scratch")
    if varying:
        parameters.append("const int32_t *n")
    return CallView(
        function=name,
        title=title(step),
        lines=tuple(comment(line) for line in formulas(step)),
        parameters=", ".join(parameters),
        call=statement(step.call, words),
        table=_table(name),
        rows=shared.rows,
        width=len(varying),
    )


def _table(function: str) -> str:
    """The numbers in which calls of a function differ."""
    return f"{function}_numbers"


def _piece_view(name: str, piece: Piece, blocks: Sequence[Turns], function: str) -> PieceView:
    graph, count = piece.program.graph, len(piece.program.inputs)
    (start, *_), (end,) = graph.inputs, (graph.value(name) for name in graph.outputs)
    return PieceView(
        name,
        f"Patches from {list(graph.value(start).shape)} to {list(end.shape)}.",
        ctype(end.elem.storage),
        tuple(
            TurnsView(block.turns, tuple(_call(call, function, count) for call in block.calls))
            for block in blocks
        ),
        _paste_view(piece),
    )


def _call(call: Call, function: str, count: int) -> str:
    """A call of a shared function, with what is this one's own, in a piece of so many operands."""
    name = f"{function}_{call.function.name}"
    words = [_place(buffer, spot, count) for buffer, spot in call.operands]
    if call.scratch is not None:
        words.append(f"arena + {call.scratch}")
    if call.row is not None:
        words.append(f"{_table(name)}[{call.row}]")
    return f"{name}({', '.join(words)})"


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


def _place(buffer: Buffer, spot: Spot, count: int) -> str:
    """Where a value is, as an expression in the function of a piece of so many operands."""
    turn = f"{spot.step} * i" if spot.step else ""
    offset = str(spot.offset) if spot.offset else ""
    if spot.place is not Place.ARENA:
        base = "to" if spot.place is Place.OUTPUT else _start(spot.index, count)
        start = str(buffer.start) if buffer.start else ""
        return _sum(base, offset, turn, start)
    behind = buffer.elem.dtype.itemsize * buffer.start
    text = _sum("arena", str(spot.offset), turn, str(behind) if behind else "")
    qualifier = "" if buffer.written else "const "
    return f"({qualifier}{ctype(buffer.elem)} *)(void *)({text})"


def _sum(*words: str) -> str:
    return " + ".join(word for word in words if word)
