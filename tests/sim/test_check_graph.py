"""The check graph is read before its casts to storage, so that no multiple of 256 is lost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from binpoint.driver import compile_model, verify_folder
from binpoint.errors import InvariantBroken, Mismatch, VerificationError
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.numeric.fixed import I8, I16, IntType
from binpoint.numeric.interval import Interval
from binpoint.ops.requantize import Clamp
from binpoint.options import CompileOptions
from binpoint.sim.check_graph import run_onnx, write_onnx
from binpoint.sim.compare import first_difference
from binpoint.target import load_target
from tests import models
from tests.plan.fakes import kind


@dataclass(frozen=True, slots=True)
class Wrong(Clamp):
    """A clamp whose check graph is off by a number, and does not know it."""

    off: int = 0

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        (y,) = Clamp.to_onnx(self, w, *inputs)
        return (w.emit("Add", [y.name, w.const(self.off).name], y.shape, y.range),)


def graph_of(off: int, width: int) -> Graph:
    graph = Graph("g")
    build = GraphBuilder(graph)
    x = build.input("x", kind(5, width))
    y = build.one(Wrong(-5, 5, off), x, outputs=("y",))
    z = build.one(Clamp(-3, 3), y, outputs=("z",))
    graph.outputs = graph.output_names = (z.name, y.name)
    return graph


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    ("off", "width"), [(256, 8), (-512, 8), (1, 8), (2**16, 16), (2**32, 32), (-(2**16), 8)]
)
def test_a_value_off_by_all_bits_of_its_storage_is_different(
    off: int, width: int, *, deep: bool
) -> None:
    graph = graph_of(off, width)
    codes = {"x": np.array([-9, -1, 0, 4, 9])}
    found = run_onnx(write_onnx(graph, deep=deep), graph, [codes])
    difference = first_difference(graph, [evaluate(graph, codes)], found)
    assert difference is not None
    assert difference.value == "y"
    assert difference.found - difference.expected == off
    right = graph_of(0, width)
    found = run_onnx(write_onnx(right, deep=deep), right, [codes])
    assert first_difference(right, [evaluate(right, codes)], found) is None


def test_what_the_cast_of_an_output_makes_of_a_value_counts() -> None:
    graph = graph_of(0, 8)
    model = write_onnx(graph)
    (made,) = (n for n in model.graph.node if n.output[0] == "out_y")
    made.attribute[0].CopyFrom(helper.make_attribute("to", TensorProto.UINT8))
    (info,) = (o for o in model.graph.output if o.name == "out_y")
    info.type.tensor_type.elem_type = TensorProto.UINT8
    codes = {"x": np.array([-9, -1, 0, 4, 9])}
    difference = first_difference(graph, [evaluate(graph, codes)], run_onnx(model, graph, [codes]))
    assert difference is not None
    assert (difference.expected, difference.found) == (-5, 251)


def test_a_check_graph_without_its_values_is_refused() -> None:
    graph = graph_of(0, 8)
    model = write_onnx(graph)
    del model.metadata_props[:]
    with pytest.raises(VerificationError, match="lacks a value"):
        run_onnx(model, graph, [{"x": np.zeros(5, np.int64)}])


@pytest.mark.parametrize("storage", [I8, I16])
def test_operands_of_quantized_operators_are_not_cut(storage: IntType) -> None:
    writer = OnnxWriter()
    x = Tensor("x", (4,), Interval(0, storage.max + 1))
    with pytest.raises(InvariantBroken, match="leaves"):
        writer.quantized("QLinearSoftmax", [(x, storage)], (4,), storage)


def test_a_written_check_graph_that_is_off_by_256_is_different(tmp_path: Path) -> None:
    path = models.save_quantized(tmp_path / "q.onnx")
    target = load_target("host")
    result = compile_model(path, target, CompileOptions(), samples="random", verify="none")
    result.project.write(tmp_path / "out")
    assert verify_folder(tmp_path / "out", "ort").report.verdict == "equal"
    graph = result.graph
    made = write_onnx(graph)
    cast = next(n for n in made.graph.node if n.output[0] == f"out_{graph.outputs[0]}")
    shifted = helper.make_node("Add", [cast.input[0], "more"], ["moved"])
    made.graph.initializer.append(helper.make_tensor("more", TensorProto.INT64, [], [256]))
    made.graph.node.insert(len(made.graph.node) - 1, shifted)
    told = made.metadata_props[0]
    told.value = told.value.replace(f'"{cast.input[0]}"', '"moved"')
    cast.input[0] = "moved"
    (tmp_path / "out" / "lowered.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(Mismatch, match="onnxruntime differs"):
        verify_folder(tmp_path / "out", "ort")
