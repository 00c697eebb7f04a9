"""Layers without products: additions in plain C, and what has none is refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import pytest

from binpoint.driver import compile_model
from binpoint.emit.mcu_c import render
from binpoint.errors import BadOption
from binpoint.ir.graph import Value
from binpoint.ir.kernel import Table
from binpoint.numeric.digits import terms
from binpoint.numeric.fixed import I8, U8
from binpoint.ops.conv import IntConv
from binpoint.ops.dense import IntDense
from binpoint.plan.arrange import arrange
from binpoint.target import load_target
from tests import laws, models
from tests.ops import integer_cases
from tests.ops.integer_cases import SUM
from tests.ops.sketch import Sketch
from tests.plan.layers import (
    OPTIONS,
    agree,
    columns,
    copied,
    dense,
    depthwise,
    maximum,
    sketch,
    stored,
    table,
    window,
)

BARE = msgspec.structs.replace(OPTIONS, multipliers="none")
SMALL = msgspec.structs.replace(BARE, optimize="size")


def grouped(s: Sketch) -> Value:
    """A convolution, mostly in groups; now and then without any weight but zero."""
    spatial = tuple(s.number(1, 7) for _ in range(s.number(1, 2)))
    groups = s.pick(1, 2, 3)
    x = s.input((s.number(1, 2), *spatial, groups * s.pick(1, 2, 5, 17)), s.type(s.storage(I8, U8)))
    view, outs = window(s, spatial, dilated=False), groups * s.number(1, 5)
    most = s.pick(128, 8, 1, 0)
    codes = s.codes((outs, *view.kernel, x.shape[-1] // groups), -most, max(most - 1, 0))
    op = IntConv(view, groups, x.elem.zero_point, SUM)
    return stored(s, s.add(op, x, s.constant(codes << s.pick(0, 0, 3) if most < 9 else codes),
                           s.bias(outs)))  # fmt: skip


CASES = (grouped, dense, depthwise, columns, maximum, table, copied)


def test_additions_are_as_many_as_the_weights_have_powers() -> None:
    s = Sketch(Random(4))
    x = s.input((3, 70), s.type(I8))
    codes = s.codes((9, 70), -100, 100)
    s.output(s.add(IntDense(SUM), x, s.constant(codes), s.bias(9)))
    (step,) = arrange(s.graph, BARE, laws.unpriced("cortex-m4")).steps
    assert step.call.variant == "shifts"
    (listed,) = (a for a in step.call.arguments if isinstance(a, Table) and a.name == "terms")
    count = int(terms(codes).sum())
    lists = 2 * sum(int(np.abs(row).max() * 1.4).bit_length() for row in codes)
    assert count < np.count_nonzero(listed.array.array != 70) <= count + 2 * 9 + lists
    assert listed.array.array.size <= count + 2 * 9 + 4 * lists
    assert f"as {count} signed powers" in step.call.note


def test_every_case_equals_the_reference() -> None:
    agree(sketch(0, 1, CASES), "cortex-m0plus", core=False, options=BARE)


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
def test_every_case_equals_the_reference_on_the_core() -> None:
    agree(sketch(1, 1, CASES), "cortex-m0plus", core=True, options=SMALL)


@pytest.mark.slow
@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.needs("riscv64-unknown-elf-gcc", "qemu-system-riscv32")
@pytest.mark.parametrize("target", ["cortex-m0plus", "cortex-m4", "rv32imc"])
def test_many_of_every_case_equal_the_reference(target: str) -> None:
    for seed, options in ((2, BARE), (3, SMALL)):
        agree(sketch(seed, 3, CASES), target, core=False, options=options)
        agree(sketch(seed, 3, CASES), target, core=True, options=options)


@pytest.mark.slow
@pytest.mark.parametrize("case", [integer_cases.add, integer_cases.average, integer_cases.mul])
def test_products_within_other_kernels_are_additions(case: Callable[[Sketch], Value]) -> None:
    """In each form that has them; the others are refused."""
    device, taken = laws.unpriced("cortex-m0plus"), 0
    for seed in range(12):
        sketched = sketch(seed, 1, (case,))
        try:
            arrange(sketched.graph, BARE, device)
        except BadOption:
            continue
        agree(sketched, "cortex-m0plus", core=False, options=BARE)
        taken += 1
    assert taken > 1


@pytest.mark.slow
@pytest.mark.needs("gcc", "arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("scales", ["free", "power-of-two"])
def test_every_witness_agrees_on_a_model_without_products(scales: str, tmp_path: Path) -> None:
    models.save_float(tmp_path / "net.onnx")
    models.save_samples(tmp_path / "net.npz")
    options = msgspec.structs.replace(BARE, weight_terms=1, weight_bits=6, scales=scales)
    result = compile_model(
        tmp_path / "net.onnx", load_target("cortex-m0plus"), options, samples=tmp_path / "net.npz"
    )
    found = {w.name: w.verdict.value for w in result.verdict.witnesses}
    assert {found[name] for name in ("onnxruntime", "host", "host -O2", "emulator")} == {"equal"}
    forms = {s.call.epilogue.form for s in result.program.steps if s.call.epilogue is not None}
    assert ("shift" in forms) == (scales == "power-of-two")


def test_what_has_products_with_constants_is_refused_by_name() -> None:
    s = Sketch(Random(5))
    x = s.input((1, 9, 9, 2), s.type(I8))
    view = replace(window(s, (9, 9), dilated=False), dilations=(1, 2), kernel=(1, 3))
    op = IntConv(replace(view, before=(0, 0), after=(0, 0)), 1, 0, SUM)
    s.output(s.add(op, x, s.constant(s.codes((3, 1, 3, 2), -9, 9)), s.bias(3)))
    with pytest.raises(BadOption, match="has no kernel without products"):
        arrange(s.graph, BARE, laws.unpriced("cortex-m4"))
    assert arrange(s.graph, OPTIONS, laws.unpriced("cortex-m4")).steps


def test_sums_that_may_leave_32_bits_on_the_way_are_refused() -> None:
    s = Sketch(Random(6))
    x = s.input((1, 8), s.type(I8))
    w = s.constant(np.full((1, 8), 127))
    s.output(s.add(IntDense(SUM), x, w, s.constant(np.array([2**31 - 2**17]), SUM.storage)))
    with pytest.raises(BadOption, match="has no kernel without products"):
        arrange(s.graph, BARE, laws.unpriced("cortex-m4"))


def test_the_code_multiplies_no_value() -> None:
    sketched = sketch(1, 2, CASES)
    device = laws.unpriced("cortex-m4")
    files = render(arrange(sketched.graph, BARE, device), device, BARE).files
    kernels, runtime, own = (files[f"{sketched.graph.name}_{k}.h"].decode()
                             for k in ("kernels", "runtime", "shifts"))  # fmt: skip
    code = re.sub(r"/\*.*?\*/", "", runtime + kernels + own, flags=re.DOTALL)
    assert "bp_product(acc, m)" in code
    # What is left are places in memory.
    assert not re.search(r"\bacc\d* \*|\* acc|\] \* |\* \*|multiplier\S* \*|\* multiplier", code)
