"""Which untyped values share one type."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from binpoint.ir.graph import Graph, Node, Value
from binpoint.ir.op import FloatOp, Role


@dataclass(frozen=True, slots=True)
class Group:
    """Names of values that share a type; `observed` decide its range, else `constants`."""

    members: tuple[str, ...]
    observed: tuple[str, ...]
    constants: tuple[str, ...]


def activations(graph: Graph, node: Node) -> tuple[Value, ...]:
    """The operands of a node that are computed tensors, or constants used like one."""
    assert isinstance(node.op, FloatOp)
    roles = node.op.roles(len(node.inputs))
    return tuple(
        v for v, r in zip(graph.arguments(node), roles, strict=True) if r is Role.ACTIVATION
    )


def find_groups(graph: Graph) -> tuple[Group, ...]:
    """Groups of the values without type, in order of their first member's name.

    Operands and results of an op that keeps the type are tied. A member is observed unless all its
    readers are such ops with an untyped result, which is observed in its place.
    """
    parent = {value.name: value.name for value in graph.values() if _wants_type(graph, value)}
    for node in graph.nodes():
        tied = [n for n in _tied(graph, node) if n in parent]
        for name in tied[1:]:
            parent[_root(parent, name)] = _root(parent, tied[0])
    groups: dict[str, list[str]] = {}
    for name in parent:
        groups.setdefault(_root(parent, name), []).append(name)
    return tuple(
        sorted((_group(graph, members) for members in groups.values()), key=lambda g: g.members)
    )


def _wants_type(graph: Graph, value: Value) -> bool:
    """Computed values and inputs, and constants that an op reads as an activation."""
    if value.fixed is not None:
        return False
    if value.constant is None:
        return True
    return value.name in graph.outputs or any(
        value.name == operand.name
        for node in graph.consumers(value.name)
        for operand in activations(graph, node)
    )


def _tied(graph: Graph, node: Node) -> tuple[str, ...]:
    assert isinstance(node.op, FloatOp)
    if not node.op.keeps_type:
        return ()
    return (*(v.name for v in activations(graph, node)), *node.outputs)


def _root(parent: dict[str, str], name: str) -> str:
    while parent[name] != name:
        parent[name] = parent[parent[name]]
        name = parent[name]
    return name


def _group(graph: Graph, members: Iterable[str]) -> Group:
    names = tuple(sorted(members))
    constants = tuple(n for n in names if graph.value(n).constant is not None)
    observed = tuple(n for n in names if n not in constants and not _stands_for_nothing(graph, n))
    return Group(names, observed, constants)


def _stands_for_nothing(graph: Graph, name: str) -> bool:
    """Whether only ops that keep the type read it, whose untyped results tell the range."""
    readers = graph.consumers(name)
    if not readers or name in graph.outputs:
        return False
    return all(
        isinstance(node.op, FloatOp)
        and node.op.keeps_type
        and all(value.fixed is None for value in graph.results(node))
        for node in readers
    )
