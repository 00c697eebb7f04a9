"""Values that lie within another's memory: operands of a Concat, and slices.

Where the operands of a Concat lie one after the other in its result, their producers write them
there, and the Concat has no code. A slice of neighbouring elements is a part of its operand. All
offsets are multiples of the alignment, as kernels read and write words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from binpoint.ir.graph import Graph, Value
from binpoint.ops.concat import IntConcat
from binpoint.ops.copy import IntCopy
from binpoint.plan.fuse import Step
from binpoint.plan.memory import ALIGNMENT


@dataclass(frozen=True, slots=True)
class Views:
    """Steps, and of each value the buffer that it lies in, and how many bytes behind its start."""

    steps: tuple[Step, ...]
    owner: dict[str, str]
    offset: Mapping[str, int]
    """Of values in buffers that have parts."""


def bytes_of(value: Value) -> int:
    """What a value takes in memory."""
    return value.type.size * value.elem.storage.dtype.itemsize


def whole(steps: tuple[Step, ...], graph: Graph) -> Views:
    """Every value in a buffer of its own, or in that of the value whose alias it is."""
    return _Parents(graph, steps).views(steps)


def placed(steps: tuple[Step, ...], graph: Graph) -> Views:
    """Concats and slices without copies where that can be; the others say why they copy."""
    parents = _Parents(graph, steps)
    return parents.views(tuple(parents.taken(step) for step in steps))


class _Parents:
    """Which value each value is a part of, and where in it."""

    def __init__(self, graph: Graph, steps: tuple[Step, ...]) -> None:
        self._graph = graph
        self._parent = {s.writes[0]: (s.reads[0], 0) for s in steps if s.alias}
        self._parts: set[str] = set()

    def place(self, name: str) -> tuple[str, int]:
        """The value that no other contains, and the offset in it."""
        offset = 0
        while name in self._parent:
            name, more = self._parent[name]
            offset += more
        return name, offset

    def taken(self, step: Step) -> Step:
        """The step, without code if its result can be a place."""
        op = step.nodes[0].op
        if step.alias:
            return step
        if isinstance(op, IntConcat):
            return self._joined(step, op)
        if isinstance(op, IntCopy) and self._slices(step, op):
            return replace(step, alias=True)
        return step

    def _joined(self, step: Step, op: IntConcat) -> Step:
        operands, (result,) = self._graph.arguments(step.nodes[0]), step.writes
        found: dict[str, tuple[str, int]] = {}
        at, reason = 0, ""
        if math.prod(operands[0].shape[: op.axis]) > 1:
            reason = "rows of its operands alternate"
        for value in operands:
            root, _ = self.place(value.name)
            if value.constant is not None:
                reason = reason or "an operand is constant"
            elif self._foreign(root) or bytes_of(self._graph.value(root)) != bytes_of(value):
                reason = reason or "an operand is an input or output, or part of another value"
            elif root in found:
                reason = reason or "an operand comes twice"
            elif at % ALIGNMENT:
                reason = reason or f"an operand would lie at byte {at}, off words"
            found[root] = (result, at)
            at += bytes_of(value)
        if reason:
            text = f"copied, as {reason}"
            note = f"{step.call.note}; {text}" if step.call.note else text
            return replace(step, call=replace(step.call, note=note))
        self._parent.update(found)
        self._parts.update(found)
        return replace(step, alias=True)

    def _slices(self, step: Step, op: IntCopy) -> bool:
        (operand,), (result,) = self._graph.arguments(step.nodes[0]), step.writes
        start = op.offset * operand.elem.storage.dtype.itemsize
        if operand.constant is not None or self._foreign(result) or start % ALIGNMENT:
            return False
        if not np.array_equal(op.indices, np.arange(op.indices.size) + op.offset):
            return False
        self._parent[result] = (operand.name, start)
        self._parts.add(result)
        return True

    def _foreign(self, root: str) -> bool:
        """Whether a value that shares all of this memory is the caller's."""
        callers = (*self._graph.inputs, *self._graph.outputs)
        return any(self.place(name)[0] == root for name in callers)

    def views(self, steps: tuple[Step, ...]) -> Views:
        """All buffers; that of a caller's value has its name. Nothing takes over a part."""
        names = (*self._graph.inputs, *(name for step in steps for name in step.writes))
        places = {name: self.place(name) for name in names}
        caller = {places[name][0]: name for name in self._graph.outputs}
        owner = {name: caller.get(root, root) for name, (root, _) in places.items()}
        shared = {owner[name] for name in self._parts}
        offset = {name: at for name, (_, at) in places.items() if owner[name] in shared}
        kept = tuple(
            replace(s, in_place=()) if shared & {owner[n] for n in (*s.in_place, *s.writes)} else s
            for s in steps
        )
        return Views(kept, owner, offset)
