"""From an accumulator to a result type: builds the Requantize of the wanted semantics.

Used by every op that sums exactly and rounds once. Channels lie on the last axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from binpoint.errors import NoIntegerForm
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.op import Semantics, Site
from binpoint.numeric import float32, monotone
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I32, FixedType
from binpoint.numeric.monotone import Clip, Round, Rule, Shift
from binpoint.numeric.requant import approximate_all
from binpoint.ops.requantize import DyadicRequantize, OnnxruntimeRequantize, Ranges, Requantize
from binpoint.ops.thresholds import IntThresholds, thresholds

_MAX_SHIFT = 62


def accumulator(scales: Sequence[Dyadic], rank: int) -> FixedType:
    """The 32-bit type of exact sums: one scale, or one per channel on the last axis."""
    if len(set(scales)) == 1:
        return FixedType.per_tensor(I32, scales[0])
    return FixedType(I32, tuple(scales), (0,), rank - 1)


def requantize(
    site: Site,
    build: GraphBuilder,
    acc: Value,
    *,
    reach: Ranges | None = None,
    scales32: Sequence[float] | None = None,
    divisor: int = 1,
) -> Value:
    """Bring `acc` (its type tells its scales.

    Divided by `divisor`) to the type of the site's result.

    In ONNXRUNTIME semantics the float32 factor is `scales32`, else made as QLinearConv makes it
    from the exact product of scales; `reach` is the range of accumulators per channel.
    """
    target = site.result
    if target.storage.width > 16:
        return _keep(site, acc, divisor)
    if target.axis is not None:
        raise NoIntegerForm(
            "a result with a scale per channel", at=site.name, hint="use per-tensor activations"
        )
    storage = target.storage
    if site.semantics is Semantics.ONNXRUNTIME and storage.width <= 8:
        factors = scales32 if scales32 is not None else _factors(acc.elem, target)
        ends = reach if reach is not None else ((acc.interval.lo, acc.interval.hi),)
        count = max(len(factors), len(ends))
        op: Requantize = OnnxruntimeRequantize(
            scales=tuple(float(f) for f in factors) * (count // len(factors)),
            reach=ends * (count // len(ends)),
            result=target,
            lo=storage.min,
            hi=storage.max,
        )
        return build.one(op, acc, hint=f"{site.name}_requantize")
    ratios = [s.as_fraction() / target.scale.as_fraction() / divisor for s in acc.elem.scales]
    if site.semantics is Semantics.RATIONAL:
        return build.one(exactly(build, acc, ratios, target), acc, hint=f"{site.name}_requantize")
    op = dyadic(ratios, target, site.limits.multiplier_bits)
    return build.one(op, acc, hint=f"{site.name}_requantize")


def exactly(
    build: GraphBuilder, acc: Value, ratios: Sequence[Fraction], target: FixedType
) -> IntThresholds:
    """The RATIONAL op for ratios of scales, one or one per channel: ties to even, then clamped."""
    storage = target.storage
    shift = Shift((Fraction(target.zero_point),))
    clip = Clip(Fraction(storage.min), Fraction(storage.max))
    centred = Shift(tuple(Fraction(-z) for z in acc.elem.zero_points))
    chain = (centred, monotone.scale(*ratios), shift, clip, Round(Rule.HALF_EVEN))
    count = len(ratios)
    return thresholds(build, acc, chain, target, storage.min, storage.max, channels=count)


def dyadic(ratios: Sequence[Fraction], target: FixedType, bits: int) -> DyadicRequantize:
    """The DYADIC op for ratios of scales, one or one per channel; equal ones become one.

    A ratio too small to move any 32-bit accumulator becomes zero; shifts are at least one.
    """
    tiny = Fraction(1, 2**40)
    found = approximate_all([max(r, tiny) for r in ratios], bits - 1, _MAX_SHIFT - 1)
    pairs = [
        (0, 1) if r < tiny else (f.multiplier << 1, f.shift + 1)
        for r, f in zip(ratios, found, strict=True)
    ]
    if len(set(pairs)) == 1:
        pairs = pairs[:1]
    storage = target.storage
    return DyadicRequantize(
        tuple(m for m, _ in pairs), tuple(s for _, s in pairs), target, storage.min, storage.max
    )


def _factors(acc: FixedType, target: FixedType) -> list[float]:
    """fl(scale / target) of the rounded accumulator scales."""
    top = np.float32(float(target.scale))
    return [float(np.float32(np.float32(float(s)) / top)) for s in acc.scales]


def _keep(site: Site, acc: Value, divisor: int) -> Value:
    """The accumulator itself as a result, where its type is the wanted one."""
    target = site.result
    same = (
        set(acc.elem.scales) == set(target.scales)
        and set(target.zero_points) == {0}
        and divisor == 1
    )
    if not same:
        raise NoIntegerForm(
            "a wide result needs exactly the accumulator's scale",
            at=site.name,
            have=str(target),
            want=str(acc.elem),
            hint="quantize this result to 8 bits",
        )
    return acc


def linear_factors(sx: Dyadic, weights: FixedType, sy: Dyadic, alpha: float = 1.0) -> list[float]:
    """fl(fl(fl(alpha·sx)·sw) / sy), as QLinearConv, QLinearMatMul and QGemm make it."""
    sw = np.array([float(s) for s in weights.scales], np.float32)
    return [
        float(f) for f in np.atleast_1d(float32.requantize_scale(float(sx), sw, float(sy), alpha))
    ]
