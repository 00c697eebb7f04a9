"""Layers of a design as HLS templates see them: constants, types, arrays, functions, one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import numpy as np

from binpoint.emit.calls import tidy
from binpoint.emit.environment import comment
from binpoint.emit.hls_arrays import (
    ArrayView,
    Parts,
    array_view,
    by_bits,
    by_kind,
    initialiser,
    int_name,
    literal,
    store_view,
    totals,
    wide,
)
from binpoint.emit.hls_rows import Whole, rows_view
from binpoint.emit.hls_steps import recurrent_view
from binpoint.emit.hls_sums import Products, products_view
from binpoint.numeric.fixed import IntType
from binpoint.numeric.interval import Interval
from binpoint.plan import units
from binpoint.plan.design import Design, Layer

Computing = (
    units.Recurrent | units.Reduce | units.Arg | units.Window | units.Map | units.Pair
)  # fmt: skip
Moving = units.Concat | units.Copy | units.Frame | units.Fork | units.Lanes


@dataclass(frozen=True, slots=True)
class LayerView:
    """One layer: configuration struct, constant arrays, function, call."""

    name: str
    title: tuple[str, ...]
    parts: Parts
    result: str
    parameters: str
    arguments: str
    kernel_arguments: str
    arrays: tuple[str, ...]


def layer_view(design: Design, layer: Layer) -> LayerView:
    """All that templates need of a layer."""
    parts = _parts(layer)
    names = [f"x{i}" for i in range(len(layer.reads))] + [f"y{i}" for i in range(len(layer.writes))]
    streams = [*layer.reads, *layer.writes]
    parameters = ", ".join(f"hls::stream<{s}_w> &{n}" for s, n in zip(streams, names, strict=True))
    arrays = [a.name for a in parts.own]
    ops = " + ".join(type(design.graph.node(n).op).__name__ for n in layer.nodes)
    shown = f"{ops}, from {', '.join(layer.origin.names)}" if ops else _moves(layer.unit)
    return LayerView(
        name=layer.name,
        title=(comment(f"{layer.name}: {shown}"), *(comment(tidy(f)) for f in layer.formulas)),
        parts=parts,
        result=layer.writes[0],
        parameters=parameters,
        arguments=", ".join(streams),
        kernel_arguments=", ".join(names + arrays),
        arrays=tuple(arrays),
    )


def _moves(unit: units.Unit) -> str:
    """What a layer does that computes no node."""
    match unit:
        case units.Window():
            kernel, size = (" x ".join(map(str, axes)) for axes in (unit.kernel, unit.size))
            sent = "" if unit.together == 1 else f", {unit.together} rows of a window at once"
            return f"windows of {kernel} over {size}, {unit.row_words} words a row{sent}"
        case units.Fork():
            return f"the same words for {unit.count} readers"
        case units.Lanes():
            return f"words of {unit.lanes_in} as words of {unit.lanes_out}"
        case units.Source():
            return "a constant"
        case units.Neighbours():
            return "the pixels next to every position"
        case units.Frame():
            return "elements in a frame, and apart"
        case units.Copy():
            return "elements in another order"
        case _:
            return "elements as they are"


def _parts(layer: Layer) -> Parts:
    name, unit = layer.name, layer.unit
    if isinstance(unit, Whole):
        return rows_view(name, unit)
    if isinstance(unit, Products):
        return products_view(name, unit)
    assert isinstance(unit, Computing | Moving)
    match unit:
        case units.Recurrent():
            return recurrent_view(name, unit)
        case units.Reduce():
            return _reduce(name, unit)
        case units.Arg():
            return _arg(unit)
        case units.Window():
            return _window(name, unit)
        case units.Map():
            return _map(name, unit)
        case units.Pair():
            return _pair(name, unit)
        case _:
            return _moved(name, unit)


def _moved(name: str, unit: Moving) -> Parts:
    match unit:
        case units.Concat():
            ends = {f"end{i}": int(e) for i, e in enumerate(np.cumsum(unit.parts))}
            constants = {"iterations": unit.iterations, "lanes": unit.lanes, "row": sum(unit.parts)}
            return Parts(f"concat{len(unit.parts)}", constants | ends)
        case units.Gather():
            return _gather(name, unit)
        case units.Neighbours():
            return _neighbours(name, unit)
        case units.Copy():
            return _copy(name, unit)
        case units.Frame():
            return _frame(name, unit)
        case units.Fork():
            return Parts(f"fork{unit.count}", {"iterations": unit.iterations})
        case units.Lanes():
            widths = sorted((unit.lanes_in, unit.lanes_out))
            constants = {"narrow": widths[0], "wide": widths[1], "ratio": widths[1] // widths[0]}
            kernel = "widen" if unit.lanes_in < unit.lanes_out else "narrow"
            return Parts(kernel, {"iterations": unit.iterations} | constants)
        case _:
            assert_never(unit)


def _map(name: str, unit: units.Map) -> Parts:
    arrays, store = store_view(name, unit.store, unit.folds, unit.pe)
    constants = {"iterations": unit.iterations, "folds": unit.folds, "pe": unit.pe}
    return Parts("map", constants, totals(unit.store), (), arrays, store, wide(unit.x))


def _arg(unit: units.Arg) -> Parts:
    constants = {
        "iterations": unit.iterations,
        "taps": unit.taps,
        "folds": unit.folds,
        "pe": unit.pe,
    }
    pair = f"const {wide(unit.x)} &a, const {wide(unit.x)} &b"
    functions = (("bool beats", pair, f"a {unit.relation} b"),)
    return Parts("arg", constants, (("acc_t", wide(unit.x)),), functions=functions)


def _reduce(name: str, unit: units.Reduce) -> Parts:
    constants = {
        "iterations": unit.iterations,
        "taps": unit.taps,
        "folds": unit.folds,
        "pe": unit.pe,
        "start": unit.start,
    }
    types = (("acc_t", wide(unit.acc)), *totals(unit.store))
    joins = {"sum": "acc_t(a + b)", "max": "bp_max<acc_t>(a, b)", "min": "bp_min<acc_t>(a, b)"}
    functions = (("acc_t join", "const acc_t &a, const acc_t &b", joins[unit.kind]),)
    if unit.kinds is not None:
        count = int(unit.kinds.array.max()) + 1
        arrays, store = store_view(name, by_kind(unit.store, unit.pe), count, unit.pe)
        own = (array_view(f"{name}_kinds", unit.kinds.array),)
        constants["rows"] = unit.rows
        return Parts("reduce_kinds", constants, types, own, arrays, store, "acc_t", functions)
    arrays, store = store_view(name, unit.store, unit.folds, unit.pe)
    kernel = "reduce" if not unit.held else "reduce_memory" if unit.in_memory else "reduce_held"
    return Parts(kernel, constants, types, (), arrays, store, "acc_t", functions)


def _window(name: str, unit: units.Window) -> Parts:
    needed = unit.rows_needed()
    start = -1 if unit.prologue else 0
    base = start * unit.strides[0] - unit.before[0]
    ends = (
        np.array([*unit.size, *unit.outputs, *unit.before, *unit.kernel])
        * 4
        * max(*unit.strides, *unit.dilations)
    )
    constants = {
        "iterations": unit.iterations,
        "size_h": unit.size[0], "size_w": unit.size[1], "outputs": unit.outputs[0],
        "kernel_h": unit.kernel[0], "kernel_w": unit.kernel[1],
        "stride_h": unit.strides[0], "stride_w": unit.strides[1],
        "dilation_h": unit.dilations[0], "dilation_w": unit.dilations[1],
        "before_w": unit.before[1],
        "groups": unit.groups, "words": unit.words, "lanes": unit.lanes, "fill": unit.fill,
        "row_words": unit.row_words, "rows_held": unit.rows_held, "sent": unit.sent,
        "prologue": unit.prologue, "phase": unit.phase, "longest": max(unit.prologue, unit.phase),
        "start": start, "start_base": base, "start_slot": base % unit.rows_held,
    }  # fmt: skip
    width = int(np.abs(ends).max()).bit_length() + 1
    types = (("coordinate_t", int_name(IntType(width, signed=True))),)
    rows = np.append(needed, needed[-1])
    kernel = "window" if unit.together == 1 else "window_columns"
    return Parts(kernel, constants, types, (array_view(f"{name}_needed", rows, signed=True),))


def _pair(name: str, unit: units.Pair) -> Parts:
    numbers = dict(unit.numbers)
    types: list[tuple[str, str]] = [("with_t", wide(unit.product)), *totals(unit.store)]
    n = {key: literal(value) for key, value in numbers.items()}
    match unit.form:
        case "linear":
            left, right = (_times(unit, k, numbers[f"m{k}"]) for k in ("a", "b"))
            body = f"with_t({left} + {right})"
        case "product":
            body = _centred(unit, numbers["zero_a"], numbers["zero_b"])
        case "table":
            body = f"with_t((int(a) - {n['low_a']}) * {n['count_b']} + (int(b) - {n['low_b']}))"
        case form:
            body = f"bp_{form}<with_t>(with_t(a), with_t(b))"
    a, b = (f"const {int_name(t)} &{k}" for t, k in ((unit.a, "a"), (unit.b, "b")))
    constants = {"iterations": unit.iterations, "folds": unit.folds, "pe": unit.pe}
    arrays, store = store_view(name, unit.store, 1, unit.pe)
    if unit.constant is None:
        held = {"held_a": int(unit.held == 0), "held_b": int(unit.held == 1)}
        functions = (("with_t with", f"{a}, {b}", body),)
        return Parts("pair", constants | held, tuple(types), (), arrays, store, "with_t", functions)
    fixed = unit.a if unit.constant_first else unit.b
    types.append(("constant_t", int_name(fixed)))
    table = array_view(
        f"{name}_constant", unit.constant.array.reshape(unit.folds, unit.pe), reshape=(2,)
    )
    functions = (("with_t with", f"{b}, {a}" if unit.constant_first else f"{a}, {b}", body),)
    return Parts(
        "pair_constant", constants, tuple(types), (table,), arrays, store, "with_t", functions
    )


def _times(unit: units.Pair, operand: str, number: int) -> str:
    """An operand times a number."""
    if unit.arithmetic == "rows":
        return by_bits("with_t", unit.product, operand, literal(number), Interval.of(number))
    return f"bp_mul<with_t>({operand}, {literal(number)})"


def _centred(unit: units.Pair, zero_a: int, zero_b: int) -> str:
    """The product of both operands less their zero points; by the bits of one that is constant."""
    a, b = f"with_t(with_t(a) - {literal(zero_a)})", f"with_t(with_t(b) - {literal(zero_b)})"
    if unit.arithmetic != "rows" or unit.constant is None:
        return f"bp_mul<with_t>({a}, {b})"
    zero = zero_a if unit.constant_first else zero_b
    numbers = Interval.of(unit.constant.array) - zero
    operand, number = (b, a) if unit.constant_first else (a, b)
    return by_bits("with_t", unit.product, operand, number, numbers)


def _copy(name: str, unit: units.Copy) -> Parts:
    constants = _ring(unit) | {"rank": len(unit.sizes), "offset": unit.offset}
    back = tuple((n - 1) * s for n, s in zip(unit.sizes, unit.strides, strict=True))
    both = (("sizes", unit.sizes), ("strides", unit.strides), ("back", back))
    arrays = tuple(_few(f"{name}_{key}", numbers) for key, numbers in both)
    return Parts("copy", constants, own=arrays)


def _gather(name: str, unit: units.Gather) -> Parts:
    index = array_view(f"{name}_index", unit.indices(), signed=True)
    return Parts("gather", _ring(unit), own=(index,))


def _ring(unit: units.Copy) -> dict[str, int]:
    """What all units with a ring have."""
    return {
        "iterations": unit.iterations,
        "reads": unit.words,
        "ring": unit.ring,
        "ahead": units.AHEAD,
        "results": unit.indices().size,
    }


def _neighbours(name: str, unit: units.Neighbours) -> Parts:
    rows, taps = unit.places.array.shape
    constants = _ring(unit) | {"rows": rows, "taps": taps, "inner": unit.inner}
    places = array_view(f"{name}_places", unit.places.array.reshape(-1), signed=True)
    return Parts("neighbours", constants, own=(places,))


def _frame(name: str, unit: units.Frame) -> Parts:
    constants = {
        "iterations": unit.iterations,
        "rank": len(unit.sizes),
        "lanes": unit.lanes,
        "code": unit.code,
    }
    ends = tuple(n * s for n, s in zip(unit.sizes, unit.steps, strict=True))
    groups = (("first", unit.before), ("sizes", ends), ("whole", unit.whole), ("steps", unit.steps))
    arrays = tuple(_few(f"{name}_{key}", numbers) for key, numbers in groups)
    return Parts("frame", constants, own=arrays)


def _few(name: str, numbers: tuple[int, ...]) -> ArrayView:
    """A handful of constants, no memory."""
    pragma = f"ARRAY_PARTITION variable={name} complete dim=1"
    return ArrayView(
        name, "bp_rom<32>", f"[{len(numbers)}]", initialiser(np.array(numbers)), (pragma,)
    )
