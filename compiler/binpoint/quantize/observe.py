"""Ranges and histograms of values over the samples, in one pass and bounded memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.errors import RangeOverflow
from binpoint.ir.graph import Graph
from binpoint.passes.samples import Samples
from binpoint.quantize.simulate import Simulation

BINS = 2048
"""Bins on each side of zero."""

_GRID = 64
_CLIPPED = 1e-3
_SMALLEST = -149


class Method(StrEnum):
    """How a range is chosen from what was seen."""

    MINMAX = "minmax"
    """All that was seen."""
    PERCENTILE = "percentile"
    """The stated part of the values, an equal part cut off at either end."""
    MSE = "mse"
    """Least mean squared error of rounding and clipping to the type's levels."""
    ENTROPY = "entropy"
    """Least divergence (Kullback-Leibler) of the distribution clipped and rounded to the levels."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A method, the percent that `PERCENTILE` keeps, and the type: its symmetry and its bits."""

    method: Method
    percentile: float = 99.99
    symmetric: bool = False
    bits: int = 8

    @property
    def levels(self) -> int:
        """How many codes the type has."""
        return 1 << self.bits


@dataclass(frozen=True, slots=True)
class Range:
    """Real numbers from `lo` to `hi`, zero among them."""

    lo: float = 0.0
    hi: float = 0.0

    def union(self, other: Range) -> Range:
        """The smallest range that holds both."""
        return Range(min(self.lo, other.lo), max(self.hi, other.hi))


class Histogram:
    """Counts of values in bins of a power-of-two width, aligned to zero; exact zeros apart.

    The width doubles whenever a value falls outside, so that one pass is enough: pairs of bins
    become one. Minimum and maximum are exact.
    """

    def __init__(self, *, bins: bool) -> None:
        """Start empty; without `bins` only minimum and maximum are kept."""
        self.lo = 0.0
        self.hi = 0.0
        self.zeros = 0
        self.exponent = _SMALLEST
        self.counts = np.zeros(2 * BINS if bins else 0, np.int64)

    def add(self, array: NDArray[Any]) -> None:
        """Count an array; every element must be finite.

        Raises:
            RangeOverflow: NaN or infinity.
        """
        lo, hi = float(array.min(initial=0.0)), float(array.max(initial=0.0))
        if not (np.isfinite(lo) and np.isfinite(hi)):
            raise RangeOverflow("NaN or infinity", have=f"{lo}..{hi}")
        self.lo, self.hi = min(self.lo, lo), max(self.hi, hi)
        if not self.counts.size or max(-lo, hi) == 0.0:
            self.zeros += array.size
            return
        self._grow(int(np.frexp(max(-lo, hi) / BINS)[1]))
        flat = array.reshape(-1).astype(np.float64)
        index = np.floor(np.ldexp(flat, -self.exponent)).astype(np.int64) + BINS
        zeros = int(np.count_nonzero(flat == 0.0))
        self.counts += np.bincount(index, minlength=2 * BINS)
        self.counts[BINS] -= zeros
        self.zeros += zeros

    def _grow(self, exponent: int) -> None:
        if not self.counts.any():
            self.exponent = max(exponent, self.exponent)
        for _ in range(exponent - self.exponent):
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts[:] = 0
            self.counts[BINS // 2 : BINS // 2 + BINS] = merged
            self.exponent += 1

    @property
    def range(self) -> Range:
        """All that was seen, and zero."""
        return Range(self.lo, self.hi)

    @property
    def centers(self) -> NDArray[np.float64]:
        """The middle of each bin."""
        return np.ldexp(np.arange(-BINS, BINS) + 0.5, self.exponent)

    def choose(self, policy: Policy) -> Range:
        """The range by a policy, not wider than what was seen; if symmetric, −hi to hi."""
        seen = self.range
        if policy.symmetric:
            reach = max(-seen.lo, seen.hi)
            seen = Range(-reach, reach)
        if not self.counts.any():
            return seen
        match policy.method:
            case Method.MINMAX:
                return seen
            case Method.PERCENTILE:
                return _percentile(self, seen, policy)
            case Method.MSE:
                return _least_error(self, seen, policy)
            case Method.ENTROPY:
                return _least_divergence(self, seen, policy.levels)


def _percentile(seen: Histogram, limits: Range, policy: Policy) -> Range:
    percent = policy.percentile
    counts = seen.counts.copy()
    counts[BINS] += seen.zeros
    edges = np.ldexp(np.arange(-BINS, BINS + 1, dtype=np.float64), seen.exponent)
    if policy.symmetric:
        folded = counts[BINS:] + counts[BINS - 1 :: -1]
        kept = np.cumsum(folded) >= folded.sum() * percent / 100.0
        reach = min(limits.hi, float(edges[BINS + 1 :][np.argmax(kept)]))
        return Range(-reach, reach)
    cut = counts.sum() * (100.0 - percent) / 200.0
    below = np.cumsum(counts)
    lo = float(edges[:-1][np.argmax(below > cut)])
    hi = float(edges[1:][np.argmax(below >= counts.sum() - cut)])
    return Range(max(limits.lo, min(lo, 0.0)), min(limits.hi, max(hi, 0.0)))


def _least_error(seen: Histogram, limits: Range, policy: Policy) -> Range:
    """Search ends at parts of the limits; of equal ones the widest.

    The error is the squared distance outside, the squares themselves in the level of zero, and
    step²/12 in all other levels.
    """
    part = np.arange(_GRID, 0, -1) / _GRID
    low, high = limits.lo * part, limits.hi * part
    below, clipped_below = _tail(-seen.centers[::-1], seen.counts[::-1], -low)
    above, clipped_above = _tail(seen.centers, seen.counts, high)
    total = int(seen.counts.sum())
    if policy.symmetric:
        step = 2 * high / (policy.levels - 2)
        inside = total - clipped_below - clipped_above
        best = int(np.argmin(below + above + _rounding(seen, step, inside)))
        return Range(float(low[best]), float(high[best]))
    step = (high[None, :] - low[:, None]) / (policy.levels - 1)
    inside = total - clipped_below[:, None] - clipped_above[None, :]
    error = below[:, None] + above[None, :] + _rounding(seen, step, inside)
    row, column = np.unravel_index(int(np.argmin(error)), error.shape)
    return Range(float(low[row]), float(high[column]))


def _rounding(
    seen: Histogram, step: NDArray[np.float64], inside: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Sum of squared rounding errors of `inside` values for each step."""
    folded = (seen.counts[BINS:] + seen.counts[BINS - 1 :: -1]).astype(np.float64)
    counted = np.append(0.0, np.cumsum(folded))
    squared = np.append(0.0, np.cumsum(folded * seen.centers[BINS:] ** 2))
    index = np.minimum(np.rint(np.ldexp(step / 2, -seen.exponent)), BINS).astype(np.int64)
    return squared[index] + (inside - counted[index]) * step**2 / 12


def _tail(
    centers: NDArray[np.float64], counts: NDArray[np.int64], ends: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Σ n·(x − end)² and Σ n over the bins whose center lies above each end."""
    weights = counts.astype(np.float64)
    sums = [
        np.append(np.cumsum((weights * centers**power)[::-1])[::-1], 0.0) for power in (0, 1, 2)
    ]
    index = np.searchsorted(centers, ends, side="right")
    s0, s1, s2 = (s[index] for s in sums)
    return np.maximum(s2 - 2 * ends * s1 + ends**2 * s0, 0.0), s0.astype(np.int64)


def _least_divergence(seen: Histogram, limits: Range, levels: int) -> Range:
    """Both ends shrink together; the clipped distribution is compared with its levelled form.

    Ranges that clip more than one value in a thousand do not compete: where values gather at few
    places, the divergence tells of these places and not of what is lost.
    """
    best, least = limits, np.inf
    half = np.ldexp(0.5, seen.exponent)
    for index in range(_GRID, 0, -1):
        range_ = Range(limits.lo * index / _GRID, limits.hi * index / _GRID)
        outside = (seen.centers < range_.lo - half) | (seen.centers > range_.hi + half)
        if seen.counts[outside].sum() > _CLIPPED * (seen.counts.sum() + seen.zeros):
            break
        divergence = _divergence(seen, range_, levels)
        if divergence < least:
            best, least = range_, divergence
    return best


def _divergence(seen: Histogram, range_: Range, levels: int) -> float:
    """Σ p·log(p / q): p with the clipped values in its outermost bins, q levelled without."""
    half = np.ldexp(0.5, seen.exponent)
    inside = np.flatnonzero((seen.centers + half > range_.lo) & (seen.centers - half <= range_.hi))
    if inside.size < levels:
        return np.inf
    start, stop = int(inside[0]), int(inside[-1]) + 1
    kept = seen.counts[start:stop].astype(np.float64)
    clipped = kept.copy()
    clipped[0] += seen.counts[:start].sum()
    clipped[-1] += seen.counts[stop:].sum()
    step = (range_.hi - range_.lo) / (levels - 1)
    level = np.rint((seen.centers[start:stop] - range_.lo) / step).astype(np.int64)
    level = np.clip(level, 0, levels - 1)
    occupied = kept > 0
    sums = np.bincount(level, kept, levels)
    bins = np.bincount(level, occupied, levels)
    levelled = np.where(occupied, sums[level] / np.maximum(bins[level], 1), 0.0)
    p, q = clipped / clipped.sum(), levelled / levelled.sum() if levelled.any() else levelled
    present = p > 0
    floor = 1e-12
    return float(np.sum(p[present] * np.log(p[present] / np.maximum(q[present], floor))))


def observe(
    graph: Graph, names: Iterable[str], samples: Samples, *, bins: bool
) -> dict[str, Histogram]:
    """Run all samples through a float graph and return what the named values took.

    Raises:
        RangeOverflow: a value became NaN or infinite; names it.
    """
    wanted = frozenset(names)
    simulation = Simulation(graph, rounded=False)
    found = {name: Histogram(bins=bins) for name in sorted(wanted)}
    for index, inputs in enumerate(samples.inputs()):
        for name, array in simulation.outputs(inputs, wanted).items():
            try:
                found[name].add(array)
            except RangeOverflow as error:
                value = graph.value(name)
                raise RangeOverflow(
                    f"the value `{value.source or name}` is not finite",
                    at=f"sample {index}",
                    have=error.have,
                    hint="the samples may not be scaled as in training",
                ) from error
    return found
