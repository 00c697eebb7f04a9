"""Outputs without a quantizer: the integer sum, and what it means."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from binpoint.errors import QuantizationError
from binpoint.frontend.edit import drop_unread
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Node, Reading, Value
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import FixedType, IntType
from binpoint.numeric.interval import Interval
from binpoint.numeric.monotone import Clip, Scale, Shift, Steps
from binpoint.ops.conv import Conv
from binpoint.ops.conv_transpose import ConvTranspose
from binpoint.ops.dense import Dense
from binpoint.ops.rational import Rational, Reread

_BITS = 160
_LARGEST_BIAS = 1 << 30
_LARGEST_FACTOR = 128
_WIDEST_WEIGHT = 16


@dataclass(frozen=True, slots=True)
class Line:
    """real = (sum − zero point) · unit + offset of each channel; `exact` unless roots are in it."""

    units: tuple[Fraction, ...]
    offsets: tuple[Fraction, ...]
    exact: bool


def read_output(graph: Graph, name: str) -> None:
    """Give an output computed by a `Rational` from stored integers their type and meaning.

    1. A bias that is an integer number of units goes into the sum; what is left of one, less than
       half a unit, is the offset of the reading.
    2. A falling channel has its weights negated.
    3. Channels whose units are small multiples of a common one have their weights multiplied.

    Raises:
        QuantizationError: the function in between is not a straight line.
    """
    node = graph.producer(name)
    if node is None or not isinstance(node.op, Rational):
        return
    (source,) = graph.arguments(node)
    if source.fixed is None:
        return
    steps, clipped = _without_relu(node.op.steps)
    line = _line(node, steps, source.fixed, source.shape)
    linear = graph.producer(source.name)
    alone = graph.sole_consumer(source.name) is not None
    if linear is not None and isinstance(linear.op, Conv | Dense | ConvTranspose) and alone:
        line = _into_weights(graph, linear, source, line)
    if min(line.units) <= 0 or (clipped and any(line.offsets)):
        raise QuantizationError(
            f"the output `{name}` is no integer times a positive scale, plus an offset",
            at=", ".join(node.origin.names),
            hint="put a quantizer before or after this function, or cut the model before it",
        )
    _retype(graph, graph.node(node.name), line, clipped=clipped)


def _without_relu(steps: Steps) -> tuple[Steps, bool]:
    relu = bool(steps) and steps[-1] == Clip(Fraction(0), None)
    return (steps[:-1], True) if relu else (steps, False)


def _line(node: Node, steps: Steps, kind: FixedType, shape: tuple[int, ...]) -> Line:
    channels = max(Rational(steps).channels, kind.channels)
    count = shape[-1] if channels > 1 else 1
    units: list[Fraction] = []
    offsets: list[Fraction] = []
    exact = True
    for channel in range(count):
        scale = kind.scales[channel if kind.channels > 1 else 0]
        unit, offset = scale.as_fraction(), Fraction(0)
        for step in steps:
            match step:
                case Scale(factors):
                    factor = factors[channel if len(factors) > 1 else 0]
                    low, high = factor.bounds(_BITS)
                    middle = (low + high) / 2
                    unit, offset, exact = unit * middle, offset * middle, exact and factor.exact
                case Shift(values):
                    offset += values[channel if len(values) > 1 else 0]
                case _:
                    raise QuantizationError(
                        "an output is clipped without being quantized",
                        at=", ".join(node.origin.names),
                        hint="put a quantizer after this function, or cut the model before it",
                    )
        units.append(unit)
        offsets.append(offset)
    return Line(tuple(units), tuple(offsets), exact)


def _into_weights(graph: Graph, linear: Node, source: Value, line: Line) -> Line:
    """Signs, common multiples and whole biases go into the sum."""
    weights = graph.arguments(linear)[1]
    assert weights.constant is not None
    assert weights.fixed is not None
    if any(weights.fixed.zero_points) or any(not unit for unit in line.units):
        return line
    common = _common(line) if line.exact else None
    factors = [u / common if common else Fraction(1 if u > 0 else -1) for u in line.units]
    rows = np.array([int(f) for f in factors], np.int64)
    codes = weights.constant.array.astype(np.int64) * rows.reshape(
        -1, *[1] * (weights.constant.array.ndim - 1)
    )
    storage = Interval.of(codes).union(Interval.of_type(weights.fixed.storage))
    width = (
        max(storage.lo.bit_length(), (-storage.lo - 1).bit_length(), storage.hi.bit_length()) + 1
    )
    if width > _WIDEST_WEIGHT:
        return line
    units = tuple(u / f for u, f in zip(line.units, factors, strict=True))
    biases = [round(b / u) for b, u in zip(line.offsets, units, strict=True)]
    if max(abs(b) for b in biases) >= _LARGEST_BIAS:
        return line
    build = GraphBuilder(graph, linear.name, linear.origin)
    inputs = [linear.inputs[0], weights.name]
    if any(r != 1 for r in rows):
        kind = weights.fixed.with_storage(IntType(width, signed=True))
        inputs[1] = build.constant(
            codes.astype(kind.storage.dtype), fixed=kind, hint=weights.name
        ).name
    if any(biases):
        inputs.append(_bias(build, biases, source, weights.shape[0]).name)
    graph.replace(replace(linear, inputs=tuple(inputs)))
    drop_unread(graph, weights.name)
    offsets = tuple(b - n * u for b, n, u in zip(line.offsets, biases, units, strict=True))
    return Line(units, offsets, line.exact)


def _common(line: Line) -> Fraction | None:
    """The largest unit of which those of all channels are small multiples, if they are."""
    unit = Fraction(
        math.gcd(*(u.numerator for u in line.units)),
        math.lcm(*(u.denominator for u in line.units)),
    )
    return unit if all(abs(u) <= _LARGEST_FACTOR * unit for u in line.units) else None


def _bias(build: GraphBuilder, biases: list[int], source: Value, channels: int) -> Value:
    """Whole units as stored integers of the sum's own type."""
    assert source.fixed is not None
    array = np.broadcast_to(np.array(biases, np.int32), (channels,))
    kind = source.fixed if source.fixed.axis is None else replace(source.fixed, axis=0)
    return build.constant(array, fixed=kind, hint=f"{build.hint}_bias")


def _retype(graph: Graph, node: Node, line: Line, *, clipped: bool) -> None:
    (source,), (result,) = graph.arguments(node), graph.results(node)
    assert source.fixed is not None
    assert isinstance(node.op, Rational)
    units = line.units[:1] if len(set(line.units)) == 1 else line.units
    scales = tuple(_nearest(unit) for unit in units)
    axis = None if len(units) == 1 else len(result.shape) - 1
    kind = FixedType(source.fixed.storage, scales, source.fixed.zero_points, axis)
    told = all(s.as_fraction() == u for s, u in zip(scales, units, strict=True))
    reading = None
    if not told or not line.exact or any(line.offsets):
        offsets = line.offsets[:1] if len(set(line.offsets)) == 1 else line.offsets
        reading = Reading(tuple(map(float, units)), tuple(map(float, offsets)))
    graph.replace(replace(node, op=Reread(node.op.steps, kind, clipped=clipped)))
    graph.set_value(replace(result, fixed=kind, reading=reading))


def _nearest(unit: Fraction) -> Dyadic:
    """A unit as scale: itself if it is binary, else the nearest float64."""
    if not unit.denominator & (unit.denominator - 1):
        return Dyadic.from_fraction(unit)
    return Dyadic.from_float(float(unit))
