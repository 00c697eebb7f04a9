"""Softmax and layer norm of rows, with DSP instructions and with Helium."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray

from binpoint.ir.graph import Value
from binpoint.ir.op import FloatOp, Semantics
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, I16, U8, FixedType, IntType
from binpoint.ops.groupnorm import GroupNorm
from binpoint.ops.layernorm import LayerNorm
from binpoint.ops.methods import Method
from binpoint.ops.softmax import Softmax, share_type
from binpoint.options import CompileOptions
from binpoint.plan.arrange import arrange
from binpoint.plan.variants.dsp_rows import keys_of
from tests import laws
from tests.ops.float_cases import real
from tests.ops.sketch import Sketch

OPTIONS = CompileOptions(planner="greedy")
CORES = {"cortex-m4": "dsp", "cortex-m55": "mve"}


def rows(s: Sketch) -> tuple[int, ...]:
    """Rows of all lengths about whole words and vectors."""
    return (*s.shape(s.number(0, 1)), s.number(1, 4), s.pick(s.number(8, 70), s.number(8, 40), 64))


def scale(s: Sketch) -> Dyadic:
    return Dyadic.from_float(np.float32(2.0 ** s.random.uniform(-9, -1)))


def softmax(s: Sketch, shape: tuple[int, ...] | None = None, *methods: Method) -> Value:
    """Mostly in steps of 2^-8; by default of any method but for powers."""
    storage, shape = s.storage(I8, U8), shape or rows(s)
    x = s.input(shape, FixedType.per_tensor(storage, scale(s), s.zero(storage)))
    kind = share_type(s.storage(I8, U8))
    target = s.pick(kind, kind, kind, kind, s.type(kind.storage))
    method = s.pick(*(methods or (Method.TABLE, Method.TABLE, Method.SHIFT, Method.POLYNOMIAL)))
    return s.lower(Softmax(len(shape) - 1, method), [x], target, Semantics.DYADIC)


def masked(s: Sketch, kind: int, method: Method = Method.TABLE) -> Value:
    """Causal, of a band, or of any elements; the same in all rows, or in all matrices."""
    shape = (s.number(1, 3), s.number(1, 9), s.pick(s.number(8, 70), 64))
    storage = s.storage(I8, U8)
    x = s.input(shape, FixedType.per_tensor(storage, scale(s), s.zero(storage)))
    row, column = np.indices(shape[1:])
    some = s.rng.random((s.pick(1, shape[0]), s.pick(1, shape[1]), shape[2])) < 0.7
    some[..., s.number(0, shape[2] - 1)] = True
    keep = (column <= row, abs(row + 3 - column) < 4, some)[kind]
    target = share_type(s.storage(I8, U8)) if method is Method.TABLE else None
    values = [x, real(keep.astype(np.float32))]
    return s.lower(Softmax(2, method), values, target, Semantics.DYADIC)


def norm(s: Sketch, op: FloatOp, shape: tuple[int, ...], count: int, *kinds: IntType) -> Value:
    """Of so many channels; results that saturate."""
    storage = s.storage(*(kinds or (I8, U8, I16)))
    x = s.input(shape, FixedType.per_tensor(storage, scale(s), s.zero(storage)))
    gamma, beta = (real(s.rng.normal(mean, 0.5, count).astype(np.float32)) for mean in (1, 0))
    storage = s.storage(I8, U8)
    target = FixedType.per_tensor(storage, Dyadic.from_float(np.float32(0.02)), s.zero(storage))
    return s.lower(op, [x, gamma, beta], target, Semantics.DYADIC)


def groupnorm(s: Sketch) -> Value:
    """Groups of channels, or single ones, of few places and of many."""
    groups, each = s.number(1, 3), s.number(1, 2)
    shape = (s.number(1, 2), groups * each, *s.pick((2, 4), (5, s.number(2, 9)), (4, 64)))
    return norm(s, GroupNorm(groups, 1e-5), shape, groups * each)


def layernorm(s: Sketch) -> Value:
    """Some whose range is a rectifier's."""
    shape = rows(s)
    op = LayerNorm(len(shape) - 1, 1e-5, centred=s.pick(True, True, False))
    y = norm(s, op, shape, shape[-1])
    storage = y.elem.storage
    if s.pick(True, False):
        return y
    (node,) = (n for n in s.graph.nodes() if y.name in n.outputs)
    clamped = laws.op_of(node).clamped(s.number(storage.min, 0), s.number(1, 127))
    assert clamped is not None
    s.graph.replace(replace(node, op=clamped))
    return y


def sketch(seed: int) -> Sketch:
    s = Sketch(Random(seed))
    for _ in range(4):
        s.output(softmax(s))
        s.output(layernorm(s))
    # So long that the last shift is of few places.
    s.output(norm(s, LayerNorm(1, 1e-5), (2, 1500), 1500, I8, U8))
    s.output(norm(s, GroupNorm(1, 1e-5), (1, 8, 160), 8, I8, U8))
    for kind in range(3):
        s.output(masked(s, kind))
        s.output(groupnorm(s))
    for method in (Method.LOG2, Method.LOG_SQRT2):
        s.output(masked(s, 0, method))
        s.output(softmax(s, None, method))
    s.output(softmax(s, (2, 257)))
    s.output(softmax(s, (2, 600)))
    return s


def inputs(s: Sketch) -> list[laws.Codes]:
    """Of all spreads: also rows with one large element, with two, a slope, and constant ones."""
    found: list[laws.Codes] = list(laws.samples(s.graph, s.rng))
    for kind in range(4):
        sample: dict[str, NDArray[np.int64]] = {}
        for name in s.graph.inputs:
            value = s.graph.value(name)
            lo, hi = value.interval.lo, value.interval.hi
            codes = np.full(value.shape, s.number(lo, hi) if kind == 3 else lo, np.int64)
            for _ in range(min(kind + 1, 2)):
                places = s.rng.integers(0, value.shape[-1], (*value.shape[:-1], 1))
                np.put_along_axis(codes, places, hi, axis=-1)
            if kind == 2:
                slope = np.linspace(lo, hi, value.shape[-1])
                codes = np.broadcast_to(np.rint(slope), value.shape).astype(np.int64)
            sample[name] = codes
        found.append(sample)
    return found


@pytest.mark.parametrize(("core", "variant"), CORES.items())
def test_the_kernels_are_taken(core: str, variant: str) -> None:
    calls = [p.call for p in arrange(sketch(2).graph, OPTIONS, laws.unpriced(core)).steps]
    for stem in ("softmax", "layernorm"):
        assert sum(c.stem == stem and c.variant == variant for c in calls) > 1
    assert {c.variant for c in calls if c.stem == "logshares"} == {variant}
    norms = [c for c in calls if c.stem == "layernorm"]
    assert all(c.variant for c in norms)
    assert {dict(c.traits)["form"] for c in norms} == {"mean", "centre"}
    assert any(c.stem == "softmax" and not c.variant for c in calls)
    spans = [dict(c.traits).get("spans") for c in calls if c.variant]
    assert spans.count("span") == 4
    assert spans.count("spans") == 1
    assert not any(c.stem == "minmax" for c in calls)


@pytest.mark.parametrize("core", CORES)
def test_the_twins_equal_the_reference(core: str) -> None:
    s = sketch(2)
    samples = inputs(s)
    laws.law_4_kernels(s.graph, samples, laws.evaluated(s.graph, samples), OPTIONS, core)


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("core", CORES)
def test_the_instructions_equal_the_reference(core: str) -> None:
    s = sketch(2)
    samples = inputs(s)
    laws.law_8_instructions(s.graph, samples, laws.evaluated(s.graph, samples), OPTIONS, core)


@pytest.mark.parametrize("core", CORES)
def test_symbols_determine_texts(core: str) -> None:
    texts: dict[str, str] = {}
    for seed in range(2):
        laws.law_7_variants(arrange(sketch(seed).graph, OPTIONS, laws.unpriced(core)), texts)
    assert len(texts) > 4


def test_shares_by_reciprocal_are_those_of_a_division() -> None:
    """The proof of `dsp_rows`, for sums and terms of all sizes and all that are near a tie."""
    rng = np.random.default_rng(5)
    for top in (2**20, 2**22, 13 * 2**18 + 5, 2**23, 32767 << 8):
        most = 2**32 * 14 // 15 // top
        sums = (top * np.exp2(rng.uniform(0, np.log2(most), 4000))).astype(np.uint64)
        sums = np.concatenate([sums, top + np.arange(64, dtype=np.uint64)])
        ties = (2 * rng.integers(0, 256, (len(sums), 24), np.uint64) + 1) * sums[:, None] // 512
        terms = np.concatenate([ties, ties + 1, rng.integers(0, top + 1, (len(sums), 24))], axis=1)
        terms = np.minimum(terms.astype(np.uint64), top)
        total = sums[:, None]
        scale = (2**32 - 1) // ((total + 255) >> 8)
        share = (terms * scale + 2**31) >> 32
        rest = (256 * terms + total // 2 - share * total) % 2**32
        np.testing.assert_array_equal(share + (rest >= total), (256 * terms + total // 2) // total)


def test_codes_by_keys_are_numbers_of_halvings() -> None:
    """Of marks and terms of all sizes, and of all that are near to a power of two apart."""
    rng = np.random.default_rng(5)
    marks = np.exp2(rng.uniform(19, 31, (4000, 1))).astype(np.int64)
    halved = np.clip(marks >> np.arange(16), 0, 2**24 - 2)
    some = rng.integers(0, 2**24, (4000, 16))
    terms = np.minimum(np.concatenate([halved, halved + 1, some, some >> 20], axis=1), marks)
    key, mark = (keys_of(v.reshape(-1)).reshape(v.shape) for v in (terms, marks))
    shifted = terms[..., None] << np.arange(1, 16) <= marks[..., None]
    np.testing.assert_array_equal(np.clip((key - mark) >> 23, 0, 15), shifted.sum(axis=-1))
