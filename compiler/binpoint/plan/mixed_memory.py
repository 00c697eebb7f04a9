"""Maps of stages with fewer bits where the target's memory asks for it (QuantMCU, DATE 2024).

What runs needs its operands, its result and what is kept for later: Σ bytes(f_i at b_i) ≤ RAM. As
long as the plan of the net is above that, the largest map of fewer bits where most is needed has
the next fewer. Whether it fits is what the planner says, with maps packed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from binpoint.ir.graph import Graph, Value
from binpoint.ir.op import IntegerOp
from binpoint.ops.packed import map_bytes
from binpoint.ops.patched import Patched
from binpoint.passes.base import Context
from binpoint.plan.arrange import arrange
from binpoint.plan.pack_maps import PackMaps
from binpoint.quantize.bit_search import WHOLE, Losses
from binpoint.target import McuTarget

Bits = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Option:
    """A stage that can have fewer bits.

    Attributes:
        losses: tells what bits its maps may have; names that are no maps are left alone.
        made: the stage with these bits, as far as its memory goes.
    """

    losses: Losses
    made: Callable[[Bits], Patched]


def within_memory(
    graph: Graph, options: Mapping[str, Option], chosen: Mapping[str, Bits], context: Context
) -> Mapping[str, Bits]:
    """The bits of the maps of each stage with which the net fits the target.

    Those that were chosen where it fits at 8 bits, and where it does at none.

    Args:
        graph: with the stages at uniform bits.
        options: stages by the node's name.
        chosen: bits by stage, and by name as in `Point.bits`.
        context: has the target, and what it leaves for maps.
    """
    target = context.target
    limit = target.budget("arena") if isinstance(target, McuTarget) else None
    if limit is None or _arena(graph, {}, context) <= limit:
        return chosen
    found: Mapping[str, Bits] | None = chosen
    while found is not None:
        stages = {name: options[name].made(bits) for name, bits in found.items()}
        if _arena(graph, stages, context) <= limit:
            return found
        found = lowered(stages, options, found)
    return chosen


def _arena(graph: Graph, stages: Mapping[str, Patched], context: Context) -> int:
    made = graph.copy()
    for name, op in stages.items():
        made.replace(replace(made.node(name), op=op))
    assert isinstance(context.target, McuTarget)
    if stages:
        made = PackMaps().run(made, context)
    return arrange(made, context.options, context.target).arena_bytes


def lowered(
    stages: Mapping[str, Patched], options: Mapping[str, Option], found: Mapping[str, Bits]
) -> Mapping[str, Bits] | None:
    """The bits with the next fewer for the largest map where most is needed.

    A map that has no fewer is passed over; None where no map has.

    Args:
        stages: with the bits `found`, by name.
        options: of the same stages.
        found: bits by stage.
    """
    moments = [(name, m) for name, op in stages.items() for m in _moments(op)]
    for name, live in sorted(moments, key=lambda pair: -sum(_bytes(v) for v in pair[1])):
        bits, losses = found[name], options[name].losses
        for value in sorted(live, key=lambda value: (-_bytes(value), value.name)):
            now = bits.get(value.name, WHOLE)
            fewer = [b for b in losses.get(value.name, ()) if b < now]
            if fewer:
                return {**found, name: {**bits, value.name: max(fewer)}}
    return None


def _moments(op: Patched) -> Iterator[tuple[Value, ...]]:
    """What each step of a patch of fewer bits reads, makes and keeps."""
    narrow = max(op.used)
    pairs = ((p.bodies, parts) for p, parts in zip(op.patches, op.parts, strict=True))
    for part in (
        part for used, parts in pairs for b, part in zip(used, parts, strict=True) if b == narrow
    ):
        nodes = list(part.nodes())
        last = {name: index for index, node in enumerate(nodes) for name in node.inputs}
        live: dict[str, Value] = {name: part.value(name) for name in part.inputs}
        for index, node in enumerate(nodes):
            live |= {v.name: v for v in part.results(node)}
            # Sums are rounded as they come.
            if not (isinstance(node.op, IntegerOp) and node.op.accumulates):
                yield tuple(live.values())
            live = {name: v for name, v in live.items() if last.get(name, index) > index}


def _bytes(value: Value) -> int:
    return map_bytes(value.shape, value.elem.storage.width)
