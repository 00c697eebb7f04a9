"""The report on a compilation: fixed keys, null where nothing was measured.

`docs/reference/report-schema.json` is the JSON schema of `Report`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

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
from binpoint.report.detections import Detecting, detecting_of
from binpoint.report.maps import PackedMaps
from binpoint.report.patches import CurvePoint, Patches
from binpoint.sim.departures import Departure
from binpoint.sim.measure import Cost, Measurement
from binpoint.sim.witness import Verdict
from binpoint.target import Content, McuTarget

SCHEMA = 1
Answer = Literal["equal", "different", "not run"]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all parts of the report."""


class Model(_Table, frozen=True):
    """The model: its file's stem, and the SHA-256 of its file."""

    name: str
    sha256: str


class SampleUse(_Table, frozen=True):
    """Where samples came from and how many served for what.

    Attributes:
        shared: the same samples served calibration and scoring.
        random: they are noise.
    """

    source: str | None
    calibration: int
    scored: int
    verified: int
    shared: bool
    random: bool


class Accuracy(_Table, frozen=True):
    """Of the float model, of the integers, and of the user's file in onnxruntime, by one metric.

    Attributes:
        metric: `top-1`, `element`, `auc`, or `mse` (mean squared error of reconstruction).
    """

    metric: str | None
    floating: float | None = msgspec.field(name="float")
    integer: float | None
    onnxruntime: float | None
    samples: int


class WitnessRow(_Table, frozen=True):
    """One witness: on how many samples, and why not, or what differs."""

    name: str
    verdict: Answer
    samples: int
    reason: str | None


class Requantizers(_Table, frozen=True):
    """Channels by the form of their requantizer."""

    mulshift: int = 0
    even: int = 0
    thresholds: int = 0
    exact: int = 0
    fpu: int = 0


class Layer(_Table, frozen=True):
    """One call of a kernel.

    Attributes:
        bytes: constants that it reads.
        requantizer: the form of its requantizer, if it has one, and whether it is proved equal.
        snr_db: signal to noise of the result against the float model; null as well where there is
            no noise.
        instructions: of one inference, on the emulated core, up to where the result is complete;
            null where it was not emulated.
        modelled_cycles: what the target's price list makes of the instructions; a model's figure,
            null where the target has no price list.
        kernel: of a C project: the kernel that was chosen, as `price.kernels` of targets names it.
        planned_cycles: what the target's prices of kernels made of it, which is why it was chosen.
    """

    name: str
    origin: tuple[str, ...]
    op: str
    shape: tuple[int, ...]
    type: str
    macs: int
    bytes: int
    requantizer: str | None
    proved: bool | None
    snr_db: float | None
    instructions: int | None = None
    modelled_cycles: int | None = None
    kernel: str | None = None
    planned_cycles: int | None = None


class DepartureRow(_Table, frozen=True):
    """A value whose codes may differ from those of onnxruntime's run of the model's own file.

    Attributes:
        value: empty where all of them may.
        origin: ONNX nodes that it came from.
    """

    value: str
    origin: tuple[str, ...]
    reason: str


class MemoryUse(_Table, frozen=True):
    """A memory of the target: bytes used, bytes there, and what is not counted as unmeasured."""

    memory: str
    used_bytes: int
    available_bytes: int
    unmeasured: tuple[str, ...]


class Unit(_Table, frozen=True):
    """A loop of an FPGA design: a layer, or what moves its words.

    Attributes:
        pe, simd: results, and products of a sum, that are computed side by side.
        cycles: iterations of one inference; its loop starts one a cycle.
        interval: cycles between inferences, of this unit alone.
        latency: cycles from a word to the result that it completes.
        lut, ff, dsp, bram18: estimated, without streams.
    """

    name: str
    kind: str
    pe: int
    simd: int
    cycles: int
    interval: int
    latency: int
    lut: int
    ff: int
    dsp: int
    bram18: int


class Fifo(_Table, frozen=True):
    """A stream between two units: bits of a word, and words that it holds."""

    name: str
    bits: int
    depth: int


class ResourceUse(_Table, frozen=True):
    """A resource of the part: estimated use, and how much there is."""

    resource: str
    used: int
    available: int


class Fpga(_Table, frozen=True):
    """What is known of an FPGA design. No figure is a vendor's.

    Attributes:
        top: `stream` or `parallel`.
        interval_cycles: between inferences, as the streams' depths sustain it.
        latency_cycles: from the first word in to the last word out.
        notice: how far it gets and why, where the asked pace is not reached.
        resources: of the part, as estimated; see the reference on estimates for their error.
    """

    top: str
    part: str
    clock_mhz: float
    interval_cycles: int
    latency_cycles: int
    inferences_per_second: float
    latency_us: float
    notice: str | None
    resources: tuple[ResourceUse, ...]
    units: tuple[Unit, ...]
    fifos: tuple[Fifo, ...]


class Report(_Table, frozen=True):
    """Everything that is known of a compilation; sizes in bytes.

    Attributes:
        fpga: of an FPGA design, which has no code, arena and instructions; else null.
        arena_lower_bound_bytes: no order and placement of the program's values needs less.
        macs_removed: multiply-accumulates of the model that nothing needs, and that are not done.
        instructions: of one inference, the median of the emulated runs.
        modelled_cycles: what the target's price list makes of that run, with memory that never
            waits; a model's figure, null where the target has no price list.
        unmeasured: why code, stack and instructions are null, where they are.
        float_linked: floating-point routines and instructions in the emulated image.
        patches: of layers computed patch by patch, if there are any.
        packed_maps: of maps of narrow codes that share bytes in the arena, if there are any.
        patch_curve: memory against extra work, where `analyze` asks for it.
        detections: of the head that makes boxes, if there is one.
        departures: for a model that came quantized, where its bytes are not all onnxruntime's.
        passes: figures of passes about their own work, by pass: of `binary-points` the types, how
            many its joint search moved, and the relative squared error of the outputs before and
            after it.
        changed_files: files of a folder that no longer are as they were written.
    """

    schema: int
    model: Model
    target: str
    code_bytes: int | None
    constant_bytes: int | None
    flash_bytes: int | None
    arena_bytes: int | None
    arena_lower_bound_bytes: int | None
    stack_bytes: int | None
    macs: int
    macs_removed: int
    instructions: int | None
    instructions_min: int | None
    instructions_max: int | None
    modelled_cycles: int | None
    unmeasured: str | None
    compiler: str | None
    float_linked: tuple[str, ...] | None
    heap_linked: tuple[str, ...] | None
    samples: SampleUse
    accuracy: Accuracy
    verdict: Answer
    witnesses: tuple[WitnessRow, ...]
    departures: tuple[DepartureRow, ...]
    requantizers: Requantizers
    budget: tuple[MemoryUse, ...]
    layers: tuple[Layer, ...]
    fpga: Fpga | None = None
    patches: Patches | None = None
    packed_maps: PackedMaps | None = None
    patch_curve: tuple[CurvePoint, ...] = ()
    detections: Detecting | None = None
    passes: Mapping[str, Mapping[str, float]] = msgspec.field(
        default_factory=dict[str, Mapping[str, float]]
    )
    changed_files: tuple[str, ...] = ()


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
    if isinstance(op, Banded):
        graph, nodes = op.body, op.layer
    result = graph.value(nodes[-1].outputs[0])
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
