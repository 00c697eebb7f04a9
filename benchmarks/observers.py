"""Accuracy of float models by observer: ``python -m benchmarks.observers``.

Prints a row for each model: the float model's own accuracy, then that of the integers with each way
of finding ranges.
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks import tables
from benchmarks.__main__ import SHARED, text
from binpoint import CompileOptions, compile_model, load_target
from binpoint.quantize.observe import Method
from binpoint.report.schema import Accuracy

MODELS = (
    "ic_resnet8_float",
    "kws_dscnn_float",
    "ad_autoencoder_float",
    "person_mobilenetv2_050_128_float",
)


def accuracy(model: Path, method: Method, calibrate_with: int) -> Accuracy:
    """Compile without verifying, and score all samples that did not calibrate."""
    options = CompileOptions(observer=method.value)
    target = load_target("host")
    samples = model.with_suffix(".npz")
    result = compile_model(
        model, target, options, samples=samples, calibrate_with=calibrate_with, verify="none"
    )
    return result.report.accuracy


def row(model: Path, calibrate_with: int) -> list[str]:
    """Return the cells of a model's row."""
    found = [accuracy(model, method, calibrate_with) for method in Method]
    first = found[0]
    figures = (model.stem, first.metric, first.samples, first.floating)
    return [text(cell) for cell in (*figures, *(each.integer for each in found))]


@click.command()
@click.argument("models", nargs=-1, type=click.Path(path_type=Path))
@click.option("--calibrate-with", default=50, show_default=True)
def main(models: tuple[Path, ...], calibrate_with: int) -> None:
    """Print a table of MODELS, by default of four from the folder of real models."""
    heads = ("model", "metric", "samples", "float", *(method.value for method in Method))
    tables.begin(heads)
    for model in models or tuple(SHARED / f"{name}.onnx" for name in MODELS):
        tables.add(row(model, calibrate_with))


if __name__ == "__main__":
    main()
