"""Passes of no one phase: remove-dead, merge-duplicates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from binpoint.ir.graph import Graph
from binpoint.passes.base import Context, Effect, Pass, Stage


def remove_dead(graph: Graph) -> Graph:
    """Remove nodes whose results nobody reads, and constants without readers; inputs stay."""
    for node in reversed(graph.nodes()):
        if any(graph.consumers(name) or name in graph.outputs for name in node.outputs):
            continue
        graph.remove(node.name)
        for name in node.outputs:
            graph.drop_value(name)
    for value in tuple(graph.values()):
        if (
            value.constant is not None
            and not graph.consumers(value.name)
            and value.name not in graph.outputs
        ):
            graph.drop_value(value.name)
    return graph


@dataclass(frozen=True, slots=True)
class RemoveDead(Pass):
    """Remove what no output needs.

    1. A node goes when none of its results is read or is an output.
    2. A constant goes when nobody reads it. Inputs stay: they are the model's interface.
    """

    name: ClassVar[str] = "remove-dead"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        return remove_dead(graph)


def merge_duplicates(graph: Graph) -> Graph:
    """Let equal constants, and equal ops on equal operands, be one."""
    constants: dict[tuple[object, ...], str] = {}
    for value in tuple(graph.values()):
        if value.constant is None or value.name in graph.outputs:
            continue
        first = constants.setdefault((value.type, value.fixed, value.constant), value.name)
        if first != value.name:
            graph.rewire(value.name, first)
            graph.drop_value(value.name)
    seen: dict[tuple[object, ...], str] = {}
    for node in graph.nodes():
        current = graph.node(node.name)
        fixed = tuple(graph.value(name).fixed for name in current.outputs)
        first = seen.setdefault((type(current.op), current.op, current.inputs, fixed), current.name)
        if first == current.name or any(name in graph.outputs for name in current.outputs):
            continue
        for old, new in zip(current.outputs, graph.node(first).outputs, strict=True):
            graph.rewire(old, new)
        graph.remove(current.name)
        for name in current.outputs:
            graph.drop_value(name)
    return graph


@dataclass(frozen=True, slots=True)
class MergeDuplicates(Pass):
    """Compute equal things once.

    1. Constants of equal type and content become one.
    2. Equal ops on the same operands, with the same types assigned, become one; outputs keep
       theirs.
    """

    name: ClassVar[str] = "merge-duplicates"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        return merge_duplicates(graph)
