"""The report on layers that are computed patch by patch, and on what patches could save."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

from binpoint.ir.graph import Graph
from binpoint.ir.op import IntegerOp
from binpoint.ops.conv import IntConv
from binpoint.ops.dense import IntDense, IntMatMul
from binpoint.ops.patched import Patched
from binpoint.options import CompileOptions
from binpoint.plan.arrange import arrange
from binpoint.plan.halos import Estimates
from binpoint.plan.packed_graph import unpacked
from binpoint.plan.patches import undivided
from binpoint.plan.program import Program
from binpoint.report.part import Part
from binpoint.target import McuTarget

_BITS = 8
_NONE = Fraction(0)
_BITOPS = _BITS * _BITS
_CURVE = (0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.16, 0.2, 0.3, 0.5)


class PatchClass(Part, frozen=True):
    """Patches of one precision.

    Attributes:
        patches: how many; where the device decides, how many may be.
        share: of all patches of the stage; where the device decides, in the mean of the samples.
        parts: along each spatial axis, in which a patch is computed, to need less memory.
        bits: of each of the stage's `maps`.
        weights: bits of the weights of each of the stage's `layers`.
    """

    patches: int
    share: float
    parts: tuple[int, ...]
    bits: tuple[int, ...]
    weights: tuple[int, ...]


class PatchTest(Part, frozen=True):
    """How the device decides: with more than a part of outliers a patch is of the first class.

    Attributes:
        lo, hi: codes of what the stage reads; others are outliers.
        allowed: the part.
        samples: how many inputs the shares of the classes are the mean of.
    """

    lo: int
    hi: int
    allowed: float
    samples: int


class PatchStage(Part, frozen=True):
    """Layers that are computed patch by patch.

    Attributes:
        split: the map whose patches are computed.
        grid: patches along each spatial axis.
        extents: positions of the map in a patch; the last along an axis has the rest.
        pieces: kinds of patches, by size and place relative to the borders.
        macs, macs_once: multiply-accumulates, and those without halos.
        maps: what the stage reads, and every map in it, in order.
        layers: what has weights, by the sums that it computes, in order.
        test: of each input, if the device decides the classes of patches.
    """

    split: str
    grid: tuple[int, ...]
    extents: tuple[int, ...]
    pieces: int
    macs: int
    macs_once: int
    maps: tuple[str, ...]
    layers: tuple[str, ...]
    classes: tuple[PatchClass, ...]
    test: PatchTest | None


class Patches(Part, frozen=True):
    """What the stages save, and what they cost.

    Attributes:
        extra_macs_fraction: what halos add to the multiply-accumulates of the whole net.
        bitops_uniform8: of all stages, multiply-accumulates by 8 bits of weight and of activation.
        bitops_mixed: the same with the bits that they have; where the device decides, in the mean
            of the samples.
        bitops_worst: the same at most, whatever the device decides.
        net_bitops_uniform8, net_bitops_mixed, net_bitops_worst: the same of the whole net.
    """

    stages: tuple[PatchStage, ...]
    arena_plain_bytes: int
    arena_patched_bytes: int
    extra_macs_fraction: float
    bitops_uniform8: int
    bitops_mixed: int
    bitops_worst: int
    net_bitops_uniform8: int
    net_bitops_mixed: int
    net_bitops_worst: int


class CurvePoint(Part, frozen=True):
    """The least memory that at most so much extra work gives, estimated."""

    arena_bytes: int
    extra_macs_fraction: float
    stages: int


def patches_of(program: Program, target: McuTarget, options: CompileOptions) -> Patches | None:
    """The stages of a program; None if it has none."""
    graph = unpacked(program.graph)
    found = [(n, n.op) for n in graph.nodes() if isinstance(n.op, Patched)]
    if not found:
        return None
    plain = arrange(undivided(graph), options, target)
    stages = tuple(_stage(program, node.name, op) for node, op in found)
    total = _macs(plain.graph)
    macs, once = sum(s.macs for s in stages), sum(s.macs_once for s in stages)
    mixed = round(sum(sum(_weighted(op)) for _, op in found))
    worst = sum(max(_bitops(part) for part in parts) for _, op in found for parts in op.parts)
    rest = _bitops(graph)
    return Patches(
        stages=stages,
        arena_plain_bytes=plain.arena_bytes,
        arena_patched_bytes=program.arena_bytes,
        extra_macs_fraction=(macs - once) / total if total else 0.0,
        bitops_uniform8=_BITOPS * macs,
        bitops_mixed=mixed,
        bitops_worst=worst,
        net_bitops_uniform8=_BITOPS * (total - once + macs),
        net_bitops_mixed=rest + mixed,
        net_bitops_worst=rest + worst,
    )


def _shares(op: Patched) -> list[dict[int, Fraction]]:
    """Of each patch, on which part of the inputs it is of each body."""
    if op.test is None:
        return [{patch.bodies[0]: Fraction(1)} for patch in op.patches]
    return [{0: share, 1: 1 - share} for share in op.test.shares]


def _weighted(op: Patched) -> list[Fraction]:
    """BitOPs of each patch, in the mean."""
    each = zip(_shares(op), op.parts, strict=True)
    return [
        sum(
            (share * _bitops(part) for share, part in zip(shares.values(), parts, strict=True)),
            _NONE,
        )
        for shares, parts in each
    ]


def _stage(program: Program, name: str, op: Patched) -> PatchStage:
    macs, once = op.extra_macs()
    whole = math.prod(op.grid)
    counts = Counter((0, 1) * whole if op.test else op.body_of or (0,) * whole)
    shares = _shares(op)
    test = op.test
    maps = _maps(op.bodies[0])
    classes = tuple(
        PatchClass(
            patches=counts[index],
            share=float(sum((s[index] for s in shares), _NONE) / whole)
            if test
            else counts[index] / whole,
            parts=op.shares[index] if op.shares else (1,) * len(op.grid),
            bits=tuple(op.bodies[index].value(name).elem.storage.width for name in maps),
            weights=tuple(width for _, width in _layers(op.bodies[index])),
        )
        for index in op.used
    )
    return PatchStage(
        split=op.target.name,
        grid=op.grid,
        extents=op.extents,
        pieces=len(program.stages[name].pieces),
        macs=macs,
        macs_once=once,
        maps=maps,
        layers=tuple(name for name, _ in _layers(op.bodies[0])),
        classes=classes,
        test=None
        if test is None
        else PatchTest(lo=test.lo, hi=test.hi, allowed=float(test.allowed), samples=test.samples),
    )


def _maps(body: Graph) -> tuple[str, ...]:
    """The maps in memory, without sums that are requantized as they come."""
    nodes = [n for n in body.nodes() if not (isinstance(n.op, IntegerOp) and n.op.accumulates)]
    return (*body.inputs, *(name for node in nodes for name in node.outputs))


def _layers(body: Graph) -> list[tuple[str, int]]:
    """What each layer with weights computes, and their bits."""
    nodes = [n for n in body.nodes() if isinstance(n.op, IntConv | IntDense)]
    return [(n.outputs[0], body.arguments(n)[1].elem.storage.width) for n in nodes]


def _macs(graph: Graph) -> int:
    ops = [(n, n.op) for n in graph.nodes() if isinstance(n.op, IntegerOp)]
    return sum(op.work(graph.arguments(n), graph.results(n)).macs for n, op in ops)


def _bitops(graph: Graph) -> int:
    """Multiply-accumulates by the bits of both factors, without stages of patches."""
    total = 0
    for node in graph.nodes():
        if not isinstance(node.op, IntegerOp) or isinstance(node.op, Patched):
            continue
        operands = graph.arguments(node)
        macs = node.op.work(operands, graph.results(node)).macs
        widths = (_BITS, _BITS)
        if isinstance(node.op, IntConv | IntDense | IntMatMul):
            widths = (operands[0].elem.storage.width, operands[1].elem.storage.width)
        total += macs * widths[0] * widths[1]
    return total


def curve_of(graph: Graph, target: McuTarget, options: CompileOptions) -> tuple[CurvePoint, ...]:
    """Memory against extra work, from the plain plan on; estimated, not planned."""
    whole = undivided(unpacked(graph))
    plain = arrange(whole, options, target)
    estimates = Estimates(whole, plain)
    points = [CurvePoint(arena_bytes=plain.arena_bytes, extra_macs_fraction=0.0, stages=0)]
    for extra in _CURVE:
        found = estimates.least_memory(extra)
        if found is not None and found.peak < points[-1].arena_bytes:
            points.append(
                CurvePoint(
                    arena_bytes=found.peak,
                    extra_macs_fraction=found.extra,
                    stages=len(found.stages),
                )
            )
    return tuple(points)
