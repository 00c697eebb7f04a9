# pyright: basic, reportMissingImports=false
"""Images or rows with their classes, for training and for testing."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

MADE = {"can": "examples.03_can_intrusion_fpga", "tagger": "examples.04_jet_tagger_fpga"}
"""Data that other examples make, by their name here."""
DIGITS = Path(__file__).resolve().parent.parent / "02_digits_mcu" / "digits.npz"
TESTED = 5
SHIFT = 2


@dataclass(frozen=True, slots=True)
class Data:
    """Samples [N, C, H, W] or [N, F] as float32, classes [N]."""

    name: str
    x: Any
    y: Any
    test_x: Any
    test_y: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return tuple(self.x.shape[1:])

    @property
    def classes(self) -> int:
        """How many there are."""
        return int(self.y.max()) + 1

    @property
    def signed(self) -> bool:
        """Whether samples are below zero."""
        return bool(self.x.min() < 0)

    @property
    def input_bits(self) -> int:
        """Of the quantizer of samples: one where they are bits themselves."""
        return 1 if bool(((self.x == 0) | (self.x == 1)).all()) else 8

    def augment(self, batch: Any, generator: Any) -> Any:
        """Large images moved by up to two pixels, coloured ones mirrored."""
        if len(self.shape) < 3 or self.shape[1] < 16:
            return batch
        if self.shape[0] == 3:
            mirrored = torch.rand(len(batch), generator=generator) < 0.5
            batch = torch.where(mirrored[:, None, None, None], batch.flip(3), batch)
        padded = torch.nn.functional.pad(batch, (SHIFT,) * 4)
        top, left = torch.randint(0, 2 * SHIFT + 1, (2,), generator=generator).tolist()
        rows, columns = self.shape[1:]
        return padded[:, :, top : top + rows, left : left + columns]


def read(name: str, *, quick: bool = False) -> Data:
    """`digits`, the 8 by 8 images of example 02; `can` or `tagger` of 03 or 04; or a file.

    What is made is less where it is to be quick. A file has `x_train`, `y_train`, `x_test` and
    `y_test`, or `x` and `y`, of which every fifth is for testing. Bytes are divided by 256; images
    without channels get one, channels come first.
    """
    if name in MADE:
        made = import_module(f"{MADE[name]}.make_model").split(quick=quick)
        return _data(name, *made)
    path = DIGITS if name == "digits" else Path(name)
    if not path.is_file():
        raise click.ClickException(f"{path}: no such file")
    with np.load(path) as arrays:
        if "x_train" in arrays:
            found = [arrays[key] for key in ("x_train", "y_train", "x_test", "y_test")]
        elif {"x", "y"} <= set(arrays):
            x, y = arrays["x"], arrays["y"]
            tested = np.arange(len(x)) % TESTED == TESTED - 1
            found = [x[~tested], y[~tested], x[tested], y[tested]]
        else:
            raise click.ClickException(f"{path}: neither x_train and so on, nor x and y")
    return _data(path.stem, *found)


def _data(name: str, x: Any, y: Any, test_x: Any, test_y: Any) -> Data:
    learned, tested = (torch.from_numpy(a.astype(np.int64)) for a in (y, test_y))
    return Data(name, _samples(x), learned, _samples(test_x), tested)


def _samples(array: Any) -> Any:
    scale = 256.0 if array.dtype == np.uint8 else 1.0
    x = array.astype(np.float32) / np.float32(scale)
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[-1] in (1, 3) and x.shape[1] not in (1, 3):
        x = np.moveaxis(x, -1, 1)
    return torch.from_numpy(np.ascontiguousarray(x))
