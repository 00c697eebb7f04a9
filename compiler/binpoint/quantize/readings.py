"""Outputs without a quantizer: the integer sum, and what it means."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

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
from binpoint.ops.shape import Reshape, Transpose

_BITS = 160
_LARGEST_BIAS = 1 << 30
_LARGEST_FACTOR = 128
_WIDEST_WEIGHT = 16
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Line:
    """real = (sum − zero point) · unit + offset of each channel; `exact` unless roots are in it."""

    units: tuple[Fraction, ...]
    offsets: tuple[Fraction, ...]
    exact: bool


def read_output(graph: Graph, name: str) -> None:
    """Give an output computed by a `Rational` from stored integers their type and meaning.

    0. The output may be what it computes in another order or shape.
    1. A bias that is an integer number of units goes into the sum; what is left of one, less than
       half a unit, is the offset of the reading.
    2. A falling channel has its weights negated.
    3. Channels whose units are small multiples of a common one have their weights multiplied.

    Raises:
        QuantizationError: the function in between is not a straight line.
    """
    movers, node = before_moves(graph, name)
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
    _retype_moved(graph, graph.node(node.name), movers)


def before_moves(graph: Graph, name: str) -> tuple[list[Node], Node | None]:
    """The nodes that only move elements before a value, last first, and what computes them."""
    movers: list[Node] = []
    while (node := graph.producer(name)) is not None:
        if not isinstance(node.op, Transpose | Reshape) or graph.value(name).fixed is not None:
            break
        if graph.sole_consumer(node.inputs[0]) is None:
            break
        movers.append(node)
        name = node.inputs[0]
    return movers, node


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
        last = len(result.shape) - 1
        reading = Reading(tuple(map(float, units)), tuple(map(float, offsets)), last)
    graph.replace(replace(node, op=Reread(node.op.steps, kind, clipped=clipped)))
    graph.set_value(replace(result, fixed=kind, reading=reading))


def _retype_moved(graph: Graph, node: Node, movers: list[Node]) -> None:
    """Let type and meaning of a node's result follow its elements."""
    (first,) = graph.results(node)
    kind, reading = first.fixed, first.reading
    assert kind is not None
    channels = np.broadcast_to(np.arange(first.shape[-1], dtype=np.float64), first.shape)
    for mover in movers[::-1]:
        assert isinstance(mover.op, Transpose | Reshape)
        (moved,) = mover.op.reference(channels)
        channels = moved.astype(np.float64)
        axis, order = _along(channels, node)
        there, read = kind, None
        if kind.axis is not None:
            there = FixedType(kind.storage, _taken(kind.scales, order), kind.zero_points, axis)
        if reading is not None and mover is movers[0]:
            scales, offsets = (_taken(n, order) for n in (reading.scales, reading.offsets))
            read = Reading(scales, offsets, axis)
        graph.set_value(replace(graph.results(mover)[0], fixed=there, reading=read))
    if movers:
        graph.set_value(replace(graph.value(first.name), reading=None))


def _along(channels: NDArray[np.float64], node: Node) -> tuple[int, list[int]]:
    """The axis along which channels lie, and the channel of each place along it."""
    for axis in range(channels.ndim):
        first = np.moveaxis(channels, axis, 0).reshape(channels.shape[axis], -1)[:, :1]
        if np.array_equal(
            channels, np.broadcast_to(_on(first, axis, channels.ndim), channels.shape)
        ):
            return axis, first.reshape(-1).astype(np.int64).tolist()
    raise QuantizationError(
        "an output's channels lie along several axes", at=", ".join(node.origin.names),
        hint="put a quantizer before it is moved, or cut the model before it",
    )  # fmt: skip


def _on(numbers: NDArray[np.float64], axis: int, rank: int) -> NDArray[np.float64]:
    return numbers.reshape([-1 if i == axis else 1 for i in range(rank)])


def _taken(numbers: tuple[_T, ...], order: list[int]) -> tuple[_T, ...]:
    return tuple(numbers[i] for i in order) if len(numbers) > 1 else numbers


def _nearest(unit: Fraction) -> Dyadic:
    """A unit as scale: itself if it is binary, else the nearest float64."""
    if not unit.denominator & (unit.denominator - 1):
        return Dyadic.from_fraction(unit)
    return Dyadic.from_float(float(unit))
