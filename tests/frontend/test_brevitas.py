"""Brevitas: exports of a 16-64-32-32-5 network, in C against float64 and qonnx, on 10,000 inputs.

Needs torch and brevitas: `pip install torch==2.13.0`, then the extra `training`.
"""

from __future__ import annotations

import importlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper

from binpoint.emit.mcu_c import render
from binpoint.frontend.qonnx import is_quantizer
from binpoint.ir.graph import Graph
from binpoint.options import CompileOptions
from binpoint.passes.convert import stored
from binpoint.plan.arrange import arrange
from binpoint.sim.host_c import run_host
from binpoint.target import load_target
from tests.nets_qonnx import lowered
from tests.qonnx_oracle import canonical, run_qonnx

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
pytest.importorskip("brevitas", reason="pip install brevitas")
pytest.importorskip("onnxoptimizer", reason="pip install onnxoptimizer")
pytest.importorskip("onnxscript", reason="pip install onnxscript")

COUNT = 10_000
WIDTHS = (16, 64, 32, 32, 5)
KINDS = ("default", "fixed-point", "per-channel")
Array = npt.NDArray[Any]


def network(kind: str) -> Any:
    """The network with quantizers of one kind, its ranges set by a first batch."""
    qnn = importlib.import_module("brevitas.nn")
    quant = importlib.import_module("brevitas.quant")
    linear: dict[str, Any] = {"weight_bit_width": 4}
    active: dict[str, Any] = {"bit_width": 4}
    border: dict[str, Any] = {"bit_width": 8}
    if kind == "fixed-point":
        linear["weight_quant"] = quant.Int8WeightPerTensorFixedPoint
        active["act_quant"] = quant.Uint8ActPerTensorFixedPoint
        border["act_quant"] = quant.Int8ActPerTensorFixedPoint
    if kind == "per-channel":
        linear["weight_quant"] = quant.Int8WeightPerChannelFloat
    layers: list[Any] = [qnn.QuantIdentity(**border)]
    for inputs, outputs in itertools.pairwise(WIDTHS):
        layers += [qnn.QuantLinear(inputs, outputs, bias=True, **linear), qnn.QuantReLU(**active)]
    torch.manual_seed(7)
    net = torch.nn.Sequential(*layers[:-1])
    with torch.no_grad():
        for _ in range(20):
            net(torch.randn(64, WIDTHS[0]))
    return net.eval()


def exported(kind: str, folder: Path, *, qcdq: bool = False) -> onnx.ModelProto:
    """The network as Brevitas exports it."""
    exports = importlib.import_module("brevitas.export")
    path = folder / f"{kind}.onnx"
    export = exports.export_onnx_qcdq if qcdq else exports.export_qonnx
    example = torch.zeros(1, WIDTHS[0])
    export(network(kind), args=example, export_path=str(path))
    return onnx.load_model_from_string(path.read_bytes())


def doubles(model: onnx.ModelProto, x: Array) -> Array:
    """The network's meaning in float64, in which no sum of these falls off a tie."""
    values: dict[str, Array] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    values = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in values.items()}
    values[model.graph.input[0].name] = x.astype(np.float64)
    for node in model.graph.node:
        args = [values[name] for name in node.input]
        flags = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        values[node.output[0]] = _double(node.op_type, args, flags)
    return values[model.graph.output[0].name]


def _double(op: str, args: list[Array], flags: dict[str, Any]) -> Array:
    match op:
        case "Quant":
            x, scale, zero, bits = args
            low = -(2.0 ** (bits - 1)) + flags["narrow"] if flags["signed"] else 0.0
            high = 2.0 ** (bits - 1) - 1 if flags["signed"] else 2.0**bits - 1 - flags["narrow"]
            return (np.rint(np.clip(x / scale + zero, low, high)) - zero) * scale
        case "QuantizeLinear":
            info = np.iinfo(args[2].dtype)
            return np.clip(np.rint(args[0] / args[1]), info.min, info.max)
        case "DequantizeLinear":
            return args[0] * args[1]
        case "Clip":
            return np.clip(args[0], args[1], args[2])
        case "Gemm":
            assert flags["transB"] == 1
            return args[0] @ args[1].T + args[2]
        case "Relu":
            return np.maximum(args[0], 0)
        case "Constant":
            return numpy_helper.to_array(flags["value"])
        case _:
            raise AssertionError(op)


@dataclass(frozen=True)
class Run:
    """Codes of our C, and of an execution of the model, whose real outputs are brought to codes."""

    graph: Graph
    ours: Array

    def differing(self, real: Array) -> int:
        """How many outputs differ as integers."""
        out = self.graph.value(self.graph.outputs[0])
        scale, offset = np.array([float(s) for s in out.elem.scales]), 0.0
        if out.reading is not None:
            scale, offset = np.array(out.reading.scales), np.array(out.reading.offsets)
        steps = (real.reshape(self.ours.shape) - offset) / scale
        assert np.abs(steps - np.rint(steps)).max() < 0.05
        return int((np.rint(steps) != self.ours).sum())


def run_c(model: onnx.ModelProto, folder: Path, x: Array) -> Run:
    """Compile the model, build its C under sanitizers and run it on all inputs."""
    graph = lowered(model, folder)
    options = CompileOptions()
    program = arrange(graph, options)
    project = render(program, load_target("host"), options)
    (name,), (out,) = graph.inputs, graph.outputs
    codes = [{name: stored(graph.value(name), row[None])} for row in x]
    found = run_host(program, project, options, codes)
    return Run(graph, np.concatenate([f[out] for f in found]))


def batched(model: onnx.ModelProto, count: int) -> onnx.ModelProto:
    """A copy for many inputs at once."""
    copy = canonical(model)
    del copy.graph.value_info[:]
    ends = (copy.graph.input[0], WIDTHS[0]), (copy.graph.output[0], WIDTHS[-1])
    for info, width in ends:
        kind = onnx.TensorProto.FLOAT
        info.CopyFrom(onnx.helper.make_tensor_value_info(info.name, kind, [count, width]))
    return copy


def qonnx_output(model: onnx.ModelProto, x: Array) -> Array:
    inputs = {model.graph.input[0].name: x}
    return run_qonnx(batched(model, len(x)), inputs, whole=False)[model.graph.output[0].name]


@pytest.mark.parametrize("kind", KINDS)
def test_export(tmp_path: Path, rng: np.random.Generator, kind: str) -> None:
    model = exported(kind, tmp_path)
    assert any(is_quantizer(node) for node in model.graph.node)
    x = rng.normal(0, 1, (COUNT, WIDTHS[0])).astype(np.float32)
    run = run_c(model, tmp_path, x)
    assert run.ours.size == COUNT * WIDTHS[-1]
    assert run.differing(doubles(model, x)) == 0
    # In float32 a sum beside a tie may fall on its other side; powers of two leave no such sums.
    other = run.differing(qonnx_output(model, x))
    assert other == 0 if kind == "fixed-point" else other <= run.ours.size // 1000


def test_export_as_qcdq(tmp_path: Path, rng: np.random.Generator) -> None:
    model = exported("default", tmp_path, qcdq=True)
    x = rng.normal(0, 1, (COUNT, WIDTHS[0])).astype(np.float32)
    assert run_c(model, tmp_path, x).differing(doubles(model, x)) == 0
