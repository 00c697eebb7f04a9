"""What detect.c does, in NumPy, and the mean average precision of boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GRID, BOXES, KINDS = 4, 2, 3
CELL = 5 * BOXES + KINDS
SPAN = 352
SIDE = GRID * SPAN
LEAST = 0.05


@dataclass(frozen=True, slots=True)
class Scale:
    """What codes mean, see detect.h."""

    zero: int
    place: int
    size: int
    least: int

    @classmethod
    def of(cls, scale: float, zero: int, least: float = LEAST) -> Scale:
        """For an output's scale and zero point, and the least score of a box."""
        square = scale * scale
        sizes = (scale * SPAN * 2**16, square * SIDE * 2**16, least / square)
        place, size, score = (round(v) for v in sizes)
        return cls(zero, place, size, score)


def detect(codes: NDArray[np.integer], scale: Scale) -> NDArray[np.int64]:
    """Rows x0, y0, x1, y1, kind, score by falling score, of codes ``[208]``."""
    cells = codes.astype(np.int64).reshape(GRID * GRID, CELL) - scale.zero
    found: list[list[int]] = []
    for i, cell in enumerate(cells.tolist()):
        kinds = cell[5 * BOXES :]
        kind = kinds.index(max(kinds))
        for b in range(BOXES):
            u, v, w, h, sure = cell[5 * b : 5 * b + 5]
            x = i % GRID * SPAN + (u * scale.place >> 16)
            y = i // GRID * SPAN + (v * scale.place >> 16)
            width, height = (max(s, 0) ** 2 * scale.size >> 16 for s in (w, h))
            box = [x - width // 2, y - height // 2, x + width // 2, y + height // 2]
            box = [min(max(c, 0), SIDE) for c in box]
            score = max(sure, 0) * max(kinds[kind], 0)
            if score >= scale.least and _area(box):
                found.append([*box, kind, score])
    kept: list[list[int]] = []
    for box in sorted(found, key=lambda b: -b[5]):
        if not any(k[4] == box[4] and _overlaps(k, box) for k in kept):
            kept.append(box)
    return np.array(kept, np.int64).reshape(-1, 6)


def _area(box: list[int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _shared(a: list[int], b: list[int]) -> int:
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    return w * h if w > 0 and h > 0 else 0


def _overlaps(a: list[int], b: list[int]) -> bool:
    shared = _shared(a, b)
    return 100 * shared > 45 * (_area(a) + _area(b) - shared)


def precision(found: list[NDArray[np.int64]], objects: NDArray[np.float32]) -> float:
    """Mean over the classes of the area under precision by recall, at an overlap of one half.

    Args:
        found: rows of `detect` of each image.
        objects: class, or -1, and corners in parts of the image, ``[N, 3, 5]``.
    """
    return float(np.mean([_average(found, objects, kind) for kind in range(KINDS)]))


def _average(found: list[NDArray[np.int64]], objects: NDArray[np.float32], kind: int) -> float:
    rows = [(i, row) for i, rows in enumerate(found) for row in rows.tolist() if row[4] == kind]
    rows.sort(key=lambda pair: -pair[1][5])
    wanted = [[(o * SIDE).tolist() for o in some[some[:, 0] == kind, 1:]] for some in objects]
    taken: set[tuple[int, int]] = set()
    hits: list[bool] = []
    for i, row in rows:
        best, most = -1, 0.5
        for j, truth in enumerate(wanted[i]):
            shared = _shared(row, truth)
            ratio = shared / (_area(row) + _area(truth) - shared)
            if ratio >= most:
                best, most = j, ratio
        hits.append(best >= 0 and (i, best) not in taken)
        taken.add((i, best))
    right = np.cumsum(hits)
    recall = right / max(1, sum(map(len, wanted)))
    exact = np.maximum.accumulate((right / np.arange(1, len(hits) + 1))[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0) * exact))
