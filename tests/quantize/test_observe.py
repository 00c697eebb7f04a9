"""Observers: exact ends, bins that grow without a second look, and what each method chooses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binpoint.errors import RangeOverflow
from binpoint.quantize.observe import BINS, Histogram, Method, Policy, Range, observe
from tests.quantize.nets import mlp, normal


def seen(*parts: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> Histogram:
    histogram = Histogram(bins=True)
    for part in parts:
        histogram.add(part)
    return histogram


def choose(histogram: Histogram, method: Method, percent: float = 99.0) -> Range:
    return histogram.choose(Policy(method, percent))


@given(
    st.lists(
        st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=20), max_size=5
    )
)
def test_every_value_is_counted_once_in_the_bin_that_holds_it(rows: list[list[float]]) -> None:
    arrays = [np.array(row, np.float32) for row in rows]
    histogram = seen(*arrays)
    values = np.concatenate([np.zeros(0, np.float32), *arrays]).astype(np.float64)
    assert histogram.zeros == np.count_nonzero(values == 0)
    nonzero = values[values != 0]
    if nonzero.size:
        edges = np.ldexp(np.arange(-BINS, BINS + 1, dtype=np.float64), histogram.exponent)
        index = np.searchsorted(edges, nonzero, side="right") - 1
        assert np.array_equal(histogram.counts, np.bincount(index, minlength=2 * BINS))
    assert histogram.range == Range(min(0.0, *values, 0.0), max(0.0, *values, 0.0))


def test_the_order_of_arrays_does_not_matter(rng: np.random.Generator) -> None:
    parts = [rng.normal(scale=10.0**k, size=100).astype(np.float32) for k in range(-3, 3)]
    up, down = seen(*parts), seen(*parts[::-1])
    assert up.exponent == down.exponent
    assert np.array_equal(up.counts, down.counts)


def test_at_least_half_of_one_side_is_used(rng: np.random.Generator) -> None:
    histogram = seen(rng.normal(size=1000).astype(np.float32))
    used = np.flatnonzero(histogram.counts)
    assert max(BINS - used[0], used[-1] - BINS + 1) >= BINS // 2


def test_zero_is_always_within() -> None:
    histogram = seen(np.array([3.0, 5.0]))
    for method in Method:
        assert choose(histogram, method).lo == 0.0


def test_minmax_is_exact_without_bins(rng: np.random.Generator) -> None:
    values = rng.normal(size=1000).astype(np.float32)
    histogram = Histogram(bins=False)
    histogram.add(values)
    assert choose(histogram, Method.MINMAX) == Range(float(values.min()), float(values.max()))
    assert histogram.counts.size == 0


@pytest.mark.parametrize("percent", [50.0, 90.0, 99.0, 99.9])
@pytest.mark.parametrize("symmetric", [False, True])
def test_percentile_keeps_the_stated_part(
    rng: np.random.Generator, percent: float, symmetric: bool
) -> None:
    values = rng.normal(size=100_000).astype(np.float32)
    histogram = seen(values)
    range_ = histogram.choose(Policy(Method.PERCENTILE, percent, symmetric))
    kept = np.mean((values >= range_.lo) & (values <= range_.hi)) * 100
    assert percent - 0.01 <= kept <= percent + 0.5


def test_least_error_is_least(rng: np.random.Generator) -> None:
    """Against the true error of rounding to 256 levels, over all ranges tried."""
    values = rng.laplace(size=50_000).astype(np.float32)
    range_ = choose(seen(values), Method.MSE)

    def error(lo: float, hi: float) -> float:
        step = (hi - lo) / 255
        rounded = np.rint(np.clip(values, lo, hi) / step) * step
        return float(np.mean((values - rounded) ** 2))

    full = Range(float(values.min()), float(values.max()))
    part = np.arange(4, 65) / 64
    best = min(error(full.lo * a, full.hi * b) for a in part for b in part[::4])
    assert error(range_.lo, range_.hi) <= best * 1.02
    assert error(range_.lo, range_.hi) < error(full.lo, full.hi)


def test_an_outlier_is_cut_by_all_but_minmax(rng: np.random.Generator) -> None:
    values = np.append(rng.exponential(0.5, 1_000_000), [64.0]).astype(np.float32)
    histogram = seen(values)
    assert choose(histogram, Method.MINMAX).hi == 64.0
    for method in (Method.PERCENTILE, Method.MSE, Method.ENTROPY):
        assert choose(histogram, method).hi < 32.0


def test_nothing_is_cut_where_levels_hold_all() -> None:
    values = np.arange(256, dtype=np.float32)
    histogram = seen(np.repeat(values, 10))
    for method in (Method.MSE, Method.ENTROPY):
        assert choose(histogram, method).hi == 255.0


def test_symmetric_ranges_reach_equally_far(rng: np.random.Generator) -> None:
    histogram = seen(rng.exponential(size=10_000).astype(np.float32))
    for method in Method:
        range_ = histogram.choose(Policy(method, 99.0, symmetric=True))
        assert range_.lo == -range_.hi
        assert range_.hi > 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(RangeOverflow):
        Histogram(bins=True).add(np.array([1.0, value]))


def test_only_the_named_values_are_observed(rng: np.random.Generator) -> None:
    graph = mlp(rng)
    samples = normal(graph, rng, 10)
    found = observe(graph, ["x", graph.outputs[0]], samples, bins=False)
    assert set(found) == {"x", graph.outputs[0]}
    x = samples.arrays["x"]
    assert (found["x"].lo, found["x"].hi) == (float(x.min()), float(x.max()))
