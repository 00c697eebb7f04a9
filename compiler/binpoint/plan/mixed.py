"""mixed-patches: patches without outliers have maps of fewer bits (QuantMCU, DATE 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from binpoint.errors import BadPassOption, MissingSamples
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph, Node
from binpoint.ir.op import IntegerOp
from binpoint.lower.simplify import ProveRequantizers
from binpoint.numeric.fixed import FixedType
from binpoint.ops.conv import IntConv
from binpoint.ops.dense import IntDense
from binpoint.ops.halo import Region, regions, spatial
from binpoint.ops.patched import Patched
from binpoint.passes.base import Context, Effect, Pass, Stage
from binpoint.passes.convert import stored_inputs
from binpoint.plan.patches import undivided
from binpoint.quantize.bit_search import WHOLE, Candidate, search
from binpoint.quantize.coarsen import Occurrences
from binpoint.quantize.narrow import Floats, Maps, maps_of, narrowed
from binpoint.quantize.patch_values import with_outliers

Array = NDArray[Any]
Masks = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class MixedPatches(Pass):
    """Give patches without outliers fewer bits, where the option `patches` is ``mixed``.

    1. VDPC: a patch of a stage has outliers if more than a part 1 − `phi` of what it reads is
       farther from the mean than that part of normal values would be. It keeps 8 bits.
    2. VDQS: the maps of the others have those of `bits` with the highest score
       (1 − λ)·(BitOPs saved) − λ·(entropy lost); λ is `lambda`. Scales are those of the least
       squared error, and biases take the mean error of the coarser maps away.
    """

    name: ClassVar[str] = "mixed-patches"
    before: ClassVar[Stage] = Stage.INTEGER
    after: ClassVar[Stage] = Stage.INTEGER
    effect: ClassVar[Effect] = Effect.CHANGES_VALUES

    phi: float = 0.96
    lambda_: float = 0.25
    bits: tuple[int, ...] = (8, 4)
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
        candidates = [self._candidate(maps, masks) for maps in self.groups if maps.free]
        fewer = sorted((b for b in knobs.bits if b < WHOLE), reverse=True)
        chosen = search(candidates, knobs.lambda_, fewer)
        types = {name: c.kind for name, c in chosen.items() if c.bits < WHOLE}
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

    def _candidate(self, maps: Maps, masks: Masks) -> Candidate:
        """How often the codes of a map occur in the patches, and what reads it."""
        kind = self.body.value(maps.names[0]).elem
        chosen = [a[0][masks[name]] for name in maps.names for a in self.maps[name]]
        seen = reduce(add, (Occurrences.of(kind, codes) for codes in chosen))
        if maps.apart and seen.positive:
            seen = reduce(add, (Occurrences.of(kind, codes, apart=True) for codes in chosen))
        read = {n.name: n for name in maps.names for n in self.body.consumers(name)}
        total = sum(self._macs(n) for n in self.body.nodes())
        work = sum(self._macs(n) for n in read.values()) / max(total, 1)
        return Candidate(maps.names, seen, work, len(self.body.value(maps.names[0]).shape) - 1)

    def _macs(self, node: Node) -> int:
        assert isinstance(node.op, IntegerOp)
        return node.op.work(self.body.arguments(node), self.body.results(node)).macs


def corrected(
    body: Graph,
    types: Mapping[str, FixedType],
    maps: Mapping[str, Sequence[Array]],
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
