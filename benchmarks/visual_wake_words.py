"""MobileNetV1, a quarter as wide, on images of 96x96: MLPerf Tiny's network for person detection.

The reference's trained file has late layers of which most channels are constants, and so has this
one, whose weights are random: half of its multiply-accumulates are for nothing.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import onnx

from benchmarks.quantized import Builder

NAME = "visual_wake_words"
MACS = 7_489_664

# Channels behind each pair of a depthwise and a 1x1 convolution, the stride of the first, and how
# many of the channels have weights at all, None for as many as the caller says.
_PAIRS = (
    (16, 1, 16), (32, 2, 32), (32, 1, 32), (64, 2, 64), (64, 1, 64), (128, 2, None), (128, 1, None),
    (128, 1, None), (128, 1, None), (128, 1, None), (128, 1, None), (256, 2, 160), (256, 1, 160),
)  # fmt: skip


def build(side: int = 96, live: int = 19) -> onnx.ModelProto:
    """The network.

    Args:
        side: height and width of the image.
        live: channels with weights of the 128 of the late layers.
    """
    net = Builder(np.random.default_rng(96))
    image = net.channels_first(net.input("image", (side, side, 3)))
    x = net.conv("first", image, 8, (3, 3), stride=2)
    for number, (channels, stride, few) in enumerate(_PAIRS, 1):
        width = x.shape[0]
        x = net.conv(f"depthwise_{number}", x, width, (3, 3), stride=stride, groups=width)
        alive = live if few is None else few
        x = net.conv(f"pointwise_{number}", x, channels, (1, 1), live=alive)
    net.output(net.dense("classes", net.pool("mean", x), 2))
    return net.model()


def save(folder: Path) -> Path:
    """Write the network into a folder."""
    path = folder / f"{NAME}.onnx"
    path.write_bytes(build().SerializeToString())
    return path


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
def main(folder: Path) -> None:
    """Write the network into FOLDER."""
    print(save(folder))


if __name__ == "__main__":
    main()
