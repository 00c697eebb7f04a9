"""choose-methods: write onto each approximated function the method by which it is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from binpoint.errors import BadOption
from binpoint.ir.graph import Graph, Node
from binpoint.ir.op import FloatOp
from binpoint.ops.composite import Composite
from binpoint.ops.gate import KINDS, Gated, GatedKind, gated
from binpoint.ops.methods import FUNCTIONS, Function, Method
from binpoint.ops.softmax import Softmax
from binpoint.ops.unary import Unary
from binpoint.passes.base import Context, Effect, Pass, Stage

_ALL = "all"
_GRID = np.concatenate([np.linspace(-12, 12, 4801), np.geomspace(1e-6, 1, 50)])
_SAME = 1e-6


@dataclass(frozen=True, slots=True)
class ChooseMethods(Pass):
    """Write onto each softmax, GELU, SiLU and normalization how integers compute it.

    1. The option `methods` names a method for a node, by its name or one of the model's; for a
       function, as ``gelu``; or for ``all``. The first of these that is given counts, else a table.
    2. A formula that equals GELU, by erf or by tanh, or SiLU within 10^-6 on a grid is that one.
    3. A name in `methods` that is no function and no such node is an error, and so is a method that
       a function does not have. For ``all`` a function without the method keeps its own.
    """

    name: ClassVar[str] = "choose-methods"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        methods = context.options.methods
        if not methods:
            return graph
        found: dict[str, Function] = {}
        for node in graph.nodes():
            function = function_of(node)
            if function is not None:
                found[node.name] = function
        _check(graph, methods, found)
        for name, function in found.items():
            node = graph.node(name)
            method = _method(node, function, methods)
            if method is not Method.TABLE:
                graph.replace(replace(node, op=_with(node, method)))
        return graph


def function_of(node: Node) -> Function | None:
    """The approximated function that a node computes."""
    if isinstance(node.op, Softmax):
        return "softmax"
    kind = _gated_kind(node)
    return None if kind is None else "silu" if kind == "silu" else "gelu"


def _gated_kind(node: Node) -> GatedKind | None:
    """Rule 2."""
    match node.op:
        case Gated(kind):
            return kind
        case Unary("Gelu", attributes):
            return "gelu-tanh" if dict(attributes)["approximate"] == "tanh" else "gelu"
        case Composite():
            with np.errstate(all="ignore"):
                (y,) = node.op.reference(_GRID)
            return next((k for k in KINDS if np.allclose(y, gated(k, _GRID), 0, _SAME)), None)
        case _:
            return None


def _names(node: Node) -> tuple[str, ...]:
    return (node.name, *node.origin.names)


def _check(graph: Graph, methods: Mapping[str, Method], found: Mapping[str, Function]) -> None:
    """Rule 3."""
    nodes = {name: f for n, f in found.items() for name in _names(graph.node(n))}
    functions: Mapping[str, Function] = {f: f for f in FUNCTIONS}
    for key, method in methods.items():
        if key not in functions and key not in nodes and key != _ALL:
            raise BadOption(
                f"`methods` names `{key}`",
                at="methods",
                want=f"{', '.join((*FUNCTIONS, _ALL))}, or a node that computes one of them",
                hint=f"these nodes do: {', '.join(found)}"
                if found
                else "no node of the model does",
            )
        function = functions.get(key) or nodes.get(key)
        if function is not None and method not in FUNCTIONS[function]:
            raise BadOption(
                f"{function} has no method `{method}`",
                at=f"methods.{key}",
                want=", ".join(FUNCTIONS[function]),
            )


def _method(node: Node, function: Function, methods: Mapping[str, Method]) -> Method:
    """Rule 1."""
    for key in (*_names(node), function):
        if key in methods:
            return methods[key]
    whole = methods.get(_ALL, Method.TABLE)
    return whole if whole in FUNCTIONS[function] else Method.TABLE


def _with(node: Node, method: Method) -> FloatOp:
    if isinstance(node.op, Softmax):
        return replace(node.op, method=method)
    kind = _gated_kind(node)
    assert kind is not None
    return Gated(kind, method)
