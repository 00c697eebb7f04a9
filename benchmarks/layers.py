"""Single layers, each with an input of its own, in one network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from benchmarks.quantized import Builder, Tensor

NAME = "layers"


def build(bits: int = 8) -> onnx.ModelProto:
    """A network of layers side by side; the node of a layer has the name of its row.

    Weights use `bits` of their eight.
    """
    net = Builder(np.random.default_rng(7), bits)
    for result in (
        *_depthwise(net), *_pointwise(net), *_spatial(net), *_grouped(net), *_others(net),
    ):  # fmt: skip
        net.output(result)
    return net.model()


def titles() -> tuple[str, ...]:
    """The names of the rows."""
    return tuple(n.name for n in build().graph.node if n.op_type in ("Conv", "Gemm", "Add"))


def save(folder: Path, bits: int = 8) -> Path:
    """Write the network into a folder."""
    path = folder / f"{NAME}.onnx"
    path.write_bytes(build(bits).SerializeToString())
    return path


def _conv(
    net: Builder, title: str, shape: tuple[int, int, int], channels: int, kernel: tuple[int, int],
    stride: int = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """A convolution of an input of this shape: channels, height, width."""
    channels_in, height, width = shape
    x = net.input(f"in_{len(net.inputs)}", (height, width, channels_in))
    return net.conv(title, net.channels_first(x), channels, kernel, stride=stride, groups=groups)


def _depthwise(net: Builder) -> list[Tensor]:
    maps = ((16, 24, 24, 1), (16, 48, 48, 1), (64, 25, 5, 1), (16, 48, 48, 2))
    return [
        _conv(
            net,
            f"depthwise 3x3, {h}x{w}, {c} channels" + (", stride 2" if stride == 2 else ""),
            (c, h, w), c, (3, 3), stride, groups=c,
        )
        for c, h, w, stride in maps
    ]  # fmt: skip


def _pointwise(net: Builder) -> list[Tensor]:
    maps = ((8, 24), (16, 24), (32, 12), (64, 12), (128, 6), (256, 3))
    return [_conv(net, f"1x1, {c} to {c} channels, {n}x{n}", (c, n, n), c, (1, 1)) for c, n in maps]


def _spatial(net: Builder) -> list[Tensor]:
    maps = ((3, 16, 32, 1), (16, 16, 32, 1), (32, 32, 16, 1), (64, 64, 8, 1), (16, 32, 32, 2))
    return [
        _conv(
            net,
            f"3x3, {c} to {o} channels, {n}x{n}" + (", stride 2" if stride == 2 else ""),
            (c, n, n), o, (3, 3), stride,
        )
        for c, o, n, stride in maps
    ]  # fmt: skip


def _grouped(net: Builder) -> list[Tensor]:
    maps = ((3, 64, 16, 4), (3, 128, 8, 16), (1, 120, 16, 3))
    return [
        _conv(
            net,
            f"{k}x{k}, {c} to {c} channels in {groups} groups, {n}x{n}",
            (c, n, n), c, (k, k), groups=groups,
        )
        for k, c, n, groups in maps
    ]  # fmt: skip


def _others(net: Builder) -> list[Tensor]:
    sizes = ((640, 128), (128, 128), (128, 640))
    found = [
        net.dense(f"fully connected, {k} to {n}", net.input(f"in_{len(net.inputs)}", (k,)), n)
        for k, n in sizes
    ]
    a, b = (net.input(f"in_{len(net.inputs)}_{side}", (16, 32, 32)) for side in "ab")
    return [*found, net.add("add, 32x32, 16 channels", a, b)]
