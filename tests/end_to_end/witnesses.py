"""Compiles models and compares all witnesses of several of them by one run of the host compiler."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from binpoint import ort, pipelines
from binpoint.emit.environment import render_template
from binpoint.emit.mcu_c import render
from binpoint.emit.project import Project
from binpoint.frontend.load import load
from binpoint.frontend.samples import read_samples
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.numeric import float32
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.passes.manager import run
from binpoint.plan.arrange import arrange
from binpoint.plan.program import Program
from binpoint.sim.check_graph import run_onnx, write_onnx
from binpoint.sim.compare import Difference, first_difference
from binpoint.sim.host_c import SANITIZERS, WARNINGS
from binpoint.sim.interface import Codes, Interface, pack, split, unpack
from binpoint.sim.measure import emulate
from binpoint.sim.tools import run_tool
from binpoint.target import McuTarget, Target, list_targets, load_target

_SAMPLES = 3


@dataclass(frozen=True, slots=True)
class Trial:
    """A compiled model with codes for its inputs, and what the interpreter computes from them."""

    model: onnx.ModelProto
    graph: Graph
    program: Program
    project: Project
    options: CompileOptions
    inputs: tuple[Codes, ...]
    values: tuple[Mapping[str, NDArray[Any]], ...]


def random_options(random: Random, name: str) -> CompileOptions:
    """Options that change types, memory or kernels."""
    return CompileOptions(
        name=name,
        optimize=random.choice(("speed", "size")),
        activations=random.choice(("asymmetric", "asymmetric", "symmetric")),
        scales=random.choice(("free", "free", "power-of-two")),
        observer="minmax",
        activation_bits=random.choice((8, 8, 8, 7, 5, 2)),
        softmax_correction=random.choice(("auto", "head")),
        arena=random.choice(("static", "caller")),
        io=random.choice(("caller", "arena")),
        planner="greedy",
        check=random.choice((True, False)),
        residuals=random.choice(("auto", "narrow", "wide")),
    )


def random_target(random: Random) -> Target:
    """Any target."""
    return load_target(random.choice(list_targets()))


def compiled(model: onnx.ModelProto, options: CompileOptions, target: Target, seed: int) -> Trial:
    """Compile a model with noise as samples; run the interpreter, which checks bounds."""
    with tempfile.TemporaryDirectory(prefix="binpoint-trial-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        graph = load(path)
    samples = read_samples("random", graph, seed)
    assert samples is not None
    graph = run(pipelines.mcu(), graph, Context(target, options, samples.part(0, 8)))
    device = target if isinstance(target, McuTarget) else None
    program = arrange(graph, options, device)
    project = render(program, target, options)
    inputs = _codes(graph, np.random.default_rng(seed))
    values = tuple(evaluate(graph, codes) for codes in inputs)
    return Trial(model, graph, program, project, options, inputs, values)


def _codes(graph: Graph, rng: np.random.Generator) -> tuple[Codes, ...]:
    """Uniform codes, codes at both ends, codes near the middle."""
    found: list[Codes] = []
    for index in range(_SAMPLES):
        codes: dict[str, NDArray[np.int64]] = {}
        for name in graph.inputs:
            value = graph.value(name)
            lo, hi = value.interval.lo, value.interval.hi
            if index == 1:
                codes[name] = rng.choice(np.array([lo, hi], np.int64), value.shape)
            else:
                third = (hi - lo) // 3 if index else 0
                codes[name] = rng.integers(lo + third, hi + 1 - third, value.shape)
        found.append(codes)
    return tuple(found)


def witness_difference(trial: Trial) -> Difference | None:
    """Where the check graph, run by onnxruntime, differs from the interpreter at any value."""
    found = run_onnx(write_onnx(trial.graph, deep=True), trial.graph, trial.inputs)
    assert set(found[0]) == {n for node in trial.graph.nodes() for n in node.outputs}
    return first_difference(trial.graph, trial.values, found)


def emulated_difference(trial: Trial, device: McuTarget) -> Difference | None:
    """Where the emitted C on the emulated core differs from the interpreter at an output."""
    interface = Interface.of(trial.program, trial.options)
    found, _ = emulate(interface, trial.project.files, device, trial.inputs, run=True)
    return first_difference(trial.graph, trial.values, found)


def run_image(trials: Sequence[Trial]) -> list[list[dict[str, NDArray[Any]]]]:
    """All values of all models, from one program that holds all of them, under sanitizers.

    Every model has a name of its own; main is told by its first argument which one to run.
    """
    with tempfile.TemporaryDirectory(prefix="binpoint-image-") as scratch:
        folder = Path(scratch)
        image = _build(folder, trials)
        found: list[list[dict[str, NDArray[Any]]]] = []
        for trial in trials:
            interface = Interface.of(trial.program, trial.options)
            name = interface.name
            given, out, values = (folder / f"{name}.{part}" for part in ("in", "out", "values"))
            given.write_bytes(pack(interface.inputs, trial.inputs))
            run_tool([image, name, given, out, values], timeout=60)
            results = unpack(interface.outputs, out.read_bytes())
            inner = split(interface.values, values.read_bytes())
            found.append([{**a, **b} for a, b in zip(results, inner, strict=True)])
    return found


def _build(folder: Path, trials: Sequence[Trial]) -> Path:
    names = [trial.program.name for trial in trials]
    assert len(set(names)) == len(names)
    sources: list[Path] = []
    flags: list[str | Path] = []
    for trial, name in zip(trials, names, strict=True):
        (folder / name).mkdir()
        for path, data in trial.project.files.items():
            if "/" not in path and path.endswith((".c", ".h")):
                (folder / name / path).write_bytes(data)
        interface = Interface.of(trial.program, trial.options)
        harness = render_template("harness", "host.c.j2", **interface.views())
        text = harness.replace(
            "int main(", f"int main_{name}(int argc, char **argv);\nint main_{name}("
        )
        (folder / f"main_{name}.c").write_text(text)
        sources += [*sorted((folder / name).glob("*.c")), folder / f"main_{name}.c"]
        flags += ["-I", folder / name, f"-D{name.upper()}_HOOK"]
    lines = ["#include <string.h>", *(f"int main_{n}(int argc, char **argv);" for n in names)]
    lines += ["int main(int argc, char **argv)", "{"]
    lines += [
        f'    if (!strcmp(argv[1], "{n}")) return main_{n}(argc - 1, argv + 1);' for n in names
    ]
    (folder / "main.c").write_text("\n".join([*lines, "    return 2;", "}", ""]))
    image = folder / "image"
    words = ["gcc", "-std=c99", "-O1", *WARNINGS, *SANITIZERS, *flags, folder / "main.c", *sources]
    run_tool([*words, "-o", image], timeout=600)
    return image


def image_differences(trials: Sequence[Trial]) -> list[Difference | None]:
    """Where the sanitized C of each model differs from the interpreter, at any value."""
    found = run_image(trials)
    return [
        first_difference(t.graph, t.values, values) for t, values in zip(trials, found, strict=True)
    ]


def runtime_difference(trial: Trial) -> int:
    """By how many codes onnxruntime's own run of the model differs at most from the interpreter."""
    session = ort.reference(trial.model)
    graph, worst = trial.graph, 0
    for codes, values in zip(trial.inputs, trial.values, strict=True):
        feeds: dict[str, NDArray[Any]] = {}
        for source, name in zip(session.inputs, graph.inputs, strict=True):
            kind = graph.value(name).elem
            feeds[source] = float32.dequantize_linear(
                codes[name], float(kind.scale), kind.zero_point
            )
        results = session.run(feeds)
        for source, name in zip(session.outputs, graph.outputs, strict=True):
            kind, array = graph.value(name).elem, results[source]
            if array.dtype.kind == "f":
                limits = kind.storage.min, kind.storage.max
                array = float32.quantize_linear(array, float(kind.scale), kind.zero_point, *limits)
            worst = max(worst, int(np.abs(array.astype(np.int64) - values[name]).max()))
    return worst
