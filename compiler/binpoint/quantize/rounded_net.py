"""A float graph rounded to types, in which one type can be changed and the outputs asked again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Graph, Node
from binpoint.numeric.fixed import FixedType
from binpoint.passes.samples import Samples
from binpoint.quantize.simulate import own_rounding, real_input, rounded

_Array = NDArray[Any]
_Arrays = dict[str, _Array]

Slot = tuple[str, int]
"""A weight operand: name of the node, index of the operand."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a type is: values that share it, or a weight operand."""

    values: tuple[str, ...] = ()
    slot: Slot | None = None


@dataclass(frozen=True, slots=True)
class _Sample:
    """All values of one sample: as computed from rounded operands, rounded, and the real outputs.

    Constants among the values stand for themselves.
    """

    raw: _Arrays
    coded: _Arrays
    wanted: Mapping[str, _Array]


@dataclass(frozen=True, slots=True)
class Tried:
    """What a change leads to: the error, and what it alters in each sample."""

    place: Place
    kind: FixedType
    error: float
    altered: tuple[tuple[_Arrays, _Arrays], ...]


class RoundedNet:
    """Outputs over samples of a float graph whose values and weights are rounded to types.

    Keeps all values of all samples, so that a change recomputes only what depends on it.

    Args:
        graph: real; it is not changed.
        samples: inputs.
        types: of values, which otherwise stay real, and of all weight operands.
        outputs: by name, what they should be in each sample.

    Attributes:
        error: mean square of what is wrong with the outputs, relative to the mean square of what
            they should be.
    """

    def __init__(
        self,
        graph: Graph,
        samples: Samples,
        types: Mapping[Place, FixedType],
        outputs: Sequence[Mapping[str, _Array]],
    ) -> None:
        """Run all samples."""
        self._graph, self._nodes = graph, graph.nodes()
        self._kinds: dict[str, FixedType] = {}
        self._weights: dict[Slot, _Array] = {}
        for place, kind in types.items():
            self._put(place, kind)
        pairs = zip(samples.inputs(), outputs, strict=True)
        self._samples = [self._start(inputs, wanted) for inputs, wanted in pairs]
        power = sum(_squares(a) for wanted in outputs for a in wanted.values())
        self._power = power or 1.0
        self.error = sum(self._distance(s, {}) for s in self._samples) / self._power

    def tried(self, place: Place, kind: FixedType) -> Tried | None:
        """What another type at a place leads to; None where the error does not become less."""
        total, most = 0.0, self.error * self._power
        weights = None if place.slot is None else self._rounded(place.slot, kind)
        altered: list[tuple[_Arrays, _Arrays]] = []
        for sample in self._samples:
            found = self._altered(sample, place, kind, weights)
            total += self._distance(sample, found[1])
            if total >= most:
                return None
            altered.append(found)
        return Tried(place, kind, total / self._power, tuple(altered))

    def keep(self, tried: Tried) -> None:
        """Let a change that was tried last be."""
        self._put(tried.place, tried.kind)
        for sample, (raw, coded) in zip(self._samples, tried.altered, strict=True):
            sample.raw.update(raw)
            sample.coded.update(coded)
        self.error = tried.error

    def _put(self, place: Place, kind: FixedType) -> None:
        self._kinds.update(dict.fromkeys(place.values, kind))
        if place.slot is not None:
            self._weights[place.slot] = self._rounded(place.slot, kind)

    def _rounded(self, slot: Slot, kind: FixedType) -> _Array:
        return rounded_weights(weights_of(self._graph, slot), kind)

    def _start(self, inputs: Mapping[str, _Array], wanted: Mapping[str, _Array]) -> _Sample:
        graph = self._graph
        raw = {v.name: constant_array(v) for v in graph.values() if v.constant is not None}
        for name in graph.inputs:
            raw[name] = real_input(graph, graph.value(name), inputs[name])
        coded = {name: self._coded(name, array) for name, array in raw.items()}
        for node in self._nodes:
            for name, array in self._results(node, coded, None):
                raw[name], coded[name] = array, self._coded(name, array)
        return _Sample(raw, coded, wanted)

    def _altered(
        self, sample: _Sample, place: Place, kind: FixedType, weights: _Array | None
    ) -> tuple[_Arrays, _Arrays]:
        """What becomes different in a sample, before and after rounding."""
        raw: _Arrays = {}
        coded = {name: rounded(sample.raw[name], kind) for name in place.values}
        for node in self._nodes:
            own = place.slot is not None and node.name == place.slot[0]
            if not own and coded.keys().isdisjoint(node.inputs):
                continue
            operands = {name: coded.get(name, sample.coded[name]) for name in node.inputs}
            replaced = (place.slot[1], weights) if own and place.slot is not None else None
            for name, array in self._results(node, operands, replaced):
                raw[name] = array
                now = rounded(array, kind) if name in place.values else self._coded(name, array)
                if np.array_equal(now, sample.coded[name]):
                    coded.pop(name, None)
                else:
                    coded[name] = now
        return raw, coded

    def _results(
        self, node: Node, coded: _Arrays, replaced: tuple[int, _Array | None] | None
    ) -> list[tuple[str, _Array]]:
        operands = [self._weights.get((node.name, i), coded[n]) for i, n in enumerate(node.inputs)]
        if replaced is not None and replaced[1] is not None:
            operands[replaced[0]] = replaced[1]
        # What overflows becomes infinite, and is as wrong as can be.
        with np.errstate(all="ignore"):
            results = own_rounding(node, node.op.reference(*operands))
            return list(zip(node.outputs, results, strict=True))

    def _coded(self, name: str, array: _Array) -> _Array:
        kind = self._kinds.get(name)
        return array if kind is None else rounded(array, kind)

    @staticmethod
    def _distance(sample: _Sample, altered: _Arrays) -> float:
        """Sum of squared differences between rounded and real outputs."""
        pairs = ((altered.get(n, sample.coded[n]), a) for n, a in sample.wanted.items())
        return sum(_squares(found - wanted) for found, wanted in pairs)


def _squares(array: _Array) -> float:
    return float(np.square(array, dtype=np.float64).sum())


def weights_of(graph: Graph, slot: Slot) -> _Array:
    """The real weights of an operand."""
    constant = graph.value(graph.node(slot[0]).inputs[slot[1]]).constant
    assert constant is not None
    return constant.array


def rounded_weights(array: _Array, kind: FixedType) -> NDArray[np.float32]:
    """Weights rounded to symmetric codes, real numbers again; channels on the first axis."""
    return kind.dequantize(weight_codes(array, kind)).astype(np.float32)


def weight_codes(array: _Array, kind: FixedType) -> NDArray[np.integer]:
    """Weights as codes of a type, the least code left out."""
    most = kind.storage.max
    return np.clip(kind.quantize(array), -most, most).astype(kind.storage.dtype)
