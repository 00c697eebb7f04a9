"""Quantizable Transformers' two forms of attention: read as the operators that they are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from binpoint import ort
from binpoint.frontend.load import load
from binpoint.ir.evaluate import evaluate
from binpoint.ops.softmax import Softmax
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.passes.manager import run
from binpoint.passes.samples import Samples
from binpoint.pipelines import mcu
from binpoint.quantize.simulate import Simulation
from binpoint.sim.check_graph import run_onnx, write_onnx
from binpoint.target import load_target

KEYS, WIDTH, HEADS, SIZE = 6, 8, 2, 4


def attention(rng: np.random.Generator) -> onnx.ModelProto:
    """clip((ζ − γ)·softmax(Q·Kᵀ) + γ, 0, 1)·V, each head times a gate sigmoid(x·G)."""
    arrays = {
        **{f"w{k}": rng.normal(0, 0.4, (WIDTH, WIDTH)).astype(np.float32) for k in "qkv"},
        "wg": rng.normal(0, 0.4, (WIDTH, HEADS)).astype(np.float32),
        **{k: np.array(v, np.float32) for k, v in
           {"stretch": 1.03, "gamma": -0.03, "none": 0.0, "all": 1.0}.items()},
        "apart": np.array([1, KEYS, HEADS, SIZE]), "joined": np.array([1, KEYS, WIDTH]),
        "last": np.array([3]),
    }  # fmt: skip
    nodes: list[onnx.NodeProto] = []

    def add(op: str, inputs: str, output: str, **attributes: Any) -> None:
        nodes.append(helper.make_node(op, inputs.split(), [output], **attributes))

    for k in "qkv":
        add("MatMul", f"x w{k}", f"{k}_flat")
        add("Reshape", f"{k}_flat apart", f"{k}_apart")
        add("Transpose", f"{k}_apart", k, perm=[0, 2, 3, 1] if k == "k" else [0, 2, 1, 3])
    add("MatMul", "q k", "scores")
    add("Softmax", "scores", "shares", axis=-1)
    add("Mul", "shares stretch", "stretched")
    add("Add", "stretched gamma", "moved")
    add("Clip", "moved none all", "clipped")
    add("MatMul", "clipped v", "seen")
    add("MatMul", "x wg", "gates")
    add("Sigmoid", "gates", "open")
    add("Transpose", "open", "turned", perm=[0, 2, 1])
    add("Unsqueeze", "turned last", "gate")
    add("Mul", "gate seen", "gated")
    add("Transpose", "gated", "rows", perm=[0, 2, 1, 3])
    add("Reshape", "rows joined", "y")
    shape = [1, KEYS, WIDTH]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in "xy"]
    constants = [numpy_helper.from_array(a, name) for name, a in arrays.items()]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_clipped_and_gated_attention_is_what_it_is(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    model = attention(rng)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    graph = load(tmp_path / "net.onnx")
    assert sum(isinstance(node.op, Softmax) for node in graph.nodes()) == 1
    x = rng.normal(size=(16, KEYS, WIDTH)).astype(np.float32)
    (wanted,) = ort.plain(model).run({"x": x[:1]}).values()
    found = Simulation(graph, rounded=False).run({"x": x[:1]})[graph.outputs[0]]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    integer = run(mcu(), graph, Context(load_target("host"), CompileOptions(), Samples({"x": x})))
    kind = integer.value(integer.inputs[0]).elem
    codes = {integer.inputs[0]: kind.quantize(x[:1])}
    result = evaluate(integer, codes)[integer.outputs[0]]
    (other,) = run_onnx(write_onnx(integer), integer, [codes])
    np.testing.assert_array_equal(other[integer.outputs[0]], result)
    y = integer.value(integer.outputs[0]).elem
    assert np.abs(y.dequantize(result) - wanted).max() < 0.1 * np.abs(wanted).max()
