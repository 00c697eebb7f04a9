"""Small QONNX models, written node by node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from binpoint.frontend.load import load
from binpoint.ir.graph import Graph
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.passes.manager import run
from binpoint.passes.samples import Samples
from binpoint.pipelines import mcu
from binpoint.target import load_target

DOMAIN = "qonnx.custom_op.general"


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
