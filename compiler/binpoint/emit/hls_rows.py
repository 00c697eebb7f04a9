"""Layers that need whole rows or matrices, or weigh by position, as HLS templates see them."""

from __future__ import annotations

from typing import assert_never

import numpy as np

from binpoint.emit.hls_arrays import (
    ArrayView,
    Parts,
    array_view,
    each_lane,
    int_name,
    store_view,
    totals,
    wide,
)
from binpoint.ir.op import IntArray
from binpoint.numeric.interval import Interval
from binpoint.plan import units

Whole = (
    units.Softmax | units.Reciprocal | units.LayerNorm | units.Product | units.Source
    | units.Blend | units.FloatSum
)  # fmt: skip


def rows_view(name: str, unit: Whole) -> Parts:
    """What one of these units adds to its layer."""
    match unit:
        case units.Softmax():
            return _softmax(name, unit)
        case units.Reciprocal():
            return _reciprocal(name, unit)
        case units.LayerNorm():
            return _layernorm(name, unit)
        case units.Product():
            return _product(name, unit)
        case units.Source():
            constants = {"iterations": unit.iterations, "lanes": unit.lanes}
            words = unit.array.array.reshape(unit.iterations, unit.lanes)
            return Parts(
                "source", constants, own=(array_view(f"{name}_words", words, reshape=(2,)),)
            )
        case units.Blend():
            return _blend(name, unit)
        case units.FloatSum():
            return _float_sum(name, unit)
        case _:
            assert_never(unit)


def _softmax(name: str, unit: units.Softmax) -> Parts:
    constants = {
        "rows": unit.rows,
        "count": unit.count,
        "factor": unit.factor,
        "shift": unit.shift,
        "quotient_bits": unit.quotient_bits,
        "zero": unit.zero,
        "lo": unit.lo,
        "hi": unit.hi,
        "top": unit.table.array.size - 1,
    }
    if unit.form == "float":
        constants |= {
            "together": unit.together,
            "sum_cycles": unit.sum_cycles,
            "apart": unit.quotient_bits + 2,
        }
    return Parts(
        f"softmax_{unit.form}", constants, own=(_bits(f"{name}_entries", unit.table.array),)
    )


def _reciprocal(name: str, unit: units.Reciprocal) -> Parts:
    keys = "rows", "count", "steps", "numerator", "drop", "origin", "lo", "hi"
    if unit.form == "gelu":
        keys += "zero", "scale", "down"
    constants = {key: int(getattr(unit, key)) for key in keys}
    constants["entries"] = unit.table.array.size
    entries = _bits(f"{name}_exponentials", unit.table.array)
    return Parts(f"reciprocal_{unit.form}", constants, own=(entries,))


def _bits(name: str, array: IntArray) -> ArrayView:
    """Numbers of 32 bits that are read as such."""
    view = array_view(name, array)
    return ArrayView(name, "uint32_t", view.dims, view.text, view.pragmas)


def _layernorm(name: str, unit: units.LayerNorm) -> Parts:
    constants = {
        "rows": unit.rows,
        "count": unit.count,
        "words": unit.words,
        "pe": unit.pe,
        "spare": unit.spare,
        "least_up": unit.least_up,
        "shift": unit.shift,
        "lo": unit.lo,
        "hi": unit.hi,
        "about_mean": int(unit.centre is None),
        "centre": unit.centre or 0,
        "hold": unit.hold,
        "table": unit.table[0],
        "of_word": unit.table[1],
    }
    types = (
        ("apart_t", wide(unit.apart)),
        ("sum_t", wide(unit.sums)),
        ("square_t", wide(unit.squares)),
    )
    own = tuple(
        array_view(f"{name}_{key}", constant.array.reshape(unit.table), reshape=(2,))
        for key, constant in (("multipliers", unit.multipliers), ("offsets", unit.offsets))
    )
    return Parts("layernorm", constants | {"epsilon": unit.epsilon}, types, own)


def _product(name: str, unit: units.Product) -> Parts:
    constants = {
        "iterations": unit.iterations,
        "batches": unit.batches,
        "folds": unit.folds,
        "steps": unit.steps,
        "pe": unit.pe,
        "simd": unit.simd,
        "loads": unit.loads,
        "prologue": unit.prologue,
        "sums": unit.sums,
        "phase": unit.phase,
        "longest": max(unit.prologue, unit.phase),
        "banks": 1 if unit.batches == 1 else 2,
        "bank": unit.steps * unit.folds,
    }
    types = (
        ("left_t", wide(unit.left)),
        ("right_t", wide(unit.right)),
        ("product_t", wide(unit.product)),
        ("acc_t", wide(unit.acc)),
        *totals(unit.store),
    )
    left, right = (
        f"{t}({t}({v}) - ({zero}))" if zero else f"{t}({v})"
        for t, v, zero in (("left_t", "a", unit.zero_a), ("right_t", "b", unit.zero_b))
    )
    head = f"const {int_name(unit.a)} &a, const {int_name(unit.b)} &b"
    functions = (("product_t product", head, f"bp_mul<product_t>({left}, {right})"),)
    arrays, store = store_view(name, unit.store, unit.folds, unit.pe)
    return Parts("product", constants, types, (), arrays, store, "acc_t", functions)


def _blend(name: str, unit: units.Blend) -> Parts:
    constants = {
        "iterations": unit.iterations,
        "rows": unit.rows,
        "folds": unit.folds,
        "taps": unit.taps,
        "pe": unit.pe,
        "start": unit.start,
    }
    weights = unit.weights.array
    types = (
        ("weight_t", int_name(Interval.of(weights).int_type())),
        ("product_t", wide(unit.product)),
        ("acc_t", wide(unit.acc)),
        *totals(unit.store),
    )
    head = f"const {int_name(unit.x)} &a, const weight_t &w"
    functions = (("product_t product", head, "bp_mul<product_t>(a, w)"),)
    arrays, store = store_view(name, unit.store, unit.folds, unit.pe)
    own = (array_view(f"{name}_weights", weights.reshape(-1)),)
    return Parts("blend", constants, types, own, arrays, store, "acc_t", functions)


def _float_sum(name: str, unit: units.FloatSum) -> Parts:
    kinds, steps = unit.steps.array.shape
    weights = np.zeros(1, np.int64) if unit.weights is None else unit.weights.array.reshape(-1)
    constants = {
        "rows": unit.rows,
        "folds": unit.folds,
        "taps": unit.taps,
        "pe": unit.pe,
        "low": unit.low,
        "codes": unit.table.array.size,
        "weighted": int(unit.weights is not None),
        "weights": weights.size,
        "kinds": kinds,
        "steps": steps,
        "halvings": unit.halvings,
        "lo": unit.lo,
    }
    own = (
        each_lane(_bits(f"{name}_terms", np.tile(unit.table.array, (unit.pe, 1)))),
        _bits(f"{name}_weights", weights),
        each_lane(
            array_view(
                f"{name}_steps", np.tile(unit.steps.array.reshape(-1), (unit.pe, 1)), signed=True
            )
        ),
        array_view(f"{name}_kinds", unit.kinds.array),
    )
    return Parts("float_sum", constants, own=own)
