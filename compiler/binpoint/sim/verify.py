"""Run the witnesses over samples and collect the verdict: equality, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from binpoint.emit.project import Project
from binpoint.errors import InvalidTarget, ToolFailed, ToolNotFound
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.options import CompileOptions
from binpoint.passes.samples import Samples
from binpoint.plan.program import Program
from binpoint.sim.check_graph import run_onnx, write_onnx
from binpoint.sim.compare import Difference, first_difference
from binpoint.sim.convert import stored_inputs
from binpoint.sim.host_c import run_project
from binpoint.sim.interface import Codes, Interface
from binpoint.sim.measure import Measurement, emulate
from binpoint.sim.source import compare_source
from binpoint.target import Target

EMULATED_SAMPLES = 3


class Answer(StrEnum):
    """What a witness says."""

    EQUAL = "equal"
    DIFFERENT = "different"
    NOT_RUN = "not run"


class Witness(StrEnum):
    """Who computes the outputs besides the interpreter."""

    ORT = "ort"
    HOST = "host"
    EMULATOR = "emulator"


SETS: Mapping[str, tuple[Witness, ...]] = {
    "none": (),
    "ort": (Witness.ORT,),
    "host": (Witness.ORT, Witness.HOST),
    "all": tuple(Witness),
}


@dataclass(frozen=True, slots=True)
class WitnessResult:
    """One witness: its answer over how many samples, and why, or where it differs.

    `counts` tells whether a difference makes the whole verdict "different".
    """

    name: str
    verdict: Answer
    samples: int = 0
    reason: str | None = None
    difference: Difference | None = None
    counts: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """All witnesses, and the figures of the emulated program where it was built."""

    witnesses: tuple[WitnessResult, ...]
    measurement: Measurement | None = None
    unmeasured: str | None = None

    @property
    def answer(self) -> Answer:
        """Different if any that counts is; equal if any ran besides the interpreter."""
        answers = [w.verdict for w in self.witnesses if w.counts and w.name != "interpreter"]
        if Answer.DIFFERENT in answers:
            return Answer.DIFFERENT
        return Answer.EQUAL if Answer.EQUAL in answers else Answer.NOT_RUN


@dataclass(frozen=True, slots=True)
class Subject:
    """What is verified: the integer graph, its program and the C, compiled from `model`."""

    graph: Graph
    program: Program
    project: Project
    options: CompileOptions
    target: Target
    model: Path

    @property
    def interface(self) -> Interface:
        """The interface of the C."""
        return Interface.of(self.program, self.options)


def verify(
    subject: Subject, samples: Samples, witnesses: Sequence[Witness], *, deep: bool = False
) -> Verdict:
    """Compare all witnesses on all samples, the emulator on the first three.

    Args:
        subject: what was compiled.
        samples: inputs, real or stored.
        witnesses: who is asked; the others are named as not run.
        deep: compare every value, not outputs alone (the emulator: outputs).
    """
    graph = subject.graph
    inputs = list(stored_inputs(graph, samples))
    expected = reference(graph, inputs, deep=deep)
    asked = {
        Witness.ORT: lambda: run_onnx(write_onnx(graph, deep=deep), graph, inputs),
        Witness.HOST: lambda: run_project(
            subject.interface, subject.project.files, inputs, deep=deep
        ),
    }
    results = [WitnessResult("interpreter", Answer.EQUAL, len(inputs), "the reference")]
    for witness, compute in asked.items():
        wanted = witness in witnesses
        results.append(_ask(_NAMES[witness], compute, graph, expected, wanted=wanted))
    on_target, measurement, unmeasured = _emulated(subject, inputs, expected, witnesses)
    results.append(on_target)
    if graph.quantized:
        results.append(_source(subject, samples, expected, asked=Witness.ORT in witnesses))
    return Verdict(tuple(results), measurement, unmeasured)


_NAMES: Mapping[Witness, str] = {
    Witness.ORT: "onnxruntime",
    Witness.HOST: "host",
    Witness.EMULATOR: "emulator",
}
_NOT_ASKED = "not asked for"


def reference(
    graph: Graph, inputs: Sequence[Codes], *, deep: bool = False
) -> list[dict[str, NDArray[Any]]]:
    """The interpreter's outputs, with `deep` every computed value, for each sample."""
    wanted = [n for node in graph.nodes() for n in node.outputs] if deep else graph.outputs
    found: list[dict[str, NDArray[Any]]] = []
    for sample in inputs:
        values = evaluate(graph, sample)
        found.append({name: values[name] for name in wanted})
    return found


def _ask(
    name: str,
    compute: Callable[[], Sequence[Codes]],
    graph: Graph,
    expected: Sequence[Codes],
    *,
    wanted: bool,
) -> WitnessResult:
    """One witness; a missing tool is a reason, never an answer."""
    if not wanted:
        return WitnessResult(name, Answer.NOT_RUN, reason=_NOT_ASKED)
    try:
        found = compute()
    except ToolNotFound as missing:
        return WitnessResult(name, Answer.NOT_RUN, reason=_reason(missing))
    return judged(name, first_difference(graph, expected, found), len(found))


def judged(name: str, difference: Difference | None, samples: int) -> WitnessResult:
    """The answer to a comparison."""
    if difference is None:
        return WitnessResult(name, Answer.EQUAL, samples)
    return WitnessResult(name, Answer.DIFFERENT, samples, str(difference), difference)


def _reason(missing: ToolNotFound | InvalidTarget | ToolFailed) -> str:
    return "; ".join(text for text in (missing.message, missing.have, missing.hint) if text)


def _emulated(
    subject: Subject,
    inputs: Sequence[Codes],
    expected: Sequence[Codes],
    witnesses: Sequence[Witness],
) -> tuple[WitnessResult, Measurement | None, str | None]:
    """The emulator's answer, the figures of the build, or why there are none."""
    name, asked = _NAMES[Witness.EMULATOR], Witness.EMULATOR in witnesses
    few = inputs[:EMULATED_SAMPLES]
    not_run = WitnessResult(name, Answer.NOT_RUN, reason=_NOT_ASKED)
    interface, files = subject.interface, subject.project.files
    try:
        found, figures = emulate(interface, files, subject.target, few, run=asked)
    except (ToolNotFound, InvalidTarget) as missing:
        reason = _reason(missing)
        return (replace(not_run, reason=reason) if asked else not_run), None, reason
    except ToolFailed as failure:
        if "overflowed" not in (failure.have or ""):
            raise
        reason = f"larger than the emulated board's memory: {failure.have}"
        return replace(not_run, reason=reason), None, reason
    if not asked:
        return not_run, figures, None
    answer = judged(name, first_difference(subject.graph, expected[: len(few)], found), len(few))
    return replace(answer, reason=answer.reason or linked_parts(figures)), figures, None


def linked_parts(figures: Measurement) -> str | None:
    """What the image holds that it should not: floating point, a heap."""
    found = [
        f"{what} is linked: {', '.join(parts)}"
        for what, parts in (("float", figures.float_parts), ("a heap", figures.heap_parts))
        if parts
    ]
    return "; ".join(found) or None


def _source(
    subject: Subject, samples: Samples, expected: Sequence[Codes], *, asked: bool
) -> WitnessResult:
    """The user's own file in onnxruntime; ops that it runs in float may differ."""
    if not asked:
        return WitnessResult("source", Answer.NOT_RUN, reason=_NOT_ASKED, counts=False)
    found = compare_source(subject.model, subject.graph, samples, expected)
    answer = Answer.EQUAL if found.equal else Answer.DIFFERENT
    excused = found.equal or bool(found.float_ops)
    return WitnessResult("source", answer, found.samples, str(found), counts=not excused)
