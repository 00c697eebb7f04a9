"""How a layer can be folded: the PE and SIMD that divide it, and its units with them."""

from __future__ import annotations

import math
from dataclasses import replace

from binpoint.plan import units
from binpoint.plan.design import Design, Folding, Layer
from binpoint.plan.place import divisors, simds, together
from binpoint.plan.shifts import at_once
from binpoint.plan.units import Unit

Feeder = units.Window | units.Neighbours


def feeder_of(base: Design, layer: Layer) -> Layer | None:
    """The window that a layer's words come from."""
    names = {feeder.name: feeder for feeder in base.layers if isinstance(feeder.unit, Feeder)}
    return names.get(f"{layer.name}_window")


def ways(base: Design, layer: Layer) -> list[Folding]:
    """All foldings that divide a layer."""
    window = feeder_of(base, layer)
    channels, depth = _sizes(base, layer, window)
    rows = 1
    if window is not None and isinstance(layer.unit, units.Dense | units.Depthwise):
        assert isinstance(window.unit, units.Window)
        rows = window.unit.kernel[0]
    return [Folding(pe, simd) for pe in divisors(channels) for simd in simds(depth, rows)]


def _sizes(base: Design, layer: Layer, window: Layer | None) -> tuple[int, int]:
    """What PE and SIMD must divide."""
    unit = layer.unit
    match unit:
        case units.Dense():
            if window is None:
                return unit.channels, unit.depth
            assert isinstance(window.unit, units.Window)
            return unit.channels, window.unit.words * window.unit.lanes
        case units.Product():
            return unit.columns, unit.depth
        case units.LayerNorm():
            before = base.producer(layer.reads[0])
            turned = before is not None and before.name == f"{layer.name}_rows"
            return 1 if turned else unit.widest, 1
        case units.Depthwise():
            return unit.channels, 1
        case units.Recurrent():
            return unit.hidden, unit.hidden
        case units.Reduce() | units.Arg() | units.Blend() | units.FloatSum():
            return unit.folds * unit.pe, 1
        case units.Map() | units.Pair():
            shape = base.graph.value(base.graph.node(layer.nodes[-1]).outputs[0]).shape
            return math.gcd((shape or (1,))[-1], _row(unit)), 1
        case units.Concat() | units.Copy() | units.Frame():
            return _run(unit) * unit.lanes, 1
        case _:
            return 1, 1


def _run(unit: units.Concat | units.Copy | units.Frame) -> int:
    """Words that always move together."""
    match unit:
        case units.Concat():
            return math.gcd(*unit.parts)
        case units.Gather() | units.Neighbours():
            return 1
        case units.Copy() if unit.strides[-1] == 1:
            return math.gcd(unit.sizes[-1], unit.offset, unit.words, *unit.strides[:-1])
        case units.Frame() if unit.steps[-1] == 1:
            return math.gcd(unit.before[-1], unit.sizes[-1], unit.whole[-1])
        case _:
            return 1


def _row(unit: units.Map | units.Pair) -> int:
    """Elements after which a unit's constants come round."""
    if isinstance(unit, units.Pair):
        return unit.folds * unit.pe
    return unit.folds * unit.pe if unit.store.per_channel else unit.words * unit.pe


def lanes_of(unit: Unit, way: Folding) -> tuple[int, ...]:
    """Lanes of the words that a unit reads."""
    match unit:
        case units.Dense() | units.Sums():
            return (way.simd,)
        case units.Product():
            return (way.simd, way.pe)
        case _:
            return (way.pe,) * len(unit.reads())


def folded(unit: Unit, way: Folding) -> Unit:
    """A unit folded otherwise; `way` must divide it."""
    pe = way.pe
    match unit:
        case units.Dense():
            return at_once(replace(unit, pe=pe, simd=way.simd))
        case units.Product() | units.Depthwise() | units.Recurrent():
            return replace(unit, pe=pe, simd=way.simd)
        case units.LayerNorm():
            return replace(unit, pe=pe)
        case units.Reduce() | units.Arg() | units.Pair() | units.Blend() | units.FloatSum():
            return replace(unit, pe=pe, folds=unit.folds * unit.pe // pe)
        case units.Map():
            folds = unit.folds * unit.pe // pe if unit.store.per_channel else 1
            return replace(unit, pe=pe, words=unit.words * unit.pe // pe, folds=folds)
        case units.Concat():
            return replace(unit, lanes=pe, parts=tuple(n * unit.lanes // pe for n in unit.parts))
        case units.Copy() | units.Frame():
            return _moved(unit, pe)
        case _:
            return unit


def _moved(unit: units.Copy | units.Frame, lanes: int) -> Unit:
    """A move in words of other lanes."""

    def inner(numbers: tuple[int, ...]) -> tuple[int, ...]:
        return (*numbers[:-1], numbers[-1] * unit.lanes // lanes)

    if isinstance(unit, units.Frame):
        axes = inner(unit.before), inner(unit.sizes), inner(unit.whole)
        return replace(unit, before=axes[0], sizes=axes[1], whole=axes[2], lanes=lanes)
    if lanes == unit.lanes:
        return unit
    outer = tuple(s * unit.lanes // lanes for s in unit.strides[:-1])
    return replace(
        unit,
        words=unit.words * unit.lanes // lanes,
        sizes=inner(unit.sizes),
        strides=(*outer, 1),
        offset=unit.offset * unit.lanes // lanes,
        lanes=lanes,
    )


def folded_window(window: Feeder, way: Folding, consumer: Unit) -> Feeder:
    """The window that sends words as wide as its consumer takes them."""
    if isinstance(window, units.Neighbours):
        words, inner = (n * window.lanes // way.pe for n in (window.words, window.inner))
        return replace(window, words=words, inner=inner, lanes=way.pe)
    depth = window.words * window.lanes
    if isinstance(consumer, units.Dense | units.Sums):
        tall = together(way.simd, depth, window.kernel[0])
        lanes = way.simd // tall
        return replace(window, words=depth // lanes, lanes=lanes, together=tall)
    tall = way.simd if isinstance(consumer, units.Depthwise) else 1
    groups = window.groups * window.lanes // way.pe
    return replace(window, groups=groups, lanes=way.pe, together=tall)
