"""VDPC: value-driven patch classification (QuantMCU, DATE 2024).

The values of a stage's input are taken for normal. One is an outlier where it is farther from the
mean than all but a part 1 − φ of normal values: |x − μ| > z·σ, z the inverse normal distribution at
(1 + φ) / 2. Every image of some size has values beyond any z of practical use; a patch counts as
one with outliers where it has more of them than normal values would have, a part of more than
1 − φ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.ops.halo import Region


@dataclass(frozen=True, slots=True)
class Outliers:
    """What of a map's codes is an outlier: below `lo` or above `hi`."""

    lo: float
    hi: float

    @classmethod
    def of(cls, maps: Sequence[NDArray[Any]], phi: float) -> Outliers:
        """From the mean and standard deviation of all values; 0 < φ < 1."""
        count = sum(m.size for m in maps)
        mean = sum(float(m.sum(dtype=np.int64)) for m in maps) / count
        square = sum(float((m.astype(np.int64) ** 2).sum()) for m in maps) / count
        reach = NormalDist().inv_cdf((1 + phi) / 2) * max(square - mean**2, 0.0) ** 0.5
        return cls(mean - reach, mean + reach)

    def share(self, codes: NDArray[Any]) -> float:
        """Which part of the values are outliers."""
        return float(((codes < self.lo) | (codes > self.hi)).mean())


def with_outliers(
    maps: Sequence[NDArray[Any]], regions: Sequence[Region], phi: float
) -> tuple[bool, ...]:
    """Whether each patch of a map has outliers, in the mean of all samples ``[1, *spatial, C]``.

    `regions` are what the patches read.
    """
    outliers = Outliers.of(maps, phi)
    shares = [
        np.mean([outliers.share(m[(0, *(slice(a, b + 1) for a, b in r))]) for m in maps])
        for r in regions
    ]
    return tuple(bool(share > 1 - phi) for share in shares)
