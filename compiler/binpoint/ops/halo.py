"""Which part of an operand a part of a result needs, and the graph that computes a part.

For results ``[u, v]`` along an axis a window of kernel k, stride s, padding p and dilation d reads
the operand at ``[u·s − p, v·s − p + (k − 1)·d]``, clipped to the operand. What was clipped is the
padding of the part: so the padding of an inner layer is there at borders of the whole map only, and
a part computes exactly the whole map's integers (MCUNetV2, NeurIPS 2021, clipped at every layer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from binpoint.ir.graph import Graph, Node, Value
from binpoint.ir.kernel import Work
from binpoint.ir.op import IntegerOp
from binpoint.numeric.fixed import TensorType
from binpoint.ops.affine import IntChannelLookup
from binpoint.ops.broadcast import Broadcast
from binpoint.ops.concat import IntConcat
from binpoint.ops.conv import IntConv
from binpoint.ops.copy import IntCopy, row_major
from binpoint.ops.dense import IntDense
from binpoint.ops.lookup import IntLookup
from binpoint.ops.packed import IntPack, IntUnpack
from binpoint.ops.pairwise import IntAdd, IntMinMax, IntMul
from binpoint.ops.pooling import IntAverage, IntMaxPool, OnnxruntimeAverage
from binpoint.ops.prelu import IntPRelu
from binpoint.ops.requantize import Clamp, Requantize
from binpoint.ops.runtime_pair import OnnxruntimePair
from binpoint.ops.window import Window

Span = tuple[int, int]
"""The first and the last index along an axis."""
Region = tuple[Span, ...]
"""One span for each spatial axis of ``[N, *spatial, C]``."""


@dataclass(frozen=True, eq=False)
class Layers(IntegerOp):
    """An op that holds layers as a graph of one output: `ops/banded.py`."""

    body: Graph


_Windowed = IntConv | IntMaxPool | IntAverage | OnnxruntimeAverage
_Pair = IntAdd | IntMul | IntMinMax | OnnxruntimePair


def divisible(graph: Graph, node: Node) -> bool:
    """Whether parts of the node's result can be computed from parts of its operands."""
    if len(node.outputs) != 1:
        return False
    moving = [v for v in graph.arguments(node) if v.constant is None]
    (result,) = graph.results(node)
    maps = (*moving, result)
    if not moving or any(len(v.shape) not in (3, 4) or v.shape[0] != 1 for v in maps):
        return False
    if any(len(v.shape) != len(result.shape) for v in moving):
        return False
    match node.op:
        case IntAverage(edge=edge) | OnnxruntimeAverage(edge=edge):
            return edge is None
        case IntConcat(axis=axis):
            return axis == len(result.shape) - 1 and len(moving) == len(node.inputs)
        case IntConv() | IntMaxPool() | IntDense() | Requantize() | Clamp():
            return True
        case IntLookup() | IntChannelLookup() | IntPRelu() | IntPack() | IntUnpack():
            return True
        case Layers(body=body):
            return all(divisible(body, inner) for inner in body.nodes())
        case IntAdd() | IntMul() | IntMinMax() | OnnxruntimePair():
            fixed = [v for v in graph.arguments(node) if v.constant is not None]
            flat = all(v.type.size in (1, v.shape[-1]) for v in fixed)
            return flat and all(v.shape == result.shape for v in moving)
        case _:
            return False


def spatial(value: Value) -> tuple[int, ...]:
    """Sizes of the spatial axes."""
    return value.shape[1:-1]


def whole(value: Value) -> Region:
    """All of a map."""
    return tuple((0, n - 1) for n in spatial(value))


def sizes(region: Region) -> tuple[int, ...]:
    """Elements along each axis."""
    return tuple(last - first + 1 for first, last in region)


def slices(region: Region) -> tuple[slice, ...]:
    """The region of an array ``[N, *spatial, C]``."""
    return (slice(None), *(slice(first, last + 1) for first, last in region), slice(None))


def windowed(op: object) -> Window | None:
    """The window of an op that has one."""
    return op.window if isinstance(op, _Windowed) else None


def read_by(op: IntegerOp, region: Region, operand: Value) -> Region:
    """What of the operand this region of the result needs."""
    if isinstance(op, Layers):
        return regions(op.body, region)[operand.name]
    window = windowed(op)
    if window is None:
        return region
    rows = zip(region, window.strides, window.before, window.reach, spatial(operand), strict=True)
    return tuple((max(0, u * s - p), min(n - 1, v * s - p + r - 1)) for (u, v), s, p, r, n in rows)


def _clipped(window: Window, region: Region, size: Sequence[int]) -> Window:
    """The window on the part, whose padding is what lies outside the whole map."""
    rows = zip(region, window.strides, window.before, window.reach, size, strict=True)
    pads = [(max(0, p - u * s), max(0, v * s - p + r - n)) for (u, v), s, p, r, n in rows]
    before, after = zip(*pads, strict=True)
    return replace(window, before=tuple(before), after=tuple(after))


def _part_of(
    op: IntegerOp, region: Region, operands: Sequence[Value], size: Sequence[int]
) -> IntegerOp:
    """The op for a part: `operands` are parts already, `size` is that of the whole operand."""
    if isinstance(op, _Windowed):
        return replace(op, window=_clipped(op.window, region, size))
    if isinstance(op, Layers):
        return replace(op, body=cut(op.body, region))
    if isinstance(op, _Pair):
        a, b = operands
        return replace(op, axes=Broadcast.of(a.shape, b.shape))
    return op


def _wanted(op: IntegerOp, region: Region, operand: Value, *, rows: bool) -> Region:
    """What this region of the result needs, or all of the rows that it needs something of."""
    wanted = read_by(op, region, operand)
    return (wanted[0], *whole(operand)[1:]) if rows else wanted


def regions(body: Graph, region: Region, *, rows: bool = False) -> dict[str, Region]:
    """What is needed of every map, for a region of the only output: the hull of what is read.

    With `rows` these are whole rows, for a region that is whole rows.
    """
    needed = {body.outputs[0]: region}
    for node in reversed(body.nodes()):
        assert isinstance(node.op, IntegerOp)
        for value in body.arguments(node):
            if value.constant is None:
                wanted = _wanted(node.op, needed[node.outputs[0]], value, rows=rows)
                needed[value.name] = _hull(needed.get(value.name, wanted), wanted)
    return needed


def _hull(a: Region, b: Region) -> Region:
    pairs = zip(a, b, strict=True)
    return tuple((min(p[0], q[0]), max(p[1], q[1])) for p, q in pairs)


def cut(body: Graph, region: Region, *, rows: bool = False) -> Graph:
    """The graph that computes a region of the only output, from the regions of inputs it needs.

    Values keep names and proven ranges. A reader of less than what is there reads a crop.
    `rows` is as in `regions`.
    """
    needed = regions(body, region, rows=rows)
    part = Graph(body.name)
    part.inputs, part.outputs = body.inputs, body.outputs
    for value in body.values():
        if value.constant is not None:
            _ = part.add_value(value)
    for name in body.inputs:
        _ = part.add_value(_sized(body.value(name), needed[name]))
    for node in body.nodes():
        assert isinstance(node.op, IntegerOp)
        (result,) = body.results(node)
        size: tuple[int, ...] = ()
        inputs: list[str] = []
        for value in body.arguments(node):
            if value.constant is not None:
                inputs.append(value.name)
                continue
            size = spatial(value)
            wanted = _wanted(node.op, needed[result.name], value, rows=rows)
            inputs.append(_cropped(part, value.name, needed[value.name], wanted))
        operands = tuple(part.value(name) for name in inputs)
        op = _part_of(node.op, needed[result.name], operands, size)
        made = replace(node, op=op, inputs=tuple(inputs))
        _ = part.add(made, [_sized(result, needed[result.name])])
    return part


def _sized(value: Value, region: Region) -> Value:
    """The value's part: with its range, which holds for all of it."""
    shape = (1, *sizes(region), value.shape[-1])
    return replace(value, type=TensorType(shape, value.elem), bounds=value.interval)


def _cropped(part: Graph, name: str, have: Region, wanted: Region) -> str:
    """The value where just `wanted` of it is there."""
    if have == wanted:
        return name
    value = part.value(name)
    # By its place in what is there, so that patches which crop alike are alike.
    within = "_".join(f"{a - h}_{b - h}" for (a, b), (h, _) in zip(wanted, have, strict=True))
    crop = f"{name}_crop_{within}"
    if part.has_value(crop):
        return crop
    strides = row_major(value.shape)
    start = sum(
        (w[0] - h[0]) * step for w, h, step in zip(wanted, have, strides[1:-1], strict=True)
    )
    result = replace(_sized(value, wanted), name=crop, source="")
    op = IntCopy.of(result.shape, result.shape, strides, start, value.elem)
    _ = part.add(Node(f"{crop}_copy", op, (name,), (crop,)), [result])
    return crop


def work_of(graphs: Sequence[Graph]) -> Work:
    """The work of all nodes of integer graphs; notes once each."""
    works: list[Work] = []
    for graph in graphs:
        for node in graph.nodes():
            assert isinstance(node.op, IntegerOp)
            works.append(node.op.work(graph.arguments(node), graph.results(node)))
    return Work(
        macs=sum(work.macs for work in works),
        loads=sum(work.loads for work in works),
        stores=sum(work.stores for work in works),
        lookups=sum(work.lookups for work in works),
        notes=tuple(dict.fromkeys(note for work in works for note in work.notes)),
    )
