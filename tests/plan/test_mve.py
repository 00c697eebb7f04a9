"""Kernels with Helium: packing and algorithm on the host, instructions on the emulated core."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from binpoint.emit.mcu_c import render
from binpoint.ir.graph import Graph
from binpoint.ir.kernel import Number
from binpoint.numeric.fixed import I8, I16, FixedType
from binpoint.ops.conv import IntConv
from binpoint.ops.window import Window
from binpoint.options import CompileOptions
from binpoint.plan import arrange as arranging
from binpoint.plan.arrange import arrange
from binpoint.plan.fuse import Step
from binpoint.plan.kernels import choose
from binpoint.sim.host_c import WARNINGS
from binpoint.sim.tools import run_tool
from binpoint.target import McuTarget
from tests import laws
from tests.ops.integer_cases import SUM
from tests.ops.sketch import Sketch
from tests.plan.layers import OPTIONS, agree, requantizer, sketch

DEVICE = laws.unpriced("cortex-m55")


def test_all_kinds_and_forms_are_taken() -> None:
    steps = [p for n in range(6) for p in arrange(sketch(n).graph, OPTIONS, DEVICE).steps]
    calls = [p.call for p in steps if p.call.variant == "mve"]
    assert {c.stem for c in calls} == {
        "conv", "dense", "depthwise", "depthwise_lines", "add", "sum", "maxpool", "lookup", "copy",
        "outliers",
    }  # fmt: skip
    copies = {dict(c.traits)["form"] for c in calls if c.stem == "copy"}
    assert copies == {"runs", "gather", "spread"}
    forms = {dict(c.traits).get("lanes", "") for c in calls}
    assert forms >= {"s8", "u8", "any", "s8_tie", "u8_tie", "any_tie", "raw", "thin_s8_tie"}
    assert {dict(c.traits).get("direct") for c in calls} >= {"", "direct"}


@pytest.mark.parametrize("optimize", ["speed", "size"])
def test_the_twins_equal_the_reference(optimize: str) -> None:
    size = CompileOptions(planner="greedy", optimize="size")
    for seed in range(3):
        agree(
            sketch(seed), "cortex-m55", core=False, options=size if optimize == "size" else OPTIONS
        )


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
def test_the_instructions_equal_the_reference() -> None:
    for seed in range(10, 14):
        agree(sketch(seed), "cortex-m55", core=True)


def near_ties(
    steps: tuple[Step, ...], graph: Graph, target: McuTarget, options: CompileOptions
) -> tuple[Step, ...]:
    """The chosen kernels, whose lanes all are taken to be near a tie and settled one by one."""
    found: list[Step] = []
    for step in choose(steps, graph, target, options):
        if step.call.variant != "mve":
            found.append(step)
            continue
        arguments = tuple(
            replace(a, value=2**32 - 1) if isinstance(a, Number) and a.name == "near" else a
            for a in step.call.arguments
        )
        found.append(replace(step, call=replace(step.call, arguments=arguments)))
    return tuple(found)


@pytest.mark.parametrize(
    "core",
    [
        False,
        pytest.param(True, marks=pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")),
    ],
)
def test_settling_a_lane_that_is_no_tie_changes_nothing(
    core: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arranging, "choose", near_ties)
    agree(sketch(30), "cortex-m55", core=core)


CLANG = ("clang", "--target=arm-none-eabi", "-ffreestanding", "-fno-vectorize")


@pytest.mark.needs("clang")
@pytest.mark.parametrize("level", ["-O0", "-O2", "-Os"])
def test_clang_compiles_all_kinds(level: str, tmp_path: Path) -> None:
    """Without its vectorizer, which stops version 14 on loops of portable C."""
    program = arrange(sketch(0).graph, OPTIONS, DEVICE)
    for name, text in render(program, DEVICE, OPTIONS).files.items():
        if "/" not in name:
            (tmp_path / name).write_bytes(text)
    flags = (*DEVICE.toolchain.flags, level, "-std=c99", *WARNINGS, "-c", "-o", "made.o")
    run_tool([*CLANG, *flags, "laws.c"], timeout=120, cwd=tmp_path)
    assert (tmp_path / "made.o").is_file()


def test_what_lanes_cannot_hold_is_computed_in_plain_c() -> None:
    s = Sketch(Random(1))
    wide = FixedType.per_tensor(I16, SUM.scale)
    x = s.input((1, 6, 6, 2), wide)
    view = Window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    w = s.constant(s.codes((2, 3, 3, 2), -7, 7))
    acc = s.add(IntConv(view, 1, x.elem.zero_point, SUM), x, w, s.bias(2))
    s.output(s.add(requantizer(s, acc), acc))
    y = s.input((1, 6, 6, 4), s.type(I8))
    grouped = s.constant(s.codes((4, 3, 3, 2), -7, 7))
    s.output(s.add(IntConv(view, 2, y.elem.zero_point, SUM), y, grouped, s.bias(4)))
    program = arrange(s.graph, OPTIONS, DEVICE)
    assert {p.call.variant for p in program.steps if p.call.stem == "conv"} <= {"", "block"}
