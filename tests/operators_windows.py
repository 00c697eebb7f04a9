"""Makers of operators with windows over maps: see `operators`."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.strategies import Weave


def spatial_of(w: Weave, x: str) -> tuple[int, ...] | None:
    shape = w.shape(x)
    return shape[2:] if len(shape) in (3, 4) else None


def weights_of(w: Weave, *shape: int) -> str:
    """Weights that keep the size of numbers; now and then a channel of zeros."""
    array = w.normal(shape, 1.5 / np.sqrt(max(1, np.prod(shape[1:]))))
    if w.chance(0.1):
        array[w.number(0, shape[0] - 1)] = 0
    return w.constant(array)


def bias_of(w: Weave, count: int) -> list[str]:
    return [w.constant(w.normal((count,), 0.3))] if w.chance(0.7) else []


def _groups(w: Weave, channels: int) -> int:
    options = [1, 1, channels, *(g for g in range(2, channels) if channels % g == 0)]
    return w.pick(options)


def window_of(w: Weave, spatial: tuple[int, ...], *, dilated: bool = True) -> dict[str, Any]:
    """Kernel, strides, dilations and paddings that fit; no padding reaches the kernel's size."""
    kernel = [w.number(1, min(3, n)) for n in spatial]
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": [w.number(1, 3) for _ in spatial],
    }
    mode = w.number(0, 5)
    if mode == 0:
        # onnxruntime has no dilation with SAME, and computes negative paddings for longer strides.
        attributes["auto_pad"] = w.pick(["SAME_UPPER", "SAME_LOWER", "VALID"])
        attributes["strides"] = [w.number(1, k) for k in kernel]
        return attributes
    if dilated:
        fits = [2 * (k - 1) < n for k, n in zip(kernel, spatial, strict=True)]
        attributes["dilations"] = [w.number(1, 2) if fit else 1 for fit in fits]
    if mode < 4:
        attributes["pads"] = [w.number(0, k - 1) for k in kernel * 2]
    return attributes


def convolution(w: Weave, x: str) -> str | None:
    spatial = spatial_of(w, x)
    if spatial is None:
        return None
    channels = w.shape(x)[1]
    groups = _groups(w, channels)
    window = window_of(w, spatial)
    kernel: list[int] = window["kernel_shape"]
    count = groups * w.number(1, 3)
    weights = weights_of(w, count, channels // groups, *kernel)
    return w.apply("Conv", x, weights, *bias_of(w, count), group=groups, **window)


def transposed_convolution(w: Weave, x: str) -> str | None:
    spatial = spatial_of(w, x)
    if spatial is None:
        return None
    channels = w.shape(x)[1]
    groups = _groups(w, channels)
    kernel = [w.number(1, 3) for _ in spatial]
    strides = [w.number(1, 3) for _ in spatial]
    each = w.number(1, 3)
    attributes: dict[str, Any] = {
        "strides": strides,
        "dilations": [w.number(1, 2) for _ in spatial],
        "group": groups,
    }
    if w.chance(0.4):
        attributes["output_padding"] = [w.number(0, s - 1) for s in strides]
    if w.chance(0.4):
        attributes["pads"] = [w.number(0, (k - 1) // 2) for k in kernel * 2]
    return w.apply(
        "ConvTranspose",
        x,
        weights_of(w, channels, each, *kernel),
        *bias_of(w, each * groups),
        **attributes,
    )


def pool(w: Weave, x: str) -> str | None:
    spatial = spatial_of(w, x)
    if spatial is None:
        return None
    op = w.pick(["MaxPool", "AveragePool"])
    window = window_of(w, spatial, dilated=op == "MaxPool" or w.opset >= 19)
    if "auto_pad" not in window and w.chance(0.3):
        window["ceil_mode"] = 1
    if op == "AveragePool" and w.chance(0.5):
        window["count_include_pad"] = 1
    return w.apply(op, x, **window)


def global_pool(w: Weave, x: str) -> str | None:
    return w.apply(w.pick(["GlobalAveragePool", "GlobalMaxPool"]), x) if spatial_of(w, x) else None
