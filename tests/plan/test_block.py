"""Blocks in plain C for cores with many registers."""

from __future__ import annotations

from random import Random

import pytest

from binpoint.numeric.fixed import I8
from binpoint.ops.dense import IntDense
from binpoint.plan.arrange import arrange
from binpoint.target import load_target, microcontroller
from tests import laws
from tests.ops.integer_cases import SUM
from tests.ops.sketch import Sketch
from tests.plan.layers import OPTIONS, agree, conv, dense, sketch

TARGETS = ("rv32imc", "cortex-m3")


@pytest.mark.parametrize("target", TARGETS)
def test_convolutions_and_products_are_taken(target: str) -> None:
    device = laws.unpriced(target)
    steps = [
        p
        for n in range(3)
        for p in arrange(sketch(n, 8, (conv, dense)).graph, OPTIONS, device).steps
    ]
    calls = [p.call for p in steps if p.call.variant == "block"]
    assert {c.stem for c in calls} == {"conv", "dense"}
    assert {dict(c.traits)["direct"] for c in calls} == {"", "direct"}


def test_a_vector_stays_portable_where_registers_are_few() -> None:
    device = microcontroller(load_target("cortex-m3"))
    s = Sketch(Random(1))
    x = s.input((1, 16), s.type(I8))
    s.output(s.add(IntDense(SUM), x, s.constant(s.codes((4, 16), -9, 9)), s.bias(4)))
    (step,) = arrange(s.graph, OPTIONS, device).steps
    assert step.call.variant == ""


@pytest.mark.parametrize("target", TARGETS)
def test_blocks_equal_the_reference(target: str) -> None:
    for seed in range(2):
        agree(sketch(seed, 12, (conv, dense)), target, core=False)


@pytest.mark.needs("riscv64-unknown-elf-gcc", "qemu-system-riscv32")
@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("target", TARGETS)
def test_blocks_equal_the_reference_on_the_core(target: str) -> None:
    for seed in range(2, 4):
        agree(sketch(seed, 12, (conv, dense)), target, core=True)
