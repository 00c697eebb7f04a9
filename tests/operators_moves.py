"""Makers of operators that move elements: see `operators`."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.operators_windows import spatial_of
from tests.strategies import Weave


def concat(w: Weave, x: str) -> str | None:
    shape = w.shape(x)
    axis = w.number(0, len(shape) - 1)
    fits = [n for n in w.live() if _joins(w.shape(n), shape, axis)]
    parts = [x, *(w.pick(fits) for _ in range(w.number(1, 2)))]
    if w.chance(0.2):
        parts.append(w.constant(w.normal(shape)))
    w.random.shuffle(parts)
    return w.apply("Concat", *parts, axis=axis)


def _joins(a: tuple[int, ...], b: tuple[int, ...], axis: int) -> bool:
    return len(a) == len(b) and a[:axis] + a[axis + 1 :] == b[:axis] + b[axis + 1 :]


def split(w: Weave, x: str) -> str | None:
    shape = w.shape(x)
    axis = w.pick([i for i, n in enumerate(shape) if n > 1] or [0])
    if shape[axis] < 2:
        return None
    first = w.number(1, shape[axis] - 1)
    names = w.many("Split", [x, w.integers(first, shape[axis] - first)], 2, axis=axis)
    return None if names is None else names[-1]


def cut(w: Weave, x: str) -> str | None:
    shape = w.shape(x)
    axis = w.number(0, len(shape) - 1)
    size = shape[axis]
    if w.chance(0.2):
        return w.apply(
            "Slice", x, w.integers(-1), w.integers(-size - 1), w.integers(axis), w.integers(-1)
        )
    start = w.number(0, size - 1)
    stop = w.number(start + 1, size + 2)
    return w.apply(
        "Slice",
        x,
        w.integers(start),
        w.integers(stop),
        w.integers(axis),
        w.integers(w.number(1, 2)),
    )


def pad(w: Weave, x: str) -> str | None:
    shape = w.shape(x)
    mode = w.pick(["constant", "constant", "reflect", "edge"])
    room = [0 if i == 0 else min(2, n - 1) if mode == "reflect" else 2 for i, n in enumerate(shape)]
    pads = w.integers(*(w.number(0, r) for r in room + room))
    if mode != "constant" or w.chance(0.4):
        return w.apply("Pad", x, pads, mode=mode)
    return w.apply("Pad", x, pads, w.constant(np.array(w.pick([0.0, 0.5, -1.0]), np.float32)))


def _factors(w: Weave, count: int) -> list[int]:
    """Sizes of which `count` is the product."""
    sizes: list[int] = []
    while count > 1 and len(sizes) < 3:
        divisor = w.pick([d for d in range(1, count + 1) if count % d == 0])
        sizes.append(divisor)
        count //= divisor
    return [*sizes, count]


def reshape(w: Weave, x: str) -> str | None:
    shape = w.shape(x)
    match w.number(0, 3):
        case 0:
            return w.apply("Flatten", x, axis=1)
        case 1:
            ones = [i for i, n in enumerate(shape) if n == 1 and i > 0]
            return w.apply("Squeeze", x, w.integers(w.pick(ones))) if ones else None
        case 2:
            return (
                w.apply("Unsqueeze", x, w.integers(w.number(1, len(shape))))
                if len(shape) < 4
                else None
            )
        case _:
            sizes = _factors(w, int(np.prod(shape[1:])))[:3]
            return w.apply("Reshape", x, w.integers(0 if w.chance(0.5) else 1, *sizes[:-1], -1))


def transpose(w: Weave, x: str) -> str | None:
    rank = len(w.shape(x))
    order = [0, *w.random.sample(range(1, rank), rank - 1)]
    return w.apply("Transpose", x, perm=order)


def gather(w: Weave, x: str) -> str | None:
    shape = w.shape(x)
    axis = w.number(0, len(shape) - 1)
    size = shape[axis]
    indices = [w.number(-size, size - 1) for _ in range(w.number(1, 5))]
    return w.apply("Gather", x, w.integers(*indices), axis=axis)


def indexed(w: Weave, x: str) -> str | None:
    """Elements at constant places, or others in their stead."""
    shape = w.shape(x)
    axis = w.number(0, len(shape) - 1)
    if w.chance(0.5):
        sizes = [w.number(1, 4) if i == axis else w.number(1, n) for i, n in enumerate(shape)]
        places = w.rng.integers(-shape[axis], shape[axis], sizes)
        if w.chance(0.5):
            return w.apply("GatherElements", x, w.constant(places), axis=axis)
        unique = np.broadcast_to(w.rng.permutation(shape[axis])[:1], sizes)
        unique = np.take(unique, [0], axis)
        updates = w.constant(w.normal(unique.shape))
        return w.apply("ScatterElements", x, w.constant(unique), updates, axis=axis)
    places = np.stack([w.rng.integers(0, n, 3) for n in shape[: axis + 1]], -1)
    if w.chance(0.5):
        return w.apply("GatherND", x, w.constant(places))
    first = np.unique(places, axis=0)
    return w.apply(
        "ScatterND", x, w.constant(first), w.constant(w.normal((len(first), *shape[axis + 1 :])))
    )


def band(w: Weave, x: str) -> str | None:
    shape = w.shape(x)
    if len(shape) == 4 and w.chance(0.4):
        return w.apply("LRN", x, size=w.pick([1, 3, 5]), alpha=w.pick([1e-4, 0.5]), bias=1.0)
    axis = w.constant(np.array(w.number(0, len(shape) - 1), np.int64))
    return w.apply("CumSum", x, axis, exclusive=w.number(0, 1), reverse=w.number(0, 1))


def repeat(w: Weave, x: str) -> str | None:
    shape = w.shape(x)
    if w.chance(0.5):
        return w.apply("Tile", x, w.integers(1, *(w.number(1, 2) for _ in shape[1:])))
    return w.apply(
        "Expand", x, w.integers(1, *(w.number(1, 3) if n == 1 else n for n in shape[1:]))
    )


def blocks(w: Weave, x: str) -> str | None:
    shape = w.shape(x)
    if len(shape) != 4:
        return None
    if shape[1] % 4 == 0:
        return w.apply("DepthToSpace", x, blocksize=2, mode=w.pick(["DCR", "CRD"]))
    if shape[2] % 2 == 0 and shape[3] % 2 == 0:
        return w.apply("SpaceToDepth", x, blocksize=2)
    return None


def resize(w: Weave, x: str) -> str | None:
    spatial = spatial_of(w, x)
    if spatial is None:
        return None
    scales = [1.0, 1.0, *(float(w.number(1, 3)) for _ in spatial)]
    attributes: dict[str, Any] = {"mode": w.pick(["nearest", "linear"])}
    attributes["coordinate_transformation_mode"] = w.pick(
        ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
    )
    if attributes["mode"] == "nearest":
        attributes["nearest_mode"] = w.pick(
            ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]
        )
    return w.apply("Resize", x, "", w.constant(np.array(scales, np.float32)), **attributes)
