"""How the defaults of `mixed-patches` were chosen: ``python -m benchmarks.mixed_knobs``.

On samples that are never scored: those that choose in `benchmarks.mixed_patches`, the first half of
which chooses here, and the other tells how far what comes out is from uniform 8 bits. What a net is
to answer is not looked at. The rule:

1. for each φ, λ is the largest, in steps of 0.01, at which the stages of the nets have `FACTOR`
   times fewer BitOPs in the mean: what QuantMCU saves, and some, as other samples choose otherwise;
2. of these the φ is taken with the highest mean of the signal to noise, in dB, at the nets' ends.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np

from benchmarks import tables
from benchmarks.mixed_patches import OPTIONS, Reals, folds, uniform
from benchmarks.patches import REAL, nets
from binpoint import load_target
from binpoint.frontend.load import load
from binpoint.frontend.samples import RANDOM, read_samples
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.passes.base import Context
from binpoint.passes.convert import stored_inputs
from binpoint.passes.samples import Samples
from binpoint.plan.mixed import MixedPatches, Sought
from binpoint.quantize.stage_search import macs
from binpoint.target import microcontroller

FACTOR = 2.25
_PHIS = (0.8, 0.9, 0.96)
_LAMBDAS = tuple(n / 100 for n in range(99, 0, -1))
_COMPARED = 48
"""Samples that are compared at most."""


@dataclass(frozen=True, slots=True)
class Case:
    """A net of one division of its samples at uniform 8 bits, its stages by φ, and what compares.

    Attributes:
        exact: outputs of the graph of the samples `other`, ``[samples, outputs]``.
    """

    name: str
    graph: Graph
    context: Context
    stages: dict[float, tuple[tuple[str, Sought], ...]]
    other: Samples
    exact: Reals

    @classmethod
    def of(cls, name: str, graph: Graph, context: Context) -> Case:
        """Half of the samples choose."""
        assert context.samples is not None
        half = context.samples.count // 2
        first, other = context.samples.part(0, half), context.samples.part(half).spread(_COMPARED)
        made = uniform(graph, replace(context, samples=first))
        seen = MixedPatches().seen(made, first)
        stages = {
            phi: tuple((n.name, Sought.of(s, MixedPatches(phi), context)) for n, s in seen)
            for phi in _PHIS
        }
        return cls(name, made, context, stages, other, outputs(made, other))

    def bitops(self, phi: float, lam: float) -> tuple[float, float]:
        """Of the stages, uniform and mixed, in units of their own."""
        works = [(s, sum(macs(part) for part, *_ in s.seen.op.parts)) for _, s in self.stages[phi]]
        mixed = sum(work * (1 - stage.found(lam).saved) for stage, work in works)
        return float(sum(work for _, work in works)), mixed

    def ratio(self, phi: float, lam: float) -> float:
        """Signal to noise against uniform 8 bits, in dB."""
        made = self.graph.copy()
        for name, stage in self.stages[phi]:
            op = stage.made(stage.found(lam).bits)
            made.replace(replace(made.node(name), op=op))
        noise = np.square(outputs(made, self.other) - self.exact).sum()
        return float(10 * np.log10(np.square(self.exact).sum() / max(noise, 1e-12)))


def outputs(graph: Graph, samples: Samples) -> Reals:
    """What a graph gives, in units of its result, ``[samples, outputs]``."""
    (name,) = graph.outputs
    zero = graph.value(name).elem.zero_point
    found = [evaluate(graph, inputs)[name] - zero for inputs in stored_inputs(graph, samples)]
    return np.stack([f.reshape(-1) for f in found]).astype(np.float64)


def factor(cases: Sequence[Case], phi: float, lam: float) -> float:
    """How many times fewer BitOPs the stages have, in the mean of the nets."""
    pairs = [[case.bitops(phi, lam) for case in of_one] for of_one in by_net(cases)]
    return float(np.mean([sum(u for u, _ in p) / sum(m for _, m in p) for p in pairs]))


def by_net(cases: Sequence[Case]) -> list[list[Case]]:
    """The divisions of each net's samples."""
    names = dict.fromkeys(case.name for case in cases)
    return [[case for case in cases if case.name == name] for name in names]


def cases(model: Path, context: Context) -> list[Case]:
    """Of all divisions of a net's samples."""
    graph = load(model)
    samples = read_samples(model.with_suffix(".npz"), graph) or read_samples(RANDOM, graph)
    assert samples is not None
    sets = folds(model, samples)
    return [Case.of(model.stem, graph, replace(context, samples=s.calibration)) for s in sets]


@click.command()
@click.option("--core", default="cortex-m4", show_default=True)
def main(core: str) -> None:
    """Print λ for each φ, and what comes of both on samples that are not scored."""
    context = Context(microcontroller(load_target(core)), OPTIONS)
    with tempfile.TemporaryDirectory() as folder:
        found = [c for m in nets(Path(folder)) if m.stem in REAL for c in cases(m, context)]
    grouped = by_net(found)
    tables.begin(("phi", "lambda", "BitOPs", "SNR in dB", *(g[0].name for g in grouped)))
    for phi in _PHIS:
        lam = next((x for x in _LAMBDAS if factor(found, phi, x) >= FACTOR), _LAMBDAS[-1])
        ratios = [float(np.mean([case.ratio(phi, lam) for case in group])) for group in grouped]
        cells = (f"{phi:g}", f"{lam:g}", f"{factor(found, phi, lam):.3f}", f"{np.mean(ratios):.2f}")
        tables.add((*cells, *(f"{r:.1f}" for r in ratios)))


if __name__ == "__main__":
    main()
