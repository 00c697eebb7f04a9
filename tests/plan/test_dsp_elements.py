"""Pairs, lookups, maxima and totals with DSP instructions."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from binpoint.ir.graph import Value
from binpoint.ir.op import Semantics
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, I16, U8, FixedType
from binpoint.ops.blocks import Block, IntSum
from binpoint.ops.broadcast import Broadcast
from binpoint.ops.concat import IntConcat
from binpoint.ops.copy import transposed
from binpoint.ops.lookup import IntLookup
from binpoint.ops.pairwise import IntAdd, IntMul
from binpoint.ops.pool import AveragePool
from binpoint.ops.pooling import IntMaxPool
from binpoint.ops.runtime_pair import OnnxruntimeAdd, OnnxruntimeMul
from binpoint.options import CompileOptions
from binpoint.plan.arrange import arrange
from tests import laws
from tests.ops.integer_cases import SUM, dyadic_requantizer, onnxruntime_requantizer, outliers
from tests.ops.sketch import Sketch

DEVICE = laws.unpriced("cortex-m4")


def pair_shapes(s: Sketch) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Equal, or one repeated along some axes."""
    shape = (s.number(1, 3), s.number(1, 3), s.number(1, 13))
    thin = tuple(s.pick(n, 1) for n in shape)
    return s.pick((shape, shape), (shape, thin), (thin, shape), (shape, shape[2:]))


def clamp(s: Sketch, kind: FixedType) -> tuple[int, int]:
    """Mostly the whole range, else a rectifier's or any."""
    lo, hi = kind.storage.min, kind.storage.max
    ends = sorted((s.number(lo, hi), s.number(lo, hi)))
    return s.pick((lo, hi), (max(lo, 0), hi), (ends[0], ends[1]))


def add(s: Sketch) -> Value:
    shapes, storage = pair_shapes(s), s.storage(I8, U8)
    a, b = (s.input(shape, s.type(storage)) for shape in shapes)
    target = s.type(storage)
    ends, axes = clamp(s, target), Broadcast.of(*shapes)
    if s.pick(True, False):
        kinds = (a.elem, b.elem, a.interval, b.interval)
        return s.add(OnnxruntimeAdd(axes, *kinds, target, *ends), a, b)
    if s.pick(True, False):
        a, target = s.input(shapes[0], s.type(I16)), s.type(I16)
        ends = clamp(s, target)
    shift = s.number(1, 13 if I16 in (a.elem.storage, target.storage) else 22)
    ma, mb = (s.number(-(2**shift), 2**shift) // s.pick(1, 4) for _ in range(2))
    zeros = a.elem.zero_point, b.elem.zero_point
    return s.add(IntAdd(axes, ma, mb, shift, *zeros, target, *ends), a, b)


def mul(s: Sketch) -> Value:
    shapes, storage = pair_shapes(s), s.storage(I8, U8)
    a, b = (s.input(shape, s.type(storage)) for shape in shapes)
    target = s.type(storage, s.pick(0.01, 1.0))
    ends, axes = clamp(s, target), Broadcast.of(*shapes)
    if s.pick(True, False):
        kinds = (a.elem, b.elem, a.interval, b.interval)
        return s.add(OnnxruntimeMul(axes, *kinds, target, *ends), a, b)
    factor, shift = s.number(0, 2**20), s.number(20, 34)
    zeros = a.elem.zero_point, b.elem.zero_point
    return s.add(IntMul(axes, factor, shift, *zeros, target, *ends), a, b)


def lookup(s: Sketch) -> Value:
    x, target = s.input((s.number(1, 30),), s.type(s.storage(I8, U8))), s.type(s.storage(I8, U8))
    table = s.build.constant(s.codes((256,), target.storage.min, target.storage.max), target)
    return s.add(IntLookup(target, x.elem.storage.min), x, table)


def maxpool(s: Sketch) -> Value:
    spatial = s.spatial()
    x = s.input((s.number(1, 2), *spatial, s.number(1, 11)), s.type(s.storage(I8, U8)))
    return s.add(IntMaxPool(s.window(spatial, padded=s.pick(True, False))), x)


def average(s: Sketch) -> Value:
    spatial = s.spatial()
    x = s.input((s.number(1, 2), *spatial, s.number(1, 11)), s.type(s.storage(I8, U8)))
    window = s.window(spatial)
    op = AveragePool(window, s.pick(None, window.after))
    return s.lower(op, [x], s.type(x.elem.storage), Semantics.DYADIC)


def total(s: Sketch) -> Value:
    """Of more rows than halfwords hold, now and then."""
    shape = (s.number(1, 2), s.pick(s.number(1, 9), s.number(250, 600)), s.number(1, 11))
    x = s.input(shape, s.type(s.storage(I8, U8)))
    acc = s.add(IntSum(Block.of(shape, [1]), x.elem.zero_point, SUM), x)
    if s.pick(True, False):
        return s.add(dyadic_requantizer(s, 1), acc)
    return s.add(onnxruntime_requantizer(s, 1, acc.interval), acc)


def concat(s: Sketch) -> Value:
    kind, shape = s.type(s.storage(I8, U8)), [s.number(1, 3), s.number(1, 3), s.number(1, 20)]
    axis = s.number(1, 2)
    parts = [s.input([*shape[:axis], s.number(1, 19), *shape[axis + 1 :]], kind) for _ in range(3)]
    return s.add(IntConcat(axis, kind), *parts)


def copy(s: Sketch) -> Value:
    x = s.input((s.number(1, 3), s.number(1, 4), s.number(2, 5), s.number(1, 21)))
    return s.add(transposed(x, s.pick((0, 2, 1, 3), (2, 1, 0, 3), (0, 1, 3, 2))), x)


CASES: tuple[Callable[[Sketch], Value], ...] = (
    add,
    mul,
    lookup,
    maxpool,
    average,
    total,
    concat,
    copy,
    outliers,
)


def project(seed: int) -> Sketch:
    """All cases, a dozen times each, side by side."""
    s = Sketch(Random(seed))
    for _ in range(12):
        for case in CASES:
            s.output(case(s))
    s.prove()
    return s


def test_all_of_them_are_taken() -> None:
    options = CompileOptions(planner="greedy")
    steps = [p for n in range(2) for p in arrange(project(n).graph, options, DEVICE).steps]
    taken = [p.call for p in steps if p.call.variant == "dsp"]
    for stem in ("add", "mul", "lookup", "maxpool", "average", "sum", "concat", "copy", "outliers"):
        assert sum(c.stem == stem for c in taken) > 4, stem
    traits = [dict(c.traits) for c in taken]
    assert {t["inner"] for t in traits if "inner" in t} == {"a", "b", "ab"}
    assert {t.get("saturation") for t in traits} >= {"ssat8", "ssat16", "usat8", "usat7"}
    assert {t["sign"] for t in traits if "sign" in t} == {"s", "u"}
    assert any("rows" in t for t in traits)


@pytest.mark.parametrize("optimize", ["speed", "size"])
def test_the_twins_equal_the_reference(optimize: str) -> None:
    s = project(3)
    options = CompileOptions(optimize="speed" if optimize == "speed" else "size", planner="greedy")
    inputs = laws.samples(s.graph, s.rng)
    laws.law_4_kernels(s.graph, inputs, laws.evaluated(s.graph, inputs), options, "cortex-m4")


@pytest.mark.parametrize("optimize", ["speed", "size"])
def test_the_instructions_equal_the_reference(optimize: str) -> None:
    s = project(4)
    options = CompileOptions(optimize="speed" if optimize == "speed" else "size", planner="greedy")
    inputs = laws.samples(s.graph, s.rng)
    values = laws.evaluated(s.graph, inputs)
    laws.law_8_instructions(s.graph, inputs, values, options, "cortex-m4")


def test_a_product_without_proof_stays_portable() -> None:
    s = Sketch(Random(0))
    half = FixedType.per_tensor(I8, SUM.scale)
    a, b = s.input((16,), half), s.input((16,), half)
    kinds = (a.elem, b.elem, a.interval, b.interval)
    # Scales of powers of two: every 64th product and a half is a tie, which goes to even.
    target = FixedType.per_tensor(I8, Dyadic(1, -17))
    s.output(s.add(OnnxruntimeMul(Broadcast.of((16,), (16,)), *kinds, target, -128, 127), a, b))
    (step,) = arrange(s.graph, CompileOptions(), DEVICE).steps
    assert step.call.variant == ""


def test_symbols_determine_texts() -> None:
    texts: dict[str, str] = {}
    for seed in range(6):
        for optimize in ("speed", "size"):
            options = CompileOptions(
                optimize="speed" if optimize == "speed" else "size", planner="greedy"
            )
            laws.law_7_variants(arrange(project(seed).graph, options, DEVICE), texts)
    assert len(texts) > 10
