"""Edits of the float graph that several passes share. All mind the types given to values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from binpoint.ir.graph import Graph, Node, Value
from binpoint.numeric.fixed import FixedType


def until_settled(graph: Graph, visit: Callable[[Graph, Node], bool]) -> None:
    """Visit all nodes in order, those that visits add included, until none reports a change."""
    changed = True
    while changed:
        changed = False
        for node in graph.nodes():
            if graph.has_node(node.name) and visit(graph, graph.node(node.name)):
                changed = True


def bypass_move(graph: Graph, node: Node) -> bool:
    """Let readers of a node that moves nothing read its operand; returns whether that was possible.

    It is not where the node changes the type, or where it alone keeps two borders of the graph
    apart.
    """
    (result,), operand = graph.results(node), graph.arguments(node)[0]
    if result.fixed is not None and result.fixed != operand.fixed:
        return False
    if result.name in graph.outputs:
        borders = (*graph.inputs, *graph.outputs)
        if operand.constant is not None or operand.name in borders:
            return False
        graph.set_value(replace(operand, source=result.source or operand.source))
    graph.bypass(node, operand.name)
    return True


def joined_type(start: Value, middle: Value, end: Value) -> tuple[FixedType | None] | None:
    """The type of the result of two moves in a row that become one; None if it takes two roundings.

    The moves read `start`, give `middle`, then `end`; the type may be none, hence the tuple.
    """
    if middle.fixed is None or middle.fixed == start.fixed:
        return (end.fixed,)
    if end.fixed is None or end.fixed == middle.fixed:
        return (middle.fixed,)
    return None


def drop_unread(graph: Graph, *names: str) -> None:
    """Remove values that nobody reads with the nodes that compute them, and what then is unread."""
    todo = list(names)
    while todo:
        name = todo.pop()
        if not graph.has_value(name) or graph.consumers(name):
            continue
        if name in graph.outputs or name in graph.inputs:
            continue
        node = graph.producer(name)
        if node is None:
            graph.drop_value(name)
            continue
        if any(graph.consumers(n) or n in graph.outputs for n in node.outputs):
            continue
        graph.remove(node.name)
        for result in node.outputs:
            graph.drop_value(result)
        todo.extend(dict.fromkeys(node.inputs))
