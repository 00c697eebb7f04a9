"""binary-points: the points of least error, and those that leave the outputs least wrong."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from binpoint import pipelines
from binpoint.driver import compile_model
from binpoint.errors import BadOption
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph, Value
from binpoint.ir.op import FloatOp
from binpoint.ir.text import describe_figures, dump
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import FixedType, FloatType, IntType, TensorType
from binpoint.ops.dense import Dense
from binpoint.ops.elementwise import Binary, Kind
from binpoint.ops.unary import Clip
from binpoint.passes.base import Context
from binpoint.passes.manager import Pipeline, run
from binpoint.passes.samples import Samples
from binpoint.quantize.assign_types import AssignTypes
from binpoint.quantize.binary_points import BinaryPoints
from binpoint.quantize.least_error import least_errors, shifted
from binpoint.quantize.rounded_net import Place, RoundedNet, rounded_weights, weights_of
from binpoint.quantize.simulate import Simulation, rounded
from binpoint.quantize.weights import open_weights
from binpoint.report import render
from binpoint.report.schema import Report
from tests import models
from tests.quantize.nets import cnn, context, mlp, normal

I4 = IntType(4, signed=True)


def written(report: Report, folder: Path) -> Path:
    path = folder / "report.json"
    path.write_text(render.json(report), encoding="utf-8")
    return path


def asked(samples: Samples | None, points: str = "joint", **others: object) -> Context:
    return context(samples, scales="power-of-two", binary_points=points, **others)


def residual(rng: np.random.Generator) -> Graph:
    """A sum of a dense layer's result and its operand, whose ranges differ, rectified."""
    graph = Graph("residual")
    build = GraphBuilder(graph)
    x = build.input("x", TensorType((1, 8), FloatType()))

    def dense(x: Value, outputs: int, spread: float) -> Value:
        weights = rng.standard_t(2, size=(outputs, 8)).astype(np.float32) * np.float32(spread)
        bias = rng.normal(size=outputs).astype(np.float32)
        return build.one(Dense(), x, build.constant(weights), build.constant(bias))

    first = build.one(Clip(0.0, None), dense(x, 8, 1.0))
    both = build.one(Binary(Kind.ADD), first, dense(first, 8, 0.2))
    y = dense(build.one(Clip(0.0, None), both), 4, 1.0)
    graph.outputs, graph.output_names = (y.name,), ("y",)
    return graph


@pytest.mark.parametrize("make", [mlp, cnn, residual])
@pytest.mark.parametrize("points", ["mse", "joint"])
def test_every_scale_is_a_power_of_two_of_the_widths_asked_for(
    rng: np.random.Generator, make: type, points: str
) -> None:
    graph = make(rng)
    options = {"activation_bits": 5, "weight_bits": 3}
    found = run(Pipeline(BinaryPoints()), graph, asked(normal(graph, rng, 10), points, **options))
    border = {*graph.inputs, *graph.outputs}
    inner = 0
    for value in found.values():
        if value.constant is None:
            kind = value.fixed
            assert kind is not None
            assert kind.scale.is_power_of_two
            assert kind.zero_point in (kind.storage.min, 0)
            shared = kind.storage.width == 8
            assert shared == (value.name in border) or kind.storage.width in (5, 8)
            inner += kind.storage.width == 5
    assert inner
    for node in graph.nodes():
        for index in open_weights(graph, node):
            kind = found.value(found.node(node.name).inputs[index]).fixed
            assert kind is not None
            assert kind.storage == IntType(3, signed=True)
            assert all(s.is_power_of_two for s in kind.scales)
            assert kind.channels == graph.results(node)[0].shape[-1]


def test_a_value_has_the_point_of_least_squared_error_over_the_samples(
    rng: np.random.Generator,
) -> None:
    graph = mlp(rng)
    samples = normal(graph, rng, 20)
    types = BinaryPoints()._ranged(graph, asked(samples, activation_bits=4))  # pyright: ignore[reportPrivateUsage]
    found = least_errors(graph, types, samples)
    seen = [Simulation(graph, rounded=False).run(inputs) for inputs in samples.inputs()]
    narrower = 0
    for place, kind in found.items():
        if place.slot is not None:
            continue
        errors = {
            by: sum(
                float(((rounded(arrays[n], shifted(types[place], -by)) - arrays[n]) ** 2).sum())
                for arrays in seen
                for n in place.values
            )
            for by in range(6)
        }
        best = min(errors, key=lambda by: errors[by])
        assert kind == shifted(types[place], -best)
        narrower += best > 0
    assert narrower


def test_a_weight_channel_has_the_point_of_least_variance_of_its_sums(
    rng: np.random.Generator,
) -> None:
    graph = mlp(rng, (8, 6))
    samples = normal(graph, rng, 20)
    (node,) = graph.nodes()
    place = Place(slot=(node.name, 1))
    wide = FixedType(I4, (Dyadic(1, 0),) * 6, (0,), 0)
    found = least_errors(graph, {place: wide}, samples)[place]
    weights = weights_of(graph, (node.name, 1))
    x = np.concatenate([i["x"] for i in samples.inputs()]).astype(np.float64)
    for channel in range(6):
        errors = [
            np.var(x @ (rounded_weights(weights, shifted(wide, -by)) - weights)[channel])
            for by in range(6)
        ]
        assert found.scales[channel] == Dyadic(1, -int(np.argmin(errors)))


def test_a_change_that_was_kept_gives_the_net_with_that_type_from_the_start(
    rng: np.random.Generator,
) -> None:
    graph = residual(rng)
    samples = normal(graph, rng, 12)
    chosen = BinaryPoints().choose(graph, asked(samples, "mse", activation_bits=4, weight_bits=4))
    exact = Simulation(graph, rounded=False)
    outputs = [exact.outputs(i, frozenset(graph.outputs)) for i in samples.inputs()]
    types = dict(chosen.types)
    net = RoundedNet(graph, samples, types, outputs)
    kept = refused = 0
    for place in tuple(types) * 2:
        for by in (-1, 1):
            trial = {**types, place: shifted(types[place], by)}
            anew = RoundedNet(graph, samples, trial, outputs)
            tried = net.tried(place, trial[place])
            assert (tried is None) == (anew.error >= net.error)
            refused += tried is None
            if tried is not None:
                net.keep(tried)
                types = trial
                kept += 1
                assert net.error == tried.error == anew.error
    assert kept > 1 < refused


def test_the_error_of_rounded_outputs_is_that_of_the_typed_graph(rng: np.random.Generator) -> None:
    graph = cnn(rng)
    samples = normal(graph, rng, 8)
    wanted = asked(samples, "mse", activation_bits=4, weight_bits=4, bias_correction=False)
    points = BinaryPoints().choose(graph, wanted)
    typed = run(Pipeline(BinaryPoints()), graph, wanted)
    exact, coded = Simulation(graph, rounded=False), Simulation(typed, rounded=True)
    names = frozenset(graph.outputs)
    outputs = [exact.outputs(i, names) for i in samples.inputs()]
    noise = power = 0.0
    for inputs, real in zip(samples.inputs(), outputs, strict=True):
        found = coded.outputs(inputs, frozenset(typed.outputs))
        for name, array in real.items():
            noise += float(np.square(found[name] - array, dtype=np.float64).sum())
            power += float(np.square(array, dtype=np.float64).sum())
    assert RoundedNet(graph, samples, points.types, outputs).error == noise / power > 0.0


@pytest.mark.parametrize("seed", range(3))
def test_the_joint_search_lessens_the_error_and_says_how_much(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = residual(rng)
    samples = normal(graph, rng, 20)
    options = {"activation_bits": 3, "weight_bits": 3, "bias_correction": False}
    start = BinaryPoints().choose(graph, asked(samples, "mse", **options))
    found = BinaryPoints().choose(graph, asked(samples, "joint", **options))
    assert (start.before, start.after, start.moved) == (None, None, 0)
    assert found.before is not None
    assert found.after is not None
    differ = sum(start.types[p] != found.types[p] for p in start.types)
    assert found.after < found.before
    assert found.moved >= differ > 0


@pytest.mark.parametrize("make", [mlp, cnn])
def test_the_integers_of_eight_bits_follow_the_float_model(
    rng: np.random.Generator, make: type
) -> None:
    graph = make(rng)
    samples = normal(graph, rng, 25)
    integer = run(pipelines.mcu(), graph, asked(samples))
    (source,), (result,) = integer.inputs, integer.outputs
    kind_in, kind_out = integer.value(source).elem, integer.value(result).elem
    signal = noise = 0.0
    for inputs in normal(graph, rng, 40).inputs():
        wanted = evaluate(graph, inputs)[graph.outputs[0]]
        codes = evaluate(integer, {source: kind_in.quantize(inputs["x"])})[result]
        signal += float(np.sum(wanted**2))
        noise += float(np.sum((kind_out.dequantize(codes) - wanted) ** 2))
    assert signal / noise > 100.0


def test_a_bias_that_would_leave_32_bits_widens_the_weights_scale(
    rng: np.random.Generator,
) -> None:
    graph = mlp(rng, (8, 4))
    (node,) = graph.nodes()
    build = GraphBuilder(graph)
    tiny = build.constant((rng.normal(size=(4, 8)) * 1e-9).astype(np.float32))
    bias = build.constant(np.array([1e3, 0.0, 1e3, 0.0], np.float32))
    graph.replace(replace(node, inputs=(node.inputs[0], tiny.name, bias.name)))
    found = BinaryPoints().choose(graph, asked(normal(graph, rng), "mse"))
    kind = found.weights()[node.name, 1]
    wide, narrow = float(kind.scales[0]), float(kind.scales[1])
    unit = float(found.values()[graph.inputs[0]].scale)
    assert 1e3 / (wide * unit) < 2.0**31 < 1e3 / (narrow * unit)


def test_nothing_is_done_unless_asked_for_or_without_samples_or_to_a_quantized_model(
    rng: np.random.Generator,
) -> None:
    graph = mlp(rng)
    samples = normal(graph, rng)
    quantized = graph.copy()
    quantized.quantized = True
    for given, wanted in (
        (graph, asked(samples, "range")),
        (graph, asked(None)),
        (quantized, asked(samples)),
    ):
        assert dump(run(Pipeline(BinaryPoints()), given, wanted)) == dump(given)


def test_free_scales_have_no_binary_points(rng: np.random.Generator) -> None:
    graph = mlp(rng)
    with pytest.raises(BadOption, match="powers of two"):
        run(Pipeline(BinaryPoints()), graph, context(normal(graph, rng), binary_points="mse"))


def test_a_second_run_changes_nothing_and_the_first_is_the_same_every_time(
    rng: np.random.Generator,
) -> None:
    graph = cnn(rng)
    wanted = asked(normal(graph, rng, 10))
    once = run(Pipeline(BinaryPoints()), graph, wanted)
    assert dump(once) == dump(run(Pipeline(BinaryPoints()), graph, wanted))
    assert dump(once) == dump(run(Pipeline(BinaryPoints()), once, wanted))
    typed = run(Pipeline(AssignTypes()), once, wanted)
    assert {v.name: v.fixed for v in typed.values() if v.constant is None} == {
        v.name: v.fixed for v in once.values() if v.constant is None
    }


def test_bits_of_single_layers_are_kept_and_unknown_layers_refused(
    rng: np.random.Generator,
) -> None:
    graph = cnn(rng)
    samples = normal(graph, rng, 4)
    nodes = [n for n in graph.nodes() if open_weights(graph, n) and n.origin.names]
    assert all(isinstance(n.op, FloatOp) for n in nodes)
    with pytest.raises(BadOption, match="no real weights"):
        run(Pipeline(BinaryPoints()), graph, asked(samples, layer_bits={"nowhere": 4}))
    for node in nodes:
        wanted = asked(samples, layer_bits={node.origin.names[0]: 2})
        typed = run(Pipeline(BinaryPoints(), AssignTypes()), graph, wanted)
        kind = typed.value(typed.node(node.name).inputs[1]).fixed
        assert kind is not None
        assert kind.storage.width == 2


@pytest.mark.needs("cc")
def test_every_witness_gives_the_integers_of_three_and_five_bits(tmp_path: Path) -> None:
    models.save_float(tmp_path / "net.onnx")
    models.save_samples(tmp_path / "net.npz")
    wanted = asked(None, "joint", activation_bits=5, weight_bits=3)
    result = compile_model(
        tmp_path / "net.onnx", wanted.target, wanted.options,
        samples=tmp_path / "net.npz", calibrate_with=10,
    )  # fmt: skip
    assert result.verdict.answer == "equal"
    found = render.read(written(result.report, tmp_path)).passes["binary-points"]
    assert list(found) == ["types", "moved", "error_before", "error_after"]
    assert 0 < found["moved"] <= found["types"]
    assert 0 < found["error_after"] < found["error_before"]
    line = describe_figures(found)
    assert f"pass   binary-points: {line}" in dump(result.graph).splitlines()
    printed = io.StringIO()
    render.console(result.report, Console(file=printed, width=200))
    assert line in printed.getvalue()
    ratios = [layer.snr_db for layer in result.report.layers if layer.snr_db is not None]
    assert 3.0 < min(ratios) < 25.0  # beside the float model: three bits of weights are seen
    assert all(
        scale.is_power_of_two
        for v in result.graph.values()
        if v.constant is None
        for scale in v.elem.scales
    )
