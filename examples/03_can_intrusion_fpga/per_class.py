"""Show how the integer network does on every class of held-out frames.

python -m examples.03_can_intrusion_fpga.per_class FOLDER
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

import binpoint
from examples.quantized_training import by_class

CLASSES = ("normal", "DoS", "fuzzing", "spoofing")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    """Evaluate the integer graph of FOLDER's model, which is what all targets compute."""
    result = binpoint.compile_model(
        folder / "can.onnx", binpoint.load_target("host"), binpoint.CompileOptions(),
        samples=folder / "can.npz", verify="none",
    )  # fmt: skip
    graph = result.graph
    with np.load(folder / "can.npz") as held_out:
        x, y = held_out["x"], held_out["y"]
    # The input's quantizer has one bit and scale 1: codes are the bits themselves.
    codes = ({graph.inputs[0]: bits[None].astype(np.int64)} for bits in x)
    scores = [binpoint.evaluate(graph, code)[graph.outputs[0]] for code in codes]
    by_class(CLASSES, y, np.array([score.argmax() for score in scores]))


if __name__ == "__main__":
    main()
