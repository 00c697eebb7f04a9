"""Binary points of least squared error, one tensor or weight channel at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Graph, Node
from binpoint.ir.op import FloatOp, Role
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import FixedType
from binpoint.passes.samples import Samples
from binpoint.quantize.rounded_net import Place, Slot, rounded_weights, weights_of
from binpoint.quantize.simulate import Simulation, rounded

_FINER = 5
"""How many bits finer than what holds all values a binary point may be."""


def least_errors(
    graph: Graph, types: Mapping[Place, FixedType], samples: Samples
) -> dict[Place, FixedType]:
    """The types with the points of least squared error over the samples; of equal ones the coarser.

    Of values the error is that of rounding them. Of a channel of weights it is that of the sums of
    products with real operands, less its mean, which a bias can take; where the op is no such sum,
    that of the weights themselves.

    Args:
        graph: real.
        types: power-of-two scales that hold all values.
        samples: inputs.
    """
    values = {p: k for p, k in types.items() if p.slot is None}
    weights = {p.slot: k for p, k in types.items() if p.slot is not None}
    names = frozenset(n for p in values for n in p.values if graph.value(n).constant is None)
    sums = {place: np.zeros(_FINER + 1) for place in values}
    wrong = {slot: _tries(weights_of(graph, slot), kind) for slot, kind in weights.items()}
    spread = {slot: _Spread() for slot in weights if _is_sum(graph, slot)}
    nodes = {slot: graph.node(slot[0]) for slot in spread}
    wanted = names | {node.inputs[0] for node in nodes.values()}
    simulation = Simulation(graph, rounded=False)
    for inputs in samples.inputs():
        arrays = simulation.outputs(inputs, wanted)
        for place, kind in values.items():
            for name in names.intersection(place.values):
                sums[place] += _value_errors(arrays[name], kind)
        for slot, node in nodes.items():
            x = arrays[node.inputs[0]]
            spread[slot].add([_result(node, x, w) for w in wrong[slot]])
    found: dict[Place, FixedType] = {}
    for place, kind in values.items():
        for name in place.values if names.isdisjoint(place.values) else ():
            sums[place] += _value_errors(constant_array(graph.value(name)), kind)
        found[place] = shifted(kind, -int(np.argmin(sums[place])))
    for slot, kind in weights.items():
        errors = spread[slot].squares() if slot in spread else _plain(wrong[slot])
        steps = np.argmin(errors, axis=0)
        scales = (Dyadic(1, s.exponent - int(n)) for s, n in zip(kind.scales, steps, strict=True))
        found[Place(slot=slot)] = replace(kind, scales=tuple(scales))
    return {place: found[place] for place in types}


def shifted(kind: FixedType, by: int) -> FixedType:
    """The type with all scales, powers of two, times 2^by."""
    return replace(kind, scales=tuple(Dyadic(1, s.exponent + by) for s in kind.scales))


class _Spread:
    """Squares of each channel, the last axis, about its mean, of several arrays alike."""

    def __init__(self) -> None:
        self._sums: NDArray[np.float64] | None = None
        self._count = 0

    def add(self, arrays: list[NDArray[Any]]) -> None:
        """One sample's arrays."""
        rows = np.stack([a.reshape(-1, a.shape[-1]) for a in arrays]).astype(np.float64)
        sums = np.stack((rows.sum(axis=1), np.square(rows).sum(axis=1)))
        self._sums = sums if self._sums is None else self._sums + sums
        self._count += rows.shape[1]

    def squares(self) -> NDArray[np.float64]:
        """Per array and channel."""
        assert self._sums is not None
        first, second = self._sums
        return second - np.square(first) / self._count


def _is_sum(graph: Graph, slot: Slot) -> bool:
    """Whether a node is the sum of products of an operand and these weights, and a bias."""
    node = graph.node(slot[0])
    assert isinstance(node.op, FloatOp)
    whole = (Role.ACTIVATION, Role.WEIGHT, Role.BIAS)
    return slot[1] == 1 and node.op.roles(len(node.inputs)) == whole[: len(node.inputs)]


def _result(node: Node, x: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
    (result,) = node.op.reference(x, weights)
    return result


def _tries(array: NDArray[Any], kind: FixedType) -> list[NDArray[np.float32]]:
    """What is wrong with the weights at each point that may be chosen."""
    steps = range(_FINER + 1)
    return [rounded_weights(array, shifted(kind, -step)) - array for step in steps]


def _plain(wrong: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    return np.stack([np.square(w, dtype=np.float64).reshape(len(w), -1).sum(1) for w in wrong])


def _value_errors(array: NDArray[Any], kind: FixedType) -> NDArray[np.float64]:
    found = (rounded(array, shifted(kind, -step)) - array for step in range(_FINER + 1))
    return np.array([np.square(d, dtype=np.float64).sum() for d in found])
