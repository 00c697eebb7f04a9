"""HLS simulation of whole models: the emitted C++ returns what the interpreter returns."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from binpoint.emit.fpga_hls import render
from binpoint.errors import BadOption, LoweringError, ModelError, NoIntegerForm, QuantizationError
from binpoint.ir.evaluate import evaluate
from binpoint.options import CompileOptions
from binpoint.plan import estimate, fifo
from binpoint.plan.dataflow import design
from binpoint.plan.design import Folding, Style
from binpoint.plan.units import Dense, Depthwise, Product, Window
from binpoint.plan.ways import ways
from binpoint.sim.compare import first_difference
from binpoint.sim.host_hls import find_headers, run_ap, run_bounded, run_native
from binpoint.sim.tools import run_tool
from tests.end_to_end.trials import random_model
from tests.hls.designs import (
    Built,
    built,
    codes,
    divisors,
    fpga,
    lowered,
    lowered_file,
    random_folding,
    residual_net,
)

_TRIES = 8
_STEP = 1000
OPTIONS = CompileOptions(name="net")
SMALL = ("pendigits_mlp_qdq", "ecg_cnn1d_qdq", "tfc_1w1a", "tfc_2w2a")
LARGE = (
    "ad_autoencoder_qdq",
    "cnv_half_w2a2",
    "em_conv2d_selu_keras",
    "har_transformer",
    "ic_resnet8_float",
    "ic_resnet8_qdq",
    "ic_resnet8_tflite_int8",
    "jet_mlp_float_hls4ml",
    "jet_mlp_w6a6_zoo",
    "keras_mnist_bn_dw_qdq_u8",
    "kws_dscnn_qdq",
    "kws_dscnn_tflite_int8",
    "kws_dscnn_w4a4",
    "kws_mlp_w3a3_v07",
    "mnist_mbv3_se_qdq",
    "mnist_medley_a",
    "mnist_two_outputs",
    "mnist_unet_seg_qdq",
    "pendigits_mlp_w4a4_qcdq",
    "pendigits_mlp_w6a6",
    "person_mobilenetv2_050_128_qdq",
    "sklearn_digits_mlp",
    "vit_cifar10_qdq",
    "vit_cifar10_qdq_matmul",
)


@pytest.fixture(scope="module")
def residual() -> Built:
    return built(lowered(residual_net(), OPTIONS), OPTIONS)


def test_a_residual_net_is_equal_at_every_value(residual: Built) -> None:
    assert residual.difference() is None


def test_a_wrong_value_is_found(residual: Built) -> None:
    last = residual.graph.outputs[0]
    wrong = [{**values, last: values[last] + 1} for values in residual.values]
    found = replace(residual, values=tuple(wrong)).difference()
    assert found is not None
    assert found.value == last


@pytest.mark.parametrize("seed", range(3))
def test_every_folding_that_divides_is_equal(residual: Built, seed: int) -> None:
    folding = random_folding(residual.design, Random(seed))
    folded = built(residual.graph, OPTIONS, folding, seed)
    wanted = {layer.name: layer.unit for layer in folded.design.layers if layer.name in folding}
    for name, fold in folding.items():
        unit = wanted[name]
        assert isinstance(unit, Dense)
        assert (unit.pe, unit.simd) == (fold.pe, fold.simd)
    assert folded.design.interval <= residual.design.interval
    assert folded.difference() is None


def test_a_folding_that_does_not_divide_is_refused_with_what_does(residual: Built) -> None:
    (name, *_) = random_folding(residual.design, Random(0))
    with pytest.raises(BadOption, match="does not divide") as caught:
        built(residual.graph, OPTIONS, {name: Folding(3, 1)})
    assert caught.value.want == "1, 2, 4"


def test_a_folding_of_an_unknown_layer_is_refused_with_the_nearest(residual: Built) -> None:
    (name, *_) = random_folding(residual.design, Random(0))
    with pytest.raises(BadOption, match="not there") as caught:
        built(residual.graph, OPTIONS, {f"{name}x": Folding()})
    assert caught.value.hint is not None
    assert name in caught.value.hint


def test_an_input_that_nothing_reads_is_refused_by_name() -> None:
    model = residual_net()
    model.graph.input.append(helper.make_tensor_value_info("spare", TensorProto.FLOAT, [1, 5]))
    graph = lowered(model, OPTIONS)
    with pytest.raises(NoIntegerForm, match="nothing reads") as caught:
        design(graph, fpga(), OPTIONS)
    assert caught.value.at == "spare"


def test_bounded_streams_give_the_same_and_too_shallow_ones_deadlock(residual: Built) -> None:
    found = run_bounded(residual.design, residual.project, residual.values)
    assert not isinstance(found, str)
    assert first_difference(residual.graph, residual.values, found) is None
    shallow = residual.design.with_depths(dict.fromkeys(residual.design.streams, 2))
    told = run_bounded(shallow, render(shallow, fpga()), residual.values)
    assert isinstance(told, str)
    assert "writing to full s_" in told
    assert "reading from empty s_" in told


def test_arbitrary_precision_integers_of_the_exact_widths_agree(residual: Built) -> None:
    values = tuple(residual.values)
    found = run_ap(residual.design, residual.project, values, deep=True)
    assert first_difference(residual.graph, values, found) is None


@pytest.mark.slow
def test_arbitrary_precision_integers_agree_on_a_hundred_samples(shared_models: Path) -> None:
    path = shared_models / "pendigits_mlp_qdq.onnx"
    graph = lowered_file(path, path.with_suffix(".npz"), OPTIONS)
    made = built(graph, OPTIONS)
    values = [evaluate(graph, sample) for sample in codes(graph, 1, 100)]
    found = run_ap(made.design, made.project, values)
    assert first_difference(graph, values, found) is None


@pytest.mark.parametrize("seed", range(5))
def test_random_models_are_equal_at_every_value(seed: int) -> None:
    _check_random(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 200))
def test_many_random_models_are_equal_at_every_value(seed: int) -> None:
    _check_random(seed)


def _check_random(seed: int) -> None:
    """Of the models of a seed, its next ones if one is refused: each is equal at every value."""
    for step in range(_TRIES):
        tried = seed + step * _STEP
        try:
            graph = lowered(random_model(Random(tried)), OPTIONS, tried)
            made = built(graph, OPTIONS, seed=tried)
        except (ModelError, QuantizationError, LoweringError):
            continue
        assert made.difference() is None
        return
    pytest.fail(f"{_TRIES} models in a row were refused")


@pytest.mark.parametrize("name", SMALL)
def test_a_real_network_is_equal_at_every_value(name: str, shared_models: Path) -> None:
    _check_real(shared_models / f"{name}.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_a_large_network_is_equal_at_every_value(name: str, shared_models: Path) -> None:
    _check_real(shared_models / f"{name}.onnx")


def _check_real(path: Path) -> None:
    made = built(lowered_file(path, path.with_suffix(".npz"), OPTIONS), OPTIONS)
    assert made.difference() is None


def test_an_op_without_a_form_is_refused_by_name_with_the_way_out() -> None:
    with pytest.raises(NoIntegerForm, match="that cuts its border has no form") as caught:
        built(lowered(_cut(), OPTIONS), OPTIONS)
    assert caught.value.at is not None
    assert "upwards" in caught.value.at
    assert caught.value.hint is not None


def _cut() -> onnx.ModelProto:
    """A transposed convolution padded by more than its kernel."""
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], "upwards", pads=[3, 3, 3, 3])
    model = _model(node, {"x": [1, 2, 6, 6], "y": [1, 2, 2, 2]})
    weights = np.random.default_rng(1).normal(0, 1, (2, 2, 3, 3)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    return model


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("sizes", [([3, 2], [1, 1], [1, 1]), ([2, 3], [2, 1], [2, 1])])
def test_rows_of_a_window_side_by_side_are_equal(groups: int, sizes: tuple[list[int], ...]) -> None:
    kernel, strides, dilations = sizes
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], "conv", group=groups, kernel_shape=kernel, strides=strides,
        dilations=dilations, pads=[1, 0, 2, 1],
    )  # fmt: skip
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    rows, columns = (
        (n - k) // s + 1 for n, k, s in zip((7 + 3, 5 + 1), spans, strides, strict=True)
    )
    model = _model(node, {"x": [1, 4, 7, 5], "y": [1, 8 if groups < 4 else 4, rows, columns]})
    shape = (8 if groups < 4 else 4, 4 // groups, *kernel)
    weights = np.random.default_rng(2).normal(0, 1, shape).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    graph = lowered(model, OPTIONS)
    plain = design(graph, fpga(), OPTIONS)
    (layer,) = (la for la in plain.layers if isinstance(la.unit, Dense | Depthwise))
    tall = [w for w in ways(plain, layer) if w.simd not in divisors(4 // groups, 4) and w.pe < 3]
    assert tall
    for way in tall:
        made = built(graph, OPTIONS, {layer.name: way})
        (window,) = (la.unit for la in made.design.layers if isinstance(la.unit, Window))
        assert window.together == kernel[0]
        assert window.iterations <= made.design.interval
        assert made.difference() is None


@pytest.mark.parametrize("strides", [[1, 1], [2, 1]])
def test_windows_over_a_batch_are_equal(strides: list[int]) -> None:
    node = helper.make_node(
        "MaxPool", ["x"], ["y"], "pool", kernel_shape=[2, 2], strides=strides, pads=[1, 0, 0, 1]
    )
    rows = 1 + (5 + 1 - 2) // strides[0]
    made = built(lowered(_model(node, {"x": [3, 2, 5, 4], "y": [3, 2, rows, 4]}), OPTIONS), OPTIONS)
    assert made.difference() is None


def _model(node: onnx.NodeProto, shapes: dict[str, list[int]], opset: int = 17) -> onnx.ModelProto:
    """A model of one node; the last shape is the result's."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    graph = helper.make_graph([node], "net", ends[:-1], ends[-1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize(
    ("op", "pe"),
    [
        ("LayerNormalization", 1), ("LayerNormalization", 12), ("RMSNormalization", 3),
        ("GroupNormalization", 2), ("InstanceNormalization", 6), ("LpNormalization", 4),
    ],
)  # fmt: skip
def test_a_folded_norm_is_equal(op: str, pe: int) -> None:
    channels = 6 if op[0] in "GI" else 12
    names = ("gamma", "beta")[: {"LpNormalization": 0, "RMSNormalization": 1}.get(op, 2)]
    node = helper.make_node(op, ["x", *names], ["y"], "norm")
    if op == "GroupNormalization":
        node.attribute.append(helper.make_attribute("num_groups", 2))
    shape = [1, channels, 2, 6] if op[0] in "GI" else [1, 7, channels]
    model = _model(node, {"x": shape, "y": shape}, opset=23)
    random = np.random.default_rng(3)
    for name in names:
        array = random.normal(0, 1, channels).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    graph = lowered(model, OPTIONS)
    (name,) = (
        la.name for la in design(graph, fpga(), OPTIONS).layers if la.unit.stem == "layernorm"
    )
    made = built(graph, OPTIONS, {name: Folding(pe)})
    assert made.difference() is None


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("way", [(1, 1), (2, 1), (1, 4), (3, 2), (6, 4)])
def test_products_of_computed_operands_are_equal(batches: int, way: tuple[int, int]) -> None:
    node = helper.make_node("MatMul", ["a", "b"], ["y"], "product")
    shapes = {"a": [batches, 5, 4], "b": [batches, 4, 6], "y": [batches, 5, 6]}
    graph = lowered(_model(node, shapes), OPTIONS)
    plain = design(graph, fpga(), OPTIONS)
    (name,) = (layer.name for layer in plain.layers if isinstance(layer.unit, Product))
    made = built(graph, OPTIONS, {name: Folding(*way)})
    (unit,) = (layer.unit for layer in made.design.layers if isinstance(layer.unit, Product))
    assert (unit.pe, unit.simd) == way
    assert made.difference() is None
    sizing = fifo.sized(made.design, estimate.latency)
    plan = made.design.with_depths(sizing.depths)
    found = run_bounded(plan, render(plan, fpga(), made.values), made.values)
    assert not isinstance(found, str), found


@pytest.mark.parametrize(("name", "arithmetic"), [("tfc_1w1a", "count"), ("tfc_2w2a", "planes")])
def test_one_and_two_bits_need_no_multiplier(
    name: str, arithmetic: str, shared_models: Path
) -> None:
    path = shared_models / f"{name}.onnx"
    made = built(lowered_file(path, path.with_suffix(".npz"), OPTIONS), OPTIONS)
    sums = [layer.unit for layer in made.design.layers if isinstance(layer.unit, Dense)]
    assert [unit.arithmetic for unit in sums] == [arithmetic] * 4
    between = [s for s in made.design.streams.values() if s.bipolar]
    assert all(s.elem.width == 1 for s in between)
    assert len(between) == (4 if arithmetic == "count" else 0)


@pytest.mark.parametrize("integers", ["native", "ap"])
def test_a_parallel_top_is_equal(integers: str, shared_models: Path) -> None:
    path = shared_models / "pendigits_mlp_qdq.onnx"
    graph = lowered_file(path, path.with_suffix(".npz"), OPTIONS)
    values = [evaluate(graph, sample) for sample in codes(graph, 2, 20)]
    plan = design(graph, fpga(), OPTIONS, style=Style.PARALLEL)
    assert plan.interval == 1
    simulate = run_native if integers == "native" else run_ap
    found = simulate(plan, render(plan, fpga(), values[:2]), values)
    assert first_difference(graph, values, found) is None


def test_a_parallel_top_of_windows_or_folded_layers_is_refused(residual: Built) -> None:
    with pytest.raises(BadOption, match="`window` has no parallel form"):
        design(residual.graph, fpga(), OPTIONS, style=Style.PARALLEL)
    (name, *_) = random_folding(residual.design, Random(0))
    with pytest.raises(BadOption, match="is not folded"):
        design(residual.graph, fpga(), OPTIONS, {name: Folding()}, Style.PARALLEL)


# ---- the project


def test_the_testbench_passes_and_notices_a_changed_vector(residual: Built, tmp_path: Path) -> None:
    residual.project.write(tmp_path / "good")
    assert "0 differences" in _testbench(tmp_path / "good")
    vectors = residual.project.files["tb/vectors.hpp"].decode()
    head, _, tail = vectors.rpartition("{{")
    changed = head + "{{" + re.sub(r"-?\d+", lambda m: str(int(m[0]) ^ 1), tail, count=1)
    residual.project.with_files({"tb/vectors.hpp": changed.encode()}).write(tmp_path / "bad")
    with pytest.raises(Exception, match="failed with status 1"):
        _testbench(tmp_path / "bad")


def _testbench(folder: Path) -> str:
    sources = [folder / "src" / "net.cpp", folder / "tb" / "testbench.cpp"]
    flags = ["-std=c++14", "-O1", "-DBP_NATIVE", "-Wno-unknown-pragmas", "-I", folder / "host"]
    run_tool(["g++", *flags, *sources, "-o", folder / "bench"], timeout=300)
    return run_tool([folder / "bench"], timeout=60)


def test_sources_are_clean_for_synthesis(residual: Built) -> None:
    sources = {p: t.decode() for p, t in residual.project.files.items() if p.startswith("src/")}
    banned = (
        r"\b(float|double|new|delete|throw|try|catch|std::\w+|malloc|while|goto|ap_fixed|virtual)\b"
    )
    for path, text in sources.items():
        code = re.sub(r"//[^\n]*", "", text)
        assert re.findall(banned, code) == [], path
        assert "host/" not in code
    assert "#pragma HLS DATAFLOW" in sources["src/net.cpp"]
    loops = sum(t.count("for (int i = 0; i < C::iterations") for t in sources.values())
    assert 0 < loops <= sum(t.count("#pragma HLS PIPELINE II=1") for t in sources.values())


def test_stand_ins_are_on_no_synthesis_path(residual: Built) -> None:
    for path in ("run_hls.tcl", "hls_config.cfg", "options.tcl"):
        text = residual.project.files[path].decode()
        assert "host" not in text
        assert "ap_types" not in text
    assert fpga().fabric.part in residual.project.files["options.tcl"].decode()


def test_types_state_the_proven_range_in_no_more_bits_than_it_needs(residual: Built) -> None:
    text = residual.project.files["src/types.hpp"].decode()
    pattern = r"// .*range \[(-?\d+), (-?\d+)\].*\ntypedef bp_(u?)int<(\d+)> "
    found = re.findall(pattern, text)
    assert len(found) == len(residual.design.streams)
    for lo, hi, unsigned, width in found:
        signed = int(lo) < 0
        needed = max(int(hi).bit_length(), (-int(lo) - 1).bit_length() if signed else 0) + signed
        assert (signed, int(width)) == (unsigned == "", max(1, needed))


def test_the_same_design_gives_the_same_bytes(residual: Built) -> None:
    again = built(lowered(residual_net(), OPTIONS), OPTIONS)
    assert again.project.digest() == residual.project.digest()
    assert find_headers.__module__ not in again.project.files


@pytest.mark.needs("cmake")
def test_the_host_build_of_the_project_runs_its_tests(residual: Built, tmp_path: Path) -> None:
    residual.project.write(tmp_path / "hls")
    build = tmp_path / "build"
    run_tool(["cmake", "-S", tmp_path / "hls", "-B", build], timeout=120)
    run_tool(["cmake", "--build", build], timeout=300)
    told = run_tool(["ctest", "--test-dir", build], timeout=120)
    assert "100% tests passed" in told
