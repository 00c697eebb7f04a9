"""What sums of products with constant weights take, and recurrent layers; see ``estimate.py``."""

from __future__ import annotations

import math

from binpoint.numeric.adders import AdderGraph
from binpoint.numeric.interval import Interval
from binpoint.ops.cell import SEGMENT_BITS, SEGMENTS
from binpoint.plan import fabric, units
from binpoint.plan.fabric import HANDSHAKE, Resources
from binpoint.plan.shifts import graph_of, ranges, shift_bits

Summing = units.Dense | units.Depthwise | units.Recurrent
_GATE_BITS = 16
_WIDE = 32
# Products of two numbers of 16 bits beside the gates' own, in each lane.
_MIXED = {"rnn": 0, "gru": 3, "gru_before": 3, "lstm": 3}


def held(unit: Summing) -> int:
    """Bits of a weight in memory."""
    if unit.arithmetic == "shifts":
        bits = shift_bits(unit.weights)
        return sum(bits) + 2 * len(bits)
    return 1 if unit.arithmetic in {"signs", "count"} else unit.weight.width


def sums(unit: Summing, lanes: int, terms: int, *, shared: bool) -> Resources:
    """Products and their sums; `shared` tells that all lanes have the same operand."""
    x = unit.x.width + (not unit.x.signed)
    w = unit.weight.width + (not unit.weight.signed)
    width = min(unit.product.width + (not unit.product.signed), x + w)
    if unit.arithmetic == "count":
        width = 1
    acc = unit.acc.width + (not unit.acc.signed)
    match unit.arithmetic:
        case "shifts":
            one = fabric.shifts(x, shift_bits(unit.weights))
        case "rows":
            one = fabric.rows(x, w)
        case _:
            one = fabric.product(x, w, unit.arithmetic, lanes if shared else 1)
    return fabric.mac(lanes, terms, one, width, acc)


def recurrent(unit: units.Recurrent) -> Resources:
    """Sums as in a dense layer, memories of sums and states, gates by tables in every lane."""
    gates, pe, simd = unit.form.gates, unit.pe, unit.simd
    rows, words = gates * unit.folds, gates * unit.folds * unit.steps
    factor = Interval.of(unit.factors.array).int_type().width + 1
    scaled = fabric.mulshift(
        unit.acc.width, factor, unit.shift, unit.total.width, unit.shift, unit.scaled.width
    )
    states = _state(unit, unit.batch)
    if unit.kind == "gru_before":
        states += _state(unit, 1)
    if unit.kind == "lstm":
        states += fabric.ram(unit.batch * unit.folds, pe * _GATE_BITS)
    parts = [
        HANDSHAKE,
        sums(unit, pe, simd, shared=True),
        fabric.rom(words, pe * simd * held(unit)),
        fabric.rom(rows, pe * (unit.acc.width + factor - 1)),
        scaled * pe,
        fabric.ram(unit.folds, pe * (unit.scaled.width + unit.a.width)) * gates,
        states,
        _gates(unit) * pe,
        *(fabric.counter(n) for n in (unit.steps, unit.folds, rows, words)),
        *(fabric.counter(n) for n in (unit.folds, unit.count, unit.batch)),
    ]
    return fabric.total(parts)


def _state(unit: units.Recurrent, rows: int) -> Resources:
    """States in banks side by side, of which a word of products takes some."""
    words = rows * unit.hidden // unit.banks
    width = unit.state.width
    one = Resources(ff=width) if words == 1 else fabric.ram(words, width)
    choices = unit.banks // unit.simd
    chosen = width * math.ceil(math.log(choices, 4)) if choices > 1 else 0
    return one * unit.banks + Resources(lut=chosen * unit.simd, ff=width * unit.simd)


def _gates(unit: units.Recurrent) -> Resources:
    """All gates of one element: a table with two ports each, a product between two entries."""
    gates = sum(unit.form.copies)
    between = unit.fraction - SEGMENT_BITS
    clamped = fabric.compare(_GATE_BITS + 1) * 2 + Resources(lut=2 * _GATE_BITS, ff=_GATE_BITS)
    each = (
        clamped
        + fabric.rom(SEGMENTS + 1, _GATE_BITS)
        + fabric.product(_GATE_BITS + 1, max(2, between + 1), "multiply")
        + Resources(lut=2 * _GATE_BITS, ff=2 * _GATE_BITS)
    )
    mixed = fabric.product(_GATE_BITS + 1, _GATE_BITS + 1, "multiply") * _MIXED[unit.kind]
    kept = Resources(lut=_WIDE, ff=_WIDE) + fabric.clamp(_WIDE - _GATE_BITS, unit.state.width)
    return each * gates + mixed + kept


# ---- graphs of adders


def adders_depth(unit: units.Sums) -> int:
    """Additions that follow one another, the bias not counted."""
    return max(graph_of(unit.weights).levels())


def adders(unit: units.Sums) -> Resources:
    """Every number of the graph in its time, waiting until the last that adds it is made."""
    graph, sizes = graph_of(unit.weights), [r.int_type().width for r in ranges(unit)]
    levels, end = graph.levels(), adders_depth(unit)
    last = list(levels)
    parts = [Resources(ff=sum(sizes[: graph.operands]))]
    for index, adder in enumerate(graph.adders, graph.operands):
        free = adder.down or (0 if adder.minus else adder.up)
        parts.append(fabric.adder(sizes[index], min(free, sizes[index])))
        for number in (adder.left, adder.right):
            last[number] = max(last[number], levels[index] - 1)
    for row in graph.rows:
        if row is not None:
            last[row.number] = end
    parts += [fabric.wait(s, b - a) for s, a, b in zip(sizes, levels, last, strict=True)]
    return fabric.total(parts) + _finished(unit, graph)


def _finished(unit: units.Sums, graph: AdderGraph) -> Resources:
    """Adders for biases that are not zero, and for rows that are less than zero times a number."""
    pairs = zip(graph.rows, unit.bias.array.tolist(), strict=True)
    added = sum(bool(bias) or (row is not None and row.negative) for row, bias in pairs)
    return Resources(lut=unit.acc.width, ff=unit.acc.width) * added
