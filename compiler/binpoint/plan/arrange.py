"""arrange(): Graph[INTEGER] → Program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from binpoint.ir.graph import Graph
from binpoint.ir.kernel import Buffer, Number
from binpoint.ir.names import identifier, prefix_of, unique
from binpoint.lower.keep_states import kept_states
from binpoint.options import CompileOptions
from binpoint.plan.detector import detector_of
from binpoint.plan.direct import joined
from binpoint.plan.fuse import Modelled, Step, fuse
from binpoint.plan.kernels import choose, price_of, without_digits
from binpoint.plan.layout import Layout, scratch_of
from binpoint.plan.memory import aligned
from binpoint.plan.program import (
    ConstantArray,
    Place,
    Port,
    Program,
    Stage,
    State,
    Storage,
    calls_of,
    constant_of,
)
from binpoint.plan.schedule import Schedule, schedule
from binpoint.plan.spans import with_spans
from binpoint.plan.stage import stage_of
from binpoint.plan.strides import ways
from binpoint.plan.tables import with_tables
from binpoint.plan.tiles import Chooser, with_tiles
from binpoint.plan.views import Views, bytes_of, placed, whole
from binpoint.target import McuTarget

_RESERVED = (
    "arena", "constant", "context", "hook", "quantize", "run", "size_t",
    *(f"{sign}int{width}_t" for sign in ("", "u") for width in (8, 16, 32, 64, "ptr")),
)  # fmt: skip
"""Names, after the model's prefix or without, that the generated code has for other things."""
_STREAMING = ("reset", "state", "step")
_DETECTING = ("box", "boxes", "detect")


def arrange(
    graph: Graph,
    options: CompileOptions,
    target: McuTarget | None = None,
    inside: Sequence[str] | None = None,
) -> Program:
    """Fuse, choose kernels, order and place; without a target all kernels are portable C.

    `arena_bound` is a lower bound of the arena over every order and placement. `inside` are inputs
    and outputs that lie in the arena, by default as the options tell.
    """
    fused = with_tables(with_spans(fuse(graph), graph), graph, options)
    programs = (_arranged(steps, graph, options, target, inside) for steps in ways(fused, graph))
    return min(programs, key=lambda program: program.arena_bytes)


def _arranged(
    fused: tuple[Step, ...],
    graph: Graph,
    options: CompileOptions,
    target: McuTarget | None,
    inside: Sequence[str] | None,
) -> Program:
    """The same of these steps."""
    chosen = fused if target is None else choose(fused, graph, target, options)
    steps = chosen if target is None else joined(chosen, graph)
    found = ((s.name, stage_of(s, graph, options, target, arrange)) for s in steps)
    stages = {name: stage for name, stage in found if stage is not None}
    steps = tuple(_holding(step, stages.get(step.name)) for step in steps)
    views, sizes, order = _laid_out(steps, graph, options, inside)
    layout = Layout(order.steps, graph, sizes, views.owner, exact=options.planner == "auto")
    if target is not None and inside is None and options.packed_weights != "never":
        layout = _with_tiles(layout, fused, chosen, target, options)
    placement = layout.placement
    detector = detector_of(graph, options) if inside is None else None
    taken = {*_RESERVED, *(_STREAMING if options.streaming else ())}
    taken |= set(_DETECTING if detector is not None else ())
    sources = tuple(graph.value(name).source or name for name in graph.inputs)
    inputs = _ports(graph, graph.inputs, sources, taken)
    outputs = _ports(graph, graph.outputs, graph.output_names or graph.outputs, taken)
    constants, fixed = _constants(graph, layout.steps, taken, stages)
    storage = _storage(graph, layout.owners, views.offset, placement.offsets) | fixed
    states = _states(layout.steps, graph, constants, fixed) if options.streaming else {}
    return Program(
        name=options.name or prefix_of(graph.name),
        graph=graph,
        steps=layout.steps,
        inputs=inputs,
        outputs=outputs,
        storage=storage,
        constants=constants,
        arena_bytes=placement.total,
        arena_bound=order.bound,
        scratch={
            s.name: placement.offsets[scratch_of(s)]
            for s in layout.steps
            if s.call.memory and not s.alias
        },
        stages=stages,
        states=states,
        detector=detector,
    )


def _with_tiles(
    layout: Layout,
    fused: Sequence[Step],
    chosen: Sequence[Step],
    target: McuTarget,
    options: CompileOptions,
) -> Layout:
    """The layout with packed weights, unpacked in memory that it leaves free."""
    graph = layout.graph
    made = {s.name: s for s in fused}

    def plain(step: Step) -> Step | None:
        pack = dict(step.call.traits).get("pack", "")
        if step.name not in made or pack in ("", "bytes"):
            return None
        found = without_digits(made[step.name], graph, target, options)
        if found is None:
            return None
        others = tuple(found if s.name == step.name else s for s in chosen)
        return next((s for s in joined(others, graph) if s.name == step.name), None)

    chooser = Chooser(graph, options, price_of(target), plain)
    return with_tiles(layout, chooser, grows=options.optimize != "ram")


def _states(
    steps: Sequence[Step],
    graph: Graph,
    constants: Sequence[ConstantArray],
    storage: Mapping[str, Storage],
) -> dict[tuple[str, str], State]:
    """Constant initial states of recurrent layers, and where each is after its step."""
    found: dict[tuple[str, str], State] = {}
    for step in steps:
        buffers = {a.name: a for a in step.call.arguments if isinstance(a, Buffer)}
        for name, value in kept_states(graph, step.nodes[0]).items():
            source = buffers["y" if name == "start" else "cell"]
            offset = graph.value(source.value).type.size - value.type.size
            initial = constants[storage[value.name].index]
            found[step.name, name] = State(f"{step.name}_{name}", initial, source, offset)
    return found


def _holding(step: Step, stage: Stage | None) -> Step:
    """The step; one that is a stage with what its patches take."""
    if stage is None:
        return step
    modelled, cycles = step.modelled, stage.planned_cycles
    if modelled is not None and cycles is not None:
        modelled = Modelled(stage.kernel or modelled.kernel, cycles)
    return replace(step, call=replace(step.call, scratch=stage.bytes), modelled=modelled)


def _laid_out(
    steps: tuple[Step, ...],
    graph: Graph,
    options: CompileOptions,
    inside: Sequence[str] | None,
) -> tuple[Views, dict[str, int], Schedule]:
    """Buffers, their sizes, and the order: with parts in place if that needs no more memory.

    A piece of a stage, which says what is `inside`, has every value in a buffer of its own.
    """
    ports = (*graph.inputs, *graph.outputs)
    ways = (placed, whole) if inside is None else (whole,)
    if inside is None:
        inside = ports if options.io == "arena" else ()
    outside = tuple(name for name in ports if name not in inside)
    found: list[tuple[Views, dict[str, int], Schedule]] = []
    for way in ways:
        views = way(steps, graph)
        sizes = {
            name: aligned(bytes_of(graph.value(name)))
            for name in dict.fromkeys(views.owner.values())
            if name not in outside
        }
        for step in views.steps:
            if step.call.memory and not step.alias:
                sizes[scratch_of(step)] = aligned(step.call.memory)
        found.append((views, sizes, _ordered(views.steps, sizes, views.owner, graph)))
        if not views.offset:
            break
    return min(found, key=lambda one: one[2].peak)


def _with_scratch(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    return tuple(
        replace(s, writes=(*s.writes, scratch_of(s))) if s.call.memory and not s.alias else s
        for s in steps
    )


def _ordered(
    steps: tuple[Step, ...], sizes: dict[str, int], owner: dict[str, str], graph: Graph
) -> Schedule:
    extended = owner | {
        scratch_of(s): scratch_of(s) for s in steps if s.call.memory and not s.alias
    }
    found = schedule(_with_scratch(steps), sizes, extended, graph.inputs, graph.outputs)
    by_name = {s.name: s for s in steps}
    return Schedule(
        tuple(by_name[s.name] for s in found.steps), found.peak, found.bound, found.optimal
    )


def _constants(
    graph: Graph, steps: tuple[Step, ...], taken: set[str], stages: Mapping[str, Stage]
) -> tuple[tuple[ConstantArray, ...], dict[str, Storage]]:
    """All arrays, equal ones once, in order of use; and where each constant value is."""
    arrays: dict[tuple[object, ...], ConstantArray] = {}
    order: list[ConstantArray] = []
    storage: dict[str, Storage] = {}
    for holder, step in calls_of(graph, steps, stages):
        for argument in step.call.all_arguments:
            key = None if isinstance(argument, Number) else constant_of(holder, argument)
            if key is None:
                continue
            value = isinstance(argument, Buffer)
            if key not in arrays:
                name = unique(argument.value if value else f"{step.name}_{argument.name}", taken)
                taken.add(name)
                arrays[key] = ConstantArray(name, *key)
                order.append(arrays[key])
            if value and holder is graph:
                storage[argument.value] = Storage(Place.CONSTANT, order.index(arrays[key]))
    return tuple(order), storage


def _storage(
    graph: Graph, owner: Mapping[str, str], behind: Mapping[str, int], offsets: Mapping[str, int]
) -> dict[str, Storage]:
    storage: dict[str, Storage] = {}
    for name, root in owner.items():
        within = behind.get(name, 0)
        if root in offsets:
            storage[name] = Storage(Place.ARENA, offsets[root] + within)
        elif root in graph.outputs:
            storage[name] = Storage(Place.OUTPUT, graph.outputs.index(root), within)
        else:
            storage[name] = Storage(Place.INPUT, graph.inputs.index(root), within)
    return storage


def _ports(
    graph: Graph, values: tuple[str, ...], sources: tuple[str, ...], taken: set[str]
) -> tuple[Port, ...]:
    """Ports with names that are new, in lower case, as macros have them in upper case."""
    ports: list[Port] = []
    for value, source in zip(values, sources, strict=True):
        name = unique(identifier(source).lower(), taken)
        taken.add(name)
        ports.append(Port(name, source, graph.value(value)))
    return tuple(ports)
