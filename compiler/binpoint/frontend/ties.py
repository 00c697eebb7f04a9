"""How channels of one value become channels of another: what `remove-channels` needs of each op."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from binpoint.frontend.linear import linear_of
from binpoint.ir.graph import Graph, Node, Value
from binpoint.ir.op import FloatOp
from binpoint.ops.affine import Affine
from binpoint.ops.concat import Concat
from binpoint.ops.conv import Conv
from binpoint.ops.elementwise import Binary, MinMax
from binpoint.ops.pad import Pad
from binpoint.ops.pool import AveragePool, MaxPool
from binpoint.ops.prelu import PRelu
from binpoint.ops.reduce import Reduce, ReduceExtreme
from binpoint.ops.resize import Resize
from binpoint.ops.shape import Reshape, Transpose
from binpoint.ops.slices import Take

Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Link:
    """Channels `source` of an operand are what channels `target` of the result are made of."""

    operand: int
    source: Index
    target: Index


def channels(value: Value) -> int:
    """Elements on the last axis; one for a scalar."""
    return value.shape[-1] if value.shape else 1


def is_depthwise(graph: Graph, node: Node) -> bool:
    """Whether each output channel of a convolution is made of one input channel."""
    if not isinstance(node.op, Conv) or linear_of(graph, node) is None:
        return False
    return 1 < node.op.groups == channels(graph.arguments(node)[0])


def is_mixing(graph: Graph, node: Node) -> bool:
    """Whether a node is a linear op, each output channel of which reads all input channels."""
    linear = linear_of(graph, node)
    return linear is not None and getattr(linear.op, "groups", 1) == 1


def links(graph: Graph, node: Node) -> tuple[Link, ...] | None:
    """The links of a node that keeps channels apart; None for one that does not."""
    arguments, results = graph.arguments(node), graph.results(node)
    if len(results) != 1 or not isinstance(node.op, FloatOp):
        return None
    count = channels(results[0])
    every = np.arange(count)
    match node.op:
        case Conv() if is_depthwise(graph, node):
            size = channels(arguments[0])
            return (Link(0, np.repeat(np.arange(size), count // size), every),)
        case Concat(axis) if axis == len(results[0].shape) - 1:
            return _joined(arguments)
        case Take(maps):
            return (Link(0, np.array(maps[-1], np.int64), every),)
        case Reshape(shape) if shape and arguments[0].shape:
            return _reshaped(channels(arguments[0]), count)
        case Transpose(order) if order[-1] != len(order) - 1:
            return None
        case Pad(before, after) if before[-1] or after[-1]:
            return None
        case Reduce(axes) | ReduceExtreme(axes) if len(results[0].shape) - 1 in axes:
            return None
        case (
            Affine() | AveragePool() | Binary() | Concat() | MaxPool() | MinMax() | Pad()
            | PRelu() | Reduce() | ReduceExtreme() | Resize() | Transpose()
        ):  # fmt: skip
            return _alike(arguments, every)
        case _:
            return _alike(arguments, every) if node.op.elementwise else None


def _alike(arguments: tuple[Value, ...], every: Index) -> tuple[Link, ...]:
    """Links of operands with as many channels; the others are repeated along all."""
    return tuple(
        Link(i, every, every) for i, v in enumerate(arguments) if channels(v) == len(every)
    )


def _joined(arguments: tuple[Value, ...]) -> tuple[Link, ...]:
    found: list[Link] = []
    start = 0
    for index, value in enumerate(arguments):
        own = np.arange(channels(value))
        found.append(Link(index, own, own + start))
        start += len(own)
    return tuple(found)


def _reshaped(source: int, target: int) -> tuple[Link, ...] | None:
    """Channels of a flattening or of its reverse repeat with the smaller period."""
    if 0 in (source, target) or max(source, target) % min(source, target):
        return None
    most = np.arange(max(source, target))
    return (Link(0, most % source, most % target),)


@dataclass(slots=True)
class Ties:
    """Which channels of which values must go together, or not at all."""

    start: dict[str, int]
    parent: list[int]
    pinned: set[int] = field(default_factory=set[int])

    @classmethod
    def of(cls, graph: Graph) -> Ties:
        """Tie linked channels; pin those of inputs, outputs and values that other ops read."""
        start: dict[str, int] = {}
        total = 0
        for value in graph.values():
            if value.constant is None:
                start[value.name] = total
                total += channels(value)
        ties = cls(start, list(range(total)))
        for value in graph.values():
            per_channel = value.fixed is not None and value.fixed.axis is not None
            if per_channel or value.name in (*graph.inputs, *graph.outputs):
                ties.pin(value)
        for node in graph.nodes():
            ties._add(graph, node)
        ties.pinned = {ties.find(element) for element in ties.pinned}
        return ties

    def _add(self, graph: Graph, node: Node) -> None:
        if is_mixing(graph, node):
            return
        found = links(graph, node)
        linked = {link.operand for link in found or ()}
        for index, value in enumerate(graph.arguments(node)):
            if value.constant is None and index not in linked:
                self.pin(value)
        if found is None:
            for value in graph.results(node):
                self.pin(value)
            return
        (result,) = graph.results(node)
        for link in found:
            operand = graph.arguments(node)[link.operand]
            if operand.constant is not None:
                if isinstance(node.op, Concat):
                    self.pinned.add(self.start[result.name] + int(link.target[0]))
            else:
                self._tie(operand.name, link.source, result.name, link.target)

    def _tie(self, a: str, source: Index, b: str, target: Index) -> None:
        first, second = self.start[a], self.start[b]
        for i, j in zip(source.tolist(), target.tolist(), strict=True):
            x, y = self.find(first + i), self.find(second + j)
            self.parent[max(x, y)] = min(x, y)

    def pin(self, value: Value) -> None:
        """Keep all channels of a value."""
        if value.constant is None:
            first = self.start[value.name]
            self.pinned.update(range(first, first + channels(value)))

    def find(self, element: int) -> int:
        """The first of all elements tied to this one."""
        root = element
        while self.parent[root] != root:
            root = self.parent[root]
        while self.parent[element] != root:
            self.parent[element], element = root, self.parent[element]
        return root

    def classes(self, value: Value) -> Index:
        """The class of each channel of a value, ``[C]``."""
        first = self.start[value.name]
        return np.array([self.find(first + i) for i in range(channels(value))], np.int64)
