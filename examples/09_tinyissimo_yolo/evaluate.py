"""Mean average precision of yolo.onnx in float, and of the integers that it is compiled to.

python examples/09_tinyissimo_yolo/evaluate.py [TARGET] [KEY=VALUE …]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from boxes import Scale, detect, precision
from numpy.typing import NDArray
from scenes import scenes

import binpoint
from binpoint.driver import Result
from binpoint.ir.evaluate import evaluate
from binpoint.options import read_options

FOLDER = Path(__file__).resolve().parent
CALIBRATION, TEST = 200, 500
_FINE = 1 / 1024


def samples() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Images ``[N, 3, 88, 88]`` from 0 to 1, none of which it was trained on, and their objects."""
    images, objects = scenes(3, CALIBRATION + TEST)
    return images.astype(np.float32) / 255, objects


def compiled(target: str, words: list[str], images: NDArray[np.float32]) -> Result:
    """The network compiled, its ranges found on the images for calibration."""
    return binpoint.compile_model(
        FOLDER / "yolo.onnx",
        binpoint.load_target(target),
        read_options(assignments=words),
        samples={"image": images},
        verify="all",
        verify_samples=4,
    )


def scale_of(result: Result) -> Scale:
    """What the codes of the compiled network's output mean."""
    kind = result.graph.value(result.graph.outputs[0]).elem
    return Scale.of(float(kind.scales[0]), kind.zero_points[0])


def floating(images: NDArray[Any]) -> list[NDArray[np.int64]]:
    """Boxes of the float network, its outputs in steps of 1/1024."""
    session = onnxruntime.InferenceSession(FOLDER / "yolo.onnx")
    rows = (np.asarray(session.run(None, {"image": x[None]})[0]) for x in images)
    return [detect(np.rint(row[0] / _FINE).astype(np.int64), Scale.of(_FINE, 0)) for row in rows]


def integer(result: Result, images: NDArray[Any]) -> list[NDArray[np.int64]]:
    """Boxes of the integers."""
    graph = result.graph
    given = graph.value(graph.inputs[0])
    found: list[NDArray[np.int64]] = []
    for image in images:
        laid = image.transpose(1, 2, 0) if given.shape[-1] == image.shape[0] else image
        codes = given.elem.quantize(laid.reshape(given.shape))
        outputs = evaluate(graph, {given.name: codes})
        found.append(detect(outputs[graph.outputs[0]].reshape(-1), scale_of(result)))
    return found


def main() -> None:
    """Print both, and what the network costs."""
    target, words = (sys.argv[1:2] or ["cortex-m4"])[0], sys.argv[2:]
    images, objects = samples()
    result = compiled(target, words, images[:CALIBRATION])
    images, objects = images[CALIBRATION:], objects[CALIBRATION:]
    report = result.report
    print(f"float: {precision(floating(images), objects):.4f}")
    print(f"integer: {precision(integer(result, images), objects):.4f}")
    print(f"flash {report.flash_bytes}, arena {report.arena_bytes}, MACs {report.macs}")
    print(f"instructions {report.instructions}, {report.verdict}", scale_of(result))


if __name__ == "__main__":
    main()
