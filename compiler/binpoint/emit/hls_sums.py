"""Sums of products with constant weights as HLS templates see them: from memories, or adders."""

from __future__ import annotations

import numpy as np

from binpoint.emit.hls_arrays import (
    Names,
    Parts,
    SumsView,
    array_view,
    folded_weights,
    int_name,
    literal,
    product,
    store_view,
    totals,
    wide,
)
from binpoint.ir.op import IntArray
from binpoint.numeric.adders import Adder, Scaled
from binpoint.numeric.fixed import IntType
from binpoint.numeric.interval import Interval
from binpoint.plan import units
from binpoint.plan.shifts import fields, graph_of, ranges, shift_bits, term_type

Products = units.Dense | units.Depthwise | units.Sums


def products_view(name: str, unit: Products) -> Parts:
    """What one of these units adds to its layer."""
    return _adders(name, unit) if isinstance(unit, units.Sums) else _products(name, unit)


def _products(name: str, unit: units.Dense | units.Depthwise) -> Parts:
    constants = {"iterations": unit.iterations, "folds": unit.folds, "pe": unit.pe}
    weights = unit.weights.array
    if isinstance(unit, units.Dense):
        groups, folds, lanes = unit.groups, unit.groups * unit.folds, unit.pe * unit.simd
        laid_out = folded_weights(weights, folds, (unit.pe, unit.simd))
        constants |= {"groups": groups, "steps": unit.steps, "simd": unit.simd}
        kernel = "dense"
    else:
        folds, lanes = unit.folds, unit.pe * unit.simd
        split = weights.reshape(folds, unit.pe, unit.simd, unit.steps)
        laid_out = split.transpose(0, 3, 1, 2).reshape(-1, lanes)
        constants |= {"steps": unit.steps, "simd": unit.simd}
        kernel = "depthwise"
    constants["words"] = laid_out.shape[0]
    laid_out, weight, multiplied = _weights(unit, laid_out)
    bias = unit.bias.array.reshape(folds, unit.pe)
    arrays, store = store_view(name, unit.store, folds, unit.pe)
    types: Names = (
        ("weight_t", int_name(weight)),
        ("product_t", wide(unit.product)),
        ("acc_t", wide(unit.acc)),
        *totals(unit.store),
    )
    own = (
        array_view(f"{name}_weights", laid_out, reshape=(2,)),
        array_view(f"{name}_bias", bias, reshape=(2,)),
    )
    head = f"const {int_name(unit.x)} &a, const weight_t &w"
    functions = (("product_t product", head, multiplied),)
    return Parts(kernel, constants, types, own, arrays, store, "acc_t", functions)


def _weights(unit: units.Dense | units.Depthwise, codes: IntArray) -> tuple[IntArray, IntType, str]:
    """Weights as the memory holds them, their type, and the text of a product."""
    weight = unit.weight
    term = int_name(term_type(unit))
    match unit.arithmetic:
        case "shifts":
            bits = shift_bits(unit.weights)
            starts = np.cumsum([0, *(b + 2 for b in bits)]).tolist()
            parts = [
                f"bp_term<{term}, {b}>(a, w >> {s})" for s, b in zip(starts, bits, strict=False)
            ]
            elem = IntType(starts[-1], signed=False)
            return fields(codes, bits), elem, f"product_t({' + '.join(parts)})"
        case "rows":
            function = "bp_signed_rows" if weight.signed else "bp_rows"
            return codes, weight, f"product_t({function}<{term}, {weight.width}>(a, w))"
        case other:
            return product(other, weight, codes)


# ---- graphs of adders


def _adders(name: str, unit: units.Sums) -> Parts:
    graph, known = graph_of(unit.weights), ranges(unit)
    texts = [f"x[{i}]" for i in range(graph.operands)]
    texts += [f"t{i}" for i in range(len(graph.adders))]
    numbers: list[str] = []
    for index, adder in enumerate(graph.adders, graph.operands):
        kind = int_name(known[index].int_type())
        summed = _sum(adder, kind, known[index], known, texts)
        numbers.append(f"const {kind} {texts[index]} = {summed}")
    pairs = zip(graph.rows, unit.bias.array.tolist(), strict=True)
    results = [_result(row, bias, texts) for row, bias in pairs]
    view = SumsView(graph.operands, tuple(numbers), tuple(results))
    arrays, store = store_view(name, unit.store, 1, unit.pe)
    types: Names = (("acc_t", wide(unit.acc)), *totals(unit.store))
    constants = {"iterations": unit.iterations}
    return Parts("sums", constants, types, (), arrays, store, "acc_t", sums=view)


def _sum(
    adder: Adder, kind: str, whole: Interval, known: tuple[Interval, ...], texts: list[str]
) -> str:
    """A sum or difference, computed in a signed type that holds it and what it adds."""
    left, right = known[adder.left] * (1 << adder.up), known[adder.right] * (1 << adder.down)
    wider = wide(whole.union(left).union(right).union(Interval(-1, 0)).int_type())
    function = "bp_minus" if adder.minus else "bp_plus"
    arguments = f"{texts[adder.left]}, {adder.up}, {texts[adder.right]}, {adder.down}"
    return f"{function}<{kind}, {wider}>({arguments})"


def _result(row: Scaled | None, bias: int, texts: list[str]) -> str:
    """A row with its bias."""
    if row is None:
        return f"acc_t({literal(bias)})"
    moved = f"bp_moved<acc_t>({texts[row.number]}, {row.shift})"
    if row.negative:
        return f"acc_t({literal(bias)} - {moved})"
    return f"acc_t({moved} + {literal(bias)})" if bias else moved
