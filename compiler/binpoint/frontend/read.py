"""Read an ONNX file: parse, check, inline, order. What comes out is safe to walk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, external_data_helper, inliner, numpy_helper

from binpoint.errors import (
    DynamicShape,
    ExternalDataError,
    InputNotFound,
    InvalidConstant,
    InvalidModel,
    UnsupportedOperator,
)

_OLDEST_OPSET = 7
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})


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
    load_external(model, path.parent)
    if model.functions:
        model = inliner.inline_local_functions(model)
    return model, hashlib.sha256(content).hexdigest()


def load_external(model: onnx.ModelProto, folder: Path) -> None:
    """Load external tensors, only from inside `folder`."""
    for tensor in model.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        info = {entry.key: entry.value for entry in tensor.external_data}
        place = folder / info.get("location", "")
        if (
            not place.resolve().is_relative_to(folder.resolve())
            or Path(info.get("location", "")).is_absolute()
        ):
            raise ExternalDataError(
                f"external data of `{tensor.name}` lies outside the model's folder",
                have=info.get("location", ""),
                want="a path inside it",
            )
        if not place.is_file():
            raise ExternalDataError(
                f"external data of `{tensor.name}` is missing", at=info.get("location", "")
            )
        needed = _bytes_of(tensor)
        offset = int(info.get("offset", 0))
        if place.stat().st_size < offset + needed:
            raise ExternalDataError(
                f"external data of `{tensor.name}` is too short",
                at=info.get("location", ""),
                have=f"{place.stat().st_size} bytes",
                want=f"{offset + needed} bytes",
            )
        external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        tensor.data_location = TensorProto.DEFAULT


def _bytes_of(tensor: TensorProto) -> int:
    if any(d < 0 for d in tensor.dims):
        raise InvalidModel(f"initializer `{tensor.name}` has a negative dimension")
    kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    size = int(kind.itemsize)
    for dim in tensor.dims:
        size *= dim
    return size


def array_of(tensor: TensorProto, name: str) -> NDArray[Any]:
    """The array of a tensor, checked for size and for NaN and infinity.

    Half precision is widened.
    """
    try:
        array = numpy_helper.to_array(tensor)
    except Exception as error:
        raise InvalidModel(
            f"the tensor `{name}` cannot be read",
            have=f"{list(tensor.dims)}, {len(tensor.raw_data)} bytes present",
        ) from error
    if array.dtype.kind == "f" or array.dtype.name in ("bfloat16", "float16"):
        array = array.astype(np.float32) if array.dtype.itemsize < 4 else array
        if not np.isfinite(array).all():
            raise InvalidConstant(
                f"the constant `{name}` holds NaN or infinity",
                hint="the training may have diverged",
            )
    elif array.dtype.name in ("int4", "int2"):
        array = array.astype(np.int8)
    elif array.dtype.name in ("uint4", "uint2"):
        array = array.astype(np.uint8)
    return array


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
        if dim.HasField("dim_value") and dim.dim_value > 0:
            shape.append(dim.dim_value)
        elif index == 0:
            shape.append(1)
        else:
            raise DynamicShape(
                f"axis {index} of the input `{info.name}` is dynamic",
                have=dim.dim_param
                or (str(dim.dim_value) if dim.HasField("dim_value") else "unknown"),
                want="a number",
                hint="export with fixed shapes, or use onnx.tools.update_model_dims",
            )
    if len(kind.shape.dim) and shape[0] != 1 and not kind.shape.dim[0].HasField("dim_value"):
        shape[0] = 1
    return tuple(shape)


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
    producers: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        if node.op_type in _CONTROL_FLOW and node.domain in ("", "ai.onnx"):
            raise UnsupportedOperator(
                f"`{node.op_type}`: control flow has no place in firmware of fixed shape",
                at=node.name,
                hint="export without loops or branches",
            )
        for name in node.output:
            if name and (name in producers or name in available):
                raise InvalidModel(f"the value `{name}` is computed twice", at=node.name)
            if name:
                producers[name] = index
    for node in graph.node:
        for name in node.input:
            if name not in available and name not in producers:
                raise InvalidModel(
                    f"the value `{name}` is read and never computed",
                    at=node.name or node.op_type,
                    hint="an initializer may be missing",
                )
    return _sorted(list(graph.node), available)


def _sorted(nodes: list[onnx.NodeProto], available: set[str]) -> list[onnx.NodeProto]:
    order: list[onnx.NodeProto] = []
    while nodes:
        later: list[onnx.NodeProto] = []
        for node in nodes:
            if all(name in available for name in node.input):
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
