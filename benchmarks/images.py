"""CIFAR-10 as its vision transformers take it: training images, and others to score on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from binpoint.passes.samples import Samples

_MEAN, _DEVIATION = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
_BLOCK = 4
_SAME = 6.0
"""Root mean square of the difference of two thumbnails, in codes of 8 bits: an image with and
without JPEG is less than that apart, and but for two pairs others are more than 7."""

Pixels = NDArray[np.uint8]


def cifar10(folder: Path) -> tuple[Samples, Samples]:
    """Training images, and test images that are all different, in the order of the files.

    Args:
        folder: of `data_cifar10.npz`, whose images are lossless but for some of the test images,
            and of `data_cifar10_jpeg.npz`, which has some of these again. Training images are
            those of the former.

    The first 600 test images are those of the models' own samples.
    """
    with np.load(folder / "data_cifar10.npz") as arrays:
        train = arrays["x_train"], arrays["y_train"]
        tests = [(arrays[f"x_{key}"], arrays[f"y_{key}"]) for key in ("test", "test_jpeg")]
    with np.load(folder / "data_cifar10_jpeg.npz") as arrays:
        tests.append((arrays["x_test"], arrays["y_test"]))
    pixels, labels = (np.concatenate(parts) for parts in zip(*tests, strict=True))
    different = ~repeated(pixels)
    return _samples(*train), _samples(pixels[different], labels[different])


def _samples(pixels: Pixels, labels: NDArray[np.integer]) -> Samples:
    """As the models were trained, channels first."""
    reals = (pixels / 255 - _MEAN) / _DEVIATION
    inputs = np.moveaxis(reals, -1, 1).astype(np.float32)
    return Samples({"x": inputs}, labels.reshape(-1).astype(np.int64), source="CIFAR-10")


def repeated(pixels: Pixels) -> NDArray[np.bool_]:
    """Which of the images ``[N, H, W, C]`` stand further in front already, if not to the bit."""
    count, height, width, channels = pixels.shape
    blocks = (count, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK, channels)
    small = pixels.reshape(blocks).mean(axis=(2, 4), dtype=np.float32).reshape(count, -1)
    power = np.square(small).mean(axis=1)
    found = np.zeros(count, np.bool_)
    for index in range(1, count):
        apart = power[:index] + power[index] - small[:index] @ small[index] * (2 / small.shape[1])
        found[index] = apart.min() < _SAME**2
    return found
