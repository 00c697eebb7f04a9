"""Elements at constant places: GatherElements, GatherND, ScatterElements, ScatterND.

Read as a selection from all elements in one row; what is scattered stands behind what it goes into.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import Reader
from binpoint.ops.concat import Concat
from binpoint.ops.shape import reshape_value
from binpoint.ops.slices import take_value

Places = NDArray[np.int64]


class Indexed(Reader):
    """y[i] = x[places[i]], or x with updates at places that are constants; read as selections."""

    onnx: ClassVar[tuple[str, ...]] = (
        "GatherElements",
        "GatherND",
        "ScatterElements",
        "ScatterND",
    )

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """Indices may count from the end."""
        x = node.operand(0)
        elementwise = node.op.endswith("Elements")
        places = _along(node, x) if elementwise else _tuples(node, x)
        if node.op.startswith("Gather"):
            return (_taken(build, x, places),)
        if node.string("reduction", "none") != "none":
            node.refuse("updates that are added, multiplied or compared", want='reduction="none"')
        return (_scattered(node, build, places),)


def _flat(build: GraphBuilder, x: Value) -> Value:
    return reshape_value(build, x, (x.type.size,))


def _taken(build: GraphBuilder, x: Value, places: Places) -> Value:
    """The elements of `x`, counted in row-major order, at the places."""
    taken = take_value(build, _flat(build, x), [places.reshape(-1).tolist()])
    return reshape_value(build, taken, places.shape)


def _scattered(node: OnnxNode, build: GraphBuilder, places: Places) -> Value:
    """Operand 0 with operand 2 at the places."""
    x, updates = node.operand(0), node.operand(2)
    size = x.type.size
    sources = np.arange(size)
    if updates.type.size != places.size:
        node.refuse(f"updates of shape {list(updates.shape)} for {list(places.shape)} places")
    sources[places.reshape(-1)] = size + np.arange(places.size)
    joined = build.one(Concat(0), _flat(build, x), _flat(build, updates))
    return reshape_value(build, take_value(build, joined, [sources.tolist()]), x.shape)


def _counted(node: OnnxNode, indices: NDArray[np.int64], size: int) -> Places:
    """Indices of an axis, counted from its start."""
    if indices.size and (indices.min() < -size or indices.max() >= size):
        node.refuse(f"indices outside the axis of {size}")
    return np.asarray(np.where(indices < 0, indices + size, indices), np.int64)


def _along(node: OnnxNode, x: Value) -> Places:
    """Places of all elements whose index along one axis is given."""
    indices = node.array(1).astype(np.int64)
    rank = len(x.shape)
    axis = node.int("axis", 0)
    if not -rank <= axis < rank or indices.ndim != rank or not indices.size:
        node.refuse(f"axis {axis} and indices {list(indices.shape)} do not fit {list(x.shape)}")
    axis %= rank
    mesh = np.indices(indices.shape)
    mesh[axis] = _counted(node, indices, x.shape[axis])
    if any(n > m for i, (n, m) in enumerate(zip(indices.shape, x.shape, strict=True)) if i != axis):
        node.refuse(f"indices {list(indices.shape)} do not fit {list(x.shape)}")
    return np.asarray(np.ravel_multi_index(tuple(mesh), x.shape), np.int64)


def _tuples(node: OnnxNode, x: Value) -> Places:
    """Places of all elements of the blocks at the indices given by the last axis."""
    indices = node.array(1).astype(np.int64)
    batches = node.int("batch_dims", 0)
    depth = indices.shape[-1] if indices.ndim else 0
    if not depth or not indices.size or batches + depth > len(x.shape) or batches >= indices.ndim:
        node.refuse(f"indices {list(indices.shape)} do not fit {list(x.shape)}")
    lead = x.shape[:batches]
    if indices.shape[:batches] != lead:
        node.refuse(f"indices {list(indices.shape)} do not fit {list(x.shape)}")
    sizes = x.shape[batches : batches + depth]
    columns = [_counted(node, indices[..., i], n) for i, n in enumerate(sizes)]
    blocks = np.ravel_multi_index(tuple(columns), sizes)
    batch = np.arange(math.prod(lead)).reshape(*lead, *(1,) * (blocks.ndim - batches))
    inner = x.shape[batches + depth :]
    start = (batch * math.prod(sizes) + blocks).astype(np.int64)
    inside = np.arange(math.prod(inner)).reshape(inner)
    places = start.reshape(*start.shape, *(1,) * len(inner)) * inside.size + inside
    return np.asarray(places, np.int64)
