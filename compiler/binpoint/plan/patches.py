"""patch-stage: compute the first layers patch by patch, where that saves memory that is needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from binpoint.ir.graph import Graph, Node
from binpoint.ir.op import IntegerOp
from binpoint.ops.copy import IntCopy
from binpoint.ops.patched import Patched, View
from binpoint.passes.base import Context, Effect, Pass, Stage
from binpoint.plan.arrange import arrange
from binpoint.plan.halos import Division, Estimates
from binpoint.plan.memory import aligned
from binpoint.plan.stages import body_of, put
from binpoint.target import McuTarget

_TRIES = 6


@dataclass(frozen=True, slots=True)
class PatchStage(Pass):
    """Compute layers patch by patch, to need less memory.

    1. Where the plain plan does not fit the target: the stages and grids that do at the least extra
       work. Where none does, the graph stays as it is, and the plan is refused by its size; with
       ``patches = "mixed"`` it is as with the next, as maps of fewer bits may fit.
    2. With ``optimize = "ram"``: those of the lowest peak with at most `extra` more
       multiply-accumulates, as a fraction of the net's.
    """

    name: ClassVar[str] = "patch-stage"
    before: ClassVar[Stage] = Stage.INTEGER
    after: ClassVar[Stage] = Stage.INTEGER
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    extra: float = 0.12

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        target, options = context.target, context.options
        if not isinstance(target, McuTarget):
            return graph
        limit, wanted = target.budget("arena"), options.optimize == "ram"
        if not wanted and (limit is None or _all_maps(graph) <= limit):
            return graph
        plain = arrange(graph, options, target)
        if not wanted and limit is not None and plain.arena_bytes <= limit:
            return graph
        estimates = Estimates(graph, plain)
        found = _smallest(estimates, self.extra, context) if wanted else None
        size = plain.arena_bytes if found is None else _arena(found, context)
        if limit is not None and size > limit:
            found = _fitting(estimates, limit, context) or found
            if found is None and options.patches == "mixed":
                found = _smallest(estimates, self.extra, context)
        return graph if found is None else found


def _all_maps(graph: Graph) -> int:
    """Bytes of all maps together: what any plan's arena is within, but for scratch memory."""
    values = (v for v in graph.values() if v.constant is None)
    return sum(aligned(v.type.size * v.elem.storage.dtype.itemsize) for v in values)


def _arena(graph: Graph, context: Context) -> int:
    assert isinstance(context.target, McuTarget)
    return arrange(graph, context.options, context.target).arena_bytes


def divided(graph: Graph, division: Division) -> Graph:
    """The graph with these stages."""
    made = graph.copy()
    bodies = [body_of(graph, stage.span) for stage in division.stages]
    for stage, body in zip(division.stages, bodies, strict=True):
        _ = put(made, stage.span, (body,), stage.extents)
    return made


def _smallest(estimates: Estimates, extra: float, context: Context) -> Graph | None:
    """The graph with the least memory for this much extra work, if it is less than plain."""
    division = estimates.least_memory(extra)
    if division is None or not division.stages:
        return None
    made = divided(estimates.graph, division)
    return made if _arena(made, context) < estimates.program.arena_bytes else None


def _fitting(estimates: Estimates, limit: int, context: Context) -> Graph | None:
    """The graph that fits at the least extra work; the estimate is corrected by what plans take."""
    goal = limit
    for _ in range(_TRIES):
        division = estimates.least_work(goal)
        if division is None:
            return None
        made = divided(estimates.graph, division)
        size = _arena(made, context)
        if size <= limit:
            return made
        goal = min(goal, division.peak) - max(size - limit, 1)
    return None


def undivided(graph: Graph) -> Graph:
    """The graph with every stage in one piece again, as its first body has it."""
    made = graph.copy()
    for node in graph.nodes():
        if not isinstance(node.op, Patched):
            continue
        body = node.op.bodies[0]
        made.remove(node.name)
        (start,) = body.inputs
        if start not in node.inputs:
            value = body.value(start)
            _ = made.add_value(value)
            view = node.op.view
            if view != View.dense(value.shape) or made.value(node.inputs[0]).shape != value.shape:
                shape = value.shape[1:]
                copy = IntCopy.of(value.shape, shape, view.strides, view.offset, value.elem)
                made.set_producer(Node(made.fresh(f"{start}_copy"), copy, node.inputs, (start,)))
        for value in body.values():
            if value.constant is not None and not made.has_value(value.name):
                _ = made.add_value(value)
        for inner in body.nodes():
            assert isinstance(inner.op, IntegerOp)
            results = [v for v in body.results(inner) if not made.has_value(v.name)]
            if results:
                _ = made.add(inner, results)
            else:
                made.set_producer(inner)
    return made
