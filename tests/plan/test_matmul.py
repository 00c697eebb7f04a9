"""Products of two computed matrices, with DSP instructions and with Helium."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from binpoint.ir.constant import Constant
from binpoint.ir.graph import Value
from binpoint.ir.kernel import Buffer, KernelCall
from binpoint.numeric.fixed import I8, U8
from binpoint.ops.copy import IntCopy, IntReshape, transposed
from binpoint.ops.dense import IntMatMul
from binpoint.ops.requantize import Clamp, DyadicRequantize, OnnxruntimeRequantize
from binpoint.ops.slices import IntGather
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
    """A product in the types of an attention's."""
    a = s.input((2, s.number(4, 7), depth), s.type(s.storage(I8, U8)))
    return attended(s, a, s.input((2, depth, columns), s.type(I8)))


def attended(s: Sketch, a: Value, b: Value) -> Value:
    """A product with scales that have proofs, and results of the whole range."""
    acc = s.add(IntMatMul(a.elem.zero_point, b.elem.zero_point, SUM), a, b)
    target = s.type(s.pick(I8, I8, U8))
    reach = max(abs(acc.interval.lo), abs(acc.interval.hi), 1)
    shift = reach.bit_length() + s.number(14, 24)
    ends = target.storage.min, target.storage.max
    op = DyadicRequantize((s.number(2**29, 2**30),), (shift,), target, *ends)
    return s.add(op, acc)


def heads(s: Sketch, x: Value, count: int, order: tuple[int, ...] = (0, 2, 1, 3)) -> Value:
    """Rows of tokens, ``[windows, tokens, count·size]``, as heads."""
    windows, tokens, width = x.shape
    apart = s.add(IntReshape((windows, tokens, count, width // count), x.elem), x)
    return s.add(transposed(apart, order), apart)


def part(s: Sketch, x: Value, index: int, count: int) -> Value:
    """One of `count` equal parts of each row."""
    windows, tokens, width = x.shape
    size = width // count
    shape, strides = (windows, tokens, size), (tokens * width, width, 1)
    return s.add(IntCopy.of(shape, shape, strides, index * size, x.elem), x)


def encoder(s: Sketch, tokens: int, count: int, size: int, form: str) -> Value:
    """Q·Kᵀ, then its product with V, heads joined, as exporters move them; no softmax between.

    `form` is where queries, keys and values come from: ``apart``, parts of one row (``fused``),
    of several ``windows``, or of ``groups`` of heads that share keys and values.
    """
    windows, width = (2 if form == "windows" else 1), count * size
    few = count // 2 if form == "groups" else count
    if form == "fused":
        row = s.input((windows, tokens, 3 * width), s.type(s.storage(I8, U8)))
        q, k, v = (part(s, row, i, 3) for i in range(3))
    else:
        q, k, v = (
            s.input((windows, tokens, n * size), s.type(s.storage(I8, U8)))
            for n in (count, few, few)
        )
    k, v = (heads(s, x, few) for x in (k, v))
    if few < count:
        index = Constant(np.repeat(np.arange(few), 2).astype(np.int32))
        k, v = (s.add(IntGather(1, index, x.elem), x) for x in (k, v))
    scores = attended(s, heads(s, q, count), s.add(transposed(k, (0, 1, 3, 2)), k))
    y = attended(s, scores, v)
    together = s.add(transposed(y, (0, 2, 1, 3)), y)
    return s.add(IntReshape((windows, tokens, width), y.elem), together)


FORMS = ("fused", "apart", "windows", "groups")


def project(seed: int) -> Sketch:
    """Small ones, and some whose columns do not lie in scratch at once; heads where they lie."""
    s = Sketch(Random(seed))
    for _ in range(4):
        s.output(matmul(s, s.number(3, 9), s.number(2, 9)))
    for _ in range(2):
        s.output(attention(s, s.pick(s.number(4, 40), 16, 32), s.number(4, 20)))
    s.output(matmul(s, 130, 33))
    s.output(matmul(s, 63, 70))
    s.output(attention(s, 16, 21))
    s.output(attention(s, 33, 16))
    sizes = s.random.sample((5, 8, 12, 16), 2)
    for form, size in zip(FORMS[seed % 2 :: 2], sizes, strict=True):
        s.output(encoder(s, s.number(4, 11), 2, size, form))
    s.prove()
    return s


def calls(s: Sketch, core: str) -> list[KernelCall]:
    steps = arrange(s.graph, OPTIONS, laws.unpriced(core)).steps
    return [step.call for step in steps if not step.alias]


def products(seed: int, core: str) -> list[KernelCall]:
    return [call for call in calls(project(seed), core) if call.stem == "matmul"]


def test_all_forms_and_chunks_occur() -> None:
    taken = [c for c in products(0, "cortex-m4") if c.variant == "dsp"]
    assert len(taken) > 5
    assert {dict(c.traits)["form"] for c in taken} == {"any", "high"}
    vectors = [c for seed in range(2) for c in products(seed, "cortex-m55") if c.variant == "mve"]
    traits = [dict(c.traits) for c in vectors]
    assert {t["down"][:2] for t in traits} == {"at", "by"}
    assert {t["thin"] for t in traits} == {"", "thin"}
    assert {t["direct"] for t in traits} == {"", "direct"}
    for mine in (taken, vectors):
        assert any(c.numbers["chunk"] < c.numbers["columns"] for c in mine)
        assert any(c.numbers["outer"] > 1 for c in mine)
        assert {dict(c.traits)["b"] for c in mine} == {"", "turned"}


@pytest.mark.parametrize("core", ["cortex-m3", *CORES])
@pytest.mark.parametrize("form", FORMS)
def test_heads_are_not_copied(form: str, core: str) -> None:
    s = Sketch(Random(3))
    s.output(encoder(s, 9, 4, 5, form))
    scores, values = calls(s, core)
    assert (scores.stem, values.stem) == ("matmul", "matmul")
    assert dict(scores.traits)["b"] == "turned"
    starts = [a.start for c in (scores, values) for a in c.arguments if isinstance(a, Buffer)]
    assert starts == ([0, 20, 0, 0, 40, 0] if form == "fused" else [0] * 6)
    row = {"fused": 60, "groups": 10}.get(form, 20)
    assert (scores.numbers["b_row"], values.numbers["b_row"]) == (row, row)
    assert values.numbers["y_row"] == 20


@pytest.mark.parametrize(("tokens", "copies"), [(5, 0), (30, 3)])
def test_parts_of_a_row_are_copied_where_that_saves_memory(tokens: int, copies: int) -> None:
    s = Sketch(Random(3))
    x = s.input((1, tokens, 60), s.type(I8))
    row = s.add(Clamp(-100, 100), x)
    q, k, v = (heads(s, part(s, row, i, 3), 4) for i in range(3))
    y = attended(s, attended(s, q, s.add(transposed(k, (0, 1, 3, 2)), k)), v)
    s.output(s.add(Clamp(-100, 100), s.add(transposed(y, (0, 2, 1, 3)), y)))
    stems = [call.stem for call in calls(s, "host")]
    assert stems.count("copy") == copies
    assert stems.count("matmul") == 2


def test_what_others_read_is_copied() -> None:
    s = Sketch(Random(4))
    x, other = s.input((1, 5, 8), s.type(I8)), s.input((1, 2, 5, 4), s.type(I8))
    q = heads(s, x, 2)
    s.output(q)
    s.output(attended(s, q, s.add(transposed(other, (0, 1, 3, 2)), other)))
    copy, product = calls(s, "host")
    assert (copy.stem, product.stem) == ("copy", "matmul")
    a = next(a for a in product.arguments if a.name == "a")
    assert isinstance(a, Buffer)
    assert a.value == q.name


def test_rows_that_are_no_rows_are_copied() -> None:
    s = Sketch(Random(5))
    x, other = s.input((1, 4, 6), s.type(I8)), s.input((1, 4, 6), s.type(I8))
    columns = s.add(transposed(x, (0, 2, 1)), x)
    y = attended(s, columns, other)
    s.output(s.add(transposed(y, (0, 2, 1)), y))
    assert [call.stem for call in calls(s, "host")] == ["copy", "matmul", "copy"]


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
