"""Scenes with the boxes found in them, as a PNG file."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from binpoint.plan.detector import ONE, UNITS

COLOURS = np.array([(230, 40, 40), (40, 220, 60), (60, 110, 255)], np.uint8)
"""Of the outlines of discs, boxes and triangles."""
SURE = 0.3 * ONE**2
"""Boxes of smaller scores are not drawn."""
_ZOOM, _GAP, _LINE = 3, 6, 2


def write(
    path: Path, images: NDArray[np.float32], found: Sequence[NDArray[np.int64]], *, columns: int
) -> None:
    """Draw images ``[N, 3, H, W]`` from 0 to 1, enlarged three times, row by row.

    Args:
        path: of the file.
        images: as many as `found`.
        found: rows x0, y0, x1, y1, kind, score of each, as `boxes.precision` reads them.
        columns: images of a row.
    """
    drawn = [_outlined(*pair) for pair in zip(images, found, strict=True)]
    height, width, _ = drawn[0].shape
    lines = -(-len(drawn) // columns)
    sheet = np.full(
        (lines * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), 255, np.uint8
    )
    for i, one in enumerate(drawn):
        y, x = i // columns * (height + _GAP), i % columns * (width + _GAP)
        sheet[y : y + height, x : x + width] = one
    path.write_bytes(_png(sheet))


def _outlined(image: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """An image ``[H, W, 3]`` with a line around each box."""
    pixels = np.rint(image.transpose(1, 2, 0) * 255).astype(np.uint8)
    pixels = pixels.repeat(_ZOOM, axis=0).repeat(_ZOOM, axis=1)
    for x0, y0, x1, y1, kind, score in rows.tolist():
        if score < SURE:
            continue
        left, top, right, low = (end * _ZOOM // UNITS for end in (x0, y0, x1, y1))
        box = pixels[top:low, left:right]
        inside = box[_LINE:-_LINE, _LINE:-_LINE].copy()
        box[:] = COLOURS[kind]
        box[_LINE:-_LINE, _LINE:-_LINE] = inside
    return pixels


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """The file of ``[H, W, 3]``; source: the PNG specification, third edition, sections 5, 11."""
    height, width, _ = pixels.shape
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = np.zeros((height, 1 + 3 * width), np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)
    body = zlib.compress(rows.tobytes(), 9)
    parts = ((b"IHDR", head), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
