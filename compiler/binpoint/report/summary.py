"""What is known of a compilation, put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from binpoint.ir.graph import Graph, Node, Origin, Value
from binpoint.ir.kernel import Number
from binpoint.ir.op import IntegerOp
from binpoint.ops.banded import Banded
from binpoint.ops.patched import nodes_within
from binpoint.ops.requantize import DyadicRequantize, OnnxruntimeRequantize, Requantize
from binpoint.ops.runtime_pair import OnnxruntimePair
from binpoint.plan.budget import Usage, usages
from binpoint.plan.fuse import Step
from binpoint.plan.program import Program, calls_of, constant_of
from binpoint.report.accuracy import Score
from binpoint.report.detections import detecting_of
from binpoint.report.maps import PackedMaps
from binpoint.report.patches import CurvePoint, Patches
from binpoint.report.schema import (
    SCHEMA,
    Accuracy,
    DepartureRow,
    Layer,
    MemoryUse,
    Model,
    Report,
    Requantizers,
    SampleUse,
    WitnessRow,
)
from binpoint.sim.departures import Departure
from binpoint.sim.measure import Cost, Measurement
from binpoint.sim.witness import Verdict
from binpoint.target import Content, McuTarget


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found out about a program besides its verdict."""

    samples: SampleUse
    score: Score
    snr_db: Mapping[str, float]
    """By value name."""
    macs_removed: int
    departures: tuple[Departure, ...]
    patches: Patches | None = None
    packed_maps: PackedMaps | None = None
    patch_curve: tuple[CurvePoint, ...] = ()


def summarize(program: Program, target: McuTarget, verdict: Verdict, findings: Findings) -> Report:
    """Put together what is known of a C project."""
    graph, figures = program.graph, verdict.measurement
    steps = [step for step in program.steps if not step.alias]
    costs = figures.layers if figures is not None and figures.layers else [None] * len(steps)
    layers = tuple(
        _layer(program, step, findings.snr_db, cost)
        for step, cost in zip(steps, costs, strict=True)
    )
    constants = program.constant_bytes if figures is None else figures.constant_bytes
    return msgspec.structs.replace(
        known(graph, target.name, verdict, findings, layers),
        code_bytes=figures and figures.code_bytes,
        constant_bytes=constants,
        flash_bytes=figures and figures.flash_bytes,
        arena_bytes=program.arena_bytes,
        arena_lower_bound_bytes=program.arena_bound,
        stack_bytes=figures and figures.stack_bytes,
        instructions=figures and figures.instructions,
        instructions_min=figures and figures.instructions_min,
        instructions_max=figures and figures.instructions_max,
        modelled_cycles=figures and figures.modelled_cycles,
        unmeasured=verdict.unmeasured,
        compiler=figures and figures.compiler,
        float_linked=figures and figures.float_parts,
        heap_linked=figures and figures.heap_parts,
        budget=tuple(_memory(u) for u in memory_use(program, target, figures)),
        patches=findings.patches,
        packed_maps=findings.packed_maps,
        patch_curve=findings.patch_curve,
        detections=detecting_of(program, figures),
    )


def known(
    graph: Graph, target: str, verdict: Verdict, findings: Findings, layers: tuple[Layer, ...]
) -> Report:
    """What is known of any project."""
    score = findings.score
    return Report(
        schema=SCHEMA,
        model=Model(name=graph.name, sha256=graph.digest),
        target=target,
        code_bytes=None,
        constant_bytes=None,
        flash_bytes=None,
        arena_bytes=None,
        arena_lower_bound_bytes=None,
        stack_bytes=None,
        macs=sum(layer.macs for layer in layers),
        macs_removed=findings.macs_removed,
        instructions=None,
        instructions_min=None,
        instructions_max=None,
        modelled_cycles=None,
        unmeasured=None,
        compiler=None,
        float_linked=None,
        heap_linked=None,
        samples=findings.samples,
        accuracy=Accuracy(
            metric=score.metric,
            floating=score.floating,
            integer=score.integer,
            onnxruntime=score.onnxruntime,
            samples=score.samples,
        ),
        verdict=verdict.answer.value,
        witnesses=witness_rows(verdict),
        departures=tuple(
            DepartureRow(value=d.value, origin=d.origin, reason=d.reason)
            for d in findings.departures
        ),
        requantizers=count_requantizers(graph),
        budget=(),
        layers=layers,
        passes=graph.figures,
    )


def again(report: Report, verdict: Verdict, changed: tuple[str, ...]) -> Report:
    """The report of a folder, with the answers of a later verification."""
    return msgspec.structs.replace(
        report,
        verdict=verdict.answer.value,
        witnesses=witness_rows(verdict),
        changed_files=changed,
    )


def witness_rows(verdict: Verdict) -> tuple[WitnessRow, ...]:
    """The witnesses as rows."""
    return tuple(
        WitnessRow(name=w.name, verdict=w.verdict.value, samples=w.samples, reason=w.reason)
        for w in verdict.witnesses
    )


def memory_use(
    program: Program, target: McuTarget, figures: Measurement | None
) -> tuple[Usage, ...]:
    """Use of the target's memories; code and stack are unknown where nothing was measured."""
    sizes: dict[Content, int | None] = {
        "code": None if figures is None else figures.flash_bytes - figures.constant_bytes,
        "constants": program.constant_bytes if figures is None else figures.constant_bytes,
        "arena": program.arena_bytes,
        "stack": None if figures is None else figures.stack_bytes,
    }
    return usages(target, sizes)


def _memory(row: Usage) -> MemoryUse:
    return MemoryUse(
        memory=row.memory,
        used_bytes=row.used,
        available_bytes=row.available,
        unmeasured=row.unknown,
    )


def _layer(program: Program, step: Step, snr_db: Mapping[str, float], cost: Cost | None) -> Layer:
    graph, nodes, op = program.graph, step.nodes, step.nodes[0].op
    written = step.writes[0]
    if isinstance(op, Banded):
        graph, nodes, written = op.body, op.layer, op.layer[-1].outputs[0]
    result = graph.value(written)
    stored = _constant_bytes(program, step)
    row = layer_row(graph, step.name, nodes, result, stored, snr_db)
    if step.modelled is not None:
        row = msgspec.structs.replace(
            row, kernel=step.modelled.kernel, planned_cycles=step.modelled.cycles
        )
    if cost is None:
        return row
    return msgspec.structs.replace(
        row, instructions=cost.instructions, modelled_cycles=cost.modelled_cycles
    )


def layer_row(
    graph: Graph,
    name: str,
    nodes: Sequence[Node],
    result: Value,
    stored: int,
    snr_db: Mapping[str, float],
) -> Layer:
    """The row of nodes that are computed as one, which store `stored` bytes of constants."""
    requantizer = next((n.op for n in nodes if isinstance(n.op, Requantize)), None)
    return Layer(
        name=name,
        origin=sum((node.origin for node in nodes), Origin()).names,
        op=" + ".join(type(node.op).__name__ for node in nodes),
        shape=result.shape,
        type=str(result.elem),
        macs=macs_of(graph, nodes),
        bytes=stored,
        requantizer=None if requantizer is None else requantizer.form.name,
        proved=None if requantizer is None else is_proved(requantizer),
        snr_db=snr_db.get(result.name),
    )


def macs_of(graph: Graph, nodes: Iterable[Node]) -> int:
    """Multiply-accumulates of one inference."""
    ops = [(n, n.op) for n in nodes if isinstance(n.op, IntegerOp)]
    return sum(op.work(graph.arguments(n), graph.results(n)).macs for n, op in ops)


def _constant_bytes(program: Program, step: Step) -> int:
    """Bytes of the constant arrays that a step reads, each once."""
    arrays: dict[str, int] = {}
    for graph, call in calls_of(program.graph, (step,), program.stages):
        for argument in call.call.all_arguments:
            if isinstance(argument, Number):
                continue
            found = constant_of(graph, argument)
            if found is not None:
                array = program.constant_like(*found)
                arrays[array.name] = array.bytes
    return sum(arrays.values())


def is_proved(op: Requantize | OnnxruntimePair) -> bool:
    """Whether the emitted form is an integer formula that is the definition, or proved equal."""
    match op:
        case DyadicRequantize():
            return True
        case OnnxruntimeRequantize() | OnnxruntimePair():
            return op.proof is not None and op.proof.name != "mixed"
        case _:
            return False


def count_requantizers(graph: Graph) -> Requantizers:
    """Channels of all requantizers, by form; an op of two operands that rounds counts as one."""
    counts: dict[str, int] = {}
    for _, node in nodes_within(graph):
        if isinstance(node.op, Requantize | OnnxruntimePair):
            channels = node.op.channels if isinstance(node.op, Requantize) else 1
            for form, count in node.op.form.counts(channels).items():
                counts[form] = counts.get(form, 0) + count
    return msgspec.convert(counts, Requantizers)
