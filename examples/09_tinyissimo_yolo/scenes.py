"""Small scenes of discs, boxes and triangles on uneven ground, and their bounding boxes.

A scene is an image of 88 by 88 pixels with one to three objects that overlap little. All of it is
drawn from a seed: the same seed gives the same scenes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIZE = 88
CLASSES = ("disc", "box", "triangle")
MOST = 3
_TRIES = 20


def scenes(seed: int, count: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Images ``[N, 3, 88, 88]``, and objects ``[N, 3, 5]``.

    An object is its class, or -1 where there is none, and x0, y0, x1, y1 in parts of the image.
    """
    rng = np.random.default_rng(seed)
    images = np.empty((count, 3, SIZE, SIZE), np.uint8)
    objects = np.full((count, MOST, 5), -1, np.float32)
    for i in range(count):
        images[i], objects[i] = _scene(rng)
    return images, objects


def _scene(rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    image = _ground(rng)
    objects = np.full((MOST, 5), -1, np.float32)
    for found in range(int(rng.integers(1, MOST + 1))):
        box = _free_box(rng, objects[:found, 1:])
        if box is None:
            break
        kind = int(rng.integers(len(CLASSES)))
        image = _draw(rng, image, kind, box)
        objects[found] = kind, *(box / SIZE)
    image += rng.normal(0, rng.uniform(2, 10), image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), objects


def _ground(rng: np.random.Generator) -> NDArray[np.float64]:
    """A colour that changes across the image, with coarse spots."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    slope = rng.normal(0, 40, (3, 2))
    ground = rng.uniform(40, 215, 3)[:, None, None]
    ground = ground + slope[:, :1, None] * (x - 0.5) + slope[:, 1:, None] * (y - 0.5)
    spots = rng.normal(0, rng.uniform(0, 18), (1, 11, 11))
    return ground + spots.repeat(SIZE // 11, 1).repeat(SIZE // 11, 2)


def _free_box(rng: np.random.Generator, taken: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """A place that overlaps no other object by much: x0, y0, x1, y1 in pixels."""
    for _ in range(_TRIES):
        size = rng.uniform(16, 44) * np.exp(rng.normal(0, 0.15, 2))
        size = np.clip(size, 12, 60)
        corner = rng.uniform(0, 1, 2) * (SIZE - size)
        box = np.concatenate([corner, corner + size])
        low = np.maximum(box[:2], taken[:, :2] * SIZE)
        high = np.minimum(box[2:], taken[:, 2:] * SIZE)
        shared = np.maximum(high - low, 0).prod(axis=1)
        if not (shared > 0.1 * size.prod()).any():
            return box
    return None


def _draw(
    rng: np.random.Generator, image: NDArray[np.float64], kind: int, box: NDArray[np.float64]
) -> NDArray[np.float64]:
    x0, y0, x1, y1 = box
    y, x = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    u, v = (x - x0) / (x1 - x0), (y - y0) / (y1 - y0)
    if kind == 0:
        mask = (2 * u - 1) ** 2 + (2 * v - 1) ** 2 <= 1
    elif kind == 1:
        mask = (u >= 0) & (u <= 1) & (v >= 0) & (v <= 1)
    else:
        mask = (v >= 0) & (v <= 1) & (np.abs(2 * u - 1) <= v)
    ground = image[:, mask].mean(axis=1)
    colour = rng.uniform(0, 255, 3)
    while np.abs(colour - ground).max() < 50:
        colour = rng.uniform(0, 255, 3)
    shade = 1 + rng.normal(0, 0.15) * (u - 0.5) + rng.normal(0, 0.15) * (v - 0.5)
    return np.where(mask, colour[:, None, None] * shade, image)
