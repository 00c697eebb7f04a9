"""Models through the line for FPGAs: integer graph, design, project, the interpreter's values."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from binpoint import pipelines
from binpoint.emit.fpga_hls import render
from binpoint.emit.project import Project
from binpoint.frontend.load import load
from binpoint.frontend.samples import read_samples
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.passes.manager import run
from binpoint.plan.dataflow import design
from binpoint.plan.design import Design, Folding
from binpoint.plan.units import Dense, Depthwise, Window
from binpoint.sim.compare import Difference, first_difference
from binpoint.sim.host_hls import run_native
from binpoint.target import FpgaTarget, load_target

Values = Mapping[str, NDArray[Any]]
SAMPLES = 3


@dataclass(frozen=True, slots=True)
class Built:
    """A design with its project, and values of all tensors for some inputs."""

    graph: Graph
    design: Design
    project: Project
    values: tuple[Values, ...]

    def difference(self) -> Difference | None:
        """Where the native build differs from the interpreter at any value in a stream."""
        found = run_native(self.design, self.project, self.values, deep=True)
        return first_difference(self.graph, self.values, found)


def fpga() -> FpgaTarget:
    """The target of all tests."""
    target = load_target("zynq-7020")
    assert isinstance(target, FpgaTarget)
    return target


def lowered(model: onnx.ModelProto, options: CompileOptions, seed: int = 0) -> Graph:
    """The integer graph, with noise as samples."""
    with tempfile.TemporaryDirectory(prefix="binpoint-hls-") as folder:
        path = Path(folder) / "net.onnx"
        path.write_bytes(model.SerializeToString())
        return lowered_file(path, "random", options, seed)


def lowered_file(path: Path, samples: str | Path, options: CompileOptions, seed: int = 0) -> Graph:
    """The integer graph of a file."""
    graph = load(path)
    found = read_samples(samples, graph, seed)
    assert found is not None
    context = Context(fpga(), options, found.part(0, 40))
    return run(pipelines.fpga(), graph, context)


def codes(graph: Graph, seed: int, count: int = SAMPLES) -> list[dict[str, NDArray[np.int64]]]:
    """Inputs: uniform, then only the ends of the range, then the middle third."""
    rng = np.random.default_rng(seed)
    found: list[dict[str, NDArray[np.int64]]] = []
    for index in range(count):
        sample: dict[str, NDArray[np.int64]] = {}
        for name in graph.inputs:
            value = graph.value(name)
            lo, hi = value.interval.lo, value.interval.hi
            if index % 3 == 1:
                sample[name] = rng.choice(np.array([lo, hi], np.int64), value.shape)
            else:
                third = (hi - lo) // 3 if index % 3 else 0
                sample[name] = rng.integers(lo + third, hi + 1 - third, value.shape)
        found.append(sample)
    return found


def built(
    graph: Graph,
    options: CompileOptions,
    folding: Mapping[str, Folding] | None = None,
    seed: int = 0,
) -> Built:
    """Design, project with golden vectors, and the interpreter's values."""
    values = tuple(evaluate(graph, sample) for sample in codes(graph, seed))
    plan = design(graph, fpga(), options, folding)
    return Built(graph, plan, render(plan, fpga(), values), values)


# ---- a small residual network


def residual_net(*, channels: int = 4, deep: int = 2) -> onnx.ModelProto:
    """Conv, a branch of `deep` convolutions added to a direct one, a pool, a classifier."""
    random = np.random.default_rng(7)
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, NDArray[np.float32]] = {}

    def conv(x: str, y: str, inputs: int) -> str:
        shape = (channels, inputs, 3, 3)
        weights[f"{y}_w"] = random.normal(0, 0.4, shape).astype(np.float32)
        weights[f"{y}_b"] = random.normal(0, 0.1, channels).astype(np.float32)
        names = [x, f"{y}_w", f"{y}_b"]
        nodes.append(helper.make_node("Conv", names, [y], y, pads=[1, 1, 1, 1]))
        return y

    last = conv("x", "stem", 2)
    for index in range(deep):
        last = conv(last, f"branch{index}", channels)
    weights["w"] = random.normal(0, 0.4, (channels, 3)).astype(np.float32)
    nodes += [
        helper.make_node("Add", ["stem", last], ["sum"], "add"),
        helper.make_node("Relu", ["sum"], ["positive"], "relu"),
        helper.make_node(
            "MaxPool", ["positive"], ["small"], "pool", kernel_shape=[2, 2], strides=[2, 2]
        ),
        helper.make_node("GlobalAveragePool", ["small"], ["mean"], "mean"),
        helper.make_node("Flatten", ["mean"], ["flat"], "flat"),
        helper.make_node("MatMul", ["flat", "w"], ["y"], "classify"),
    ]
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 10, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def divisors(number: int, most: int) -> list[int]:
    """All divisors up to `most`."""
    return [n for n in range(1, most + 1) if number % n == 0]


def random_folding(plan: Design, random: Random, most: int = 8) -> dict[str, Folding]:
    """A folding of every layer with sums, drawn from what divides it."""
    found: dict[str, Folding] = {}
    for layer in plan.layers:
        match layer.unit:
            case Dense(channels=channels, depth=depth):
                simd = random.choice(divisors(_side_by_side(plan, layer.name, depth), most))
                found[layer.name] = Folding(random.choice(divisors(channels, most)), simd)
            case Depthwise(channels=channels):
                found[layer.name] = Folding(random.choice(divisors(channels, most)))
            case _:
                pass
    return found


def _side_by_side(plan: Design, name: str, depth: int) -> int:
    """Products of a sum that may stand side by side: those of one tap, behind a window."""
    for layer in plan.layers:
        if layer.name == f"{name}_window" and isinstance(layer.unit, Window):
            return depth // (layer.unit.kernel[0] * layer.unit.kernel[1])
    return depth
