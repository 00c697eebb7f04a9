"""Print a graph as text: for --dump-ir, `show` and snapshots."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

from binpoint.ir.constant import Constant
from binpoint.ir.graph import Graph, Node, Value

_LONG = 8


def dump(graph: Graph) -> str:
    """One line a value or node, in the graph's order; before them what passes found out."""
    lines = [f"graph {graph.name}"]
    lines += [f"pass   {name}: {describe_figures(found)}" for name, found in graph.figures.items()]
    lines += [f"input  {describe(graph.value(name))}" for name in graph.inputs]
    lines += [
        f"const  {describe(v)} = {v.constant}" for v in graph.values() if v.constant is not None
    ]
    for node in graph.nodes():
        results = ", ".join(describe(value) for value in graph.results(node))
        lines.append(
            f"node   {results} = {describe_op(node)}({', '.join(node.inputs)})  # {node.name}"
        )
    lines += [f"output {name}" for name in graph.outputs]
    return "\n".join(lines) + "\n"


def describe_figures(found: Mapping[str, float]) -> str:
    """Figures by name, in their order."""
    return ", ".join(f"{name.replace('_', ' ')} {figure:g}" for name, figure in found.items())


def describe(value: Value) -> str:
    """Name, shape, type and proven range."""
    text = f"{value.name}: {value.type}"
    if value.fixed is not None:
        text += f" as {value.fixed}"
    if value.bounds is not None:
        text += f" in {value.bounds}"
    return text


def describe_op(node: Node) -> str:
    """Class and fields of an op; long tuples are cut."""
    op: Any = node.op
    fields = [f"{f.name}={_short(getattr(op, f.name))}" for f in dataclasses.fields(op)]
    return f"{type(op).__name__}{{{', '.join(fields)}}}"


def _short(item: Any) -> str:
    if isinstance(item, Constant):
        return repr(item)
    if isinstance(item, tuple):
        parts = cast("tuple[Any, ...]", item)
        rest = f", … {len(parts)} in all" if len(parts) > _LONG else ""
        return f"({', '.join(_short(part) for part in parts[:_LONG])}{rest})"
    if (
        dataclasses.is_dataclass(item)
        and not isinstance(item, type)
        and type(item).__str__ is object.__str__
    ):
        return f"{type(item).__name__}(…)" if len(dataclasses.fields(item)) > _LONG else repr(item)
    return str(item)
