# pyright: basic, reportMissingImports=false
"""The networks of this example: perceptrons, and a small residual network."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import nn

HIDDEN = (64, 32)
TAGGER = import_module("examples.04_jet_tagger_fpga.make_model").WIDTHS[1:-1]
CAN = import_module("examples.03_can_intrusion_fpga.make_model").WIDTHS[1:-1]
WIDTHS = (16, 32, 64)


class Block(nn.Module):
    """Two convolutions of 3 by 3 beside a shortcut, summed."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.relu2 = nn.ReLU()

    def forward(self, x: Any) -> Any:
        """[N, C, H, W] to [N, O, H / stride, W / stride]."""
        y = self.relu1(self.norm1(self.conv1(x)))
        return self.relu2(self.norm2(self.conv2(y)) + self.shortcut(x))


def resnet(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Seven convolutions in three residual blocks, mean over the image, one linear layer.

    A stride of two comes first where the image has more than 16 rows.
    """
    channels, rows = shape[0], shape[1]
    stride = 2 if rows > 16 else 1
    layers: list[nn.Module] = [
        nn.Conv2d(channels, WIDTHS[0], 3, stride, 1, bias=False),
        nn.BatchNorm2d(WIDTHS[0]),
        nn.ReLU(),
    ]
    last = WIDTHS[0]
    for index, width in enumerate(WIDTHS):
        layers.append(Block(last, width, 2 if index else 1))
        last = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, classes)]
    return nn.Sequential(*layers)


def perceptron(hidden: tuple[int, ...], shape: tuple[int, ...], classes: int) -> nn.Module:
    """Hidden layers of these widths with batch normalisation, and one of scores."""
    last = int(torch.Size(shape).numel())
    layers: list[nn.Module] = [nn.Flatten()] if len(shape) > 1 else []
    for width in hidden:
        layers += [nn.Linear(last, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        last = width
    return nn.Sequential(*layers, nn.Linear(last, classes))


NETS = {
    "mlp": partial(perceptron, HIDDEN),
    "cqmlp": partial(perceptron, CAN),
    "tagger": partial(perceptron, TAGGER),
    "resnet": resnet,
}
