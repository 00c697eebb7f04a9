"""What lies between QONNX's quantizers, as exact steps, against qonnx's own execution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from binpoint.emit.mcu_c import render
from binpoint.ir.evaluate import evaluate
from binpoint.options import CompileOptions
from binpoint.plan.arrange import arrange
from binpoint.sim.check_graph import run_onnx, write_onnx
from binpoint.sim.compare import first_difference
from binpoint.sim.host_c import run_host
from binpoint.target import load_target, microcontroller
from tests.nets_qonnx import DOMAIN, STEP, Net, close, exact, lowered, refused, samples
from tests.qonnx_oracle import compare


def test_chain_of_functions(tmp_path: Path, rng: np.random.Generator) -> None:
    net = Net((1, 8))
    y = net.add("MatMul", net.quant("x", STEP, 8), net.quant(rng.normal(0, 1, (8, 6)), 0.25, 4))
    y = net.add("Add", y, rng.integers(-8, 8, 6) / 4)
    y = net.add("Mul", y, 2.0 ** rng.integers(-2, 2, 6))
    y = net.add("LeakyRelu", y, alpha=0.25)
    y = net.add("Sub", 1.5, net.add("Div", y, -2.0))
    out = net.quant(net.add("Clip", y, -3.0, 6.5), 0.25, 5)
    exact(net.model(out), tmp_path, samples(rng, (1, 8)))


def test_normalization_of_any_parameters(tmp_path: Path, rng: np.random.Generator) -> None:
    net = Net((1, 12))
    scales = rng.uniform(0.05, 0.2, (1, 9))
    y = net.add("MatMul", net.quant("x", STEP, 8), net.quant(rng.normal(0, 1, (12, 9)), scales, 4))
    y = net.add("Relu", net.normalization(y, rng, 9))
    out = net.quant(y, 0.173, 4, signed=False)
    close(net.model(out), tmp_path, samples(rng, (1, 12), 40))


def test_convolutional_net(tmp_path: Path, rng: np.random.Generator) -> None:
    net = Net((1, 3, 9, 9))
    first = net.quant(rng.normal(0, 1, (6, 3, 3, 3)), rng.uniform(0.1, 0.3, (6, 1, 1, 1)), 3)
    y = net.add("Conv", net.quant("x", STEP, 8), first, rng.normal(0, 1, 6), pads=[1, 1, 1, 1])
    y = net.quant(net.add("Relu", net.normalization(y, rng, 6)), 0.61, 3, signed=False)
    y = net.add("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2])
    depthwise = net.quant(rng.normal(0, 1, (6, 1, 2, 2)), 0.3, 4)
    y = net.add("Conv", y, depthwise, group=6)
    y = net.add("AveragePool", net.quant(y, 0.8, 4), kernel_shape=[2, 2])
    y = net.add("Flatten", net.quant(y, 0.77, 3))
    y = net.add(
        "Gemm", y, net.quant(rng.normal(0, 1, (5, 24)), 0.2, 2), rng.normal(0, 1, 5), transB=1
    )
    close(net.model(y), tmp_path, samples(rng, (1, 3, 9, 9)))


def test_quantizer_moves_before_a_maximum(tmp_path: Path, rng: np.random.Generator) -> None:
    net = Net((1, 2, 6, 6))
    y = net.add("Conv", net.quant("x", STEP, 8), net.quant(rng.normal(0, 1, (4, 2, 3, 3)), 0.25, 3))
    y = net.add("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    graph = exact(net.model(net.quant(y, 1.0, 3)), tmp_path, samples(rng, (1, 2, 6, 6)))
    assert [type(n.op).__name__ for n in graph.nodes()][-3:-1] != ["IntMaxPool", "IntThresholds"]


def test_falling_quantizer_stays_after_a_maximum(tmp_path: Path, rng: np.random.Generator) -> None:
    net = Net((1, 2, 6, 6))
    y = net.add("Conv", net.quant("x", STEP, 8), net.quant(rng.normal(0, 1, (4, 2, 3, 3)), 0.25, 3))
    y = net.add("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    y = net.add("Mul", y, -0.5)
    exact(net.model(net.quant(y, 1.0, 3)), tmp_path, samples(rng, (1, 2, 6, 6)))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul"])
def test_two_branches(tmp_path: Path, rng: np.random.Generator, op: str) -> None:
    net = Net((1, 8))
    x = net.quant("x", STEP, 8)
    a = net.quant(net.add("MatMul", x, net.quant(rng.normal(0, 1, (8, 8)), 0.25, 3)), 0.75, 4)
    b = net.quant(net.add("MatMul", x, net.quant(rng.normal(0, 1, (8, 8)), 0.25, 3)), 2.0, 3)
    out = net.quant(net.add("Relu", net.add(op, a, b)), 0.5, 4, signed=False)
    exact(net.model(out), tmp_path, samples(rng, (1, 8)))


@pytest.mark.parametrize("op", ["Add", "Sub"])
@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_branches_of_scales_without_common_unit(
    tmp_path: Path, rng: np.random.Generator, op: str, bits: int
) -> None:
    net = Net((1, 8))
    x = net.quant("x", STEP, 8)
    a = net.quant(net.add("MatMul", x, net.quant(rng.normal(0, 1, (8, 9)), 0.25, 3)), 0.137, bits)
    b = net.quant(net.add("MatMul", x, net.quant(rng.normal(0, 1, (8, 9)), 0.25, 3)), 0.0713, bits)
    y = net.normalization(net.add(op, a, b), rng, 9)
    graph = close(net.model(net.quant(y, 0.31, bits)), tmp_path, samples(rng, (1, 8), 30))
    assert [type(n.op).__name__ for n in graph.nodes()][-2:] == ["IntAdd", "IntThresholds"]


@pytest.mark.parametrize("op", ["Sigmoid", "Tanh", "Abs"])
def test_function_without_exact_steps_is_a_table(
    tmp_path: Path, rng: np.random.Generator, op: str
) -> None:
    net = Net((1, 8))
    y = net.add("Mul", net.add(op, net.quant("x", STEP, 8)), 3.0)
    graph = close(net.model(net.quant(y, 0.25, 5)), tmp_path, samples(rng, (1, 8), 40))
    assert [type(n.op).__name__ for n in graph.nodes()] == ["IntLookup"]


def test_scale_outside_of_its_quantizer(tmp_path: Path, rng: np.random.Generator) -> None:
    """Quant on unit scale, the scale multiplied afterwards: of weights and of activations."""
    net = Net((1, 8))
    x = net.add("Mul", net.quant(net.add("Div", "x", STEP), 1.0, 8), STEP)
    scales = 2.0 ** rng.integers(-3, 0, (1, 5))
    weights = net.add("Mul", net.quant(rng.normal(0, 4, (8, 5)), 1.0, 4), scales)
    out = net.quant(net.add("MatMul", x, weights), 0.5, 4)
    exact(net.model(out), tmp_path, samples(rng, (1, 8)))


def test_scales_per_channel_move_into_depthwise_weights(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    net = Net((1, 2, 6, 6))
    y = net.add("Conv", net.quant("x", STEP, 8), net.quant(rng.normal(0, 1, (4, 2, 3, 3)), 0.25, 3))
    y = net.quant(y, rng.uniform(0.3, 0.9, (1, 4, 1, 1)), 4)
    y = net.add("Conv", y, net.quant(rng.normal(0, 1, (8, 1, 2, 2)), 0.25, 3), group=4)
    close(net.model(net.quant(y, 0.7, 4)), tmp_path, samples(rng, (1, 2, 6, 6)))


def test_scales_per_channel_that_are_multiples_move_into_weights(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    net = Net((1, 8))
    y = net.add("MatMul", net.quant("x", STEP, 8), net.quant(rng.normal(0, 1, (8, 6)), 0.25, 3))
    y = net.quant(y, 2.0 ** -rng.permutation(6).reshape(1, 6) / 2, 4)
    y = net.add("MatMul", y, net.quant(rng.normal(0, 1, (6, 5)), 0.25, 3))
    exact(net.model(net.quant(y, 0.5, 5)), tmp_path, samples(rng, (1, 8)))


def test_scales_per_channel_without_a_unit_are_refused(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    net = Net((1, 8))
    y = net.add("MatMul", net.quant("x", STEP, 8), net.quant(rng.normal(0, 1, (8, 6)), 0.25, 3))
    y = net.quant(y, rng.uniform(0.3, 0.9, (1, 6)), 4)
    y = net.add("MatMul", y, net.quant(rng.normal(0, 1, (6, 5)), 0.25, 3))
    error = refused(net, net.quant(y, 1.0, 4), tmp_path)
    assert "scale per channel" in error.message


def test_mean_before_a_product_needs_no_quantizer(tmp_path: Path, rng: np.random.Generator) -> None:
    net = Net((1, 3, 5, 5))
    mean = net.add("GlobalAveragePool", net.quant("x", STEP, 5))
    y = net.add("Gemm", net.add("Flatten", mean), net.quant(rng.normal(0, 1, (3, 4)), 0.25, 3))
    close(net.model(net.quant(y, 0.05, 6)), tmp_path, samples(rng, (1, 3, 5, 5)))


def test_preamble_joins_the_input(tmp_path: Path, rng: np.random.Generator) -> None:
    net = Net((1, 6))
    x = net.quant(net.add("Sub", net.add("Mul", "x", 2.0), 1.0), 2.0**-7, 8)
    y = net.add("MatMul", x, net.quant(rng.normal(0, 1, (6, 5)), 0.25, 3))
    inputs = (rng.integers(0, 256, (9, 6)) / 256).astype(np.float32)
    graph = exact(net.model(net.quant(y, 0.5, 4)), tmp_path, inputs)
    assert str(graph.value(graph.inputs[0]).elem) == "i8@2^-8,zp=-128"


def test_witnesses_agree_on_all_kinds_of_layers(tmp_path: Path, rng: np.random.Generator) -> None:
    net = Net((1, 3, 8, 8))
    weights = net.quant(rng.normal(0, 1, (6, 3, 3, 3)), rng.uniform(0.1, 0.3, (6, 1, 1, 1)), 3)
    y = net.add("Conv", net.quant("x", 0.07, 8), weights, rng.normal(0, 1, 6), pads=[1, 1, 1, 1])
    first = net.quant(net.add("Relu", net.normalization(y, rng, 6)), 0.61, 6, signed=False)
    depthwise = net.quant(rng.normal(0, 1, (6, 1, 3, 3)), 0.3, 4)
    y = net.add("Conv", first, depthwise, group=6, pads=[1, 1, 1, 1])
    y = net.quant(net.add("Add", net.quant(y, 0.8, 4), first), 1.37, 5)
    y = net.add("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    y = net.add("BipolarQuant", net.add("AveragePool", y, kernel_shape=[2, 2]), 0.5, domain=DOMAIN)
    y = net.add(
        "Gemm", net.add("Flatten", y), net.quant(rng.normal(0, 1, (5, 54)), 0.2, 2), transB=1
    )
    graph = lowered(net.model(y), tmp_path)
    (name,) = graph.inputs
    shape = graph.value(name).shape
    codes = [{name: rng.integers(-128, 128, shape)} for _ in range(5)]
    expected = [evaluate(graph, c) for c in codes]
    program, options = arrange(graph, CompileOptions()), CompileOptions()
    project = render(program, load_target("host"), options)
    assert (
        first_difference(graph, expected, run_onnx(write_onnx(graph, deep=True), graph, codes))
        is None
    )
    assert (
        first_difference(graph, expected, run_host(program, project, options, codes, deep=True))
        is None
    )


@pytest.mark.parametrize("target", ["host", "cortex-m4"])
@pytest.mark.parametrize(("axes", "channels"), [((2, 3), 6), ((1,), 5), ((3,), 6), ((1, 2), 5)])
def test_a_mean_is_normalized_by_channel(
    axes: tuple[int, ...], channels: int, target: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    net = Net((1, 6, 4, 5))
    mean = net.add("ReduceMean", net.quant("x", 0.1, 6), axes=list(axes), keepdims=1)
    shape = (1, channels, 1, 1) if channels == 6 else (1, 1, 1, channels)
    scaled = net.add("Mul", mean, rng.uniform(0.3, 2, shape))
    y = net.quant(net.add("Add", scaled, rng.normal(0, 1, shape)), 0.2, 4)
    graph = lowered(net.model(y, opset=13), tmp_path)
    (name,) = graph.inputs
    codes = [{name: rng.integers(-32, 32, graph.value(name).shape)} for _ in range(5)]
    expected = [evaluate(graph, c) for c in codes]
    device, options = microcontroller(load_target(target)), CompileOptions()
    program = arrange(graph, options, device)
    project = render(program, device, options)
    found = run_host(program, project, options, codes, deep=True)
    assert first_difference(graph, expected, found) is None


# ---- outputs without a quantizer


def test_output_is_the_sum_with_its_scale(tmp_path: Path, rng: np.random.Generator) -> None:
    net = Net((1, 6))
    y = net.add("MatMul", net.quant("x", STEP, 8), net.quant(rng.normal(0, 1, (6, 5)), 0.25, 3))
    graph = lowered(net.model(net.add("Add", y, np.arange(5) / 64)), tmp_path)
    out = graph.value(graph.outputs[0])
    assert str(out.elem) == "i32@2^-6"
    assert out.reading is None


def test_units_of_channels_become_one_unit(tmp_path: Path, rng: np.random.Generator) -> None:
    net = Net((1, 6))
    scales = 2.0 ** -np.array([[2, 4, 3]])
    y = net.add("MatMul", net.quant("x", STEP, 8), net.quant(rng.normal(0, 1, (6, 3)), scales, 4))
    model = net.model(y)
    graph = lowered(model, tmp_path)
    assert str(graph.value(graph.outputs[0]).elem) == "i32@2^-8"
    inputs = samples(rng, (1, 6))
    counts = compare(model, graph, ({graph.inputs[0]: x[None]} for x in inputs))
    assert counts.worst_output == 0


def test_reading_of_an_output(tmp_path: Path, rng: np.random.Generator) -> None:
    net = Net((1, 6))
    weights = net.quant(rng.normal(0, 1, (6, 4)), rng.uniform(0.1, 0.2, (1, 4)), 4)
    y = net.normalization(net.add("MatMul", net.quant("x", STEP, 8), weights), rng, 4)
    model = net.model(y)
    graph = lowered(model, tmp_path)
    reading = graph.value(graph.outputs[0]).reading
    assert reading is not None
    assert len(reading.scales) == len(reading.offsets) == 4
    assert all(abs(o) <= s / 2 for o, s in zip(reading.offsets, reading.scales, strict=True))
    counts = compare(model, graph, ({graph.inputs[0]: x[None]} for x in samples(rng, (1, 6))))
    assert counts.worst_output < 1e-5
