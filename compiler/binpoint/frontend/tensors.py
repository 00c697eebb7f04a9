"""Tensors stored in an ONNX file, or in a file beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from binpoint.errors import ExternalDataError, InvalidConstant, InvalidModel, UnsupportedOperator

REAL = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
"""Types of real numbers."""

_BITS: Mapping[int, int] = MappingProxyType(
    {
        TensorProto.FLOAT: 32,
        TensorProto.FLOAT16: 16,
        TensorProto.BFLOAT16: 16,
        TensorProto.DOUBLE: 64,
        TensorProto.BOOL: 8,
        TensorProto.INT2: 2,
        TensorProto.UINT2: 2,
        TensorProto.INT4: 4,
        TensorProto.UINT4: 4,
        TensorProto.INT8: 8,
        TensorProto.UINT8: 8,
        TensorProto.INT16: 16,
        TensorProto.UINT16: 16,
        TensorProto.INT32: 32,
        TensorProto.UINT32: 32,
        TensorProto.INT64: 64,
        TensorProto.UINT64: 64,
    }
)
"""Bits of an element in a file, of the types that are read."""


def tensors_of(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor stored in the file: initializers, and attributes of nodes."""
    if model.graph.sparse_initializer:
        names = ", ".join(t.values.name for t in model.graph.sparse_initializer)
        raise UnsupportedOperator(
            "sparse initializers are not read", have=names, hint="store them as dense tensors"
        )
    yield from model.graph.initializer
    for nodes in (model.graph.node, *(f.node for f in model.functions)):
        for attribute in (a for node in nodes for a in node.attribute):
            yield from (attribute.t, *attribute.tensors)


def load_external(tensors: Iterable[TensorProto], folder: Path) -> None:
    """Load what is stored outside of the file, only from inside `folder`.

    Raises:
        ExternalDataError: a file is missing, too short or outside; or its place makes no sense.
    """
    for tensor in tensors:
        if tensor.data_location == TensorProto.EXTERNAL:
            _load(tensor, folder)


def _load(tensor: TensorProto, folder: Path) -> None:
    info = {entry.key: entry.value for entry in tensor.external_data}
    location = info.get("location", "")
    place = _inside(folder, location, tensor.name)
    if not place.is_file():
        raise ExternalDataError(f"external data of `{tensor.name}` is missing", at=location)
    needed = _bytes_of(tensor)
    offset, length = _number(info, "offset", 0, tensor), _number(info, "length", needed, tensor)
    if length != needed:
        raise ExternalDataError(
            f"external data of `{tensor.name}` has another length than its shape asks for",
            at=location,
            have=f"{length} bytes",
            want=f"{needed} bytes",
        )
    size = place.stat().st_size
    if size < offset + needed:
        raise ExternalDataError(
            f"external data of `{tensor.name}` is too short",
            at=location,
            have=f"{size} bytes",
            want=f"{offset + needed} bytes",
        )
    with place.open("rb") as file:
        file.seek(offset)
        tensor.raw_data = file.read(needed)
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def _inside(folder: Path, location: str, name: str) -> Path:
    """The file at a location, links followed, if it lies inside the folder."""
    try:
        place = (folder / location).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise ExternalDataError(
            f"external data of `{name}` has an impossible location", have=location
        ) from error
    if Path(location).is_absolute() or not place.is_relative_to(folder.resolve()):
        raise ExternalDataError(
            f"external data of `{name}` lies outside the model's folder",
            have=location,
            want="a path inside it",
        )
    return place


def _number(info: Mapping[str, str], key: str, default: int, tensor: TensorProto) -> int:
    text = info.get(key, str(default))
    if not (text.isascii() and text.isdigit()):
        raise ExternalDataError(
            f"external data of `{tensor.name}` has an impossible {key}", have=text
        )
    return int(text)


def _bytes_of(tensor: TensorProto) -> int:
    """Bytes of a tensor's elements, packed where several share a byte."""
    if any(d < 0 for d in tensor.dims):
        raise InvalidModel(f"the tensor `{tensor.name}` has a negative dimension")
    if tensor.data_type not in _BITS:
        raise InvalidModel(
            f"the tensor `{tensor.name}` is of a type that is not read",
            have=type_name(tensor.data_type),
        )
    return -(-math.prod(tensor.dims) * _BITS[tensor.data_type] // 8)


def type_name(code: int) -> str:
    """The name of a tensor type, or its number where it has none."""
    known = code in TensorProto.DataType.values()
    return TensorProto.DataType.Name(code) if known else str(code)


def is_sound(array: NDArray[Any], *, masks: bool) -> bool:
    """Whether real numbers are finite, or with `masks` −∞."""
    fine = np.isfinite(array)
    return bool((fine | (array == -np.inf) if masks else fine).all())


def array_of(tensor: TensorProto, name: str, *, masks: bool = False) -> NDArray[Any]:
    """The array of a tensor, checked for size and for NaN and infinity.

    Half precision is widened. With `masks`, −∞ is let through, for what reads it to judge.
    """
    _bytes_of(tensor)
    try:
        array = numpy_helper.to_array(tensor)
    except Exception as error:
        raise InvalidModel(
            f"the tensor `{name}` cannot be read",
            have=f"{list(tensor.dims)}, {len(tensor.raw_data)} bytes present",
        ) from error
    if array.dtype.kind == "f" or array.dtype.name in ("bfloat16", "float16"):
        array = array.astype(np.float32) if array.dtype.itemsize < 4 else array
        if not is_sound(array, masks=masks):
            raise InvalidConstant(
                f"the constant `{name}` holds NaN or infinity",
                hint="the training may have diverged",
            )
    elif array.dtype.name in ("int4", "int2"):
        array = array.astype(np.int8)
    elif array.dtype.name in ("uint4", "uint2"):
        array = array.astype(np.uint8)
    return array
