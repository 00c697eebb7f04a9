"""Small quantized models, written node by node, and their comparison with onnxruntime's run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from binpoint import pipelines
from binpoint.frontend.load import load
from binpoint.frontend.samples import read_samples
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.passes.convert import stored_inputs
from binpoint.passes.manager import run
from binpoint.sim.source import compare_source
from binpoint.target import load_target
from tests.build import FLOAT, info, model, node, save

RNG = np.random.default_rng(31)
Code = np.integer[Any]


def lowered(made: onnx.ModelProto, path: Path) -> Graph:
    """The integer graph; passes keep what they promise."""
    graph = load(save(made, path))
    context = Context(
        load_target("host"), CompileOptions(check=True), read_samples("random", graph)
    )
    return run(pipelines.mcu(), graph, context)


def equal(made: onnx.ModelProto, folder: Path) -> None:
    """Every code that the integer graph gives is that of onnxruntime's run of the file."""
    path = folder / "model.onnx"
    graph = lowered(made, path)
    samples = read_samples("random", load(path), 3)
    assert samples is not None
    found = [evaluate(graph, inputs) for inputs in stored_inputs(graph, samples)]
    comparison = compare_source(path, graph, samples, found)
    assert comparison.codes > 0
    assert comparison.equal, str(comparison)
    spread = {int(v) for values in found for v in np.unique(values[graph.outputs[0]])}
    assert len(spread) > 2, "a comparison of constants says nothing"


class Net:
    """Nodes and constants of a quantized model under construction."""

    def __init__(self, dtype: type[Code] = np.int8) -> None:
        self.dtype = dtype
        self.nodes: list[onnx.NodeProto] = []
        self.arrays: dict[str, NDArray[Any]] = {}

    def parameters(
        self, name: str, scale: float | NDArray[Any] | list[float], zero: object = 0
    ) -> str:
        """Scale and zero point as initializers; gives their names."""
        self.arrays[f"{name}_s"] = np.asarray(scale, np.float32)
        self.arrays[f"{name}_z"] = np.asarray(zero, self.dtype)
        return f"{name}_s {name}_z"

    def q(self, source: str, name: str, scale: float = 0.05, zero: int = 3, **more: Any) -> str:
        self.nodes.append(
            node("QuantizeLinear", f"{source} {self.parameters(name, scale, zero)}", name, **more)
        )
        return name

    def dq(self, codes: str, name: str, like: str, **more: Any) -> str:
        self.nodes.append(node("DequantizeLinear", f"{codes} {like}_s {like}_z", name, **more))
        return name

    def qdq(self, source: str, name: str, scale: float = 0.05, zero: int = 3) -> str:
        self.q(source, f"{name}_q", scale, zero)
        return self.dq(f"{name}_q", name, f"{name}_q")

    def op(self, op: str, inputs: str, outputs: str, **more: Any) -> str:
        self.nodes.append(node(op, inputs, outputs, **more))
        return outputs

    def weights(self, name: str, *shape: int, per_channel: bool = False, axis: int = 0) -> str:
        limits = np.iinfo(self.dtype)
        codes = RNG.integers(limits.min, limits.max + 1, shape).astype(self.dtype)
        middle = 0 if limits.min < 0 else 128
        count = shape[axis] if per_channel else 1
        scales = RNG.uniform(0.005, 0.02, count)
        self.parameters(
            name, scales if per_channel else scales[0], [middle] * count if per_channel else middle
        )
        self.arrays[f"{name}_codes"] = codes
        more = {"axis": axis} if per_channel else {}
        return self.dq(f"{name}_codes", name, name, **more)

    def model(
        self,
        shape: Sequence[int],
        *outputs: str,
        kind: int = FLOAT,
        out: int = FLOAT,
        opset: int = 17,
    ) -> onnx.ModelProto:
        results = [info(name, None, out) for name in outputs]
        return model(self.nodes, [info("x", shape, kind)], results, self.arrays, opset=opset)
