"""MobileNetV2 of any width and image, as an int8 file with random weights."""

from __future__ import annotations

import numpy as np
import onnx

from benchmarks.quantized import Builder, Tensor

_BLOCKS = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip
"""Expansion, channels, how many, stride of the first (Sandler et al., CVPR 2018, table 2)."""


def build(side: int, width: float, blocks: int = len(_BLOCKS)) -> onnx.ModelProto:
    """The network, with a rectifier behind every convolution.

    Args:
        side: height and width of the image.
        width: multiplies the channels, which are rounded to eight.
        blocks: how many of the kinds of blocks, the first.
    """
    net = Builder(np.random.default_rng(2))
    x = net.conv("first", net.input("image", (3, side, side)), _wide(32, width), (3, 3), stride=2)
    for kind, (expansion, channels, count, stride) in enumerate(_BLOCKS[:blocks]):
        for index in range(count):
            step = stride if index == 0 else 1
            x = _block(net, f"b{kind}_{index}", x, (expansion, _wide(channels, width), step))
    net.output(net.dense("classes", net.pool("mean", x), 10))
    return net.model()


def _wide(channels: int, width: float) -> int:
    return max(8, int(channels * width + 4) // 8 * 8)


def _block(net: Builder, name: str, x: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """An inverted residual: wider, depthwise, narrower."""
    expansion, channels, stride = shape
    inner = expansion * x.shape[0]
    y = net.conv(f"{name}_expand", x, inner, (1, 1)) if expansion > 1 else x
    y = net.conv(f"{name}_depthwise", y, inner, (3, 3), stride=stride, groups=inner)
    y = net.conv(f"{name}_project", y, channels, (1, 1))
    return net.add(f"{name}_add", x, y) if y.shape == x.shape else y
