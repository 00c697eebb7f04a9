"""Models as exporters write them, kept as text: every operator and small constant, no weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper, parser, printer

FOLDER = Path(__file__).parent / "frontend" / "exported"
NAMES = ("encoder_legacy", "encoder_dynamo", "causal_legacy", "causal_dynamo")
"""What each of torch's exporters writes; `python -m tests.training.encoders` does it again."""
_FEW = 16


def text_of(model: onnx.ModelProto) -> str:
    """The text of a model, with weights as inputs, without names of nodes and notes."""
    graph = model.graph
    for array in [a for a in graph.initializer if _is_weight(a)]:
        graph.initializer.remove(array)
        graph.input.append(helper.make_tensor_value_info(array.name, array.data_type, array.dims))
    for part in (model, graph, *graph.node, *graph.input, *graph.output):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    for node in graph.node:
        node.ClearField("name")
    for field in ("producer_version", "functions"):
        model.ClearField(field)
    graph.ClearField("value_info")
    return "\n".join(line.rstrip() for line in printer.to_text(model).splitlines()) + "\n"


def _is_weight(array: onnx.TensorProto) -> bool:
    values = numpy_helper.to_array(array)
    return values.dtype.kind == "f" and values.size > _FEW and np.unique(values).size > 2


def exported(name: str, rng: np.random.Generator) -> onnx.ModelProto:
    """A model of `FOLDER` with random weights; its one input is ``x``."""
    model = parser.parse_model((FOLDER / f"{name}.txt").read_text(encoding="utf-8"))
    for value in [v for v in model.graph.input if v.name != "x"]:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        weights = rng.normal(0, 0.3, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weights, value.name))
        model.graph.input.remove(value)
    return model
