"""Accuracy of vision transformers by method and width: ``python -m benchmarks.transformers``.

Three tables: accuracy of the integers with every method and with activations of eight and six bits;
the error of the outputs with and without the pass `reparameterize-norms`, activations and weights
of as many bits; and accuracy and error of the integers by the width of residual sums. All integers
are those of the C that ``binpoint compile`` writes for the host; cores compute the same. With
``--write`` the tables become those of the page on methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.__main__ import SHARED
from benchmarks.images import cifar10
from benchmarks.methods import PAGE, table, write
from binpoint import CompileOptions, load_target
from binpoint.emit import mcu_c
from binpoint.frontend.load import load
from binpoint.ir.graph import Graph
from binpoint.ops.methods import Method
from binpoint.passes.base import Context
from binpoint.passes.convert import real, stored_inputs
from binpoint.passes.manager import run
from binpoint.passes.samples import Samples
from binpoint.pipelines import choose
from binpoint.plan.arrange import arrange
from binpoint.quantize.reparameterize import ReparameterizeNorms
from binpoint.sim.emitted import EmittedC
from binpoint.sim.interface import Interface
from binpoint.sim.source import run_source
from binpoint.target import McuTarget

MODELS = ("vit_cifar10_float", "vit_cifar10_qdq", "vit_cifar10_qdq_matmul")
TARGET = "host"
WIDTHS = (8, 6)
TABLES = ("accuracy", "norms", "residuals")
_EXACT = {"layer-norm": Method.TABLE}
METHODS: Mapping[str, Mapping[str, Method]] = {
    "table": {},
    "shift-released": {"all": Method.SHIFT_RELEASED},
    "shift-released, exact layer norm": {"all": Method.SHIFT_RELEASED, **_EXACT},
    "shift": {"all": Method.SHIFT},
    "shift, exact layer norm": {"all": Method.SHIFT, **_EXACT},
    "polynomial": {"all": Method.POLYNOMIAL},
    "log2": {"softmax": Method.LOG2},
    "log-sqrt2": {"softmax": Method.LOG_SQRT2},
}
Reals = NDArray[np.float64]


def named(images: Samples, graph: Graph) -> Samples:
    """Images under the name of a model's only input."""
    (name,) = graph.inputs
    return replace(images, arrays={name: images.arrays["x"]})


@dataclass(frozen=True, slots=True)
class Case:
    """A model of classes, samples that find its ranges, and labelled others."""

    model: Path
    graph: Graph
    calibration: Samples
    scored: Samples

    @classmethod
    def of(cls, model: Path, calibration: Samples, scored: Samples) -> Case:
        """With samples under the name of the model's only input."""
        graph = load(model)
        return cls(model, graph, *(named(part, graph) for part in (calibration, scored)))

    def right(self, outputs: Reals) -> NDArray[np.bool_]:
        """Of which scored samples the class is right."""
        assert self.scored.labels is not None
        return outputs.argmax(axis=1) == self.scored.labels.reshape(-1)

    def floating(self) -> Reals:
        """What the file gives in onnxruntime, a row a sample."""
        (name, *_) = self.graph.output_names
        runs = run_source(self.model, self.graph, self.scored)
        return np.stack([outputs[name].reshape(-1) for outputs in runs]).astype(np.float64)

    def integers(self, options: CompileOptions, without: str | None = None) -> Reals:
        """What the emitted C gives, as real numbers, of all the target's passes or all but one."""
        target = load_target(TARGET)
        assert isinstance(target, McuTarget)
        passes = choose(None, target)
        passes = passes if without is None else passes.without(without)
        graph = run(passes, self.graph, Context(target, options, self.calibration))
        program = arrange(graph, options, target)
        files = mcu_c.render(program, target, options).files
        emitted = EmittedC(Interface.of(program, options), files, target)
        found = emitted.outputs(list(stored_inputs(graph, self.scored)))
        y = graph.value(graph.outputs[0])
        return np.stack([real(y, codes[y.name]).reshape(-1) for codes in found]).astype(np.float64)


def accuracy_cell(right: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> str:
    """The part that is right, and by how many points it differs from another's of the samples.

    Behind the difference stands its standard error, of pairs of answers to one sample.
    """
    points = 100 * (right.astype(np.float64) - wanted)
    error = np.std(points, ddof=1) / np.sqrt(len(points))
    return f"{right.mean():.1%} ({points.mean():+.2f} ± {error:.2f})"


def accuracy_table(cases: Sequence[Case], told: Callable[[str], None]) -> list[list[str]]:
    """A row for each model and width: accuracy in onnxruntime, then by every method."""
    rows = [["model", "bits of activations", "samples", "onnxruntime", *METHODS]]
    for case in cases:
        wanted = case.right(case.floating())
        for bits in WIDTHS[:1] if case.graph.quantized else WIDTHS:
            width = "stated" if case.graph.quantized else str(bits)
            cells = [case.model.stem, width, str(len(wanted)), f"{wanted.mean():.1%}"]
            for name, methods in METHODS.items():
                options = CompileOptions(activation_bits=bits, methods=dict(methods))
                cells.append(accuracy_cell(case.right(case.integers(options)), wanted))
                told(f"{case.model.stem}, {width}: {name} {cells[-1]}")
            rows.append(cells)
    return rows


def lost(outputs: Reals, wanted: Reals) -> float:
    """Power of the error over that of what is wanted."""
    return float(np.square(outputs - wanted).sum() / np.square(wanted).sum())


def norms_table(
    case: Case, draws: Sequence[Samples], told: Callable[[str], None]
) -> list[list[str]]:
    """A row for each width: errors before and after the pass, means over draws of images.

    Each draw finds the ranges in turn. The change is that of the mean power, and its standard error
    that of a ratio of means.
    """
    rows = [["bits", "draws", "samples", "before", "after", "power", "draws in which it fell"]]
    wanted = case.floating()
    for bits in reversed(WIDTHS):
        options, powers = CompileOptions(activation_bits=bits, weight_bits=bits), list[Reals]()
        for draw in draws:
            drawn = replace(case, calibration=named(draw, case.graph))
            found = (drawn.integers(options, skip) for skip in (ReparameterizeNorms.name, None))
            powers.append(np.array([lost(outputs, wanted) for outputs in found]))
            told(f"W{bits}A{bits}: {powers[-1].tolist()}")
        before, after = np.array(powers).T
        change = after.mean() / before.mean() - 1
        rest = (after - (1 + change) * before) / before.mean()
        error = np.std(rest, ddof=1) / np.sqrt(len(rest))
        cells = [f"W{bits}A{bits}", str(len(draws)), str(len(wanted))]
        cells += [f"{np.sqrt(power.mean()):.4f}" for power in (before, after)]
        falls = np.count_nonzero(after < before)
        rows.append([*cells, f"{change:+.1%} ± {error:.1%}", str(falls)])
    return rows


def residuals_table(case: Case, told: Callable[[str], None]) -> list[list[str]]:
    """A row for each width of activations and of residual sums."""
    rows = [["bits of activations", "residual sums", "samples", "error of the outputs", "top-1"]]
    wanted = case.floating()
    for bits, residuals in product(WIDTHS, ("narrow", "wide")):
        outputs = case.integers(CompileOptions(activation_bits=bits, residuals=residuals))
        error = np.sqrt(lost(outputs, wanted))
        top = accuracy_cell(case.right(outputs), case.right(wanted))
        rows.append([str(bits), residuals, str(len(wanted)), f"{error:.4f}", top])
        told(", ".join(rows[-1]))
    return rows


@click.command()
@click.argument("models", nargs=-1, type=click.Path(path_type=Path))
@click.option("--calibrate-with", default=100, show_default=True, help="Training images.")
@click.option("--samples", "count", type=int, help="To score at most; by default all test images.")
@click.option("--draws", "taken", default=10, show_default=True, help="Of training images.")
@click.option("--only", type=click.Choice(TABLES), help="One of the tables.")
@click.option(
    "--save", type=click.Path(path_type=Path), help="The samples, for `binpoint compile`."
)
@click.option("--write", "writes", is_flag=True, help="Put the tables into the page on methods.")
def main(
    models: tuple[Path, ...],
    calibrate_with: int,
    count: int | None,
    taken: int,
    only: str | None,
    save: Path | None,
    writes: bool,
) -> None:
    """Print the tables of MODELS of CIFAR-10, by default of those in the folder of real models."""
    train, test = cifar10(SHARED)
    calibration = train.part(0, calibrate_with)
    scored = test if count is None else test.spread(count)
    if save is not None:
        _save(save, calibration, scored)
    paths = models or tuple(SHARED / f"{name}.onnx" for name in MODELS)
    cases = [Case.of(path, calibration, scored) for path in paths]
    floats = [case for case in cases if not case.graph.quantized][:1]

    def told(text: str) -> None:
        click.echo(text, err=True)

    tables: dict[str, list[list[str]]] = {}
    for name in TABLES if only is None else (only,):
        match name:
            case "accuracy":
                tables[name] = accuracy_table(cases, told)
            case "norms":
                starts = range(0, taken * calibrate_with, calibrate_with)
                draws = [train.part(start, start + calibrate_with) for start in starts]
                tables[name] = [row for case in floats for row in norms_table(case, draws, told)]
            case _:
                tables[name] = [row for case in floats for row in residuals_table(case, told)]
    for name, rows in tables.items():
        print(f"\n{name}\n\n{table(rows)}", flush=True)
        if writes:
            write(PAGE, name, table(rows))


def _save(path: Path, calibration: Samples, scored: Samples) -> None:
    """Both parts one behind the other."""
    x = np.concatenate([part.arrays["x"] for part in (calibration, scored)])
    y = [part.labels for part in (calibration, scored) if part.labels is not None]
    np.savez_compressed(path, x=x, y=np.concatenate(y))


if __name__ == "__main__":
    main()
