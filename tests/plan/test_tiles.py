"""Weights in planes of bits: the same integers by every kernel, in less flash, by price."""

from __future__ import annotations

from random import Random

import pytest

from binpoint.ir.graph import Value
from binpoint.ir.kernel import KernelCall
from binpoint.numeric.fixed import I8, U8, FixedType
from binpoint.ops.conv import IntConv, IntDepthwise
from binpoint.ops.dense import IntDense
from binpoint.ops.pooling import IntMaxPool
from binpoint.ops.requantize import DyadicRequantize
from binpoint.ops.window import Window
from binpoint.options import CompileOptions
from binpoint.plan.arrange import arrange
from binpoint.plan.program import Program
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


def layers(seed: int, count: int = 2) -> Sketch:
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
        for call in calls(layers(0, 10), target, ALWAYS)
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
        sliced = [
            dict(call.traits) for call, _ in found if call.variant == variant and call.slices > 1
        ]
        assert any("apart" in traits for traits in sliced), variant
    assert any(call.slices > 1 and "apart" not in dict(call.traits) for call, _ in found)


def test_unpacked_weights_are_the_weights() -> None:
    agree(layers(1), "cortex-m4", core=False, options=ALWAYS)


@pytest.mark.slow
@pytest.mark.needs(*ARM)
@pytest.mark.needs("riscv64-unknown-elf-gcc", "qemu-system-riscv32")
@pytest.mark.parametrize("target", [*TARGETS, "cortex-m3", "cortex-m33"])
def test_every_core_unpacks_many(target: str) -> None:
    for seed in (3, 4):
        agree(layers(seed, 12), target, core=True, options=ALWAYS)
        agree(layers(seed, 12), target, core=False, options=ALWAYS)


def net(bits: int, pixels: int = 8) -> Sketch:
    """A pool, which needs most memory, then pointwise layers of weights that use `bits`."""
    s = Sketch(Random(bits), "net")
    wide = s.input((1, 2 * pixels, 2 * pixels, 16), FixedType.per_tensor(I8, SUM.scale))
    x = pointwise(s, wide, 32, 8)
    x = s.build.one(IntMaxPool(Window((2, 2), (2, 2), (0, 0), (0, 0), (1, 1))), x)
    for count in (64, 64, 32):
        x = pointwise(s, x, count, bits)
    s.graph.outputs = (x.name,)
    return s


def pointwise(s: Sketch, x: Value, count: int, bits: int) -> Value:
    half = 2 ** (bits - 1)
    w = s.constant(s.codes((count, x.shape[-1]), -half, half - 1))
    acc = s.build.one(IntDense(SUM), x, w, s.bias(count))
    return s.build.one(DyadicRequantize((9,), (13,), x.elem, -128, 127), acc)


WEIGHTS = 32 * 64 + 64 * 64 + 64 * 32


def plan(s: Sketch, target: str, **options: object) -> Program:
    device = microcontroller(load_target(target))
    return arrange(s.graph, CompileOptions(planner="greedy", **options), device)  # pyright: ignore


def widths(program: Program) -> list[int]:
    """Of the weights that each step unpacks, 0 for none."""
    found = (step.call.expanded for step in program.steps)
    return [0 if e is None else e.bits for e in found]


@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m55", "cortex-m0plus"])
@pytest.mark.parametrize("bits", [6, 3])
def test_weights_take_their_bits_in_memory_that_is_free(target: str, bits: int) -> None:
    s = net(bits)
    bytes_, packed = plan(s, target, packed_weights="never"), plan(s, target)
    assert widths(packed) == [0, 0, bits, bits, bits]
    before = 4 if (target, bits) == ("cortex-m4", 3) else 8
    assert bytes_.constant_bytes - packed.constant_bytes == WEIGHTS * (before - bits) // 8
    assert packed.arena_bytes == bytes_.arena_bytes
    cycles = bytes_.planned_cycles, packed.planned_cycles
    assert cycles[0] is not None
    assert cycles[1] is not None
    assert cycles[1] <= cycles[0] * 1.1


def test_a_layer_of_one_window_pays_where_flash_is_what_counts() -> None:
    """Of one window every weight is unpacked for one product, in memory for eight channels."""
    s = net(6, pixels=1)
    assert not any(widths(plan(s, "cortex-m4")))
    assert widths(plan(s, "cortex-m4", packed_weights="always"))[2:] == [6, 6, 6]


def test_digits_that_cost_more_than_planes_become_planes() -> None:
    """On cores with digits of two bits both take as much flash; slices widen the operand anew."""
    s = net(2)
    program, digits = plan(s, "cortex-m4"), plan(s, "cortex-m4", packed_weights="never")
    assert widths(program)[2:] == [2, 0, 2]
    assert program.constant_bytes == digits.constant_bytes
    assert (program.planned_cycles or 0) < (digits.planned_cycles or 0)


def test_the_arena_grows_for_much_flash_alone() -> None:
    s = Sketch(Random(3), "even")
    x = s.input((1, 16, 16, 64), FixedType.per_tensor(I8, SUM.scale))
    for _ in range(4):
        x = pointwise(s, x, 64, 4)
    s.graph.outputs = (x.name,)
    free, grown, ram = (
        plan(s, "cortex-m0plus", packed_weights=weights, optimize=optimize)
        for weights, optimize in (("never", "speed"), ("auto", "speed"), ("auto", "ram"))
    )
    assert widths(grown) == [4, 4, 4, 4]
    more = grown.arena_bytes - free.arena_bytes
    assert 0 < more <= free.arena_bytes // 16
    assert free.constant_bytes - grown.constant_bytes == 4 * 64 * 64 // 2
    assert ram.arena_bytes == free.arena_bytes
    assert widths(ram) == [4, 0, 0, 4]


def test_weights_of_eight_bits_stay_as_they_are() -> None:
    assert not any(widths(plan(net(8), "cortex-m4", packed_weights="always")))
