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
from binpoint.ir.graph import Graph
from binpoint.lower.simplify import ProveRequantizers
from binpoint.numeric.fixed import FixedType
from binpoint.ops.halo import regions, slices, spatial
from binpoint.ops.outliers import OutlierTest
from binpoint.ops.patched import Patched
from binpoint.passes.base import Context, Effect, Pass, Stage
from binpoint.passes.convert import stored_inputs
from binpoint.plan.patches import undivided
from binpoint.quantize.bit_search import WHOLE, search
from binpoint.quantize.narrow import maps_of
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
    allowed: float | None = None

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

    def mixed(self, knobs: MixedPatches, context: Context) -> Patched:
        """The stage with fewer bits, in two bodies where some patches have outliers."""
        op, body = self.op, self.body
        test, outlying = self._classes(knobs, context)
        everywhere = np.ones_like(outlying)
        choices = StageSearch(
            body,
            self.maps,
            {} if outlying.all() else self.masks(~outlying),
            self.masks(everywhere),
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
        fine = outlying if types and outlying.any() else everywhere
        none: dict[str, FixedType] = {}
        kinds = {0: (none, self.masks(fine)), 1: (types, self.masks(~outlying))}
        if not types:
            test, body_of, used = None, (0,) * len(op.patches), [0]
        elif test is None:
            body_of = tuple(int(not o) for o in outlying[0])
            used = sorted(set(body_of))
        else:
            body_of, used = (), [0, 1]
        made = fitted(body, [kinds[index] for index in used], weights, self.maps)
        bodies = [body, body]
        for index, graph in zip(used, made.bodies, strict=True):
            bodies[index] = ProveRequantizers().run(graph, context)
        return replace(op, bodies=tuple(bodies[: used[-1] + 1]), body_of=body_of, test=test)

    def _classes(
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

    def _part(self, outlying: NDArray[np.bool_]) -> float:
        """The part of the multiply-accumulates that is in patches without outliers."""
        works = np.array([macs(first) for first, *_ in self.op.parts])
        narrow = (works * ~outlying).sum() / len(outlying)
        return float(narrow / max(1, works.sum()))


def _below(bits: Sequence[int]) -> tuple[int, ...]:
    return tuple(b for b in bits if b < WHOLE)
