"""Bias correction of softmaxes: where it applies, that it changes no real number, what it gains."""

from __future__ import annotations

import numpy as np
import pytest

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph
from binpoint.ir.op import FloatArray
from binpoint.ir.text import dump
from binpoint.numeric.fixed import FloatType, TensorType
from binpoint.ops.dense import MatMul
from binpoint.ops.methods import Method
from binpoint.ops.pad import Pad
from binpoint.ops.softmax import Softmax
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.passes.samples import Samples
from binpoint.quantize.assign_types import AssignTypes
from binpoint.quantize.share_bias import widen
from binpoint.quantize.simulate import Simulation
from binpoint.target import load_target

KEYS, SIZE = 40, 8


def attention(method: Method = Method.TABLE, *, masked: bool = False) -> Graph:
    """Shares of scores, times values."""
    graph = Graph("net")
    build = GraphBuilder(graph, "op")
    scores = build.input("scores", TensorType((1, KEYS, KEYS), FloatType()))
    values = build.input("values", TensorType((1, KEYS, SIZE), FloatType()))
    mask = [build.constant(np.tri(KEYS, dtype=np.float32)[None])] if masked else []
    y = build.one(MatMul(), build.one(Softmax(2, method), scores, *mask), values)
    graph.outputs = (y.name,)
    return graph


def samples(rng: np.random.Generator, count: int = 24) -> Samples:
    """Values with means of their own, as real ones have: else their sums vanish."""
    shift = rng.normal(0, 1, (count, 1, SIZE))
    arrays = {
        "scores": rng.normal(0, 1.5, (count, KEYS, KEYS)),
        "values": rng.normal(0, 1, (count, KEYS, SIZE)) + shift,
    }
    return Samples({name: a.astype(np.float32) for name, a in arrays.items()})


def typed(graph: Graph, found: Samples, *, on: bool, bits: int = 8) -> Graph:
    """The graph with types, with or without the correction."""
    options = CompileOptions(softmax_correction=on, bias_correction=False, activation_bits=bits)
    return AssignTypes().run(graph.copy(), Context(load_target("host"), options, found))


def outputs(graph: Graph, found: Samples, *, rounded: bool) -> FloatArray:
    simulation, (name,) = Simulation(graph, rounded=rounded), graph.outputs
    runs = [simulation.outputs(x, frozenset({name}))[name] for x in found.inputs()]
    return np.stack(runs).astype(np.float64)


def test_a_wider_product_is_the_same_number(rng: np.random.Generator) -> None:
    graph, found = attention(), samples(rng, 3)
    wide = graph.copy()
    assert len(widen(wide)) == 1
    want = outputs(graph, found, rounded=False)
    np.testing.assert_allclose(outputs(wide, found, rounded=False), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "bits", "gain"),
    [(Method.TABLE, 6, 0.9), (Method.LOG_SQRT2, 8, 0.8)],
)
def test_errors_of_other_samples_fall(
    method: Method, bits: int, gain: float, rng: np.random.Generator
) -> None:
    graph, found, others = attention(method), samples(rng), samples(rng)
    want = outputs(graph, others, rounded=False)
    plain, corrected = (typed(graph, found, on=on, bits=bits) for on in (False, True))
    before, after = (
        np.square(outputs(g, others, rounded=True) - want).sum() for g in (plain, corrected)
    )
    assert after < gain * before
    told = corrected.figures["assign-types"]
    assert (told["softmaxes"], told["corrected"]) == (1, 1)
    assert told["error_after"] < told["error_before"]
    assert not plain.figures


def test_what_is_not_corrected_is_as_before(rng: np.random.Generator) -> None:
    masked = attention(masked=True)
    exact = attention()
    zeros = Samples({n: np.zeros_like(a) for n, a in samples(rng, 3).arrays.items()})
    for graph, found in ((masked, samples(rng)), (exact, zeros)):
        plain, corrected = (typed(graph, found, on=on) for on in (False, True))
        assert not any(isinstance(n.op, Pad) for n in corrected.nodes())
        corrected.figures = {}
        assert dump(corrected) == dump(plain)
