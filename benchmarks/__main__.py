"""Compile every real model for a target and print one row each: ``python -m benchmarks``."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import click

from binpoint import compile_model, load_target, read_options
from binpoint.errors import BinpointError
from binpoint.report import render
from binpoint.target import Target

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("BINPOINT_SHARED", ROOT.parent / "shared")) / "models"
COLUMNS = (
    "model", "float", "int8", "flash", "arena", "bound",
    "stack", "instructions", "seconds", "verdict",
)  # fmt: skip


def measure(model: Path, target: Target, calibrate_with: int, verify: str) -> dict[str, Any]:
    """Compile one model and return the row of its figures."""
    samples = model.with_suffix(".npz")
    began = time.perf_counter()
    result = compile_model(
        model,
        target,
        read_options(),
        samples=samples if samples.is_file() else "random",
        calibrate_with=calibrate_with,
        verify=verify,
    )
    seconds = time.perf_counter() - began
    report = json.loads(render.json(result.report))
    return {
        "model": model.stem,
        "float": report["accuracy"]["float"],
        "int8": report["accuracy"]["integer"],
        "flash": report["flash_bytes"],
        "arena": report["arena_bytes"],
        "bound": report["arena_lower_bound_bytes"],
        "stack": report["stack_bytes"],
        "instructions": report["instructions"],
        "seconds": seconds,
        "verdict": report["verdict"],
    }


def text(value: object) -> str:
    """Return a figure as it is printed, ``-`` where nothing was measured."""
    match value:
        case None:
            return "-"
        case float():
            return f"{value:.3f}"
        case _:
            return str(value)


@click.command()
@click.argument("models", nargs=-1, type=click.Path(path_type=Path))
@click.option("--target", default="cortex-m4", show_default=True)
@click.option("--calibrate-with", default=50, show_default=True)
@click.option("--verify", default="all", show_default=True)
def main(models: tuple[Path, ...], target: str, calibrate_with: int, verify: str) -> None:
    """Print a table of MODELS, by default of all in the folder of real models."""
    chosen = models or tuple(sorted(SHARED.glob("*.onnx")))
    device = load_target(target)
    print("| " + " | ".join(COLUMNS) + " |")
    print("| --- " * len(COLUMNS) + "|")
    compiled, at_bound = 0, 0
    for model in chosen:
        try:
            row = measure(model, device, calibrate_with, verify)
        except BinpointError as error:
            print(f"| {model.stem} | {error.code} {error.message} |", flush=True)
            continue
        compiled += 1
        at_bound += row["arena"] == row["bound"]
        print("| " + " | ".join(text(row[column]) for column in COLUMNS) + " |", flush=True)
    print(f"\n{compiled} of {len(chosen)} compiled, {at_bound} with the arena at its lower bound")


if __name__ == "__main__":
    main()
