"""residual-widths: sums of sums in 16 bits are exact, and so many as the outputs gain by."""

from __future__ import annotations

import numpy as np
import pytest

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Value
from binpoint.ir.text import dump
from binpoint.lower.to_integers import ToIntegers
from binpoint.numeric.fixed import I16, U8, FloatType, TensorType
from binpoint.ops.dense import Dense
from binpoint.ops.elementwise import Binary, Kind
from binpoint.ops.exactnorm import IntLayerNorm
from binpoint.ops.groupnorm import GroupNorm
from binpoint.ops.layernorm import LayerNorm
from binpoint.ops.pairwise import IntAdd
from binpoint.ops.shape import Transpose
from binpoint.ops.softmax import Softmax, share_type
from binpoint.ops.unary import Clip
from binpoint.passes.manager import Pipeline, run
from binpoint.passes.samples import Samples
from binpoint.quantize.assign_types import AssignTypes
from binpoint.quantize.residual_widths import ResidualWidths
from binpoint.quantize.simulate import Simulation
from tests.quantize.nets import context, normal

TOKENS, WIDTH, SUMS = 5, 12, 4
PASSES = Pipeline(ResidualWidths(), AssignTypes())


def constant(build: GraphBuilder, rng: np.random.Generator, *shape: int, of: float = 0.5) -> Value:
    return build.constant((of * rng.normal(size=shape)).astype(np.float32))


def norm(build: GraphBuilder, x: Value) -> Value:
    parameters = [build.constant(np.full(WIDTH, p, np.float32)) for p in (1, 0)]
    return build.one(LayerNorm(2, 1e-5), x, *parameters)


def stream(rng: np.random.Generator, *, also: str = "", shares: bool = False) -> Graph:
    """A transformer's stream: places added, then a norm and two products a sum; a norm ends it.

    `also` reads the second sum: `product`, or `output`. `shares` are added to the first. Rows turn
    and are clamped on the way.
    """
    graph = Graph("stream")
    build = GraphBuilder(graph)
    x = build.input("x", TensorType((1, TOKENS, WIDTH), FloatType()))
    total = build.one(Binary(Kind.ADD), x, constant(build, rng, 1, TOKENS, WIDTH, of=4), hint="sum")
    sums = [total]
    for index in range(SUMS - 1):
        inner = build.one(Dense(), norm(build, total), constant(build, rng, 2 * WIDTH, WIDTH))
        branch = build.one(Dense(), inner, constant(build, rng, WIDTH, 2 * WIDTH))
        if shares and not index:
            branch = build.one(Softmax(2), branch, hint="shares")
        kind = Kind.SUB if index == 1 else Kind.ADD
        total = build.one(Binary(kind), total, branch, hint="sum")
        sums.append(total)
    turned = build.one(Transpose((0, 2, 1)), build.one(Clip(-30.0, 30.0), total))
    last = norm(build, build.one(Transpose((0, 2, 1)), turned))
    ends = [build.one(Dense(), last, constant(build, rng, 3, WIDTH), hint="end")]
    if also == "product":
        ends.append(build.one(Dense(), sums[1], constant(build, rng, 3, WIDTH)))
    graph.outputs = tuple(v.name for v in [*ends, *([sums[1]] if also == "output" else [])])
    graph.output_names = tuple(f"y{i}" for i in range(len(graph.outputs)))
    return graph


def widths(graph: Graph) -> list[int]:
    """Of all sums, in order."""
    results = [n.outputs[0] for n in graph.nodes() if isinstance(n.op, Binary)]
    kinds = [graph.value(name).fixed for name in results]
    return [k.storage.width for k in kinds if k is not None]


def lost(graph: Graph, samples: Samples, **options: object) -> float:
    """Power of the error of the outputs."""
    typed = run(PASSES, graph, context(samples, **options))
    exact, found = Simulation(graph, rounded=False), Simulation(typed, rounded=True)
    names = frozenset(graph.outputs)
    pairs = [(exact.outputs(x, names), found.outputs(x, names)) for x in samples.inputs()]
    return sum(float(np.square(a[n] - b[n]).sum()) for a, b in pairs for n in names)


def test_sums_of_sums_are_exact_and_outputs_gain(rng: np.random.Generator) -> None:
    graph = stream(rng)
    samples = normal(graph, rng)
    typed = run(PASSES, graph, context(samples, residuals="wide"))
    assert widths(typed) == [16] * SUMS
    integers = ToIntegers().run(typed, context(samples))
    sums = [n for n in integers.nodes() if isinstance(n.op, IntAdd)]
    for node in sums:
        assert isinstance(node.op, IntAdd)
        factors = node.op.ma, node.op.mb
        assert node.op.result.storage == I16
        assert all(f % (1 << node.op.shift) == 0 for f in factors), "not a whole multiple"
    assert len({op.result for n in sums if isinstance(op := n.op, IntAdd)}) == 1
    assert lost(graph, samples, residuals="wide") < 0.8 * lost(graph, samples, residuals="narrow")


@pytest.mark.parametrize("size", [48, 90])
def test_a_norm_of_long_rows_takes_fewer_bits(size: int, rng: np.random.Generator) -> None:
    graph = Graph("maps")
    build = GraphBuilder(graph)
    x = build.input("x", TensorType((1, 1, size, size), FloatType()))
    total = build.one(Binary(Kind.ADD), x, constant(build, rng, 1, 1, size, size))
    parameters = [build.constant(np.full(1, p, np.float32)) for p in (1, 0)]
    y = build.one(GroupNorm(1, 1e-5), total, *parameters)
    graph.outputs, graph.output_names = (y.name,), ("y",)
    typed = run(PASSES, graph, context(normal(graph, rng, 2), residuals="wide"))
    assert widths(typed) == [16]
    lowered = run(Pipeline(ToIntegers()), typed, context(normal(graph, rng, 2)))
    assert any(isinstance(node.op, IntLayerNorm) for node in lowered.nodes())


def test_a_stream_is_wide_only_where_outputs_gain(rng: np.random.Generator) -> None:
    graph = stream(rng)
    samples = normal(graph, rng)
    assert widths(run(PASSES, graph, context(samples))) == [16] * SUMS
    coarse = context(samples, weight_bits=2)
    assert widths(run(PASSES, graph, coarse)) == [8] * SUMS, "weights lose far more"


@pytest.mark.parametrize("also", ["product", "output"])
def test_what_else_reads_a_sum_keeps_it_narrow(also: str, rng: np.random.Generator) -> None:
    graph = stream(rng, also=also)
    typed = run(PASSES, graph, context(normal(graph, rng), residuals="wide"))
    assert widths(typed) == [16, 8, 16, 16]


def test_what_an_op_prescribes_stays(rng: np.random.Generator) -> None:
    graph = stream(rng, shares=True)
    asked = context(normal(graph, rng), residuals="wide")
    typed = run(PASSES, graph, asked)
    (softmax,) = (n for n in typed.nodes() if isinstance(n.op, Softmax))
    assert typed.value(softmax.outputs[0]).fixed == share_type(U8)
    assert widths(typed) == [16] * SUMS


def test_scales_stay_powers_of_two(rng: np.random.Generator) -> None:
    graph = stream(rng)
    asked = context(normal(graph, rng), residuals="wide", scales="power-of-two")
    typed = run(PASSES, graph, asked)
    kinds = [v.fixed for v in typed.values() if v.fixed is not None and v.constant is None]
    assert all(s.is_power_of_two for k in kinds for s in k.scales)
    assert widths(typed) == [16] * SUMS


def test_without_samples_or_by_float32_nothing_changes(rng: np.random.Generator) -> None:
    graph = stream(rng)
    samples = normal(graph, rng)
    for asked in (
        context(None, residuals="wide"),
        context(samples, residuals="wide", semantics="onnxruntime"),
        context(samples, residuals="narrow"),
    ):
        assert dump(ResidualWidths().run(graph.copy(), asked)) == dump(graph)


def test_a_second_run_changes_nothing(rng: np.random.Generator) -> None:
    graph = stream(rng)
    asked = context(normal(graph, rng), residuals="wide")
    once = ResidualWidths().run(graph.copy(), asked)
    assert dump(ResidualWidths().run(once.copy(), asked)) == dump(once)
