"""What corrections of rounded values gain in transformers: ``python -m benchmarks.corrections``.

The error of the outputs over samples that found no range, with and without: values rounded to
their types, weights of eight bits. With ``--write`` the table becomes that of the page on methods.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Literal

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.__main__ import SHARED
from benchmarks.methods import PAGE, table, write
from benchmarks.transformers import TARGET
from binpoint import CompileOptions, load_target
from binpoint.frontend.load import load
from binpoint.frontend.samples import read_samples
from binpoint.ir.graph import Graph
from binpoint.passes.base import Context
from binpoint.passes.manager import run
from binpoint.passes.samples import Samples
from binpoint.pipelines import mcu
from binpoint.quantize.assign_types import AssignTypes
from binpoint.quantize.outputs import Outputs
from binpoint.quantize.reparameterize import ReparameterizeNorms

MODELS = ("vit_cifar10_float", "har_transformer")
WIDTHS = (8, 6, 4)
CALIBRATE = 100
Mode = Literal["none", "tensor", "head", "auto"]
MODES: tuple[Mode, ...] = ("none", "tensor", "head", "auto")
Reals = NDArray[np.float64]


def errors(model: Path, count: int, bits: int) -> Iterator[tuple[Mode, Mapping[str, float], Reals]]:
    """For each way to correct: its figures, and the error of each scored sample.

    Errors are relative to the mean power of the samples' outputs.
    """
    graph, (found, scored) = prepared(model, count)
    options = CompileOptions(activation_bits=bits, residuals="wide")
    context = Context(load_target(TARGET), options, found)
    passes = mcu().until(AssignTypes.name)
    for taken in (ReparameterizeNorms, AssignTypes):
        passes = passes.without(taken.name)
    real = run(passes, graph, context)
    outputs = Outputs(real, scored)
    for mode in MODES:
        chosen = CompileOptions(activation_bits=bits, residuals="wide", softmax_correction=mode)
        typed = AssignTypes().run(real.copy(), dataclasses.replace(context, options=chosen))
        each = np.array(outputs.errors(typed)) / np.mean(outputs.powers)
        yield mode, typed.figures.get(AssignTypes.name, {}), each


def prepared(model: Path, count: int) -> tuple[Graph, tuple[Samples, Samples]]:
    """A model, the samples of its own file that find ranges, and those that are scored."""
    graph = load(model)
    samples = read_samples(model.with_suffix(".npz"), graph)
    assert samples is not None
    return graph, divided(samples, count)


def divided(samples: Samples, count: int) -> tuple[Samples, Samples]:
    """The first samples, and at most `count` behind them; of few samples every other one each."""
    order = np.arange(samples.count)
    if samples.count < 2 * CALIBRATE:
        order = np.concatenate((order[::2], order[1::2]))
    first = min(CALIBRATE, (samples.count + 1) // 2)
    parts = order[:first], order[first : first + count]
    found, scored = ({n: a[part] for n, a in samples.arrays.items()} for part in parts)
    return Samples(found), Samples(scored)


def change(after: Reals, before: Reals) -> str:
    """By how much the mean error changed, with the standard error of pairs over samples."""
    parts = (after - before) / before.mean()
    return f"{parts.mean():+.1%} ± {np.std(parts, ddof=1) / np.sqrt(len(parts)):.1%}"


def shares_table(models: Sequence[Path], count: int) -> Iterator[list[str]]:
    """A row for each model and width of activations."""
    yield ["model", "bits of activations", "samples", *MODES]
    for model, bits in product(models, WIDTHS):
        cells, before = [model.stem, str(bits)], None
        for _, figures, each in errors(model, count, bits):
            if before is None:
                before = each
                cells += [str(len(each)), f"{each.mean():.3g}"]
            else:
                cells.append(f"{change(each, before)}, {_products(figures)}")
        yield cells


def _products(figures: Mapping[str, float]) -> str:
    """How many products were corrected, and what their errors lost of their power."""
    if not figures.get("corrected"):
        return "none"
    less = figures["error_after"] / (figures["error_before"] or 1.0) - 1
    return f"{figures['corrected']:.0f} of {figures['softmaxes']:.0f}, {less:+.0%}"


def bridges_table(models: Sequence[Path], count: int) -> Iterator[list[str]]:
    """A row for each model and width of activations and weights: what bridges lose."""
    yield ["model", "bits", "samples", "neither", "reparameterized", "and types chosen"]
    whole = mcu().until(AssignTypes.name)
    for model, bits in product(models, WIDTHS[:2]):
        graph, (found, scored) = prepared(model, count)
        outputs, rows = Outputs(graph, scored), list[Reals]()
        cells = [model.stem, f"W{bits}A{bits}", str(scored.count)]
        for passes, chosen in (
            (whole.without(ReparameterizeNorms.name), False),
            (whole, False),
            (whole, True),
        ):
            options = CompileOptions(
                activation_bits=bits, weight_bits=bits, residuals="wide", bridges=chosen
            )
            typed = run(passes, graph, Context(load_target(TARGET), options, found))
            rows.append(np.array(outputs.errors(typed)) / np.mean(outputs.powers))
            cells.append(change(rows[-1], rows[0]) if rows[1:] else f"{rows[0].mean():.3g}")
            told = typed.figures.get(ReparameterizeNorms.name, {})
            if passes is whole and not chosen:
                cells[-1] += f", {told.get('moved', 0):.0f} moved"
        yield cells


TABLES: Mapping[str, Callable[[Sequence[Path], int], Iterator[list[str]]]] = {
    "shares": shares_table,
    "bridges": bridges_table,
}


@click.command()
@click.argument("models", nargs=-1, type=click.Path(path_type=Path))
@click.option("--only", type=click.Choice(tuple(TABLES)), default="shares", show_default=True)
@click.option("--samples", "count", default=200, show_default=True, help="To score at most.")
@click.option("--write", "writes", is_flag=True, help="Put the table into the page on methods.")
def main(models: tuple[Path, ...], only: str, count: int, writes: bool) -> None:
    """Print the table of MODELS, by default of the transformers among the real models."""
    rows: list[list[str]] = []
    for row in TABLES[only](models or tuple(SHARED / f"{name}.onnx" for name in MODELS), count):
        click.echo(", ".join(row), err=True)
        rows.append(row)
    print(table(rows))
    if writes:
        write(PAGE, only, table(rows))


if __name__ == "__main__":
    main()
