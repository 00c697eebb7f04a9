"""assign-types: who shares a type, which ranges count, weights, and the integers that come out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from binpoint.errors import BadOption, MissingSamples, RangeOverflow
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph, Value
from binpoint.ir.op import FloatOp, Role
from binpoint.ir.verify import verify
from binpoint.lower.to_integers import ToIntegers
from binpoint.numeric.digits import grid
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, I32, U8, FixedType, FloatType, TensorType
from binpoint.ops.concat import Concat
from binpoint.ops.dense import Dense
from binpoint.ops.elementwise import Binary, Kind, Scalar
from binpoint.ops.shape import Reshape, Transpose
from binpoint.ops.slices import take_value
from binpoint.ops.softmax import Softmax
from binpoint.ops.unary import Clip, Unary
from binpoint.options import CompileOptions
from binpoint.passes.manager import Pipeline, run
from binpoint.passes.samples import Samples
from binpoint.quantize.assign_types import AssignTypes
from binpoint.quantize.choose_type import weight_type
from binpoint.quantize.simulate import Simulation
from binpoint.quantize.weights import open_weights
from tests.quantize.nets import cnn, context, mlp, normal

CLASSES = [mlp, cnn]


def assigned(graph: Graph, samples: Samples | None, **options: object) -> Graph:
    return run(Pipeline(AssignTypes()), graph, context(samples, **options))


@pytest.mark.parametrize("make", CLASSES)
@pytest.mark.parametrize("activations", ["asymmetric", "symmetric"])
@pytest.mark.parametrize("scales", ["free", "power-of-two"])
@pytest.mark.parametrize("observer", ["minmax", "percentile", "mse", "entropy"])
def test_integers_follow_the_float_model(
    rng: np.random.Generator, make: type, activations: str, scales: str, observer: str
) -> None:
    graph = make(rng)
    samples = normal(graph, rng)
    options = {"activations": activations, "scales": scales, "observer": observer}
    typed = assigned(graph, samples, **options)
    integer = run(Pipeline(ToIntegers()), typed, context(samples))
    kind_in, kind_out = typed.value("x").fixed, typed.value(typed.outputs[0]).fixed
    assert kind_in is not None
    assert kind_out is not None
    signal = noise = 0.0
    for inputs in normal(graph, rng, 40).inputs():
        wanted = evaluate(graph, inputs)[graph.outputs[0]]
        codes = evaluate(integer, {"x": kind_in.quantize(inputs["x"])})[integer.outputs[0]]
        signal += float(np.sum(wanted**2))
        noise += float(np.sum((kind_out.dequantize(codes) - wanted) ** 2))
    least = 10 ** (1.0 if observer == "entropy" else 2.0)
    assert signal / noise > least


def weights_of(typed: Graph) -> list[Value]:
    """All weights of a graph."""
    return [
        typed.value(name)
        for node in typed.nodes()
        if isinstance(node.op, FloatOp)
        for name, role in zip(node.inputs, node.op.roles(len(node.inputs)), strict=True)
        if role is Role.WEIGHT
    ]


@pytest.mark.parametrize(("bits", "count"), [(8, 1), (8, 2), (5, 2), (4, 1)])
def test_weights_are_the_nearest_sums_of_few_powers(
    rng: np.random.Generator, bits: int, count: int
) -> None:
    graph = mlp(rng)
    real = weights_of(graph)
    typed = assigned(graph, normal(graph, rng), weight_bits=bits, weight_terms=count)
    codes = grid(count, 2 ** (bits - 1) - 1)
    found = weights_of(typed)
    assert len(found) == len(real) > 1
    for value, given in zip(found, real, strict=True):
        assert value.fixed is not None
        assert value.constant is not None
        assert given.constant is not None
        assert set(np.unique(value.constant.array).tolist()) <= set(codes.tolist())
        scales = np.array([float(s) for s in value.fixed.scales])[:, None]
        apart = np.abs(given.constant.array / scales - value.constant.array)
        others = np.abs(given.constant.array[..., None] / scales[..., None] - codes)
        assert np.allclose(apart, others.min(axis=-1))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_have_as_many_bits_as_asked_for(rng: np.random.Generator, bits: int) -> None:
    graph = mlp(rng)
    typed = assigned(graph, normal(graph, rng), weight_bits=bits)
    most = 2 ** (bits - 1) - 1
    for value in weights_of(typed):
        assert value.fixed is not None
        assert value.constant is not None
        assert value.fixed.storage.width == bits
        assert np.abs(value.constant.array.astype(int)).max() == most


@pytest.mark.parametrize("bits", [2, 5, 8])
@pytest.mark.parametrize("observer", ["minmax", "mse", "entropy"])
def test_activations_have_as_many_bits_as_asked_for(
    rng: np.random.Generator, bits: int, observer: str
) -> None:
    graph = cnn(rng)
    typed = assigned(graph, normal(graph, rng), activation_bits=bits, observer=observer)
    found = [v.fixed for v in typed.values() if v.constant is None]
    assert {str(kind.storage) for kind in found if kind is not None} == {f"i{bits}"}
    integer = run(Pipeline(ToIntegers()), typed, context(normal(graph, rng)))
    x = typed.value("x").fixed
    assert x is not None
    for inputs in normal(graph, rng, 4).inputs():
        codes = evaluate(integer, {"x": x.quantize(inputs["x"])})[integer.outputs[0]]
        assert len(np.unique(codes)) <= 2**bits


@pytest.mark.parametrize("activations", ["asymmetric", "symmetric"])
def test_shares_of_fewer_bits_have_larger_steps(rng: np.random.Generator, activations: str) -> None:
    graph = mlp(rng)
    build = GraphBuilder(graph)
    share = build.one(Softmax(1), graph.value(graph.outputs[0]))
    graph.outputs = (share.name,)
    given = normal(graph, rng)
    typed = assigned(graph, given, activation_bits=6, activations=activations)
    kind = typed.value(share.name).fixed
    assert str(kind) == "u6@2^-6"
    integer = run(Pipeline(ToIntegers()), typed, context(given))
    for inputs in normal(graph, rng, 20).inputs():
        wanted = Simulation(typed, rounded=True).run(inputs)[share.name]
        x = typed.value("x").fixed
        assert x is not None
        assert kind is not None
        codes = evaluate(integer, {"x": x.quantize(inputs["x"])})[integer.outputs[0]]
        assert np.abs(kind.dequantize(codes) - wanted).max() < 0.1


def test_narrow_scales_have_no_more_error_than_those_of_the_largest_weight() -> None:
    rows = np.random.default_rng(3).normal(size=(5, 40)) ** 3
    kind = weight_type(rows, None, 1.0, power_of_two=False, bits=3)
    steps = np.abs(rows).max(axis=1, keepdims=True) / 3
    plain = ((np.rint(rows / steps) * steps - rows) ** 2).sum(axis=1)
    codes = np.clip(kind.quantize(rows), -3, 3)
    found = ((kind.dequantize(codes) - rows) ** 2).sum(axis=1)
    assert (found <= plain * (1 + 1e-6)).all()
    assert (found < 0.9 * plain).any()


def test_bits_for_a_layer_that_is_not_there_are_refused(rng: np.random.Generator) -> None:
    graph = mlp(rng)
    with pytest.raises(BadOption) as refused:
        assigned(graph, normal(graph, rng), layer_bits={"nowhere": 4})
    assert "nowhere" in str(refused.value.at)


def test_the_same_twice(rng: np.random.Generator) -> None:
    graph = mlp(rng)
    samples = normal(graph, rng)
    first, second = (assigned(graph, samples) for _ in range(2))
    assert [(v.name, v.fixed, v.constant) for v in first.values()] == [
        (v.name, v.fixed, v.constant) for v in second.values()
    ]
    again = assigned(first, samples, bias_correction=False)
    assert [(v.name, v.fixed, v.constant) for v in again.values()] == [
        (v.name, v.fixed, v.constant) for v in first.values()
    ]


def test_scales_are_float32_and_powers_of_two_on_request(rng: np.random.Generator) -> None:
    graph = cnn(rng)
    samples = normal(graph, rng)
    free, binary = assigned(graph, samples), assigned(graph, samples, scales="power-of-two")
    for value in free.values():
        for scale in value.fixed.scales if value.fixed else ():
            assert Dyadic.from_float(np.float32(float(scale))) == scale
    kinds = [value.fixed for value in binary.values() if value.fixed is not None]
    assert kinds
    assert all(scale.is_power_of_two for kind in kinds for scale in kind.scales)


def test_symmetric_activations_have_no_zero_point(rng: np.random.Generator) -> None:
    graph = mlp(rng)
    typed = assigned(graph, normal(graph, rng), activations="symmetric")
    assert {v.fixed.zero_points for v in typed.values() if v.fixed is not None} == {(0,)}


def test_a_linear_op_before_a_relu_takes_the_clamped_range(rng: np.random.Generator) -> None:
    graph = mlp(rng)
    typed = assigned(graph, normal(graph, rng))
    (relu,) = (node for node in typed.nodes() if isinstance(node.op, Clip))
    before, after = typed.value(relu.inputs[0]).fixed, typed.value(relu.outputs[0]).fixed
    assert before == after
    assert after is not None
    assert after.zero_point == I8.min


def test_what_moves_elements_shares_their_type(rng: np.random.Generator) -> None:
    graph = cnn(rng)
    typed = assigned(graph, normal(graph, rng))
    (flat,) = (node for node in typed.nodes() if isinstance(node.op, Reshape))
    assert typed.value(flat.inputs[0]).fixed == typed.value(flat.outputs[0]).fixed


def test_a_value_that_others_read_counts_in_full() -> None:
    graph = Graph("m")
    build = GraphBuilder(graph)
    x = build.input("x", TensorType((1, 4), FloatType()))
    graph.outputs = (build.one(Clip(0.0, 1.0), x).name, build.one(Unary("Sigmoid"), x).name)
    graph.output_names = ("a", "b")
    samples = Samples({"x": np.array([[-3.0, 0.0, 1.0, 5.0]], np.float32)})
    kind = assigned(graph, samples).value("x").fixed
    assert kind is not None
    assert float(kind.dequantize(np.array([-128]))[0]) == pytest.approx(-3, abs=0.05)
    assert float(kind.dequantize(np.array([127]))[0]) == pytest.approx(5, abs=0.05)


@pytest.mark.parametrize(("factor", "apart"), [(3.0, False), (30.0, True)])
@pytest.mark.parametrize("read", [False, True])
def test_what_a_concat_makes_small_keeps_its_own_type(
    factor: float, apart: bool, read: bool
) -> None:
    """As the boxes and scores of a detector, of one sigmoid, that become one output."""
    build = GraphBuilder(Graph("g"))
    x = build.input("x", TensorType((1, 4), FloatType()))
    shares = build.one(Unary("Sigmoid"), x)
    left, right = (take_value(build, shares, [range(1), range(a, a + 2)]) for a in (0, 2))
    boxes = build.one(Scalar(Kind.MUL, factor), left) if read else build.one(Unary("Abs"), x)
    joined = build.one(Concat(1), boxes, right)
    build.graph.outputs = (joined.name,)
    large = np.full((4, 1, 4), 1.0 if read else factor, np.float32)
    typed = assigned(build.graph, Samples({"x": large}))
    whole, small = (typed.value(v.name).fixed for v in (joined, right))
    assert (whole != small) == (apart and read)
    assert typed.value(shares.name).fixed == small


@pytest.mark.parametrize("read", [False, True])
def test_scores_keep_their_bits_beside_masks_that_are_inputs(
    read: bool, rng: np.random.Generator
) -> None:
    build = GraphBuilder(Graph("g"))
    x = build.input("x", TensorType((1, 3, 4), FloatType()))
    mask = build.input("mask", TensorType((1, 1, 4), FloatType()))
    low = build.one(Scalar(Kind.MUL, -10000.0), mask)
    scores = build.one(Binary(Kind.ADD), x, low)
    ends = [build.one(Softmax(2), scores), *([build.one(Unary("Tanh"), scores)] if read else [])]
    build.graph.outputs = tuple(v.name for v in ends)
    masks = rng.integers(0, 2, (9, 1, 4)).astype(np.float32)
    masks[:, :, 0] = 0
    arrays = {"x": rng.normal(0, 2, (9, 3, 4)).astype(np.float32), "mask": masks}
    kind = assigned(build.graph, Samples(arrays)).value(scores.name).fixed
    assert kind is not None
    assert (float(kind.scale) < 0.2) != read


def test_an_input_read_by_a_clip_alone_takes_its_range() -> None:
    graph = Graph("m")
    build = GraphBuilder(graph)
    x = build.input("x", TensorType((1, 2), FloatType()))
    moved = build.one(Transpose((1, 0)), x)
    graph.outputs, graph.output_names = (build.one(Clip(0.0, 2.0), moved).name,), ("y",)
    samples = Samples({"x": np.array([[-100.0, 100.0]], np.float32)})
    kind = assigned(graph, samples).value("x").fixed
    assert kind == FixedType.per_tensor(I8, Dyadic.from_float(np.float32(2 / 255)), -128)


def test_types_that_are_there_stay_and_spread() -> None:
    graph = Graph("m")
    build = GraphBuilder(graph)
    kind = FixedType.per_tensor(U8, Dyadic.of(1, -4), 7)
    x = build.input("x", TensorType((1, 4), FloatType()), fixed=kind)
    y = build.one(Reshape((4, 1)), x)
    graph.outputs, graph.output_names = (build.one(Clip(0.0, None), y).name,), ("y",)
    typed = assigned(graph, None)
    assert {value.fixed for value in typed.values()} == {kind}


def test_a_type_of_a_result_spreads_to_operands_without_other_readers() -> None:
    graph = Graph("m")
    build = GraphBuilder(graph)
    kind = FixedType.per_tensor(I8, Dyadic.of(1, -4), 7)
    x = build.input("x", TensorType((1, 4), FloatType()))
    y = build.one(Clip(0.0, None), build.one(Reshape((4, 1)), x))
    graph.set_value(replace(y, fixed=kind))
    graph.outputs, graph.output_names = (y.name,), ("y",)
    assert {value.fixed for value in assigned(graph, None).values()} == {kind}


def test_without_samples_the_first_values_are_named(rng: np.random.Generator) -> None:
    for samples in (None, Samples({"x": np.zeros((0, 8), np.float32)})):
        with pytest.raises(MissingSamples) as caught:
            assigned(mlp(rng, (8, 16, 16, 16, 4)), samples)
        assert caught.value.at is not None
        assert "`x`" in caught.value.at
        assert "more" in caught.value.at
        assert "--samples" in str(caught.value.hint)


def test_values_that_are_not_finite_are_named(rng: np.random.Generator) -> None:
    graph = mlp(rng)
    samples = Samples({"x": np.full((2, 8), 3e38, np.float32)})
    with pytest.raises(RangeOverflow, match="not finite"), np.errstate(all="ignore"):
        assigned(graph, samples)


def test_a_bias_that_dwarfs_its_weights_still_fits_32_bits(rng: np.random.Generator) -> None:
    graph = Graph("m")
    build = GraphBuilder(graph)
    x = build.input("x", TensorType((1, 4), FloatType()))
    weights = np.full((3, 4), 1e-9, np.float32)
    weights[1] = 0.0
    weights[2] = 1.0
    bias = build.constant(np.array([1000.0, -1000.0, 0.5], np.float32))
    y = build.one(Dense(), x, build.constant(weights), bias)
    graph.outputs, graph.output_names = (y.name,), ("y",)
    samples = Samples({"x": rng.normal(size=(20, 4)).astype(np.float32)})
    typed = assigned(graph, samples, bias_correction=False)
    integer = run(Pipeline(ToIntegers()), typed, context(samples))
    kind, result = typed.value("x").fixed, typed.value(typed.outputs[0]).fixed
    assert kind is not None
    assert result is not None
    codes = evaluate(integer, {"x": kind.quantize(samples.arrays["x"][:1])})[integer.outputs[0]]
    assert result.dequantize(codes)[0].tolist() == pytest.approx([1000, -1000, 0], abs=8)


def test_weights_are_symmetric_and_per_channel(rng: np.random.Generator) -> None:
    graph = cnn(rng)
    typed = assigned(graph, normal(graph, rng))
    seen = 0
    for node in typed.nodes():
        assert isinstance(node.op, FloatOp)
        roles = node.op.roles(len(node.inputs))
        for value, role in zip(typed.arguments(node), roles, strict=True):
            if role is not Role.WEIGHT:
                continue
            assert value.fixed is not None
            assert value.constant is not None
            assert (value.fixed.axis, value.fixed.channels) == (0, value.shape[0])
            largest = (
                np.abs(value.constant.array.astype(int)).reshape(value.shape[0], -1).max(axis=1)
            )
            assert largest.tolist() == [127] * value.shape[0]
            seen += 1
    assert seen == 4


def test_all_is_typed_and_the_original_untouched(rng: np.random.Generator) -> None:
    graph = cnn(rng)
    typed = assigned(graph, normal(graph, rng))
    verify(typed, "typed")
    assert all(value.fixed is None for value in graph.values())


def test_correction_takes_out_the_mean_error(rng: np.random.Generator) -> None:
    graph = cnn(rng)
    samples = normal(graph, rng, 32)
    means: dict[bool, float] = {}
    for correct in (False, True):
        typed = assigned(graph, samples, bias_correction=correct)
        wanted, found = Simulation(graph, rounded=False), Simulation(typed, rounded=True)
        name = graph.outputs[0]
        errors = [found.run(x)[name] - wanted.run(x)[name] for x in samples.inputs()]
        means[correct] = float(np.abs(np.mean(errors, axis=0)).max())
    assert means[True] < means[False] / 3


@pytest.mark.parametrize(
    "options",
    [{"weight_bits": 4}, {"weight_bits": 4, "scales": "power-of-two"}, {"weight_terms": 1}],
)
def test_weights_make_up_for_each_other(
    rng: np.random.Generator, options: Mapping[str, Any]
) -> None:
    """At the scales and with the codes that they would have anyway."""
    graph = cnn(rng)
    samples = normal(graph, rng, 32)
    name = graph.outputs[0]
    made = [
        assigned(graph, samples, weight_rounding=rounding, **options)
        for rounding in ("nearest", "compensated")
    ]
    wanted = [Simulation(graph, rounded=False).run(x)[name] for x in samples.inputs()]
    errors: list[float] = []
    for typed in made:
        found = [Simulation(typed, rounded=True).run(x)[name] for x in samples.inputs()]
        errors.append(float(np.square(np.stack(found) - np.stack(wanted)).mean()))
    assert errors[1] < 0.8 * errors[0]
    pairs = [(n, i) for n in graph.nodes() for i in open_weights(graph, n)]
    assert pairs
    for node, index in pairs:
        plain, ours = (typed.arguments(typed.node(node.name))[index] for typed in made)
        assert plain.fixed == ours.fixed
        assert plain.constant is not None
        assert ours.constant is not None
        codes = grid(1, 127) if "weight_terms" in options else np.arange(-7, 8)
        assert np.isin(ours.constant.array, codes).all()


def test_weights_that_make_up_need_samples_and_their_own_scales(rng: np.random.Generator) -> None:
    with pytest.raises(BadOption):
        CompileOptions(weight_rounding="compensated", binary_points="mse")
    graph = mlp(rng)
    typed = assigned(graph, normal(graph, rng))
    with pytest.raises(MissingSamples):
        _ = assigned(typed, None, weight_rounding="compensated")


def test_a_type_for_what_is_always_zero() -> None:
    graph = Graph("m")
    build = GraphBuilder(graph)
    x = build.input("x", TensorType((1, 2), FloatType()))
    y = build.one(Dense(), x, build.constant(np.zeros((2, 2), np.float32)))
    graph.outputs, graph.output_names = (y.name,), ("y",)
    typed = assigned(graph, Samples({"x": np.ones((3, 2), np.float32)}), bias_correction=False)
    assert typed.value(y.name).fixed == FixedType.per_tensor(I8, Dyadic.of(1, -7))
    integer = run(Pipeline(ToIntegers()), typed, context())
    assert not evaluate(integer, {"x": np.array([[127, 3]])})[integer.outputs[0]].any()


def test_a_bias_stored_for_another_scale_becomes_real(rng: np.random.Generator) -> None:
    graph = Graph("m")
    build = GraphBuilder(graph)
    x = build.input("x", TensorType((1, 4), FloatType()))
    weights = build.constant(
        np.full((2, 4), 3, np.int8), fixed=FixedType.per_tensor(I8, Dyadic.of(1, -5))
    )
    kind = FixedType.per_tensor(I32, Dyadic.of(1, -10))
    bias = build.constant(np.array([1024, -2048], np.int32), fixed=kind)
    y = build.one(Dense(), x, weights, bias)
    graph.outputs, graph.output_names = (y.name,), ("y",)
    typed = assigned(graph, normal(graph, rng))
    (node,) = typed.nodes()
    value = typed.value(node.inputs[2])
    assert value.fixed is None
    assert value.constant is not None
    assert value.constant.array.tolist() == [1.0, -2.0]
    assert typed.value(node.inputs[1]).fixed == weights.fixed
