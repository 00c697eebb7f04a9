"""Compile every real model and print one row of figures each: ``python -m benchmarks``."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from benchmarks import tables
from binpoint import CompileOptions, compile_model, load_target
from binpoint.emit.mcu_c import render
from binpoint.errors import BinpointError
from binpoint.frontend.load import load
from binpoint.frontend.samples import read_samples
from binpoint.frontend.sets import divide
from binpoint.passes.base import Context
from binpoint.passes.manager import run
from binpoint.pipelines import choose
from binpoint.plan.arrange import arrange
from binpoint.report.schema import Report
from binpoint.target import McuTarget, microcontroller

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("BINPOINT_SHARED", ROOT.parent / "shared")) / "models"
TARGETS = ("cortex-m4", "rv32imc")
COLUMNS = (
    "model", "metric", "float", "int8", "flash", "arena", "bound", "MACs", "removed",
    *(f"instructions {name}" for name in TARGETS), "mulshift/thresholds/exact", "seconds",
    "verdict", "source",
)  # fmt: skip


def seconds(
    model: Path, samples: Path | str, target: McuTarget, calibrate_with: int | None
) -> float:
    """Return the time from the model's file to C sources, verification and report apart."""
    began = time.perf_counter()
    options = CompileOptions()
    graph = load(model)
    sets = divide(read_samples(samples, graph), calibrate_with)
    graph = run(choose(None, target), graph, Context(target, options, sets.calibration))
    render(arrange(graph, options, target), target, options)
    return time.perf_counter() - began


def measure(model: Path, calibrate_with: int, verify: str) -> tuple[list[Report], float]:
    """Compile one model for each target; return the reports, and the seconds of one compilation."""
    found = model.with_suffix(".npz")
    samples = found if found.is_file() else "random"
    divided = calibrate_with if found.is_file() and not load(model).quantized else None
    targets = [microcontroller(load_target(name)) for name in TARGETS]
    reports = [
        compile_model(
            model, target, CompileOptions(), samples=samples, calibrate_with=divided, verify=verify
        ).report
        for target in targets
    ]
    return reports, seconds(model, samples, targets[0], divided)


def row(reports: list[Report], duration: float) -> list[str]:
    """Return the cells of a model's row."""
    report, counts = reports[0], reports[0].requantizers
    verdicts = {r.verdict for r in reports}
    sources = [w.verdict for w in report.witnesses if w.name == "source"]
    cells = (
        report.model.name, report.accuracy.metric, report.accuracy.floating,
        report.accuracy.integer, report.flash_bytes, report.arena_bytes,
        report.arena_lower_bound_bytes, report.macs, report.macs_removed,
        *(r.instructions for r in reports),
        f"{counts.mulshift}/{counts.thresholds}/{counts.exact}", duration,
        verdicts.pop() if len(verdicts) == 1 else "different", next(iter(sources), None),
    )  # fmt: skip
    return [text(cell) for cell in cells]


def text(value: object) -> str:
    """Return a figure as it is printed, ``-`` where nothing was measured."""
    match value:
        case None:
            return "-"
        case float():
            return f"{value:.4g}"
        case _:
            return str(value)


@click.command()
@click.argument("models", nargs=-1, type=click.Path(path_type=Path))
@click.option("--calibrate-with", default=50, show_default=True, help="For float models.")
@click.option("--verify", default="all", show_default=True)
def main(models: tuple[Path, ...], calibrate_with: int, verify: str) -> None:
    """Print a table of MODELS, by default of all in the folder of real models."""
    chosen = models or tuple(sorted(SHARED.glob("*.onnx")))
    tables.begin(COLUMNS)
    compiled, at_bound = 0, 0
    refused: list[str] = []
    for model in chosen:
        try:
            reports, duration = measure(model, calibrate_with, verify)
        except BinpointError as error:
            refused.append(f"{model.stem}: {error.code} {error.message}, {error.at}")
            continue
        compiled += 1
        at_bound += reports[0].arena_bytes == reports[0].arena_lower_bound_bytes
        tables.add(row(reports, duration))
    print(f"\n{compiled} of {len(chosen)} compiled, {at_bound} with the arena at its lower bound")
    print("".join(f"- {line}\n" for line in refused))


if __name__ == "__main__":
    main()
