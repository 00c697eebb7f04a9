"""Accuracy of vision transformers by method and width: ``python -m benchmarks.transformers``.

Three tables: accuracy of the integers, as the interpreter gives them, with every method and with
activations of eight and six bits; the error of the outputs with and without the pass
`reparameterize-norms`, activations and weights rounded to as many bits; and accuracy and error of
the integers by the width of residual sums. Those are as wide as other activations in the first two.
With ``--write`` they become those of the page on methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.__main__ import SHARED
from benchmarks.methods import PAGE, table, write
from binpoint import CompileOptions, load_target
from binpoint.frontend.load import load
from binpoint.frontend.samples import read_samples
from binpoint.ir.graph import Graph
from binpoint.ir.op import IntArray, IntegerOp
from binpoint.ops.dense import Dense
from binpoint.ops.layernorm import LayerNorm
from binpoint.ops.methods import Method
from binpoint.passes.base import Context
from binpoint.passes.convert import real, stored_inputs
from binpoint.passes.manager import run
from binpoint.passes.samples import Samples
from binpoint.pipelines import mcu
from binpoint.quantize.assign_types import AssignTypes
from binpoint.quantize.reparameterize import ReparameterizeNorms
from binpoint.quantize.simulate import Simulation
from binpoint.sim.source import run_source

MODELS = ("vit_cifar10_float", "vit_cifar10_qdq", "vit_cifar10_qdq_matmul")
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
}
Reals = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Case:
    """A model of classes, samples that find its ranges, and labelled others."""

    model: Path
    graph: Graph
    calibration: Samples
    scored: Samples

    @classmethod
    def of(cls, model: Path, calibrate_with: int, count: int) -> Case:
        """The first samples of the file beside the model, and the `count` behind them."""
        graph = load(model)
        samples = read_samples(model.with_suffix(".npz"), graph)
        if samples is None or samples.labels is None or samples.count <= calibrate_with:
            raise click.ClickException(f"{model.name} has no {calibrate_with} samples and more")
        stop = calibrate_with + count
        return cls(
            model, graph, samples.part(0, calibrate_with), samples.part(calibrate_with, stop)
        )

    def context(self, options: CompileOptions) -> Context:
        """Of a compilation with these options."""
        return Context(load_target("host"), options, self.calibration)

    def share(self, outputs: Sequence[NDArray[np.floating]]) -> str:
        """The part of the scored samples whose class is right."""
        assert self.scored.labels is not None
        found = np.array([o.reshape(-1).argmax() for o in outputs])
        return f"{np.mean(found == self.scored.labels.reshape(-1)):.1%}"

    def floating(self) -> str:
        """The score of the file in onnxruntime."""
        runs = run_source(self.model, self.graph, self.scored)
        return self.share([outputs[self.graph.output_names[0]] for outputs in runs])

    def integers(self, options: CompileOptions) -> str:
        """The score of the integer graph."""
        return self.share(self.outputs(options))

    def outputs(self, options: CompileOptions) -> list[NDArray[np.floating]]:
        """What the integer graph gives, as real numbers."""
        graph = run(mcu().until("to-integers"), self.graph, self.context(options))
        y = graph.value(graph.outputs[0])
        return [real(y, codes) for codes in _evaluated(graph, self.scored)]


def _evaluated(graph: Graph, samples: Samples) -> Iterator[IntArray]:
    """The first output's codes of an integer graph, whose nodes are put in order once."""
    nodes = graph.nodes()
    constants: dict[str, IntArray] = {
        v.name: v.constant.array.astype(np.int64) for v in graph.values() if v.constant is not None
    }
    for codes in stored_inputs(graph, samples):
        arrays = constants | {name: array.astype(np.int64) for name, array in codes.items()}
        for node in nodes:
            assert isinstance(node.op, IntegerOp)
            results = node.op.reference(*(arrays[name] for name in node.inputs))
            arrays.update(zip(node.outputs, results, strict=True))
        yield arrays[graph.outputs[0]]


def accuracy_table(cases: Sequence[Case], told: Callable[[str], None]) -> list[list[str]]:
    """A row for each model and width: accuracy in onnxruntime, then by every method."""
    rows = [["model", "bits of activations", "samples", "onnxruntime", *METHODS]]
    for case in cases:
        for bits in WIDTHS[:1] if case.graph.quantized else WIDTHS:
            width = "stated" if case.graph.quantized else str(bits)
            cells = [case.model.stem, width, str(case.scored.count), case.floating()]
            for name, methods in METHODS.items():
                options = CompileOptions(
                    activation_bits=bits, methods=dict(methods), residuals="narrow"
                )
                cells.append(case.integers(options))
                told(f"{case.model.stem}, {width}: {name} {cells[-1]}")
            rows.append(cells)
    return rows


# ---- reparameterization


def varied(samples: Samples) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Images ``[N, C, H, W]`` as they are, mirrored, and moved by two pixels either way."""
    for inputs in samples.inputs():
        ((name, image),) = inputs.items()
        for other in (image, image[..., ::-1], np.roll(image, 2, -1), np.roll(image, 2, -2)):
            yield {name: np.ascontiguousarray(other)}


def outputs_of(graph: Graph, samples: Samples, *, rounded: bool) -> Reals:
    """Outputs ``[N, …]`` of a float or typed graph."""
    simulation, (name, *_) = Simulation(graph, rounded=rounded), graph.outputs
    runs = (simulation.outputs(x, frozenset({name}))[name] for x in varied(samples))
    return np.stack([y.reshape(-1) for y in runs]).astype(np.float64)


def norms_only(typed: Graph, exact: Graph) -> Graph:
    """The typed graph with types on results of layer norms and weights behind them alone.

    Args:
        typed: what `assign-types` makes of `exact`.
        exact: the float graph.
    """
    graph = exact.copy()
    for node in exact.nodes():
        if isinstance(node.op, LayerNorm):
            (result,) = graph.results(node)
            graph.set_value(replace(result, fixed=typed.value(result.name).fixed))
            continue
        above = graph.producer(node.inputs[0]) if node.inputs else None
        if isinstance(node.op, Dense) and above is not None and isinstance(above.op, LayerNorm):
            twin = typed.node(node.name)
            weights = typed.value(twin.inputs[1])
            if not graph.has_value(weights.name):
                graph.add_value(weights)
            names = (node.inputs[0], weights.name, *node.inputs[2:])
            graph.replace(replace(node, inputs=names))
    return graph


def errors_of(case: Case, bits: int) -> list[str]:
    """Cells: errors of norms and products alone, then of all: before, after, and the change."""
    options = CompileOptions(activation_bits=bits, weight_bits=bits, residuals="narrow")
    context = case.context(options)
    pipeline = mcu().until(ReparameterizeNorms.name)
    graphs = [
        run(pipeline.without(ReparameterizeNorms.name), case.graph, context),
        run(pipeline, case.graph, context),
    ]
    wanted = outputs_of(graphs[0], case.scored, rounded=False)
    power = np.square(wanted).sum()
    alone: list[Reals] = []
    whole: list[Reals] = []
    for exact in graphs:
        typed = AssignTypes().run(exact.copy(), context)
        for found, graph in ((alone, norms_only(typed, exact)), (whole, typed)):
            errors = outputs_of(graph, case.scored, rounded=True) - wanted
            found.append(np.square(errors).sum(axis=1))
    cells = [f"W{bits}A{bits}", str(len(wanted))]
    for before, after in (alone, whole):
        cells += [f"{np.sqrt(e.sum() / power):.4f}" for e in (before, after)]
        spread = np.std(after - before) * np.sqrt(len(wanted)) / before.sum()
        cells.append(f"{after.sum() / before.sum() - 1:+.1%} ± {spread:.1%}")
    return cells


def error_table(case: Case) -> list[list[str]]:
    """A row for each width."""
    heads = ["bits", "images"]
    for what in ("norms and products behind them", "all"):
        heads += [f"{what}: before", "after", "power"]
    return [heads, *(errors_of(case, bits) for bits in WIDTHS)]


# ---- residual sums


def residuals_table(case: Case, told: Callable[[str], None]) -> list[list[str]]:
    """A row for each width of activations and of residual sums."""
    rows = [["bits of activations", "residual sums", "samples", "error of the outputs", "top-1"]]
    runs = run_source(case.model, case.graph, case.scored)
    wanted = np.stack([outputs[case.graph.output_names[0]].reshape(-1) for outputs in runs])
    for bits, residuals in product(WIDTHS, ("narrow", "wide")):
        options = CompileOptions(activation_bits=bits, residuals=residuals)
        outputs = case.outputs(options)
        errors = np.stack([o.reshape(-1) for o in outputs]) - wanted
        error = np.sqrt(np.square(errors).sum() / np.square(wanted).sum())
        cells = [str(bits), residuals, str(len(wanted)), f"{error:.4f}", case.share(outputs)]
        told(", ".join(cells))
        rows.append(cells)
    return rows


@click.command()
@click.argument("models", nargs=-1, type=click.Path(path_type=Path))
@click.option("--calibrate-with", default=100, show_default=True)
@click.option("--samples", "count", default=300, show_default=True, help="To score at most.")
@click.option("--only", type=click.Choice(TABLES), help="One of the tables.")
@click.option("--write", "writes", is_flag=True, help="Put the tables into the page on methods.")
def main(
    models: tuple[Path, ...], calibrate_with: int, count: int, only: str | None, writes: bool
) -> None:
    """Print the tables of MODELS, by default of those in the folder of real models."""
    paths = models or tuple(SHARED / f"{name}.onnx" for name in MODELS)
    cases = [Case.of(path, calibrate_with, count) for path in paths]
    floats = [case for case in cases if not case.graph.quantized][:1]

    def told(text: str) -> None:
        click.echo(text, err=True)

    tables: dict[str, list[list[str]]] = {}
    for name in TABLES if only is None else (only,):
        match name:
            case "accuracy":
                tables[name] = accuracy_table(cases, told)
            case "norms":
                tables[name] = [row for case in floats for row in error_table(case)]
            case _:
                tables[name] = [row for case in floats for row in residuals_table(case, told)]
    for name, rows in tables.items():
        print(f"\n{name}\n\n{table(rows)}", flush=True)
        if writes:
            write(PAGE, name, table(rows))


if __name__ == "__main__":
    main()
