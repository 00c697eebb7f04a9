"""Small ONNX files for tests of the whole line: a float network, and the same quantized."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

INPUT, HIDDEN, CLASSES, SAMPLES = 8, 12, 4, 40
Floats = NDArray[np.float32]


def _weights() -> dict[str, Floats]:
    rng = np.random.default_rng(11)
    arrays = {
        "w1": rng.normal(0, 0.5, (HIDDEN, INPUT)),
        "b1": rng.normal(0, 0.2, HIDDEN),
        "w2": rng.normal(0, 0.5, (CLASSES, HIDDEN)),
        "b2": rng.normal(0, 0.2, CLASSES),
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def infer(x: Floats) -> Floats:
    """What the float network computes."""
    w = _weights()
    hidden = np.maximum(x @ w["w1"].T + w["b1"], 0)
    return hidden @ w["w2"].T + w["b2"]


def save_samples(path: Path) -> Path:
    """Write inputs, and as labels the classes that the float network gives."""
    x = np.random.default_rng(5).normal(0, 1, (SAMPLES, INPUT)).astype(np.float32)
    np.savez(path, x=x, y=infer(x).argmax(axis=1))
    return path


def _save(path: Path, nodes: list[onnx.NodeProto], arrays: dict[str, NDArray[np.generic]]) -> Path:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", INPUT])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def save_float(path: Path) -> Path:
    """Write the float network: Gemm, Relu, Gemm."""
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], "first", transB=1),
        helper.make_node("Relu", ["h"], ["r"], "rectify"),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], "second", transB=1),
    ]
    return _save(path, nodes, dict(_weights()))


def save_quantized(path: Path, *, float_tail: bool = False) -> Path:
    """Write the network with quantizers everywhere; with `float_tail`, a Sigmoid in float after."""
    w = _weights()
    scales = {"x": 0.03, "r": 0.02, "q": 0.04, "w1": 0.015, "w2": 0.015}
    arrays: dict[str, NDArray[np.generic]] = {
        f"{name}_scale": np.array(scale, np.float32) for name, scale in scales.items()
    }
    arrays |= {f"{name}_zero": np.array(0, np.int8) for name in scales}
    arrays["r_zero"] = np.array(-128, np.int8)
    nodes: list[onnx.NodeProto] = []
    for name in ("w1", "w2"):
        codes = np.clip(np.rint(w[name] / np.float32(scales[name])), -127, 127)
        arrays[f"{name}_codes"] = codes.astype(np.int8)
        nodes.append(_dequantize(f"{name}_codes", name, name))
    for name, scale in (("b1", scales["x"] * scales["w1"]), ("b2", scales["r"] * scales["w2"])):
        exact = np.float32(scale)
        arrays[f"{name}_codes"] = np.rint(w[name] / exact).astype(np.int32)
        arrays[f"{name}_scale"] = np.array(exact, np.float32)
        arrays[f"{name}_zero"] = np.array(0, np.int32)
        nodes.append(_dequantize(f"{name}_codes", name, name))
    result = "out" if float_tail else "y"
    nodes += [
        *_quantized("x", "x_real", "x"),
        helper.make_node("Gemm", ["x_real", "w1", "b1"], ["h"], "first", transB=1),
        *_quantized("h", "r_real", "r"),
        helper.make_node("Gemm", ["r_real", "w2", "b2"], ["o"], "second", transB=1),
        *_quantized("o", result, "q"),
    ]
    if float_tail:
        nodes.append(helper.make_node("Sigmoid", ["out"], ["y"], "squash"))
    return _save(path, nodes, arrays)


def _quantized(source: str, result: str, kind: str) -> list[onnx.NodeProto]:
    names = [f"{kind}_scale", f"{kind}_zero"]
    codes = f"{kind}_q"
    return [
        helper.make_node("QuantizeLinear", [source, *names], [codes], f"quantize_{kind}"),
        _dequantize(codes, result, kind),
    ]


def _dequantize(codes: str, result: str, kind: str) -> onnx.NodeProto:
    names = [codes, f"{kind}_scale", f"{kind}_zero"]
    return helper.make_node("DequantizeLinear", names, [result], f"dequantize_{result}")
