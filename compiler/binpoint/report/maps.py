"""The report on maps whose codes share bytes in the arena."""

from __future__ import annotations

import msgspec

from binpoint.ir.graph import Graph
from binpoint.ops.banded import Banded
from binpoint.ops.packed import IntPack
from binpoint.options import CompileOptions
from binpoint.plan.arrange import arrange
from binpoint.plan.packing import unpacked
from binpoint.plan.program import Program
from binpoint.target import McuTarget


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all parts of this report."""


class PackedMap(_Table, frozen=True):
    """A map of narrow codes.

    Attributes:
        map: its name in the graph.
        bits: of a code.
        codes: how many there are: its bytes without packing.
        bytes: what it takes.
    """

    map: str
    bits: int
    codes: int
    bytes: int


class PackedMaps(_Table, frozen=True):
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
    maps = tuple(
        _map(node.op.body, inner.inputs[0], inner.op)
        for node in program.graph.nodes()
        if isinstance(node.op, Banded)
        for inner in node.op.body.nodes()
        if isinstance(inner.op, IntPack)
    )
    if not maps:
        return None
    plain = arrange(unpacked(program.graph), options, target)
    return PackedMaps(
        maps=maps, arena_plain_bytes=plain.arena_bytes, arena_packed_bytes=program.arena_bytes
    )


def _map(body: Graph, name: str, op: IntPack) -> PackedMap:
    value = body.value(name)
    return PackedMap(
        map=name,
        bits=op.digits.bits,
        codes=value.type.size,
        bytes=op.digits.bytes(value.shape),
    )
