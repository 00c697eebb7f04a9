"""The type of an input that takes the codes of the quantizer after it."""

from __future__ import annotations

from fractions import Fraction

from binpoint.errors import InvalidConstant
from binpoint.numeric import monotone
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import FixedType
from binpoint.numeric.monotone import Clip, Round, Rule, Scale, Shift
from binpoint.ops.rational import Rational


def absorbed(op: Rational) -> FixedType | None:
    """The type on which `op` leaves every code as it is, or None if there is none.

    The function before the rounding, to even, is a rising line x·a + b, the same for all channels,
    with an integer b and a float32 as 1 / a. Then a code q stands for (q − b) / a.
    """
    quantizer = op.quantizer
    if quantizer is None or op.channels > 1 or quantizer.type.axis is not None:
        return None
    *line, last = op.steps
    straight = all(isinstance(step, Scale | Shift | Clip) for step in line)
    if last != Round(Rule.HALF_EVEN) or not straight:
        return None
    found = monotone.affine(op.steps, 0)
    if found is None or found[0] <= 0:
        return None
    a, b = found
    storage = quantizer.type.storage
    if b.denominator != 1 or not storage.min <= b <= storage.max:
        return None
    try:
        scale = Dyadic.from_fraction(Fraction(1) / a)
    except InvalidConstant:
        return None
    return FixedType.per_tensor(storage, scale, int(b)) if scale.multiplier < 1 << 24 else None
