"""What models and layers cost on emulated microcontrollers: ``python -m benchmarks.performance``.

Models that are not at hand are left out, and then the page in the reference stays as it is.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks import layers, performance_page, visual_wake_words
from benchmarks.__main__ import ROOT, SHARED
from benchmarks.performance_page import CORES, MODELS, Figures, Model
from binpoint import CompileOptions, compile_model, load_target
from binpoint.errors import BinpointError
from binpoint.frontend.load import load
from binpoint.report.schema import Report

PAGE = ROOT / "docs" / "reference" / "performance.md"
_SAMPLES = 8


@dataclass(frozen=True, slots=True)
class Found:
    """A model's file; `inputs` by name of its npz, None for noise."""

    model: Model
    path: Path
    inputs: Mapping[str, NDArray[Any]] | None


def find(model: Model, scratch: Path) -> Found | None:
    """Where the model is, None if it is nowhere."""
    if model.name == visual_wake_words.NAME:
        return Found(model, visual_wake_words.save(scratch), None)
    folders = (SHARED, ROOT / "examples" / "02_digits_mcu")
    for path in (folder / f"{model.name}.onnx" for folder in folders):
        if path.is_file():
            return Found(model, path, _inputs(path))
    return None


def _inputs(path: Path) -> Mapping[str, NDArray[Any]]:
    """The first inputs of a quantized model, which needs no calibration; else all samples."""
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    if not load(path).quantized:
        return arrays
    return {name: a[:_SAMPLES] for name, a in arrays.items() if name == "x" or name[:2] == "x_"}


def compiled(found: Found, core: str, optimize: Literal["speed", "size"]) -> Report:
    """The report of a model on a core; all witnesses agree."""
    samples = "random" if found.inputs is None else found.inputs
    return compile_model(
        found.path,
        load_target(core),
        CompileOptions(optimize=optimize),
        samples=samples,
        verify="all",
        verify_samples=_SAMPLES,
    ).report


def measure(
    found: Sequence[Found], cores: Sequence[str], optimize: Literal["speed", "size"]
) -> dict[tuple[str, str], Report]:
    """Reports by model and core; what cannot be compiled is said and left out."""
    reports: dict[tuple[str, str], Report] = {}
    for one in found:
        for core in cores:
            began = time.perf_counter()
            try:
                report = compiled(one, core, optimize)
            except BinpointError as error:
                print(f"{one.model.name} on {core}: {error.code} {error.message}", flush=True)
                continue
            reports[one.model.name, core] = report
            duration = time.perf_counter() - began
            nominal = report.macs + report.macs_removed
            each = None if report.instructions is None else report.instructions / nominal
            cost = "not measured" if each is None else f"{each:.3f} instructions/MAC"
            print(f"{one.model.name} on {core}: {cost}, {duration:.1f} s with checks", flush=True)
    return reports


def single_layers(scratch: Path, cores: Sequence[str]) -> dict[tuple[str, str], Report]:
    """The network of single layers on each core."""
    path = layers.save(scratch)
    model = Model(layers.NAME, "single layers")
    return measure([Found(model, path, None)], cores, "speed")


@click.command()
@click.option("--core", "cores", multiple=True, type=click.Choice(CORES), help="By default all.")
def main(cores: tuple[str, ...]) -> None:
    """Measure models and layers, print the tables, and write the page if nothing is missing."""
    chosen = cores or CORES
    with tempfile.TemporaryDirectory(prefix="binpoint-bench-") as folder:
        scratch = Path(folder)
        places = [find(model, scratch) for model in MODELS]
        found = [place for place in places if place is not None]
        sized = [place for place in found if place.model.size_too]
        figures = Figures(
            reports=measure(found, chosen, "speed"),
            small=measure(sized, ["cortex-m4"], "size") if "cortex-m4" in chosen else {},
            layers=single_layers(scratch, chosen),
        )
    text = performance_page.page(figures, chosen)
    print("\n" + text)
    missing = [m.name for m, p in zip(MODELS, places, strict=True) if p is None]
    if missing or cores:
        print(f"not written: without {', '.join(missing) or 'some cores'}")
        return
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
