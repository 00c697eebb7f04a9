"""What maps and weights of a stage may have fewer bits, and what each is expected to cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Literal

import numpy as np

from binpoint.ir.graph import Graph, Node
from binpoint.ir.op import IntegerOp
from binpoint.numeric.fixed import FixedType
from binpoint.quantize.bit_search import WHOLE, Layer, Losses
from binpoint.quantize.coarsen import Occurrences, entropy
from binpoint.quantize.compensate import STEPS, Rounded, compensated
from binpoint.quantize.narrow import Maps, linear_of, maps_of
from binpoint.quantize.stage_samples import Maps as Arrays
from binpoint.quantize.stage_samples import Masks, error, moments_of, rows_of

_MEASURED = 4
"""The bits, or those next to them, at which what an error grows to on its way is measured."""
_POSITIONS = 256
"""Positions of a sample to which weights are rounded while their bits are sought."""
_PARTS = STEPS[::4]
"""Steps that are tried meanwhile."""

Omega = Literal["error", "entropy"]


@dataclass(slots=True)
class StageSearch:
    """The choices of a stage.

    Attributes:
        body: the stage as it is.
        maps: its maps on samples; on the `tried` with most positions that count, of as many the
            first, the error at its end is measured.
        narrow, all: where patches need each map that may have fewer bits, and all patches.
        map_bits, weight_bits: what may be chosen, besides 8.
        omega: what a loss is.
        types: of maps by name and bits, once `losses` were asked for.
    """

    body: Graph
    maps: Arrays
    narrow: Masks
    all: Masks
    map_bits: Sequence[int]
    weight_bits: Sequence[int]
    omega: Omega
    tried: int = 2
    types: dict[str, dict[int, FixedType]] = field(default_factory=dict[str, dict[int, FixedType]])

    def layers(self, part: float) -> tuple[Layer, ...]:
        """What multiplies; `part` of it in patches whose maps may have fewer bits."""
        works = {node.name: _macs(self.body, node) for node in self.body.nodes()}
        whole = max(1, macs(self.body))
        first = {name: maps.names[0] for maps in maps_of(self.body) for name in maps.names}
        linear = {node.name for node in linear_of(self.body)}
        return tuple(
            Layer(
                works[node.name] / whole,
                part,
                first.get(node.inputs[0], node.inputs[0]),
                _weights(node) if node.name in linear else "",
            )
            for node in self.body.nodes()
            if works[node.name]
        )

    def losses(self) -> Losses:
        """Ω of each map and of all weights, by bits."""
        found: dict[str, Mapping[int, float]] = {}
        for maps in maps_of(self.body) if self.narrow and self.map_bits else ():
            read = any(_macs(self.body, n) for m in maps.names for n in self.body.consumers(m))
            if maps.free and read:
                found[maps.names[0]] = self._of_maps(maps)
        for node in linear_of(self.body) if self.weight_bits else ():
            found[_weights(node)] = self._of_weights(node)
        return found

    def chosen(self, bits: Mapping[str, int]) -> tuple[dict[str, FixedType], dict[str, int]]:
        """Types of maps by name, and bits of the weights of layers by the node's."""
        types: dict[str, FixedType] = {}
        for maps in maps_of(self.body):
            width = bits.get(maps.names[0], WHOLE)
            if width < WHOLE:
                types |= dict.fromkeys(maps.names, self.types[maps.names[0]][width])
        linear = ((node.name, bits.get(_weights(node), WHOLE)) for node in linear_of(self.body))
        return types, {name: width for name, width in linear if width < WHOLE}

    def _of_maps(self, maps: Maps) -> Mapping[int, float]:
        seen = self._occurrences(maps)
        axis = len(self.body.value(maps.names[0]).shape) - 1
        kinds = {bits: seen.coarser(bits, axis) for bits in self.map_bits}
        self.types[maps.names[0]] = kinds
        if self.omega == "entropy":
            return {bits: seen.lost(kind) for bits, kind in kinds.items()}
        at = _measured(kinds)
        end = self._error(self.narrow, dict.fromkeys(maps.names, kinds[at]), {})
        local = {bits: seen.error(kind) for bits, kind in kinds.items()}
        return _grown(local, at, end)

    def _of_weights(self, node: Node) -> Mapping[int, float]:
        rows = rows_of(self.body, node)
        if self.omega == "entropy":
            whole = entropy(np.unique(rows, return_counts=True)[1])
            lost: dict[int, float] = {}
            for bits in self.weight_bits:
                most = np.abs(rows).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
                counts = np.unique(np.rint(rows / np.where(most, most, 1)), return_counts=True)[1]
                lost[bits] = abs(whole - entropy(counts)) / whole if whole else 0.0
            return lost
        read = self.maps[node.inputs[0]]
        moments = moments_of(self.body, node, read, self.all, most=_POSITIONS)
        found = compensated(rows, moments, self.weight_bits, _PARTS)
        at = _measured(found)
        end = self._error(self.all, {}, {node.name: found[at]})
        return _grown({bits: rounded.loss for bits, rounded in found.items()}, at, end)

    def _error(
        self, masks: Masks, types: Mapping[str, FixedType], weights: Mapping[str, Rounded]
    ) -> float:
        most = [-int(mask.sum()) for mask in masks[self.body.outputs[0]]]
        chosen = sorted(range(len(most)), key=most.__getitem__)[: self.tried]
        tried = {name: [arrays[i] for i in chosen] for name, arrays in self.maps.items()}
        counted = {name: [each[i] for i in chosen] for name, each in masks.items()}
        return error(self.body, tried, counted, types, weights)

    def _occurrences(self, maps: Maps) -> Occurrences:
        """How often the codes of a map occur in the patches."""
        kind = self.body.value(maps.names[0]).elem
        pairs = ((n, zip(self.maps[n], self.narrow[n], strict=True)) for n in maps.names)
        chosen = [a[0][mask] for _, each in pairs for a, mask in each if mask.any()]
        seen = reduce(add, (Occurrences.of(kind, codes) for codes in chosen))
        if not (maps.apart and seen.positive):
            return seen
        return reduce(add, (Occurrences.of(kind, codes, apart=True) for codes in chosen))


def _weights(node: Node) -> str:
    """The name of a layer's weights."""
    return node.inputs[1]


def _measured(found: Mapping[int, object]) -> int:
    return min(found, key=lambda bits: (abs(bits - _MEASURED), bits))


def _grown(local: Mapping[int, float], at: int, end: float) -> Mapping[int, float]:
    """Errors at the end from those where they arise, of which one was measured."""
    growth = end / local[at] if local[at] else 0.0
    return {bits: growth * loss for bits, loss in local.items()}


def macs(body: Graph) -> int:
    """Multiply-accumulates of a stage, or of a part of it."""
    return sum(_macs(body, node) for node in body.nodes())


def _macs(body: Graph, node: Node) -> int:
    assert isinstance(node.op, IntegerOp)
    return node.op.work(body.arguments(node), body.results(node)).macs
