"""mixed-patches: layers in patches have maps and weights of fewer bits (QuantMCU, DATE 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from binpoint.errors import BadPassOption, MissingSamples
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.lower.simplify import ProveRequantizers
from binpoint.numeric.fixed import FixedType
from binpoint.ops.halo import Region, regions, spatial
from binpoint.ops.patched import Patched
from binpoint.passes.base import Context, Effect, Pass, Stage
from binpoint.passes.convert import stored_inputs
from binpoint.plan.patches import undivided
from binpoint.quantize.bit_search import WHOLE, search
from binpoint.quantize.narrow import maps_of
from binpoint.quantize.patch_values import with_outliers
from binpoint.quantize.stage_samples import Array, Masks, fitted
from binpoint.quantize.stage_search import Omega, StageSearch, macs


@dataclass(frozen=True, slots=True)
class MixedPatches(Pass):
    """Give layers in patches fewer bits, where the option `patches` is ``mixed``.

    1. VDPC: a patch of a stage has outliers if more than a part 1 − `phi` of what it reads is
       farther from the mean than that part of normal values would be. Its maps keep 8 bits.
    2. VDQS: the maps of the others have some of `bits`, and the weights of all, which are the same
       for both kinds of patches, some of `weights`, so that (1 − λ)·Φ − λ·Ω is high; λ is `lambda`,
       Φ the part of the BitOPs that is saved, and Ω as `omega` says of what is lost: the ``error``
       at the stage's end, relative to what is there, or as in the paper a part of ``entropy``.
    3. Scales are those of the least squared error. Weights are rounded so that the sums of products
       are off least, and biases take the mean error away.
    """

    name: ClassVar[str] = "mixed-patches"
    before: ClassVar[Stage] = Stage.INTEGER
    after: ClassVar[Stage] = Stage.INTEGER
    effect: ClassVar[Effect] = Effect.CHANGES_VALUES

    phi: float = 0.9
    lambda_: float = 0.6
    bits: tuple[int, ...] = (8, 6, 5, 4, 3)
    weights: tuple[int, ...] = (8, 6, 5, 4, 3)
    omega: Omega = "error"
    samples: int = 16

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
        for name, bits, least in (("bits", self.bits, 1), ("weights", self.weights, 2)):
            if not all(least <= b <= WHOLE for b in bits):
                raise BadPassOption(
                    f"`{self.name}` does not take these `{name}`",
                    have=str(bits),
                    want=f"{least} to {WHOLE}",
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
        """The stage with fewer bits, in two bodies where some patches have outliers."""
        op, body = self.op, self.body
        (start,) = body.inputs
        outlying = with_outliers(self.maps[start], [p.operand for p in op.patches], knobs.phi)
        results = [p.result for p in op.patches]
        fine, narrow = (
            self.masks([r for r, o in zip(results, outlying, strict=True) if o is side])
            for side in (True, False)
        )
        choices = StageSearch(
            body,
            self.maps,
            {} if all(outlying) else narrow,
            self.masks(results),
            _below(knobs.bits),
            _below(knobs.weights),
            knobs.omega,
        )
        losses = choices.losses()
        layers = choices.layers(self._part(outlying))
        found = search(layers, losses, knobs.lambda_)
        types, weights = choices.chosen(found.bits)
        if not types and not weights:
            return op
        body_of = tuple(int(bool(types) and not o) for o in outlying)
        none: dict[str, FixedType] = {}
        kinds = {0: (none, fine if types else self.masks(results)), 1: (types, narrow)}
        used = sorted(set(body_of))
        made = fitted(body, [kinds[index] for index in used], weights, self.maps)
        bodies = [body, body]
        for index, graph in zip(used, made.bodies, strict=True):
            bodies[index] = ProveRequantizers().run(graph, context)
        return replace(op, bodies=tuple(bodies[: used[-1] + 1]), body_of=body_of)

    def masks(self, results: Sequence[Region]) -> Masks:
        """Which positions of each map patches with these results need."""
        maps = [v for v in self.body.values() if v.constant is None]
        masks = {value.name: np.zeros(spatial(value), bool) for value in maps}
        for result in results:
            for name, region in regions(self.body, result).items():
                masks[name][tuple(slice(a, b + 1) for a, b in region)] = True
        return masks

    def _part(self, outlying: Sequence[bool]) -> float:
        """The part of the multiply-accumulates that is in patches without outliers."""
        works = [macs(part) for part in self.op.parts]
        narrow = sum(w for w, o in zip(works, outlying, strict=True) if not o)
        return narrow / max(1, sum(works))


def _below(bits: Sequence[int]) -> tuple[int, ...]:
    return tuple(b for b in bits if b < WHOLE)
