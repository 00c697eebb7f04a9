"""compile_model(): the whole line, from an ONNX file to a verified project and its report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import assert_never

import msgspec

from binpoint import pipelines
from binpoint.blas import one_thread
from binpoint.emit import fpga_hls, mcu_c
from binpoint.emit.manifest import hls_manifest, manifest
from binpoint.emit.project import Project
from binpoint.emit.selftest import binaries, golden, selftest
from binpoint.errors import Mismatch, OutputError
from binpoint.frontend.load import load
from binpoint.frontend.samples import RANDOM, Source, read_samples
from binpoint.frontend.sets import divide
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.ir.text import dump
from binpoint.options import CompileOptions
from binpoint.passes.base import Context, Stage
from binpoint.passes.convert import stored_inputs
from binpoint.passes.manager import Pipeline, run
from binpoint.passes.samples import Samples
from binpoint.plan import budget
from binpoint.plan.accelerate import accelerate
from binpoint.plan.arrange import arrange
from binpoint.plan.folding import Choice
from binpoint.plan.packed_graph import unpacked
from binpoint.plan.program import Program
from binpoint.quantize.assign_types import AssignTypes
from binpoint.quantize.residual_widths import WIDE, ResidualWidths
from binpoint.report import render as rendering
from binpoint.report.accelerator import summarize_design
from binpoint.report.maps import packed_maps_of
from binpoint.report.measure import macs, noise, score
from binpoint.report.patches import curve_of, patches_of
from binpoint.report.schema import Report, SampleUse
from binpoint.report.summary import (
    Findings,
    again,
    macs_of,
    memory_use,
    summarize,
)
from binpoint.sim.check_graph import write_onnx
from binpoint.sim.departures import departures
from binpoint.sim.emitted import EmittedC, EmittedHls
from binpoint.sim.folder import read_folder, verify_written
from binpoint.sim.interface import Interface
from binpoint.sim.measure import Measurement
from binpoint.sim.verify import Subject, reference
from binpoint.sim.verify import verify as run_witnesses
from binpoint.sim.witness import Answer, Verdict, witnesses_of
from binpoint.target import FpgaTarget, McuTarget, Target


@dataclass(frozen=True, slots=True)
class Result:
    """What a compilation gives; nothing is on disk until `project.write`.

    Attributes:
        plan: a program for a processor, or the design for an FPGA.
    """

    graph: Graph
    plan: Program | Choice
    project: Project
    verdict: Verdict
    report: Report

    @property
    def program(self) -> Program:
        """The plan of C."""
        assert isinstance(self.plan, Program)
        return self.plan


@one_thread
def compile_model(  # noqa: PLR0913 - all but three have defaults
    model: Path,
    target: Target,
    options: CompileOptions,
    *,
    samples: Source | None = None,
    calibrate_with: int | None = None,
    verify: str = "all",
    verify_samples: int = 100,
    pipeline: str | Pipeline | None = None,
    dump_ir: Path | None = None,
    curve: bool = False,
) -> Result:
    """Compile an ONNX file for a target, and compare the result on all witnesses.

    Args:
        model: the file.
        target: what the C or HLS C++ is for.
        options: the user's policy.
        samples: of the model's inputs; see `frontend.samples.read_samples`.
        calibrate_with: that many samples, the first, find ranges, and the others are scored; by
            default all serve both.
        verify: `none`, `ort`, `host` (and ort) or `all`.
        verify_samples: how many samples the witnesses compare, evenly spread over the scored ones;
            without samples noise serves.
        pipeline: a pipeline, its name, or its passes as text; by default the target's.
        dump_ir: a new folder for the text of the graph after each pass.
        curve: report what memory patches could save, at which extra work.

    Raises:
        BadOption: an option means nothing for the target, or a folding does not divide a layer.
        DoesNotFit: the target has too little memory, or the part too few resources.
        Mismatch: two witnesses differ.
        BinpointError: any other reason why the model cannot be compiled; see `binpoint explain`.
    """
    asked = witnesses_of(verify)
    options.check_for(target)
    imported = load(model, exact=options.semantics == "rational")
    sets = divide(read_samples(samples, imported, options.seed), calibrate_with)
    context = Context(target, options, sets.calibration)
    passes = pipelines.choose(pipeline, target)
    line = _lower(imported, passes, context, dump_ir)
    trial = _trial(sets.scored, imported, options, verify_samples)
    match target:
        case McuTarget():
            line, program = _fitting(line, imported, passes, context, dump_ir)
            made = _emit_c(program, target, options, trial)
        case FpgaTarget():
            made = _emit_hls(line.graph, target, options, trial)
        case _:
            assert_never(target)

    graph = line.graph
    subject = Subject(graph, made.emitted, options, model)
    verdict = _checked(run_witnesses(subject, trial, asked))
    use = _use(sets.calibration, sets.scored, verified=trial.count, shared=sets.shared)
    ratios = noise(line.floating, unpacked(graph), sets.scored)
    removed, apart = macs(imported) - macs(line.typed), departures(graph, model, options.semantics)
    found = Findings(use, score(subject, sets.scored), ratios, removed, apart)
    if isinstance(made.plan, Program) and isinstance(target, McuTarget):
        points = curve_of(graph, target, options) if curve else ()
        stages = patches_of(made.plan, target, options)
        maps = packed_maps_of(made.plan, target, options)
        found = replace(found, patches=stages, packed_maps=maps, patch_curve=points)
    report = _summarized(made.plan, target, verdict, found)
    project = made.project.with_files({"report.json": rendering.json(report).encode()})
    return Result(graph, made.plan, project, verdict, report)


@dataclass(frozen=True, slots=True)
class _Made:
    """The plan, its project with golden vectors and manifest, and how witnesses build it."""

    plan: Program | Choice
    project: Project
    emitted: EmittedC | EmittedHls


def _emit_c(program: Program, target: McuTarget, options: CompileOptions, trial: Samples) -> _Made:
    graph = program.graph
    project = mcu_c.render(program, target, options)
    inputs = list(stored_inputs(graph, trial.part(0, 8)))
    inputs = golden(program.inputs + program.outputs, inputs)
    files = selftest(program, options, inputs, reference(graph, inputs))
    project = project.with_files({**_lowered(graph), **files})
    text = manifest(program, project, target, options)
    project = project.with_files({"manifest.json": text})
    emitted = EmittedC(Interface.of(program, options), project.files, target)
    return _Made(program, project, emitted)


def _emit_hls(graph: Graph, target: FpgaTarget, options: CompileOptions, trial: Samples) -> _Made:
    choice = accelerate(graph, target, options)
    into, out = fpga_hls.model_ports(choice.design)
    inputs = golden(into + out, list(stored_inputs(graph, trial.part(0, 8))))
    values = [evaluate(graph, sample) for sample in inputs]
    project = fpga_hls.render(choice.design, target, golden=values)
    project = project.with_files({**_lowered(graph), **binaries(into, out, inputs, values)})
    work = macs_of(graph, graph.nodes())
    text = hls_manifest(choice.design, work, project, target, options)
    project = project.with_files({"manifest.json": text})
    return _Made(choice, project, EmittedHls.of(choice.design, project.files, work))


def _lowered(graph: Graph) -> dict[str, bytes]:
    """The graph as plain integer operators."""
    return {"lowered.onnx": write_onnx(graph).SerializeToString(deterministic=True)}


def _summarized(
    plan: Program | Choice, target: Target, verdict: Verdict, found: Findings
) -> Report:
    """The report; a program that turns out too large once measured is refused."""
    match plan, target:
        case Program(), McuTarget():
            _check(plan, target, verdict.measurement)
            return summarize(plan, target, verdict, found)
        case Choice(), FpgaTarget():
            return summarize_design(plan, target, verdict, found)
        case _:
            raise AssertionError("a plan for a target of another family")


@dataclass(frozen=True, slots=True)
class FolderResult:
    """What verifying a folder again gives: the report of its compilation, with the new answers."""

    verdict: Verdict
    report: Report


def verify_folder(folder: Path, witnesses: str = "all", *, deep: bool = False) -> FolderResult:
    """Verify again what a compilation wrote; files that changed since are in the report.

    Args:
        folder: what `Project.write` made.
        witnesses: as for `compile_model`, or a list of them.
        deep: compare every value, not outputs alone.

    Raises:
        InputNotFound: a file of the folder is missing.
        UsageError: it is no folder that a compilation wrote.
        Mismatch: a witness differs.
    """
    asked = witnesses_of(witnesses)
    written = read_folder(folder)
    report = rendering.read(folder / "report.json")
    verdict = _checked(verify_written(written, asked, deep=deep))
    return FolderResult(verdict, again(report, verdict, written.changed))


def show(
    model: Path,
    target: Target,
    options: CompileOptions,
    *,
    samples: Source | None = None,
    after: str | None = None,
) -> str:
    """The text of the integer graph, or of the graph after a pass; after `load` as imported."""
    graph = load(model, exact=options.semantics == "rational")
    if after == "load":
        return dump(graph)
    passes = pipelines.choose(None, target)
    context = Context(target, options, read_samples(samples, graph, options.seed))
    return dump(run(passes if after is None else passes.until(after), graph, context))


@dataclass(frozen=True, slots=True)
class _Line:
    """The float model, and the last graph at each stage after it, whose values have its names."""

    floating: Graph
    typed: Graph
    graph: Graph


def _lower(imported: Graph, passes: Pipeline, context: Context, trace: Path | None) -> _Line:
    """All passes."""
    if trace is not None:
        _new_folder(trace)
        (trace / "00-load.txt").write_text(dump(imported), encoding="utf-8")
    items = list(passes)
    first = next(i for i, p in enumerate(items) if p.assigns or p.after is not Stage.FLOAT)
    last = next(i for i, p in enumerate(items) if p.after is Stage.INTEGER)
    floating = run(Pipeline(*items[:first]), imported, context, trace=trace)
    typed = run(Pipeline(*items[first:last]), floating, context, trace=trace)
    return _Line(floating, typed, run(Pipeline(*items[last:]), typed, context, trace=trace))


def _fitting(
    line: _Line, imported: Graph, passes: Pipeline, context: Context, trace: Path | None
) -> tuple[_Line, Program]:
    """The program, and the line that it is made of.

    Where wide residual sums do not fit the target's memory, were not asked for, and narrow ones
    fit, it is made of a second line; the arena that wide ones would take is a figure of its graph.
    The graphs of the second line are written into the folder `narrow` of `trace`. So it is before
    that with corrections of softmaxes, which copy the shares; the folder is `uncorrected`.

    Raises:
        DoesNotFit: the target has too little memory.
    """
    target, options = context.target, context.options
    assert isinstance(target, McuTarget)
    program = arrange(line.graph, options, target)
    small = all(row.fits for row in memory_use(program, target, None))
    if not small and options.softmax_correction == "auto" and _corrected_shares(program):
        plain = msgspec.structs.replace(options, softmax_correction="none")
        below = None if trace is None else trace / "uncorrected"
        context = replace(context, options=plain)
        line = _lower(imported, passes, context, below)
        return _fitting(line, imported, passes, context, below)
    if small or options.residuals != "auto" or not _wide_sums(program):
        _check(program, target, None)
        return line, program
    context = replace(context, options=msgspec.structs.replace(options, residuals="narrow"))
    other = _lower(imported, passes, context, None if trace is None else trace / "narrow")
    narrow = arrange(other.graph, context.options, target)
    _check(narrow, target, None)
    found = {**line.graph.figures[ResidualWidths.name], WIDE: 0, "arena_wide": program.arena_bytes}
    other.graph.figures = {**other.graph.figures, ResidualWidths.name: found}
    return other, narrow


def _corrected_shares(program: Program) -> bool:
    """Whether products with shares of softmaxes got columns."""
    return program.graph.figures.get(AssignTypes.name, {}).get("corrected", 0) > 0


def _wide_sums(program: Program) -> bool:
    """Whether residual sums have 16 bits."""
    return program.graph.figures.get(ResidualWidths.name, {}).get(WIDE, 0) > 0


def _check(program: Program, target: McuTarget, figures: Measurement | None) -> None:
    """Refuse a program that does not fit."""
    hint = "residual sums of eight bits (`--set residuals=narrow`)" if _wide_sums(program) else None
    budget.check(target, memory_use(program, target, figures), hint)


def _new_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise OutputError("the folder exists already", at=str(folder), want="a new name") from error
    except OSError as error:
        raise OutputError(
            "the folder cannot be written", at=str(folder), have=error.strerror
        ) from error


def _trial(scored: Samples | None, imported: Graph, options: CompileOptions, count: int) -> Samples:
    """The samples that the witnesses compare: some of those that are scored, else noise."""
    chosen = scored or read_samples(RANDOM, imported, options.seed)
    assert chosen is not None
    return chosen.spread(count)


def _checked(verdict: Verdict) -> Verdict:
    """The verdict, unless it is that a witness differs."""
    if verdict.answer is Answer.DIFFERENT:
        worst = verdict.first_difference
        raise Mismatch(f"{worst.name} differs from the interpreter", have=worst.reason)
    return verdict


def _use(
    calibration: Samples | None, scored: Samples | None, *, verified: int, shared: bool
) -> SampleUse:
    return SampleUse(
        source=None if scored is None or scored.random else scored.source,
        calibration=0 if calibration is None else calibration.count,
        scored=0 if scored is None else scored.count,
        verified=verified,
        shared=shared,
        random=scored is None or scored.random,
    )
