"""Requantizers as stores: equal to the op on every operand within reach."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from binpoint.ir.constant import Constant
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import FixedType, IntType
from binpoint.numeric.interval import Interval
from binpoint.ops.requantize import DyadicRequantize, OnnxruntimeRequantize
from binpoint.plan.staircase import requantized
from binpoint.plan.store import Store

Ints = NDArray[np.int64]


def apply(store: Store, x: Ints, channel: int) -> Ints:
    """What the emitted function of a mulshift or thresholds store computes for one channel."""

    def row(constant: Constant | None) -> Ints:
        assert constant is not None
        array: Ints = constant.array
        return array[channel if len(array) > 1 else 0]

    if store.form == "thresholds":
        return store.lo + (x[:, None] >= row(store.thresholds)).sum(axis=1)
    assert store.form == "mulshift"
    assert store.total is not None
    m, k, s = (int(row(c)) for c in (store.multiplier, store.offset, store.shift))
    total = x * m + k
    assert store.total.min <= total.min()
    assert total.max() <= store.total.max
    y = np.clip(total >> s, store.lo - 1, store.hi + 1)
    if store.even:
        y -= ((total & ((1 << s) - 1)) == 0) & (((y ^ store.zero) & 1) == 1)
    for listed, sign in ((store.ups, 1), (store.downs, -1)):
        if listed is not None:
            y += sign * (x[:, None] == row(listed)).sum(axis=1)
    return np.clip(y, store.lo, store.hi)


def kind(width: int, zero: int) -> FixedType:
    storage = IntType(width, signed=True)
    return FixedType.per_tensor(storage, Dyadic.one(), max(storage.min, min(zero, storage.max)))


scales = st.floats(2.0**-18, 2.0, width=32)
reaches = st.integers(1, 4000)


@given(
    st.lists(st.tuples(scales, reaches), min_size=1, max_size=4),
    st.integers(-128, 127),
    st.sampled_from([2, 4, 5, 8]),
)
def test_a_runtime_requantizer_is_equal_on_everything_within_reach(
    channels: list[tuple[float, int]], zero: int, width: int
) -> None:
    target = kind(width, zero)
    reach = tuple((-n, n + 7) for _, n in channels)
    factors = tuple(float(np.float32(s)) for s, _ in channels)
    storage = target.storage
    op = OnnxruntimeRequantize(factors, reach, target, storage.min, storage.max).proved()
    store = requantized(op, Interval(min(lo for lo, _ in reach), max(hi for _, hi in reach)))
    assert store.result.width <= storage.width
    for channel, (lo, hi) in enumerate(reach):
        x = np.arange(lo, hi + 1)
        (want,) = op.reference(np.repeat(x[:, None], len(reach), axis=1))
        assert np.array_equal(apply(store, x, channel), want[:, channel])


@given(st.integers(1, 2**20), st.integers(1, 30), st.integers(-128, 127), st.integers(1, 5000))
def test_a_dyadic_requantizer_is_equal_on_everything_within_reach(
    multiplier: int, shift: int, zero: int, reach: int
) -> None:
    target = kind(8, zero)
    op = DyadicRequantize((multiplier,), (shift,), target, -128, 127)
    x = np.arange(-reach, reach + 1)
    (want,) = op.reference(x)
    store = requantized(op, Interval(-reach, reach))
    assert np.array_equal(apply(store, x, 0), want)


@pytest.mark.parametrize("bits", [4, 6, 10])
def test_exact_ties_go_to_even_by_a_rule_and_not_by_a_list(bits: int) -> None:
    reach = ((-(100 << bits), 100 << bits),)
    op = OnnxruntimeRequantize((2.0**-bits,), reach, kind(8, 3), -128, 127).proved()
    store = requantized(op, Interval(*reach[0]))
    assert store.even
    assert (store.ups, store.downs) == (None, None)
    x = np.arange(reach[0][0], reach[0][1] + 1)
    assert np.array_equal(apply(store, x, 0), op.reference(x[:, None])[0][:, 0])


def test_a_multiplier_is_no_wider_than_its_proof_needs() -> None:
    op = OnnxruntimeRequantize((0.29,), ((-40, 40),), kind(8, 0), -128, 127).proved()
    store = requantized(op, Interval(-40, 40))
    assert store.multiplier is not None
    assert int(store.multiplier.array[0]).bit_length() <= 8
