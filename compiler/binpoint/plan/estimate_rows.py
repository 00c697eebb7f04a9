"""What units take that need whole rows, weigh, or go step by step; see ``plan/estimate.py``."""

from __future__ import annotations

from typing import assert_never

from binpoint.numeric.interval import Interval
from binpoint.ops.logshares import NONE
from binpoint.plan import fabric, units
from binpoint.plan.estimate_sums import adders, recurrent
from binpoint.plan.fabric import HANDSHAKE, Resources

Whole = (
    units.Softmax | units.LogShares | units.Reciprocal | units.LayerNorm | units.Product
    | units.Source | units.Blend | units.FloatSum | units.Recurrent | units.Sums
)  # fmt: skip
_SMALL_TABLE = 256
_FLOAT = 32
_MANTISSA = 24
_WIDE = 64
# A float32 addition on integers: two operands ordered, 63 bits shifted, added, counted, shifted
# back and rounded. Three levels of shifting take a look-up table a bit.
_ADDER = Resources(lut=2 * _FLOAT + 5 * _WIDE + 2 * _WIDE + 40, ff=6 * _WIDE)
_SHIFTER = 2
_HIGH = 32


def whole(unit: Whole) -> Resources:
    """What a unit takes without its store."""
    match unit:
        case units.Softmax() | units.LogShares() | units.Reciprocal():
            return _shares(unit)
        case units.LayerNorm():
            return _layernorm(unit)
        case units.Product():
            return _product(unit)
        case units.Blend():
            return _blend(unit)
        case units.Sums():
            return HANDSHAKE + adders(unit)
        case units.FloatSum():
            return _float_sum(unit)
        case units.Recurrent():
            return recurrent(unit)
        case units.Source():
            wide = unit.lanes * unit.elem.width
            return HANDSHAKE + fabric.rom(unit.iterations, wide) + fabric.counter(unit.iterations)
        case _:
            assert_never(unit)


def _shares(unit: units.Softmax | units.LogShares | units.Reciprocal) -> Resources:
    match unit:
        case units.Softmax():
            return _softmax(unit)
        case units.LogShares():
            return _log_shares(unit)
        case units.Reciprocal():
            return _reciprocal(unit)


def _softmax(unit: units.Softmax) -> Resources:
    """Held rows, a table, an adder, and a divider with a stage for each bit."""
    entry = Interval.of(unit.table.array).int_type().width
    exact = unit.form == "float"
    rest = (
        _MANTISSA + unit.quotient_bits + 3
        if exact
        else entry + fabric.bits(unit.count) + 1 + unit.shift
    )
    stage = Resources(lut=2 * rest, ff=3 * rest)
    parts = [
        HANDSHAKE,
        fabric.ram(unit.together * unit.count, unit.x.width),
        fabric.rom(unit.table.array.size, entry, _SMALL_TABLE),
        (fabric.compare(unit.x.width) + Resources(lut=unit.x.width, ff=unit.x.width))
        * unit.together,
        _ADDER if exact else Resources(lut=rest, ff=rest),
        Resources(ff=_FLOAT * unit.together) if exact else Resources(),
        stage * unit.quotient_bits,
        fabric.clamp(unit.quotient_bits, 8),
        fabric.counter(unit.row_cycles),
    ]
    return fabric.total(parts)


def _log_shares(unit: units.LogShares) -> Resources:
    """Held rows, a table, an adder, a product a row and fifteen comparisons."""
    entry = Interval.of(unit.table.array).int_type().width
    total = entry + fabric.bits(unit.count)
    parts = [
        HANDSHAKE,
        fabric.ram(unit.count, unit.x.width),
        fabric.rom(unit.table.array.size, entry, _SMALL_TABLE),
        fabric.compare(unit.x.width) + Resources(lut=unit.x.width, ff=unit.x.width),
        Resources(lut=total, ff=total),
        (fabric.product(total, _HIGH, "multiply") + Resources(ff=total)) * len(unit.marks),
        fabric.compare(entry) * NONE,
        Resources(lut=NONE, ff=entry + NONE),
        fabric.counter(unit.row_cycles),
    ]
    return fabric.total(parts)


def _reciprocal(unit: units.Reciprocal) -> Resources:
    """Held rows, exponentials, a divider that works bit by bit or has a stage for each bit."""
    entry = Interval.of(unit.table.array).int_type().width
    rest = entry + fabric.bits(unit.count) + 1
    each = unit.form == "gelu"
    stage = Resources(lut=2 * rest, ff=3 * rest)
    parts = [
        HANDSHAKE,
        fabric.ram(unit.count, unit.x.width),
        fabric.rom(unit.table.array.size, entry, _SMALL_TABLE) * (2 if each else 1),
        fabric.compare(unit.x.width) + Resources(lut=unit.x.width, ff=unit.x.width),
        Resources(lut=rest, ff=rest),
        stage * (unit.steps if each else 1),
        fabric.product(entry, unit.steps, "multiply"),
        fabric.clamp(_HIGH, 8),
        fabric.counter(unit.row_cycles),
    ]
    if each:
        parts.append(fabric.product(_HIGH, _HIGH, "multiply"))
    return fabric.total(parts)


def _layernorm(unit: units.LayerNorm) -> Resources:
    """Sums of elements and squares, root and quotient a bit a cycle, two products an element.

    About a centre there is no sum of elements, and no square of it; a subtraction in its place.
    """
    x, sums, squares = unit.x.width, unit.sums.width, unit.squares.width
    apart = unit.apart.width
    count = fabric.bits(unit.count + 1)
    square = fabric.product(apart, apart, "multiply")
    results = (
        fabric.product(count + 1, apart, "multiply") + fabric.product(_HIGH, _HIGH, "multiply") * 2
    )
    shifted = Resources(lut=_SHIFTER * _HIGH + _HIGH, ff=4 * _HIGH)
    rows = [Interval.of(c.array).int_type().width for c in (unit.multipliers, unit.offsets)]
    once = (
        fabric.product(squares + 1, count + 1, "multiply")
        + (fabric.product(sums, sums, "multiply") if unit.centre is None else Resources())
        + Resources(lut=4 * _WIDE, ff=2 * _WIDE)
    )
    summed = sums if unit.centre is None else apart
    bitwise = Resources(lut=3 * _WIDE + 3 * _HIGH, ff=2 * _WIDE + 2 * _HIGH)
    parts = [
        HANDSHAKE,
        (square + Resources(lut=summed + squares, ff=summed + squares)) * unit.pe,
        once,
        bitwise,
        (results + shifted + fabric.clamp(_HIGH, 8)) * unit.pe,
        fabric.ram(unit.words, unit.pe * x),
        fabric.rom(unit.table[0], unit.table[1] * sum(rows)),
        fabric.counter(unit.row_cycles),
        *([fabric.counter(unit.hold)] if unit.hold > 1 else []),
    ]
    return fabric.total(parts)


def _product(unit: units.Product) -> Resources:
    """As a dense layer, with memories in place of constants."""
    left, right = (t.width + (not t.signed) for t in (unit.left, unit.right))
    width = unit.product.width + (not unit.product.signed)
    acc = unit.acc.width + (not unit.acc.signed)
    if unit.shifts:
        # A shifter of four levels, two of them in a look-up table a bit.
        one = Resources(lut=_SHIFTER * width, ff=width)
    else:
        width = min(width, left + right)
        one = fabric.product(left, right, "multiply", unit.pe)
    banks = 1 if unit.batches == 1 else 2
    centred = (left * unit.simd if unit.zero_a else 0) + (
        right * unit.simd * unit.pe if unit.zero_b else 0
    )
    parts = [
        HANDSHAKE,
        fabric.mac(unit.pe, unit.simd, one, width, acc),
        fabric.ram(banks * unit.steps * unit.folds, unit.pe * unit.b.width) * unit.simd,
        Resources(lut=centred, ff=unit.simd * unit.a.width),
        *(fabric.counter(n) for n in (unit.folds, unit.simd, unit.loads)),
        *(fabric.counter(n) for n in (unit.steps, unit.folds, unit.sums, unit.phase)),
        Resources(lut=4 * fabric.bits(unit.loads + 1)),
    ]
    if unit.folds > 1:
        parts += [fabric.ram(unit.steps, unit.simd * unit.a.width)]
    return fabric.total(parts)


def _blend(unit: units.Blend) -> Resources:
    x = unit.x.width + (not unit.x.signed)
    weight = Interval.of(unit.weights.array).int_type().width + 1
    acc = unit.acc.width + (not unit.acc.signed)
    one = fabric.product(x, weight, "multiply", unit.pe)
    parts = [
        HANDSHAKE,
        fabric.mac(unit.pe, 1, one, x + weight, acc),
        fabric.rom(unit.weights.array.size, weight - 1),
        *(fabric.counter(n) for n in (unit.taps, unit.folds, unit.rows)),
    ]
    return fabric.total(parts)


def _float_sum(unit: units.FloatSum) -> Resources:
    """In each lane a table of terms, an adder, perhaps a multiplier, and a list to compare with."""
    each = _ADDER + fabric.rom(unit.table.array.size, _FLOAT, _SMALL_TABLE)
    each += fabric.rom(unit.steps.array.size, _FLOAT, _SMALL_TABLE) + fabric.compare(_FLOAT)
    each += Resources(lut=unit.result.width * 2, ff=unit.result.width * 2)
    rest = fabric.rom(unit.rows, fabric.bits(unit.steps.array.shape[0]))
    if unit.weights is not None:
        each += fabric.product(_MANTISSA + 1, _MANTISSA + 1, "multiply")
        each += Resources(lut=2 * _FLOAT, ff=2 * _FLOAT)
        rest += fabric.rom(unit.weights.array.size, _FLOAT)
    return HANDSHAKE + each * unit.pe + rest + fabric.counter(unit.word_cycles)
