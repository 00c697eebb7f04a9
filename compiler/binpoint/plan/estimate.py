"""What a design takes and how fast it is, layer by layer, before any synthesis.

Resources are those of the datapaths of ``plan/fabric.py``, put together as the units are. They are
meant for choosing a folding and for telling whether a design fits; they are no vendor's figures.
What sums of products take is in `plan/estimate_sums.py`, what stores their results in
`plan/estimate_store.py`, and units that need whole rows in `plan/estimate_rows.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import assert_never

from binpoint.numeric.digits import terms
from binpoint.plan import fabric, units
from binpoint.plan.design import Design
from binpoint.plan.estimate_rows import Whole, whole
from binpoint.plan.estimate_store import is_shift, stages, stores
from binpoint.plan.estimate_sums import adders_depth, held, sums
from binpoint.plan.fabric import HANDSHAKE, Resources
from binpoint.plan.units import Unit

_BOTH = 2
Known = (
    units.Dense | units.Depthwise | units.Reduce | units.Arg | units.Window
    | units.Map | units.Pair | units.Concat | units.Copy | units.Frame | units.Fork | units.Lanes
    | Whole
)  # fmt: skip
"""Units of which it is known what they take."""


@dataclass(frozen=True, slots=True)
class LayerEstimate:
    """One layer.

    Args:
        name: of the layer.
        stem: of its unit.
        pe, simd: lanes of results, and products of a sum.
        cycles: iterations of one inference.
        latency: cycles from reading a word to writing what it completes.
        interval: cycles between inferences, of this layer alone.
        resources: without its streams.
    """

    name: str
    stem: str
    pe: int
    simd: int
    cycles: int
    latency: int
    interval: int
    resources: Resources


@dataclass(frozen=True, slots=True)
class DesignEstimate:
    """All layers in order, the streams between them, and the whole.

    Args:
        interval: cycles between inferences: the slowest layer's or port's.
    """

    layers: tuple[LayerEstimate, ...]
    streams: Resources
    total: Resources
    interval: int

    @property
    def slowest(self) -> LayerEstimate:
        """The layer that sets the pace, the first of equals."""
        return max(self.layers, key=lambda layer: layer.interval)


def estimate(design: Design) -> DesignEstimate:
    """The estimate of a design with its streams at their depths."""
    layers = [layer(item.name, item.unit) for item in design.layers]
    fifos = fabric.total(
        [fabric.fifo(s.depth, s.lanes * s.elem.width) for s in design.streams.values()]
    )
    whole = fabric.total([item.resources for item in layers]) + fifos
    ports = [design.streams[p.stream].words for p in (*design.inputs, *design.outputs)]
    pace = max(*(item.interval for item in layers), *ports)
    return DesignEstimate(tuple(layers), fifos, whole, pace)


def layer(name: str, unit: Unit) -> LayerEstimate:
    """The estimate of one layer."""
    (pe, simd), late, cycles = parallel(unit), latency(unit), unit.iterations
    return LayerEstimate(name, unit.stem, pe, simd, cycles, late, cycles + late, resources(unit))


def parallel(unit: Unit) -> tuple[int, int]:
    """Lanes of results, and products of a sum."""
    pe = getattr(unit, "pe", getattr(unit, "lanes", 1))
    return int(pe), int(getattr(unit, "simd", 1))


def latency(unit: Unit) -> int:
    """Pipeline stages from reading a word to writing a result, as in the calibrated datapaths."""
    match unit:
        case units.Dense() | units.Product() | units.Depthwise():
            return 3 + fabric.bits(unit.simd) * (unit.simd > 1) + stages(unit.store)
        case units.Blend():
            return 3 + stages(unit.store)
        case units.Sums():
            return 2 + adders_depth(unit) + stages(unit.store)
        case units.Reduce():
            return 2 + stages(unit.store)
        case units.Map():
            return 1 + stages(unit.store)
        case units.Pair():
            return 3 + stages(unit.store)
        case _:
            return 2


def resources(unit: Unit) -> Resources:
    """What a unit takes, its streams not counted."""
    assert isinstance(unit, Known)
    if isinstance(unit, Whole):
        return whole(unit) + _stored(unit)
    match unit:
        case units.Dense():
            return _dense(unit)
        case units.Depthwise():
            return _depthwise(unit)
        case units.Window():
            return _window(unit)
        case units.Reduce():
            return _reduce(unit)
        case units.Arg():
            return _arg(unit)
        case units.Map():
            return _map(unit)
        case units.Pair():
            return _pair(unit)
        case units.Concat() | units.Copy() | units.Frame() | units.Fork() | units.Lanes():
            return _moves(unit)
        case _:
            assert_never(unit)


def _stored(unit: Whole) -> Resources:
    """What stores the sums of a unit, if it has a store."""
    if isinstance(unit, units.Sums):
        return stores(unit.store, unit.acc.width, 1, unit.pe)
    if isinstance(unit, units.Product | units.Blend):
        return stores(unit.store, unit.acc.width, unit.folds, unit.pe)
    return Resources()


def _map(unit: units.Map) -> Resources:
    stored = stores(unit.store, unit.x.width, unit.folds, unit.pe)
    held = Resources(ff=unit.pe * unit.x.width)
    return HANDSHAKE + stored + held + fabric.counter(unit.folds)


# ---- sums of products


def _dense(unit: units.Dense) -> Resources:
    x, simd = unit.x.width, unit.simd
    rows, words = unit.groups * unit.folds, unit.groups * unit.folds * unit.steps
    parts = [
        HANDSHAKE,
        sums(unit, unit.pe, simd, shared=True),
        fabric.rom(words, unit.pe * simd * held(unit)),
        fabric.rom(rows, unit.pe * unit.acc.width),
        stores(unit.store, unit.acc.width, rows, unit.pe),
        Resources(ff=simd * x),
        fabric.counter(unit.steps),
        fabric.counter(rows),
        fabric.counter(words),
        _delays(latency(unit), fabric.bits(rows) if rows > 1 else 0),
    ]
    if unit.folds > 1:
        parts += [
            fabric.ram(unit.steps, simd * x),
            Resources(lut=simd * x),
            fabric.counter(unit.folds),
        ]
    return fabric.total(parts)


def _depthwise(unit: units.Depthwise) -> Resources:
    parts = [
        HANDSHAKE,
        sums(unit, unit.pe, unit.simd, shared=False),
        fabric.rom(unit.folds * unit.steps, unit.pe * unit.simd * held(unit)),
        fabric.rom(unit.folds, unit.pe * unit.acc.width),
        stores(unit.store, unit.acc.width, unit.folds, unit.pe),
        Resources(ff=unit.pe * unit.simd * unit.x.width),
        fabric.counter(unit.steps),
        fabric.counter(unit.folds),
        fabric.counter(unit.folds * unit.steps),
        _delays(latency(unit), fabric.bits(unit.folds) if unit.folds > 1 else 0),
    ]
    return fabric.total(parts)


def _delays(late: int, index: int) -> Resources:
    """What goes with words through the pipeline: flags, and indices in shift registers."""
    return Resources(lut=2 * index + 2, ff=2 * late + 2 * index)


# ---- windows and folds


def _window(unit: units.Window) -> Resources:
    """A ring of rows, counters of time, place and tap, and addresses."""
    wide = unit.lanes * unit.elem.width
    words = unit.rows_held * unit.row_words
    address = fabric.bits(words)
    row = fabric.bits(unit.row_words)
    place = fabric.bits(max(unit.size)) + 2
    slot = fabric.bits(unit.rows_held)
    time = fabric.bits(max(unit.phase, unit.prologue))
    kernel = sum(fabric.bits(k) for k in unit.kernel)
    control = Resources(
        lut=3 * address + 2 * row + 7 * place + 4 * slot + 4 * time + 2 * kernel,
        ff=3 * address + 2 * row + 7 * place + 2 * slot + 2 * time,
    )
    padding = Resources(lut=wide if any(unit.before) else 0)
    if unit.together == 1:
        return HANDSHAKE + control + padding + fabric.ram(words, wide)
    choice = Resources(lut=wide * math.ceil(math.log(unit.rows_held, 4)), ff=wide)
    rings = fabric.ram(unit.row_words, wide) * unit.rows_held
    return HANDSHAKE + control + (padding + choice) * unit.together + rings


def _reduce(unit: units.Reduce) -> Resources:
    acc, lanes = unit.acc.width, unit.pe
    joined = Resources(lut=acc) if unit.kind == "sum" else fabric.compare(acc) + Resources(lut=acc)
    held = Resources()
    if unit.in_memory:
        held = fabric.ram(unit.folds, lanes * acc)
    elif unit.held and unit.folds > 1:
        held = Resources(lut=lanes * acc * math.ceil(unit.folds / 4), ff=unit.folds * lanes * acc)
    kinds = 0 if unit.kinds is None else int(unit.kinds.array.max()) + 1
    chosen = Resources() if not kinds else fabric.rom(unit.rows, fabric.bits(kinds))
    parts = [
        HANDSHAKE,
        (joined + Resources(ff=acc)) * lanes,
        held,
        chosen,
        stores(unit.store, acc, kinds or unit.folds, lanes),
        fabric.counter(unit.taps),
        fabric.counter(unit.folds),
    ]
    return fabric.total(parts)


def _arg(unit: units.Arg) -> Resources:
    index = fabric.bits(unit.taps)
    each = fabric.compare(unit.x.width) + Resources(
        lut=unit.x.width + index, ff=unit.x.width + index
    )
    held = fabric.ram(unit.folds, unit.pe * (unit.x.width + index))
    counters = fabric.counter(unit.taps) + fabric.counter(unit.folds)
    return HANDSHAKE + each * unit.pe + counters + (held if unit.folds > 1 else Resources())


# ---- pairs and moves


def _pair(unit: units.Pair) -> Resources:
    """Two operands, what is computed of them, and the store."""
    a, b, product = unit.a.width, unit.b.width, unit.product.width
    numbers = dict(unit.numbers)
    match unit.form:
        case "linear":
            each = fabric.total(
                [
                    _scaled(width, number, unit.arithmetic)
                    for width, number in ((a, numbers["ma"]), (b, numbers["mb"]))
                ]
            )
            if each.dsp < _BOTH:
                each += Resources(lut=product, ff=product)
        case "product":
            zeros = Resources(lut=(a if numbers["zero_a"] else 0) + (b if numbers["zero_b"] else 0))
            rows = unit.arithmetic == "rows"
            each = zeros
            each += fabric.rows(a, b) if rows else fabric.product(a + 1, b + 1, "multiply")
        case "table":
            each = Resources(lut=product)
        case _:
            each = fabric.compare(product) + Resources(lut=product, ff=product)
    in_slices = unit.form == "linear" and each.dsp == _BOTH
    operands = Resources() if in_slices else Resources(ff=a + b)
    parts = [HANDSHAKE, (each + operands) * unit.pe, fabric.counter(unit.folds)]
    if unit.constant is not None:
        parts.append(fabric.rom(unit.folds, unit.pe * (a if unit.constant_first else b)))
    elif unit.held is not None and unit.folds > 1:
        parts.append(fabric.ram(unit.folds, unit.pe * (b if unit.held else a)))
    return fabric.total(parts) + stores(unit.store, product, 1, unit.pe, added=in_slices)


def _scaled(width: int, number: int, arithmetic: str) -> Resources:
    """A product with a number that is known."""
    if is_shift(number):
        return Resources()
    if arithmetic == "rows":
        added = int(terms(number)) - 1
        return Resources(lut=added * (width + number.bit_length() / 2))
    return fabric.product(width, number.bit_length() + 1, "multiply")


def _moves(
    unit: units.Concat | units.Copy | units.Frame | units.Fork | units.Lanes,
) -> Resources:
    wide = unit.elem.width * (
        max(unit.lanes_in, unit.lanes_out) if isinstance(unit, units.Lanes) else unit.lanes
    )
    match unit:
        case units.Concat():
            choice = Resources(lut=wide * math.ceil(len(unit.parts) / 4), ff=wide)
            return HANDSHAKE + choice + fabric.counter(sum(unit.parts))
        case units.Copy():
            axes = fabric.total([fabric.counter(n) for n in unit.sizes])
            index = fabric.bits(unit.words + 1)
            address = Resources(lut=index * (len(unit.sizes) + 3), ff=3 * index)
            held = fabric.ram(unit.ring, wide)
            if isinstance(unit, units.Gather):
                held += fabric.rom(unit.table.array.size, index)
            if isinstance(unit, units.Neighbours):
                held += fabric.rom(unit.places.array.size, fabric.bits(unit.words))
            return HANDSHAKE + axes + address + held
        case units.Frame():
            axes = fabric.total([fabric.counter(n) for n in unit.whole])
            inside = fabric.total([fabric.compare(fabric.bits(n)) * 2 for n in unit.whole])
            return HANDSHAKE + axes + inside + Resources(lut=wide, ff=wide)
        case units.Fork():
            return HANDSHAKE + Resources(lut=2 * unit.count, ff=wide)
        case units.Lanes():
            ratio = max(unit.lanes_in, unit.lanes_out) // min(unit.lanes_in, unit.lanes_out)
            return HANDSHAKE + Resources(lut=wide, ff=wide) + fabric.counter(ratio)
