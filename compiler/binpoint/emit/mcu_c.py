"""Program → C99 project: views of its parts for the templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

from binpoint.emit.calls import formulas, parameter, statement, title, type_text, wrapped
from binpoint.emit.detect_c import detector_files, detector_view
from binpoint.emit.environment import c_int, comment, ctype, render_template
from binpoint.emit.project import Project
from binpoint.emit.stage_c import StageView, stage_view
from binpoint.ir.kernel import Argument, Block, Buffer, Expanded, KernelCall, Number
from binpoint.options import CompileOptions
from binpoint.plan.fuse import Step
from binpoint.plan.memory import ALIGNMENT
from binpoint.plan.program import Place, Port, Program, State, Storage
from binpoint.target import Target

_FOLDER = "mcu-c"
_SHARED = "static BP_NOINLINE"


@dataclass(frozen=True, slots=True)
class Pointer:
    """A pointer parameter as templates see it."""

    name: str
    ctype: str
    elem: str


class KernelView:
    """A kernel as its template sees it: `head`, `epilogue`, `traits`, and each pointer by name."""

    def __init__(self, call: KernelCall, inline: str) -> None:
        """Collect names and types of the parameters."""
        self.symbol = call.symbol
        self.stem = call.stem
        self.variant = call.variant
        self.traits = dict(call.traits)
        self.epilogue = call.epilogue
        extra = ["uint8_t *scratch"] if call.scratch else []
        self.parameters = ", ".join([*(parameter(a) for a in call.all_arguments), *extra])
        self.blocks = {block.stem: block.symbol for block in call.blocks}
        self.constants = tuple(
            {"name": a.name, "text": parameter(a)}
            for a in (call.epilogue.arguments if call.epilogue is not None else ())
        )
        opening = f"{_SHARED if call.shared else inline} void {call.symbol}("
        self.head = wrapped(opening + self.parameters + ")", 4)
        for argument in call.all_arguments:
            if not isinstance(argument, Number):
                setattr(
                    self,
                    argument.name,
                    Pointer(argument.name, ctype(argument.elem), str(argument.elem)),
                )


class BlockView:
    """A shared function as its template sees it."""

    def __init__(self, block: Block) -> None:
        """Name and traits."""
        self.symbol = block.symbol
        self.traits = dict(block.traits)


@dataclass(frozen=True, slots=True)
class StateView:
    """A state of a streaming model: member of the struct, and where its step leaves it."""

    name: str
    ctype: str
    size: int
    initial: str
    source: str
    offset: int


@dataclass(frozen=True, slots=True)
class NodeView:
    """A wrapper function: one call of a kernel with literal arguments."""

    index: int
    function: str
    title: str
    lines: tuple[str, ...]
    parameters: str
    call: str
    statement: str
    result: str
    result_bytes: int
    stage: StageView | None = None
    states: tuple[StateView, ...] = ()


@dataclass(frozen=True, slots=True)
class PortView:
    """An input or output as macros and a parameter, whose name no library or compiler has."""

    name: str
    parameter: str
    macro: str
    source: str
    ctype: str
    shape: tuple[int, ...]
    size: int
    bytes: int
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    zero_point: int
    type: str
    low: int
    high: int
    index: int


def render(program: Program, target: Target, options: CompileOptions) -> Project:
    """All files of the C project, but for vectors and report."""
    prefix = program.name
    inline = "static inline BP_INLINE" if options.optimize != "size" else _SHARED
    kernels = {step.call.symbol: KernelView(step.call, inline) for _, step in program.calls()}
    inputs, outputs = port_views(program.inputs, program.outputs)
    nodes = [_node(program, i, s) for i, s in enumerate(coded_steps(program))]
    variants = sorted({k.variant for k in kernels.values() if k.variant})
    blocks = {
        (k.variant, block.symbol): {
            "variant": k.variant,
            "stem": block.stem,
            "view": BlockView(block),
        }
        for k in (step.call for _, step in program.calls())
        for block in k.blocks
    }
    views = {
        "prefix": prefix,
        "macro": prefix.upper(),
        "version": metadata.version("binpoint"),
        "digest": program.graph.digest,
        "target": target.name,
        "inputs": inputs,
        "outputs": outputs,
        "constants": program.constants,
        "constant_bytes": program.constant_bytes,
        "nodes": nodes,
        "states": [state for node in nodes for state in node.states],
        "parameters": _parameters(options, program.name, inputs, outputs),
        "passed": ["context"] * (options.arena == "caller")
        + [p.parameter for p in [*inputs, *outputs] if options.io != "arena"],
        "arena_bytes": program.arena_bytes,
        "arena_storage": max(program.arena_bytes, ALIGNMENT),
        "arena_bound": program.arena_bound,
        "alignment": ALIGNMENT,
        "caller_arena": options.arena == "caller",
        "inputs_in_arena": options.io == "arena",
        "kernels": [kernels[s] for s in sorted(kernels)],
        "variants": variants,
        "blocks": [blocks[key] for key in sorted(blocks)],
        "expansions": _expansions(program),
        "port_offsets": {
            p.name: program.storage[p.value.name].index for p in program.inputs + program.outputs
        },
        "fpu": any(
            s.call.epilogue is not None and s.call.epilogue.form == "fpu"
            for _, s in program.calls()
        ),
        "bare": options.multipliers == "none",
        "detector": detector_view(program.detector, program.outputs),
        "softfloat": any(dict(s.call.traits).get("softfloat") for _, s in program.calls()),
    }
    files = {
        path: render_template(_FOLDER, f"{template}.j2", **views).encode()
        for path, template in {
            f"{prefix}.h": "model.h",
            f"{prefix}.c": "model.c",
            f"{prefix}_constants.c": "constants.c",
            f"{prefix}_constants.h": "constants.h",
            f"{prefix}_kernels.h": "kernels.h",
            f"{prefix}_runtime.h": "runtime.h",
            f"{prefix}_convert.h": "convert.h",
            "CMakeLists.txt": "CMakeLists.txt",
            **({} if program.detector is None else detector_files(prefix)),
            **{f"{prefix}_{variant}.h": f"{variant}/runtime.h" for variant in variants},
        }.items()
    }
    files["LICENSE.generated"] = render_template(_FOLDER, "LICENSE.generated.j2", **views).encode()
    return Project(files)


def _expansions(program: Program) -> list[Expanded]:
    """One of each kind of argument that is unpacked first."""
    found = (step.call.expanded for _, step in program.calls())
    kinds = {a.symbol: a for a in found if a is not None}
    return [kinds[symbol] for symbol in sorted(kinds)]


def coded_steps(program: Program) -> list[Step]:
    """The steps that need code."""
    return [step for step in program.steps if not step.alias]


def port_views(
    inputs: Sequence[Port], outputs: Sequence[Port]
) -> tuple[list[PortView], list[PortView]]:
    """Inputs and outputs as templates see them."""
    into = [_port(p, Place.INPUT, i) for i, p in enumerate(inputs)]
    return into, [_port(p, Place.OUTPUT, i) for i, p in enumerate(outputs)]


def _parameters(
    options: CompileOptions, prefix: str, inputs: Sequence[PortView], outputs: Sequence[PortView]
) -> list[str]:
    """Those of a run."""
    found = [f"{prefix}_context *context"] if options.arena == "caller" else []
    if options.io != "arena":
        found += [f"const {p.ctype} *{p.parameter}" for p in inputs]
        found += [f"{p.ctype} *{p.parameter}" for p in outputs]
    return found


def _parameter_of(port: Port, place: Place) -> str:
    return f"{'in' if place is Place.INPUT else 'out'}_{port.name}"


def _port(port: Port, place: Place, index: int) -> PortView:
    kind, reading = port.value.elem, port.value.reading
    scales = reading.scales if reading is not None else tuple(map(float, kind.scales))
    return PortView(
        name=port.name,
        parameter=_parameter_of(port, place),
        macro=port.name.upper(),
        source=port.source,
        ctype=ctype(kind.storage),
        shape=port.value.shape,
        size=port.value.type.size,
        bytes=port.bytes,
        scales=scales,
        offsets=reading.offsets if reading is not None and any(reading.offsets) else (),
        zero_point=kind.zero_points[0],
        type=str(kind),
        low=kind.storage.min,
        high=kind.storage.max,
        index=index,
    )


def _node(program: Program, index: int, step: Step) -> NodeView:
    function = f"node_{index:03d}_{step.name}"
    states = {key[1]: s for key, s in program.states.items() if key[0] == step.name}
    buffers = [
        a
        for a in step.call.all_arguments
        if isinstance(a, Buffer) and (a.name in states or _moves(program, a))
    ]
    names = {a.name: a for a in buffers}
    # The hook after a node sees its first result.
    result = next(a for a in buffers if a.written)
    value = program.graph.value(result.value)
    extra = bool(step.call.memory)
    inside = [a.name if a.name in names else _argument(program, a) for a in step.call.all_arguments]
    places = [
        f"state->{states[a.name].name}" if a.name in states else _place(program, a)
        for a in names.values()
    ]
    types = [
        f"{a.name} `{a.value}` {type_text(program.graph.value(a.value))}" for a in names.values()
    ]
    scratch = f"arena + {program.scratch[step.name]}" if extra else ""
    return NodeView(
        index=index,
        function=function,
        title=title(step),
        lines=tuple(comment(line) for line in (*formulas(step), *types)),
        parameters=", ".join(
            [*(parameter(a) for a in names.values()), *(["uint8_t *scratch"] if extra else [])]
        ),
        call=", ".join([*places, *([scratch] if scratch else [])]),
        statement=statement(step.call, inside),
        result=_place(program, result),
        result_bytes=value.type.size * value.elem.storage.dtype.itemsize,
        stage=stage_view(program, step, function) if step.name in program.stages else None,
        states=tuple(_state(program, state) for state in states.values()),
    )


def _state(program: Program, state: State) -> StateView:
    return StateView(
        state.name,
        ctype(state.initial.elem),
        state.size,
        f"{program.name}_{state.initial.name}",
        _place(program, state.source),
        state.offset,
    )


def _moves(program: Program, argument: Buffer) -> bool:
    return program.storage[argument.value].place is not Place.CONSTANT


def _argument(program: Program, argument: Argument) -> str:
    """An argument of the kernel that the wrapper does not take: a constant array, a literal."""
    match argument:
        case Number(value=value, kind=kind):
            return c_int(value, kind)
        case _:
            return f"{program.name}_{program.constant_of(argument).name}"


def _place(program: Program, argument: Buffer) -> str:
    """Where a value is, as an expression in the run function."""
    storage: Storage = program.storage[argument.value]
    kind = ctype(argument.elem)
    size = argument.elem.dtype.itemsize
    elements = storage.within // size + argument.start
    behind = f" + {elements}" if elements else ""
    match storage.place:
        case Place.INPUT:
            return _parameter_of(program.inputs[storage.index], storage.place) + behind
        case Place.OUTPUT:
            return _parameter_of(program.outputs[storage.index], storage.place) + behind
        case _:
            qualifier = "" if argument.written else "const "
            at = storage.index + size * argument.start
            return f"({qualifier}{kind} *)(void *)(arena + {at})"
