"""QONNX in: every quantizer and what lies between, against qonnx's own execution."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from binpoint.errors import BadOption
from binpoint.frontend.load import load
from binpoint.frontend.samples import read_samples
from binpoint.numeric.fixed import IntType
from binpoint.numeric.monotone import Rule
from binpoint.ops.thresholds import IntThresholds
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.passes.manager import run
from binpoint.pipelines import mcu
from binpoint.target import load_target
from tests.nets_qonnx import STEP, Net, exact, refused, samples
from tests.qonnx_oracle import compare

NAMES = {
    "ROUND": Rule.HALF_EVEN, "CEIL": Rule.CEIL, "FLOOR": Rule.FLOOR, "UP": Rule.AWAY,
    "DOWN": Rule.ZERO, "HALF_UP": Rule.HALF_AWAY, "HALF_DOWN": Rule.HALF_ZERO,
}  # fmt: skip


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


# ---- refusals


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


# ---- real models


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
