"""Graph[INTEGER] → ONNX made of integer operators: `lowered.onnx`, and the onnxruntime witness."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from binpoint import ort
from binpoint.errors import VerificationError
from binpoint.ir.evaluate import written
from binpoint.ir.graph import Graph, Value
from binpoint.ir.onnx_writer import OnnxWriter, Tensor

VALUES = "binpoint.values"
"""Key of the model's metadata that tells, as JSON, which tensor is which value of the graph."""
_OUTPUT = "out_"
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
    tensors = written(writer, graph, tensors)
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


def _info(value: Value, name: str | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        name or value.name, helper.np_dtype_to_tensor_dtype(value.elem.storage.dtype), value.shape
    )


def _output(writer: OnnxWriter, value: Value, tensor: Tensor) -> onnx.ValueInfoProto:
    name = f"{_OUTPUT}{value.name}"
    kind = helper.np_dtype_to_tensor_dtype(value.elem.storage.dtype)
    writer.nodes.append(
        helper.make_node("Cast", [tensor.name], [name], name=f"{name}_cast", to=kind)
    )
    return _info(value, name)


def run_onnx(
    model: onnx.ModelProto, graph: Graph, samples: Sequence[Mapping[str, NDArray[Any]]]
) -> list[dict[str, NDArray[np.int64]]]:
    """Values by name for each sample, through onnxruntime with its optimisations off."""
    wanted = [graph.value(output.name.removeprefix(_OUTPUT)) for output in model.graph.output]
    feeds = [
        {n: np.asarray(sample[n]).astype(graph.value(n).elem.storage.dtype) for n in graph.inputs}
        for sample in samples
    ]
    return run_values(model, wanted, feeds)


def run_values(
    model: onnx.ModelProto,
    wanted: Sequence[Value],
    feeds: Sequence[Mapping[str, NDArray[Any]]],
) -> list[dict[str, NDArray[np.int64]]]:
    """The wanted values of a check graph for each sample.

    The cast to storage hides multiples of 256 or 65536, so a value is read from before it. Where
    that fits the storage type, what an output's cast made of it counts.

    Raises:
        VerificationError: the model does not tell which tensor is a wanted value.
    """
    inside = cast("dict[str, str]", json.loads(_property(model, VALUES)))
    missing = [value.name for value in wanted if value.name not in inside]
    if missing:
        raise VerificationError("the check graph lacks a value", have=missing[0])
    read = onnx.ModelProto()
    read.CopyFrom(model)
    outputs = {output.name for output in model.graph.output}
    exact = dict.fromkeys(inside[value.name] for value in wanted)
    read.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.INT64, None)
        for name in exact
        if name not in outputs
    )
    session = ort.plain(read)
    found: list[dict[str, NDArray[np.int64]]] = []
    for feed in feeds:
        arrays = session.run(feed)
        found.append(
            {
                v.name: _seen(v, arrays[inside[v.name]], arrays.get(f"{_OUTPUT}{v.name}"))
                for v in wanted
            }
        )
    return found


def _seen(value: Value, exact: NDArray[Any], stored: NDArray[Any] | None) -> NDArray[np.int64]:
    if stored is None:
        return exact.astype(np.int64)
    storage = value.elem.storage
    fits = (exact >= storage.min) & (exact <= storage.max)
    return np.where(fits, stored.astype(np.int64), exact)


def _property(model: onnx.ModelProto, key: str) -> str:
    return next((p.value for p in model.metadata_props if p.key == key), "{}")
