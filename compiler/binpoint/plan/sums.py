"""Sums of products as hardware units: dense layers, convolutions, transposed convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict, cast

import numpy as np

from binpoint.ir.constant import Constant
from binpoint.ir.graph import Value
from binpoint.ir.op import IntArray
from binpoint.numeric.fixed import IntType
from binpoint.numeric.interval import Interval
from binpoint.ops.conv import IntConv
from binpoint.ops.conv_transpose import IntConvTranspose
from binpoint.ops.dense import IntMatMul
from binpoint.ops.logshares import TOP, WHOLE, IntShiftMatMul
from binpoint.ops.requantize import Requantize
from binpoint.plan import units
from binpoint.plan.moves import source
from binpoint.plan.place import Draft, End, Place, array_of, together
from binpoint.plan.slides import Words, is_pointwise, slide_over, window_unit
from binpoint.plan.staircase import requantized
from binpoint.plan.store import Store, as_it_is
from binpoint.plan.units import Unit, narrowest


def store_of(place: Place, acc: Value) -> Store:
    """What a step does with its sums."""
    if len(place.step.nodes) == 1:
        return as_it_is(acc.interval)
    op = cast("Requantize", place.step.nodes[1].op)
    return requantized(op, acc.interval, bit=place.result.name in place.bipolar)


class ProductFields(TypedDict):
    """The fields that all units with sums have."""

    weights: Constant
    bias: Constant
    x: IntType
    weight: IntType
    acc: IntType
    product: IntType
    arithmetic: str


@dataclass(frozen=True, slots=True)
class Products:
    """Weights ``[O, K]`` and bias ``[O]`` of sums over operands in `x`, with all types proven."""

    weights: IntArray
    bias: IntArray
    x: Interval
    bits: bool = False

    def fields(self) -> ProductFields:
        """The fields that all units with sums have."""
        if self.bits:
            return self._counted()
        codes = Interval.of(self.weights)
        low, high = self.ends()
        return {
            "weights": Constant(self.weights),
            "bias": Constant(self.bias),
            "x": self.x.int_type(),
            "weight": codes.int_type(),
            "acc": narrowest(_ends(low, high), _ends(low - self.bias, high - self.bias)),
            "product": narrowest(self.x * codes),
            "arithmetic": _arithmetic(self.weights),
        }

    def ends(self) -> tuple[IntArray, IntArray]:
        """The least and the largest sum of each channel, partial ones included."""
        lo, hi = min(self.x.lo, 0), max(self.x.hi, 0)
        positive = np.maximum(self.weights, 0).sum(axis=1)
        negative = np.minimum(self.weights, 0).sum(axis=1)
        return (
            self.bias + positive * lo + negative * hi,
            self.bias + positive * hi + negative * lo,
        )

    def _counted(self) -> ProductFields:
        """Of bits that stand for -1 and 1: twice the number of equal ones, less the depth."""
        depth = self.weights.shape[1]
        start = self.bias - depth
        return {
            "weights": Constant(self.weights),
            "bias": Constant(start),
            "x": IntType(1, signed=False),
            "weight": Interval.of(self.weights).int_type(),
            "acc": narrowest(_ends(start, start + 2 * depth), Interval(0, 2 * depth)),
            "product": Interval(0, 2).int_type(),
            "arithmetic": "count",
        }


def _ends(low: IntArray, high: IntArray) -> Interval:
    return Interval(int(low.min()), int(high.max()))


def _arithmetic(weights: IntArray) -> str:
    if set(np.unique(weights).tolist()) <= {-1, 1}:
        return "signs"
    return "planes" if Interval.of(weights).int_type().width <= 2 else "multiply"


def dense(place: Place) -> list[Draft]:
    """A matrix product over positions."""
    x, w, bias = place.inputs
    acc = place.graph.value(place.step.nodes[0].outputs[0])
    rows = math.prod(x.shape[:-1])
    fold = place.fold(pe=w.shape[0], simd=w.shape[1])
    products = Products(array_of(w), array_of(bias), x.interval, x.name in place.bipolar)
    unit = units.Dense(
        rows=rows,
        groups=1,
        store=store_of(place, acc),
        pe=fold.pe,
        simd=fold.simd,
        **products.fields(),
    )
    return [
        Draft(place.name, unit, (place.end(x, fold.simd),), (place.end(place.result, fold.pe),))
    ]


def matmul(place: Place) -> list[Draft]:
    """A matrix product of two computed operands."""
    (a, b), op = place.inputs, cast("IntMatMul | IntShiftMatMul", place.op)
    shifts = isinstance(op, IntShiftMatMul)
    acc = place.graph.value(place.step.nodes[0].outputs[0])
    depth, columns = a.shape[-1], b.shape[-1]
    fold = place.fold(pe=columns, simd=depth)
    zero_a = 0 if shifts else op.zero_a
    left, right = a.interval - zero_a, b.interval - op.zero_b
    most = (Interval(0, WHOLE) if shifts else left * depth) * right
    unit = units.Product(
        batches=math.prod(a.shape[:-2]),
        rows=a.shape[-2],
        depth=depth,
        columns=columns,
        zero_a=zero_a,
        zero_b=op.zero_b,
        a=a.interval.int_type(),
        b=b.interval.int_type(),
        left=narrowest(left, a.interval),
        right=narrowest(right, b.interval),
        acc=narrowest(most.union(Interval(0, 0))),
        product=narrowest((Interval(0, 1 << TOP) if shifts else left) * right),
        store=store_of(place, acc),
        pe=fold.pe,
        simd=fold.simd,
        shifts=shifts,
    )
    sources = [
        source(place, array_of(v), v.interval, f"operand{i}", 1)
        for i, v in enumerate((a, b))
        if v.constant is not None
    ]
    fed = {draft.name: draft.writes[0] for draft in sources}
    reads = tuple(
        replace(fed.get(f"{place.name}_operand{i}", place.end(v, 1)), lanes=lanes)
        for i, (v, lanes) in enumerate(((a, fold.simd), (b, fold.pe)))
    )
    own = Draft(place.name, unit, reads, (place.end(place.result, fold.pe),))
    return [*sources, own]


def conv(place: Place) -> list[Draft]:
    """A window, then sums over its words; the zero point goes into the bias and the padding.

    A window of one element that moves by one gives the operand as it is, and is left out.
    """
    (x, w, bias), op = place.inputs, cast("IntConv", place.op)
    acc = place.graph.value(place.step.nodes[0].outputs[0])
    codes = array_of(w)
    if place.step.call.stem == "depthwise":
        codes = np.moveaxis(codes, -1, 0)
    rows = codes.reshape(codes.shape[0], -1)
    depth = x.shape[-1] // op.groups
    alone = depth == 1 and rows.shape[0] == op.groups
    height = op.window.kernel[0]
    fold = place.fold(
        pe=rows.shape[0] if alone else rows.shape[0] // op.groups, simd=depth, rows=height
    )
    tall = together(fold.simd, depth, height)
    lanes = fold.pe if alone else fold.simd // tall
    groups, words = (op.groups // lanes, 1) if alone else (op.groups, depth // lanes)
    if is_pointwise(op.window):
        before, operand = [], place.end(x, lanes)
    else:
        sent = Words(groups, words, lanes, op.zero, tall)
        before = [window_unit(place, op.window, x, sent)]
        (operand,) = before[0].writes
    bounds = x.interval.union(Interval(op.zero, op.zero)) if op.window.padded else x.interval
    start = array_of(bias) - op.zero * rows.sum(axis=1)
    store = store_of(place, acc)
    positions = math.prod(place.result.shape[:-1])
    carried = x.name in place.bipolar
    if alone:
        fields = Products(rows, start, bounds, carried).fields()
        unit: Unit = units.Depthwise(
            rows=positions, store=store, pe=fold.pe, simd=fold.simd, **fields
        )
    else:
        ordered = _columns_first(rows, tall, height, words, lanes)
        unit = units.Dense(
            rows=positions,
            groups=op.groups,
            store=store,
            pe=fold.pe,
            simd=fold.simd,
            **Products(ordered, start, bounds, carried).fields(),
        )
    return [*before, Draft(place.name, unit, (operand,), (place.end(place.result, fold.pe),))]


def _columns_first(rows: IntArray, tall: int, height: int, words: int, lanes: int) -> IntArray:
    """Weights in the order of a window's words: all rows of a column side by side, if so sent."""
    if tall == 1:
        return rows
    split = rows.reshape(rows.shape[0], height, -1, words, lanes)
    return np.ascontiguousarray(split.transpose(0, 2, 3, 1, 4)).reshape(rows.shape)


def conv_transpose(place: Place) -> list[Draft]:
    """Zeros between the elements, then a convolution with the taps reversed."""
    (x, w, bias), op = place.inputs, cast("IntConvTranspose", place.op)
    codes = array_of(w)
    window, before, after = op.spread.as_convolution(x.shape[1:-1])
    if min(before + after) < 0:
        raise place.refuse(
            "a transposed convolution that cuts its border has no form",
            "export it with paddings below the size of the kernel",
        )
    lanes = math.gcd(place.lanes[0], x.shape[-1] // op.groups)
    spread = _spread(place, op, before, after, lanes)
    for axis in range(1, codes.ndim - 1):
        codes = np.flip(codes, axis)
    rows = np.ascontiguousarray(codes).reshape(codes.shape[0], -1)
    bounds = x.interval.union(Interval(op.zero, op.zero))
    depth = x.shape[-1] // op.groups
    height = window.kernel[0]
    fold = place.fold(pe=rows.shape[0] // op.groups, simd=depth, rows=height)
    tall = together(fold.simd, depth, height)
    side, words = fold.simd // tall, depth // (fold.simd // tall)
    wide = tuple(n * s for n, s in zip(x.shape[1:-1], op.spread.window.strides, strict=True))
    wide = tuple(n + b + a for n, b, a in zip(wide, before, after, strict=True))
    sent = Words(op.groups, words, side, op.zero, tall)
    slide = slide_over(place, window, (x.shape[0], *wide), spread.writes[0], sent)
    ordered = _columns_first(rows, tall, height, words, side)
    products = Products(ordered, array_of(bias) - op.zero * rows.sum(axis=1), bounds)
    acc = place.graph.value(place.step.nodes[0].outputs[0])
    unit = units.Dense(
        rows=math.prod(place.result.shape[:-1]),
        groups=op.groups,
        store=store_of(place, acc),
        pe=fold.pe,
        simd=fold.simd,
        **products.fields(),
    )
    return [
        spread,
        slide,
        Draft(place.name, unit, slide.writes, (place.end(place.result, fold.pe),)),
    ]


def _spread(
    place: Place, op: IntConvTranspose, before: Sequence[int], after: Sequence[int], lanes: int
) -> Draft:
    """The operand with its zero point between its elements and around them."""
    x = place.inputs[0]
    strides = op.spread.window.strides
    words = x.shape[-1] // lanes
    axes = zip(x.shape[1:-1], strides, before, after, strict=True)
    whole = (x.shape[0], *(n * s + b + a for n, s, b, a in axes), words)
    bounds = x.interval.union(Interval(op.zero, op.zero))
    sizes = (*x.shape[:-1], words)
    unit = units.Frame(
        (0, *before, 0), sizes, whole, (1, *strides, 1), op.zero, bounds.int_type(), lanes
    )
    name = f"{place.name}_spread"
    return Draft(
        name,
        unit,
        (place.end(x, lanes),),
        (End(name, lanes, bounds, math.prod(whole) * lanes, between=True),),
    )
