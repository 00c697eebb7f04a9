"""Which untyped values share one type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from binpoint.ir.graph import Graph, Node, Value
from binpoint.ir.op import FloatOp, Role
from binpoint.ops.concat import Concat
from binpoint.quantize.observe import Range

_SMALL = 4
"""Ranges smaller than those of others by this factor are of another size."""


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


def find_groups(graph: Graph, *, concats: bool = True) -> tuple[Group, ...]:
    """Groups of the values without type, in order of their first member's name.

    Operands and results of an op that keeps the type are tied, those of a Concat only if `concats`.
    A member is observed unless all its readers are ops that tie it to an untyped result, which is
    observed in its place.
    """
    parent = {value.name: value.name for value in graph.values() if _wants_type(graph, value)}
    for node in graph.nodes():
        tied = [n for n in _tied(graph, node, concats) if n in parent]
        for name in tied[1:]:
            parent[_root(parent, name)] = _root(parent, tied[0])
    groups: dict[str, list[str]] = {}
    for name in parent:
        groups.setdefault(_root(parent, name), []).append(name)
    return tuple(
        sorted(
            (_group(graph, members, concats) for members in groups.values()),
            key=lambda g: g.members,
        )
    )


def join_concats(
    graph: Graph, groups: Sequence[Group], ranges: Mapping[str, Range]
) -> tuple[Group, ...]:
    """Groups without Concats, joined over them where operands and result are of one size.

    An operand that other ops read too, and whose range is less than a quarter of the result's,
    keeps a type of its own: two bits of it and more are worth a table.

    Args:
        graph: what `groups` are of.
        groups: as `find_groups` gives them without concats.
        ranges: of what they observe.
    """
    place = {name: index for index, group in enumerate(groups) for name in group.members}
    joined = dict(enumerate(groups))
    for node in reversed(graph.nodes()):
        if not isinstance(node.op, Concat) or node.outputs[0] not in place:
            continue
        for name in node.inputs:
            result, operand = place[node.outputs[0]], place.get(name)
            if operand in (None, result) or _is_apart(
                graph, joined[operand], joined[result], ranges
            ):
                continue
            first, second = joined[result], joined.pop(operand)
            place.update(dict.fromkeys(second.members, result))
            joined[result] = Group(
                tuple(sorted(first.members + second.members)),
                first.observed + second.observed,
                first.constants + second.constants,
            )
    return tuple(sorted(joined.values(), key=lambda g: g.members))


def _is_apart(graph: Graph, operand: Group, result: Group, ranges: Mapping[str, Range]) -> bool:
    """Whether what a Concat reads is better stored for its other readers."""
    others = (reader for name in operand.members for reader in graph.consumers(name))
    if all(isinstance(reader.op, FloatOp) and reader.op.keeps_type for reader in others):
        return False
    own, both = (
        reduce(Range.union, (ranges[n] for n in names), Range())
        for names in (operand.observed, operand.observed + result.observed)
    )
    return _SMALL * (own.hi - own.lo) < both.hi - both.lo


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


def _tied(graph: Graph, node: Node, concats: bool) -> tuple[str, ...]:
    if not _ties(node, concats):
        return ()
    return (*(v.name for v in activations(graph, node)), *node.outputs)


def _ties(node: Node, concats: bool) -> bool:
    assert isinstance(node.op, FloatOp)
    return node.op.keeps_type and (concats or not isinstance(node.op, Concat))


def _root(parent: dict[str, str], name: str) -> str:
    while parent[name] != name:
        parent[name] = parent[parent[name]]
        name = parent[name]
    return name


def _group(graph: Graph, members: Iterable[str], concats: bool) -> Group:
    names = tuple(sorted(members))
    constants = tuple(n for n in names if graph.value(n).constant is not None)
    observed = tuple(
        n for n in names if n not in constants and not _stands_for_nothing(graph, n, concats)
    )
    return Group(names, observed, constants)


def _stands_for_nothing(graph: Graph, name: str, concats: bool) -> bool:
    """Whether only ops that tie it to their untyped results read it, which tell the range."""
    readers = graph.consumers(name)
    if not readers or name in graph.outputs:
        return False
    return all(
        _ties(node, concats) and all(value.fixed is None for value in graph.results(node))
        for node in readers
    )
