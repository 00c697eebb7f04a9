"""Run the witnesses over samples and collect the verdict: equality, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.options import CompileOptions
from binpoint.passes.convert import stored_inputs
from binpoint.passes.samples import Samples
from binpoint.plan.detector import detector_of
from binpoint.sim.check_graph import run_onnx, write_onnx
from binpoint.sim.compare import Difference, Place, first_difference
from binpoint.sim.departures import departures
from binpoint.sim.emitted import EMULATED_SAMPLES, Emitted, Trial
from binpoint.sim.interface import Codes, with_boxes
from binpoint.sim.source import compare_source
from binpoint.sim.witness import (
    NOT_ASKED,
    Answer,
    Verdict,
    Witness,
    WitnessResult,
    ask,
)

Judge = Callable[[int, Sequence[Codes]], Difference | None]
"""The first difference of so many samples' outputs."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is verified: the integer graph and what was emitted for it, compiled from `model`."""

    graph: Graph
    emitted: Emitted
    options: CompileOptions
    model: Path


def verify(
    subject: Subject, samples: Samples, witnesses: Sequence[Witness], *, deep: bool = False
) -> Verdict:
    """Compare all witnesses on all samples, slow ones on the first few.

    Args:
        subject: what was compiled.
        samples: inputs, real or stored.
        witnesses: who is asked; the others are named as not run.
        deep: compare every value, not outputs alone (the emulator and HLS: outputs).
    """
    graph, detector = subject.graph, detector_of(subject.graph, subject.options)
    inputs = list(stored_inputs(graph, samples))
    expected = with_boxes(detector, reference(graph, inputs, deep=deep))
    ort = Trial(
        lambda: with_boxes(detector, run_onnx(write_onnx(graph, deep=deep), graph, inputs)),
        len(inputs),
    )
    boxes = () if detector is None else (Place(detector.value, detector.output),)
    results = [WitnessResult("interpreter", Answer.EQUAL, len(inputs), "the reference")]
    judge = partial(_compared, graph, expected, boxes)
    found = answers({Witness.ORT: ort}, subject.emitted, inputs, judge, witnesses, deep=deep)
    results += found.witnesses
    if graph.quantized and not graph.rational:
        results.append(_source(subject, samples, expected, asked=Witness.ORT in witnesses))
    return Verdict(tuple(results), found.measurement, found.unmeasured)


def answers(
    first: Mapping[Witness, Trial],
    emitted: Emitted,
    inputs: Sequence[Codes],
    judge: Judge,
    witnesses: Sequence[Witness],
    *,
    deep: bool,
) -> Verdict:
    """The answers of `first`, then those of what was emitted, on this machine and emulated."""
    trials = {**first, **emitted.trials(inputs, deep=deep)}
    results = [
        ask(witness, trial.compute, partial(judge, trial.samples), witnesses)
        for witness, trial in trials.items()
    ]
    few = min(EMULATED_SAMPLES, len(inputs))
    found = emitted.emulated(inputs, partial(judge, few), witnesses)
    if found is None:
        return Verdict(tuple(results))
    answer, measurement, unmeasured = found
    return Verdict((*results, answer), measurement, unmeasured)


def _compared(
    graph: Graph,
    expected: Sequence[Codes],
    boxes: Sequence[Place],
    count: int,
    found: Sequence[Codes],
) -> Difference | None:
    return first_difference(graph, expected[:count], found, boxes)


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


def _source(
    subject: Subject, samples: Samples, expected: Sequence[Codes], *, asked: bool
) -> WitnessResult:
    """The user's own file in onnxruntime; a difference counts unless a departure excuses it."""
    if not asked:
        return WitnessResult("source", Answer.NOT_RUN, reason=NOT_ASKED, counts=False)
    found = compare_source(subject.model, subject.graph, samples, expected)
    answer = Answer.EQUAL if found.equal else Answer.DIFFERENT
    known = departures(subject.graph, subject.model, subject.options.semantics)
    excused = found.equal or bool(known)
    return WitnessResult("source", answer, found.samples, str(found), counts=not excused)
