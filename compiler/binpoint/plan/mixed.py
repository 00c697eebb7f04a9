"""mixed-patches: layers in patches have maps and weights of fewer bits (QuantMCU, DATE 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from binpoint.errors import BadPassOption, MissingSamples
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph, Node
from binpoint.lower.simplify import ProveRequantizers
from binpoint.numeric.fixed import FixedType
from binpoint.ops.halo import regions, slices, spatial
from binpoint.ops.outliers import OutlierTest
from binpoint.ops.patched import Patched
from binpoint.passes.base import Context, Effect, Pass, Stage
from binpoint.passes.convert import stored_inputs
from binpoint.passes.samples import Samples
from binpoint.plan.mixed_memory import Option, within_memory
from binpoint.plan.patches import undivided
from binpoint.quantize.bit_search import WHOLE, Layer, Losses, Point, search
from binpoint.quantize.narrow import maps_of, narrowed
from binpoint.quantize.patch_values import outlier_test, with_outliers
from binpoint.quantize.stage_samples import Array, Masks, fitted
from binpoint.quantize.stage_search import Omega, StageSearch, macs


@dataclass(frozen=True, slots=True)
class MixedPatches(Pass):
    """Give layers in patches fewer bits, where the option `patches` is ``mixed``.

    1. VDPC: a patch of a stage has outliers if more than the part `allowed` of what it reads, by
       default 1 − `phi`, is farther from the mean than a part 1 − `phi` of normal values would be.
       Its maps keep 8 bits. Which patches these are is told by the mean of the samples, or where
       the option `patch_classes` is ``dynamic`` by the device for each input.
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
    allowed: float | None = None

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
        seen = self.seen(graph, context.samples)
        nodes = {node.name: node for node, _ in seen}
        stages = {node.name: Sought.of(stage, self, context) for node, stage in seen}
        wanted = {name: stage.found(self.lambda_).bits for name, stage in stages.items()}
        options = {name: Option(stage.losses, stage.draft) for name, stage in stages.items()}
        for name, bits in within_memory(graph, options, wanted, context).items():
            node, op = nodes[name], stages[name].made(bits)
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

    @property
    def part(self) -> Fraction:
        """The part of the values of a patch that may be outliers."""
        given = self.allowed
        return 1 - Fraction(str(self.phi)) if given is None else Fraction(str(given))

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
        if self.allowed is not None and not 0 <= self.allowed < 1:
            raise BadPassOption(
                f"`{self.name}` does not take this value of `allowed`",
                have=str(self.allowed),
                want="0 <= allowed < 1",
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

    def classes(
        self, knobs: MixedPatches, context: Context
    ) -> tuple[OutlierTest | None, NDArray[np.bool_]]:
        """The device's test, if it has one, and which patches have outliers ``[samples, patches]``.

        Without a test that is the same for all samples.
        """
        (start,) = self.body.inputs
        maps, regions_ = self.maps[start], [p.operand for p in self.op.patches]
        if context.options.patch_classes == "static":
            same = with_outliers(maps, regions_, knobs.phi, knobs.part)
            return None, np.array([same] * len(maps))
        storage = self.body.value(start).elem.storage
        ends = storage.min, storage.max
        return outlier_test(maps, regions_, knobs.phi, knobs.part, ends)

    def masks(self, counted: NDArray[np.bool_]) -> Masks:
        """Which positions of each map these patches need, ``[samples, patches]``."""
        maps = [v for v in self.body.values() if v.constant is None]
        needed = [regions(self.body, patch.result) for patch in self.op.patches]
        found: dict[tuple[bool, ...], dict[str, NDArray[np.bool_]]] = {}
        rows = [tuple(bool(c) for c in row) for row in counted]
        for row in dict.fromkeys(rows):
            found[row] = {value.name: np.zeros(spatial(value), bool) for value in maps}
            for chosen in (each for each, wanted in zip(needed, row, strict=True) if wanted):
                for name, region in chosen.items():
                    found[row][name][slices(region)[1:-1]] = True
        return {value.name: [found[row][value.name] for row in rows] for value in maps}


@dataclass(frozen=True, slots=True)
class Sought:
    """A stage whose bits are sought.

    Attributes:
        seen: the stage on samples.
        context: tells who decides which patches have outliers.
        test: by which the device does, if it does.
        outlying: which patches have outliers, ``[samples, patches]``.
        choices: what maps and weights may be.
        layers, losses: what each saves and costs.
    """

    seen: Seen
    context: Context
    test: OutlierTest | None
    outlying: NDArray[np.bool_]
    choices: StageSearch
    layers: tuple[Layer, ...]
    losses: Losses

    @classmethod
    def of(cls, seen: Seen, knobs: MixedPatches, context: Context) -> Sought:
        """With patches told apart by φ, and losses measured."""
        test, outlying = seen.classes(knobs, context)
        choices = StageSearch(
            seen.body,
            seen.maps,
            {} if outlying.all() else seen.masks(~outlying),
            seen.masks(np.ones_like(outlying)),
            _below(knobs.bits),
            _below(knobs.weights),
            knobs.omega,
        )
        losses = choices.losses()
        works = np.array([macs(first) for first, *_ in seen.op.parts])
        narrow = float((works * ~outlying).sum() / len(outlying) / max(1, works.sum()))
        return cls(seen, context, test, outlying, choices, choices.layers(narrow), losses)

    def found(self, lam: float) -> Point:
        """The best assignment of bits for λ = `lam`."""
        return search(self.layers, self.losses, lam)

    def made(self, bits: Mapping[str, int]) -> Patched:
        """The stage with these bits, in two bodies where some patches have outliers."""
        types, weights = self.choices.chosen(bits)
        if not types and not weights:
            return self.seen.op
        used = self._used(types)
        fine = self.outlying if types and self.outlying.any() else np.ones_like(self.outlying)
        none: dict[str, FixedType] = {}
        kinds = (none, self.seen.masks(fine)), (types, self.choices.narrow)
        made = fitted(self.seen.body, [kinds[i] for i in used], weights, self.seen.maps)
        return self._with(dict(zip(used, made.bodies, strict=True)))

    def draft(self, bits: Mapping[str, int]) -> Patched:
        """The same with the weights as they are: as far as memory goes it is that."""
        types, _ = self.choices.chosen(bits)
        if not types:
            return self.seen.op
        kinds: tuple[dict[str, FixedType], ...] = {}, types
        return self._with({i: narrowed(self.seen.body, kinds[i]) for i in self._used(types)})

    def _used(self, types: Mapping[str, FixedType]) -> tuple[int, ...]:
        """Which bodies there are: of 8 bits, of these types of maps."""
        if not types:
            return (0,)
        if self.test is not None or self.outlying.any():
            return (0,) if self.test is None and self.outlying.all() else (0, 1)
        return (1,)

    def _with(self, bodies: Mapping[int, Graph]) -> Patched:
        """The stage with these in place of its own body."""
        made = [self.seen.body] * (max(bodies) + 1)
        for index, body in bodies.items():
            made[index] = ProveRequantizers().run(body, self.context)
        test = self.test if len(made) > 1 else None
        same = tuple(len(made) - 1 - int(o and len(made) > 1) for o in self.outlying[0])
        return replace(self.seen.op, bodies=tuple(made), body_of=() if test else same, test=test)


def _below(bits: Sequence[int]) -> tuple[int, ...]:
    return tuple(b for b in bits if b < WHOLE)
