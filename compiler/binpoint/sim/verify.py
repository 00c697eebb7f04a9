"""Run the witnesses over samples and collect the verdict: equality, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from binpoint.emit.project import Project
from binpoint.errors import BinpointError, InvalidTarget, ToolFailed, ToolNotFound, UsageError
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.options import CompileOptions
from binpoint.passes.samples import Samples
from binpoint.plan.program import Program
from binpoint.sim.check_graph import run_onnx, write_onnx
from binpoint.sim.compare import Difference, first_difference
from binpoint.sim.convert import stored_inputs
from binpoint.sim.host_c import HostBuild, run_project
from binpoint.sim.interface import Codes, Interface
from binpoint.sim.measure import Measurement, emulate
from binpoint.sim.source import compare_source, departures
from binpoint.target import McuTarget

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
    OPTIMISED = "host -O2"
    EMULATOR = "emulator"

    @property
    def label(self) -> str:
        """Its name in reports."""
        return "onnxruntime" if self is Witness.ORT else self.value


def witnesses_of(text: str) -> tuple[Witness, ...]:
    """The witnesses of `none`, `all`, or of a list such as `ort,host`.

    The host's C counts twice: under sanitizers, and optimised.

    Raises:
        UsageError: no witness has the name.
    """
    known: Mapping[str, tuple[Witness, ...]] = {
        "none": (),
        "ort": (Witness.ORT,),
        "host": (Witness.HOST, Witness.OPTIMISED),
        "emulator": (Witness.EMULATOR,),
        "all": tuple(Witness),
    }
    found: list[Witness] = []
    for word in (word.strip() for word in text.split(",")):
        if word not in known:
            raise UsageError(f"there is no witness `{word}`", want=", ".join(known))
        found += known[word]
    return tuple(dict.fromkeys(found))


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

    @property
    def first_difference(self) -> WitnessResult:
        """The first witness that makes the verdict "different"."""
        return next(w for w in self.witnesses if w.counts and w.verdict is Answer.DIFFERENT)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is verified: the integer graph, its program and the C, compiled from `model`."""

    graph: Graph
    program: Program
    project: Project
    options: CompileOptions
    target: McuTarget
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
    graph, interface, files = subject.graph, subject.interface, subject.project.files
    inputs = list(stored_inputs(graph, samples))
    expected = reference(graph, inputs, deep=deep)
    few = inputs[:EMULATED_SAMPLES]
    asked = {
        Witness.ORT: lambda: run_onnx(write_onnx(graph, deep=deep), graph, inputs),
        **host_builds(interface, files, inputs, deep=deep),
    }
    results = [WitnessResult("interpreter", Answer.EQUAL, len(inputs), "the reference")]
    results += [
        ask(witness, compute, partial(first_difference, graph, expected), witnesses)
        for witness, compute in asked.items()
    ]
    on_target, measurement, unmeasured = emulated(
        interface,
        files,
        subject.target,
        few,
        partial(first_difference, graph, expected[: len(few)]),
        asked=Witness.EMULATOR in witnesses,
    )
    results.append(on_target)
    if graph.quantized and not graph.rational:
        results.append(_source(subject, samples, expected, asked=Witness.ORT in witnesses))
    return Verdict(tuple(results), measurement, unmeasured)


_NOT_ASKED = "not asked for"
Compute = Callable[[], Sequence[Codes]]
Compare = Callable[[Sequence[Codes]], Difference | None]


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


def host_builds(
    interface: Interface, files: Mapping[str, bytes], inputs: Sequence[Codes], *, deep: bool
) -> dict[Witness, Compute]:
    """The C under sanitizers, and as an application builds it: compilers err in other ways."""
    fast = HostBuild(sanitize=False)
    return {
        Witness.HOST: lambda: run_project(interface, files, inputs, deep=deep),
        Witness.OPTIMISED: lambda: run_project(interface, files, inputs, deep=deep, build=fast),
    }


def ask(
    witness: Witness, compute: Compute, compare: Compare, asked: Sequence[Witness]
) -> WitnessResult:
    """One witness; a missing tool is a reason, never an answer."""
    if witness not in asked:
        return WitnessResult(witness.label, Answer.NOT_RUN, reason=_NOT_ASKED)
    try:
        found = compute()
    except ToolNotFound as missing:
        return WitnessResult(witness.label, Answer.NOT_RUN, reason=_reason(missing))
    return _judged(witness, compare(found), len(found))


def _judged(witness: Witness, difference: Difference | None, samples: int) -> WitnessResult:
    if difference is None:
        return WitnessResult(witness.label, Answer.EQUAL, samples)
    reason = str(difference)
    return WitnessResult(witness.label, Answer.DIFFERENT, samples, reason, difference)


def _reason(missing: BinpointError) -> str:
    return "; ".join(text for text in (missing.message, missing.have, missing.hint) if text)


def emulated(
    interface: Interface,
    files: Mapping[str, bytes],
    target: McuTarget,
    samples: Sequence[Codes],
    compare: Compare,
    *,
    asked: bool,
) -> tuple[WitnessResult, Measurement | None, str | None]:
    """The emulator's answer, the figures of the build (made even if not asked), or why none."""
    witness = Witness.EMULATOR
    not_run = WitnessResult(witness.label, Answer.NOT_RUN, reason=_NOT_ASKED)
    try:
        found, figures = emulate(interface, files, target, samples, run=asked)
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
    answer = _judged(witness, compare(found), len(samples))
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
    """The user's own file in onnxruntime; a difference counts unless a departure excuses it."""
    if not asked:
        return WitnessResult("source", Answer.NOT_RUN, reason=_NOT_ASKED, counts=False)
    found = compare_source(subject.model, subject.graph, samples, expected)
    answer = Answer.EQUAL if found.equal else Answer.DIFFERENT
    excused = found.equal or bool(departures(subject.graph, subject.options.semantics))
    return WitnessResult("source", answer, found.samples, str(found), counts=not excused)
