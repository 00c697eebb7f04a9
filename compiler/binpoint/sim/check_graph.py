"""Graph[INTEGER] → ONNX made of integer operators: `lowered.onnx`, and the onnxruntime witness."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from binpoint import ort
from binpoint.ir.exchange import OnnxWriter, Tensor
from binpoint.ir.graph import Graph, Value
from binpoint.ir.op import IntegerOp
from binpoint.numeric.interval import Interval

VALUES = "binpoint.values"
"""Key of the model's metadata that tells, as JSON, which tensor is which value of the graph."""
_OPSET = 21
_IR_VERSION = 10


def write_onnx(graph: Graph, *, deep: bool = False) -> onnx.ModelProto:
    """The check graph: inputs and outputs of their storage types, int64 between.

    `deep` makes every value an output.
    """
    writer = OnnxWriter()
    tensors: dict[str, Tensor] = {}
    inputs = [_info(graph.value(name)) for name in graph.inputs]
    for name in graph.inputs:
        value = graph.value(name)
        tensors[name] = writer.emit(
            "Cast", [name], value.shape, value.interval, to=TensorProto.INT64
        )
    for value in graph.values():
        if value.constant is not None:
            tensors[value.name] = writer.const(value.constant.array)
    for node in graph.nodes():
        assert isinstance(node.op, IntegerOp)
        results = node.op.to_onnx(writer, *(tensors[name] for name in node.inputs))
        for value, tensor in zip(graph.results(node), results, strict=True):
            tensors[value.name] = replace(tensor, range=_narrower(tensor, value))
    names = (
        [v.name for v in graph.values() if v.constant is None and v.name not in graph.inputs]
        if deep
        else list(graph.outputs)
    )
    outputs = [_output(writer, graph.value(name), tensors[name]) for name in names]
    body = helper.make_graph(
        writer.nodes,
        graph.name,
        inputs,
        outputs,
        [p for _, p in sorted(writer.initializers.items())],
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(
        body, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="binpoint"
    )
    computed = {v.name: tensors[v.name].name for v in graph.values() if v.constant is None}
    helper.set_model_props(model, {VALUES: json.dumps(computed)})
    return model


def _narrower(tensor: Tensor, value: Value) -> Interval:
    """What both the writer and the op prove of a result; ops may know more than operators tell."""
    lo, hi = max(tensor.range.lo, value.interval.lo), min(tensor.range.hi, value.interval.hi)
    return Interval(lo, hi)


def _info(value: Value, name: str | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        name or value.name, helper.np_dtype_to_tensor_dtype(value.elem.storage.dtype), value.shape
    )


def _output(writer: OnnxWriter, value: Value, tensor: Tensor) -> onnx.ValueInfoProto:
    name = f"out_{value.name}"
    kind = helper.np_dtype_to_tensor_dtype(value.elem.storage.dtype)
    writer.nodes.append(
        helper.make_node("Cast", [tensor.name], [name], name=f"{name}_cast", to=kind)
    )
    return _info(value, name)


def run_onnx(
    model: onnx.ModelProto, graph: Graph, samples: Sequence[Mapping[str, NDArray[Any]]]
) -> list[dict[str, NDArray[Any]]]:
    """Values by name for each sample, through onnxruntime with its optimisations off."""
    session = ort.plain(model)
    found: list[dict[str, NDArray[Any]]] = []
    for sample in samples:
        feeds = {
            name: np.asarray(sample[name]).astype(graph.value(name).elem.storage.dtype)
            for name in graph.inputs
        }
        results = session.run(feeds)
        found.append({name.removeprefix("out_"): array for name, array in results.items()})
    return found
