"""What a Resize or Upsample node says of each axis: sizes, factors, and where results lie.

Which elements the nearest ones are, and the float32 weights between them, is what onnxruntime
makes of indices and of unit vectors; nothing is computed a second time here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from binpoint import ort
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import FloatArray
from binpoint.ops.interpolate import Shares

_COORDINATES = (
    "asymmetric",
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "tf_half_pixel_for_nn",
)
_LARGEST_DENOMINATOR = 1 << 12


@dataclass(frozen=True, slots=True)
class Axis:
    """How one axis is resized: sizes before and after, and the factor between coordinates."""

    size: int
    count: int
    scale: float
    coordinates: str
    by_size: bool = False

    @property
    def moves(self) -> bool:
        """Whether anything changes."""
        return self.count != self.size or self.scale != 1.0

    def nearest(self, node: OnnxNode) -> tuple[int, ...]:
        """The element that onnxruntime takes for each of the result's: it resizes the indices."""
        if not self.moves:
            return tuple(range(self.size))
        index = np.arange(self.size, dtype=np.float32).reshape(1, 1, 1, -1)
        return tuple(int(i) for i in self._resized(node, index, "nearest")[0])

    def shares(self, node: OnnxNode) -> Shares:
        """The float32 weights with which onnxruntime interpolates: it resizes unit vectors."""
        units = np.eye(self.size, dtype=np.float32)[None, :, None]
        return Shares.of(self._resized(node, units, "linear"))

    def _resized(self, node: OnnxNode, rows: FloatArray, mode: str) -> FloatArray:
        """What the runtime makes of rows ``[1, count, 1, size]``, as ``[count, new size]``."""
        # A second axis that moves keeps the runtime from copying where no size changes.
        image = np.repeat(rows, 2, axis=2)
        scales = np.array([1, 1, 2, self.scale], np.float32)
        if _is_old(node):
            (found,) = ort.evaluate("Resize", [image, scales], opset=10, mode=mode)
            return found[0, :, 0]
        sizes = np.array([1, image.shape[1], 4, self.count], np.int64)
        none = np.zeros(0, np.float32)
        (found,) = ort.evaluate(
            "Resize",
            [image, *([none, none, sizes] if self.by_size else [none, scales])],
            opset=node.opset,
            mode=mode,
            coordinate_transformation_mode=self.coordinates,
            nearest_mode=node.string("nearest_mode", "round_prefer_floor"),
        )
        return found[0, :, 0]

    def rationals(self, node: OnnxNode) -> list[Fraction]:
        """The same as exact fractions; refuses a factor that is no fraction of small numbers."""
        if not self.moves:
            return [Fraction(i) for i in range(self.size)]
        if self.coordinates == "align_corners":
            step = Fraction(self.size - 1, self.count - 1) if self.count > 1 else Fraction(0)
            return [o * step for o in range(self.count)]
        scale = Fraction(self.scale).limit_denominator(_LARGEST_DENOMINATOR)
        if float(np.float32(float(scale))) != self.scale:
            node.refuse(f"linear by a factor of {self.scale}", want="a ratio of small integers")
        half = Fraction(1, 2)
        match self.coordinates:
            case "asymmetric":
                return [o / scale for o in range(self.count)]
            case "half_pixel":
                return [(o + half) / scale - half for o in range(self.count)]
            case "half_pixel_symmetric":
                shift = Fraction(self.size, 2) * (1 - self.count / (scale * self.size))
                return [shift + (o + half) / scale - half for o in range(self.count)]
            case "pytorch_half_pixel":
                if self.count == 1:
                    return [Fraction(0)]
                return [(o + half) / scale - half for o in range(self.count)]
            case _:
                return [(o + half) / scale for o in range(self.count)]


def read_axes(node: OnnxNode) -> list[Axis]:
    """Sizes and factors of all axes, from scales or sizes."""
    _refuse_options(node)
    shape = node.operand(0).shape
    coordinates = (
        "asymmetric"
        if _is_old(node)
        else node.string("coordinate_transformation_mode", "half_pixel")
    )
    if coordinates not in _COORDINATES:
        node.refuse(f"coordinate_transformation_mode `{coordinates}`", want=", ".join(_COORDINATES))
    axes = [a % len(shape) for a in node.ints("axes", range(len(shape)))]
    found = [Axis(n, n, 1.0, coordinates) for n in shape]
    for axis, (count, scale) in zip(axes, _factors(node, [shape[a] for a in axes]), strict=True):
        if count < 1 or not math.isfinite(scale):
            node.refuse(f"axis {axis} of {shape[axis]} by {scale}", want="at least one element")
        found[axis] = Axis(
            shape[axis], count, scale, coordinates, by_size=_given_scales(node) is None
        )
    return found


def _factors(node: OnnxNode, shape: Sequence[int]) -> list[tuple[int, float]]:
    """Size of the result and float32 factor of each resized axis."""
    scales = _given_scales(node)
    if scales is not None:
        if len(scales) != len(shape):
            node.refuse(f"{len(scales)} scales for {len(shape)} axes")
        return [
            (math.floor(np.float32(n) * np.float32(s)), s)
            for n, s in zip(shape, scales, strict=True)
        ]
    sizes = [int(n) for n in np.atleast_1d(node.array(3))]
    if len(sizes) != len(shape):
        node.refuse(f"{len(sizes)} sizes for {len(shape)} axes")
    return [(m, float(np.float32(m) / np.float32(n))) for n, m in zip(shape, sizes, strict=True)]


def _given_scales(node: OnnxNode) -> list[float] | None:
    """Factors as attribute or operand; None where sizes are given instead."""
    if node.attribute("scales") is not None:
        return [float(s) for s in node.attribute("scales")]
    array = node.optional_array(1 if _is_old(node) else 2)
    if array is None or array.size == 0:
        return None
    return [float(s) for s in np.asarray(array, np.float32).reshape(-1)]


def _is_old(node: OnnxNode) -> bool:
    """Whether there are no modes of coordinates: Upsample, and Resize before opset 11."""
    return node.proto.op_type == "Upsample" or node.opset < 11


def _refuse_options(node: OnnxNode) -> None:
    if node.int("antialias", 0):
        node.refuse("antialias", hint="export without antialiasing")
    policy = node.string("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        node.refuse(f"keep_aspect_ratio_policy `{policy}`", want="stretch")
