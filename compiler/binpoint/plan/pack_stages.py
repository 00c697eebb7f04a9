"""Stages of patches that need less memory: packed maps in their bodies, patches in parts.

The scratch memory of a stage is what the largest patch of any of its bodies needs. In a body of
narrow codes maps are packed. One of codes of a byte, which some patches have for the sake of their
outliers, would need as much as before: its patches are computed in parts, with halos of their own,
which keeps every value (`ops/halo.py`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

from binpoint.ir.graph import Graph, Node
from binpoint.ops.halo import work_of
from binpoint.ops.patched import Patch, Patched
from binpoint.options import CompileOptions
from binpoint.plan.arrange import arrange
from binpoint.plan.packed_graph import with_packed
from binpoint.plan.packing import Packing, has_digits
from binpoint.plan.program import Piece, Program, Stage
from binpoint.plan.stage import piece_of
from binpoint.target import McuTarget

_PARTS = (32, 16, 8, 4, 2)
"""Of the memory that may be saved, what is given up for less work: one part in so many."""
_MOST_SHARES = 4
"""Parts of a patch at most."""


@dataclass(frozen=True)
class PackedStages:
    """The stages of a net with the plan `program`, and what they can do with less memory."""

    graph: Graph
    program: Program
    options: CompileOptions
    target: McuTarget | None

    @cached_property
    def stages(self) -> dict[str, Bodies]:
        """By node, those with a body of narrow codes; not those where any patch may be wide."""
        found: dict[str, Bodies] = {}
        for step in self.program.steps:
            node = step.nodes[0]
            if not isinstance(node.op, Patched) or node.op.test is not None:
                continue
            if any(has_digits(node.op.bodies[i]) for i in node.op.used):
                found[node.name] = Bodies(self, node, node.op, self.program.stages[step.name])
        return found

    @cached_property
    def live(self) -> dict[str, int]:
        """Bytes of the arena while each step runs, by its first node."""
        live = Packing(self.graph, self.program).live(frozenset(), {})
        return {s.nodes[0].name: n for s, n in zip(self.program.steps, live, strict=True)}

    def kept(self, name: str) -> int:
        """Bytes that are live beside the scratch memory of a stage."""
        return self.live[name] - self.stages[name].bytes

    @cached_property
    def least(self) -> int:
        """The lowest peak that is possible."""
        rest = max((n for name, n in self.live.items() if name not in self.stages), default=0)
        floors = (self.kept(name) + bodies.least for name, bodies in self.stages.items())
        return max([rest, *floors])

    def goals(self) -> list[int]:
        """The lowest peak, then some between that and the present one."""
        room = max(0, max(self.live.values(), default=0) - self.least)
        return list(dict.fromkeys([self.least, *(self.least + room // n for n in _PARTS)]))

    def within(self, peak: int) -> Graph:
        """The graph with the stages above a peak in less memory."""
        return self._with({n: b.within(peak - self.kept(n)) for n, b in self.stages.items()})

    def everything(self) -> Graph:
        """The graph with all maps packed that can be, in the narrowest bands."""
        return self._with({name: bodies.everything() for name, bodies in self.stages.items()})

    def _with(self, made: Mapping[str, Patched]) -> Graph:
        graph = self.graph.copy()
        for name, op in made.items():
            graph.replace(replace(graph.node(name), op=op))
        return graph

    def plan(self, graph: Graph, inside: tuple[str, ...]) -> Program:
        """The plan of a graph of its own."""
        return arrange(graph, self.options, self.target, inside)


@dataclass(frozen=True)
class Bodies:
    """The bodies of a stage."""

    of: PackedStages
    node: Node
    op: Patched
    stage: Stage

    @property
    def bytes(self) -> int:
        """The stage's scratch memory."""
        return self.stage.bytes

    @cached_property
    def largest(self) -> dict[int, Piece]:
        """Of each body the piece that needs the most memory."""
        found: dict[int, Piece] = {}
        for patch, call in zip(self.op.patches, self.stage.patches, strict=True):
            (body,) = patch.bodies
            piece = self.stage.pieces[call.piece]
            best = found.setdefault(body, piece)
            if piece.program.arena_bytes > best.program.arena_bytes:
                found[body] = piece
        return found

    @cached_property
    def packings(self) -> dict[int, Packing]:
        """Of each body of narrow codes what its largest piece has of maps."""
        found = ((i, piece.program) for i, piece in self.largest.items())
        made = {i: Packing(program.graph, program, part=True) for i, program in found}
        return {i: packing for i, packing in made.items() if packing.digits}

    @cached_property
    def least(self) -> int:
        """The least scratch memory that all bodies can do with."""
        narrow = [max(p.live(p.best(), {}), default=0) for p in self.packings.values()]
        goal = max(narrow, default=self.bytes)
        wide = (self._divided(i, goal)[1] for i in self.largest if i not in self.packings)
        return min(self.bytes, max([goal, *wide]))

    def within(self, limit: int) -> Patched:
        """The stage in so much scratch memory, if it can be; at little cost in work."""
        op = self.op
        for index, piece in self.largest.items():
            if piece.program.arena_bytes <= limit:
                continue
            if index in self.packings:
                op = _with_body(op, index, self._packed(index, limit))
            else:
                op = _with_shares(op, index, self._divided(index, limit)[0])
        return op

    def everything(self) -> Patched:
        """The stage with all maps packed that can be."""
        op = self.op
        for index, packing in self.packings.items():
            names = frozenset(packing.digits)
            body = with_packed(self._body(index), names, packing.rows(names, 0))
            op = _with_body(op, index, body)
        return op

    def _body(self, index: int) -> Packing:
        body = self.op.bodies[index]
        return Packing(body, self.of.plan(body, ()))

    def _packed(self, index: int, limit: int) -> Graph:
        """The body with as few maps packed as keep within a limit."""
        packing = self.packings[index]
        names = packing.best()
        limit = max(limit, max(packing.live(names, {}), default=0))
        names = packing.fewest(names, limit)
        return with_packed(self._body(index), names, packing.rows(names, limit))

    def _divided(self, index: int, limit: int) -> tuple[tuple[int, ...], int]:
        """The parts of a body's patches that keep within a limit at the least work, or need least.

        With the scratch memory that they need.
        """
        found: list[tuple[int, tuple[int, ...]]] = []
        for shares in self._ways(index):
            need = self._need(index, shares)
            found.append((need, shares))
            if need <= limit:
                break
        need, shares = found[-1] if found[-1][0] <= limit else min(found)
        return shares, need

    def _ways(self, index: int) -> list[tuple[int, ...]]:
        """Parts along the axes, those of the least work first."""
        counts = (range(1, min(_MOST_SHARES, n) + 1) for n in self.op.extents)
        ways = (way for way in itertools.product(*counts) if math.prod(way) <= _MOST_SHARES)
        return sorted(ways, key=lambda way: (self._work(index, way), way))

    def _shared(self, index: int, shares: tuple[int, ...]) -> list[tuple[Patch, Graph]]:
        op = _with_shares(self.op, index, shares)
        pairs = zip(op.patches, op.parts, strict=True)
        return [(patch, part) for patch, (part, *_) in pairs if patch.bodies == (index,)]

    def _work(self, index: int, shares: tuple[int, ...]) -> int:
        return work_of([part for _, part in self._shared(index, shares)]).macs

    def _need(self, index: int, shares: tuple[int, ...]) -> int:
        """The scratch memory of the part with the largest maps."""
        graph = self.of.graph
        (x,), (y,) = graph.arguments(self.node), graph.results(self.node)
        patch, part = max(self._shared(index, shares), key=lambda pair: _volume(pair[1]))
        make = partial(piece_of, self.op, patch, (x, part, y))
        return make(self.of.options, self.of.target, arrange).program.arena_bytes


def _volume(part: Graph) -> int:
    return sum(value.type.size for value in part.values() if value.constant is None)


def _with_body(op: Patched, index: int, body: Graph) -> Patched:
    bodies = (*op.bodies[:index], body, *op.bodies[index + 1 :])
    return replace(op, bodies=bodies)


def _with_shares(op: Patched, index: int, shares: tuple[int, ...]) -> Patched:
    ones = (1,) * len(op.extents)
    old = op.shares or (ones,) * len(op.bodies)
    return replace(op, shares=(*old[:index], shares, *old[index + 1 :]))
