"""Products of two computed matrices with DSP instructions."""

from __future__ import annotations

from random import Random

import pytest

from binpoint.ir.graph import Value
from binpoint.numeric.fixed import I8, U8
from binpoint.ops.dense import IntMatMul
from binpoint.ops.requantize import DyadicRequantize, OnnxruntimeRequantize
from binpoint.options import CompileOptions
from binpoint.plan.arrange import arrange
from tests import laws
from tests.ops.integer_cases import SUM
from tests.ops.sketch import Sketch

DEVICE = laws.unpriced("cortex-m4")


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


def project(seed: int) -> Sketch:
    """Small ones, and some whose columns do not lie in scratch at once."""
    s = Sketch(Random(seed))
    for _ in range(20):
        s.output(matmul(s, s.number(3, 9), s.number(2, 9)))
    s.output(matmul(s, 130, 33))
    s.output(matmul(s, 63, 70))
    s.prove()
    return s


def test_both_forms_and_chunks_occur() -> None:
    options = CompileOptions(planner="greedy")
    calls = [step.call for step in arrange(project(0).graph, options, DEVICE).steps]
    taken = [c for c in calls if c.variant == "dsp"]
    assert len(taken) > 10
    assert {dict(c.traits)["form"] for c in taken} == {"any", "high"}
    numbers = [{a.name: getattr(a, "value", None) for a in c.arguments} for c in taken]
    assert any(n["chunk"] != n["columns"] for n in numbers)


@pytest.mark.parametrize("optimize", ["speed", "size"])
def test_the_twins_equal_the_reference(optimize: str) -> None:
    s = project(1)
    options = CompileOptions(optimize="speed" if optimize == "speed" else "size", planner="greedy")
    inputs = laws.samples(s.graph, s.rng)
    laws.law_4_kernels(s.graph, inputs, laws.evaluated(s.graph, inputs), options, "cortex-m4")


def test_the_instructions_equal_the_reference() -> None:
    s = project(2)
    inputs = laws.samples(s.graph, s.rng)
    values = laws.evaluated(s.graph, inputs)
    options = CompileOptions(planner="greedy")
    laws.law_8_instructions(s.graph, inputs, values, options, "cortex-m4")


def test_symbols_determine_texts() -> None:
    texts: dict[str, str] = {}
    for seed in range(6):
        for optimize in ("speed", "size"):
            options = CompileOptions(
                optimize="speed" if optimize == "speed" else "size", planner="greedy"
            )
            laws.law_7_variants(arrange(project(seed).graph, options, DEVICE), texts)
    assert len(texts) > 10
