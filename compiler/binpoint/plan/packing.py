"""Which maps to pack: what the arena would be with some of them packed, estimated.

A layer that reads or writes a packed map works on bands of rows, unpacked into scratch memory
(`ops/banded.py`). Packing a map saves memory wherever it is live, and costs scratch memory and
instructions where it is written and read. The graph is made by `plan/packed_graph.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from binpoint.ir.graph import Graph
from binpoint.ops.copy import IntCopy
from binpoint.ops.halo import divisible, spatial, windowed
from binpoint.ops.packed import Digits
from binpoint.ops.patched import Patched, View, nodes_within
from binpoint.plan.direct import held, reads_digits, writes_digits
from binpoint.plan.fuse import Step
from binpoint.plan.memory import aligned
from binpoint.plan.program import Place, Program
from binpoint.plan.views import bytes_of

Names = frozenset[str]
_PARTS = (32, 16, 8, 4)
"""Of the memory that packing may save, what is given up for higher bands: one part in so many."""


def has_digits(graph: Graph) -> bool:
    """Whether any computed map has codes of less than seven bits; so it may pay to plan."""
    return any(
        Digits.of(holder.value(name))
        for holder, node in nodes_within(graph)
        for name in node.outputs
    )


@dataclass(frozen=True)
class Packing:
    """The maps of a net that can be packed; `program` is the plan without any.

    Of a part of a stage of patches (`part`) copies are crops, which move packed pixels as they are.
    """

    graph: Graph
    program: Program
    part: bool = False

    @cached_property
    def digits(self) -> dict[str, Digits]:
        """Of each map that can be packed: of a divisible layer, and in no other's memory."""
        shared = {n for s in self._steps if s.alias for n in (*s.reads, *s.writes)}
        shared |= {*self.graph.inputs, *self.graph.outputs}
        found: dict[str, Digits] = {}
        for step in self._steps:
            for name in step.writes:
                value = self.graph.value(name)
                digits = Digits.of(value)
                if digits is None or name in shared or name in self._crops:
                    continue
                if not self.divides(step) and not staged(step):
                    continue
                if digits.bytes(value.shape) < bytes_of(value):
                    found[name] = digits
        return found

    @property
    def _steps(self) -> tuple[Step, ...]:
        return self.program.steps

    def divides(self, step: Step) -> bool:
        """Whether a step can be computed in bands of rows."""
        return not step.alias and all(divisible(self.graph, node) for node in step.nodes)

    @cached_property
    def _crops(self) -> dict[str, str]:
        """Of each crop in a part of a stage, the map that it is of."""
        found: dict[str, str] = {}
        for step in self._steps:
            if self.part and isinstance(step.nodes[0].op, IntCopy):
                found[step.writes[0]] = found.get(step.reads[0], step.reads[0])
        return found

    def _touched(self, step: Step, packed: Names) -> Names:
        """What the step reads or writes of packed maps."""
        names = (*step.reads, *step.writes)
        return frozenset(n for n in names if self._crops.get(n, n) in packed)

    # ---- memory

    @cached_property
    def _roots(self) -> dict[str, str]:
        """The value whose memory each value lies in, of those in the arena."""
        placed = self.program.storage
        names = (*self.graph.inputs, *(n for s in self._steps for n in s.writes))
        roots = {name: name for name in names if placed[name].place is Place.ARENA}
        for step in self._steps:
            if step.alias and step.writes[0] in roots:
                roots[step.writes[0]] = roots.get(step.reads[0], step.writes[0])
        return roots

    @cached_property
    def _alive(self) -> list[Names]:
        """What is live while each step runs, and what dies there."""
        first: dict[str, int] = {}
        last: dict[str, int] = {}
        for index, step in enumerate(self._steps):
            for name in (*step.reads, *step.writes):
                root = self._roots.get(name)
                if root is not None:
                    first.setdefault(root, index)
                    last[root] = index
        for name in self.graph.inputs:
            if name in self._roots:
                first[name] = 0
                last.setdefault(name, 0)  # nothing reads it
        for name in self.graph.outputs:
            if name in self._roots:
                last[self._roots[name]] = len(self._steps)
        return [
            frozenset(n for n in first if first[n] <= i <= last[n]) for i in range(len(self._steps))
        ]

    def live(self, packed: Names, rows: Mapping[str, int]) -> list[int]:
        """Bytes of the arena while each step runs; bands are of one row, or of `rows` by step."""
        return [self._live(i, packed, rows.get(s.name, 1)) for i, s in enumerate(self._steps)]

    def _live(self, index: int, packed: Names, rows: int) -> int:
        step, alive = self._steps[index], self._alive[index]
        total = sum(self._size(name, packed) for name in alive) - self._taken(index, packed)
        if step.alias:
            return total
        return total + aligned(step.call.memory) + self._unpacked(step, packed, rows)

    def _size(self, name: str, packed: Names) -> int:
        value, root = self.graph.value(name), self._crops.get(name, name)
        return aligned(self.digits[root].bytes(value.shape) if root in packed else bytes_of(value))

    def _taken(self, index: int, packed: Names) -> int:
        """Memory that the result takes over from an operand which dies."""
        step = self._steps[index]
        touched = self._touched(step, packed)
        if touched and (not self.divides(step) or any(windowed(n.op) for n in step.nodes)):
            return 0
        after = self._alive[index + 1] if index + 1 < len(self._alive) else frozenset[str]()
        for name in step.in_place:
            source, target = self._roots.get(name), self._roots.get(step.writes[0])
            if source is None or target is None or source in after:
                continue
            if self._size(source, packed) >= self._size(target, packed):
                return self._size(target, packed)
        return 0

    def _unpacked(self, step: Step, packed: Names, rows: int) -> int:
        """Scratch memory for the rows of packed maps that a band reads and writes.

        A stage of patches has what it unpacks in its own, and a crop is of packed pixels.
        """
        if staged(step) or step.writes[0] in self._crops:
            return 0
        total = 0
        for name in self._touched(step, packed):
            value, digits = self.graph.value(name), self.digits[self._crops.get(name, name)]
            height = spatial(value)[0]
            count = min(height, self._rows(step, name, rows)) if self.divides(step) else height
            size = bytes_of(value) // height * count
            if name in step.reads and reads_digits(step.call, digits):
                size = 0
            elif name in step.writes and writes_digits(step.call, digits):
                size = held(step.call, digits)
            total += aligned(size)
        return total

    def _rows(self, step: Step, name: str, rows: int) -> int:
        window = windowed(step.nodes[0].op)
        if window is None or name in step.writes:
            return rows
        return (rows - 1) * window.strides[0] + window.reach[0]

    # ---- choice

    @cached_property
    def plain(self) -> int:
        """The estimate for no packed map."""
        return max(self.live(frozenset(), {}), default=0)

    def best(self) -> Names:
        """The maps to pack for the lowest peak, and of such sets one of few maps."""
        packed = frozenset(self.digits)
        while packed:
            rest = min((packed - {n} for n in sorted(packed)), key=self._key)
            if self._key(rest) >= self._key(packed):
                break
            packed = rest
        return self.fewest(packed, max(self.live(packed, {}), default=0))

    def fewest(self, packed: Names, peak: int) -> Names:
        """As few of these maps as keep within a peak, those that save least taken out first."""
        order = sorted(packed, key=lambda n: (-self.graph.value(n).type.size, n))
        for name in order:
            if max(self.live(packed - {name}, {}), default=0) <= peak:
                packed -= {name}
        return packed

    def _key(self, packed: Names) -> list[int]:
        """The peak, and where that is equal the next lower one."""
        return sorted(self.live(packed, {}), reverse=True)

    def peaks(self, packed: Names) -> list[int]:
        """The lowest peak that these maps allow, then some between that and no packed map."""
        least = max(self.live(packed, {}), default=0)
        room = max(0, self.plain - least)
        return [least, *(least + room // n for n in _PARTS)]

    def rows(self, packed: Names, peak: int) -> dict[str, int]:
        """Of each step in bands the most rows that do not raise the peak above this."""
        found: dict[str, int] = {}
        for index, step in enumerate(self._steps):
            if not self._touched(step, packed) or not self.divides(step):
                continue
            height = spatial(self.graph.value(step.writes[0]))[0]
            counts = sorted({-(-height // parts) for parts in range(1, height + 1)}, reverse=True)
            within = (n for n in counts if self._live(index, packed, n) <= peak)
            found[step.name] = next(within, 1)
        return found


def staged(step: Step) -> bool:
    """Whether it is a stage of patches that reads its operand as it is.

    One that counts outliers in it reads bytes.
    """
    op = step.nodes[0].op
    if not isinstance(op, Patched) or op.test or step.reads != op.bodies[0].inputs:
        return False
    return op.view == View.dense(op.source.shape)
