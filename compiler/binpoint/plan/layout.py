"""Where buffers lie once steps have an order: live ranges, offsets, and what is free meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from binpoint.ir.graph import Graph
from binpoint.plan.fuse import Step
from binpoint.plan.memory import Lifetime, Placement, aligned, place


def scratch_of(step: Step) -> str:
    """The name of the buffer that is a call's own memory."""
    return f"{step.name}:scratch"


@dataclass(frozen=True)
class Layout:
    """Steps in order, sizes of the buffers in the arena, and the buffer that each value lies in.

    `exact` as for `place`.
    """

    steps: tuple[Step, ...]
    graph: Graph
    sizes: Mapping[str, int]
    owner: Mapping[str, str]
    exact: bool

    @cached_property
    def _lives(self) -> tuple[list[Lifetime], dict[str, str]]:
        owners = dict(self.owner)
        return _lifetimes(self.steps, self.sizes, owners, self.graph), owners

    @property
    def owners(self) -> Mapping[str, str]:
        """The buffer of each value, where results take the memory of operands that die."""
        return self._lives[1]

    @cached_property
    def placement(self) -> Placement:
        """Offsets of the buffers."""
        return place(self._lives[0], exact=self.exact)

    def rooms(self, total: int) -> list[int]:
        """Bytes of an arena of `total` that no buffer has while each step runs."""
        lives = self._lives[0]
        return [
            total - sum(o.size for o in lives if o.start <= i <= o.stop)
            for i in range(len(self.steps))
        ]

    def having(self, changed: Mapping[str, Step]) -> Layout:
        """The same order with other calls of some steps, whose own memory has another size."""
        steps = tuple(changed.get(s.name, s) for s in self.steps)
        own = {scratch_of(s): aligned(s.call.memory) for s in changed.values()}
        sizes = {n: size for n, size in {**self.sizes, **own}.items() if size or n not in own}
        return replace(self, steps=steps, sizes=sizes)


def _lifetimes(
    steps: Sequence[Step], sizes: Mapping[str, int], owner: dict[str, str], graph: Graph
) -> list[Lifetime]:
    """Live ranges of buffers.

    An operand whose memory the result may take is joined with it if it dies there.
    """
    first: dict[str, int] = dict.fromkeys((owner[n] for n in graph.inputs), -1)
    last: dict[str, int] = {}
    for index, step in enumerate(steps):
        for name in step.writes:
            first.setdefault(owner[name], index)
            last[owner[name]] = max(index, last.get(owner[name], index))
        for name in step.reads:
            last[owner[name]] = index
        if step.call.memory and not step.alias:
            first[scratch_of(step)] = last[scratch_of(step)] = index
    for name in graph.outputs:
        last[owner[name]] = len(steps)
    _join(steps, sizes, owner, last)
    return [
        Lifetime(n, size, first[n], last.get(n, first[n]))
        for n, size in sorted(sizes.items())
        if owner.get(n, n) == n
    ]


def _join(
    steps: Sequence[Step], sizes: Mapping[str, int], owner: dict[str, str], last: dict[str, int]
) -> None:
    """In place: the result's buffer becomes the operand's.

    Where both lie in the arena and the operand dies.
    """
    for index, step in enumerate(steps):
        for operand in step.in_place:
            source, target = owner[operand], owner[step.writes[0]]
            if (
                source not in sizes
                or target not in sizes
                or last[source] != index
                or sizes[source] < sizes[target]
            ):
                continue
            last[source] = last.get(target, index)
            for name, root in owner.items():
                if root == target:
                    owner[name] = source
            break
