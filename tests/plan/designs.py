"""Designs made by hand: units and streams, no graph behind them."""

from __future__ import annotations

import numpy as np

from binpoint.ir.constant import Constant
from binpoint.ir.graph import Graph
from binpoint.numeric.fixed import IntType
from binpoint.numeric.interval import Interval
from binpoint.plan import units
from binpoint.plan.design import Design, Layer, Stream, StreamPort
from binpoint.plan.store import as_it_is
from binpoint.plan.units import Unit

BYTE = Interval(-128, 127)


def numbers(shape: tuple[int, ...], seed: int = 1) -> Constant:
    """Random codes of eight bits, always the same."""
    return Constant(np.random.default_rng(seed).integers(-128, 128, shape, dtype=np.int64))


def window(size: int, kernel: int, channels: int) -> units.Window:
    """Windows of a square map, padded to the same size."""
    return units.Window(
        size=(size, size),
        outputs=(size, size),
        kernel=(kernel, kernel),
        strides=(1, 1),
        dilations=(1, 1),
        before=(kernel // 2, kernel // 2),
        groups=channels,
        words=1,
        lanes=1,
        elem=BYTE.int_type(),
        fill=0,
    )


def depthwise(rows: int, channels: int, taps: int) -> units.Depthwise:
    """Sums over the taps of each channel, one channel at a time."""
    return units.Depthwise(
        rows=rows,
        weights=numbers((channels, taps)),
        bias=numbers((channels,)),
        x=BYTE.int_type(),
        weight=BYTE.int_type(),
        acc=IntType(20, signed=True),
        product=IntType(16, signed=True),
        store=as_it_is(BYTE),
        pe=1,
    )


def add(words: int) -> units.Pair:
    """Sum of two streams."""
    byte = BYTE.int_type()
    total = Interval(-256, 254)
    numbers = (("ma", 1), ("mb", 1))
    return units.Pair("linear", 1, words, byte, byte, total.int_type(), as_it_is(total), 1, numbers)


def connect(layers: list[tuple[str, Unit, str, str]], source: str, sink: str) -> Design:
    """A design of layers given as name, unit, and their streams, separated by blanks."""
    made = [Layer(name, unit, tuple(r.split()), tuple(w.split())) for name, unit, r, w in layers]
    words = {s: at.size for m in made for s, at in zip(m.writes, m.unit.writes(), strict=True)}
    words |= {s: at.size for m in made for s, at in zip(m.reads, m.unit.reads(), strict=True)}
    byte = BYTE.int_type()
    streams = {s: Stream(s, "", byte, BYTE, 1, n, max(2, n)) for s, n in words.items()}
    ports = (StreamPort("in", "in", "in", source),), (StreamPort("out", "out", "out", sink),)
    return Design("net", Graph("net"), tuple(made), streams, *ports)


def residual(size: int = 6, channels: int = 3) -> Design:
    """Two windowed layers beside a stream that goes straight to the sum."""
    words = size * size * channels
    byte = BYTE.int_type()
    return connect(
        [
            ("fork", units.Fork(words, 2, byte, 1), "x", "a skip"),
            ("first_window", window(size, 3, channels), "a", "b"),
            ("first", depthwise(size * size, channels, 9), "b", "c"),
            ("second_window", window(size, 3, channels), "c", "d"),
            ("second", depthwise(size * size, channels, 9), "d", "e"),
            ("sum", add(words), "skip e", "y"),
        ],
        "x",
        "y",
    )
