"""Bias correction of softmaxes: where it applies, that it changes no real number, what it gains."""

from __future__ import annotations

import numpy as np
import pytest

from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Graph
from binpoint.ir.op import FloatArray
from binpoint.ir.text import dump
from binpoint.numeric.fixed import FloatType, TensorType
from binpoint.ops.concat import Concat
from binpoint.ops.dense import MatMul
from binpoint.ops.methods import Method
from binpoint.ops.softmax import Softmax
from binpoint.options import CompileOptions
from binpoint.passes.samples import Samples
from binpoint.quantize.assign_types import AssignTypes
from binpoint.quantize.share_bias import widen
from binpoint.quantize.simulate import Simulation
from tests.quantize.nets import context

HEADS, KEYS, SIZE = 2, 40, 8


def attention(method: Method = Method.TABLE, *, causal: bool = False) -> Graph:
    """Shares of scores, times values."""
    graph = Graph("net")
    build = GraphBuilder(graph, "op")
    scores = build.input("scores", TensorType((1, HEADS, KEYS, KEYS), FloatType()))
    values = build.input("values", TensorType((1, HEADS, KEYS, SIZE), FloatType()))
    mask = [build.constant(np.tri(KEYS, dtype=np.float32)[None, None])] if causal else []
    y = build.one(MatMul(), build.one(Softmax(3, method), scores, *mask), values)
    graph.outputs = (y.name,)
    return graph


def samples(rng: np.random.Generator, count: int = 24) -> Samples:
    """A flat head and a sharp one; values with means of their own, else their sums vanish."""
    sharp = np.array([0.7, 2.5]).reshape(1, 2, 1, 1)
    shift = rng.normal(0, 1, (count, HEADS, 1, SIZE))
    arrays = {
        "scores": rng.normal(0, 1, (count, HEADS, KEYS, KEYS)) * sharp,
        "values": rng.normal(0, 1, (count, HEADS, KEYS, SIZE)) + shift,
    }
    return Samples({name: a.astype(np.float32) for name, a in arrays.items()})


def typed(graph: Graph, found: Samples, mode: str, bits: int = 8) -> Graph:
    """The graph with types."""
    options = {"softmax_correction": mode, "bias_correction": False, "activation_bits": bits}
    return AssignTypes().run(graph.copy(), context(found, **options))


def outputs(graph: Graph, found: Samples, *, rounded: bool) -> FloatArray:
    simulation, (name,) = Simulation(graph, rounded=rounded), graph.outputs
    runs = [simulation.outputs(x, frozenset({name}))[name] for x in found.inputs()]
    return np.stack(runs).astype(np.float64)


def lost(graph: Graph, found: Samples, want: FloatArray) -> float:
    return float(np.square(outputs(graph, found, rounded=True) - want).sum())


def columns(graph: Graph) -> list[FloatArray]:
    """What stands beside shares."""
    found = (graph.arguments(n)[1] for n in graph.nodes() if n.op == Concat(3))
    return [constant_array(value) for value in found]


@pytest.mark.parametrize("causal", [False, True])
def test_a_wider_product_is_the_same_number(rng: np.random.Generator, *, causal: bool) -> None:
    graph, found = attention(causal=causal), samples(rng, 3)
    wide = graph.copy()
    assert len(widen(wide, CompileOptions(softmax_correction="head"))) == 1
    want = outputs(graph, found, rounded=False)
    np.testing.assert_allclose(outputs(wide, found, rounded=False), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "causal", "bits", "gain"),
    [
        (Method.TABLE, False, 6, 0.95),
        (Method.TABLE, False, 4, 0.5),
        (Method.TABLE, True, 4, 0.9),
        (Method.LOG_SQRT2, False, 8, 0.95),
    ],
)
def test_errors_of_other_samples_fall(
    rng: np.random.Generator, *, method: Method, causal: bool, bits: int, gain: float
) -> None:
    graph, found, others = attention(method, causal=causal), samples(rng), samples(rng)
    want = outputs(graph, others, rounded=False)
    plain, one, each = (typed(graph, found, mode, bits) for mode in ("none", "tensor", "head"))
    before, after, apart = (lost(g, others, want) for g in (plain, one, each))
    assert apart < gain * before
    assert apart < after < before
    told = each.figures["assign-types"]
    assert (told["softmaxes"], told["corrected"]) == (1, 1)
    assert told["error_after"] < told["error_before"]
    assert not plain.figures


def test_no_row_gets_a_share_of_masked_keys(rng: np.random.Generator) -> None:
    (found,) = columns(typed(attention(causal=True), samples(rng), "head", 4))
    size = KEYS // found.shape[-1]
    ends = range(size, KEYS + 1, size)
    seen = np.array([[end <= row + 1 for end in ends] for row in range(KEYS)])
    seen = seen[:, : found.shape[-1]]
    assert found[..., seen].any()
    assert not found[..., ~seen].any()


@pytest.mark.parametrize(("bits", "corrects"), [(6, False), (4, True)])
def test_by_itself_where_a_mean_share_is_below_a_step(
    rng: np.random.Generator, bits: int, *, corrects: bool
) -> None:
    graph, found = attention(), samples(rng)
    chosen = typed(graph, found, "auto", bits)
    assert dump(chosen) == dump(typed(graph, found, "head" if corrects else "none", bits))
    assert bool(columns(chosen)) is corrects


def test_what_is_not_corrected_is_as_before(rng: np.random.Generator) -> None:
    zeros = Samples({n: np.zeros_like(a) for n, a in samples(rng, 3).arrays.items()})
    plain, corrected = (typed(attention(), zeros, mode) for mode in ("none", "head"))
    assert not columns(corrected)
    corrected.figures = {}
    assert dump(corrected) == dump(plain)
