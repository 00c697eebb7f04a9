"""propagate-types: a stated type reaches every value that the statement already decides."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Node, Value
from binpoint.ir.op import FloatOp, Role
from binpoint.numeric.fixed import FixedType
from binpoint.ops.rescaled import Quantize
from binpoint.passes.base import Context, Effect, Pass, Stage

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PropagateTypes(Pass):
    """Carry stated types through ops that keep their operand's type.

    1. Up: an untyped value takes type T if every reader of it rounds to T at once. Such a reader is
       a `Quantize` to T, or an op that keeps its operand's type and whose results are all of type
       T: rounding is monotone, so it commutes with clamping, choosing and moving elements.
    2. Where all readers round, but to different types, the value is computed once for each type.
    3. A constant that is chosen or moved by an op with results of type T is stored in T.
    4. A `Quantize` to the type that its operand has is bypassed.
    5. Down: untyped results of an op that keeps its operand's type take the type that all its
       operands share. A constant among them joins if it is exact in that type.
    6. Until nothing changes. Rule 1 leaves outputs alone; types per channel do not travel.
    """

    name: ClassVar[str] = "propagate-types"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.CHANGES_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        changed = True
        while changed:
            changed = _move_up(graph)
            changed |= _bypass(graph)
            changed |= _move_down(graph)
        return graph


def moved_operands(graph: Graph, node: Node) -> tuple[Value, ...]:
    """The operands whose elements an op that keeps its type chooses from: all but parameters."""
    assert isinstance(node.op, FloatOp)
    roles = node.op.roles(len(node.inputs))
    pairs = zip(graph.arguments(node), roles, strict=True)
    return tuple(value for value, role in pairs if role is Role.ACTIVATION)


def _stated(graph: Graph, node: Node, value: Value) -> FixedType | None:
    """The type to which a reader of `value` rounds it at once, if it does."""
    op = node.op
    if isinstance(op, Quantize):
        return op.type
    if not isinstance(op, FloatOp) or not op.keeps_type:
        return None
    if value.name not in {v.name for v in moved_operands(graph, node)}:
        return None
    return _shared(tuple(v.fixed for v in graph.results(node)))


def _shared(kinds: tuple[FixedType | None, ...]) -> FixedType | None:
    """The one type of all, per tensor; None where they differ or one has none."""
    if not kinds or kinds[0] is None or any(kind != kinds[0] for kind in kinds):
        return None
    return kinds[0] if kinds[0].axis is None else None


def _move_up(graph: Graph) -> bool:
    changed = False
    for node in reversed(graph.nodes()):
        for value in graph.arguments(node):
            if graph.value(value.name).fixed is not None:
                continue
            if value.constant is not None:
                changed |= _store_constant(graph, node, value)
                continue
            changed |= _take_type(graph, value)
    return changed


def _take_type(graph: Graph, value: Value) -> bool:
    kinds = tuple(_stated(graph, reader, value) for reader in graph.consumers(value.name))
    kind = _shared(kinds)
    if not any(k is not None for k in kinds):
        return False
    if value.name in graph.outputs:
        _log.debug("type not moved up to %s: it is an output", value.name)
        return False
    if kind is None:
        return _compute_for_each(graph, value, kinds)
    graph.set_value(replace(value, fixed=kind))
    return True


def _compute_for_each(graph: Graph, value: Value, kinds: tuple[FixedType | None, ...]) -> bool:
    """Rule 2: one node for each type, so that each rounds the exact result."""
    node = graph.producer(value.name)
    if node is None or len(node.outputs) > 1 or any(k is None or k.axis is not None for k in kinds):
        _log.debug("type not moved up to %s: its readers want different ones", value.name)
        return False
    readers = graph.consumers(value.name)
    first, *others = dict.fromkeys(kinds)
    graph.set_value(replace(value, fixed=first))
    for kind in others:
        build = GraphBuilder(graph, node.name, node.origin)
        twin = build.one(node.op, *graph.arguments(node), outputs=(value.name,))
        graph.set_value(replace(twin, fixed=kind))
        for reader in (r for r, k in zip(readers, kinds, strict=True) if k == kind):
            inputs = tuple(twin.name if n == value.name else n for n in reader.inputs)
            graph.replace(replace(reader, inputs=inputs))
    return True


def _store_constant(graph: Graph, node: Node, value: Value) -> bool:
    """Rule 3, for one operand of one node."""
    assert value.constant is not None
    kind = _stated(graph, node, value)
    if kind is None:
        return False
    _replace_constant(graph, node, value, kind)
    return True


def _replace_constant(graph: Graph, node: Node, value: Value, kind: FixedType) -> None:
    assert value.constant is not None
    codes = kind.quantize(value.constant.array).astype(kind.storage.dtype)
    stored = GraphBuilder(graph).constant(codes, fixed=kind, hint=value.name)
    current = graph.node(node.name)
    inputs = tuple(stored.name if name == value.name else name for name in current.inputs)
    graph.replace(replace(current, inputs=inputs))
    if not graph.consumers(value.name) and value.name not in graph.outputs:
        graph.drop_value(value.name)


def _bypass(graph: Graph) -> bool:
    changed = False
    for node in graph.nodes():
        if not isinstance(node.op, Quantize):
            continue
        (operand,), (result,) = graph.arguments(node), graph.results(node)
        if operand.fixed != node.op.type:
            continue
        if result.name in graph.outputs and operand.name in (*graph.inputs, *graph.outputs):
            _log.debug("%s not bypassed: it alone keeps two borders apart", node.name)
            continue
        if result.name in graph.outputs and operand.constant is None:
            graph.set_value(replace(operand, source=result.source or operand.source))
        graph.bypass(node, operand.name)
        changed = True
    return changed


def _move_down(graph: Graph) -> bool:
    changed = False
    for node in graph.nodes():
        if not isinstance(node.op, FloatOp) or not node.op.keeps_type:
            continue
        if all(value.fixed is not None for value in graph.results(node)):
            continue
        kind = _shared_by_operands(graph, node)
        if kind is None:
            continue
        for value in graph.results(node):
            if value.fixed is None:
                graph.set_value(replace(value, fixed=kind))
        changed = True
    return changed


def _shared_by_operands(graph: Graph, node: Node) -> FixedType | None:
    operands = moved_operands(graph, node)
    real = [v for v in operands if v.constant is not None and v.fixed is None]
    kind = _shared(tuple(v.fixed for v in operands if v not in real))
    if kind is None:
        if any(v.fixed is not None for v in operands):
            _log.debug("type not carried through %s: its operands have different ones", node.name)
        return None
    for value in real:
        assert value.constant is not None
        array = value.constant.array.astype(np.float64)
        if not np.array_equal(kind.dequantize(kind.quantize(array)), array):
            _log.debug("type not carried through %s: a constant is not exact in it", node.name)
            return None
    for value in {v.name: v for v in real}.values():
        _replace_constant(graph, node, value, kind)
    return kind
