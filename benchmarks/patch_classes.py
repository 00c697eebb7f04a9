"""What it costs that the device decides: ``python -m benchmarks.patch_classes [--net NAME]``.

For nets of `benchmarks.mixed_patches` with static and with dynamic classes: arena, flash, and
instructions of the whole and of stages of patches, on some of the samples that are scored; and of
the tests alone, which are emulated by themselves.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
from msgspec import structs

from benchmarks import tables
from benchmarks.mixed_patches import OPTIONS, Classes, divided, folds
from benchmarks.patches import nets
from binpoint import CompileOptions, load_target
from binpoint.emit import mcu_c
from binpoint.frontend.load import load
from binpoint.frontend.samples import RANDOM, read_samples
from binpoint.ir.graph import Graph, Node, Value
from binpoint.ops.halo import sizes
from binpoint.ops.patched import Patched
from binpoint.passes.base import Context
from binpoint.passes.convert import stored_inputs
from binpoint.passes.manager import run
from binpoint.passes.samples import Samples
from binpoint.pipelines import choose
from binpoint.plan.arrange import arrange
from binpoint.plan.mixed import MixedPatches
from binpoint.plan.pack_maps import PackMaps
from binpoint.sim.interface import Interface
from binpoint.sim.measure import Measurement, emulate
from binpoint.target import McuTarget, microcontroller

_HEAD = ("net", "classes", "arena", "flash", "instructions", "least", "most", "of stages", "tests")


def counted(
    graph: Graph, samples: Samples, target: McuTarget, options: CompileOptions
) -> tuple[int, Measurement, int]:
    """Arena, what is measured on all samples, and the instructions of the stages."""
    program = arrange(graph, options, target)
    files = mcu_c.render(program, target, options).files
    inputs = list(stored_inputs(graph, samples))
    _, found = emulate(Interface.of(program, options), files, target, inputs, run=True)
    steps = [step for step in program.steps if not step.alias]
    pairs = zip(steps, found.layers, strict=True)
    stages = sum(cost.instructions for step, cost in pairs if step.name in program.stages)
    return program.arena_bytes, found, stages


def tests_alone(graph: Graph, target: McuTarget, options: CompileOptions) -> int:
    """The instructions of all tests of an inference, each by itself, on an operand of zeros."""
    total = 0
    for node in graph.nodes():
        op = node.op
        if not isinstance(op, Patched) or op.test is None:
            continue
        made = Graph("tests")
        x = graph.value(node.inputs[0])
        _ = made.add_value(replace(x, bounds=x.interval))
        made.inputs = (x.name,)
        for index, patch in enumerate(op.patches):
            region = (*sizes(patch.operand), op.source.shape[-1])
            count = op.test.region(region, op.view.strides)
            (kind,), (bounds,) = count.infer(x), count.bounds(x)
            name = f"count_{index}"
            _ = made.add(Node(name, count, (x.name,), (name,)), [Value(name, kind, bounds=bounds)])
            made.outputs = (*made.outputs, name)
        program = arrange(made, options, target)
        files = mcu_c.render(program, target, options).files
        zeros = {x.name: x.elem.storage.dtype.type(0).repeat(x.type.size).reshape(x.shape)}
        interface = Interface.of(program, options)
        _, found = emulate(interface, files, target, [zeros], run=True)
        total += sum(cost.instructions for cost in found.layers)
    return total


def report(model: Path, target: McuTarget, count: int) -> None:
    """Print the rows of a net."""
    loaded = load(model)
    source = model.with_suffix(".npz")
    samples = read_samples(source if source.is_file() else RANDOM, loaded)
    assert samples is not None
    sets = folds(model, samples)[-1]
    assert sets.scored is not None
    context = Context(target, OPTIONS, sets.calibration)
    passes = choose(None, target).without(MixedPatches.name).without(PackMaps.name)
    uniform = divided(run(passes, loaded, context))
    kinds: tuple[Classes | None, ...] = (None, "static", "dynamic")
    for classes in kinds:
        options = structs.replace(OPTIONS, patch_classes=classes or "static")
        graph = uniform.copy()
        if classes is not None:
            graph = MixedPatches().run(graph, replace(context, options=options))
        arena, found, stages = counted(graph, sets.scored.spread(count), target, options)
        cells = (
            model.stem, classes or "8 bits", arena, found.flash_bytes, found.instructions,
            found.instructions_min, found.instructions_max, stages,
            tests_alone(graph, target, options),
        )  # fmt: skip
        tables.add(cells)


@click.command()
@click.option("--core", default="cortex-m4", show_default=True)
@click.option("--net", "chosen", multiple=True, help="Only these nets.")
@click.option("--samples", default=4, show_default=True, help="How many are emulated.")
def main(core: str, chosen: Sequence[str], samples: int) -> None:
    """Print a table of all nets."""
    target = microcontroller(load_target(core))
    tables.begin(_HEAD)
    with tempfile.TemporaryDirectory() as folder:
        for model in nets(Path(folder)):
            if not chosen or model.stem in chosen:
                report(model, target, samples)


if __name__ == "__main__":
    main()
