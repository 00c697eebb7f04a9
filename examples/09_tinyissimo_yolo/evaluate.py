"""Mean average precision of yolo.onnx in float, and of the integers that it is compiled to.

    python examples/09_tinyissimo_yolo/evaluate.py [TARGET] [--model FILE] [--picture FILE] …

compiles yolo.onnx, or another file as train_quantized.py writes them, and draws what the generated
C found in some scenes. Further words KEY=VALUE are options of the compilation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import picture
from boxes import precision
from numpy.typing import NDArray
from scenes import scenes

import binpoint
from binpoint import ort
from binpoint.driver import Result
from binpoint.ir.graph import Value
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import FixedType, IntType, TensorType
from binpoint.options import CompileOptions, read_options
from binpoint.passes.convert import stored
from binpoint.plan.detector import build
from binpoint.sim.host_c import HostBuild, run_project
from binpoint.sim.interface import Interface

FOLDER = Path(__file__).resolve().parent
TARGET = "cortex-m4"
CALIBRATION, TEST, DRAWN = 200, 500, 12
_FINE = FixedType.per_tensor(IntType(16, signed=True), Dyadic(1, -12))

Boxes = list[NDArray[np.int64]]


def samples() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Images ``[N, 3, 88, 88]`` from 0 to 1, none of which it was trained on, and their objects."""
    images, objects = scenes(3, CALIBRATION + TEST)
    return images.astype(np.float32) / np.float32(255), objects


def compiled(
    model: Path, target: str, options: CompileOptions, images: NDArray[np.float32]
) -> Result:
    """A network compiled, its ranges found on the images for calibration unless it has its own."""
    name = onnx.load_model_from_string(model.read_bytes()).graph.input[0].name
    return binpoint.compile_model(
        model,
        binpoint.load_target(target),
        options,
        samples={name: images},
        verify="all",
        verify_samples=4,
    )


def floating(options: CompileOptions, images: NDArray[Any]) -> Boxes:
    """Boxes of yolo.onnx in float, its outputs in steps of 1/4096."""
    session = ort.plain(str(FOLDER / "yolo.onnx"))
    (name,) = session.outputs
    cells = [session.run({"image": image[None]})[name] for image in images]
    value = Value(name, TensorType(cells[0].shape, _FINE))
    assert options.detections is not None
    head = build(options.detections, [name], [value], widest=16)
    return [head.detect(stored(value, one)) for one in cells]


def integer(result: Result, options: CompileOptions, images: NDArray[Any]) -> Boxes:
    """Boxes that the generated C finds, on this machine."""
    program, head = result.program, result.program.detector
    given = program.inputs[0].value
    assert head is not None
    outputs = run_project(
        Interface.of(program, options),
        result.project.files,
        [{given.name: stored(given, image)} for image in images],
        build=HostBuild(sanitize=False),
    )
    told = [np.asarray(output[head.value.name], np.int64) for output in outputs]
    return [one[1:].reshape(-1, 6)[: one[0]] for one in told]


@click.command()
@click.argument("words", nargs=-1, metavar="[TARGET] [KEY=VALUE]...")
@click.option(
    "--model", default=FOLDER / "yolo.onnx", show_default="yolo.onnx",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What is compiled.",
)  # fmt: skip
@click.option(
    "--picture", "drawing", type=click.Path(dir_okay=False, path_type=Path),
    help="A PNG file of the first scenes, with the boxes found.",
)  # fmt: skip
def main(words: tuple[str, ...], model: Path, drawing: Path | None) -> None:
    """Print both, and what the network costs."""
    target, given = (words[0], words[1:]) if words and "=" not in words[0] else (TARGET, words)
    options = read_options(FOLDER / "yolo.toml", given)
    images, objects = samples()
    result = compiled(model, target, options, images[:CALIBRATION])
    images, objects = images[CALIBRATION:], objects[CALIBRATION:]
    report, found = result.report, integer(result, options, images)
    print(f"float: {precision(floating(options, images), objects):.4f}")
    print(f"integer: {precision(found, objects):.4f}")
    print(f"flash {report.flash_bytes}, arena {report.arena_bytes}, MACs {report.macs}")
    print(f"instructions {report.instructions}, {report.verdict}, {report.detections}")
    if drawing is not None:
        picture.write(drawing, images[:DRAWN], found[:DRAWN], columns=6)


if __name__ == "__main__":
    main()
