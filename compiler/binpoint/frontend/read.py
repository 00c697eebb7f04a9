"""Read an ONNX file: parse, check, inline, order. What comes out is safe to walk."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import helper, inliner, shape_inference

from binpoint.errors import (
    DynamicShape,
    InputNotFound,
    InvalidModel,
    UnsupportedOperator,
)
from binpoint.frontend.tensors import load_external, tensors_of

_OLDEST_OPSET = 7
_LARGEST = 2**28
"""Elements of a tensor at most: far more than a device holds, and passes still fit a computer."""
_WRITTEN_OUT = ("CenterCropPad", "RotaryEmbedding", "Swish")
"""Operators that are read as the function of others by which ONNX defines them."""
_CONTROL_FLOW = frozenset({"Loop", "Scan", "SequenceMap"})


def read_model(path: Path) -> tuple[onnx.ModelProto, str]:
    """Return the model with local functions inlined, and the SHA-256 of its file.

    Raises:
        InputNotFound: the file cannot be read.
        InvalidModel: it is no ONNX model, or its graph is not well formed.
        ExternalDataError: external data is missing or lies outside the model's folder.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputNotFound(
            "the model cannot be read", at=str(path), have=error.strerror
        ) from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except (DecodeError, ValueError) as error:
        raise InvalidModel(
            "the file is no ONNX model", at=str(path), hint="it may be truncated"
        ) from error
    if not model.graph.node and not model.graph.output:
        raise InvalidModel(
            "the file holds no graph", at=str(path), hint="it may be truncated, or no ONNX file"
        )
    load_external(tensors_of(model), path.parent)
    return _inlined(model), hashlib.sha256(content).hexdigest()


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without local functions, and without operators that stand for others."""
    try:
        if model.functions:
            model = inliner.inline_local_functions(model)
        if any(_stands_for_others(node) for node in model.graph.node):
            calls = [("", name) for name in _WRITTEN_OUT]
            typed = shape_inference.infer_shapes(model)
            typed.graph.value_info.extend(
                helper.make_tensor_value_info(t.name, t.data_type, t.dims)
                for t in model.graph.initializer
            )
            model = inliner.inline_selected_functions(typed, calls, inline_schema_functions=True)
    except Exception as error:  # onnx raises its own types, made at run time
        raise InvalidModel(
            "a function of the model cannot be put in place of its calls", have=first_line(error)
        ) from error
    return model


def _stands_for_others(node: onnx.NodeProto) -> bool:
    return node.op_type in _WRITTEN_OUT and node.domain in ("", "ai.onnx")


def first_line(error: Exception) -> str:
    """What an exception says, or its type if it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def static_shape(info: onnx.ValueInfoProto) -> tuple[int, ...]:
    """The shape of an input; a symbolic first axis is the batch and becomes 1.

    Raises:
        DynamicShape: another axis is symbolic, or the rank is unknown.
    """
    kind = info.type.tensor_type
    if not info.type.HasField("tensor_type") or not kind.HasField("shape"):
        raise DynamicShape(
            f"the input `{info.name}` has no static shape", hint="export with fixed shapes"
        )
    shape: list[int] = []
    for index, dim in enumerate(kind.shape.dim):
        size = dim.dim_value if dim.HasField("dim_value") else -1
        if size == 0:
            raise InvalidModel(f"axis {index} of the input `{info.name}` is empty")
        if size < 0 and index > 0:
            raise DynamicShape(
                f"axis {index} of the input `{info.name}` is dynamic",
                have=f"{dim.dim_param or (size if dim.HasField('dim_value') else 'unknown')}",
                want="a number",
                hint="export with fixed shapes, or use onnx.tools.update_model_dims",
            )
        shape.append(size if size > 0 else 1)
    check_size(tuple(shape), info.name)
    return tuple(shape)


def check_size(shape: Sequence[int], name: str) -> None:
    """Refuse a tensor that no device could hold.

    Raises:
        InvalidModel: it is too large.
    """
    if math.prod(shape) > _LARGEST:
        raise InvalidModel(
            f"the tensor `{name}` is too large", have=str(list(shape)), want=f"{_LARGEST} elements"
        )


def opsets_of(model: onnx.ModelProto) -> Mapping[str, int]:
    """Version of each operator domain."""
    opsets = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import}
    version = opsets.setdefault("", 1)
    newest = onnx.defs.onnx_opset_version()
    if not _OLDEST_OPSET <= version <= newest:
        raise UnsupportedOperator(
            f"operator set {version} is not read",
            want=f"{_OLDEST_OPSET} to {newest}",
            hint="convert the model with onnx.version_converter",
        )
    return opsets


def ordered_nodes(graph: onnx.GraphProto, known: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes so that each comes after what it reads; the file's order where that is one already.

    Raises:
        InvalidModel: a value is computed twice, read and never computed, or part of a cycle.
    """
    available = {*known, ""}
    _distinct(graph)
    producers: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        _check_text(node.name, node.op_type, node.domain, *node.input, *node.output)
        if node.op_type in _CONTROL_FLOW and node.domain in ("", "ai.onnx"):
            raise control_flow(node)
        for name in node.output:
            if name and (name in producers or name in available):
                raise InvalidModel(f"the value `{name}` is computed twice", at=node.name)
            if name:
                producers[name] = index
    for node in graph.node:
        for name in names_read(node):
            if name not in available and name not in producers:
                raise InvalidModel(
                    f"the value `{name}` is read and never computed",
                    at=node.name or node.op_type,
                    hint="an initializer may be missing",
                )
    return _sorted(list(graph.node), available)


def control_flow(node: onnx.NodeProto) -> UnsupportedOperator:
    """The error of an operator that decides at run time what is computed."""
    return UnsupportedOperator(
        f"`{node.op_type}`: control flow has no place in firmware of fixed shape",
        at=node.name,
        hint="export without loops or branches",
    )


def names_read(node: onnx.NodeProto) -> tuple[str, ...]:
    """What a node reads, by its operands and inside the graphs of its attributes."""
    names = dict.fromkeys(node.input)
    for graph in (a.g for a in node.attribute if a.HasField("g")):
        inside = {t.name for t in graph.initializer} | {i.name for i in graph.input}
        for inner in graph.node:
            names.update(dict.fromkeys(n for n in names_read(inner) if n not in inside))
            inside.update(inner.output)
        names.update(dict.fromkeys(o.name for o in graph.output if o.name not in inside))
    return tuple(names)


def _distinct(graph: onnx.GraphProto) -> None:
    """Refuse inputs or initializers without a name, or with one that is taken."""
    for kind, items in (
        ("input", graph.input),
        ("initializer", graph.initializer),
    ):
        taken: set[str] = set()
        for item in items:
            _check_text(item.name)
            if not item.name:
                raise InvalidModel(f"an {kind} has no name")
            if item.name in taken:
                raise InvalidModel(f"the {kind} `{item.name}` is there twice")
            taken.add(item.name)


def _check_text(*words: object) -> None:
    """Refuse names that are no UTF-8: the parser gives their bytes."""
    for word in words:
        if isinstance(word, bytes):
            raise InvalidModel("a name is no text", have=repr(word))


def _sorted(nodes: list[onnx.NodeProto], available: set[str]) -> list[onnx.NodeProto]:
    order: list[onnx.NodeProto] = []
    while nodes:
        later: list[onnx.NodeProto] = []
        for node in nodes:
            if all(name in available for name in names_read(node)):
                order.append(node)
                available.update(node.output)
            else:
                later.append(node)
        if len(later) == len(nodes):
            raise InvalidModel(
                "the graph has a cycle", at=", ".join(n.name or n.op_type for n in nodes[:3])
            )
        nodes = later
    return order
