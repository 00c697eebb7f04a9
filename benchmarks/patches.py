"""What patches save and cost: ``python -m benchmarks.patches [--instructions NAME]``.

Arena of the plain plan, and with `optimize = "ram"`, for real models at hand and for MobileNetV2.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click

from benchmarks import mobilenet_v2, tables, visual_wake_words
from benchmarks.__main__ import SHARED
from binpoint import CompileOptions, compile_model, load_target
from binpoint.frontend.load import load
from binpoint.frontend.samples import RANDOM, read_samples
from binpoint.passes.base import Context
from binpoint.passes.manager import run
from binpoint.pipelines import choose
from binpoint.plan.arrange import arrange
from binpoint.plan.patches import PatchStage
from binpoint.report.patches import patches_of
from binpoint.target import McuTarget, microcontroller

REAL = (
    "person_mobilenetv2_050_128_qdq", "ic_resnet8_qdq", "kws_dscnn_qdq", "mnist_mbv3_se_qdq",
    "mnist_unet_seg_qdq",
)  # fmt: skip
BUILT = ((96, 0.35), (144, 0.35), (160, 0.5), (224, 1.0))
"""Side of the image and width of each MobileNetV2."""
_HEAD = ("net", "plain", "patched", "factor", "more MACs", "stages", "seconds")


def nets(folder: Path) -> Iterator[Path]:
    """The files."""
    yield from (p for p in (SHARED / f"{name}.onnx" for name in REAL) if p.is_file())
    yield visual_wake_words.save(folder)
    for side, width in BUILT:
        path = folder / f"mobilenet_v2_{round(100 * width):03d}_{side}.onnx"
        path.write_bytes(mobilenet_v2.build(side, width).SerializeToString())
        yield path


def row(model: Path, target: McuTarget, extra: float) -> tuple[str, ...]:
    """The figures of one net."""
    options = CompileOptions(optimize="ram")
    graph = load(model)
    context = Context(target, options, read_samples(RANDOM, graph))
    graph = run(choose(None, target).without(PatchStage.name), graph, context)
    began = time.process_time()
    patched = PatchStage(extra).run(graph.copy(), context)
    program = arrange(patched, options, target)
    taken = time.process_time() - began
    found = patches_of(program, target, options)
    if found is None:
        size = f"{program.arena_bytes}"
        return (model.stem, size, size, "1.0", "0.0 %", "", f"{taken:.1f}")
    stages = ", ".join(f"{'x'.join(map(str, s.grid))} to {s.split}" for s in found.stages)
    return (
        model.stem,
        str(found.arena_plain_bytes),
        str(found.arena_patched_bytes),
        f"{found.arena_plain_bytes / found.arena_patched_bytes:.1f}",
        f"{100 * found.extra_macs_fraction:.1f} %",
        stages,
        f"{taken:.1f}",
    )


def instructions(model: Path, core: str) -> None:
    """Print what an inference takes, plain and with patches."""
    for optimize in ("speed", "ram"):
        options = CompileOptions(optimize=optimize)
        report = compile_model(
            model, load_target(core), options, samples=RANDOM, verify_samples=3
        ).report
        figures = (report.arena_bytes, report.flash_bytes, report.instructions, report.verdict)
        print(model.stem, optimize, *figures, flush=True)


@click.command()
@click.option("--core", default="cortex-m4", show_default=True)
@click.option("--extra", default=0.12, show_default=True, help="More MACs at most, as a fraction.")
@click.option("--instructions", "counted", multiple=True, help="Nets to emulate.")
def main(core: str, extra: float, counted: tuple[str, ...]) -> None:
    """Print a table of all nets."""
    target = microcontroller(load_target(core))
    tables.begin(_HEAD)
    with tempfile.TemporaryDirectory() as folder:
        for model in nets(Path(folder)):
            if not counted:
                tables.add(row(model, target, extra))
            elif model.stem in counted:
                instructions(model, core)


if __name__ == "__main__":
    main()
