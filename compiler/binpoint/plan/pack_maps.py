"""pack-maps: maps of narrow codes share bytes in the arena, where that saves memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from binpoint.ir.graph import Graph
from binpoint.ops.patched import Patched
from binpoint.passes.base import Context, Effect, Pass, Stage
from binpoint.plan.arrange import arrange
from binpoint.plan.packing import Packing, has_digits
from binpoint.plan.patches import undivided
from binpoint.plan.program import Program
from binpoint.target import McuTarget


@dataclass(frozen=True, slots=True)
class PackMaps(Pass):
    """Keep maps of four, two or one bits in as many bits of memory.

    1. The maps are those that give the lowest arena, and as few of them as do. Bands are higher,
       which is cheaper, where they give up a part of that.
    2. With ``packed_maps = "auto"`` this is done where the kernels are modelled to take at most
       `extra` more cycles, as a fraction; at any price with ``optimize = "ram"``, or where the
       plan does not fit the target otherwise.
    3. Where whole layers with packed maps need no more memory than patches of them do, there are
       no patches.
    """

    name: ClassVar[str] = "pack-maps"
    before: ClassVar[Stage] = Stage.INTEGER
    after: ClassVar[Stage] = Stage.INTEGER
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    extra: float = 0.1

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        target, options = context.target, context.options
        if not isinstance(target, McuTarget) or options.packed_maps == "never":
            return graph
        stages = [n.op for n in graph.nodes() if isinstance(n.op, Patched)]
        uniform = stages and all(len(op.bodies) == 1 for op in stages)
        whole = undivided(graph) if uniform else graph
        if not (has_digits(graph) or has_digits(whole)):
            return graph
        plain = arrange(graph, options, target)
        found = self._packed(graph, plain, context)
        if uniform:
            other = self._packed(whole, arrange(whole, options, target), context)
            if (
                other is not None
                and other[1].arena_bytes <= (found or (graph, plain))[1].arena_bytes
            ):
                found = other
        return graph if found is None else found[0]

    def _packed(
        self, graph: Graph, plain: Program, context: Context
    ) -> tuple[Graph, Program] | None:
        """The graph with packed maps and its plan, if there is reason to."""
        target, options = context.target, context.options
        assert isinstance(target, McuTarget)
        packing = Packing(graph, plain)
        always = options.packed_maps == "always"
        names = frozenset(packing.digits) if always else packing.best()
        if not names:
            return None
        limit = target.budget("arena")
        needed = options.optimize == "ram" or (limit is not None and plain.arena_bytes > limit)
        for peak in packing.peaks(names):
            made = packing.graph_of(names, packing.rows(names, peak))
            program = arrange(made, options, target)
            if always or (needed and program.arena_bytes < plain.arena_bytes):
                return made, program
            if program.arena_bytes < plain.arena_bytes and self._cheap(plain, program):
                return made, program
        return None

    def _cheap(self, plain: Program, packed: Program) -> bool:
        before, after = plain.planned_cycles, packed.planned_cycles
        return before is None or after is None or after <= before * (1 + self.extra)
