"""What is legal at each stage: float, typed, integer."""

from __future__ import annotations

from binpoint.errors import InvariantBroken
from binpoint.ir.graph import Graph, Node, Value
from binpoint.ir.op import FloatOp, IntegerOp, Role
from binpoint.numeric.fixed import FixedType


def verify(graph: Graph, stage: str) -> None:
    """Check a graph against its stage.

    All stages: no cycles, every operand exists, types are what the ops infer. TYPED: every value
    has an integer type, but for biases and parameters. INTEGER: integer ops and types only,
    ranges within their types.

    Raises:
        InvariantBroken: the first violation, naming the node or value.
    """
    _structure(graph)
    for value in graph.values():
        if stage == "integer":
            _integer_value(value)
    for node in graph.nodes():
        _node(graph, node, stage)
    if stage == "typed":
        for name in (*graph.inputs, *graph.outputs):
            if graph.value(name).fixed is None:
                raise InvariantBroken(f"`{name}` has no integer type")


def _structure(graph: Graph) -> None:
    if not graph.is_acyclic():
        raise InvariantBroken("the graph has a cycle")
    for name in (*graph.inputs, *graph.outputs):
        if not graph.has_value(name):
            raise InvariantBroken(f"`{name}` is listed as input or output and is not there")
    for value in graph.values():
        if (
            graph.producer(value.name) is None
            and value.constant is None
            and value.name not in graph.inputs
        ):
            raise InvariantBroken(f"nothing computes the value `{value.name}`")


def _node(graph: Graph, node: Node, stage: str) -> None:
    if (stage == "integer") != isinstance(node.op, IntegerOp):
        raise InvariantBroken(
            f"node `{node.name}` has no place at stage {stage}", have=type(node.op).__name__
        )
    kinds = node.op.infer(*graph.arguments(node))
    for value, kind in zip(graph.results(node), kinds, strict=True):
        if value.type != kind:
            raise InvariantBroken(
                f"value `{value.name}` has another type than its op infers",
                have=str(value.type),
                want=str(kind),
            )
    if stage == "typed" and isinstance(node.op, FloatOp):
        roles = node.op.roles(len(node.inputs))
        for value, role in zip(graph.arguments(node), roles, strict=True):
            if value.fixed is None and role in (Role.ACTIVATION, Role.WEIGHT):
                raise InvariantBroken(f"value `{value.name}` has no integer type", at=node.name)
        for value in graph.results(node):
            if value.fixed is None and not node.op.keeps_type:
                raise InvariantBroken(f"value `{value.name}` has no integer type", at=node.name)


def _integer_value(value: Value) -> None:
    if not isinstance(value.type.elem, FixedType):
        raise InvariantBroken(f"value `{value.name}` is not of an integer type")
    storage = value.elem.storage
    if value.bounds is not None and not (
        storage.min <= value.bounds.lo and value.bounds.hi <= storage.max
    ):
        raise InvariantBroken(
            f"the range of `{value.name}` does not fit its type",
            have=str(value.bounds),
            want=str(storage),
        )
