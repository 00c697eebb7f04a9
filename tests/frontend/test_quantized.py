"""What a model that comes quantized means: the codes of onnxruntime's run of the same file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from binpoint import ort
from binpoint.errors import InvalidConstant
from binpoint.frontend.load import load
from binpoint.frontend.samples import read_samples
from binpoint.ir.evaluate import evaluate
from binpoint.passes.convert import stored_inputs
from tests.build import INT8, UINT8, info, model, node, refused
from tests.nets_qdq import RNG, Code, Net, equal, lowered

# ---- QDQ


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("per_channel", [False, True])
def test_qdq_matrix_products_are_onnxruntimes(
    dtype: type[Code], per_channel: bool, tmp_path: Path
) -> None:
    net = Net(dtype)
    x = net.qdq("x", "a")
    net.op("MatMul", f"{x} {net.weights('w', 6, 5, per_channel=per_channel, axis=1)}", "h")
    net.qdq("h", "y", 0.3, 7)
    equal(net.model([1, 6], "y"), tmp_path)


@pytest.mark.parametrize(("shape", "axis"), [((3, 6, 5), 0), ((1, 2, 6, 5), 3), ((1, 3, 6, 5), 1)])
def test_qdq_products_with_several_matrices_are_onnxruntimes(
    shape: tuple[int, ...], axis: int, tmp_path: Path
) -> None:
    """Of a constant with a scale for each, or each column, as quantized heads of attention are."""
    net = Net(np.int8)
    x = net.qdq("x", "a")
    net.op("MatMul", f"{x} {net.weights('w', *shape, per_channel=True, axis=axis)}", "h")
    net.qdq("h", "y", 0.3, 7)
    equal(net.model([1, *shape[1:-2], 4, 6], "y"), tmp_path)


# Of unsigned weights with a scale per channel onnxruntime computes a convolution in float.
@pytest.mark.parametrize(
    ("dtype", "per_channel"), [(np.int8, False), (np.int8, True), (np.uint8, False)]
)
@pytest.mark.parametrize("group", [1, 2, 4])
def test_qdq_convolutions_are_onnxruntimes(
    dtype: type[Code], per_channel: bool, group: int, tmp_path: Path
) -> None:
    net = Net(dtype)
    x = net.qdq("x", "a")
    w = net.weights("w", 4, 4 // group, 3, 3, per_channel=per_channel)
    net.op("Conv", f"{x} {w}", "h", pads=[1, 1, 0, 0], group=group)
    net.qdq("h", "y", 0.2, 5)
    equal(net.model([1, 4, 6, 5], "y"), tmp_path)


@pytest.mark.parametrize("op", ["Reshape", "Transpose", "Flatten", "Squeeze", "MaxPool", "Slice"])
@pytest.mark.parametrize("form", ["codes", "real"])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_ops_that_move_elements_may_read_codes_or_what_they_mean(
    op: str, form: str, dtype: type[Code], tmp_path: Path
) -> None:
    net = Net(dtype)
    net.q("x", "a", 0.05, 9)
    source = "a" if form == "codes" else net.dq("a", "a_real", "a")
    more: dict[str, Any] = {}
    extra = ""
    match op:
        case "Reshape":
            net.arrays["shape"], extra = np.array([1, 6, -1], np.int64), " shape"
        case "Squeeze":
            net.arrays["axes"], extra = np.array([0], np.int64), " axes"
        case "Slice":
            net.arrays |= {"start": np.array([1], np.int64), "stop": np.array([3], np.int64)}
            net.arrays["axis"], extra = np.array([2], np.int64), " start stop axis"
        case "Transpose":
            more = {"perm": [0, 2, 3, 1]}
        case "MaxPool":
            more = {"kernel_shape": [2, 2]}
        case _:
            pass
    net.op(op, source + extra, "h", **more)
    if form == "codes":
        net.dq("h", "y", "a")
    else:
        net.q("h", "b", 0.05, 9)
        net.dq("b", "y", "b")
    equal(net.model([1, 2, 3, 4], "y"), tmp_path)


def test_codes_may_be_joined(tmp_path: Path) -> None:
    net = Net()
    net.q("x", "a")
    net.op("Concat", "a a", "h", axis=1)
    net.dq("h", "y", "a")
    equal(net.model([1, 5], "y"), tmp_path)


@pytest.mark.parametrize("second", [(0.2, 3), (0.121, -4)])
def test_a_tensor_may_be_quantized_twice(second: tuple[float, int], tmp_path: Path) -> None:
    net = Net()
    net.qdq("x", "i")
    net.op("MatMul", f"i {net.weights('u', 6, 6)}", "s")
    a, b = net.qdq("s", "a", 0.2, 3), net.qdq("s", "b", *second)
    net.op("MatMul", f"{a} {net.weights('v', 6, 4)}", "h")
    net.op("MatMul", f"{b} {net.weights('w', 6, 4)}", "k")
    net.qdq("h", "y", 0.3, 0)
    net.qdq("k", "z", 0.2, 1)
    equal(net.model([1, 6], "y", "z"), tmp_path)


def test_a_quantizer_behind_another_of_other_scale_rounds_again(tmp_path: Path) -> None:
    net = Net()
    net.qdq(net.qdq("x", "a", 0.05, 3), "b", 0.083, -7)
    net.op("MatMul", f"b {net.weights('w', 6, 4)}", "h")
    net.qdq("h", "y", 0.3, 0)
    # onnxruntime's optimiser drops the inner pair and calls that equal; as written it is not.
    path = tmp_path / "model.onnx"
    graph = lowered(net.model([1, 6], "y"), path)
    session = ort.plain(str(path))
    samples = read_samples("random", load(path), 3)
    assert samples is not None
    for sample, inputs in zip(samples.inputs(), stored_inputs(graph, samples), strict=True):
        (name,) = graph.outputs
        codes = evaluate(graph, inputs)[name]
        real = session.run({"x": sample["x"]})["y"]
        kind = graph.value(name).elem
        steps = np.rint(real / np.float32(float(kind.scale))) + kind.zero_point
        assert np.abs(codes - steps).max() <= 1


def test_what_is_dequantized_once_may_be_read_often(tmp_path: Path) -> None:
    net = Net()
    x = net.qdq("x", "a")
    net.op("MatMul", f"{x} {net.weights('v', 6, 6)}", "h")
    h = net.qdq("h", "b", 0.3, 1)
    net.op("Add", f"{x} {h}", "s")
    net.op("Relu", h, "r")
    net.qdq("s", "y", 0.31, 2)
    net.qdq("r", "z", 0.3, 1)
    equal(net.model([1, 6], "y", "z"), tmp_path)


def test_outputs_may_be_codes(tmp_path: Path) -> None:
    net = Net(np.uint8)
    x = net.qdq("x", "a", 0.05, 100)
    net.op("MatMul", f"{x} {net.weights('w', 6, 5)}", "h")
    net.q("h", "y", 0.3, 120)
    equal(net.model([1, 6], "y", out=UINT8), tmp_path)


# ---- inputs that are codes


@pytest.mark.parametrize(("dtype", "kind"), [(np.int8, INT8), (np.uint8, UINT8)])
def test_inputs_may_be_codes_with_a_dequantizer(
    dtype: type[Code], kind: int, tmp_path: Path
) -> None:
    net = Net(dtype)
    net.parameters("a", 0.05, 9)
    net.op("MatMul", f"{net.dq('x', 'a', 'a')} {net.weights('w', 6, 5)}", "h")
    net.qdq("h", "y", 0.3, 7)
    equal(net.model([1, 6], "y", kind=kind), tmp_path)


@pytest.mark.parametrize(("dtype", "kind"), [(np.int8, INT8), (np.uint8, UINT8)])
def test_inputs_may_be_codes_without_any_quantizer(
    dtype: type[Code], kind: int, tmp_path: Path
) -> None:
    net = Net(dtype)
    net.op("MaxPool", "x", "h", kernel_shape=[2, 2])
    net.op("Transpose", "h", "y", perm=[0, 2, 3, 1])
    equal(net.model([1, 2, 4, 4], "y", kind=kind, out=kind), tmp_path)


# ---- operators on codes


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("zeros", ["none", "given"])
def test_integer_products_are_exact(dtype: type[Code], zeros: str, tmp_path: Path) -> None:
    net = Net(dtype)
    limits = np.iinfo(dtype)
    net.arrays["w"] = RNG.integers(limits.min, limits.max + 1, (6, 4)).astype(dtype)
    operands = "x w"
    if zeros == "given":
        net.arrays |= {"xz": np.array(11, dtype), "wz": np.array(5, dtype)}
        operands += " xz wz"
    net.op("MatMulInteger", operands, "y")
    made = net.model([1, 6], "y", kind=UINT8 if dtype is np.uint8 else INT8, out=TensorProto.INT32)
    equal(made, tmp_path)


@pytest.mark.parametrize("zeros", ["none", "given"])
def test_integer_convolutions_are_exact(zeros: str, tmp_path: Path) -> None:
    net = Net(np.uint8)
    net.arrays["w"] = RNG.integers(0, 256, (3, 2, 3, 3)).astype(np.uint8)
    operands = "x w"
    if zeros == "given":
        net.arrays |= {"xz": np.array(11, np.uint8), "wz": np.array(125, np.uint8)}
        operands += " xz wz"
    net.op("ConvInteger", operands, "y", pads=[1, 0, 0, 1])
    equal(net.model([1, 2, 5, 5], "y", kind=UINT8, out=TensorProto.INT32), tmp_path)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_the_operator_form_is_onnxruntimes(dtype: type[Code], tmp_path: Path) -> None:
    net = Net(dtype)
    limits = np.iinfo(dtype)
    middle = 0 if limits.min < 0 else 128
    x = f"{net.q('x', 'a', 0.05, 9)} a_s a_z"
    net.arrays["w"] = RNG.integers(limits.min, limits.max + 1, (4, 2, 3, 3)).astype(dtype)
    net.arrays["b"] = RNG.integers(-500, 500, 4).astype(np.int32)
    w, y = net.parameters("w", 0.01, middle), net.parameters("c", 0.2, middle + 3)
    net.op("QLinearConv", f"{x} w {w} {y} b", "c", pads=[1, 1, 1, 1])
    net.op("Reshape", "c shape", "flat")
    net.arrays["shape"] = np.array([1, -1], np.int64)
    net.arrays["v"] = RNG.integers(limits.min, limits.max + 1, (64, 5)).astype(dtype)
    v, z = net.parameters("v", 0.01, middle), net.parameters("d", 0.9, middle - 3)
    net.op("QLinearMatMul", f"flat {y} v {v} {z}", "d")
    net.dq("d", "y", "d")
    equal(net.model([1, 2, 4, 4], "y"), tmp_path)


# ---- quantizers that make no sense


@pytest.mark.parametrize("scale", [0.0, -0.0, -0.5, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["quantize", "dequantize", "weights", "operator"])
def test_a_scale_is_a_positive_number(scale: float, place: str, tmp_path: Path) -> None:
    net = Net()
    x = net.qdq("x", "a", scale if place == "quantize" else 0.05)
    if place == "operator":
        net.arrays["w"] = np.ones((6, 5), np.int8)
        w, y = net.parameters("w", scale), net.parameters("y", 0.1)
        net.op("QLinearMatMul", f"a_q a_q_s a_q_z w {w} {y}", "h")
        net.dq("h", "y", "y")
    else:
        net.op("MatMul", f"{x} {net.weights('w', 6, 5)}", "h")
        net.qdq("h", "y", scale if place == "dequantize" else 0.3)
    if place == "weights":
        net.arrays["w_s"] = np.array(scale, np.float32)
    error = refused(net.model([1, 6], "y"), tmp_path)
    assert isinstance(error, InvalidConstant)
    assert error.code == "BP1004"


def test_scales_per_channel_must_fit_the_channels(tmp_path: Path) -> None:
    for scales, zeros, axis in (
        ([0.1] * 4, [0] * 4, 1),
        ([0.1] * 5, [0] * 5, 7),
        ([0.1] * 5, [0] * 5, -7),
        ([0.1] * 5, [0] * 2, 1),
        ([[0.1] * 5], [[0] * 5], 1),
    ):
        net = Net()
        x = net.qdq("x", "a")
        net.arrays["codes"] = np.ones((6, 5), np.int8)
        net.parameters("w", scales, zeros)  # pyright: ignore[reportArgumentType]
        net.op("MatMul", f"{x} {net.dq('codes', 'w', 'w', axis=axis)}", "h")
        net.qdq("h", "y")
        refused(net.model([1, 6], "y"), tmp_path)


def test_codes_read_with_another_scale_than_written_are_refused(tmp_path: Path) -> None:
    net = Net()
    net.q("x", "a", 0.05, 3)
    net.parameters("b", 0.07, 3)
    net.dq("a", "y", "b")
    assert "another scale" in refused(net.model([1, 6], "y"), tmp_path).message


def test_scales_that_are_computed_at_run_time_are_refused(tmp_path: Path) -> None:
    nodes = [
        node("DynamicQuantizeLinear", "x", "q s z"),
        node("DequantizeLinear", "q s z", "y"),
    ]
    error = refused(model(nodes, [info("x", [1, 6])], [info("y", [1, 6])]), tmp_path)
    assert "DynamicQuantizeLinear" in error.message
