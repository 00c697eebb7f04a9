"""The report on maps whose codes share bytes in the arena."""

from __future__ import annotations

import itertools

from binpoint.ir.graph import Graph, Node
from binpoint.ops.banded import Banded
from binpoint.ops.packed import IntPack
from binpoint.ops.patched import Patched
from binpoint.options import CompileOptions
from binpoint.plan.arrange import arrange
from binpoint.plan.packed_graph import unpacked
from binpoint.plan.program import Program
from binpoint.report.part import Part
from binpoint.target import McuTarget


class PackedMap(Part, frozen=True):
    """A map of narrow codes.

    Attributes:
        map: its name in the graph.
        bits: of a code.
        codes: how many there are: its bytes without packing. In a stage of patches they are those
            of the patch that needs most of it.
        bytes: what it takes.
    """

    map: str
    bits: int
    codes: int
    bytes: int


class PackedMaps(Part, frozen=True):
    """What is packed, and what it saves.

    Attributes:
        arena_plain_bytes: of the same graph with a byte for every code.
        arena_packed_bytes: of the program.
    """

    maps: tuple[PackedMap, ...]
    arena_plain_bytes: int
    arena_packed_bytes: int


def packed_maps_of(
    program: Program, target: McuTarget, options: CompileOptions
) -> PackedMaps | None:
    """The packed maps of a program; None if it has none."""
    found: dict[str, PackedMap] = {}
    for graph in (program.graph, *(g for node in program.graph.nodes() for g in _parts(node))):
        for body in (g for node in graph.nodes() for g in _bodies(node)):
            for inner in body.nodes():
                if isinstance(inner.op, IntPack):
                    made = _map(body, inner.inputs[0], inner.op)
                    if made.map not in found or found[made.map].codes < made.codes:
                        found[made.map] = made
    maps = tuple(found.values())
    if not maps:
        return None
    plain = arrange(unpacked(program.graph), options, target)
    return PackedMaps(
        maps=maps, arena_plain_bytes=plain.arena_bytes, arena_packed_bytes=program.arena_bytes
    )


def _parts(node: Node) -> tuple[Graph, ...]:
    """What a stage of patches computes, patch by patch."""
    return tuple(itertools.chain(*node.op.parts)) if isinstance(node.op, Patched) else ()


def _bodies(node: Node) -> tuple[Graph, ...]:
    """What a node computes in parts: of a stage of patches in one precision of several."""
    match node.op:
        case Banded(body=body):
            return (body,)
        case Patched(bodies=bodies):
            return bodies[:1]
        case _:
            return ()


def _map(body: Graph, name: str, op: IntPack) -> PackedMap:
    value = body.value(name)
    return PackedMap(
        map=name,
        bits=op.digits.bits,
        codes=value.type.size,
        bytes=op.digits.bytes(value.shape),
    )
