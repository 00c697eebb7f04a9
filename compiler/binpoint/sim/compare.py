"""Equality of two witnesses: the first difference, by node, index and both values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.graph import Graph

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
            f"sample {self.sample}, node `{self.node}`, value `{self.value}` {self.type}, index {self.index}: "
            f"expected {self.expected}, found {self.found} ({self.count} of {self.size} elements)"
        )


def first_difference(
    graph: Graph, expected: Sequence[Values], found: Sequence[Values]
) -> Difference | None:
    """Compare the values that `found` has, in the graph's order, exactly."""
    order = [name for node in graph.nodes() for name in node.outputs]
    for sample, (want, have) in enumerate(zip(expected, found, strict=True)):
        for name in order:
            if name not in have:
                continue
            a, b = np.asarray(want[name]).astype(np.int64), np.asarray(have[name]).astype(np.int64)
            if a.shape == b.shape and np.array_equal(a, b):
                continue
            return _describe(graph, sample, name, a, b.reshape(a.shape) if a.size == b.size else b)
    return None


def _describe(
    graph: Graph, sample: int, name: str, a: NDArray[np.int64], b: NDArray[np.int64]
) -> Difference:
    node = graph.producer(name)
    different = a != b if a.shape == b.shape else np.ones(a.shape, bool)
    index = tuple(int(i) for i in np.argwhere(different)[0])
    return Difference(
        sample,
        name,
        node.name if node is not None else name,
        str(graph.value(name).type),
        index,
        int(a[index]),
        int(b[index]) if a.shape == b.shape else 0,
        int(different.sum()),
        int(a.size),
    )
