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
from binpoint.ops.gate import KINDS, Gated, gated
from binpoint.ops.groupnorm import GroupNorm
from binpoint.ops.layernorm import LayerNorm
from binpoint.ops.methods import FUNCTIONS, Function, Method
from binpoint.ops.softmax import Softmax
from binpoint.ops.unary import Unary
from binpoint.passes.base import Context, Effect, Pass, Stage

_ALL = "all"
_GRID = np.concatenate([np.linspace(-12, 12, 4801), np.geomspace(1e-6, 1, 50)])
_LAST = 4800
"""The grid's largest number."""
_SAME = 1e-6


@dataclass(frozen=True, slots=True)
class ChooseMethods(Pass):
    """Write onto each softmax, GELU, SiLU and normalization how integers compute it.

    1. The option `methods` names a method for a node, by its name or one of the model's; for a
       function, as ``gelu``; or for ``all``. The first of these that is given counts, else a table.
    2. A formula that equals GELU, by erf or by tanh, or SiLU, times any positive factor, within
       10^-6 of it on a grid is that one.
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
    if isinstance(node.op, GroupNorm) or (isinstance(node.op, LayerNorm) and node.op.centred):
        return "layer-norm"
    op = _gated(node)
    return None if op is None else "silu" if op.kind == "silu" else "gelu"


def _gated(node: Node) -> Gated | None:
    """Rule 2: the function by table."""
    match node.op:
        case Gated():
            return node.op
        case Unary("Gelu", attributes):
            tanh = dict(attributes)["approximate"] == "tanh"
            return Gated("gelu-tanh" if tanh else "gelu", Method.TABLE)
        case Composite():
            return _recognised(node.op)
        case _:
            return None


def _recognised(op: Composite) -> Gated | None:
    with np.errstate(all="ignore"):
        (y,) = op.reference(_GRID)
    for kind in KINDS:
        wanted = gated(kind, _GRID)
        factor = float(y[_LAST] / wanted[_LAST])
        if factor > 0 and np.allclose(y, factor * wanted, 0, _SAME * factor):
            return Gated(kind, Method.TABLE, factor)
    return None


def _names(node: Node) -> tuple[str, ...]:
    return (node.name, *node.origin.names)


def _check(graph: Graph, methods: Mapping[str, Method], found: Mapping[str, Function]) -> None:
    """Rule 3."""
    known: dict[str, tuple[Method, ...]] = {_ALL: tuple(Method)}
    for name, function in found.items():
        known.update(dict.fromkeys(_names(graph.node(name)), FUNCTIONS[function]))
    known.update({str(f): allowed for f, allowed in FUNCTIONS.items()})
    for key, method in methods.items():
        if key not in known:
            raise BadOption(
                f"`methods` names `{key}`",
                at="methods",
                want=f"{', '.join((*FUNCTIONS, _ALL))}, or a node that computes one of them",
                hint=f"these nodes do: {', '.join(found)}" if found else "none does",
            )
        if method not in known[key]:
            raise BadOption(
                f"`{key}` has no method `{method}`",
                at=f"methods.{key}",
                want=", ".join(known[key]),
            )


def _method(node: Node, function: Function, methods: Mapping[str, Method]) -> Method:
    """Rule 1."""
    for key in (*_names(node), function):
        if key in methods:
            return methods[key]
    whole = methods.get(_ALL, Method.TABLE)
    return whole if whole in FUNCTIONS[function] else Method.TABLE


def _with(node: Node, method: Method) -> FloatOp:
    if isinstance(node.op, Softmax | LayerNorm | GroupNorm):
        return replace(node.op, method=method)
    op = _gated(node)
    assert op is not None
    return replace(op, method=method)
