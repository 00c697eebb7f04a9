"""Layers that go step by step, as HLS templates see them."""

from __future__ import annotations

import numpy as np

from binpoint.emit.hls_arrays import (
    ArrayView,
    Parts,
    array_view,
    each_lane,
    folded_weights,
    int_name,
    product,
    wide,
)
from binpoint.numeric.fixed import IntType
from binpoint.plan import units


def recurrent_view(name: str, unit: units.Recurrent) -> Parts:
    """What a recurrent layer adds: sums, states, and a table for every gate of every lane."""
    gates, pe, simd = unit.form.gates, unit.pe, unit.simd
    rows = gates * unit.folds
    codes = folded_weights(unit.weights.array, rows, (pe, simd))
    codes, weight, multiplied = product(unit.arithmetic, unit.weight, codes)
    constants = {
        "rows": unit.rows,
        "batch": unit.batch,
        "gates": gates,
        "folds": unit.folds,
        "steps": unit.steps,
        "pe": pe,
        "simd": simd,
        "words": codes.shape[0],
        "banks": unit.banks,
        "places": unit.hidden // unit.banks,
        "fraction": unit.fraction,
        "state_bits": unit.state_bits,
        "memory_bits": unit.memory_bits,
        "lo": unit.state.min,
        "hi": unit.state.max,
        "sequence": int(unit.sequence),
    }
    wider = unit.scaled.width + 1
    types = (
        ("weight_t", int_name(weight)),
        ("product_t", wide(unit.product)),
        ("acc_t", wide(unit.acc)),
        ("total_t", wide(unit.total)),
        ("scaled_t", wide(unit.scaled)),
        ("reset_t", int_name(IntType(min(64, 16 + wider), signed=True))),
        ("state_t", int_name(unit.state)),
    )
    own = (
        array_view(f"{name}_weights", codes, reshape=(2,)),
        array_view(f"{name}_bias", unit.bias.array.reshape(rows, pe), reshape=(2,)),
        *(_table(f"{name}_table{i}", unit, i) for i in range(len(unit.tables))),
    )
    factors = array_view(f"{name}_factors", unit.factors.array.reshape(rows, pe), reshape=(2,))
    half = (1 << unit.shift) >> 1
    scaled = f"bp_mul<total_t>(x, {factors.name}[f][p]) + total_t(INT64_C({half}))"
    functions = (
        ("product_t product", f"const {int_name(unit.x)} &a, const weight_t &w", multiplied),
        (
            "scaled_t scaled",
            "const acc_t &x, int f, int p",
            f"scaled_t(({scaled}) >> {unit.shift})",
        ),
    )
    kernel = "_".join(("recurrent", unit.kind, *unit.sends))
    return Parts(kernel, constants, types, own, (factors,), functions=functions)


def _table(name: str, unit: units.Recurrent, index: int) -> ArrayView:
    """The ends of a function's segments, for every look-up of every lane."""
    copies = unit.form.copies[index] * unit.pe
    return each_lane(array_view(name, np.tile(unit.tables[index].array, (copies, 1))), ports=2)
