"""Train a 16-64-32-32-5 network of six bits on synthetic data, and write it as QONNX.

    python -m examples.04_jet_tagger_fpga.make_model FOLDER

writes ``tagger.onnx`` and ``tagger.npz`` (held-out samples and their classes). The network has the
size of those that tag particle jets in the triggers of detectors; the data only look alike: sixteen
correlated, skewed, standardised features of five classes that overlap.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import click
import numpy as np

from examples.quantized_training import Floats, Grid, Labels, Layer, Network, by_class

CLASSES = ("A", "B", "C", "D", "E")
WIDTHS = (16, 64, 32, 32, len(CLASSES))
HIDDEN, DATA_SEED, SEED = 6, 5, 1
BITS, REACH = 6, 4.0


def data(rng: np.random.Generator, count: int) -> tuple[Floats, Labels]:
    """Samples [N, 16] and their classes: a few hidden numbers, bent and mixed."""
    fixed = np.random.default_rng(DATA_SEED)
    centres = fixed.normal(0, 1.2, (len(CLASSES), HIDDEN))
    spreads = fixed.uniform(0.6, 1.4, (len(CLASSES), HIDDEN))
    mix, bend = fixed.normal(0, 0.5, (HIDDEN, WIDTHS[0])), fixed.uniform(0, 0.5, WIDTHS[0])
    y = rng.integers(0, len(CLASSES), count)
    hidden = centres[y] + spreads[y] * rng.normal(0, 1, (count, HIDDEN))
    mixed = hidden @ mix + rng.normal(0, 0.4, (count, WIDTHS[0]))
    x = np.where(mixed > 0, mixed + bend * mixed**2, mixed)
    return ((x - x.mean(0)) / x.std(0)).astype(np.float32), y


def split(
    rng: np.random.Generator | None = None, *, quick: bool = False
) -> tuple[Floats, Labels, Floats, Labels]:
    """Samples and classes that are learned from, then those held out."""
    count = 4000 if quick else 20000
    x, y = data(rng or np.random.default_rng(SEED), count + count // 4)
    return x[:count], y[:count], x[count:], y[count:]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--quick", is_flag=True, help="Less training, less accurate.")
def main(folder: Path, quick: bool) -> None:
    """Write the model and held-out samples into FOLDER."""
    rng = np.random.default_rng(SEED)
    x, y, held_out, classes = split(rng, quick=quick)
    last = len(WIDTHS) - 2
    layers = [
        Layer(rng, inputs, outputs, (BITS, BITS if index < last else None))
        for index, (inputs, outputs) in enumerate(itertools.pairwise(WIDTHS))
    ]
    scale = np.float32(REACH / (1 << (BITS - 1)))
    network = Network("tagger", WIDTHS[:1], Grid(BITS, scale, signed=True), layers)
    network.train(rng, x, y, 4 if quick else 20)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tagger.onnx").write_bytes(network.to_qonnx().SerializeToString())
    np.savez_compressed(folder / "tagger.npz", x=held_out, y=classes)
    by_class(CLASSES, classes, network.classify(held_out))


if __name__ == "__main__":
    main()
