"""Selections of elements by constant indices: Slice, Split, Gather, Expand, Tile, DepthToSpace.

All but the last are one op, `Take`: an index map per axis. Maps that are affine in nested loops
become an `IntCopy`; any other axis becomes an `IntGather` with a table of indices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from binpoint.errors import NoIntegerForm
from binpoint.ir.build import GraphBuilder
from binpoint.ir.constant import Constant
from binpoint.ir.graph import Value
from binpoint.ir.kernel import Buffer, KernelCall, Number, Table, Work
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import FloatArray, FloatOp, IntArray, IntegerOp, Permuted, Site
from binpoint.numeric.fixed import I32, FixedType, FloatType, TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.copy import MOST_AXES, IntCopy, row_major
from binpoint.ops.shape import (
    finish_moved,
    reshape_value,
    to_channel_first,
    to_channel_last,
    transpose_value,
)

IndexMap = range | tuple[int, ...]
"""Which element of an axis each element of the result's axis is; progressions are ranges."""


@dataclass(frozen=True, slots=True)
class Progression:
    """``offset + Σ i_j·strides_j`` over the nested axes `sizes`, the last one fastest."""

    offset: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, indices: Sequence[int]) -> Progression | None:
        """The nested progression that lists `indices`, or None if they are irregular."""
        index = np.asarray(indices, np.int64)
        sizes: list[int] = []
        strides: list[int] = []
        while index.size > 1:
            run = _first_run(index)
            blocks = index.reshape(-1, run) if index.size % run == 0 else None
            if run < 2 or blocks is None or (blocks - blocks[:, :1] != blocks[0] - index[0]).any():
                return None
            sizes.insert(0, run)
            strides.insert(0, int(index[1] - index[0]))
            index = blocks[:, 0]
        return cls(int(index[0]), tuple(sizes), tuple(strides))


def _first_run(index: IntArray) -> int:
    """Length of the arithmetic progression that the indices start with."""
    steps = np.diff(index)
    breaks = np.flatnonzero(steps != steps[0])
    return int(breaks[0]) + 1 if breaks.size else index.size


def index_map(indices: Sequence[int]) -> IndexMap:
    """Indices in canonical form."""
    if isinstance(indices, range):
        return indices
    listed = tuple(int(i) for i in indices)
    if len(listed) == 1:
        return range(listed[0], listed[0] + 1)
    step = listed[1] - listed[0]
    if step == 0 or _first_run(np.array(listed, np.int64)) < len(listed):
        return listed
    return range(listed[0], listed[-1] + (1 if step > 0 else -1), step)


def take_value(build: GraphBuilder, x: Value, maps: Sequence[Sequence[int]]) -> Value:
    """The elements of `x` at the indices given for each axis."""
    chosen = tuple(index_map(indices) for indices in maps)
    if all(m == range(n) for m, n in zip(chosen, x.shape, strict=True)):
        return x
    return build.one(Take(chosen), x)


@dataclass(frozen=True, slots=True)
class Take(FloatOp):
    """y[i, j, …] = x[maps[0][i], maps[1][j], …]."""

    onnx: ClassVar[tuple[str, ...]] = (
        "Slice",
        "Split",
        "Expand",
        "Tile",
        "DepthToSpace",
        "SpaceToDepth",
    )
    keeps_type: ClassVar[bool] = True

    maps: tuple[IndexMap, ...]

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """Each operator as index maps; blocks of depth as a transposition of split axes."""
        match node.proto.op_type:
            case "Slice":
                return (take_value(build, node.operand(0), _sliced(node)),)
            case "Split":
                return _split(node, build)
            case "Expand":
                return (_expanded(node, build),)
            case "Tile":
                return (take_value(build, node.operand(0), _tiled(node)),)
            case _:
                return (_blocks(node, build),)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The lengths of the maps."""
        shape = inputs[0].shape
        assert len(shape) == len(self.maps), f"{len(self.maps)} maps for {shape}"
        assert all(min(m) >= 0 and max(m) < n for m, n in zip(self.maps, shape, strict=True))
        return (TensorType(tuple(len(m) for m in self.maps), FloatType()),)

    def permuted(self, order: tuple[int, ...], *inputs: Value) -> Permuted | None:
        """Maps in the new order."""
        return Permuted(Take(tuple(self.maps[axis] for axis in order)), order)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """Indexing by an open mesh."""
        return (inputs[0][np.ix_(*self.maps)],)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """One copy for all regular axes, then one gather for each irregular axis."""
        x = build.integer(site.inputs[0])
        if x.elem.axis is not None:
            raise NoIntegerForm("a selection of elements with a scale per channel", at=site.name)
        return (finish_moved(site, build, taken(build, x, self.maps)),)


def taken(build: GraphBuilder, x: Value, maps: Sequence[IndexMap]) -> Value:
    """Integer ops that select the elements of an integer value at the indices of each axis."""
    regular = [Progression.of(m) for m in maps]
    copied = [
        m if p is not None else range(n) for m, p, n in zip(maps, regular, x.shape, strict=True)
    ]
    for part in _copies(x.shape, copied):
        op = _copy(x, part)
        x = build.one(op, x)
    for axis, (indices, progression) in enumerate(zip(maps, regular, strict=True)):
        if progression is None:
            x = build.one(IntGather(axis, Constant(np.array(indices, np.int32)), x.elem), x)
    return x


def _copies(shape: tuple[int, ...], maps: Sequence[IndexMap]) -> list[list[IndexMap]]:
    """The maps as one copy, or axis by axis where a kernel has too few loops for all."""
    if all(m == range(n) for m, n in zip(maps, shape, strict=True)):
        return []
    axes = sum(len(p.sizes) for m in maps if (p := Progression.of(m)) is not None)
    if axes <= MOST_AXES:
        return [list(maps)]
    parts: list[list[IndexMap]] = []
    sizes = list(shape)
    for axis, indices in enumerate(maps):
        if indices != range(shape[axis]):
            parts.append([indices if i == axis else range(n) for i, n in enumerate(sizes)])
            sizes[axis] = len(indices)
    return parts


def _copy(x: Value, maps: Sequence[IndexMap]) -> IntCopy:
    """The copy of regular maps."""
    offset = 0
    sizes: list[int] = []
    strides: list[int] = []
    for step, indices in zip(row_major(x.shape), maps, strict=True):
        progression = Progression.of(indices)
        assert progression is not None, "an irregular map is no copy"
        offset += progression.offset * step
        sizes += progression.sizes
        strides += [stride * step for stride in progression.strides]
    return IntCopy.of([len(m) for m in maps], sizes, strides, offset, x.elem)


# ---- import


def _axis(node: OnnxNode, default: int, rank: int) -> int:
    axis = node.int("axis", default)
    if not -rank <= axis < rank:
        node.refuse(f"axis {axis} is outside rank {rank}")
    return axis % rank


def _integers(node: OnnxNode, name: str, operand: int) -> tuple[int, ...] | None:
    """Integers from an attribute (older opsets) or a constant operand; None if not given."""
    if node.attribute(name) is not None:
        return node.ints(name)
    if not node.has(operand):
        return None
    return tuple(int(v) for v in np.atleast_1d(node.array(operand)))


def _sliced(node: OnnxNode) -> list[range]:
    shape = node.operand(0).shape
    starts, ends = _integers(node, "starts", 1), _integers(node, "ends", 2)
    if starts is None or ends is None:
        node.refuse("starts or ends are missing", hint="the file is not valid ONNX")
    axes = _integers(node, "axes", 3) or tuple(range(len(starts)))
    steps = _integers(node, "steps", 4) or (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        node.refuse("starts, ends, axes and steps differ in length")
    maps = [range(n) for n in shape]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if not -len(shape) <= axis < len(shape) or step == 0:
            node.refuse(f"axis {axis} with step {step} on {list(shape)}")
        # ONNX clips starts and ends as Python does.
        maps[axis] = range(*slice(start, end, step).indices(shape[axis]))
        if not maps[axis]:
            node.refuse("the result is empty", have=f"{start}:{end}:{step} of {shape[axis]}")
    return maps


def _split(node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
    x = node.operand(0)
    axis = _axis(node, 0, len(x.shape))
    total, count = x.shape[axis], node.int("num_outputs", len(node.outputs))
    given = _integers(node, "split", 1)
    chunk = -(-total // count)
    sizes = given or tuple(min(chunk, total - i * chunk) for i in range(count))
    uneven = given is None and node.attribute("num_outputs") is None and total % count
    if uneven or sum(sizes) != total or min(sizes) < 1 or len(sizes) != len(node.outputs):
        node.refuse(f"{total} elements do not split into {list(sizes)}")
    results: list[Value] = []
    start = 0
    for size in sizes:
        maps = [
            range(start, start + size) if i == axis else range(n) for i, n in enumerate(x.shape)
        ]
        results.append(take_value(build, x, maps))
        start += size
    return tuple(results)


def gathered(node: OnnxNode, build: GraphBuilder) -> Value:
    """Elements at constant indices along an axis."""
    x = node.operand(0)
    axis = _axis(node, 0, len(x.shape))
    given = node.array(1)
    size = x.shape[axis]
    indices = given.reshape(-1).astype(np.int64)
    if indices.size == 0 or indices.min() < -size or indices.max() >= size:
        node.refuse(f"indices are empty or outside the axis of {size}")
    listed = [int(i) % size for i in indices]
    moved = take_value(build, x, [listed if i == axis else range(n) for i, n in enumerate(x.shape)])
    return reshape_value(build, moved, (*x.shape[:axis], *given.shape, *x.shape[axis + 1 :]))


def _expanded(node: OnnxNode, build: GraphBuilder) -> Value:
    x = node.operand(0)
    wanted = tuple(int(n) for n in np.atleast_1d(node.array(1)))
    try:
        shape = np.broadcast_shapes(x.shape, wanted)
    except ValueError:
        node.refuse(f"{list(x.shape)} does not broadcast to {list(wanted)}")
    if math.prod(shape) == 0:
        node.refuse("the result is empty")
    return expanded(build, x, shape)


def expanded(build: GraphBuilder, x: Value, shape: Sequence[int]) -> Value:
    """`x` repeated to `shape`, to which it broadcasts."""
    x = reshape_value(build, x, (1,) * (len(shape) - len(x.shape)) + x.shape)
    maps = [range(n) if n == m else (0,) * m for n, m in zip(x.shape, shape, strict=True)]
    return take_value(build, x, maps)


def _tiled(node: OnnxNode) -> list[IndexMap]:
    shape = node.operand(0).shape
    repeats = [int(n) for n in np.atleast_1d(node.array(1))]
    if len(repeats) != len(shape) or min(repeats, default=1) < 1:
        node.refuse(f"repeats {repeats} do not fit {list(shape)}")
    return [tuple(range(n)) * r for n, r in zip(shape, repeats, strict=True)]


def _blocks(node: OnnxNode, build: GraphBuilder) -> Value:
    """DepthToSpace and SpaceToDepth on ``[N, H, W, C]``, as a transposition of six axes."""
    x = node.operand(0)
    size = node.int("blocksize", 0)
    if len(x.shape) != 4 or size < 1:
        node.refuse(f"blocks of {size} on a tensor of shape {list(x.shape)}", want="four axes")
    batch, channels, height, width = x.shape
    last = to_channel_last(build, x)
    mode = node.string("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        node.refuse(f"mode `{mode}`", want="DCR or CRD")
    if node.proto.op_type == "SpaceToDepth":
        if height % size or width % size:
            node.refuse(f"{height}x{width} is not made of blocks of {size}")
        split = (batch, height // size, size, width // size, size, channels)
        order = (0, 1, 3, 2, 4, 5) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
        merged = (batch, split[1], split[3], channels * size * size)
    else:
        depth, rest = divmod(channels, size * size)
        if rest:
            node.refuse(f"{channels} channels in blocks of {size}")
        first = (size, size, depth) if mode == "DCR" else (depth, size, size)
        split = (batch, height, width, *first)
        order = (0, 1, 3, 2, 4, 5) if mode == "DCR" else (0, 1, 4, 2, 5, 3)
        merged = (batch, height * size, width * size, depth)
    moved = transpose_value(build, reshape_value(build, last, split), order)
    return to_channel_first(build, reshape_value(build, moved, merged))


# ---- integers


@dataclass(frozen=True, slots=True)
class IntGather(IntegerOp):
    """y[…, i, …] = x[…, indices[i], …] along one axis."""

    stem: ClassVar[str] = "gather"

    axis: int
    indices: Constant
    result: FixedType

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The axis takes the number of indices; the type stays."""
        shape = list(inputs[0].shape)
        index = self.indices.array
        assert index.min() >= 0, "an index leaves its axis"
        assert index.max() < shape[self.axis], "an index leaves its axis"
        shape[self.axis] = index.size
        return (TensorType(tuple(shape), self.result),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """The operand's."""
        return (inputs[0].interval,)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        return (np.take(inputs[0], self.indices.array, self.axis),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Gather."""
        return (w.take(inputs[0], self.indices.array.astype(np.int64), self.axis),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Rows of the axes after the gathered one, copied in the order of the indices."""
        (x,), (y,) = inputs, outputs
        arguments = (
            Buffer("x", x.name, x.elem.storage),
            Table("index", self.indices, I32),
            Buffer("y", y.name, y.elem.storage, written=True),
            Number("outer", math.prod(x.shape[: self.axis])),
            Number("size", x.shape[self.axis]),
            Number("count", self.indices.array.size),
            Number("inner", math.prod(x.shape[self.axis + 1 :])),
        )
        return KernelCall(self.stem, arguments, formula="y[o, i, j] = x[o, index[i], j]")

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """One load and one store an element."""
        size = outputs[0].type.size
        return Work(loads=size, stores=size)
