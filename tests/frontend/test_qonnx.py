"""QONNX in: every quantizer and what lies between, against qonnx's own execution."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from binpoint.emit.mcu_c import render
from binpoint.errors import BadOption, BinpointError
from binpoint.frontend.load import load
from binpoint.frontend.qonnx import is_rational
from binpoint.frontend.samples import read_samples
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.numeric.fixed import IntType
from binpoint.numeric.monotone import Rule
from binpoint.ops.thresholds import IntThresholds
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.passes.manager import run
from binpoint.pipelines import mcu
from binpoint.plan.arrange import arrange
from binpoint.sim.check_graph import run_onnx, write_onnx
from binpoint.sim.compare import first_difference
from binpoint.sim.host_c import run_host
from binpoint.target import load_target, microcontroller
from tests.nets_qonnx import DOMAIN, Net, lowered
from tests.qonnx_oracle import compare

STEP = 2.0**-4
NAMES = {
    "ROUND": Rule.HALF_EVEN, "CEIL": Rule.CEIL, "FLOOR": Rule.FLOOR, "UP": Rule.AWAY,
    "DOWN": Rule.ZERO, "HALF_UP": Rule.HALF_AWAY, "HALF_DOWN": Rule.HALF_ZERO,
}  # fmt: skip


def samples(
    rng: np.random.Generator, shape: tuple[int, ...], count: int = 12
) -> npt.NDArray[np.float32]:
    """Inputs on the grid of the first quantizer, so that no rounding of inputs is compared."""
    codes = rng.integers(-128, 128, (count, *shape[1:]))
    return (codes * STEP).astype(np.float32)


def exact(model: onnx.ModelProto, folder: Path, inputs: npt.NDArray[np.float32]) -> Graph:
    """Lower a model whose scales are powers of two: float32 is exact, so no code may differ."""
    graph = lowered(model, folder, inputs)
    counts = compare(model, graph, ({graph.inputs[0]: x[None]} for x in inputs))
    assert counts.codes
    assert counts.differ == 0
    assert counts.worst_output < 1e-4
    return graph


def close(model: onnx.ModelProto, folder: Path, inputs: npt.NDArray[np.float32]) -> Graph:
    """Lower a model of any scales: codes differ only where float32 falls off a tie."""
    graph = lowered(model, folder, inputs)
    counts = compare(model, graph, ({graph.inputs[0]: x[None]} for x in inputs))
    assert counts.codes
    assert all(d < 1e-4 for d in counts.distances)
    assert counts.differ <= max(2, counts.codes // 1000)
    return graph


# ---- quantizers


@pytest.mark.parametrize("rule", NAMES)
@pytest.mark.parametrize(("bits", "signed"), [(2, True), (3, False), (6, True), (8, False)])
def test_quant_after_a_product(
    tmp_path: Path, rng: np.random.Generator, rule: str, bits: int, *, signed: bool
) -> None:
    net = Net((1, 10))
    weights = net.quant(rng.normal(0, 1, (10, 7)), 2.0**-2, 4, narrow=True)
    y = net.add("MatMul", net.quant("x", STEP, 8), weights)
    net.quant(y, 2.0 ** (5 - bits), bits, signed=signed, narrow=bits % 2 == 0, rule=rule)
    graph = exact(net.model(f"v{len(net.nodes) - 1}"), tmp_path, samples(rng, (1, 10)))
    assert graph.value(graph.outputs[0]).elem.storage == IntType(bits, signed)


@pytest.mark.parametrize("bits", range(1, 17))
def test_every_width(tmp_path: Path, rng: np.random.Generator, bits: int) -> None:
    net = Net((1, 6))
    weights = net.quant(rng.normal(0, 1, (6, 5)), 2.0**-3, min(bits, 8))
    y = net.add("MatMul", net.quant("x", STEP, 8), weights)
    out = net.quant(y, 2.0 ** (6 - bits), bits, signed=bits % 3 != 0)
    exact(net.model(out), tmp_path, samples(rng, (1, 6)))


def test_zero_points(tmp_path: Path, rng: np.random.Generator) -> None:
    net = Net((1, 6))
    weights = net.quant(rng.normal(0, 1, (6, 5)), 2.0**-2, 4, zero=1.0)
    x = net.quant("x", STEP, 8, zero=-3.0)
    h = net.quant(net.add("MatMul", x, weights), 0.5, 4, zero=5.0, signed=False)
    out = net.quant(net.add("MatMul", h, net.quant(rng.normal(0, 1, (5, 3)), 0.5, 3)), 1.0, 5)
    exact(net.model(out), tmp_path, samples(rng, (1, 6)))


def test_bipolar_weights_and_activations(tmp_path: Path, rng: np.random.Generator) -> None:
    net = Net((1, 16))
    weights = net.add("BipolarQuant", rng.normal(0, 1, (16, 9)), 0.5, domain=net.domain)
    y = net.normalization(net.add("MatMul", net.quant("x", STEP, 8), weights), rng, 9)
    h = net.add("BipolarQuant", y, 2.0, domain=net.domain)
    out = net.quant(net.add("MatMul", h, net.quant(rng.normal(0, 1, (9, 4)), 1.0, 1)), 4.0, 1)
    graph = exact(net.model(out), tmp_path, samples(rng, (1, 16)))
    ops = [n.op for n in graph.nodes() if isinstance(n.op, IntThresholds)]
    assert [op.bipolar for op in ops] == [True, True]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_multi_threshold(tmp_path: Path, rng: np.random.Generator, layout: str) -> None:
    shape = (1, 3, 4, 5) if layout == "NCHW" else (1, 4, 5, 3)
    net = Net(shape)
    table = np.sort(rng.integers(-60, 60, (3, 7)) / 8, axis=1)
    flags = {"out_dtype": "INT4", "out_scale": 0.5, "out_bias": -2.0, "data_layout": layout}
    x = net.quant("x", STEP, 8)
    out = net.add("MultiThreshold", x, table, domain=net.domain, **flags)
    exact(net.model(out), tmp_path, samples(rng, shape))


def test_multi_threshold_to_two_values(tmp_path: Path, rng: np.random.Generator) -> None:
    net = Net((1, 6))
    flags = {"out_dtype": "BIPOLAR", "out_scale": 2.0, "out_bias": -1.0}
    x = net.quant("x", STEP, 8)
    out = net.add("MultiThreshold", x, [[0.25]], domain=net.domain, **flags)
    graph = exact(net.model(out), tmp_path, samples(rng, (1, 6)))
    (op,) = (n.op for n in graph.nodes() if isinstance(n.op, IntThresholds))
    assert op.bipolar


@pytest.mark.parametrize("rule", ["FLOOR", "ROUND", "CEIL"])
def test_first_trunc_drops_low_bits(tmp_path: Path, rng: np.random.Generator, rule: str) -> None:
    net = Net((1, 6))
    x = net.quant("x", STEP, 8)
    out = net.add("Trunc", x, STEP, 0.0, 8.0, 5.0, domain=net.domain, rounding_mode=rule)
    exact(net.model(out), tmp_path, samples(rng, (1, 6)))


def test_second_trunc_states_its_scale(tmp_path: Path, rng: np.random.Generator) -> None:
    net = Net((1, 3, 4, 8))
    pooled = net.add("AveragePool", net.quant("x", STEP, 6), kernel_shape=[2, 2], strides=[2, 2])
    flags = {"rounding_mode": "FLOOR", "signed": 1, "narrow": 0}
    out = net.add("Trunc", pooled, STEP / 4, 0.0, 8.0, STEP, 6.0, domain=net.domain, **flags)
    model = net.model(out)
    model.opset_import[1].version = 2
    exact(model, tmp_path, samples(rng, (1, 3, 4, 8)))


@pytest.mark.parametrize(
    "domain", ["qonnx.custom_op.general", "finn.custom_op.general", "onnx.brevitas", ""]
)
def test_domains(tmp_path: Path, rng: np.random.Generator, domain: str) -> None:
    net = Net((1, 6), domain)
    y = net.add("MatMul", net.quant("x", STEP, 8), net.quant(rng.normal(0, 1, (6, 5)), 0.25, 3))
    exact(net.model(net.quant(y, 0.5, 4)), tmp_path, samples(rng, (1, 6)))


# ---- what lies between


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


# ---- refusals


def refused(net: Net, out: str, folder: Path) -> BinpointError:
    with pytest.raises(BinpointError) as caught:
        lowered(net.model(out), folder)
    return caught.value


BAD: list[tuple[Callable[[Net], str], str]] = [
    (lambda n: n.quant("x", 0.5, 3.5), "bit width"),
    (lambda n: n.quant("x", 0.5, 17), "17 bits"),
    (lambda n: n.quant("x", 0.0, 4), "not positive"),
    (lambda n: n.quant("x", -1.0, 4), "not positive"),
    (lambda n: n.quant("x", 0.5, 4, zero=0.5), "no integer"),
    (lambda n: n.quant("x", 0.5, 4, zero=9.0), "outside its type"),
    (lambda n: n.quant("x", 0.5, 4, rule="STOCHASTIC"), "STOCHASTIC"),
    (
        lambda n: n.add("MultiThreshold", "x", [[1.0, 0.0]], domain=n.domain, out_dtype="UINT2"),
        "out of order",
    ),
    (
        lambda n: n.add("FloatQuant", "x", 1.0, 4.0, 3.0, 7.0, 15.0, domain=n.domain),
        "floating-point",
    ),
]


@pytest.mark.parametrize(("build", "words"), BAD)
def test_bad_quantizer(tmp_path: Path, build: Callable[[Net], str], words: str) -> None:
    net = Net((1, 4))
    error = refused(net, net.quant(build(net), 1.0, 8), tmp_path)
    assert words in str(error)
    assert error.at


def test_tensor_without_quantizer_is_named(tmp_path: Path, rng: np.random.Generator) -> None:
    net = Net((1, 6))
    y = net.add("MatMul", net.quant("x", STEP, 8), net.quant(rng.normal(0, 1, (6, 5)), 0.25, 3))
    z = net.add("MatMul", net.add("Relu", y), net.quant(rng.normal(0, 1, (5, 4)), 0.25, 3))
    error = refused(net, net.quant(z, 1.0, 4), tmp_path)
    assert "is not quantized" in error.message
    assert re.search(r"nv\d", str(error.at))
    assert "Quant" in str(error.hint)


def test_weights_without_quantizer_are_named(tmp_path: Path, rng: np.random.Generator) -> None:
    net = Net((1, 6))
    y = net.add("MatMul", net.quant("x", STEP, 8), rng.normal(0, 1, (6, 5)))
    error = refused(net, net.quant(y, 1.0, 4), tmp_path)
    assert "is not quantized" in error.message


def test_quantizers_that_disagree_on_the_input(tmp_path: Path) -> None:
    net = Net((1, 6))
    out = net.quant(net.add("Add", net.quant("x", 0.5, 4), net.quant("x", 0.25, 4)), 1.0, 4)
    error = refused(net, out, tmp_path)
    assert "disagree" in error.message


def test_activations_with_a_scale_per_channel_are_refused(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    net = Net((1, 6))
    x = net.quant("x", rng.uniform(0.1, 0.2, (1, 6)), 4)
    y = net.add("MatMul", x, net.quant(rng.normal(0, 1, (6, 5)), 0.25, 3))
    error = refused(net, net.quant(y, 1.0, 4), tmp_path)
    assert "scale per channel" in error.message


def test_other_semantics_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    net = Net((1, 6))
    y = net.add("MatMul", net.quant("x", STEP, 8), net.quant(rng.normal(0, 1, (6, 5)), 0.25, 3))
    (tmp_path / "net.onnx").write_bytes(net.model(net.quant(y, 1.0, 4)).SerializeToString())
    context = Context(load_target("host"), CompileOptions(semantics="onnxruntime"))
    with pytest.raises(BadOption, match="exact"):
        run(mcu(), load(tmp_path / "net.onnx"), context)


def test_input_without_quantizer_asks_for_samples(tmp_path: Path, rng: np.random.Generator) -> None:
    net = Net((1, 6))
    y = net.add("MatMul", "x", net.quant(rng.normal(0, 1, (6, 5)), 0.25, 3))
    error = refused(net, net.quant(y, 1.0, 4), tmp_path)
    assert "no quantizer" in error.message


# ---- Brevitas's other form, and real models


def test_clipped_codes_are_a_narrower_type(tmp_path: Path, rng: np.random.Generator) -> None:
    net = Net((1, 6), domain="")

    def quantize(x: object, scale: float, low: int, high: int) -> str:
        zero = f"z{len(net.nodes)}"
        dtype = np.int8 if low < 0 else np.uint8
        for name, value in ((zero, 0), (f"{zero}l", low), (f"{zero}h", high)):
            net.parameters.append(onnx.numpy_helper.from_array(np.array(value, dtype), name))
        step = net.parameter(scale)
        codes = net.add("QuantizeLinear", x, step, zero)
        return net.add(
            "DequantizeLinear", net.add("Clip", codes, f"{zero}l", f"{zero}h"), step, zero
        )

    x = quantize("x", STEP, -128, 127)
    y = net.add("Gemm", x, quantize(rng.normal(0, 1, (6, 5)), 0.25, -7, 7), rng.normal(0, 1, 5))
    model = net.model(quantize(net.add("Relu", y), 0.5, 0, 15))
    assert is_rational(model.graph)
    graph = lowered(model, tmp_path)
    assert graph.value(graph.outputs[0]).elem.storage == IntType(4, signed=False)


MODELS = {
    "pendigits_mlp_w6a6": 100, "tfc_1w1a": 25, "tfc_2w2a": 25, "kws_mlp_w3a3_v07": 25,
    "kws_dscnn_w4a4": 5, "cnv_half_w2a2": 2, "jet_mlp_w6a6_zoo": 100,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Output shapes disagree")
@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_model(shared_models: Path, name: str) -> None:
    path = shared_models / f"{name}.onnx"
    graph = load(path)
    found = read_samples(shared_models / f"{name}.npz", graph, 0)
    assert found is not None
    graph = run(mcu(), graph, Context(load_target("host"), CompileOptions(), found.part(0, 60)))
    model = onnx.load_model_from_string(path.read_bytes())
    inputs = found.part(0, MODELS[name]).inputs()
    if name == "jet_mlp_w6a6_zoo":
        kind = graph.value(graph.inputs[0]).elem
        inputs = (
            {k: kind.dequantize(kind.quantize(x)).astype(np.float32) for k, x in i.items()}
            for i in inputs
        )
    counts = compare(model, graph, inputs)
    assert counts.codes
    assert counts.differ == 0
