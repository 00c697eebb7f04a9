"""Linear resizing as hardware units: the neighbours of every position, then a weighted sum."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.constant import Constant
from binpoint.ir.op import IntArray
from binpoint.numeric.interval import Interval
from binpoint.ops.interpolate import OnnxruntimeResize, Shares
from binpoint.ops.resize import IntResizeLinear
from binpoint.plan import units
from binpoint.plan.floats import bits_of, float_steps, terms_of
from binpoint.plan.place import Draft, End, Place
from binpoint.plan.sums import store_of
from binpoint.plan.units import narrowest


def resize_linear(place: Place) -> list[Draft]:
    """Weights over a common denominator, which the requantizer divides out."""
    x, op = place.inputs[0], cast("IntResizeLinear", place.op)
    pe = place.fold(pe=x.shape[-1], default=place.lanes[0]).pe
    height = x.shape[1] if op.rank == 2 else 1
    rows, columns = (
        (np.array([w.low, w.high]).T, _whole_shares(w.weight, w.denominator))
        for w in (op.rows, op.columns)
    )
    if op.rank == 1:
        rows = (rows[0][:, :1], rows[1][:, :1])
    places = _places(rows[0], columns[0], x.shape[0], height, x.shape[-2])
    weights = np.tile(_outer(rows[1], columns[1]).reshape(-1, places.shape[1]), (x.shape[0], 1))
    near = _neighbours(place, places, pe)
    start = -op.zero * op.denominator
    sums = x.interval.union(Interval(0, 0)) * op.denominator + start
    acc = place.graph.value(place.step.nodes[0].outputs[0])
    unit = units.Blend(
        rows=len(places),
        folds=x.shape[-1] // pe,
        weights=Constant(weights),
        x=x.interval.int_type(),
        acc=narrowest(sums, Interval(start, start)),
        product=narrowest(x.interval * Interval.of(weights)),
        store=store_of(place, acc),
        pe=pe,
        start=start,
    )
    return [near, Draft(place.name, unit, near.writes, (place.end(place.result, pe),))]


def interpolate(place: Place) -> list[Draft]:
    """Float32 shares as onnxruntime has them."""
    x, op = place.inputs[0], cast("OnnxruntimeResize", place.op)
    pe = place.fold(pe=x.shape[-1], default=place.lanes[0]).pe
    rows, columns = ((s.places.array, _float_shares(s)) for s in (op.rows, op.columns))
    places = _places(rows[0], columns[0], x.shape[0], x.shape[1], x.shape[2])
    shares = (rows[1][:, None, :, None] * columns[1][None, :, None, :]).astype(np.float32)
    shares = np.tile(shares.reshape(-1, 4), (x.shape[0], 1))
    near = _neighbours(place, places, pe)
    codes = np.arange(x.interval.lo, x.interval.hi + 1)
    table = terms_of(place, codes, op.operand, shares)
    bounds = place.result.interval
    limit = float(np.abs(table).max()) * 8
    steps = float_steps([op.quantized], bounds, limit)
    unit = units.FloatSum(
        rows=len(places),
        folds=x.shape[-1] // pe,
        taps=4,
        x=x.interval.int_type(),
        table=bits_of(table),
        low=x.interval.lo,
        weights=bits_of(shares),
        steps=steps,
        kinds=Constant(np.zeros(len(places), np.int64)),
        lo=bounds.lo,
        result=bounds.int_type(),
        pe=pe,
    )
    return [near, Draft(place.name, unit, near.writes, (place.end(place.result, pe),))]


def _whole_shares(weight: tuple[int, ...], denominator: int) -> IntArray:
    far = np.array(weight, np.int64)
    return np.stack([denominator - far, far], axis=1)


def _float_shares(shares: Shares) -> NDArray[np.float32]:
    return np.array([shares.near, shares.far], np.float32).T


def _outer(rows: IntArray, columns: IntArray) -> IntArray:
    """Products of the shares of rows and columns, ``[rows, columns, taps, taps]``."""
    return rows[:, None, :, None] * columns[None, :, None, :]


def _places(rows: IntArray, columns: IntArray, images: int, height: int, width: int) -> IntArray:
    """Pixels next to every position, ``[positions, taps]``, rows outermost among the taps."""
    pixel = rows[:, None, :, None].astype(np.int64) * width + columns[None, :, None, :]
    taps = rows.shape[1] * columns.shape[1]
    images_first = np.arange(images)[:, None] * height * width
    return (images_first[:, :, None] + pixel.reshape(-1, taps)[None]).reshape(-1, taps)


def _neighbours(place: Place, places: IntArray, lanes: int) -> Draft:
    x = place.inputs[0]
    inner = x.shape[-1] // lanes
    kind = x.interval.int_type()
    name = f"{place.name}_window"
    unit = units.Neighbours(x.type.size // lanes, (), (), 0, kind, lanes, Constant(places), inner)
    elements = math.prod(places.shape) * x.shape[-1]
    end = End(name, lanes, x.interval, elements, between=True)
    return Draft(name, unit, (place.end(x, lanes),), (end,))
