"""mixed-patches: layers in patches have maps and weights of fewer bits (QuantMCU, DATE 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
from binpoint.plan.mixed_memory import Option, within_memory
from binpoint.plan.patches import undivided
from binpoint.quantize.bit_search import WHOLE, Layer, Losses, Point, search
from binpoint.quantize.narrow import maps_of, narrowed
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
    3. Where the net does not fit the target with these, the largest maps have fewer, until it does.
    4. Scales are those of the least squared error. Weights are rounded so that the sums of products
       are off least, and biases take the mean error away.
    """

    name: ClassVar[str] = "mixed-patches"
    before: ClassVar[Stage] = Stage.INTEGER
    after: ClassVar[Stage] = Stage.INTEGER
    effect: ClassVar[Effect] = Effect.CHANGES_VALUES

    phi: float = 0.8
    lambda_: float = 0.64
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
        nodes = {node.name: node for node in graph.nodes()}
        seen = self.seen(graph, context.samples)
        stages = {node.name: Sought.of(stage, self) for node, stage in seen}
        wanted = {name: stage.found(self.lambda_).bits for name, stage in stages.items()}
        options = {
            name: Option(stage.losses, partial(stage.draft, context=context))
            for name, stage in stages.items()
        }
        for name, bits in within_memory(graph, options, wanted, context).items():
            node, op = nodes[name], stages[name].made(bits, context)
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

    def made(self, bits: Mapping[str, int], context: Context) -> Patched:
        """The stage with these bits, in two bodies where some patches have outliers."""
        types, weights = self.choices.chosen(bits)
        if not types and not weights:
            return self.seen.op
        kinds = self._kinds(types)
        made = fitted(self.seen.body, list(kinds.values()), weights, self.seen.maps)
        return self._with(dict(zip(kinds, made.bodies, strict=True)), context)

    def draft(self, bits: Mapping[str, int], context: Context) -> Patched:
        """The same with the weights as they are: as far as memory goes it is that."""
        types, _ = self.choices.chosen(bits)
        if not types:
            return self.seen.op
        found = {i: narrowed(self.seen.body, t) for i, (t, _) in self._kinds(types).items()}
        return self._with(found, context)

    def _kinds(
        self, types: Mapping[str, FixedType]
    ) -> dict[int, tuple[Mapping[str, FixedType], Masks]]:
        """Types of maps, and where patches have them, of each body that there is."""
        if not types:
            return {0: (types, self.choices.all)}
        results = [p.result for p in self.seen.op.patches]
        fine = self.seen.masks(_of(results, self.outlying, outliers=True))
        narrow: tuple[Mapping[str, FixedType], Masks] = (types, self.choices.narrow)
        return {0: ({}, fine), 1: narrow} if any(self.outlying) else {1: narrow}

    def _with(self, bodies: Mapping[int, Graph], context: Context) -> Patched:
        proven = {i: ProveRequantizers().run(body, context) for i, body in bodies.items()}
        last = max(proven)
        made = tuple(proven.get(i, self.seen.body) for i in range(last + 1))
        body_of = tuple(0 if o else last for o in self.outlying)
        return replace(self.seen.op, bodies=made, body_of=body_of)


def _of(items: Sequence[_T], outlying: Sequence[bool], *, outliers: bool) -> list[_T]:
    """Those of the patches with outliers, or of the others."""
    return [item for item, o in zip(items, outlying, strict=True) if o is outliers]


def _below(bits: Sequence[int]) -> tuple[int, ...]:
    return tuple(b for b in bits if b < WHOLE)
