"""What patches of mixed precision save and lose: ``python -m benchmarks.mixed_patches``.

For the nets of `benchmarks.patches` that are computed in patches: BitOPs (multiply-accumulates by
the bits of weight and activation) of the stages and of the whole net at uniform 8 bits and mixed,
accuracy of both on samples that did not calibrate, and the seconds that the choice takes; with
`--phi` and `--lambda` over the knobs of the pass `mixed-patches`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from benchmarks.patches import nets
from binpoint import CompileOptions, load_target
from binpoint.emit import mcu_c
from binpoint.frontend.load import load
from binpoint.frontend.samples import RANDOM, read_samples
from binpoint.frontend.sets import SampleSets, divide
from binpoint.ir.graph import Graph
from binpoint.passes.base import Context
from binpoint.passes.manager import run
from binpoint.pipelines import choose
from binpoint.plan.arrange import arrange
from binpoint.plan.mixed import MixedPatches
from binpoint.report.measure import score
from binpoint.report.patches import Patches, patches_of
from binpoint.sim.emitted import EmittedC
from binpoint.sim.interface import Interface
from binpoint.sim.verify import Subject
from binpoint.target import McuTarget, microcontroller

OPTIONS = CompileOptions(optimize="ram", patches="mixed")
_HEAD = (
    "net", "phi", "lambda", "bits", "omega", "mixed patches", "stages' BitOPs", "factor",
    "net's factor", "top-1 uniform", "top-1 mixed", "arena uniform", "arena mixed", "seconds",
)  # fmt: skip
_CALIBRATED = {"person_mobilenetv2_050_128_qdq": 12, "ic_resnet8_qdq": 100}
"""How many of the first samples calibrate; all others are scored. Nets with random weights have
noise for both, and no answers."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of a net in patches: what they save, and the part of right answers."""

    patches: Patches
    score: float | None


def figures(graph: Graph, model: Path, sets: SampleSets, target: McuTarget) -> Figures | None:
    """The figures of an integer graph; None where nothing is computed in patches."""
    program = arrange(graph, OPTIONS, target)
    found = patches_of(program, target, OPTIONS)
    if found is None:
        return None
    if sets.scored is None or sets.scored.labels is None:
        return Figures(found, None)
    project = mcu_c.render(program, target, OPTIONS)
    emitted = EmittedC(Interface.of(program, OPTIONS), project.files, target)
    return Figures(found, score(Subject(graph, emitted, OPTIONS, model), sets.scored).integer)


def row(uniform: Figures, mixed: Figures) -> tuple[str, ...]:
    """What comes behind the knobs in a row."""
    found = mixed.patches
    classes = [c for stage in found.stages for c in stage.classes]
    narrow = sum(c.patches for c in classes if min(c.bits) < max(c.bits))
    return (
        f"{narrow} of {sum(c.patches for c in classes)}",
        f"{found.bitops_uniform8 / 1e6:.1f} to {found.bitops_mixed / 1e6:.1f} M",
        f"{found.bitops_uniform8 / found.bitops_mixed:.2f}",
        f"{found.net_bitops_uniform8 / found.net_bitops_mixed:.2f}",
        *("" if f.score is None else f"{f.score:.4f}" for f in (uniform, mixed)),
        str(uniform.patches.arena_patched_bytes),
        str(found.arena_patched_bytes),
    )


def report(model: Path, target: McuTarget, knobs: Sequence[MixedPatches]) -> None:
    """Print the rows of a net."""
    graph = load(model)
    source = model.with_suffix(".npz")
    samples = read_samples(source if source.is_file() else RANDOM, graph)
    sets = divide(samples, _CALIBRATED.get(model.stem))
    context = Context(target, OPTIONS, sets.calibration)
    graph = run(choose(None, target).without(MixedPatches.name), graph, context)
    uniform = figures(graph, model, sets, target)
    if uniform is None:
        print(model.stem, "is not computed in patches", flush=True)
        return
    for knob in knobs:
        began = time.process_time()
        made = knob.run(graph.copy(), context)
        seconds = time.process_time() - began
        mixed = figures(made, model, sets, target)
        assert mixed is not None
        cells = (
            model.stem,
            f"{knob.phi:g}",
            f"{knob.lambda_:g}",
            "-".join(map(str, knob.bits)),
            knob.omega,
            *row(uniform, mixed),
            f"{seconds:.1f}",
        )
        print(" | ".join(cells), flush=True)


@click.command()
@click.option("--core", default="cortex-m4", show_default=True)
@click.option("--net", "chosen", multiple=True, help="Only these nets.")
@click.option("--phi", "phis", multiple=True, type=float, help="Values of phi.")
@click.option("--lambda", "lambdas", multiple=True, type=float, help="Values of lambda.")
@click.option("--bits", "widths", default="8,4", show_default=True, help="What maps may have.")
@click.option("--omega", type=click.Choice(["error", "entropy"]), default="error")
def main(
    core: str,
    chosen: Sequence[str],
    phis: Sequence[float],
    lambdas: Sequence[float],
    widths: str,
    omega: Literal["error", "entropy"],
) -> None:
    """Print a table of all nets with the defaults, or for all pairs of knobs."""
    target = microcontroller(load_target(core))
    plain = MixedPatches()
    bits = tuple(int(b) for b in widths.split(","))
    knobs = [
        MixedPatches(phi, la, bits, omega)
        for phi in phis or (plain.phi,)
        for la in lambdas or (plain.lambda_,)
    ]
    print(" | ".join(_HEAD))
    with tempfile.TemporaryDirectory() as folder:
        for model in nets(Path(folder)):
            if chosen and model.stem not in chosen:
                continue
            report(model, target, knobs)


if __name__ == "__main__":
    main()
