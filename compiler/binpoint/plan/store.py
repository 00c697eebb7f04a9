"""Store: what happens to an element before it leaves a unit, as constants per channel.

``pass``        as it is
``clamp``       clamp(x, lo, hi)
``mulshift``    clamp((x·m + k) >> s, lo, hi), and one more or less on a few listed x
``thresholds``  lo + the number of thresholds that x reaches
``lookup``      table[x − low]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.constant import Constant
from binpoint.numeric.fixed import IntType
from binpoint.numeric.interval import Interval


@dataclass(frozen=True, slots=True)
class Store:
    """How an element is stored; arrays have one row for all channels or one a channel.

    Args:
        form: see the module.
        result: narrowest type of what is stored.
        lo, hi: clamp, where the form has one.
        multiplier: ``[C]``.
        offset: ``[C]``, zero point and one half inside.
        shift: ``[C]``, or one for all channels.
        total: type of ``x·m + k`` over everything reachable.
        even: whether exact ties go to the even number of steps from `zero`, not up.
        zero: zero point of the result.
        ups: ``[C, U]``, operands whose result is one more; unused places hold an unreachable one.
        downs: ``[C, D]``, operands whose result is one less.
        thresholds: ``[C, T]``.
        sign: ``[C]``, 1 or -1, by which the operand is multiplied before comparison; None for 1.
        table: ``[C, codes]``; `low` is the operand of the first entry.
        arithmetic: of the product: ``multiply``, or ``rows``, which adds x at each bit of m.
    """

    form: str
    result: IntType
    lo: int = 0
    hi: int = 0
    multiplier: Constant | None = None
    offset: Constant | None = None
    shift: Constant | None = None
    total: IntType | None = None
    even: bool = False
    zero: int = 0
    ups: Constant | None = None
    downs: Constant | None = None
    thresholds: Constant | None = None
    sign: Constant | None = None
    table: Constant | None = None
    low: int = 0
    arithmetic: str = "multiply"

    @property
    def per_channel(self) -> bool:
        """Whether any constant differs between channels."""
        arrays = (
            *(self.multiplier, self.offset, self.shift, self.ups, self.downs),
            *(self.thresholds, self.sign, self.table),
        )
        return any(a is not None and a.array.shape[0] > 1 for a in arrays)


def as_it_is(x: Interval) -> Store:
    """No change."""
    return Store("pass", x.int_type())


def clamped(x: Interval, lo: int, hi: int) -> Store:
    """A clamp, or nothing where it cannot act."""
    if lo <= x.lo and x.hi <= hi:
        return as_it_is(x)
    return Store("clamp", x.clamp(lo, hi).int_type(), lo, hi)


def looked_up(x: Interval, table: NDArray[np.integer], low: int) -> Store:
    """Entries ``[C, codes]`` of the codes from `low` on, cut to those that occur."""
    cut = table[:, x.lo - low : x.hi - low + 1].astype(np.int64)
    if (cut == cut[:1]).all():
        cut = cut[:1]
    return Store("lookup", Interval.of(cut).int_type(), table=Constant(cut), low=x.lo)


def spread(array: NDArray[np.int64], folds: int, pe: int) -> NDArray[np.int64]:
    """Constants ``[C, …]`` as ``[folds, pe, …]``; one row is repeated for all channels."""
    if array.shape[0] == 1:
        return np.broadcast_to(array[None], (1, pe, *array.shape[1:]))
    return array.reshape(folds, pe, *array.shape[1:])
