"""Datapaths for the resource model: primitives to fit it to, layers to judge it by."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from benchmarks.yosys import Datapath, Rom
from binpoint.ir.constant import Constant
from binpoint.numeric.fixed import IntType
from binpoint.numeric.interval import Interval
from binpoint.plan import estimate, fabric, units
from binpoint.plan.fabric import Resources
from binpoint.plan.store import Store
from binpoint.plan.units import Unit

KINDS = {"multiply": 0, "planes": 1, "signs": 2, "count": 3}
MULTIPLIER = 18


@dataclass(frozen=True, slots=True)
class Case:
    """A datapath, and what the model says of it.

    Args:
        name: in the table.
        datapath: for yosys.
        model: estimated resources.
        cycles: iterations of one inference and stages of the pipeline, of a whole unit.
        fresh: whether the model was final before this was first synthesised.
    """

    name: str
    datapath: Datapath
    model: Resources
    cycles: tuple[int, int] | None = None
    fresh: bool = False


def levels(count: int) -> int:
    """Levels of a binary tree."""
    return (count - 1).bit_length()


def _product(x: int, w: int, arithmetic: str) -> int:
    """Bits of a product; a count of zero or one has a sign here, which is never set."""
    return {"multiply": x + w - 1, "planes": x + 2, "signs": x + 1, "count": 2}[arithmetic]


# ---- primitives


def sums(pe: int, simd: int, x: int, w: int, arithmetic: str = "multiply") -> Case:
    """PE sums of SIMD products of `x` by `w` bits."""
    width = _product(x, w, arithmetic)
    acc = width + levels(simd) + 4
    parameters = {
        "PE": pe, "SIMD": simd, "LEVELS": levels(simd), "XW": x, "WW": w,
        "PW": width, "AW": acc, "KIND": KINDS[arithmetic], "SAME": 1,
    }  # fmt: skip
    one = fabric.product(x, w, arithmetic, pe)
    model = fabric.mac(pe, simd, one, 1 if arithmetic == "count" else width, acc)
    return Case(
        f"{pe}x{simd} sums, {x} by {w} bits, {arithmetic}", Datapath("mac", parameters), model
    )


def rescale(
    x: int, m: int, k: int, whole: int, shift: int, ends: tuple[int, int] = (-128, 127)
) -> Case:
    """A requantizer to results within `ends`."""
    lo, hi = ends
    y = Interval(lo, hi).int_type().width
    parameters = {
        "XW": x, "MW": m, "KW": k, "TW": whole, "SHIFT": shift, "YW": y, "LO": lo, "HI": hi
    }  # fmt: skip
    model = fabric.mulshift(x, m, k, whole, shift, y)
    return Case(f"rescale {x} by {m} bits to {lo}..{hi}", Datapath("mulshift", parameters), model)


def steps(count: int, x: int, y: int) -> Case:
    """Thresholds."""
    datapath = Datapath("thresholds", {"N": count, "XW": x, "YW": y})
    return Case(f"{count} thresholds of {x} bits", datapath, fabric.thresholds(count, x, y))


def memory(kind: str, words: int, width: int) -> Case:
    """A memory of constants or of words that are written, in logic or in blocks."""
    parameters = {"W": width, "D": words, "A": fabric.bits(words)}
    files = {"FILE": Rom(words, width)} if kind.startswith("rom") else {}
    model = fabric.rom(words, width) if kind.startswith("rom") else fabric.ram(words, width)
    return Case(f"{kind} {words} x {width}", Datapath(kind, parameters, files), model)


def stream(depth: int, width: int) -> Case:
    """A FIFO."""
    style = int(depth > fabric.SHIFT_WORDS)
    parameters = {"W": width, "D": depth, "A": fabric.bits(depth), "STYLE": style}
    return Case(f"fifo {depth} x {width}", Datapath("fifo", parameters), fabric.fifo(depth, width))


def count(below: int) -> Case:
    """A counter."""
    parameters = {"N": below, "W": fabric.bits(below)}
    return Case(f"counter below {below}", Datapath("counter", parameters), fabric.counter(below))


def primitives() -> tuple[Case, ...]:
    """What the model's coefficients are fitted to."""
    multiplied = ((1, 1), (1, 2), (1, 3), (1, 4), (2, 8), (4, 4), (1, 16))
    small = ((2, 2), (3, 2), (3, 3), (4, 2), (4, 3), (5, 2), (4, 4), (5, 3), (6, 2))
    return (
        *(sums(pe, simd, 8, 8) for pe, simd in multiplied),
        sums(1, 4, 8, 4),
        *(sums(1, 1, x, w) for x, w in small),
        *(sums(pe, simd, 4, 4) for pe, simd in ((1, 4), (2, 8), (1, 16))),
        sums(1, 8, 3, 3),
        *(sums(1, 8, x, 2, "planes") for x in (2, 3, 5, 8)),
        sums(2, 16, 3, 2, "planes"),
        *(sums(1, 8, x, 1, "signs") for x in (2, 3, 5, 8)),
        sums(2, 16, 2, 1, "signs"),
        *(sums(pe, simd, 1, 1, "count") for pe, simd in ((1, 8), (1, 32), (2, 16), (1, 64))),
        *(
            rescale(x, 18, k, t, s)
            for x, k, t, s in ((16, 24, 28, 16), (20, 32, 38, 24), (24, 38, 42, 28))
        ),
        *(rescale(x, 18, k, t, s) for x, k, t, s in ((26, 40, 44, 30), (32, 44, 48, 34))),
        *(rescale(x, 25, k, t, s) for x, k, t, s in ((20, 40, 45, 32), (24, 46, 49, 36))),
        rescale(20, 18, 32, 38, 24, (0, 15)),
        rescale(20, 18, 32, 38, 24, (-100, 127)),
        rescale(20, 18, 32, 38, 24, (3, 100)),
        *(
            steps(*n)
            for n in ((1, 8, 1), (3, 8, 2), (3, 16, 2), (7, 16, 3), (15, 12, 4), (15, 20, 4))
        ),
        *(
            memory("rom_logic", d, w)
            for d, w in ((8, 8), (16, 16), (32, 32), (64, 64), (9, 64), (4, 64), (8, 256))
        ),
        *(
            memory("rom_block", d, w)
            for d, w in ((128, 8), (512, 64), (1024, 32), (256, 100), (2048, 64))
        ),
        *(memory("ram_logic", d, w) for d, w in ((16, 8), (16, 32), (64, 8), (64, 32))),
        *(memory("ram_block", d, w) for d, w in ((256, 8), (512, 32), (512, 64), (4096, 8))),
        *(
            stream(d, w)
            for d, w in ((16, 8), (16, 32), (32, 32), (64, 8), (128, 32), (512, 8), (2000, 32))
        ),
        *(count(n) for n in (5, 16, 100, 1000)),
        _layer("1 channel of 8, 1 product", dense(1, 8, 8, (1, 1))),
        _layer("2 channels of 32, 2 products", dense(1, 32, 32, (2, 2))),
        _layer("windows 3x3 of 8x8, 1 channel", window(8, 8, 3, 1, 1, 1, 8)),
        _layer("windows 3x3 of 16x16, 16 channels", window(16, 16, 3, 1, 16, 4, 8)),
        _layer("sum of two streams, 1", pair(8, 1)),
        _layer("sum of two streams, 2", pair(8, 2)),
    )


# ---- layers


def _numbers(shape: tuple[int, ...], lo: int, hi: int) -> Constant:
    rng = np.random.default_rng(sum(shape))
    return Constant(rng.integers(lo, hi + 1, shape, dtype=np.int64))


def _store(channels: int, acc: IntType) -> Store:
    """A requantizer of each channel's own."""
    multiplier = _numbers((channels,), 1 << (MULTIPLIER - 2), (1 << (MULTIPLIER - 1)) - 1)
    total = IntType(acc.width + MULTIPLIER, signed=True)
    shift = total.width - 12
    offset = _numbers((channels,), 1 << (shift - 1), 1 << (total.width - 3))
    code = IntType(8, signed=True)
    return Store(
        "mulshift", code, -128, 127, multiplier, offset, Constant(np.array([shift])), total
    )


def dense(
    rows: int, channels: int, depth: int, way: tuple[int, int], bits: tuple[int, int] = (8, 8)
) -> units.Dense:
    """Sums over `depth` operands by weights of some bits, by PE and SIMD."""
    x, w = bits
    arithmetic = {1: "count" if x == 1 else "signs", 2: "planes"}.get(w, "multiply")
    width = _product(x, w, arithmetic)
    acc = IntType(width + levels(depth) + 1, signed=True)
    low, high = (-(1 << (w - 1)), (1 << (w - 1)) - 1) if w > 1 else (-1, 1)
    return units.Dense(
        rows, 1, _numbers((channels, depth), low, high), _numbers((channels,), -100, 100),
        IntType(x, signed=x > 1), IntType(w, signed=True), acc, IntType(width, signed=True),
        _store(channels, acc), *way, arithmetic,
    )  # fmt: skip


def depthwise(rows: int, channels: int, taps: int, pe: int) -> units.Depthwise:
    """Sums over `taps` operands of each channel."""
    acc, byte = IntType(20, signed=True), IntType(8, signed=True)
    return units.Depthwise(
        rows, _numbers((channels, taps), -128, 127), _numbers((channels,), -100, 100),
        byte, byte, acc, IntType(15, signed=True), _store(channels, acc), pe,
    )  # fmt: skip


def window(
    height: int, width: int, kernel: int, stride: int, channels: int, lanes: int, bits: int
) -> units.Window:
    """Windows of a map of channels."""
    before = kernel // 2
    outputs = ((height - 1) // stride + 1, (width - 1) // stride + 1)
    elem = Interval(-(1 << (bits - 1)), (1 << (bits - 1)) - 1).int_type()
    return units.Window(
        (height, width), outputs, (kernel, kernel), (stride, stride), (1, 1), (before, before),
        1, channels // lanes, lanes, elem, 0,
    )  # fmt: skip


def stepwise(channels: int, count: int, x: int, pe: int) -> units.Map:
    """Thresholds of each channel's own."""
    low, high = -(1 << (x - 1)), (1 << (x - 1)) - 1
    rows = Constant(np.sort(_numbers((channels, count), low, high).array, axis=1))
    result = IntType(count.bit_length(), signed=False)
    store = Store("thresholds", result, 0, count, thresholds=rows)
    return units.Map(channels, channels // pe, IntType(x, signed=True), store, pe)


def pair(words: int, pe: int) -> units.Pair:
    """A sum of two streams with scales of their own."""
    byte = IntType(8, signed=True)
    product = IntType(21, signed=True)
    one = [Constant(np.array([v])) for v in (1, 2048, 12)]
    store = Store("mulshift", byte, -128, 127, one[0], one[1], one[2], IntType(22, signed=True))
    numbers = (("ma", 3001), ("mb", 1777))
    return units.Pair("linear", 1, words, byte, byte, product, store, pe, numbers)


def layers() -> tuple[Case, ...]:
    """Layers of real networks, none of which the model was fitted to."""
    return (
        _layer("pendigits, dense 16 to 64, 4x4", dense(1, 64, 16, (4, 4))),
        _layer("pendigits, dense 64 to 32, 8x4", dense(1, 32, 64, (8, 4))),
        _layer("keywords, pointwise 64 to 64, 4x8", dense(125, 64, 64, (4, 8))),
        _layer("images, 3x3 of 16 to 16, 2x16", dense(1024, 16, 144, (2, 16))),
        _layer("keywords, depthwise 3x3 of 64, 8", depthwise(125, 64, 9, 8)),
        _layer("4 bits, dense 784 to 64, 4x8", dense(1, 64, 784, (4, 8), (4, 4))),
        _layer("2 bits, dense 64 to 64, 8x16", dense(1, 64, 64, (8, 16), (3, 2))),
        _layer("1 bit, dense 256 to 256, 8x16", dense(1, 256, 256, (8, 16), (2, 1))),
        _layer("keywords, windows 3x3 of 25x5x64, 8", window(25, 5, 3, 1, 64, 8, 8)),
        _layer("images, windows 3x3 of 32x32x16, 8", window(32, 32, 3, 1, 16, 8, 8)),
        _layer("15 thresholds of 64 channels, 4", stepwise(64, 15, 14, 4)),
        _layer("images, sum of branches, 8", pair(2048, 8)),
        *(replace(case, fresh=True) for case in _fresh()),
    )


def _fresh() -> tuple[Case, ...]:
    return (
        _layer("pendigits, dense 32 to 10, 2x8", dense(1, 10, 32, (2, 8))),
        _layer("keywords, first 10x4 of 1 to 64, 16x1", dense(125, 64, 40, (16, 1))),
        _layer("6 bits, dense 64 to 32, 4x4", dense(1, 32, 64, (4, 4), (6, 6))),
        _layer("3 bits, dense 128 to 64, 4x16", dense(1, 64, 128, (4, 16), (3, 3))),
        _layer("keywords, depthwise 3x3 of 64, 4", depthwise(125, 64, 9, 4)),
        _layer("images, windows 3x3 by 2 of 16x16x32, 16", window(16, 16, 3, 2, 32, 16, 8)),
        _layer("7 thresholds of 32 channels, 8", stepwise(32, 7, 12, 8)),
    )


def _layer(name: str, unit: Unit) -> Case:
    cycles = unit.iterations, estimate.latency(unit)
    return Case(name, datapath(unit), estimate.resources(unit), cycles)


def datapath(unit: Unit) -> Datapath:
    """The Verilog of a unit: the same widths, folding and constants' sizes."""
    match unit:
        case units.Dense():
            return _products(unit, unit.steps, unit.simd, unit.groups * unit.folds, taps=0)
        case units.Depthwise():
            return _products(unit, unit.taps, 1, unit.folds, taps=1)
        case units.Window():
            return _window(unit)
        case units.Map():
            assert unit.store.thresholds is not None
            count, x = unit.store.thresholds.array.shape[1], unit.x.width
            parameters = {
                "PE": unit.pe, "N": count, "XW": x, "YW": unit.store.result.width,
                "ROWS": unit.folds, "AROW": fabric.bits(unit.folds),
            }  # fmt: skip
            return Datapath("map_unit", parameters, {"TFILE": Rom(unit.folds, unit.pe * count * x)})
        case units.Pair():
            numbers = dict(unit.numbers)
            return Datapath("pair_unit", {"PE": unit.pe, "MA": numbers["ma"], "MB": numbers["mb"]})
        case _:
            raise TypeError(f"no Verilog for {type(unit).__name__}")


def _products(
    unit: units.Dense | units.Depthwise, steps: int, simd: int, rows: int, *, taps: int
) -> Datapath:
    store, pe = unit.store, unit.pe
    assert store.multiplier is not None
    assert store.offset is not None
    assert store.shift is not None
    assert store.total is not None
    words, offset = rows * steps, int(store.offset.array.max()).bit_length() + 1
    width = 1 if unit.arithmetic in {"signs", "count"} else unit.weight.width
    parameters = {
        "PE": pe, "SIMD": simd, "LEVELS": levels(simd), "XW": unit.x.width, "WW": width,
        "PW": unit.product.width, "AW": unit.acc.width, "KIND": KINDS[unit.arithmetic],
        "FOLDS": rows, "STEPS": steps, "WORDS": words, "CFOLD": fabric.bits(rows),
        "CSTEP": fabric.bits(steps), "AHELD": fabric.bits(steps), "AWORD": fabric.bits(words),
        "AROW": fabric.bits(rows), "WBLOCK": int(words > fabric.SMALL),
        "BBLOCK": int(rows > fabric.SMALL), "HBLOCK": int(steps > fabric.SMALL),
        "MW": MULTIPLIER, "KW": offset, "TW": store.total.width,
        "SHIFT": int(store.shift.array[0]), "YW": store.result.width, "TAPS": taps,
    }  # fmt: skip
    files = {
        "WFILE": Rom(words, pe * simd * width),
        "BFILE": Rom(rows, pe * unit.acc.width),
        "MFILE": Rom(rows, pe * MULTIPLIER),
        "KFILE": Rom(rows, pe * offset),
    }
    return Datapath("dense_unit", parameters, files)


def _window(unit: units.Window) -> Datapath:
    ring = unit.rows_held * unit.row_words
    first = int(unit.rows_needed()[0])
    parameters = {
        "LANES": unit.lanes, "XW": unit.elem.width, "WORDS": unit.words,
        "IN_H": unit.size[0], "IN_W": unit.size[1], "OUT_H": unit.outputs[0],
        "OUT_W": unit.outputs[1], "KH": unit.kernel[0], "KW": unit.kernel[1],
        "STRIDE": unit.strides[0], "BEFORE_H": unit.before[0], "BEFORE_W": unit.before[1],
        "HELD": unit.rows_held, "ROW": unit.row_words, "SENT": unit.sent, "TIME": unit.phase,
        "CW": fabric.bits(max(unit.size)) + 2, "AR": fabric.bits(ring),
        "CROW": fabric.bits(unit.row_words), "CT": fabric.bits(max(unit.phase, unit.prologue) + 1),
        "CS": fabric.bits(unit.rows_held), "BLOCK": int(ring > fabric.SMALL), "PROLOGUE": first,
    }  # fmt: skip
    return Datapath("window_unit", parameters)
