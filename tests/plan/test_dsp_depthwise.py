"""Depthwise convolution with DSP instructions: packing on the host, instructions on the core."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
import pytest

from binpoint.ir.graph import Value
from binpoint.numeric.fixed import I8, U8, FixedType, IntType
from binpoint.ops.conv import IntDepthwise
from binpoint.ops.lookup import IntLookup
from binpoint.ops.requantize import DyadicRequantize, OnnxruntimeRequantize, Requantize
from binpoint.ops.window import Window
from binpoint.options import CompileOptions
from binpoint.plan.arrange import arrange
from tests import laws
from tests.ops.integer_cases import SUM, onnxruntime_requantizer
from tests.ops.sketch import Sketch

U4 = IntType(4, signed=False)


def requantizer(s: Sketch, channels: int, reach: int) -> Requantize:
    """Of a slope that uses the codes, per channel; powers of two meet ties."""
    kind = s.type(s.storage(I8, U8, U4))
    lo, hi = kind.storage.min, kind.storage.max
    if s.random.random() < 0.3:
        lo, hi = sorted((s.number(lo, hi), s.number(lo, hi)))
    top = (kind.storage.max - kind.storage.min) / reach
    slopes = [float(np.float32(top * 2.0 ** s.random.uniform(-3, 3))) for _ in range(channels)]
    if s.random.random() < 0.4:
        slopes = [float(2.0 ** np.floor(np.log2(slope))) for slope in slopes]
    if s.random.random() < 0.5:
        ends = ((-(2**30), 2**30),) * channels
        return OnnxruntimeRequantize(tuple(slopes), ends, kind, lo, hi)
    multipliers = tuple(min(int(slope * 2**26), 2**30) for slope in slopes)
    return DyadicRequantize(multipliers, (26,) * channels, kind, lo, hi)


def depthwise(s: Sketch, spatial: Sequence[int], kernel: Sequence[int]) -> Value:
    """Any window with any requantizer; now and then the operand may be overwritten."""
    groups, each = s.number(1, 5), s.pick(1, 1, 1, 2)
    x = s.input((s.pick(1, 1, 2), *spatial, groups), s.type(s.storage(I8, U8, U4)))
    if s.random.random() < 0.5 and x.elem.storage != U4:
        table = s.build.constant(s.codes((256,), x.elem.storage.min, x.elem.storage.max), x.elem)
        x = s.add(IntLookup(x.elem, x.elem.storage.min), x, table)
    pads = [(s.number(0, k - 1), s.number(0, k - 1)) for k in kernel]
    if s.random.random() < 0.4:
        pads = [(k // 2, (k - 1) // 2) for k in kernel]
    pads = [(max(p, k - n), a) for (p, a), k, n in zip(pads, kernel, spatial, strict=True)]
    strides = tuple(s.pick(1, 1, 2, 3) for _ in kernel)
    room = [2 if 2 * (k - 1) < n else 1 for k, n in zip(kernel, spatial, strict=True)]
    dilations = tuple(s.pick(1, 1, r) for r in room)
    before, after = (tuple(p[i] for p in pads) for i in (0, 1))
    window = Window(tuple(kernel), strides, before, after, dilations)
    w = s.constant(s.codes((*kernel, groups * each), -128, 127))
    op = IntDepthwise(window, groups, x.elem.zero_point, SUM)
    acc = s.add(op, x, w, s.bias(groups * each))
    if s.random.random() < 0.2:
        return s.add(onnxruntime_requantizer(s, acc.shape[-1], acc.interval), acc)
    reach = max(abs(acc.interval.lo), abs(acc.interval.hi), 1)
    return s.add(requantizer(s, acc.shape[-1], reach), acc)


def project(seed: int, count: int) -> Sketch:
    """Many shapes side by side, among them planes that are cut into bands."""
    s = Sketch(Random(seed))
    for _ in range(count):
        spatial = tuple(s.number(1, 9) for _ in range(s.number(1, 2)))
        s.output(depthwise(s, spatial, tuple(s.number(1, min(5, n + 2)) for n in spatial)))
    for kernel in ((3, 3), (3, 1), (1, 3), (3, 5)):
        s.output(depthwise(s, (s.number(48, 60), s.number(45, 50)), kernel))
        s.output(depthwise(s, (s.number(3, 9), s.number(5, 9)), kernel))
    s.prove()
    return s


DEVICE = laws.unpriced("cortex-m4")


def calls(s: Sketch) -> list[dict[str, str]]:
    """The traits of the calls with instructions."""
    program = arrange(s.graph, CompileOptions(planner="greedy"), DEVICE)
    return [dict(p.call.traits) for p in program.steps if p.call.variant == "dsp"]


def test_most_shapes_are_taken_in_every_form() -> None:
    found = [t for seed in range(3) for t in calls(project(seed, 30))]
    assert len(found) > 60
    for name, value in {
        "form": "packed", "stride": "2", "down": "3", "dilation": "2", "odd": "odd",
        "saturation": "usat8", "taps": "1",
    }.items():  # fmt: skip
        assert any(t[name] == value for t in found), name
    assert any(t["form"] == "general" for t in found)
    assert any(t["limit"] for t in found)
    assert any(not t["limit"] for t in found)
    assert any(t["lo"] or t["hi"] for t in found)


def test_a_result_takes_its_operands_memory() -> None:
    programs = [arrange(project(n, 30).graph, CompileOptions(), DEVICE) for n in range(2)]
    steps = [s for p in programs for s in p.steps if s.call.variant == "dsp"]
    assert any(s.in_place for s in steps)
    assert any(not s.in_place for s in steps)


def test_16_bits_and_wide_weights_stay_portable() -> None:
    s = Sketch(Random(1))
    wide = FixedType.per_tensor(IntType(16, signed=True), SUM.scale)
    x = s.input((1, 6, 6, 2), wide)
    window = Window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    op = IntDepthwise(window, 2, x.elem.zero_point, SUM)
    acc = s.add(op, x, s.constant(s.codes((3, 3, 2), -7, 7)), s.bias(2))
    s.output(s.add(requantizer(s, 2, 2**20), acc))
    assert calls(s) == []


@pytest.mark.parametrize("optimize", ["speed", "size"])
def test_the_twins_equal_the_reference(optimize: str) -> None:
    for seed in (1,):
        s = project(seed, 25)
        options = CompileOptions(
            optimize="speed" if optimize == "speed" else "size", planner="greedy"
        )
        inputs = laws.samples(s.graph, s.rng)
        values = laws.evaluated(s.graph, inputs)
        laws.law_4_kernels(s.graph, inputs, values, options, "cortex-m4")


@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m33"])
def test_the_instructions_equal_the_reference(target: str) -> None:
    for seed in (3,):
        s = project(seed, 25)
        inputs = laws.samples(s.graph, s.rng)
        values = laws.evaluated(s.graph, inputs)
        laws.law_8_instructions(s.graph, inputs, values, CompileOptions(planner="greedy"), target)


def test_symbols_determine_texts() -> None:
    texts: dict[str, str] = {}
    for seed in range(3):
        for optimize in ("speed", "size"):
            options = CompileOptions(
                optimize="speed" if optimize == "speed" else "size", planner="greedy"
            )
            laws.law_7_variants(arrange(project(seed, 12).graph, options, DEVICE), texts)
    assert len(texts) > 10
