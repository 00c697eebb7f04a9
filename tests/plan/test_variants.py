"""Kernels for instruction sets equal their ops: in portable C, and on the emulated core."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from binpoint.emit.environment import render_template
from binpoint.emit.mcu_c import BlockView, KernelView
from binpoint.ir.constant import Constant
from binpoint.ir.graph import Value
from binpoint.ir.kernel import KernelCall
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, I32, U8, FixedType, IntType
from binpoint.numeric.interval import Interval
from binpoint.ops.conv import IntConv
from binpoint.ops.dense import IntDense
from binpoint.ops.requantize import DyadicRequantize, OnnxruntimeRequantize, Requantize
from binpoint.ops.thresholds import IntThresholds
from binpoint.ops.window import Window
from binpoint.options import CompileOptions
from binpoint.plan.arrange import arrange
from binpoint.plan.variants.dsp_packing import Packing, packings
from binpoint.plan.variants.fixed import fixed
from tests import laws
from tests.ops.sketch import Sketch

SUM = FixedType.per_tensor(I32, Dyadic(1, -12))
ARM = ("arm-none-eabi-gcc", "qemu-system-arm")


def operand(s: Sketch, shape: tuple[int, ...]) -> Value:
    return s.input(shape, s.type(s.storage(I8, U8)))


def weights(s: Sketch, *shape: int) -> Value:
    """Mostly with a row of zeros somewhere; now and then with -128, which no pair holds.

    Others have four bits or two.
    """
    if narrow := s.pick(0, 0, 0, 8, 2):
        return s.constant(s.codes(shape, -narrow, narrow - 1))
    codes = s.codes(shape, -127, 127)
    codes[s.number(0, shape[0] - 1)] *= s.pick(0, 1)
    codes[s.number(0, shape[0] - 1)] //= s.pick(1, 1, 16)
    if s.number(0, 9) == 0:
        codes[:, ..., 0] = -128
    return s.constant(codes)


def bias(s: Sketch, count: int) -> Value:
    """Now and then all large, or one too large for anything but a result always the same."""
    most = s.pick(2**14, 2**14, 2**14, 2**24)
    codes = s.codes((count,), -most, most)
    if s.number(0, 3) == 0:
        codes[s.number(0, count - 1)] = s.pick(-1, 1) * 2**30
    return s.constant(codes, I32)


def channels(s: Sketch) -> int:
    return s.pick(s.number(1, 9), s.number(10, 20), 4, 8, 16, 24)


def dense(s: Sketch) -> Value:
    x = operand(s, (s.pick(1, 1, 2, s.number(3, 7)), s.pick(s.number(1, 70), 16, 24, 64)))
    count = channels(s)
    return s.add(IntDense(SUM), x, weights(s, count, x.shape[-1]), bias(s, count))


def window(s: Sketch, spatial: tuple[int, ...]) -> Window:
    """Also strides larger than the kernel, padding on one side, a kernel as large as the input."""
    kernel = tuple(s.pick(1, min(3, n), s.number(1, min(n, 5))) for n in spatial)
    before = tuple(s.pick(0, s.number(0, k - 1)) for k in kernel)
    after = tuple(s.pick(0, s.number(0, k - 1)) for k in kernel)
    most = [
        min(3, (n - 1) // (k - 1)) if k > 1 else 1 for k, n in zip(kernel, spatial, strict=True)
    ]
    dilations = tuple(s.pick(1, s.number(1, m)) for m in most)
    strides = tuple(s.pick(1, s.number(1, 4)) for _ in kernel)
    return Window(kernel, strides, before, after, dilations)


def conv(s: Sketch, turn: int) -> Value:
    """Each depth in its turn, now and then in groups."""
    plane = (s.number(3, 9), s.number(1, 9))
    spatial = s.pick(plane, plane, plane, (s.number(1, 12),), (s.number(100, 140),))
    depth = (1, 2, 3, 4, s.number(5, 9), 8, 16)[turn % 7]
    groups = s.pick(1, 1, 1, 2, 3) if depth > 1 else 1
    x = operand(s, (s.pick(1, 1, 2), *spatial, groups * depth))
    slid = window(s, spatial)
    zero = x.elem.zero_point if slid.padded else 0
    count = channels(s) if groups == 1 else groups * s.pick(4, 4, 8, 12, 16, 5)
    w = weights(s, count, *slid.kernel, depth)
    return s.add(IntConv(slid, groups, zero, SUM), x, w, bias(s, count))


def requantizer(s: Sketch, count: int, reach: Interval) -> Requantize:
    """Scales that make results of the sums; powers of two, which meet ties all the time."""
    storage = s.storage(I8, I8, U8, U8, IntType(4, signed=True))
    target = s.type(storage)
    span = max(abs(reach.lo), abs(reach.hi), 1)
    around = np.log2(storage.max - storage.min) - np.log2(span)
    each = s.pick(1, count)
    exponents = [around + s.random.uniform(0, 4) for _ in range(each)]
    if s.number(0, 2) == 0:
        exponents = [float(round(e)) for e in exponents]
    ends = sorted((s.number(storage.min, storage.max), s.number(storage.min, storage.max)))
    lo, hi = s.pick((storage.min, storage.max), (storage.min, storage.max), (ends[0], ends[1]))
    if s.number(0, 1) == 0:
        shifts = tuple(int(min(40, max(1, 24 - e))) for e in exponents)
        pairs = zip(exponents, shifts, strict=True)
        multipliers = tuple(max(1, int(2.0**e * 2**shift)) for e, shift in pairs)
        return DyadicRequantize(multipliers, shifts, target, lo, hi)
    scales = tuple(float(np.float32(2.0**e)) for e in exponents)
    op = OnnxruntimeRequantize(scales, ((reach.lo, reach.hi),) * each, target, lo, hi)
    return op.proved() if s.number(0, 1) else op


def stairs(s: Sketch, count: int, reach: Interval) -> IntThresholds:
    """Steps on no line, as a bent function between quantizers has them."""
    target = s.type(IntType(4, signed=True))
    lo, hi = target.storage.min, target.storage.max
    table = np.sort(s.codes((count, hi - lo), reach.lo, reach.hi), axis=1)
    ends = ((reach.lo, reach.hi),) * count
    signs = tuple(s.pick(1, 1, -1) for _ in range(count))
    table[np.array(signs) < 0] = -table[np.array(signs) < 0][:, ::-1]
    return IntThresholds(Constant(table), signs, ends, (), (), target, lo, hi)


def layers(seed: int, count: int) -> Sketch:
    """Layers side by side: most with results of eight bits, some with their sums."""
    sketch = Sketch(Random(seed), "variants")
    for turn in range(count):
        made = dense(sketch) if turn % 3 == 0 else conv(sketch, turn)
        if sketch.number(0, 5):
            op = (requantizer if turn % 16 else stairs)(sketch, made.shape[-1], made.interval)
            made = sketch.add(op, made)
        sketch.output(made)
    sketch.prove()
    return sketch


def calls(sketch: Sketch, target: str) -> list[KernelCall]:
    device = laws.unpriced(target)
    return [step.call for step in arrange(sketch.graph, CompileOptions(), device).steps]


def seen(sketches: list[Sketch], variant: str) -> set[str]:
    """The traits and epilogues of a variant's kernels."""
    target = {"dsp": "cortex-m4"}[variant]
    found = [c for s in sketches for c in calls(s, target) if c.variant == variant]
    words = {value for call in found for _, value in call.traits}
    return words | {call.epilogue.form for call in found if call.epilogue is not None}


SEEDS = range(5)


def test_the_layers_reach_every_form_of_kernel() -> None:
    words = seen([layers(seed, 50) for seed in SEEDS], "dsp")
    assert words >= {
        "wide", "tall", "rows", "columns", "pieces", "fixed", "sums", "clamp", "tail", "even",
        "tie", "mulhi", "thresholds", "moved", "across", "bytes", "n4", "n2", "grouped", "phases",
        "d1", "d2", "d3", "d4",
    }  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
def test_the_twins_equal_the_reference(seed: int) -> None:
    sketch = layers(seed, 50)
    inputs = laws.samples(sketch.graph, sketch.rng)
    values = laws.evaluated(sketch.graph, inputs)
    options = CompileOptions(optimize="speed" if seed % 2 else "size", planner="greedy")
    laws.law_4_kernels(sketch.graph, inputs, values, options, "cortex-m4")


@pytest.mark.needs(*ARM)
@pytest.mark.parametrize(
    ("seed", "target"), [*((s, "cortex-m4") for s in SEEDS), (5, "cortex-m33")]
)
def test_the_instructions_equal_the_reference(seed: int, target: str) -> None:
    sketch = layers(seed, 50)
    inputs = laws.samples(sketch.graph, sketch.rng, 6)
    values = laws.evaluated(sketch.graph, inputs)
    options = CompileOptions(optimize="size" if seed % 2 else "speed", planner="greedy")
    laws.law_8_instructions(sketch.graph, inputs, values, options, target)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(random=st.randoms(use_true_random=False))
def test_sixteen_bits_after_the_point_decide_all_but_the_window(random: Random) -> None:
    """By the constants alone, over sums at and near every threshold; some with a huge bias."""
    s = Sketch(random)
    span, bias = 2 ** s.number(6, 22), s.pick(0, 0, s.number(-(2**28), 2**28))
    reach = Interval(bias - span, bias + span)
    op = s.pick(requantizer(s, 1, reach), line(s, reach))
    lows, highs = np.full(2, reach.lo), np.full(2, reach.hi)
    found = fixed(op, np.stack([lows, highs]), np.full(2, bias), (8, 0))
    if found is None:
        return
    for c, least in ((0, 8), (1, 0)):
        sums = np.unique(np.clip(near_thresholds(s, op, reach), reach.lo, reach.hi))
        up = int(found.offsets[c] & 0xFF) + least
        inner = sums - found.moved[c]
        assert np.abs(inner).max() < 2 ** (32 - up) or found.settled[c]
        total = ((inner << up) * found.scales[c] >> 32) + found.offsets[c]
        assert np.abs(total).max() < 2**31
        decided = (total & 0xFFFF) >= found.window
        bias8 = -128 if op.result.storage.signed else 0
        made = np.clip((total >> 16) + bias8, op.lo, op.hi)
        (wanted,) = op.reference(sums[:, None])
        np.testing.assert_array_equal(made[decided], wanted[decided, 0])


def line(s: Sketch, reach: Interval) -> IntThresholds:
    """Steps of a line that is rounded to even, of any constant; often with ties."""
    target = s.type(s.storage(IntType(2, signed=False), IntType(4, signed=True), I8, U8))
    lo, hi, zero = target.storage.min, target.storage.max, target.zero_point
    factor = Fraction(hi - lo, reach.hi - reach.lo) * s.number(1, 4)
    constant = Fraction(s.number(-512, 512), s.pick(2, 64, 77))
    if s.number(0, 1):
        factor = Fraction(1, 2 ** s.number(2, 12))
        constant = factor * s.number(-64, 64) + s.pick(0, Fraction(1, 2))
    steps: list[int] = []
    for code in range(lo + 1, hi + 1):
        middle = code - zero - Fraction(1, 2) - constant
        first = ceil(middle / factor)
        odd = first * factor == middle and (code - zero) % 2 == 1
        steps.append(min(max(first + odd, reach.lo), reach.hi + 1))
    table = Constant(np.array([steps], np.int64))
    ends = ((reach.lo, reach.hi),)
    slopes, exact = (float(factor),), ((factor, constant),)
    return IntThresholds(table, (1,), ends, slopes, exact, target, lo, hi)


def near_thresholds(s: Sketch, op: Requantize, reach: Interval) -> list[int]:
    """Sums around those where the result changes, found by halving, and any others."""
    found = [int(v) for v in s.codes((200,), reach.lo, reach.hi)]
    for code in range(op.lo, op.hi + 1):
        low, high = reach.lo, reach.hi
        while low < high:
            middle = (low + high) // 2
            (result,) = op.reference(np.array([[middle]]))
            low, high = (low, middle) if result[0, 0] >= code else (middle + 1, high)
        found += [low - 1, low, low + 1]
    return found


def way(shape: str, name: str) -> Packing:
    (found,) = (w for w in packings(shape) if w.name == name)
    return found


def test_words_hold_pairs_of_rows() -> None:
    rng = np.random.default_rng(5)
    rows = rng.integers(-127, 128, (6, 2, 4))
    words = way("wide", "").pack(rows)
    assert words is not None
    assert words.shape == (2, 4, 2)
    lanes = words.view(np.int16).reshape(2, 4, 2, 2).transpose(0, 2, 1, 3).reshape(4, 8)
    low = lanes.astype(np.int8)
    padded = np.concatenate([rows.reshape(6, 8), np.zeros((2, 8), np.int64)])
    np.testing.assert_array_equal(low, padded[1::2])
    np.testing.assert_array_equal((lanes.astype(np.int64) - low) // 256, padded[0::2])


def test_a_pair_that_fits_no_lane_is_refused() -> None:
    pairs, apart = way("wide", ""), way("wide", "bytes")
    assert pairs.pack(np.array([[[-128, 1]], [[-1, 1]]])) is None
    assert pairs.pack(np.array([[[-128, 1]], [[0, 1]]])) is not None
    assert pairs.pack(np.array([[[0, 1]], [[128, 1]]])) is None
    assert apart.pack(np.array([[[-128, 1]], [[-1, 1]]])) is not None
    assert apart.pack(np.array([[[-129, 1]], [[-1, 1]]])) is None


@pytest.mark.parametrize(
    ("shape", "name", "bits"),
    [("wide", "n4", 4), ("wide", "n2", 2), ("tall", "n4", 4), ("tall", "n2", 2)],
)
def test_weights_below_a_byte_take_their_bits(shape: str, name: str, bits: int) -> None:
    half = 2 ** (bits - 1)
    rows = np.random.default_rng(6).integers(-half, half, (16, 3, 8))
    words = way(shape, name).pack(rows)
    assert words is not None
    assert 8 * words.nbytes == bits * rows.size
    assert way(shape, name).pack(rows * 2 - half) is None


def test_two_bits_of_two_steps_want_runs_of_four() -> None:
    rows = np.ones((4, 1, 6), np.int64)
    assert way("wide", "n2").pack(rows) is None
    assert way("wide", "n4").pack(rows) is not None
    assert way("tall", "n2").pack(rows) is not None


def test_symbols_determine_texts() -> None:
    texts: dict[str, str] = {}
    for seed in SEEDS:
        for call in calls(layers(seed, 50), "cortex-m4"):
            kernel = KernelView(call, "static")
            text = render_template("mcu-c", f"{call.variant or 'ops'}/{call.stem}.c.j2", k=kernel)
            assert texts.setdefault(call.symbol, text) == text, call.symbol
            for block in call.blocks:
                view = BlockView(block)
                text = render_template("mcu-c", f"{call.variant}/{block.stem}.c.j2", b=view)
                assert texts.setdefault(block.symbol, text) == text, block.symbol
