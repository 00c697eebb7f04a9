"""Sliding windows over channel-last tensors: sizes, padding, patches. Shared by conv and pool."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.onnx_writer import OnnxWriter, Tensor


@dataclass(frozen=True, slots=True)
class Window:
    """A window that slides over the spatial axes of ``[N, *spatial, C]``; one or two spatial axes.

    output = floor or ceil((size + before + after − dilation·(kernel − 1) − 1) / stride) + 1.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    dilations: tuple[int, ...]

    @classmethod
    def from_onnx(cls, node: OnnxNode, kernel: tuple[int, ...], spatial: tuple[int, ...]) -> Window:
        """Read kernel, strides, dilations and paddings of a node.

        `auto_pad` and `ceil_mode` are resolved.
        """
        rank = len(spatial)
        strides, dilations = node.ints("strides", [1] * rank), node.ints("dilations", [1] * rank)
        pads = node.ints("pads", [0] * (2 * rank))
        if (
            len(strides) != rank
            or len(dilations) != rank
            or len(pads) != 2 * rank
            or len(kernel) != rank
        ):
            node.refuse("kernel, strides, dilations and pads must have one entry per spatial axis")
        if rank not in (1, 2):
            node.refuse(
                f"{rank} spatial axes", want="one or two", hint="cut the model before this node"
            )
        if min((*kernel, *strides, *dilations)) < 1 or min(pads) < 0:
            node.refuse("kernel, strides and dilations must be positive, pads not negative")
        before, after = pads[:rank], pads[rank:]
        mode = node.string("auto_pad", "NOTSET")
        if mode not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
            node.refuse(f"auto_pad `{mode}` is unknown")
        if mode == "VALID":
            before = after = (0,) * rank
        elif mode.startswith("SAME"):
            reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
            wanted = [-(-n // s) for n, s in zip(spatial, strides, strict=True)]
            total = [
                max(0, (o - 1) * s + r - n)
                for o, s, r, n in zip(wanted, strides, reach, spatial, strict=True)
            ]
            small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
            before, after = (small, large) if mode == "SAME_UPPER" else (large, small)
        window = cls(tuple(kernel), strides, before, after, dilations)
        if node.int("ceil_mode", 0):
            window = window.rounded_up(spatial)
        if any(n < 1 for n in window.outputs(spatial)):
            node.refuse(
                f"the window {list(kernel)} is larger than the padded input {list(spatial)}"
            )
        return window

    @property
    def reach(self) -> tuple[int, ...]:
        """Extent of the window on the input."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def padded(self) -> bool:
        """Whether there is any padding."""
        return any(self.before) or any(self.after)

    @property
    def taps(self) -> int:
        """Elements in the window."""
        return math.prod(self.kernel)

    def outputs(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """Number of positions on each axis."""
        sizes = zip(spatial, self.before, self.after, self.reach, self.strides, strict=True)
        return tuple((n + b + a - r) // s + 1 for n, b, a, r, s in sizes)

    def rounded_up(self, spatial: tuple[int, ...]) -> Window:
        """The window with as much padding after as `ceil_mode` implies.

        A position that would start in the padding after the input is left out, as onnxruntime does.
        """
        after = list(self.after)
        for axis, (n, b, a, r, s) in enumerate(
            zip(spatial, self.before, self.after, self.reach, self.strides, strict=True)
        ):
            count = -(-(n + b + a - r) // s) + 1
            if (count - 1) * s >= n + b:
                count -= 1
            after[axis] = max(a, (count - 1) * s + r - n - b)
        return Window(self.kernel, self.strides, self.before, tuple(after), self.dilations)

    def pad(self, x: NDArray[Any], fill: float) -> NDArray[Any]:
        """`x` with its spatial axes padded."""
        if not self.padded:
            return x
        widths = [(0, 0), *zip(self.before, self.after, strict=True), (0, 0)]
        return np.pad(x, widths, constant_values=fill)

    def patches(self, x: NDArray[Any], fill: float) -> NDArray[Any]:
        """Windows of ``[N, *spatial, C]`` as ``[N, *outputs, C, *kernel]``.

        A view where possible.
        """
        spatial = tuple(range(1, x.ndim - 1))
        outputs = self.outputs(x.shape[1:-1])
        views = np.lib.stride_tricks.sliding_window_view(
            self.pad(x, fill), self.reach, axis=spatial
        )
        starts = tuple(
            slice(0, (o - 1) * s + 1, s) for o, s in zip(outputs, self.strides, strict=True)
        )
        inner = tuple(slice(None, None, d) for d in self.dilations)
        return views[(slice(None), *starts, slice(None), *inner)]

    def counts(self, spatial: tuple[int, ...]) -> NDArray[np.int64]:
        """How many elements of each window lie on the input, not on padding: ``[*outputs]``."""
        ones = np.ones((1, *spatial, 1), np.int64)
        patches = self.patches(ones, 0)
        return patches.sum(axis=tuple(range(patches.ndim - len(spatial), patches.ndim)))[0, ..., 0]

    def taps_onnx(self, w: OnnxWriter, x: Tensor, fill: int) -> list[Tensor]:
        """One tensor ``[N, *outputs, C]`` per element of the window, row-major."""
        outputs = self.outputs(x.shape[1:-1])
        padded = w.pad(x, (0, *self.before, 0), (0, *self.after, 0), fill)
        taps: list[Tensor] = []
        for offset in np.ndindex(*self.kernel):
            starts = [i * d for i, d in zip(offset, self.dilations, strict=True)]
            stops = [
                b + (o - 1) * s + 1 for b, o, s in zip(starts, outputs, self.strides, strict=True)
            ]
            taps.append(
                w.strided(
                    padded,
                    (0, *starts, 0),
                    (x.shape[0], *stops, x.shape[-1]),
                    (1, *self.strides, 1),
                )
            )
        return taps

    def planar(self, spatial: tuple[int, ...]) -> tuple[Window, tuple[int, int]]:
        """The same window and input size with two spatial axes.

        One axis becomes a row of height 1.
        """
        if len(spatial) == 2:
            return self, (spatial[0], spatial[1])
        window = Window(
            (1, *self.kernel),
            (1, *self.strides),
            (0, *self.before),
            (0, *self.after),
            (1, *self.dilations),
        )
        return window, (1, spatial[0])
