"""Bias correction of quantized softmaxes, behind matrix products with their shares.

Shares A that were rounded do not add up to one. Their mean error β = E[softmax − A] over the
samples is an offset of all of them: (A + β)·V = A·V + β·Σ_k V_k (Pandey et al. 2023, Softmax bias
correction), with a β for all heads or for each. The sum is one more row of V, its mean V̄, and β one
more column of A, n·β for n keys:

    [A, n·β]·[V; V̄] = A·V + β·Σ_k V_k

so that it has no arithmetic of its own. With zero for n·β it is the product as it was.

Where some keys are masked, as with causal attention, keys are taken in blocks of neighbours: a row
has n·β for a block if it sees all keys of it, and else zero, so that no masked key gets a share.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Graph, Node, Value
from binpoint.numeric.fixed import FixedType
from binpoint.ops.concat import Concat
from binpoint.ops.dense import MatMul
from binpoint.ops.reduce import Reduce
from binpoint.ops.shape import reshape_value
from binpoint.ops.slices import take_value
from binpoint.ops.softmax import Softmax
from binpoint.options import CompileOptions
from binpoint.passes.samples import Samples
from binpoint.quantize.simulate import Simulation
from binpoint.quantize.weights import replace_operand

_Floats = NDArray[np.float64]
_BLOCKS = 8
"""Of keys where some are masked, at most."""
_KEYS = 4
"""Of a block, at least."""


@dataclass(frozen=True, slots=True)
class Place:
    """A product whose left operand is a softmax's, by names of nodes: of this and of the columns.

    `size` is how many keys a block has; `seen` which rows see all keys of which blocks,
    ``[…, M, blocks]``.
    """

    softmax: str
    columns: str
    product: str
    size: int
    seen: NDArray[np.bool_]


def widen(graph: Graph, options: CompileOptions) -> tuple[Place, ...]:
    """Give products with shares that only they read columns of zeros and rows of means.

    Only softmaxes over the last axis of a matrix, with masks that are constants, whose shares have
    no type yet; with ``softmax_correction=auto`` of at least as many keys as shares have codes, so
    that the mean share is no more than a step.
    """
    if options.softmax_correction == "none" or graph.rational:
        return ()
    least = 1 << options.activation_bits if options.softmax_correction == "auto" else 1
    found: list[Place] = []
    for node in graph.nodes():
        reader = graph.sole_consumer(node.outputs[0]) if _is_plain(graph, node) else None
        if reader is None or not isinstance(reader.op, MatMul):
            continue
        shares, values = graph.arguments(reader)
        if shares.name != node.outputs[0] or values.constant is not None or values.fixed:
            continue
        if shares.shape[-1] < least:
            continue
        size, seen = _blocks(graph, node, shares)
        if not seen.any():
            continue
        build = GraphBuilder(graph, reader.name, reader.origin)
        axis = len(shares.shape) - 1
        zeros = build.constant(np.zeros(seen.shape, np.float32), hint=f"{reader.name}_columns")
        wide = build.one(Concat(axis), shares, zeros, hint=f"{reader.name}_shares")
        means = _means(build, values, size, seen.shape[-1])
        deep = build.one(Concat(axis - 1), values, means, hint=f"{reader.name}_rows")
        graph.replace(replace(reader, inputs=(wide.name, deep.name)))
        columns = graph.producer(wide.name)
        assert columns is not None
        found.append(Place(node.name, columns.name, reader.name, size, seen))
    return tuple(found)


def _is_plain(graph: Graph, node: Node) -> bool:
    if not isinstance(node.op, Softmax) or any(
        v.constant is None for v in graph.arguments(node)[1:]
    ):
        return False
    (shares,) = graph.results(node)
    last = len(shares.shape) - 1
    free = shares.fixed is None and shares.name not in graph.outputs
    return free and last > 0 and node.op.axis == last


def _blocks(graph: Graph, node: Node, shares: Value) -> tuple[int, NDArray[np.bool_]]:
    """How many keys a block has, and who sees which: all keys are one, unless some are masked."""
    kept = np.ones(shares.shape, np.bool_)
    for mask in graph.arguments(node)[1:]:
        kept &= constant_array(mask) != 0
    keys = shares.shape[-1]
    count = 1 if kept.all() else max(1, min(_BLOCKS, keys // _KEYS))
    size = keys // count
    parts = kept[..., : count * size].reshape(*kept.shape[:-1], count, size)
    seen: NDArray[np.bool_] = np.logical_and.reduce(parts, axis=-1)
    # Blocks at the end that nobody sees whole need no means.
    used = int(np.flatnonzero(seen.reshape(-1, count).any(axis=0)).max(initial=-1)) + 1
    return size, seen[..., :used]


def _means(build: GraphBuilder, values: Value, size: int, count: int) -> Value:
    """The means of the first blocks of rows, ``[…, count, D]``."""
    *lead, _, depth = values.shape
    axes = (*map(range, lead), range(count * size), range(depth))
    rows = reshape_value(build, take_value(build, values, axes), (*lead, count, size, depth))
    mean = build.one(Reduce((len(lead) + 1,), True), rows, hint=f"{build.hint}_means")
    return reshape_value(build, mean, (*lead, count, depth))


def correct_shares(
    real: Graph,
    typed: Graph,
    places: Sequence[Place],
    samples: Samples,
    *,
    heads: bool,
    worthwhile: float = 1.0,
) -> tuple[tuple[Place, ...], dict[str, float]]:
    """Write n·β of each place into its columns in `typed`; returns which, and figures of errors.

    The error is that of the products with rounded shares from those with exact ones, both of
    the rounded scores and values. Where β does not bring it below `worthwhile` of what it was, the
    product is as it was before `widen`, in both graphs. With `heads` each matrix of the axis before
    the last two has its own β.
    """
    errors = [_Errors(place) for place in places]
    names = {n for place in places for n in _names(typed, place)}
    simulation = Simulation(typed, rounded=True)
    for inputs in samples.inputs():
        arrays = simulation.outputs(inputs, frozenset(names))
        for place, found in zip(places, errors, strict=True):
            scores, shares, values = (arrays[n] for n in _names(typed, place))
            node = typed.node(place.softmax)
            masks = (constant_array(v) for v in typed.arguments(node)[1:])
            (exact,) = node.op.reference(scores, *masks)
            found.add(exact, shares, values)
    before = after = power = 0.0
    corrected: list[Place] = []
    for place, found in zip(places, errors, strict=True):
        (squares, left), codes = found.corrected(_kind(typed, place), heads=heads)
        keeps = left < worthwhile * squares
        if keeps:
            corrected.append(place)
            replace_operand(typed, typed.node(place.columns), 1, codes, _kind(typed, place))
        else:
            narrow((real, typed), (place,))
        before, after = before + squares, after + (left if keeps else squares)
        power += found.power
    shown = {"error_before": before, "error_after": after}
    return tuple(corrected), {
        "softmaxes": len(places),
        "corrected": len(corrected),
        **{name: float(f"{error / (power or 1.0):.4g}") for name, error in shown.items()},
    }


def narrow(graphs: Iterable[Graph], places: Iterable[Place]) -> None:
    """Let products be as they were before `widen`."""
    for graph, place in product(graphs, places):
        node = graph.node(place.product)
        _, *operands = _names(graph, place)
        graph.replace(replace(node, inputs=tuple(operands)))


def _kind(graph: Graph, place: Place) -> FixedType:
    """The type of the shares."""
    kind = graph.arguments(graph.node(place.columns))[0].fixed
    assert kind is not None
    return kind


def _names(graph: Graph, place: Place) -> tuple[str, str, str]:
    """Scores, shares, and values without their means."""
    softmax, node = graph.node(place.softmax), graph.node(place.product)
    rows = graph.producer(node.inputs[1])
    assert rows is not None
    return softmax.inputs[0], softmax.outputs[0], rows.inputs[0]


class _Errors:
    """Of a product, over samples: its errors, and the means of its right operand's rows.

    `power` is that of the products of exact shares.
    """

    def __init__(self, place: Place) -> None:
        """Of no sample."""
        self._place = place
        self._heads = place.seen.shape[:-2][-1:] or (1,)
        self._keys = np.repeat(place.seen, place.size, axis=-1).astype(np.float64)
        self._samples: list[tuple[_Floats, _Floats]] = []
        self._shift: _Floats = np.zeros(self._heads)
        self.power = 0.0

    def add(self, exact: NDArray[Any], shares: NDArray[Any], v: NDArray[Any]) -> None:
        """One sample."""
        apart: _Floats = exact.astype(np.float64) - shares
        count = self._keys.shape[-1]
        blocks = v[..., :count, :].reshape(*v.shape[:-2], -1, self._place.size, v.shape[-1])
        self._samples.append((apart @ v, blocks.mean(axis=-2, dtype=np.float64)))
        self._shift = self._shift + self._summed(apart[..., :count] * self._keys)
        self.power += float(np.square(exact @ v, dtype=np.float64).sum())

    def corrected(
        self, kind: FixedType, *, heads: bool
    ) -> tuple[tuple[float, float], NDArray[np.integer]]:
        """The squared errors without and with columns, and their codes in the type of the shares.

        Columns of a row are rounded so that their sum is right to half a step. A head has none
        where they do not help.
        """
        betas = self._shift / (len(self._samples) * np.maximum(self._summed(self._keys), 1.0))
        betas = betas if heads else np.full_like(betas, betas.mean())
        sums = np.cumsum(self._place.seen * self._place.size * self._spread(betas), axis=-1)
        sums = np.rint(sums / float(kind.scale)) * float(kind.scale)
        columns = kind.dequantize(kind.quantize(np.diff(sums, axis=-1, prepend=0.0)))
        squares = self._power(e for e, _ in self._samples)
        left = self._power(e - columns @ m for e, m in self._samples)
        helps = self._spread(left < squares)
        codes = kind.quantize(np.where(helps, columns, 0.0)).astype(kind.storage.dtype)
        codes = codes.reshape(self._place.seen.shape)
        return (float(squares.sum()), float(np.minimum(left, squares).sum())), codes

    def _power(self, errors: Iterable[_Floats]) -> _Floats:
        """Of each head."""
        return np.sum([self._summed(np.square(error)) for error in errors], axis=0)

    def _summed(self, array: _Floats) -> _Floats:
        """Over all of a head."""
        rows, columns = array.shape[-2:]
        return array.reshape(-1, *self._heads, rows * columns).sum(axis=(0, 2))

    def _spread(self, each: NDArray[Any]) -> NDArray[Any]:
        """One of each head, beside its matrices."""
        return each.reshape(-1, 1, 1)
