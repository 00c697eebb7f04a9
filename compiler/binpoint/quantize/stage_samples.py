"""A stage on samples: what a coarser map costs, and biases without the mean error of such maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.graph import Graph, Node
from binpoint.ir.op import IntegerOp
from binpoint.numeric.fixed import FixedType
from binpoint.ops.conv import IntConv
from binpoint.ops.dense import IntDense
from binpoint.quantize.coarsen import recoded, steps_of
from binpoint.quantize.narrow import Floats, narrowed

Array = NDArray[Any]
Maps = Mapping[str, Sequence[Array]]
"""Codes ``[1, *spatial, C]`` of each sample by name; without sums that are rounded as they come."""
Masks = Mapping[str, NDArray[np.bool_]]
"""Which positions of each map count, ``[*spatial]``."""


def corrected(
    body: Graph,
    types: Mapping[str, FixedType],
    maps: Maps,
    masks: Masks,
) -> Graph:
    """The stage with maps of other types, and with biases without the mean error that they cause.

    Layer by layer in the order of execution, over the positions of the patches: what the sums of a
    channel are too large in the mean is taken off, as `bias_correction` does for weights.
    """
    shifts: dict[str, Floats] = {}
    coarse = narrowed(body, types)
    (start,) = body.inputs
    arrays: dict[str, Sequence[Array]] = {start: maps[start]}
    order = coarse.nodes()
    last = {name: node.name for node in order for name in node.inputs}
    for node in order:
        (name,) = node.outputs
        results = _results(coarse, node, arrays)
        if isinstance(node.op, IntConv | IntDense):
            units = [[float(s) for s in g.value(name).elem.scales] for g in (coarse, body)]
            step = np.array(units[0]) / np.array(units[1])
            exact = _results(body, body.node(node.name), maps)
            error = _mean(results, masks[name]) * step - _mean(exact, masks[name])
            shifts[node.name] = -error
            less = np.rint(error / step).astype(np.int64)
            results = [(r - less).astype(np.int32) for r in results]
        arrays[name] = results
        arrays = {n: a for n, a in arrays.items() if last.get(n) != node.name}
    return narrowed(body, types, shifts)


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


def _mean(maps: Sequence[Array], mask: NDArray[np.bool_]) -> Floats:
    """``[C]``: over all samples and the positions of the mask."""
    return np.mean([m[0][mask].mean(axis=0, dtype=np.float64) for m in maps], axis=0)


def error(body: Graph, types: Mapping[str, FixedType], maps: Maps, masks: Masks) -> float:
    """What maps of these types are off at the stage's end: |y' − y| / |y − mean(y)|."""
    made = narrowed(body, types)
    arrays: dict[str, Sequence[Array]] = {}
    for name, kind in types.items():
        arrays[name] = maps[name]
        if name not in body.inputs:
            old = body.value(name).elem
            steps = np.array([float(step) for step in steps_of(old, kind)])
            arrays[name] = [recoded(a, old, kind, steps) for a in maps[name]]
    # Only what comes behind is computed anew.
    for node in made.nodes():
        if node.outputs[0] not in arrays and any(name in arrays for name in node.inputs):
            operands = {n: arrays.get(n, maps.get(n, ())) for n in node.inputs}
            arrays[node.outputs[0]] = _results(made, node, operands)
    (end,) = body.outputs
    exact, found = (
        np.concatenate([a[0][masks[end]] for a in m[end]]).astype(np.float64)
        for m in (maps, {**maps, **arrays})
    )
    signal = float(((exact - exact.mean()) ** 2).sum())
    return float(((found - exact) ** 2).sum() / signal) ** 0.5 if signal else 0.0
