"""Recurrent layers: against onnxruntime in float, and all integer witnesses against each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from binpoint import ort
from binpoint.driver import compile_model
from binpoint.errors import UnsupportedOperator
from binpoint.frontend.load import load
from binpoint.ops.cell import UNIT, gate
from binpoint.ops.recurrent_numbers import entries
from binpoint.options import CompileOptions
from binpoint.quantize.simulate import Simulation
from binpoint.sim.witness import Answer
from binpoint.target import load_target

Real = npt.NDArray[np.float32]
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


@dataclass(frozen=True, slots=True)
class Layer:
    """A model of one recurrent node, as exporters write it around."""

    kind: str
    steps: int = 7
    batch: int = 1
    inputs: int = 3
    hidden: int = 5
    direction: str = "forward"
    starts: str = "none"
    outputs: tuple[str, ...] = ("Y", "Y_h")
    attributes: tuple[tuple[str, Any], ...] = ()

    @property
    def ways(self) -> int:
        return 2 if self.direction == "bidirectional" else 1

    def model(self, rng: np.random.Generator) -> onnx.ModelProto:
        """X is ``[B, T, I]`` as in Keras and batch_first of torch: a Transpose stands before."""
        d, n, gates = self.ways, self.hidden, GATES[self.kind] * self.hidden
        arrays = {
            "W": rng.normal(0, 0.5, (d, gates, self.inputs)),
            "R": rng.normal(0, 0.4, (d, gates, n)),
            "B": rng.normal(0, 0.3, (d, 2 * gates)),
        }
        states = ["h", "c"][: 1 + (self.kind == "LSTM")]
        named = [""] * len(states)
        shape, free = (d, self.batch, n), list[onnx.ValueInfoProto]()
        if self.starts == "constant":
            arrays |= {s: rng.uniform(-0.9, 0.9, shape) for s in states}
            named = states
        if self.starts == "input":
            free = [helper.make_tensor_value_info(s, TensorProto.FLOAT, shape) for s in states]
            named = states
        attributes: dict[str, Any] = dict(self.attributes)
        attributes |= {"hidden_size": n, "direction": self.direction}
        outputs = [name if name in self.outputs else "" for name in ("Y", "Y_h", "Y_c")]
        nodes = [
            helper.make_node("Transpose", ["x"], ["X"], perm=[1, 0, 2]),
            helper.make_node(
                self.kind,
                ["X", "W", "R", "B", "", *named],
                outputs[: 2 + (self.kind == "LSTM")],
                **attributes,
            ),
        ]
        x = helper.make_tensor_value_info(
            "x", TensorProto.FLOAT, (self.batch, self.steps, self.inputs)
        )
        graph = helper.make_graph(
            nodes,
            "layer",
            [x, *free],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in self.outputs],
            [numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
        return onnx.shape_inference.infer_shapes(model)

    def samples(self, rng: np.random.Generator, count: int = 4) -> dict[str, Real]:
        """Inputs, each with a first axis of samples."""
        found = {"x": rng.normal(0, 1, (count, self.batch, self.steps, self.inputs))}
        if self.starts == "input":
            shape = (count, self.ways, self.batch, self.hidden)
            names = ["h", "c"][: 1 + (self.kind == "LSTM")]
            found |= {s: rng.uniform(-0.9, 0.9, shape) for s in names}
        return {name: array.astype(np.float32) for name, array in found.items()}


ALL = ("Y", "Y_h", "Y_c")
LAYERS = (
    Layer("GRU", attributes=(("linear_before_reset", 1),)),
    Layer("GRU", batch=2, starts="input"),
    Layer("GRU", direction="bidirectional", starts="constant"),
    Layer("GRU", outputs=("Y_h",), direction="reverse", attributes=(("linear_before_reset", 1),)),
    Layer("LSTM", outputs=ALL, starts="input"),
    Layer("LSTM", outputs=ALL, direction="bidirectional", batch=2, starts="constant"),
    Layer("LSTM", outputs=("Y_h",), hidden=6),
    Layer("LSTM", outputs=("Y",), direction="reverse"),
    Layer("RNN", outputs=("Y", "Y_h"), batch=2),
    Layer("RNN", outputs=("Y",), direction="bidirectional", starts="input"),
)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_float_form_is_that_of_onnxruntime(
    layer: Layer, rng: np.random.Generator, tmp_path: Path
) -> None:
    model, samples = layer.model(rng), layer.samples(rng)
    (tmp_path / "layer.onnx").write_bytes(model.SerializeToString())
    simulation = Simulation(graph := load(tmp_path / "layer.onnx"), rounded=False)
    session = ort.plain(model)
    for index in range(4):
        feed = {name: array[index] for name, array in samples.items()}
        wanted = session.run(feed)
        found = simulation.run(feed)
        for name, value in zip(graph.output_names, graph.outputs, strict=True):
            np.testing.assert_allclose(found[value], wanted[name], atol=1e-5)


# One GRU and one LSTM of both directions on every run, the others among the slow ones.
QUICK = ((2, "cortex-m4"), (5, "cortex-m55"))
CORES = ("cortex-m4", "cortex-m55")


@pytest.mark.needs("gcc", "arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize(
    ("layer", "core"),
    [
        pytest.param(layer, core, marks=[pytest.mark.slow] if (i, core) not in QUICK else [])
        for i, layer in enumerate(LAYERS)
        for core in CORES
    ],
    ids=str,
)
def test_integer_witnesses_are_equal(
    layer: Layer, core: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    model, samples = layer.model(rng), layer.samples(rng)
    (tmp_path / "layer.onnx").write_bytes(model.SerializeToString())
    np.savez(tmp_path / "samples.npz", **samples)  # pyright: ignore[reportArgumentType]
    result = compile_model(
        tmp_path / "layer.onnx",
        load_target(core),
        CompileOptions(name="layer"),
        samples=tmp_path / "samples.npz",
    )
    assert result.verdict.answer is Answer.EQUAL
    found = {w.name: w.verdict for w in result.verdict.witnesses}
    names = ("interpreter", "onnxruntime", "host", "emulator")
    assert {found[n] for n in names} == {Answer.EQUAL}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"attributes": (("clip", 3.0),)}, "clipped"),
        ({"attributes": (("layout", 1),)}, "layout 1"),
        ({"attributes": (("activations", ["Relu", "Tanh"]),)}, "relu"),
    ],
)
def test_refuses_by_name(
    changed: dict[str, Any], why: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    model = replace(Layer("GRU"), **changed).model(rng)
    (tmp_path / "layer.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedOperator, match=why):
        load(tmp_path / "layer.onnx")


@pytest.mark.parametrize(
    ("index", "array", "why"),
    [
        (4, np.array([3], np.int32), "different lengths"),
        (5, np.full((1, 1, 5), 1.5), "no step could reach"),
        (6, np.full((1, 1, 5), -17.0), "no step could reach"),
        (7, np.ones((1, 15)), "peepholes"),
    ],
)
def test_refuses_operands(
    index: int, array: npt.NDArray[Any], why: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    model = Layer("LSTM").model(rng)
    (node,) = (n for n in model.graph.node if n.op_type == "LSTM")
    node.input.extend([""] * (index + 1 - len(node.input)))
    node.input[index] = "extra"
    stored = array if array.dtype == np.int32 else array.astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(stored, "extra"))
    (tmp_path / "layer.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedOperator, match=why):
        load(tmp_path / "layer.onnx")


@pytest.mark.parametrize("fraction", [5, 8, 12])
def test_gates_are_within_their_stated_error(fraction: int) -> None:
    u = np.arange(-(2**15), 2**15)
    real = u / 2.0**fraction
    for function, bound in ((np.tanh, 1.3e-4), (_sigmoid, 3.7e-4)):
        found = gate(u, entries(function), fraction) / UNIT
        assert np.abs(found - function(real)).max() < bound


def _sigmoid(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return 0.5 + 0.5 * np.tanh(x / 2)
