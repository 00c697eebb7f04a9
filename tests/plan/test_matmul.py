"""Products of two computed matrices, with DSP instructions and with Helium."""

from __future__ import annotations

from random import Random

import pytest

from binpoint.ir.graph import Value
from binpoint.ir.kernel import KernelCall, Number
from binpoint.numeric.fixed import I8, U8
from binpoint.ops.dense import IntMatMul
from binpoint.ops.requantize import DyadicRequantize, OnnxruntimeRequantize
from binpoint.options import CompileOptions
from binpoint.plan.arrange import arrange
from tests import laws
from tests.ops.integer_cases import SUM
from tests.ops.sketch import Sketch

OPTIONS = CompileOptions(planner="greedy")
CORES = ("cortex-m4", "cortex-m55")


def matmul(s: Sketch, depth: int, columns: int) -> Value:
    """A product with its requantizer; scales of powers of two have ties, which no proof covers."""
    batch, rows = s.shape(s.number(0, 1)), s.number(2, 7)
    a = s.input((*batch, rows, depth), s.type(s.storage(I8, U8)))
    b = s.input((*batch, depth, columns), s.type(s.storage(I8, U8)))
    acc = s.add(IntMatMul(a.elem.zero_point, b.elem.zero_point, SUM), a, b)
    target = s.type(s.storage(I8, U8))
    ends = target.storage.min, target.storage.max
    reach = max(abs(acc.interval.lo), abs(acc.interval.hi), 1)
    match s.number(0, 3):
        case 0:
            scales = (2.0 ** -(reach.bit_length() - 6),)
            reaches = ((acc.interval.lo, acc.interval.hi),)
            return s.add(OnnxruntimeRequantize(scales, reaches, target, *ends), acc)
        case 1:
            return acc
        case _:
            multiplier = min(2**30, 2**36 // reach)
            return s.add(DyadicRequantize((multiplier,), (27,), target, *ends), acc)


def attention(s: Sketch, depth: int, columns: int) -> Value:
    """A product in the types of an attention's: scales with proofs, results of the whole range."""
    a = s.input((2, s.number(4, 7), depth), s.type(s.storage(I8, U8)))
    b = s.input((2, depth, columns), s.type(I8))
    acc = s.add(IntMatMul(a.elem.zero_point, b.elem.zero_point, SUM), a, b)
    target = s.type(s.pick(I8, I8, U8))
    reach = max(abs(acc.interval.lo), abs(acc.interval.hi), 1)
    shift = reach.bit_length() + s.number(14, 24)
    ends = target.storage.min, target.storage.max
    op = DyadicRequantize((s.number(2**29, 2**30),), (shift,), target, *ends)
    return s.add(op, acc)


def project(seed: int) -> Sketch:
    """Small ones, and some whose columns do not lie in scratch at once."""
    s = Sketch(Random(seed))
    for _ in range(5):
        s.output(matmul(s, s.number(3, 9), s.number(2, 9)))
    for _ in range(3):
        s.output(attention(s, s.pick(s.number(4, 40), 16, 32), s.number(4, 20)))
    s.output(matmul(s, 130, 33))
    s.output(matmul(s, 63, 70))
    s.output(attention(s, 16, 21))
    s.output(attention(s, 33, 16))
    s.prove()
    return s


def calls(seed: int, core: str) -> list[KernelCall]:
    steps = arrange(project(seed).graph, OPTIONS, laws.unpriced(core)).steps
    return [step.call for step in steps if step.call.stem == "matmul"]


def test_all_forms_and_chunks_occur() -> None:
    taken = [c for c in calls(0, "cortex-m4") if c.variant == "dsp"]
    assert len(taken) > 5
    assert {dict(c.traits)["form"] for c in taken} == {"any", "high"}
    vectors = [c for seed in range(2) for c in calls(seed, "cortex-m55") if c.variant == "mve"]
    traits = [dict(c.traits) for c in vectors]
    assert {t["down"][:2] for t in traits} == {"at", "by"}
    assert {t["thin"] for t in traits} == {"", "thin"}
    assert {t["direct"] for t in traits} == {"", "direct"}
    for mine in (taken, vectors):
        numbers = [{a.name: a.value for a in c.arguments if isinstance(a, Number)} for c in mine]
        assert any(n["chunk"] < n["columns"] for n in numbers)


@pytest.mark.parametrize("core", CORES)
def test_the_twins_equal_the_reference(core: str) -> None:
    s = project(1)
    inputs = laws.samples(s.graph, s.rng)
    laws.law_4_kernels(s.graph, inputs, laws.evaluated(s.graph, inputs), OPTIONS, core)


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("core", CORES)
def test_the_instructions_equal_the_reference(core: str) -> None:
    s = project(2)
    inputs = laws.samples(s.graph, s.rng)
    values = laws.evaluated(s.graph, inputs)
    laws.law_8_instructions(s.graph, inputs, values, OPTIONS, core)


@pytest.mark.parametrize("core", CORES)
def test_symbols_determine_texts(core: str) -> None:
    texts: dict[str, str] = {}
    for seed in range(2):
        program = arrange(project(seed).graph, OPTIONS, laws.unpriced(core))
        laws.law_7_variants(program, texts)
    assert len(texts) > 5
