"""VDPC: value-driven patch classification (QuantMCU, DATE 2024).

The values of a stage's input are taken for normal. One is an outlier where it is farther from the
mean than all but a part 1 − φ of normal values: |x − μ| > z·σ, z the inverse normal distribution at
(1 + φ) / 2. Every image of some size has values beyond any z of practical use; a patch counts as
one with outliers where it has more of them than are allowed, by default as many as normal values
would have, a part of 1 − φ. With none allowed it is the paper's rule: a patch that contains one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.ops.halo import Region, slices
from binpoint.ops.outliers import OutlierTest, outside


@dataclass(frozen=True, slots=True)
class Outliers:
    """What of a map's codes is an outlier: below `lo` or above `hi`."""

    lo: int
    hi: int

    @classmethod
    def of(cls, maps: Sequence[NDArray[Any]], phi: float) -> Outliers:
        """From the mean and standard deviation of all values; 0 < φ < 1."""
        count = sum(m.size for m in maps)
        mean = sum(float(m.sum(dtype=np.int64)) for m in maps) / count
        square = sum(float((m.astype(np.int64) ** 2).sum()) for m in maps) / count
        reach = NormalDist().inv_cdf((1 + phi) / 2) * max(square - mean**2, 0.0) ** 0.5
        return cls(math.ceil(mean - reach), math.floor(mean + reach))

    def share(self, codes: NDArray[Any]) -> float:
        """Which part of the values are outliers."""
        return outside(codes, self.lo, self.hi) / codes.size


def with_outliers(
    maps: Sequence[NDArray[Any]], regions: Sequence[Region], phi: float, allowed: Fraction
) -> tuple[bool, ...]:
    """Whether each patch of a map has outliers, in the mean of all samples ``[1, *spatial, C]``.

    `regions` are what the patches read, `allowed` the part of it that may be outliers.
    """
    outliers = Outliers.of(maps, phi)
    shares = [np.mean([outliers.share(m[slices(r)]) for m in maps]) for r in regions]
    return tuple(bool(share > float(allowed)) for share in shares)


def outlier_test(
    maps: Sequence[NDArray[Any]],
    regions: Sequence[Region],
    phi: float,
    allowed: Fraction,
    ends: tuple[int, int],
) -> tuple[OutlierTest, NDArray[np.bool_]]:
    """The test that decides for each input, and of which patches of each sample it is true.

    The latter is ``[samples, patches]``. `ends` are the least and the largest code of the map.
    """
    found = Outliers.of(maps, phi)
    lo, hi = max(found.lo, ends[0]), min(found.hi, ends[1])
    test = OutlierTest(lo, hi, allowed, len(maps), ())
    first = np.array([[test.body(m[slices(r)]) == 0 for r in regions] for m in maps])
    shares = tuple(Fraction(int(n), len(maps)) for n in first.sum(axis=0))
    return replace(test, shares=shares), first
