"""Products with constants that need no multiplier: shifted operands, added and subtracted.

A folded layer reads its weights from a memory. There a weight is a few fields, each a signed power
of two (``shifts``), or its bits, each of which adds the operand shifted by its place (``rows``),
whichever takes less logic. Where every weight has a place of its own, a layer is a graph of adders.
Products of two computed values stay what they are.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from binpoint.ir.constant import Constant
from binpoint.ir.op import IntArray
from binpoint.numeric.adders import AdderGraph, adder_graph
from binpoint.numeric.digits import digits
from binpoint.numeric.fixed import IntType
from binpoint.numeric.interval import Interval
from binpoint.plan import fabric, units
from binpoint.plan.store import Store
from binpoint.plan.unit import Unit

MOST_PRODUCTS = 4096
"""Of one layer that is computed at once: what synthesis tools unroll."""
_WIDEST = 62
Stored = (
    units.Dense | units.Depthwise | units.Reduce | units.Map | units.Pair | units.Sums
    | units.Product | units.Blend
)  # fmt: skip
"""Units that store what they compute."""


def without_multipliers(unit: Unit) -> Unit:
    """The unit with all products by constants made of shifts and additions."""
    if isinstance(unit, Stored) and unit.store.multiplier is not None:
        unit = replace(unit, store=replace(unit.store, arithmetic="rows"))
    match unit:
        case units.Dense():
            return at_once(replace(unit, arithmetic=_arithmetic(unit), adders=True))
        case units.Depthwise():
            return replace(unit, arithmetic=_arithmetic(unit))
        case units.Pair(form="linear") | units.Pair(constant=Constant()):
            return replace(unit, arithmetic="rows")
        case _:
            return unit


def shifts(unit: Unit) -> bool:
    """Whether a unit shifts by what it reads."""
    return isinstance(unit, units.Product) and unit.shifts


def is_without(unit: Unit) -> bool:
    """Whether a unit makes products so."""
    if isinstance(unit, units.Sums):
        return True
    stored = isinstance(unit, Stored) and unit.store.arithmetic == "rows"
    return stored or getattr(unit, "arithmetic", "") in {"shifts", "rows"}


def _arithmetic(unit: units.Dense | units.Depthwise) -> str:
    """The cheaper way, of those there are."""
    if unit.arithmetic != "multiply":
        return unit.arithmetic
    few = fabric.shifts(unit.x.width, shift_bits(unit.weights))
    return "shifts" if few.lut < fabric.rows(unit.x.width, unit.weight.width).lut else "rows"


def at_once(unit: units.Dense) -> units.Dense | units.Sums:
    """The layer as a graph of adders, if it may be one and nothing of it is folded."""
    whole = (unit.groups, unit.folds, unit.steps) == (1, 1, 1)
    if not (unit.adders and whole) or unit.arithmetic == "count":
        return unit
    if unit.weights.array.size > MOST_PRODUCTS:
        return unit
    store, bias = _biased(unit.store, unit.bias.array, unit.acc)
    return units.Sums(unit.rows, unit.weights, Constant(bias), unit.x, unit.acc, store)


# ---- weights as fields


def shift_bits(weights: Constant) -> tuple[int, ...]:
    """Of each signed power of two, the largest first: how many bits its shift takes."""
    split = [digits(v) for v in np.unique(np.abs(weights.array)).tolist()]
    most = max((len(d) for d in split), default=0)
    tops = [max(d[place].shift for d in split if len(d) > place) for place in range(most)]
    return tuple(fabric.bits(top + 1) for top in tops) or (1,)


def fields(weights: IntArray, bits: tuple[int, ...]) -> IntArray:
    """Weights as the memory holds them: of each power whether it is there, its sign, its shift.

    The first field, of the largest power, is in the lowest bits.
    """
    every, places = np.unique(weights, return_inverse=True)
    codes = [_code(v, bits) for v in every.tolist()]
    return np.array(codes, np.int64)[places].reshape(weights.shape)


def _code(weight: int, bits: tuple[int, ...]) -> int:
    code = at = 0
    for digit, width in zip(digits(weight), bits, strict=False):
        code |= (1 | digit.negative << 1 | digit.shift << 2) << at
        at += width + 2
    return code


def term_type(unit: units.Dense | units.Depthwise) -> IntType:
    """A type for all partial sums of one product: of its digits or of its bits."""
    bits = unit.weight.width if unit.arithmetic == "rows" else _reach(unit.weights) + 1
    return IntType(unit.x.width + (not unit.x.signed) + bits, signed=True)


def _reach(weights: Constant) -> int:
    """The place of the largest digit, one for the sign."""
    return int(np.abs(weights.array).max(initial=1)).bit_length() + 1


# ---- graphs of adders


@lru_cache(maxsize=256)
def graph_of(weights: Constant) -> AdderGraph:
    """The adders of a matrix ``[channels, depth]``."""
    return adder_graph(weights.array.astype(np.int64))


def ranges(unit: units.Sums) -> tuple[Interval, ...]:
    """All values of each number of the graph, operands first."""
    numbers, x = graph_of(unit.weights).numbers(), unit.x
    up, down = (f(numbers, 0).sum(axis=1) for f in (np.maximum, np.minimum))
    low, high = up * x.min + down * x.max, up * x.max + down * x.min
    return tuple(Interval(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _biased(store: Store, bias: IntArray, acc: IntType) -> tuple[Store, IntArray]:
    """The store of sums without their bias, and what is still to be added to them.

    Thresholds move by the bias, and the offset of a multiplication by so many times the bias.
    """
    count = len(bias)
    if store.thresholds is not None:
        signs = np.ones(1, np.int64) if store.sign is None else store.sign.array
        moved = store.thresholds.array - (signs * bias)[:, None]
        return replace(store, thresholds=Constant(moved)), np.zeros_like(bias)
    plain = store.ups is None and store.downs is None
    if store.form != "mulshift" or not plain:
        return store, bias
    assert store.multiplier is not None
    assert store.offset is not None
    m, k = (np.broadcast_to(c.array, (count,)) for c in (store.multiplier, store.offset))
    offset = k + m * bias
    reach = Interval.of_type(acc)
    ends = [reach * int(v) + int(o) for v, o in zip(m, offset, strict=True)]
    ends += [reach * int(v) for v in m]
    whole = Interval(min(e.lo for e in ends), max(e.hi for e in ends)).int_type()
    if whole.width > _WIDEST:
        return store, bias
    total = IntType(whole.width + (not whole.signed), signed=True)
    return replace(store, offset=Constant(offset), total=total), np.zeros_like(bias)
