"""What patches of mixed precision save and lose: ``python -m benchmarks.mixed_patches``.

For the nets of `benchmarks.patches` that are computed in patches: BitOPs (multiply-accumulates by
the bits of weight and activation) of the stages and of the whole net at uniform 8 bits and mixed,
and of both on samples that chose nothing, not even the defaults (`benchmarks.mixed_knobs`):
accuracy, how often the answer is the float model's, and signal to noise against it. Of nets with
random weights both are against the model's own file. Nets of which patches save no memory are
divided all the same, in 2 x 2. With `--phi` and `--lambda` over the knobs of the pass.
With `--classes dynamic` the device decides which patches have fewer bits: their shares, and BitOPs,
are then the mean of the samples that are scored, and the least and the largest share in one sample
is printed too.
"""

from __future__ import annotations

import itertools
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from benchmarks import tables
from benchmarks.__main__ import SHARED
from benchmarks.patches import nets
from binpoint import CompileOptions, load_target
from binpoint.emit import mcu_c
from binpoint.frontend.load import load
from binpoint.frontend.samples import RANDOM, read_samples
from binpoint.frontend.sets import SampleSets
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph, Node
from binpoint.ir.op import IntArray
from binpoint.ops.halo import slices, spatial
from binpoint.ops.patched import Patched
from binpoint.passes.base import Context
from binpoint.passes.convert import real, stored_inputs
from binpoint.passes.manager import run
from binpoint.passes.samples import Samples
from binpoint.pipelines import choose
from binpoint.plan.arrange import arrange
from binpoint.plan.mixed import MixedPatches
from binpoint.plan.pack_maps import PackMaps
from binpoint.plan.stages import body_of, joined, put, spans
from binpoint.report.measure import all_outputs
from binpoint.report.patches import Patches, patches_of
from binpoint.sim.emitted import EmittedC
from binpoint.sim.interface import Interface
from binpoint.sim.source import run_source
from binpoint.sim.verify import Subject
from binpoint.target import McuTarget, microcontroller

OPTIONS = CompileOptions(optimize="ram", patches="mixed")
Classes = Literal["static", "dynamic"]
_HEAD = (
    "net", "classes", "phi", "lambda", "bits", "omega", "narrow patches", "stages' BitOPs", "net's",
    "top-1", "mixed", "agreement", "mixed", "SNR in dB", "mixed", "arena", "mixed", "seconds",
)  # fmt: skip
_CHOOSING = 256
Reals = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Figures:
    """Of a net in patches: what they save, and its outputs ``[samples, classes]``."""

    patches: Patches
    outputs: Reals


def folds(model: Path, samples: Samples) -> tuple[SampleSets, ...]:
    """What chooses and what is scored: training images and all samples, where they are at hand.

    Else the first samples and the others; of few, each half is scored with what the other chose.
    """
    other = _trained_on(model.stem, samples)
    if other is not None:
        return (SampleSets(other, _scored(model.stem, samples), shared=False),)
    half = min(samples.count // 2, _CHOOSING // 2)
    first, second = samples.part(0, half), samples.part(half)
    if samples.random or samples.count > _CHOOSING:
        return (SampleSets(first, second, shared=False),)
    return (SampleSets(second, first, shared=False), SampleSets(first, second, shared=False))


def _trained_on(name: str, samples: Samples) -> Samples | None:
    """Training images as the net takes them."""
    read = _IMAGES.get(name)
    if read is None:
        return None
    (key,) = samples.arrays
    return Samples({key: read("train")[:_CHOOSING]})


def _scored(name: str, samples: Samples) -> Samples:
    """All test images of the digits there are, of which the net's own samples are the first."""
    if name != "mnist_mbv3_se_qdq":
        return samples
    (key,) = samples.arrays
    return Samples({key: _digits("test")}, np.load(SHARED / "data_mnist.npz")["y_test"])


def _photos(part: str) -> Reals:
    return np.load(SHARED / "data_cifar10.npz")[f"x_{part}"].astype(np.float32)


def _plain_digits(part: str) -> Reals:
    """``[N, 1, 28, 28]`` from 0 to 1."""
    return np.load(SHARED / "data_mnist.npz")[f"x_{part}"][:, None].astype(np.float32) / 255


def _digits(part: str) -> Reals:
    return ((_plain_digits(part) - 0.1307) / 0.3081).astype(np.float32)


def _noisy_digits(part: str) -> Reals:
    plain = _plain_digits(part)[:_CHOOSING]
    noise = np.random.default_rng(0).normal(0, 0.35, plain.shape)
    return np.clip(plain + noise, 0, 1).astype(np.float32)


_IMAGES: Mapping[str, Callable[[str], Reals]] = {
    "ic_resnet8_qdq": _photos,
    "mnist_mbv3_se_qdq": _digits,
    "mnist_unet_seg_qdq": _noisy_digits,
}
"""Images of nets whose training images are at hand, prepared as these take them."""


def wanted(model: Path, samples: Samples) -> Reals:
    """The outputs of the float model, or of the file where there is none."""
    names = (model.name.replace("_qdq", end) for end in ("_float", ""))
    path = next((p for p in map(model.with_name, names) if p.is_file()), model)
    graph = load(path)
    (name,) = graph.output_names
    return np.stack([out[name].reshape(-1) for out in run_source(path, graph, samples)])


def divided(graph: Graph) -> Graph:
    """The graph with all that can be computed in patches in 2 x 2 of them, if it has none."""
    if any(isinstance(node.op, Patched) for node in graph.nodes()):
        return graph
    for run_of_spans in spans(graph):
        span = joined(run_of_spans)
        extents = tuple(-(-n // 2) for n in spatial(graph.value(span.end)))
        _ = put(graph, span, (body_of(graph, span),), extents)
    return graph


def uniform(graph: Graph, context: Context) -> Graph:
    """A graph in patches of 8 bits."""
    passes = choose(None, context.target).without(MixedPatches.name).without(PackMaps.name)
    return divided(run(passes, graph.copy(), context))


def figures(graph: Graph, model: Path, sets: SampleSets, target: McuTarget) -> Figures | None:
    """The figures of an integer graph; None where nothing is computed in patches."""
    program = arrange(graph, OPTIONS, target)
    found = patches_of(program, target, OPTIONS)
    if found is None:
        return None
    assert sets.scored is not None
    project = mcu_c.render(program, target, OPTIONS)
    emitted = EmittedC(Interface.of(program, OPTIONS), project.files, target)
    rows = all_outputs(Subject(graph, emitted, OPTIONS, model), sets.scored)
    (name,) = graph.outputs
    return Figures(found, np.stack([real(graph.value(name), r[name]).reshape(-1) for r in rows]))


def fidelity(found: Reals, exact: Reals, labels: NDArray[Any] | None) -> tuple[str, str, str]:
    """Accuracy where there are labels, agreement with the exact answers, and SNR in dB."""
    flat = None if labels is None else labels.reshape(len(labels), -1)
    if flat is not None and flat.shape == found.shape:
        answers, others = found > 0.5, exact > 0.5
        right = f"{np.mean(answers == (flat > 0.5)):.4f}"
    else:
        answers, others = found.argmax(axis=1), exact.argmax(axis=1)
        right = "" if flat is None else f"{np.mean(answers == flat[:, 0]):.4f}"
    noise = float(np.square(found - exact).sum())
    ratio = 10 * np.log10(float(np.square(exact).sum()) / noise) if noise else np.inf
    return right, f"{np.mean(answers == others):.4f}", f"{ratio:.1f}"


def narrow(found: Patches) -> str:
    """How many patches have maps of fewer bits, in the mean where the device decides."""
    total, few = 0, 0.0
    for stage in found.stages:
        count = math.prod(stage.grid)
        total += count
        few += sum(c.share * count for c in stage.classes if min(c.bits) < max(c.bits))
    return f"{few:.4g} of {total}"


def seen(graph: Graph, samples: Samples) -> Graph:
    """The graph with the shares of classes as they are on these samples."""
    made = graph.copy()
    tested = [n for n in graph.nodes() if isinstance(n.op, Patched) and n.op.test is not None]
    if not tested:
        return made
    bodies: dict[str, list[list[int]]] = {node.name: [] for node in tested}
    needed = graph.copy()
    for node in reversed(needed.nodes()):
        if node.name == tested[-1].name:
            break
        needed.remove(node.name)
    for inputs in stored_inputs(graph, samples):
        values = evaluate(needed, inputs)
        for node in tested:
            bodies[node.name].append(tests(node, values[node.inputs[0]]))
    for node in tested:
        assert isinstance(node.op, Patched)
        assert node.op.test is not None
        rows = np.array(bodies[node.name])
        each = rows.mean(axis=1)
        print(
            f"# {node.name}: narrow patches {each.mean():.3f} in the mean,"
            f" {each.min():.3f} to {each.max():.3f} of a sample"
        )
        shares = tuple(1 - Fraction(int(n), len(rows)) for n in rows.sum(axis=0))
        test = replace(node.op.test, samples=len(rows), shares=shares)
        made.replace(replace(node, op=replace(node.op, test=test)))
    return made


def tests(node: Node, x: IntArray) -> list[int]:
    """The body of each patch of a stage that reads this."""
    op = node.op
    assert isinstance(op, Patched)
    assert op.test is not None
    whole = x.reshape(-1)[op.view.indices(op.source.shape[1:])][None]
    return [op.test.body(whole[slices(patch.operand)]) for patch in op.patches]


@dataclass(frozen=True, slots=True)
class Fold:
    """A net at uniform 8 bits, on one division of its samples."""

    model: Path
    sets: SampleSets
    target: McuTarget
    context: Context
    graph: Graph
    uniform: Figures
    exact: Reals

    @classmethod
    def of(cls, model: Path, graph: Graph, sets: SampleSets, target: McuTarget) -> Fold | None:
        """None where nothing is computed in patches."""
        context = Context(target, OPTIONS, sets.calibration)
        made = uniform(graph, context)
        found = figures(made, model, sets, target)
        if found is None:
            return None
        assert sets.scored is not None
        return cls(model, sets, target, context, made, found, wanted(model, sets.scored))

    def mixed(self, knob: MixedPatches, classes: Classes) -> tuple[Figures, float]:
        """The figures with fewer bits, and the seconds of processor time that the choice takes."""
        options = structs.replace(OPTIONS, patch_classes=classes)
        context = replace(self.context, options=options)
        began = time.process_time()
        made = knob.run(self.graph.copy(), context)
        seconds = time.process_time() - began
        made = PackMaps().run(made, context)
        assert self.sets.scored is not None
        made = seen(made, self.sets.scored)
        found = figures(made, self.model, self.sets, self.target)
        assert found is not None
        return found, seconds


def row(parts: Sequence[Fold], knob: MixedPatches, classes: Classes) -> tuple[str, ...]:
    """The cells of a net, of all its folds together."""
    found = [part.mixed(knob, classes) for part in parts]
    patches = [f.patches for f, _ in found]
    uniform = [part.uniform.patches for part in parts]
    scored = [part.sets.scored for part in parts]
    given = [s.labels for s in scored if s is not None and s.labels is not None]
    labels = np.concatenate(given) if given else None
    exact = np.concatenate([part.exact for part in parts])
    plain = fidelity(np.concatenate([p.uniform.outputs for p in parts]), exact, labels)
    ours = fidelity(np.concatenate([f.outputs for f, _ in found]), exact, labels)
    pairs = [cell for pair in zip(plain, ours, strict=True) for cell in pair]
    stages = sum(p.bitops_uniform8 for p in patches) / sum(p.bitops_mixed for p in patches)
    net = sum(p.net_bitops_uniform8 for p in patches) / sum(p.net_bitops_mixed for p in patches)
    return (
        parts[0].model.stem,
        classes,
        f"{knob.phi:g}",
        f"{knob.lambda_:g}",
        "-".join(map(str, knob.bits)) + ", " + "-".join(map(str, knob.weights)),
        knob.omega,
        ", ".join(narrow(p) for p in patches),
        f"{stages:.2f}",
        f"{net:.2f}",
        *pairs,
        ", ".join(str(p.arena_patched_bytes) for p in uniform[:1]),
        ", ".join(str(p.arena_patched_bytes) for p in patches),
        f"{max(seconds for _, seconds in found):.1f}",
    )


def report(
    model: Path, target: McuTarget, knobs: Sequence[MixedPatches], kinds: Sequence[Classes]
) -> None:
    """Print the rows of a net."""
    graph = load(model)
    source = model.with_suffix(".npz")
    samples = read_samples(source if source.is_file() else RANDOM, graph)
    assert samples is not None
    parts = [Fold.of(model, graph, sets, target) for sets in folds(model, samples)]
    found = [part for part in parts if part is not None]
    if not found:
        print(model.stem, "is not computed in patches", flush=True)
        return
    for knob, classes in itertools.product(knobs, kinds):
        tables.add(row(found, knob, classes))


@click.command()
@click.option("--core", default="cortex-m4", show_default=True)
@click.option("--net", "chosen", multiple=True, help="Only these nets.")
@click.option("--phi", "phis", multiple=True, type=float, help="Values of phi.")
@click.option("--lambda", "lambdas", multiple=True, type=float, help="Values of lambda.")
@click.option("--bits", "widths", default="8,6,5,4,3", show_default=True, help="Of maps.")
@click.option("--weights", default="8,6,5,4,3", show_default=True, help="Bits of weights.")
@click.option("--omega", type=click.Choice(["error", "entropy"]), default="error")
@click.option(
    "--classes", "kinds", multiple=True, type=click.Choice(["static", "dynamic"]),
    default=["static"], show_default=True, help="Of patches.",
)  # fmt: skip
def main(  # noqa: PLR0913 (one for each option of the command)
    core: str,
    chosen: Sequence[str],
    phis: Sequence[float],
    lambdas: Sequence[float],
    widths: str,
    weights: str,
    omega: Literal["error", "entropy"],
    kinds: Sequence[Classes],
) -> None:
    """Print a table of all nets with the defaults, or for all pairs of knobs."""
    target = microcontroller(load_target(core))
    plain = MixedPatches()
    bits, others = (tuple(int(b) for b in text.split(",")) for text in (widths, weights))
    knobs = [
        MixedPatches(phi, la, bits, others, omega)
        for phi in phis or (plain.phi,)
        for la in lambdas or (plain.lambda_,)
    ]
    tables.begin(_HEAD)
    with tempfile.TemporaryDirectory() as folder:
        for model in nets(Path(folder)):
            if chosen and model.stem not in chosen:
                continue
            report(model, target, knobs, kinds)


if __name__ == "__main__":
    main()
