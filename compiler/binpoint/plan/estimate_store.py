"""What turns sums into results takes, and how long it is; see ``estimate.py``."""

from __future__ import annotations

import math

import numpy as np

from binpoint.ir.op import IntArray
from binpoint.numeric.digits import terms
from binpoint.plan import fabric
from binpoint.plan.fabric import Resources
from binpoint.plan.store import Store

_SMALL_TABLE = 256


def stages(store: Store) -> int:
    """Pipeline stages from a sum to its result."""
    match store.form:
        case "pass":
            return 0
        case "mulshift":
            return 3 if store.ups is None and store.downs is None else 4
        case _:
            return 1


def stores(store: Store, x: int, folds: int, lanes: int, *, added: bool = False) -> Resources:
    """What turns sums of `x` bits into results, with constants for `folds` words of lanes.

    `added` tells that a slice has added the offset already.
    """
    y = store.result.width
    match store.form:
        case "pass":
            return Resources(ff=y * lanes)
        case "clamp":
            return (fabric.compare(x) * 2 + Resources(lut=y, ff=y)) * lanes
        case "thresholds":
            assert store.thresholds is not None
            rows, levels = store.thresholds.array.shape
            constants = fabric.rom(folds if rows > 1 else 1, lanes * levels * x)
            signs = Resources(lut=x if store.sign is not None else 0)
            return (fabric.thresholds(levels, x, y) + signs) * lanes + constants
        case "lookup":
            assert store.table is not None
            rows, codes = store.table.array.shape
            words = codes * (folds if rows > 1 else 1)
            return fabric.rom(words, y, _SMALL_TABLE) * lanes
        case _:
            return _rescaled(store, x, folds, lanes, added=added)


def _rescaled(store: Store, x: int, folds: int, lanes: int, *, added: bool) -> Resources:
    assert store.multiplier is not None
    assert store.offset is not None
    assert store.shift is not None
    assert store.total is not None
    m = _width(store.multiplier.array.min(), store.multiplier.array.max())
    k = _width(store.offset.array.min(), store.offset.array.max())
    shifts = sorted({int(s) for s in store.shift.array.reshape(-1)})
    whole, y = store.total.width, store.result.width
    same = store.multiplier.array.shape[0] == 1
    if same and is_shift(int(store.multiplier.array[0])):
        each = Resources() if added else Resources(lut=whole, ff=whole)
        each += fabric.clamp(max(whole - shifts[0], y), y)
    elif store.arithmetic == "rows" and folds == 1:
        each = fabric.mulshift(x, 1, k, whole, shifts[0], y, "rows")
    else:
        each = fabric.mulshift(x, m, k, whole, shifts[0], y, store.arithmetic)
    if len(shifts) > 1:
        each += Resources(lut=whole * math.ceil(math.log(len(shifts), 4)))
    lists = [c.array for c in (store.ups, store.downs) if c is not None]
    for listed in lists:
        each += Resources(lut=listed.shape[1] * x / 3 + y, ff=y)
    words = 1 if same else folds
    constants = fabric.rom(words, lanes * (m + k))
    if store.arithmetic == "rows" and folds == 1:
        constants += _known(store.multiplier.array, x, lanes)
    if len(shifts) > 1:
        constants += fabric.rom(words, lanes * fabric.bits(max(shifts) + 1))
    for listed in lists:
        constants += fabric.rom(words, lanes * listed.shape[1] * (x + 1))
    return each * lanes + constants


def _known(multipliers: IntArray, x: int, lanes: int) -> Resources:
    """Products with numbers that all have a place of their own: additions of their digits."""
    added = np.maximum(terms(multipliers) - 1, 0)
    total = int(added.sum()) * (lanes if len(added) == 1 else 1)
    return Resources(lut=(x + 1) * total)


def is_shift(number: int) -> bool:
    """Whether a product with the number is none: a power of two, or zero."""
    return number >= 0 and number & (number - 1) == 0


def _width(lo: int, hi: int) -> int:
    """Bits of a signed type that holds both."""
    return max(int(lo + 1 if lo < 0 else lo).bit_length(), int(hi).bit_length()) + 1
