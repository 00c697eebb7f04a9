"""Which values of a quantized model may differ from onnxruntime's run of its file, and why."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from binpoint import pipelines
from binpoint.driver import compile_model
from binpoint.errors import Mismatch
from binpoint.frontend.load import load
from binpoint.frontend.samples import read_samples
from binpoint.ir.graph import Graph
from binpoint.options import CompileOptions
from binpoint.ort import float_operators
from binpoint.passes.base import Context
from binpoint.passes.manager import run
from binpoint.passes.samples import Samples
from binpoint.report import render
from binpoint.report.summary import Report
from binpoint.sim.source import Departure, departures
from binpoint.target import load_target
from tests import models
from tests.build import Arrays, info, model, node, save


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
    assert departures(lowered(models.save_quantized(tmp_path / "q.onnx"))) == ()
    assert departures(lowered(between(tmp_path, "Tanh", result=0.01))) == ()
    assert departures(lowered(between(tmp_path, "Softmax", result=0.01))) == ()


def test_a_model_that_was_quantized_here_has_none(tmp_path: Path) -> None:
    graph = lowered(models.save_float(tmp_path / "f.onnx"))
    assert graph.filled == ()
    assert departures(graph) == departures(graph, "dyadic") == ()


def test_a_value_without_quantizer_is_one(tmp_path: Path) -> None:
    path = models.save_quantized(tmp_path / "tail.onnx", float_tail=True)
    (found,) = departures(lowered(path))
    assert found.origin == ("squash",)
    assert "states no integer type" in found.reason


@pytest.mark.parametrize("op", ["LayerNormalization", "Softmax"])
def test_an_operator_that_adds_in_float_is_one(op: str, tmp_path: Path) -> None:
    dtype = np.uint8 if op == "Softmax" else np.int8
    (found,) = departures(lowered(between(tmp_path, op, dtype=dtype, result=0.01)))
    assert found.origin == ("inner",)
    assert "adds in float32" in found.reason


def test_the_option_for_other_rounding_makes_all_values_differ(tmp_path: Path) -> None:
    path = models.save_quantized(tmp_path / "q.onnx")
    graph = lowered(path, CompileOptions(semantics="dyadic"))
    (found,) = departures(graph, "dyadic")
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
    assert f"departure     {row.reason} (inner)" in stream.getvalue()


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
