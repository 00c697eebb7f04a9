"""Equality of two witnesses: the first difference, by node, index and both values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.errors import VerificationError
from binpoint.ir.graph import Graph, Value

Values = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first value in order that differs, in the first sample where one does."""

    sample: int
    value: str
    node: str
    type: str
    index: tuple[int, ...]
    expected: int
    found: int
    count: int
    size: int

    def __str__(self) -> str:
        """One paragraph."""
        return (
            f"sample {self.sample}, node `{self.node}`, value `{self.value}` {self.type}, "
            f"index {self.index}: expected {self.expected}, found {self.found} "
            f"({self.count} of {self.size} elements)"
        )


def first_difference(
    graph: Graph,
    expected: Sequence[Values],
    found: Sequence[Values],
    more: Sequence[Place] = (),
) -> Difference | None:
    """Compare the values that `found` has, in the graph's order, then `more`, exactly."""
    order = {name: node.name for node in graph.nodes() for name in node.outputs}
    places = [Place(graph.value(name), node) for name, node in order.items()]
    return first_of([*places, *more], expected, found)


@dataclass(frozen=True, slots=True)
class Place:
    """A value to compare, and the node that computes it."""

    value: Value
    node: str


def first_of(
    places: Sequence[Place], expected: Sequence[Values], found: Sequence[Values]
) -> Difference | None:
    """Compare the values that `found` has, in this order, exactly.

    Raises:
        VerificationError: the witness gives another number of samples, or none of the values.
    """
    if len(expected) != len(found) or not all(
        any(p.value.name in have for p in places) for have in found
    ):
        raise VerificationError(
            "a witness gives other values than it was asked for", have=f"{len(found)} samples"
        )
    for sample, (want, have) in enumerate(zip(expected, found, strict=True)):
        for place in places:
            name = place.value.name
            if name not in have:
                continue
            a, b = np.asarray(want[name]).astype(np.int64), np.asarray(have[name]).astype(np.int64)
            if a.shape == b.shape and np.array_equal(a, b):
                continue
            return _describe(place, sample, a, b.reshape(a.shape) if a.size == b.size else b)
    return None


def _describe(place: Place, sample: int, a: NDArray[np.int64], b: NDArray[np.int64]) -> Difference:
    different = a != b if a.shape == b.shape else np.ones(a.shape, bool)
    where = np.argwhere(different)
    index = tuple(int(i) for i in where[0]) if len(where) else ()
    return Difference(
        sample,
        place.value.name,
        place.node,
        str(place.value.type),
        index,
        int(a[index]) if len(where) else 0,
        int(b[index]) if a.shape == b.shape and len(where) else 0,
        int(different.sum()),
        int(a.size),
    )
