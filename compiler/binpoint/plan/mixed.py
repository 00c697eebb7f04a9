"""mixed-patches: patches without outliers have maps of fewer bits (QuantMCU, DATE 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import ClassVar, Literal

import numpy as np

from binpoint.errors import BadPassOption, MissingSamples
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph, Node
from binpoint.ir.op import IntegerOp
from binpoint.lower.simplify import ProveRequantizers
from binpoint.numeric.fixed import FixedType
from binpoint.ops.halo import Region, regions, spatial
from binpoint.ops.patched import Patched
from binpoint.passes.base import Context, Effect, Pass, Stage
from binpoint.passes.convert import stored_inputs
from binpoint.plan.patches import undivided
from binpoint.quantize.bit_search import WHOLE, Candidate, search
from binpoint.quantize.coarsen import Occurrences
from binpoint.quantize.narrow import Maps, maps_of
from binpoint.quantize.patch_values import with_outliers
from binpoint.quantize.stage_samples import Array, Masks, corrected, error

_TRIED = 2
"""Samples on which the error of each map is measured."""


@dataclass(frozen=True, slots=True)
class MixedPatches(Pass):
    """Give patches without outliers fewer bits, where the option `patches` is ``mixed``.

    1. VDPC: a patch of a stage has outliers if more than a part 1 − `phi` of what it reads is
       farther from the mean than that part of normal values would be. It keeps 8 bits.
    2. VDQS: the maps of the others have those of `bits` with the highest score
       (1 − λ)·(BitOPs saved) − λ·Ω; λ is `lambda`, and Ω as `omega` says: the ``error`` that
       the map causes at the stage's end, relative to what is there, or as in the paper the part of
       its ``entropy`` that is lost.
    3. Scales are those of the least squared error, and biases take the mean error of the coarser
       maps away.
    """

    name: ClassVar[str] = "mixed-patches"
    before: ClassVar[Stage] = Stage.INTEGER
    after: ClassVar[Stage] = Stage.INTEGER
    effect: ClassVar[Effect] = Effect.CHANGES_VALUES

    phi: float = 0.96
    lambda_: float = 0.4
    bits: tuple[int, ...] = (8, 4)
    omega: Literal["error", "entropy"] = "error"
    samples: int = 8

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        self._check()
        stages = [(n, n.op) for n in graph.nodes() if isinstance(n.op, Patched)]
        if context.options.patches == "uniform" or not stages:
            return graph
        if context.samples is None:
            raise MissingSamples(
                "patches of mixed precision are chosen by the values of samples",
                want="sample inputs",
                hint="--samples FILE.npz, or --set patches=uniform",
            )
        whole = undivided(graph)
        samples = context.samples.spread(self.samples)
        seen = [Seen(op) for _, op in stages]
        for inputs in stored_inputs(whole, samples):
            values = evaluate(whole, inputs)
            for stage in seen:
                stage.add(values)
        for (node, _), stage in zip(stages, seen, strict=True):
            op = stage.mixed(self, context)
            graph.replace(replace(node, op=op))
            (bounds,) = op.bounds()
            graph.set_value(replace(graph.value(node.outputs[0]), bounds=bounds))
        return graph

    def _check(self) -> None:
        ends = {"phi": (self.phi, 0, 1), "lambda": (self.lambda_, 0, 1)}
        for name, (value, low, high) in ends.items():
            if not low < value < high:
                raise BadPassOption(
                    f"`{self.name}` does not take this value of `{name}`",
                    have=str(value),
                    want=f"{low} < {name} < {high}",
                )
        if not all(1 <= b <= WHOLE for b in self.bits):
            raise BadPassOption(
                f"`{self.name}` does not take these `bits`", have=str(self.bits), want="1 to 8"
            )
        if self.samples < 1:
            raise BadPassOption(f"`{self.name}` needs samples", have=str(self.samples), want="1")


class Seen:
    """The maps of a stage on all samples, but for sums that are rounded as they come."""

    def __init__(self, op: Patched) -> None:
        self.op, self.body = op, op.bodies[0]
        self.groups = maps_of(self.body)
        names = [name for group in self.groups for name in group.names]
        self.maps: dict[str, list[Array]] = {name: [] for name in names}

    def add(self, values: Mapping[str, Array]) -> None:
        """One sample's."""
        for name, arrays in self.maps.items():
            arrays.append(values[name].astype(self.body.value(name).elem.storage.dtype))

    def mixed(self, knobs: MixedPatches, context: Context) -> Patched:
        """The stage with a second body for patches without outliers."""
        op, body = self.op, self.body
        (start,) = body.inputs
        outlying = with_outliers(self.maps[start], [p.operand for p in op.patches], knobs.phi)
        body_of = tuple(int(not found) for found in outlying)
        if not any(body_of):
            return op
        masks = self.masks([p.result for p, b in zip(op.patches, body_of, strict=True) if b])
        types = search(self._candidates(knobs, masks), knobs.lambda_)
        if not types:
            return op
        coarse = corrected(body, types, self.maps, masks)
        coarse = ProveRequantizers().run(coarse, context)
        return replace(op, bodies=(body, coarse), body_of=body_of)

    def masks(self, results: Sequence[Region]) -> Masks:
        """Which positions of each map patches with these results need."""
        maps = [v for v in self.body.values() if v.constant is None]
        masks = {value.name: np.zeros(spatial(value), bool) for value in maps}
        for result in results:
            for name, region in regions(self.body, result).items():
                masks[name][tuple(slice(a, b + 1) for a, b in region)] = True
        return masks

    def _candidates(self, knobs: MixedPatches, masks: Masks) -> list[Candidate]:
        """The maps that may have fewer bits, and whose bits some layer multiplies."""
        works = {n.name: self._macs(n) for n in self.body.nodes()}
        found: list[Candidate] = []
        for maps in self.groups:
            readers = {n.name for name in maps.names for n in self.body.consumers(name)}
            work = sum(works[name] for name in readers) / max(1, sum(works.values()))
            if not maps.free or not work:
                continue
            seen = self._occurrences(maps, masks)
            axis = len(self.body.value(maps.names[0]).shape) - 1
            kinds = [seen.coarser(bits, axis) for bits in knobs.bits if bits < WHOLE]
            losses = [self._loss(knobs, maps, seen, kind, masks) for kind in kinds]
            choices = tuple(zip(kinds, losses, strict=True))
            found.append(Candidate(maps.names, work, choices))
        return found

    def _occurrences(self, maps: Maps, masks: Masks) -> Occurrences:
        """How often the codes of a map occur in the patches."""
        kind = self.body.value(maps.names[0]).elem
        chosen = [a[0][masks[name]] for name in maps.names for a in self.maps[name]]
        seen = reduce(add, (Occurrences.of(kind, codes) for codes in chosen))
        if not (maps.apart and seen.positive):
            return seen
        return reduce(add, (Occurrences.of(kind, codes, apart=True) for codes in chosen))

    def _loss(
        self, knobs: MixedPatches, maps: Maps, seen: Occurrences, kind: FixedType, masks: Masks
    ) -> float:
        """Ω of a map with a coarser type."""
        if knobs.omega == "entropy":
            return seen.lost(kind)
        tried = {name: arrays[:_TRIED] for name, arrays in self.maps.items()}
        return error(self.body, dict.fromkeys(maps.names, kind), tried, masks)

    def _macs(self, node: Node) -> int:
        assert isinstance(node.op, IntegerOp)
        return node.op.work(self.body.arguments(node), self.body.results(node)).macs
