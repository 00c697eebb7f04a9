"""Train a convolutional network of four bits on digits, and write it as QONNX.

    python -m examples.05_small_cnn_fpga.make_model FOLDER

writes ``digits.onnx`` and ``digits.npz`` (held-out images and their classes). Data: the handwritten
digits that come with scikit-learn (UCI, 1797 images of 8 by 8 pixels).
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click
import numpy as np
from sklearn.datasets import load_digits

from examples.quantized_training import Floats, Grid, Labels, Layer, Network, by_class

BITS, TEST = 4, 597


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--quick", is_flag=True, help="Less training, less accurate.")
def main(folder: Path, quick: bool) -> None:
    """Write the model and held-out images into FOLDER."""
    rng = np.random.default_rng(1)
    pixels, labels = cast("tuple[Floats, Labels]", load_digits(return_X_y=True))
    order = rng.permutation(len(labels))
    x, y = (pixels[order] / 16).astype(np.float32).reshape(-1, 1, 8, 8), labels[order]
    layers = [
        Layer(rng, 1, 8, (BITS, BITS), image=True),
        Layer(rng, 8, 16, (BITS, BITS), image=True),
        Layer(rng, 64, 10, (BITS, None)),
    ]
    network = Network("digits", (1, 8, 8), Grid(BITS, np.float32(1 / 15)), layers)
    network.train(rng, x[:-TEST], y[:-TEST], 4 if quick else 40)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "digits.onnx").write_bytes(network.to_qonnx().SerializeToString())
    np.savez_compressed(folder / "digits.npz", x=x[-TEST:], y=y[-TEST:])
    by_class([str(digit) for digit in range(10)], y[-TEST:], network.classify(x[-TEST:]))


if __name__ == "__main__":
    main()
