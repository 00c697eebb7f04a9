"""Which values of a quantized model may differ from onnxruntime's run of its file, and why."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
from rich.console import Console

from binpoint import ort, pipelines
from binpoint.driver import compile_model
from binpoint.errors import Mismatch
from binpoint.frontend.load import load
from binpoint.frontend.samples import read_samples
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.options import CompileOptions
from binpoint.ort import float_operators
from binpoint.passes.base import Context
from binpoint.passes.convert import real, stored
from binpoint.passes.manager import run
from binpoint.passes.samples import Samples
from binpoint.report import render
from binpoint.report.schema import Report
from binpoint.sim.departures import Departure, departures
from binpoint.target import load_target
from tests import models
from tests.build import Arrays, info, model, node, save


def departing(path: Path, options: CompileOptions | None = None) -> tuple[Departure, ...]:
    options = options or CompileOptions()
    return departures(lowered(path, options), path, options.semantics)


def lowered(path: Path, options: CompileOptions | None = None) -> Graph:
    graph = load(path)
    options = options or CompileOptions()
    context = Context(load_target("host"), options, read_samples("random", graph))
    return run(pipelines.mcu(), graph, context)


def between(folder: Path, op: str, *, dtype: type[np.integer] = np.int8, result: float) -> Path:
    """An operator between an int8 quantizer and one of another type."""
    arrays: Arrays = {
        "s": np.array(0.04, np.float32),
        "z": np.array(3, np.int8),
        "t": np.array(result, np.float32),
        "v": np.array(1, dtype),
        "g": np.linspace(0.5, 1.5, 24, dtype=np.float32),
    }
    operands = "xd g g" if op == "LayerNormalization" else "xd"
    nodes = [
        node("QuantizeLinear", "x s z", "xq"),
        node("DequantizeLinear", "xq s z", "xd"),
        node(op, operands, "h", name="inner"),
        node("QuantizeLinear", "h t v", "yq"),
        node("DequantizeLinear", "yq t v", "y"),
    ]
    made = model(nodes, [info("x", [1, 24])], [info("y", [1, 24])], arrays, opset=21)
    return save(made, folder / f"{op}.onnx")


def test_a_model_of_which_every_byte_is_defined_has_none(tmp_path: Path) -> None:
    assert departing(models.save_quantized(tmp_path / "q.onnx")) == ()
    assert departing(between(tmp_path, "Tanh", result=0.01)) == ()
    assert departing(between(tmp_path, "Softmax", result=0.01)) == ()


def fused(folder: Path, zero: int, *nodes: str) -> Path:
    """A product, nodes after it, and a quantizer: ``op operands result name``."""
    arrays: Arrays = {
        "s": np.array(0.04, np.float32),
        "z": np.array(3, np.int8),
        "t": np.array(0.05, np.float32),
        "v": np.array(zero, np.int8),
        "codes": np.arange(192, dtype=np.uint8).reshape(24, 8).view(np.int8),
        "ws": np.array(0.01, np.float32),
        "b": np.linspace(-1, 1, 8, dtype=np.float32),
    }
    inner = [node(op, a.replace(",", " "), y, n) for op, a, y, n in (x.split() for x in nodes)]
    whole = [
        node("QuantizeLinear", "x s z", "xq"),
        node("DequantizeLinear", "xq s z", "xd"),
        node("DequantizeLinear", "codes ws", "wd"),
        *inner,
        node("QuantizeLinear", "h t v", "yq"),
        node("DequantizeLinear", "yq t v", "y"),
    ]
    made = model(whole, [info("x", [5, 24])], [info("y", [5, 8])], arrays, opset=21)
    return save(made, folder / "fused.onnx")


def test_a_product_that_onnxruntime_leaves_in_float_is_one(tmp_path: Path) -> None:
    """It takes a Relu into the quantizer where that clips at zero, not elsewhere."""
    product, relu = "MatMul xd,wd c product", "Relu c h relu"
    assert departing(fused(tmp_path, 5, "MatMul xd,wd h product")) == ()
    assert departing(fused(tmp_path, -128, product, relu)) == ()
    (found,) = departing(fused(tmp_path, 5, product, relu))
    assert "in float32; here" in found.reason
    assert found.origin == ("product",)
    (found,) = departing(fused(tmp_path, 5, product, "Add c,b a sum", "Relu a h relu"))
    assert "product" in found.origin


def test_a_product_joined_with_others_without_names_is_one(tmp_path: Path) -> None:
    path = fused(tmp_path, 5, "MatMul xd,wd c p", "Add c,b a s", "Relu a h r")
    made = onnx.load_model_from_string(path.read_bytes())
    for each in made.graph.node:
        each.name = ""
    (found,) = departing(save(made, path))
    assert found == Departure("", ("h",), found.reason)
    assert "in float32; here" in found.reason


@pytest.mark.parametrize("op", ["Add", "Mul"])
@pytest.mark.parametrize(("zero", "form"), [(0, "OnnxruntimeChain"), (-128, "OnnxruntimePair")])
def test_pairs_before_a_relu_are_onnxruntimes_on_all_codes(
    op: str, zero: int, form: str, tmp_path: Path
) -> None:
    """Related scales make ties, which QLinearAdd and a float sum round differently."""
    result = 0.0782 if op == "Add" else 2 * 0.0391**2
    arrays: Arrays = {
        "s": np.array(0.0391, np.float32),
        "t": np.array(result, np.float32),
        "z": np.array(zero, np.int8),
    }
    nodes = [
        *(node("QuantizeLinear", f"{x} s z", f"{x}q") for x in "ab"),
        *(node("DequantizeLinear", f"{x}q s z", f"{x}d") for x in "ab"),
        node(op, "ad bd", "c"),
        node("Relu", "c", "h"),
        node("QuantizeLinear", "h t z", "yq"),
        node("DequantizeLinear", "yq t z", "y"),
    ]
    inputs = [info(name, [256, 256]) for name in "ab"]
    path = save(model(nodes, inputs, [info("y", [256, 256])], arrays), tmp_path / "pair.onnx")
    graph = lowered(path)
    assert departures(graph, path) == ()
    assert {type(n.op).__name__ for n in graph.nodes()} == {form.replace("Pair", op)}
    a, b = np.meshgrid(np.arange(-128, 128), np.arange(-128, 128))
    codes = dict(zip(graph.inputs, (a, b), strict=True))
    feeds = {n: real(graph.value(n), array) for n, array in codes.items()}
    found = ort.reference(str(path)).run(feeds)["y"]
    (output,) = graph.outputs
    wanted = stored(graph.value(output), found)
    np.testing.assert_array_equal(evaluate(graph, codes)[output], wanted)


def test_a_model_that_onnxruntime_refuses_has_no_bytes_of_its_own(tmp_path: Path) -> None:
    graph = lowered(fused(tmp_path, 5, "MatMul xd,wd h product"))
    (found,) = departures(graph, onnx.ModelProto())
    assert "does not run" in found.reason


def test_a_model_that_was_quantized_here_has_none(tmp_path: Path) -> None:
    path = models.save_float(tmp_path / "f.onnx")
    assert lowered(path).filled == ()
    assert departing(path) == departing(path, CompileOptions(semantics="dyadic")) == ()


def test_a_value_without_quantizer_is_one(tmp_path: Path) -> None:
    path = models.save_quantized(tmp_path / "tail.onnx", float_tail=True)
    (found,) = departing(path)
    assert found.origin == ("squash",)
    assert "states no integer type" in found.reason


@pytest.mark.parametrize("op", ["LayerNormalization", "Softmax"])
def test_an_operator_that_adds_in_float_is_one(op: str, tmp_path: Path) -> None:
    dtype = np.uint8 if op == "Softmax" else np.int8
    (found,) = departing(between(tmp_path, op, dtype=dtype, result=0.01))
    assert found.origin == ("inner",)
    assert "adds in float32" in found.reason


@pytest.mark.parametrize(("op", "first", "second"), [
    ("MatMul", np.int16, np.int8), ("MatMul", np.int8, np.int16), ("MatMul", np.uint16, np.uint16),
    ("BatchNormalization", np.int16, np.int16), ("GlobalAveragePool", np.int16, np.int8),
])  # fmt: skip
def test_sums_of_16_bits_are_one(
    op: str, first: type[np.integer], second: type[np.integer], tmp_path: Path
) -> None:
    """onnxruntime computes them in float32."""
    reasons = {d.reason for d in departing(wide(tmp_path, op, first, second))}
    assert len(reasons) == 1
    assert "computes this in float32" in reasons.pop()


def wide(folder: Path, op: str, first: type[np.integer], second: type[np.integer]) -> Path:
    """An operator with weights between quantizers of two types."""
    shapes = {"MatMul": ([5, 24], [5, 8]), "GlobalAveragePool": ([1, 24, 3, 5], [1, 24, 1, 1])}
    shape, result = shapes.get(op, ([5, 24], [5, 24]))
    arrays: Arrays = {
        "s": np.array(0.004, np.float32),
        "z": np.array(3, first),
        "t": np.array(0.02, np.float32),
        "v": np.array(1, second),
        "codes": np.arange(192, dtype=np.uint8).reshape(24, 8).view(np.int8),
        "ws": np.array(0.01, np.float32),
        "g": np.linspace(0.5, 1.5, 24, dtype=np.float32),
    }
    operands = {"MatMul": "xd wd", "BatchNormalization": "xd g g g g"}
    nodes = [
        node("QuantizeLinear", "x s z", "xq"),
        node("DequantizeLinear", "xq s z", "xd"),
        node("DequantizeLinear", "codes ws", "wd"),
        node(op, operands.get(op, "xd"), "h"),
        node("QuantizeLinear", "h t v", "yq"),
        node("DequantizeLinear", "yq t v", "y"),
    ]
    made = model(nodes, [info("x", shape)], [info("y", result)], arrays, opset=21)
    return save(made, folder / "wide.onnx")


def test_the_option_for_other_rounding_makes_all_values_differ(tmp_path: Path) -> None:
    path = models.save_quantized(tmp_path / "q.onnx")
    (found,) = departing(path, CompileOptions(semantics="dyadic"))
    assert found == Departure("", (), found.reason)
    assert "semantics" in found.reason


def reported(path: Path) -> Report:
    return compile_model(
        path, load_target("host"), CompileOptions(), samples="random", verify="ort"
    ).report


def test_the_report_lists_them(tmp_path: Path) -> None:
    report = reported(between(tmp_path, "LayerNormalization", result=0.02))
    (row,) = report.departures
    assert row.origin == ("inner",)
    stream = io.StringIO()
    render.console(report, Console(file=stream, width=200))
    lines = [line.split(maxsplit=1) for line in stream.getvalue().splitlines() if line.strip()]
    assert ["departure", f"{row.reason} (inner)"] in [[w.strip() for w in line] for line in lines]


def test_a_difference_at_a_table_of_a_float_operator_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = between(tmp_path, "Tanh", result=0.01)
    assert float_operators(str(path)) == {"Tanh": 1}
    assert [w.verdict for w in reported(path).witnesses if w.name == "source"] == ["equal"]

    def zeros(_path: Path, _graph: Graph, samples: Samples) -> list[dict[str, np.ndarray]]:
        return [{"y": np.zeros((1, 24), np.float32)}] * samples.count

    monkeypatch.setattr("binpoint.sim.source.run_source", zeros)
    with pytest.raises(Mismatch, match="source differs"):
        reported(path)
