"""Every real model as an FPGA design, a row of figures each: ``python -m benchmarks.fpga_models``.

All samples go through the build with native integers, `--ap` of them through arbitrary precision
integers; both are compared with the interpreter, exactly. Resources and cycles are estimates.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from benchmarks import tables
from benchmarks.__main__ import SHARED, text
from binpoint import CompileOptions, compile_model, load_target
from binpoint.driver import Result
from binpoint.errors import BinpointError, DoesNotFit
from binpoint.frontend.load import load
from binpoint.frontend.samples import read_samples
from binpoint.passes.convert import stored_inputs
from binpoint.plan import units
from binpoint.plan.folding import Choice
from binpoint.report.accuracy import task_of
from binpoint.report.summary import macs_of
from binpoint.sim.compare import first_difference
from binpoint.sim.emitted import EmittedHls
from binpoint.sim.host_hls import Build
from binpoint.sim.verify import reference

PARTS = ("zynq-7020", "zu7ev", "xcvu9p")
COLUMNS = (
    "model", "weights", "activations", "metric", "theirs", "ours", "target", "cycles",
    "latency", "inferences/s", "LUT", "FF", "DSP", "BRAM18", "slowest unit", "native", "ap_types",
    "source", "seconds",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checked:
    """Samples compared with the interpreter, all equal."""

    native: int
    ap: int


def compiled(model: Path, samples: Path | str, calibrate_with: int | None) -> Result:
    """Compile for the smallest part that the model fits, as fast as that part allows."""
    for name in PARTS[:-1]:
        try:
            return _compiled(model, samples, calibrate_with, name)
        except DoesNotFit:
            continue
    return _compiled(model, samples, calibrate_with, PARTS[-1])


def _compiled(model: Path, samples: Path | str, calibrate_with: int | None, target: str) -> Result:
    return compile_model(
        model,
        load_target(target),
        CompileOptions(),
        samples=samples,
        calibrate_with=calibrate_with,
        verify="ort",
    )


def check(result: Result, samples: Path | str, ap: int) -> Checked:
    """Compare every sample with native integers, `ap` with arbitrary precision ones."""
    graph = result.graph
    found = read_samples(samples, graph)
    assert found is not None
    inputs = list(stored_inputs(graph, found))
    assert isinstance(result.plan, Choice)
    work = macs_of(graph, graph.nodes())
    emitted = EmittedHls.of(result.plan.design, result.project.files, work)
    expected = reference(graph, inputs)
    some = inputs[:ap]
    for build, few in ((Build.NATIVE, inputs), (Build.AP, some)):
        if not few:
            continue
        outputs = emitted.build(few, build, checked=False)
        different = first_difference(graph, expected[: len(few)], outputs)
        assert different is None, f"{build}: {different}"
    return Checked(len(inputs), len(some))


def theirs(result: Result, model: Path, samples: Path | str) -> float | None:
    """The score of the float model, of onnxruntime, or of the outputs kept with the samples."""
    known = result.report.accuracy
    if known.floating is not None or known.onnxruntime is not None:
        return known.floating if known.floating is not None else known.onnxruntime
    found = read_samples(samples, result.graph)
    task = None if found is None else task_of(result.graph, found)
    with_expected = model.with_suffix(".npz")
    if task is None or not with_expected.is_file():
        return None
    kept = np.load(with_expected, allow_pickle=False)
    return task.score(list(kept["expected"])) if "expected" in kept else None


def widths(result: Result) -> tuple[str, str]:
    """Bits of weights, and of what streams carry between layers, as found."""
    assert isinstance(result.plan, Choice)
    layers = result.plan.design.layers
    linear = [u.unit for u in layers if isinstance(u.unit, units.Dense | units.Depthwise)]
    weights = {1 if u.arithmetic in {"signs", "count"} else u.weight.width for u in linear}
    carried = {s.elem.width for s in result.plan.design.streams.values() if s.value}
    return _listed(weights), _listed(carried)


def _listed(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def row(model: Path, calibrate_with: int, ap: int) -> list[str]:
    """The cells of a model's row."""
    kept = model.with_suffix(".npz")
    samples = kept if kept.is_file() else "random"
    divided = calibrate_with if kept.is_file() and not load(model).quantized else None
    began = time.perf_counter()
    result = compiled(model, samples, divided)
    duration = time.perf_counter() - began
    checked = check(result, samples, ap)
    report = result.report
    assert report.fpga is not None
    slow = max(report.fpga.units, key=lambda unit: unit.interval)
    sources = [w.verdict for w in report.witnesses if w.name == "source"]
    cells: Sequence[object] = (
        report.model.name, *widths(result), report.accuracy.metric, theirs(result, model, samples),
        report.accuracy.integer, report.target, report.fpga.interval_cycles,
        report.fpga.latency_cycles, round(report.fpga.inferences_per_second),
        *(row.used for row in report.fpga.resources),
        f"{slow.name} {slow.pe}x{slow.simd}", checked.native, checked.ap,
        next(iter(sources), None), duration,
    )  # fmt: skip
    return [text(cell) for cell in cells]


@click.command()
@click.argument("models", nargs=-1, type=click.Path(path_type=Path))
@click.option("--calibrate-with", default=50, show_default=True, help="For float models.")
@click.option("--ap", default=100, show_default=True, help="Samples with AMD's integers.")
def main(models: tuple[Path, ...], calibrate_with: int, ap: int) -> None:
    """Print a table of MODELS, by default of all in the folder of real models."""
    chosen = models or tuple(sorted(SHARED.glob("*.onnx")))
    tables.begin(COLUMNS)
    refused: list[str] = []
    for model in chosen:
        try:
            tables.add(row(model, calibrate_with, ap))
        except BinpointError as error:
            refused.append(f"{model.stem}: {error.code} {error.message}, {error.at}, {error.have}")
    print(f"\n{len(chosen) - len(refused)} of {len(chosen)} compiled")
    print("".join(f"- {line}\n" for line in refused))


if __name__ == "__main__":
    main()
