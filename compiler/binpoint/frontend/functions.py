"""fuse-functions: a formula of one value, written as many elementwise ops, becomes one op."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import ClassVar

from binpoint.frontend.edit import drop_unread
from binpoint.ir.graph import Graph, Node
from binpoint.ops.composite import Composite, Step
from binpoint.ops.elementwise import Binary, MinMax, Scalar
from binpoint.ops.select import Select
from binpoint.ops.unary import Clip, Unary
from binpoint.passes.base import Context, Effect, Pass, Stage

_log = logging.getLogger(__name__)
_WIDEST_TABLE = 8


@dataclass(frozen=True, slots=True)
class FuseFunctions(Pass):
    """Gather elementwise ops that together are a function of one value.

    1. From each op backwards: an operand is taken in with the op that computes it, if it has no
       type, is no output, and is read by ops already gathered only. Ops are functions of one
       operand, arithmetic with one number, and arithmetic of, or choices between, operands of equal
       shape.
    2. Where only one value is read from outside, what is gathered is a function of it: the largest
       such set is taken. So x·sigmoid(x), hard swish and GELU in any spelling become one table.
    3. A first step that clamps stays outside: its operand is better stored clamped.
    4. Clamps of clamps are one clamp. One op alone stays as it is, and so do functions of values
       that are stored too wide for a table.
    """

    name: ClassVar[str] = "fuse-functions"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        for node in reversed(graph.nodes()):
            if graph.has_node(node.name) and _is_step(graph, node):
                _fuse(graph, graph.node(node.name))
        return graph


def _is_step(graph: Graph, node: Node) -> bool:
    match node.op:
        case Unary() | Clip() | Scalar() | Composite():
            return True
        case Binary() | MinMax() | Select():
            shapes = {v.shape for v in (*graph.arguments(node), *graph.results(node))}
            return len(shapes) == 1 and all(v.constant is None for v in graph.arguments(node))
        case _:
            return False


def _fuse(graph: Graph, last: Node) -> None:
    place = {node.name: index for index, node in enumerate(graph.nodes())}
    gathered, best = [last], [last]
    while (node := _next(graph, gathered, place)) is not None:
        gathered.append(node)
        if _is_function(gathered):
            best = list(gathered)
    clamps = _clamps(graph, last)
    if len(clamps) > len(best):
        best = clamps
    leaves = _leaves(best)
    if len(leaves) != 1 or len(best) < 2:
        return
    (x,) = leaves
    kind = graph.value(x).fixed
    if kind is not None and (kind.storage.width > _WIDEST_TABLE or kind.axis is not None):
        _log.debug("%s not fused: its operand is too wide for a table", last.name)
        return
    _put(graph, last, best[::-1], x)


def _is_function(gathered: list[Node]) -> bool:
    """Whether one value is read from outside, and not only to be clamped."""
    leaves = _leaves(gathered)
    first = [node for node in gathered if leaves[0] in node.inputs]
    return len(leaves) == 1 and not all(isinstance(node.op, Clip) for node in first)


def _leaves(gathered: list[Node]) -> tuple[str, ...]:
    """What gathered nodes read from outside, each once."""
    inside = {name for node in gathered for name in node.outputs}
    names = dict.fromkeys(name for node in gathered for name in node.inputs)
    return tuple(name for name in names if name not in inside)


def _next(graph: Graph, gathered: list[Node], place: dict[str, int]) -> Node | None:
    """The latest node that can be taken in."""
    inside = {node.name for node in gathered}
    found: list[Node] = []
    for name in _leaves(gathered):
        node = graph.producer(name)
        if node is None or not _is_step(graph, node) or name in graph.outputs:
            continue
        if graph.value(name).fixed is not None:
            continue
        if all(reader.name in inside for reader in graph.consumers(name)):
            found.append(node)
    return max(found, key=lambda node: place[node.name], default=None)


def _clamps(graph: Graph, last: Node) -> list[Node]:
    """A chain of clamps that ends with `last`."""
    chain: list[Node] = []
    node: Node | None = last
    while node is not None and isinstance(node.op, Clip):
        chain.append(node)
        (name,) = node.inputs
        value = graph.value(name)
        if value.fixed is not None or graph.sole_consumer(name) is None:
            break
        node = graph.producer(name)
    return chain


def _put(graph: Graph, last: Node, nodes: list[Node], x: str) -> None:
    """Put one op in place of gathered nodes, given in order; the last one keeps its name."""
    index = {x: 0}
    steps: list[Step] = []
    origin = last.origin
    for node in nodes:
        operands = tuple(index[name] for name in node.inputs)
        origin = node.origin + origin
        if isinstance(node.op, Composite):
            base = len(steps)
            steps += [_moved(step, operands[0], base) for step in node.op.steps]
        else:
            assert isinstance(node.op, Unary | Clip | Scalar | Binary | MinMax | Select)
            steps.append(Step(node.op, operands))
        index[node.outputs[0]] = len(steps)
    op = Composite(tuple(steps))
    bounds = [step.op for step in steps if isinstance(step.op, Clip)]
    new = _one_clamp(bounds) if len(bounds) == len(steps) else op
    graph.replace(replace(last, op=new, inputs=(x,), origin=origin))
    drop_unread(graph, *last.inputs)


def _moved(step: Step, x: int, base: int) -> Step:
    """A step of an inner formula whose x is operand `x`, and whose steps follow `base` others."""
    return Step(step.op, tuple(x if i == 0 else base + i for i in step.operands))


def _one_clamp(clips: list[Clip]) -> Clip:
    """Clamps in order as one."""
    low, high = clips[0].low, clips[0].high
    for clip in clips[1:]:
        low = clip.low if low is None else _clamped(low, clip)
        high = clip.high if high is None else _clamped(high, clip)
    return Clip(low, high)


def _clamped(number: float, clip: Clip) -> float:
    raised = number if clip.low is None else max(number, clip.low)
    return raised if clip.high is None else min(raised, clip.high)
