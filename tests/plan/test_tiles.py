"""Weights in planes of bits: the same integers by every kernel, in less flash, by price."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from binpoint.ir.graph import Value
from binpoint.ir.kernel import KernelCall
from binpoint.numeric.fixed import I8, U8
from binpoint.ops.conv import IntConv, IntDepthwise
from binpoint.ops.dense import IntDense
from binpoint.ops.requantize import DyadicRequantize
from binpoint.ops.window import Window
from binpoint.options import CompileOptions
from binpoint.plan.arrange import arrange
from binpoint.target import load_target, microcontroller
from tests import laws
from tests.ops.integer_cases import SUM
from tests.ops.sketch import Sketch
from tests.plan.layers import agree, stored, window

ALWAYS = CompileOptions(planner="greedy", packed_weights="always")
TARGETS = ("cortex-m4", "cortex-m55", "cortex-m0plus", "rv32imc")
ARM = ("arm-none-eabi-gcc", "qemu-system-arm")


def narrow(s: Sketch, *shape: int) -> Value:
    """Weights of one to seven bits, from any code on."""
    bits = s.number(1, 7)
    least = s.pick(-(2 ** (bits - 1)), -(2 ** (bits - 1)), 0, -s.number(0, 2**bits - 1))
    return s.constant(s.codes(shape, least, least + 2**bits - 1))


def channels(s: Sketch) -> int:
    return s.pick(s.number(1, 12), 16, 16, 24, 32, 48)


def conv(s: Sketch) -> Value:
    spatial = tuple(s.number(1, 6) for _ in range(s.number(1, 2)))
    groups = s.pick(1, 1, 1, 2)
    depth = s.pick(1, 2, 3, 5, 8, 16)
    x = s.input((s.number(1, 2), *spatial, groups * depth), s.type(s.storage(I8, U8)))
    view = window(s, spatial, dilated=True)
    count = channels(s) if groups == 1 else 16
    w = narrow(s, count, *view.kernel, depth)
    return stored(s, s.add(IntConv(view, groups, x.elem.zero_point, SUM), x, w, s.bias(count)))


def dense(s: Sketch) -> Value:
    depth, count = s.pick(s.number(1, 70), 16, 32, 64), channels(s)
    x = s.input((s.pick(1, 1, s.number(2, 5)), depth), s.type(s.storage(I8, I8, U8)))
    return stored(s, s.add(IntDense(SUM), x, narrow(s, count, depth), s.bias(count)))


def depthwise(s: Sketch) -> Value:
    spatial = tuple(s.number(1, 9) for _ in range(s.number(1, 2)))
    count = s.number(1, 26)
    x = s.input((s.number(1, 2), *spatial, count), s.type(s.storage(I8, U8)))
    view = window(s, spatial, dilated=False)
    op = IntDepthwise(view, count, x.elem.zero_point, SUM)
    return stored(s, s.add(op, x, narrow(s, *view.kernel, count), s.bias(count)))


def layers(seed: int, count: int = 14) -> Sketch:
    """Layers side by side, whose scratch memory leaves others room for whole weights."""
    s = Sketch(Random(seed))
    for _ in range(count):
        for case in (conv, dense, depthwise):
            s.output(case(s))
    s.prove()
    return s


def calls(s: Sketch, target: str, options: CompileOptions) -> list[KernelCall]:
    program = arrange(s.graph, options, laws.unpriced(target))
    return [step.call for step in program.steps]


def test_every_kind_of_kernel_unpacks_every_width() -> None:
    found = [
        (call, call.expanded)
        for target in TARGETS
        for call in calls(layers(0), target, ALWAYS)
        if call.expanded is not None
    ]
    kinds = {(call.variant, call.stem) for call, _ in found}
    assert kinds >= {
        ("", "conv"), ("", "dense"), ("", "depthwise"), ("block", "conv"), ("block", "dense"),
        ("dsp", "conv"), ("dsp", "dense"), ("dsp", "depthwise"), ("mve", "conv"), ("mve", "dense"),
    }  # fmt: skip
    assert {e.bits for _, e in found} == set(range(1, 8))
    assert {e.lanes for _, e in found} == {"bytes", "halfwords"}
    assert {e.unit for _, e in found} == {4, 16}
    for variant in ("", "dsp", "block", "mve"):
        sliced = [dict(call.traits) for call, _ in found if call.variant == variant and call.slices > 1]
        assert any("apart" in traits for traits in sliced), variant
    assert any(call.slices > 1 and "apart" not in dict(call.traits) for call, _ in found)


@pytest.mark.parametrize("target", TARGETS)
def test_unpacked_weights_are_the_weights(target: str) -> None:
    agree(layers(1), target, core=False, options=ALWAYS)


@pytest.mark.needs(*ARM)
@pytest.mark.needs("riscv64-unknown-elf-gcc", "qemu-system-riscv32")
@pytest.mark.parametrize("target", TARGETS)
def test_cores_unpack_them_too(target: str) -> None:
    agree(layers(2), target, core=True, options=ALWAYS)


def net(bits: int, sizes: tuple[int, ...] = (64, 64, 64), pixels: int = 8) -> Sketch:
    """Pointwise layers one after the other, of weights that use `bits`."""
    s = Sketch(Random(bits), "net")
    x = s.input((1, pixels, pixels, 64), s.type(I8))
    one = Window((1, 1), (1, 1), (0, 0), (0, 0), (1, 1))
    half = 2 ** (bits - 1)
    for count in sizes:
        w = s.constant(s.codes((count, 1, 1, x.shape[-1]), -half, half - 1))
        acc = s.build.one(IntConv(one, 1, 0, SUM), x, w, s.bias(count))
        x = s.build.one(DyadicRequantize((9,), (13,), s.type(I8), -128, 127), acc)
    s.graph.outputs = (x.name,)
    s.prove()
    return s


