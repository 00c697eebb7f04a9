"""Parts of a net that can be computed patch by patch, and how such a part becomes one node.

A stage leads from one map that alone is live to another such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from binpoint.ir.graph import Graph, Node
from binpoint.ir.op import IntegerOp
from binpoint.ops.copy import IntCopy
from binpoint.ops.halo import divisible
from binpoint.ops.patched import Patched, View
from binpoint.ops.requantize import Requantize


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the net between two maps that alone are live: names of values, nodes in order."""

    start: str
    end: str
    nodes: tuple[Node, ...]


def spans(graph: Graph) -> list[list[Span]]:
    """Runs of neighbouring spans all of whose nodes can be computed in parts."""
    nodes = [n for n in graph.nodes() if any(not _constant(graph, i) for i in n.inputs)]
    readers = {
        name: sum(name in n.inputs for n in nodes) + (name in graph.outputs)
        for name in (*graph.inputs, *(o for n in nodes for o in n.outputs))
    }
    live = set(graph.inputs)
    runs: list[list[Span]] = [[]]
    first, start = 0, graph.inputs[0] if len(live) == 1 else None
    for index, node in enumerate(nodes):
        for name in {n for n in node.inputs if n in readers}:
            readers[name] -= 1
        live |= set(node.outputs)
        live -= {name for name in live if readers[name] == 0}
        if len(live) != 1 or node.outputs[0] not in live or _feeds_rounding(graph, node):
            continue
        part = tuple(nodes[first : index + 1])
        if start is not None and all(divisible(graph, n) for n in part):
            runs[-1].append(Span(start, node.outputs[0], part))
        elif runs[-1]:
            runs.append([])
        start, first = node.outputs[0], index + 1
    return [run for run in runs if run]


def _constant(graph: Graph, name: str) -> bool:
    return graph.value(name).constant is not None


def _feeds_rounding(graph: Graph, node: Node) -> bool:
    """Whether the result is sums that are requantized as they come, and so no map in memory."""
    assert isinstance(node.op, IntegerOp)
    reader = graph.sole_consumer(node.outputs[0])
    return node.op.accumulates and reader is not None and isinstance(reader.op, Requantize)


def joined(run: Sequence[Span]) -> Span:
    """Neighbouring spans as one."""
    return Span(run[0].start, run[-1].end, tuple(n for span in run for n in span.nodes))


def body_of(graph: Graph, span: Span) -> Graph:
    """The stage as a graph of its own."""
    body = Graph(graph.name)
    body.inputs, body.outputs = (span.start,), (span.end,)
    start = graph.value(span.start)
    _ = body.add_value(replace(start, bounds=start.interval))
    for node in span.nodes:
        for value in graph.arguments(node):
            if value.constant is not None and not body.has_value(value.name):
                _ = body.add_value(value)
        _ = body.add(node, graph.results(node))
    return body


def put(graph: Graph, span: Span, bodies: tuple[Graph, ...], extents: tuple[int, ...]) -> Node:
    """Replace the stage by a `Patched` node; a copy that only brings its operand into order goes.

    `graph` is edited.
    """
    result = graph.value(span.end)
    origin = span.nodes[0].origin
    for node in span.nodes[1:]:
        origin += node.origin
    for node in reversed(span.nodes):
        graph.remove(node.name)
        for name in (*node.inputs, *node.outputs):
            if name not in (span.start, span.end) and _unused(graph, name):
                graph.drop_value(name)
    source, view = view_of(graph, span.start)
    copy = graph.producer(span.start)
    if copy is not None and source != span.start and not graph.consumers(span.start):
        graph.remove(copy.name)
        graph.drop_value(span.start)
    op = Patched(bodies, extents, view)
    node = Node(graph.fresh(f"{result.name}_patches"), op, (source,), (result.name,), origin)
    graph.set_producer(node)
    (bounds,) = op.bounds(graph.value(source))
    graph.set_value(replace(result, bounds=bounds))
    return node


def _unused(graph: Graph, name: str) -> bool:
    if not graph.has_value(name) or name in graph.outputs or name in graph.inputs:
        return False
    return not graph.consumers(name) and graph.producer(name) is None


def view_of(graph: Graph, name: str) -> tuple[str, View]:
    """What a stage that starts at this map reads: the map, or in its place what a copy reads."""
    value = graph.value(name)
    copy = graph.producer(name)
    dense = View.dense(value.shape)
    if copy is None or not isinstance(copy.op, IntCopy) or name in graph.outputs:
        return name, dense
    view = View.of(copy.op.indices.reshape(value.shape[1:]))
    return (name, dense) if view is None else (copy.inputs[0], view)
