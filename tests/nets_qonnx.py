"""Small QONNX models, written node by node, and their comparison with qonnx's own execution."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from binpoint.errors import BinpointError
from binpoint.frontend.load import load
from binpoint.ir.graph import Graph
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.passes.manager import run
from binpoint.passes.samples import Samples
from binpoint.pipelines import mcu
from binpoint.target import load_target
from tests.qonnx_oracle import compare

DOMAIN = "qonnx.custom_op.general"
STEP = 2.0**-4
"""Of the first quantizer."""


class Net:
    """Nodes and parameters of a model under construction; values are names."""

    def __init__(self, shape: Sequence[int], domain: str = DOMAIN) -> None:
        """Start with one float input `x`."""
        self.domain = domain
        self.nodes: list[onnx.NodeProto] = []
        self.parameters: list[onnx.TensorProto] = []
        self.input = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))

    def parameter(self, array: npt.ArrayLike) -> str:
        """A float32 constant."""
        name = f"p{len(self.parameters)}"
        stored = np.asarray(array, np.float32)
        self.parameters.append(numpy_helper.from_array(stored, name))
        return name

    def add(self, op: str, *inputs: Any, domain: str = "", **attributes: Any) -> str:
        """A node; inputs that are no names become parameters."""
        names = [i if isinstance(i, str) else self.parameter(i) for i in inputs]
        name = f"v{len(self.nodes)}"
        node = helper.make_node(op, names, [name], name=f"n{name}", domain=domain, **attributes)
        self.nodes.append(node)
        return name

    def quant(
        self,
        x: Any,
        scale: Any,
        bits: Any = 4,
        *,
        zero: Any = 0.0,
        signed: bool = True,
        narrow: bool = False,
        rule: str = "ROUND",
    ) -> str:
        """A Quant node."""
        flags = {"signed": int(signed), "narrow": int(narrow), "rounding_mode": rule}
        return self.add("Quant", x, scale, zero, bits, domain=self.domain, **flags)

    def normalization(self, x: str, rng: np.random.Generator, channels: int) -> str:
        """A BatchNormalization, some of whose channels fall."""
        gamma = rng.choice([-1, 1], channels) * rng.uniform(0.3, 2, channels)
        beta, mean = rng.normal(0, 1, channels), rng.normal(0, 3, channels)
        variance = rng.uniform(0.5, 4, channels)
        return self.add("BatchNormalization", x, gamma, beta, mean, variance, epsilon=1e-4)

    def model(self, *outputs: str, opset: int = 18) -> onnx.ModelProto:
        """The model with these outputs."""
        infos = [helper.make_empty_tensor_value_info(name) for name in outputs]
        for info in infos:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
        graph = helper.make_graph(self.nodes, "net", [self.input], infos, self.parameters)
        opsets = [helper.make_opsetid("", opset)]
        if self.domain:
            opsets.append(helper.make_opsetid(self.domain, 1))
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def lowered(model: onnx.ModelProto, folder: Path, samples: npt.ArrayLike | None = None) -> Graph:
    """The integer graph of a model; `samples` of its input, where it needs any."""
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    graph = load(path)
    found = None
    if samples is not None:
        found = Samples({graph.inputs[0]: np.asarray(samples, np.float32)}, None)
    options = CompileOptions(check=False, packed_maps="never")
    return run(mcu(), graph, Context(load_target("host"), options, found))


def samples(
    rng: np.random.Generator, shape: tuple[int, ...], count: int = 12
) -> npt.NDArray[np.float32]:
    """Inputs on the grid of the first quantizer, so that no rounding of inputs is compared."""
    codes = rng.integers(-128, 128, (count, *shape[1:]))
    return (codes * STEP).astype(np.float32)


def exact(model: onnx.ModelProto, folder: Path, inputs: npt.NDArray[np.float32]) -> Graph:
    """Lower a model whose scales are powers of two: float32 is exact, so no code may differ."""
    graph = lowered(model, folder, inputs)
    counts = compare(model, graph, ({graph.inputs[0]: x[None]} for x in inputs))
    assert counts.codes
    assert counts.differ == 0
    assert counts.worst_output < 1e-4
    return graph


def close(model: onnx.ModelProto, folder: Path, inputs: npt.NDArray[np.float32]) -> Graph:
    """Lower a model of any scales: codes differ only where float32 falls off a tie."""
    graph = lowered(model, folder, inputs)
    counts = compare(model, graph, ({graph.inputs[0]: x[None]} for x in inputs))
    assert counts.codes
    assert all(d < 1e-4 for d in counts.distances)
    assert counts.differ <= max(2, counts.codes // 1000)
    return graph


def refused(net: Net, out: str, folder: Path) -> BinpointError:
    """The error of a model with this output."""
    with pytest.raises(BinpointError) as caught:
        lowered(net.model(out), folder)
    return caught.value
