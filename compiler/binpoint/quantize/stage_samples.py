"""A stage on samples: what coarser maps and weights cost, and weights and biases that make up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.graph import Graph, Node
from binpoint.ir.op import IntegerOp
from binpoint.numeric.fixed import FixedType
from binpoint.ops.conv import IntConv
from binpoint.ops.dense import IntDense
from binpoint.quantize.coarsen import recoded, steps_of
from binpoint.quantize.compensate import POSITIONS, Moments, Rounded, compensated, operands, total
from binpoint.quantize.narrow import Floats, linear_of, narrowed

Array = NDArray[Any]
Maps = Mapping[str, Sequence[Array]]
"""Codes ``[1, *spatial, C]`` of each sample by name; without sums that are rounded as they come."""
Masks = Mapping[str, Sequence[NDArray[np.bool_]]]
"""Which positions of each map count, ``[*spatial]`` of each sample."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """Weights of fewer bits by layer, and a stage with them in each precision asked for."""

    weights: Mapping[str, Rounded]
    bodies: tuple[Graph, ...]


def fitted(
    body: Graph,
    kinds: Sequence[tuple[Mapping[str, FixedType], Masks]],
    bits: Mapping[str, int],
    maps: Maps,
) -> Fitted:
    """The stage with maps of other types, and with weights and biases that make up for them.

    Layer by layer in the order of execution, over the positions of the patches: weights of `bits`
    are fitted to what the layers before give in all `kinds` together, and what the sums of a
    channel are too large in the mean is taken off the bias of each, as `bias_correction` does.

    Args:
        body: the stage as it is.
        kinds: types of maps, and where patches have them.
        bits: of the weights of some layers of `linear_of`, by name.
        maps: of the stage as it is, on samples.
    """
    tracks = [_Track(body, types, masks, maps) for types, masks in kinds]
    weights: dict[str, Rounded] = {}
    linear = {node.name for node in linear_of(body)}
    for node in body.nodes():
        if node.name in bits:
            moments = total([track.moments(node) for track in tracks])
            width = bits[node.name]
            weights[node.name] = compensated(rows_of(body, node), moments, (width,))[width]
        exact = _results(body, node, maps) if node.name in linear else ()
        for track in tracks:
            track.step(node, weights, exact)
    return Fitted(weights, tuple(track.made(weights) for track in tracks))


class _Track:
    """A precision of a stage, computed layer by layer."""

    def __init__(
        self, body: Graph, types: Mapping[str, FixedType], masks: Masks, maps: Maps
    ) -> None:
        self.body, self.types, self.masks, self.maps = body, types, masks, maps
        self.shifts: dict[str, Floats] = {}
        self.graph = narrowed(body, types)
        (start,) = body.inputs
        self.arrays: dict[str, Sequence[Array]] = {start: maps[start]}
        self.last = {name: node.name for node in body.nodes() for name in node.inputs}

    def moments(self, node: Node) -> Moments:
        """Of what a linear op reads, as it was and as it is."""
        name, now = node.inputs[0], self.arrays[node.inputs[0]]
        new = None if now is self.maps[name] else self.graph.value(name).elem
        return moments_of(self.body, node, self.maps[name], self.masks, now, new)

    def step(self, node: Node, weights: Mapping[str, Rounded], exact: Sequence[Array]) -> None:
        """Compute a node, with a bias without the mean error where the `exact` sums are given."""
        if node.name in weights:
            # What rounds sums that are no longer there is done.
            live = {
                other: found
                for other, found in weights.items()
                if other == node.name or self.body.node(other).outputs[0] in self.arrays
            }
            self.graph = narrowed(self.body, self.types, weights=live)
        twin = self.graph.node(node.name)
        (name,) = node.outputs
        results = _results(self.graph, twin, self.arrays)
        if exact:
            units = [[float(s) for s in g.value(name).elem.scales] for g in (self.graph, self.body)]
            step = np.array(units[0]) / np.array(units[1])
            error = _mean(results, self.masks[name]) * step - _mean(exact, self.masks[name])
            self.shifts[node.name] = -error
            less = np.rint(error / step).astype(np.int64)
            results = [(r - less).astype(np.int32) for r in results]
        self.arrays[name] = results
        for operand in node.inputs:
            if self.last.get(operand) == node.name:
                _ = self.arrays.pop(operand, None)

    def made(self, weights: Mapping[str, Rounded]) -> Graph:
        """The stage."""
        if not self.types and not weights:
            return self.body
        return narrowed(self.body, self.types, self.shifts, weights)


def moments_of(
    body: Graph,
    node: Node,
    maps: Sequence[Array],
    masks: Masks,
    now: Sequence[Array] = (),
    kind: FixedType | None = None,
    most: int = POSITIONS,
) -> Moments:
    """Of what a linear op reads: `maps`, and in its place `now` of another `kind`, if any.

    Of a sample at `most` so many positions count.
    """
    op, old = node.op, body.value(node.inputs[0]).elem
    assert isinstance(op, IntConv | IntDense)
    found: list[Moments] = []
    window, groups = (op.window, op.groups) if isinstance(op, IntConv) else (None, 1)

    def read(x: Array, zero: int, mask: NDArray[np.bool_]) -> Floats:
        return operands(x.astype(np.float64) - zero, mask, most, window, groups)

    for index, (codes, mask) in enumerate(zip(maps, masks[node.outputs[0]], strict=True)):
        if not mask.any():
            continue
        were = are = read(codes, old.zero_points[0], mask)
        if kind is not None:
            are = read(now[index], kind.zero_points[0], mask)
        found.append(Moments.of(were, are))
    # Of whole numbers sums are exact, so the same everywhere; their unit comes afterwards.
    sums = total(found)
    if kind is None:
        return sums
    steps = np.array([float(step) for step in steps_of(old, kind)])
    channels = np.broadcast_to(steps, maps[0].shape[-1]).reshape(groups, -1)
    return sums.scaled(np.tile(channels, (1, sums.new.shape[1] // channels.shape[1])))


def rows_of(body: Graph, node: Node) -> Floats:
    """The weights of a linear op, ``[O, K]``."""
    assert isinstance(node.op, IntConv | IntDense)
    return node.op.rows(body.value(node.inputs[1])).astype(np.float64)


def _results(graph: Graph, node: Node, maps: Mapping[str, Sequence[Array]]) -> list[Array]:
    """What a node computes of each sample, as small as its type."""
    assert isinstance(node.op, IntegerOp)
    operands = [
        [v.constant.array.astype(np.int64)] if v.constant is not None else maps[v.name]
        for v in graph.arguments(node)
    ]
    count = max(len(column) for column in operands)
    dtype = graph.value(node.outputs[0]).elem.storage.dtype
    found: list[Array] = []
    for index in range(count):
        row = [column[index % len(column)].astype(np.int64) for column in operands]
        (result,) = node.op.reference(*row)
        found.append(result.astype(dtype))
    return found


def _mean(maps: Sequence[Array], masks: Sequence[NDArray[np.bool_]]) -> Floats:
    """``[C]``: over all samples and the positions of their masks."""
    pairs = list(zip(maps, masks, strict=True))
    total = sum(m[0][mask].sum(axis=0, dtype=np.int64) for m, mask in pairs)
    return np.asarray(total / sum(int(mask.sum()) for _, mask in pairs))


def error(
    body: Graph,
    maps: Maps,
    masks: Masks,
    types: Mapping[str, FixedType],
    weights: Mapping[str, Rounded],
) -> float:
    """What these types of maps, and weights, put wrong at the end: |y' − y| / |y − mean(y)|."""
    shifts = {name: found.shift for name, found in weights.items()}
    made = narrowed(body, types, shifts, weights)
    arrays: dict[str, Sequence[Array]] = {}
    for name, kind in types.items():
        old = body.value(name).elem
        steps = np.array([float(step) for step in steps_of(old, kind)])
        arrays[name] = [recoded(a, old, kind, steps) for a in maps[name]]
    # Only what comes behind is computed anew.
    for node in made.nodes():
        other = node.name in weights or any(name in arrays for name in node.inputs)
        if node.outputs[0] not in arrays and other:
            operands = {n: arrays.get(n, maps.get(n, ())) for n in node.inputs}
            arrays[node.outputs[0]] = _results(made, node, operands)
    (end,) = body.outputs
    exact, found = (
        np.concatenate([a[0][k] for a, k in zip(m[end], masks[end], strict=True)]).astype(
            np.float64
        )
        for m in (maps, {**maps, **arrays})
    )
    signal = float(((exact - exact.mean()) ** 2).sum())
    return float(((found - exact) ** 2).sum() / signal) ** 0.5 if signal else 0.0
