"""The mean average precision of boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scenes import CLASSES, SIZE

from binpoint.plan.detector import UNITS, overlap

SIDE = SIZE * UNITS


def precision(found: Sequence[NDArray[np.int64]], objects: NDArray[np.float32]) -> float:
    """Mean over the classes of the area under precision by recall, at an overlap of one half.

    Args:
        found: rows x0, y0, x1, y1, kind, score of each image, by falling score.
        objects: class, or -1, and corners in parts of the image, ``[N, 3, 5]``.
    """
    return float(np.mean([_average(found, objects, kind) for kind in range(len(CLASSES))]))


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _average(found: Sequence[NDArray[np.int64]], objects: NDArray[np.float32], kind: int) -> float:
    rows = [(i, row) for i, rows in enumerate(found) for row in rows.tolist() if row[4] == kind]
    rows.sort(key=lambda pair: -pair[1][5])
    wanted = [[(o * SIDE).tolist() for o in some[some[:, 0] == kind, 1:]] for some in objects]
    taken: set[tuple[int, int]] = set()
    hits: list[bool] = []
    for i, row in rows:
        best, most = -1, 0.5
        for j, truth in enumerate(wanted[i]):
            shared = overlap(row, truth)
            ratio = shared / (_area(row) + _area(truth) - shared)
            if ratio >= most:
                best, most = j, ratio
        hits.append(best >= 0 and (i, best) not in taken)
        taken.add((i, best))
    right = np.cumsum(hits)
    recall = right / max(1, sum(map(len, wanted)))
    exact = np.maximum.accumulate((right / np.arange(1, len(hits) + 1))[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0) * exact))
