"""pack-maps: maps of narrow codes share bytes in the arena, where that saves memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from binpoint.ir.graph import Graph
from binpoint.ops.patched import Patched
from binpoint.passes.base import Context, Effect, Pass, Stage
from binpoint.plan.arrange import arrange
from binpoint.plan.pack_stages import PackedStages
from binpoint.plan.packed_graph import with_packed
from binpoint.plan.packing import Packing, has_digits
from binpoint.plan.patches import undivided
from binpoint.plan.program import Program
from binpoint.target import McuTarget


@dataclass(frozen=True, slots=True)
class PackMaps(Pass):
    """Keep maps of six bits or less in as many bits of memory.

    1. The maps are those that give the lowest arena, and as few of them as do. Bands are higher,
       which is cheaper, where they give up a part of that. In stages of patches they are those of
       bodies of narrow codes; patches of the other body are computed in parts then.
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
        found = self._stages(graph, plain, context) or (graph, plain)
        found = self._packed(*found, plain, context) or found
        if uniform:
            other_plan = arrange(whole, options, target)
            other = self._packed(whole, other_plan, other_plan, context)
            if other is not None and other[1].arena_bytes <= found[1].arena_bytes:
                found = other
        return found[0]

    def _stages(
        self, graph: Graph, plain: Program, context: Context
    ) -> tuple[Graph, Program] | None:
        """The graph with packed maps in its stages of patches, if there is reason to."""
        target, options = context.target, context.options
        assert isinstance(target, McuTarget)
        stages = PackedStages(graph, plain, options, target)
        if not stages.stages:
            return None
        if options.packed_maps == "always":
            made = stages.everything()
            return made, arrange(made, options, target)
        for peak in stages.goals():
            made = stages.within(peak)
            program = arrange(made, options, target)
            if self._pays(plain, program, plain, context):
                return made, program
        return None

    def _packed(
        self, graph: Graph, program: Program, plain: Program, context: Context
    ) -> tuple[Graph, Program] | None:
        """The graph with packed maps outside of stages and its plan, if there is reason to."""
        target, options = context.target, context.options
        assert isinstance(target, McuTarget)
        packing = Packing(graph, program)
        always = options.packed_maps == "always"
        names = frozenset(packing.digits) if always else packing.best()
        if not names:
            return None
        for peak in packing.peaks(names):
            made = with_packed(packing, names, packing.rows(names, peak))
            packed = arrange(made, options, target)
            if always or self._pays(program, packed, plain, context):
                return made, packed
        return None

    def _pays(self, before: Program, after: Program, plain: Program, context: Context) -> bool:
        """Whether the arena falls, and what that takes of the plain plan's cycles is allowed."""
        assert isinstance(context.target, McuTarget)
        if after.arena_bytes >= before.arena_bytes:
            return False
        limit = context.target.budget("arena")
        fits = limit is None or before.arena_bytes <= limit
        if context.options.optimize == "ram" or not fits:
            return True
        cycles, first = after.planned_cycles, plain.planned_cycles
        return cycles is None or first is None or cycles <= first * (1 + self.extra)
