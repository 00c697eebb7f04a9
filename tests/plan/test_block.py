"""Blocks in plain C for cores with many registers."""

from __future__ import annotations

import pytest

from binpoint.plan.arrange import arrange
from binpoint.target import load_target, microcontroller
from tests.plan.layers import OPTIONS, agree, conv, dense, sketch

DEVICE = microcontroller(load_target("rv32imc"))


def test_convolutions_and_products_are_taken() -> None:
    steps = [
        p
        for n in range(3)
        for p in arrange(sketch(n, 8, (conv, dense)).graph, OPTIONS, DEVICE).steps
    ]
    calls = [p.call for p in steps if p.call.variant == "block"]
    assert {c.stem for c in calls} == {"conv", "dense"}
    assert {dict(c.traits)["direct"] for c in calls} == {"", "direct"}


def test_blocks_equal_the_reference() -> None:
    for seed in range(2):
        agree(sketch(seed, 12, (conv, dense)), "rv32imc", core=False)


@pytest.mark.needs("riscv64-unknown-elf-gcc", "qemu-system-riscv32")
def test_blocks_equal_the_reference_on_the_core() -> None:
    for seed in range(2, 4):
        agree(sketch(seed, 12, (conv, dense)), "rv32imc", core=True)
