"""Bias correction of quantized softmaxes, behind matrix products with their shares.

Shares A that were rounded do not add up to one. Their mean error β = E[softmax − A] over the
samples is an offset of all of them: (A + β)·V = A·V + β·Σ_k V_k (Pandey et al. 2023, Softmax bias
correction). The sum is one more row of V, its mean V̄, and β one more column of A, n·β for n keys:

    [A, n·β]·[V; V̄] = A·V + β·Σ_k V_k

so that it has no arithmetic of its own. With zero for n·β it is the product as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Node
from binpoint.ops.concat import Concat
from binpoint.ops.dense import MatMul
from binpoint.ops.pad import Pad
from binpoint.ops.reduce import Reduce
from binpoint.ops.softmax import Softmax
from binpoint.passes.samples import Samples
from binpoint.quantize.simulate import Simulation


@dataclass(frozen=True, slots=True)
class Place:
    """A product whose left operand is a softmax's, by names of nodes: of this and of the column."""

    softmax: str
    column: str
    product: str


def widen(graph: Graph) -> tuple[Place, ...]:
    """Give products with shares that only they read a column of zeros and a row of means.

    Only softmaxes over the last axis of a matrix without masks, whose shares have no type yet:
    masked keys are not to get a share.
    """
    found: list[Place] = []
    for node in graph.nodes():
        product = graph.sole_consumer(node.outputs[0]) if _is_plain(graph, node) else None
        if product is None or not isinstance(product.op, MatMul):
            continue
        shares, values = graph.arguments(product)
        if shares.name != node.outputs[0] or values.constant is not None or values.fixed:
            continue
        build = GraphBuilder(graph, product.name, product.origin)
        rank = len(shares.shape)
        none, last = (0,) * rank, (*(0,) * (rank - 1), 1)
        wide = build.one(Pad(none, last, 0.0), shares, hint=f"{product.name}_column")
        mean = build.one(Reduce((rank - 2,), True), values, hint=f"{product.name}_mean")
        deep = build.one(Concat(rank - 2), values, mean, hint=f"{product.name}_rows")
        graph.replace(replace(product, inputs=(wide.name, deep.name)))
        column = graph.producer(wide.name)
        assert column is not None
        found.append(Place(node.name, column.name, product.name))
    return tuple(found)


def _is_plain(graph: Graph, node: Node) -> bool:
    if not isinstance(node.op, Softmax) or len(node.inputs) > 1:
        return False
    (shares,) = graph.results(node)
    last = len(shares.shape) - 1
    free = shares.fixed is None and shares.name not in graph.outputs
    return free and last > 0 and node.op.axis == last


def correct_shares(
    real: Graph, typed: Graph, places: Sequence[Place], samples: Samples
) -> dict[str, float]:
    """Write n·β of each place into its column in `typed`; returns figures of the products' errors.

    The error is that of the products with rounded shares from those with exact ones, both of
    the rounded scores and values. Where β does not lower it, the product is as it was before
    `widen`, in both graphs.
    """
    errors = {place: _Errors() for place in places}
    names = {n for place in places for n in _names(typed, place)}
    simulation = Simulation(typed, rounded=True)
    for inputs in samples.inputs():
        arrays = simulation.outputs(inputs, frozenset(names))
        for place, found in errors.items():
            scores, shares, values = (arrays[n] for n in _names(typed, place))
            (exact,) = typed.node(place.softmax).op.reference(scores)
            found.add(exact, shares, values)
    left: list[float] = []
    for place, found in errors.items():
        node = typed.node(place.column)
        (shares,) = typed.results(node)
        assert isinstance(node.op, Pad)
        assert shares.fixed is not None
        count = shares.shape[-1] - 1
        code = shares.fixed.quantize(np.array(found.mean * count))
        value = float(shares.fixed.dequantize(code))
        left.append(found.left(value / count))
        if left[-1] < found.squares:
            typed.replace(replace(node, op=replace(node.op, value=value)))
            continue
        left[-1] = found.squares
        _, *operands = _names(typed, place)
        for graph in (real, typed):
            graph.replace(replace(graph.node(place.product), inputs=tuple(operands)))
    before, power = (sum(e.squares for e in errors.values()), sum(e.power for e in errors.values()))
    corrected = sum(v < e.squares for v, e in zip(left, errors.values(), strict=True))
    shown = {"error_before": before, "error_after": sum(left)}
    return {
        "softmaxes": len(places),
        "corrected": corrected,
        **{name: float(f"{error / (power or 1.0):.4g}") for name, error in shown.items()},
    }


def _names(graph: Graph, place: Place) -> tuple[str, str, str]:
    """Scores, shares, and values without their mean."""
    softmax, product = graph.node(place.softmax), graph.node(place.product)
    rows = graph.producer(product.inputs[1])
    assert rows is not None
    return softmax.inputs[0], softmax.outputs[0], rows.inputs[0]


class _Errors:
    """Sums over samples: of errors e of a product, of the sums c of its right operand's rows."""

    def __init__(self) -> None:
        self.power = self.squares = 0.0
        self._both = self._sums = self._total = 0.0
        self._count = 0

    def add(self, exact: NDArray[Any], shares: NDArray[Any], v: NDArray[Any]) -> None:
        """One sample."""
        apart: NDArray[np.float64] = exact.astype(np.float64) - shares
        error, right = apart @ v, v.sum(axis=-2, keepdims=True, dtype=np.float64)
        self.power += float(np.square(exact @ v, dtype=np.float64).sum())
        self.squares += float(np.square(error).sum())
        self._both += float((error * right).sum())
        self._sums += float(np.square(right).sum()) * error.shape[-2]
        self._total += float(apart.sum())
        self._count += apart.size

    @property
    def mean(self) -> float:
        """β."""
        return self._total / self._count

    def left(self, beta: float) -> float:
        """Squares of what is left of the errors: Σ (e − β·c)²."""
        return self.squares - 2 * beta * self._both + beta**2 * self._sums
