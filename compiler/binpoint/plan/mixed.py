"""mixed-patches: layers in patches have maps and weights of fewer bits (QuantMCU, DATE 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

import numpy as np

from binpoint.errors import BadPassOption, MissingSamples
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph, Node
from binpoint.lower.simplify import ProveRequantizers
from binpoint.numeric.fixed import FixedType
from binpoint.ops.halo import Region, regions, spatial
from binpoint.ops.patched import Patched
from binpoint.passes.base import Context, Effect, Pass, Stage
from binpoint.passes.convert import stored_inputs
from binpoint.passes.samples import Samples
from binpoint.plan.patches import undivided
from binpoint.quantize.bit_search import WHOLE, Layer, Losses, Point, search
from binpoint.quantize.narrow import maps_of
from binpoint.quantize.patch_values import with_outliers
from binpoint.quantize.stage_samples import Array, Masks, fitted
from binpoint.quantize.stage_search import Omega, StageSearch, macs

_T = TypeVar("_T")


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
        divided = any(isinstance(node.op, Patched) for node in graph.nodes())
        if context.options.patches == "uniform" or not divided:
            return graph
        if context.samples is None:
            raise MissingSamples(
                "patches of mixed precision are chosen by the values of samples",
                want="sample inputs",
                hint="--samples FILE.npz, or --set patches=uniform",
            )
        for node, seen in self.seen(graph, context.samples):
            stage = Sought.of(seen, self)
            op = stage.made(stage.found(self.lambda_), context)
            graph.replace(replace(node, op=op))
            (bounds,) = op.bounds()
            graph.set_value(replace(graph.value(node.outputs[0]), bounds=bounds))
        return graph

    def seen(self, graph: Graph, samples: Samples) -> tuple[tuple[Node, Seen], ...]:
        """The stages of a graph on `samples` of the samples."""
        stages = tuple((n, Seen(n.op)) for n in graph.nodes() if isinstance(n.op, Patched))
        whole = undivided(graph)
        for inputs in stored_inputs(whole, samples.spread(self.samples)):
            values = evaluate(whole, inputs)
            for _, seen in stages:
                seen.add(values)
        return stages

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

    def masks(self, results: Sequence[Region]) -> Masks:
        """Which positions of each map patches with these results need."""
        maps = [v for v in self.body.values() if v.constant is None]
        masks = {value.name: np.zeros(spatial(value), bool) for value in maps}
        for result in results:
            for name, region in regions(self.body, result).items():
                masks[name][tuple(slice(a, b + 1) for a, b in region)] = True
        return masks


@dataclass(frozen=True, slots=True)
class Sought:
    """A stage whose bits are sought.

    Attributes:
        seen: the stage on samples.
        outlying: which patches have outliers.
        choices: what maps and weights may be.
        layers, losses: what each saves and costs.
    """

    seen: Seen
    outlying: tuple[bool, ...]
    choices: StageSearch
    layers: tuple[Layer, ...]
    losses: Losses

    @classmethod
    def of(cls, seen: Seen, knobs: MixedPatches) -> Sought:
        """With patches told apart by φ, and losses measured."""
        op = seen.op
        (start,) = seen.body.inputs
        outlying = with_outliers(seen.maps[start], [p.operand for p in op.patches], knobs.phi)
        results = [p.result for p in op.patches]
        choices = StageSearch(
            seen.body,
            seen.maps,
            {} if all(outlying) else seen.masks(_of(results, outlying, outliers=False)),
            seen.masks(results),
            _below(knobs.bits),
            _below(knobs.weights),
            knobs.omega,
        )
        losses = choices.losses()
        works = [macs(part) for part in op.parts]
        part = sum(_of(works, outlying, outliers=False)) / max(1, sum(works))
        return cls(seen, outlying, choices, choices.layers(part), losses)

    def found(self, lam: float) -> Point:
        """The best assignment of bits for λ = `lam`."""
        return search(self.layers, self.losses, lam)

    def made(self, point: Point, context: Context) -> Patched:
        """The stage with these bits, in two bodies where some patches have outliers."""
        op, body, seen = self.seen.op, self.seen.body, self.seen
        types, weights = self.choices.chosen(point.bits)
        if not types and not weights:
            return op
        results = [p.result for p in op.patches]
        body_of = tuple(int(bool(types) and not o) for o in self.outlying)
        none: dict[str, FixedType] = {}
        fine = seen.masks(_of(results, self.outlying, outliers=True)) if types else self.choices.all
        kinds = {0: (none, fine), 1: (types, self.choices.narrow)}
        used = sorted(set(body_of))
        made = fitted(body, [kinds[index] for index in used], weights, seen.maps)
        bodies = [body, body]
        for index, graph in zip(used, made.bodies, strict=True):
            bodies[index] = ProveRequantizers().run(graph, context)
        return replace(op, bodies=tuple(bodies[: used[-1] + 1]), body_of=body_of)


def _of(items: Sequence[_T], outlying: Sequence[bool], *, outliers: bool) -> list[_T]:
    """Those of the patches with outliers, or of the others."""
    return [item for item, o in zip(items, outlying, strict=True) if o is outliers]


def _below(bits: Sequence[int]) -> tuple[int, ...]:
    return tuple(b for b in bits if b < WHOLE)
