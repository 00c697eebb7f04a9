"""Weights of few bits: nearer in what they sum to than each weight rounded by itself."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from binpoint.numeric.dyadic import Dyadic
from binpoint.ops.conv import IntConv, IntDepthwise
from binpoint.ops.rescale import accumulator
from binpoint.ops.window import Window
from binpoint.quantize.compensate import Floats, Moments, compensated, operands, total

_KIND = accumulator([Dyadic.one()], 4)


def correlated(rng: np.random.Generator, groups: int, depth: int) -> Floats:
    """Operands ``[positions, G, K]`` that tell much of each other, none negative."""
    few = rng.exponential(size=(600, groups, max(2, depth // 4)))
    return np.abs(few @ rng.normal(size=(few.shape[2], depth)) + rng.normal(size=depth)) + 0.1


def sums(x: Floats, weights: Floats) -> Floats:
    """``[positions, O]``."""
    groups = x.shape[1]
    rows = weights.reshape(groups, -1, x.shape[2])
    return np.einsum("pgk,gok->pgo", x, rows).reshape(len(x), -1)


def spread(off: Floats) -> float:
    return float(((off - off.mean(axis=0)) ** 2).sum())


def plain(weights: Floats, bits: int) -> Floats:
    """Each weight rounded to the step of its channel that has the least squared error."""
    most = 2 ** (bits - 1) - 1
    best = np.zeros_like(weights)
    for part in np.linspace(1, 0.2, 81):
        step = np.abs(weights).max(axis=1, keepdims=True) * part / most
        made = np.clip(np.rint(weights / step), -most, most) * step
        nearer = ((made - weights) ** 2).sum(1) < ((best - weights) ** 2).sum(1)
        best = np.where(nearer[:, None], made, best)
    return best


@pytest.mark.parametrize(("groups", "count", "depth"), [(1, 12, 24), (6, 6, 9), (3, 6, 8)])
def test_sums_are_nearer_than_with_each_weight_rounded(groups: int, count: int, depth: int) -> None:
    rng = np.random.default_rng(0)
    x = correlated(rng, groups, depth)
    weights = np.rint(rng.normal(0, 30, (count, depth)))
    for bits in (3, 4, 6):
        made = compensated(weights, Moments.of(x, x), (bits,))[bits]
        assert np.abs(made.codes).max() <= 2 ** (bits - 1) - 1
        found = made.codes * made.steps[:, None]
        exact = sums(x, weights)
        off = sums(x, found) - exact
        assert spread(off) < 0.7 * spread(sums(x, plain(weights, bits)) - exact)
        assert made.shift == pytest.approx(-off.mean(axis=0))
        assert made.error * len(x) == pytest.approx(((off - off.mean(0)) ** 2).sum(0), abs=1e-6)
        assert made.loss == pytest.approx((spread(off) / spread(exact)) ** 0.5)


def test_no_single_code_can_be_better() -> None:
    """Nor a pair of two weights of the smallest case, tried out."""
    rng = np.random.default_rng(1)
    x = correlated(rng, 1, 2)
    weights = rng.normal(0, 30, (5, 2))
    made = compensated(weights, Moments.of(x, x), (3,))[3]
    exact = sums(x, weights)
    for row in range(5):
        tried = [
            spread(x[:, 0] @ np.array(codes) * made.steps[row] - exact[:, row])
            for codes in itertools.product(range(-3, 4), repeat=2)
        ]
        ours = spread(x[:, 0] @ made.codes[row] * made.steps[row] - exact[:, row])
        # The sums are damped a little on the way.
        assert ours <= 1.1 * min(tried) + 1e-6


def test_weights_make_up_for_operands_of_fewer_bits() -> None:
    rng = np.random.default_rng(2)
    x = correlated(rng, 1, 16)
    coarse = np.minimum(np.rint(x / 2) * 2, 6)
    weights = np.rint(rng.normal(0, 30, (8, 16)))
    made = [compensated(weights, m, (8,))[8] for m in (Moments.of(x, x), Moments.of(x, coarse))]
    exact = sums(x, weights)
    off = [spread(sums(coarse, m.codes * m.steps[:, None]) - exact) for m in made]
    assert off[1] < 0.7 * off[0]


def test_moments_add_up() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 50, 3, 4))
    parts = total([Moments.of(x[:20], y[:20]), Moments.of(x[20:], y[20:])])
    whole = Moments.of(x, y)
    assert parts.count == whole.count
    for name in ("old", "new", "cross", "gram"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_operands_have_the_order_of_the_weights(groups: int) -> None:
    rng = np.random.default_rng(4)
    window = Window((3, 2), (2, 1), (1, 0), (1, 1), (1, 1))
    x = rng.integers(-9, 9, (1, 5, 6, 4))
    mask = np.ones(window.outputs((5, 6)), bool)
    rows = rng.integers(-9, 9, (8, 6 * 4 // groups))
    op = (IntDepthwise if groups == 4 else IntConv)(window, groups, 0, _KIND)
    shape = (3, 2, 8) if groups == 4 else (8, 3, 2, 4 // groups)
    (exact,) = op.reference(x, op.unrowed(rows, shape), np.zeros(8, np.int64))
    found = sums(operands(x.astype(float), mask, 1000, window, groups), rows.astype(float))
    assert np.array_equal(found, exact.reshape(-1, 8))
    assert len(operands(x.astype(float), mask, 7, window, groups)) == 7
    whole = operands(x.astype(float), np.ones((5, 6), bool), 99)
    assert np.array_equal(whole[:, 0], x.reshape(-1, 4))
