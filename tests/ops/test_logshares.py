"""Softmax whose shares are powers of two: exact codes, and matrix products that shift."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from binpoint.errors import NoIntegerForm
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.ir.op import IntArray, Semantics
from binpoint.lower.shift_products import ShiftProducts
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, I16, FixedType, FloatType, TensorType
from binpoint.ops.dense import MatMul
from binpoint.ops.logshares import NONE, POWERS, WHOLE, IntLogShares, IntShiftMatMul
from binpoint.ops.methods import Method
from binpoint.ops.softmax import Softmax, share_type
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.passes.samples import Samples
from binpoint.quantize.assign_types import AssignTypes
from binpoint.quantize.simulate import Simulation
from binpoint.target import load_target
from tests.ops.float_cases import real
from tests.ops.kernels import Bench

LOGARITHMIC = (Method.LOG2, Method.LOG_SQRT2)
KIND = FixedType.per_tensor(I8, Dyadic.from_float(np.float32(0.07)), 3)
CONTEXT = Context(load_target("host"), CompileOptions())


def codes_and_terms(
    method: Method, scale: float, count: int, rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Codes of random rows, and the terms that they are made of."""
    bench = Bench()
    x = bench.input((40, count), FixedType.per_tensor(I8, Dyadic.from_float(np.float32(scale))))
    bench.lower(Softmax(1, method), [x], None, Semantics.DYADIC)
    (node,) = (n for n in bench.graph.nodes() if isinstance(n.op, IntLogShares))
    arrays = bench.codes(rng)
    found = evaluate(bench.graph, dict(zip(bench.graph.inputs, arrays, strict=True)))
    table = found[node.inputs[1]]
    return found[node.outputs[0]], table[arrays[0].max(axis=1, keepdims=True) - arrays[0]]


@pytest.mark.parametrize("method", LOGARITHMIC)
def test_codes_are_rounded_logarithms(method: Method, rng: np.random.Generator) -> None:
    parts = 2 if method is Method.LOG_SQRT2 else 1
    seen = set[int]()
    for scale, count in ((0.07, 5), (0.02, 65), (0.7, 300)):
        codes, terms = codes_and_terms(method, scale, count, rng)
        for row, line in zip(terms.tolist(), codes.tolist(), strict=True):
            for term, code in zip(row, line, strict=True):
                seen.add(code)
                # round(−log_r p) ≥ q where p^(2·parts)·2^(2q − 1) ≤ 1; p is off by 2^-20 at most.
                power = Fraction(term, sum(row)) ** (2 * parts)
                near = Fraction(2**20 + 2 * parts + 1, 2**20)
                if code < NONE:
                    assert power * 2 ** (2 * code + 1) * near > 1
                if code > 0:
                    assert power * 2 ** (2 * code - 1) <= near
        if method is Method.LOG2:
            total = (2.0**-codes * (codes < NONE)).sum(axis=1).max() * 2**14
            assert total <= WHOLE
    assert seen == set(range(NONE + 1))


@pytest.mark.needs("gcc", "clang")
@pytest.mark.parametrize("method", LOGARITHMIC)
def test_masked_elements_have_no_share(
    method: Method, rng: np.random.Generator, tmp_path: Path
) -> None:
    bench = Bench()
    keep = np.tri(9, dtype=np.float32)[None]
    x = bench.input((2, 9, 9), KIND)
    bench.lower(Softmax(2, method), [x, real(keep)], None, Semantics.DYADIC)
    (y,) = bench.agree(bench.codes(rng))
    assert (y[:, keep[0] == 0] == 0).all()
    assert (y[:, 0, 0] == 1 << 14).all()
    assert bench.warns("clang", tmp_path / "c") == ""


def attention(method: Method, count: int = 21) -> Bench:
    """Shares of a softmax times values, which nothing else reads."""
    bench = Bench()
    scores = bench.input((2, count, count), KIND)
    values = bench.input((2, count, 6), FixedType.per_tensor(I8, Dyadic(1, -5), -7))
    shares = bench.lower(Softmax(2, method), [scores], None, Semantics.DYADIC)
    bench.graph.outputs = ()
    target = FixedType.per_tensor(I8, Dyadic(1, -5), 2)
    bench.lower(MatMul(), [shares, values], target, Semantics.DYADIC)
    return bench


@pytest.mark.needs("gcc")
def test_products_with_powers_of_two_shift(rng: np.random.Generator) -> None:
    bench = attention(Method.LOG2)
    arrays = bench.codes(rng)
    (before,) = bench.reference(arrays)
    bench.graph = ShiftProducts().run(bench.graph, CONTEXT)
    assert [type(op) for op in bench.ops()][:2] == [IntLogShares, IntShiftMatMul]
    np.testing.assert_array_equal(bench.agree(arrays)[0], before)


def test_other_products_stay() -> None:
    other = attention(Method.LOG_SQRT2)
    across = Bench()
    scores, values = (across.input((7, 7), kind) for kind in (KIND, KIND))
    shares = across.lower(Softmax(0, Method.LOG2), [scores], None, Semantics.DYADIC)
    across.lower(MatMul(), [shares, values], KIND, Semantics.DYADIC)
    for bench in (other, across):
        graph = ShiftProducts().run(bench.graph.copy(), CONTEXT)
        assert not any(isinstance(n.op, IntShiftMatMul) for n in graph.nodes())


def test_what_has_no_codes_is_refused() -> None:
    wide = FixedType.per_tensor(I16, Dyadic(1, -8))
    for shape, kind, words in (((2, 5), wide, "16-bit"), ((1, 2048), KIND, "2048 elements")):
        bench = Bench()
        with pytest.raises(NoIntegerForm, match=words):
            bench.lower(Softmax(1, Method.LOG2), [bench.input(shape, kind)], None, Semantics.DYADIC)


def test_simulation_has_powers_and_keeps_their_type(rng: np.random.Generator) -> None:
    graph = Graph("net")
    build = GraphBuilder(graph, "op")
    x = build.input("x", TensorType((1, 12), FloatType()))
    y = build.one(Softmax(1, Method.LOG2), x)
    graph.outputs = (y.name,)
    samples = Samples({"x": rng.normal(0, 3, (8, 12)).astype(np.float32)})
    context = Context(load_target("host"), CompileOptions(activation_bits=6), samples)
    typed = AssignTypes().run(graph.copy(), context)
    assert typed.value(y.name).fixed == POWERS
    (inputs, *_) = samples.inputs()
    found = Simulation(typed, rounded=True).run(inputs)[y.name]
    assert {float(np.log2(v)) % 1 for v in found.reshape(-1) if v > 0} == {0.0}
    exact = Simulation(typed, rounded=False).run(inputs)[y.name]
    assert abs(float(exact.sum()) - 1) < 1e-6


def test_a_stated_type_takes_the_powers_rounded(rng: np.random.Generator) -> None:
    bench = Bench()
    x = bench.input((5, 30), KIND)
    bench.lower(Softmax(1, Method.LOG2), [x], None, Semantics.DYADIC)
    bench.lower(Softmax(1, Method.LOG2), [x], share_type(I8), Semantics.DYADIC)
    fine, coarse = bench.reference(bench.codes(rng))
    wanted = np.clip(np.rint(fine / 64) - 128, -128, 127)
    np.testing.assert_array_equal(coarse, wanted)
