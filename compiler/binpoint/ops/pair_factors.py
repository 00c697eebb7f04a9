"""Multipliers of sums and products of two operands, in DYADIC semantics.

The two multipliers of a sum are off by less than 2^-10 of a result's step together, the multiplier
of a product by less than 2^-26 of its value.
"""

from __future__ import annotations

from fractions import Fraction

from binpoint.errors import NoIntegerForm
from binpoint.ir.graph import Value
from binpoint.ir.op import Site
from binpoint.numeric.fixed import FixedType
from binpoint.numeric.requant import approximate
from binpoint.ops.broadcast import Broadcast
from binpoint.ops.pairwise import IntAdd, IntMul

_ERROR = Fraction(1, 2**10)
_MAX_SHIFT = 52
_ROOM = 61


def product_of(site: Site, a: Value, b: Value, axes: Broadcast) -> IntMul:
    """The product: one multiplier, with the bits that 64-bit sums leave."""
    target = site.result
    ratio = (a.elem.scale * b.elem.scale).as_fraction() / target.scale.as_fraction()
    zeros = a.elem.zero_point, b.elem.zero_point
    product = (a.interval - zeros[0]) * (b.interval - zeros[1])
    room = _ROOM - max(abs(product.lo), abs(product.hi)).bit_length()
    farthest = _ROOM - (abs(target.zero_point) + 1).bit_length()
    found = approximate(ratio, min(site.limits.multiplier_bits, room) - 1, farthest - 1)
    multiplier, shift = found.multiplier << 1, found.shift + 1
    storage = target.storage
    return IntMul(axes, multiplier, shift, *zeros, target, storage.min, storage.max)


def sum_of(site: Site, a: Value, b: Value, axes: Broadcast, sign: int) -> IntAdd:
    """The sum, `b` with its sign: at the largest shift for which 32 bits, else 64, hold all of it.

    Raises:
        NoIntegerForm: no shift brings both scales to that of the result.
    """
    target = site.result
    ratios = [v.elem.scale.as_fraction() / target.scale.as_fraction() for v in (a, b)]
    ratios[1] *= sign
    limits = site.limits
    for limit, top in ((2**31 - 1, 30), (2**61, _MAX_SHIFT)):
        found = _multipliers(ratios, (a, b), target, limit, top, limits.multiplier_bits)
        if found is not None:
            ma, mb, shift = found
            zeros = a.elem.zero_point, b.elem.zero_point
            storage = target.storage
            return IntAdd(axes, ma, mb, shift, *zeros, target, storage.min, storage.max)
    raise NoIntegerForm(
        "the scales of a sum lie too far apart",
        at=site.name,
        have=f"{a.elem}, {b.elem} to {target}",
    )


def _multipliers(
    ratios: list[Fraction],
    operands: tuple[Value, Value],
    target: FixedType,
    limit: int,
    top: int,
    bits: int,
) -> tuple[int, int, int] | None:
    """Nearest multipliers at the largest shift that fits `limit`, if they are near enough."""
    centred = [v.interval - v.elem.zero_point for v in operands]
    reach = [max(abs(c.lo), abs(c.hi)) for c in centred]
    raw = [max(abs(v.interval.lo), abs(v.interval.hi)) for v in operands]
    zeros = [abs(v.elem.zero_point) for v in operands]
    for shift in range(top, 0, -1):
        pair = [round(ratio * 2**shift) for ratio in ratios]
        largest = [max(r, c) + z for r, c, z in zip(raw, reach, zeros, strict=True)]
        total = sum(abs(m) * n for m, n in zip(pair, largest, strict=True))
        total += (abs(target.zero_point) << shift) + (1 << (shift - 1))
        if total > limit or max(abs(m) for m in pair) >= 1 << bits:
            continue
        errors = [
            n * abs(Fraction(m, 1 << shift) - r)
            for n, m, r in zip(reach, pair, ratios, strict=True)
        ]
        if sum(errors) > _ERROR:
            return None
        while shift > 1 and not any(m & 1 for m in pair):
            pair, shift = [m >> 1 for m in pair], shift - 1
        return pair[0], pair[1], shift
    return None
