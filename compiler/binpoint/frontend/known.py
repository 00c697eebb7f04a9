"""Which channels are the same number at every position, whatever the input: for `remove-channels`.

A number is real; that of a value with an integer type is an element of the type, and is known only
where every way to round it that the project has gives the same element.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from binpoint.frontend.linear import Linear, linear_of
from binpoint.frontend.ties import channels, is_depthwise, links
from binpoint.ir.graph import Graph, Node, Value
from binpoint.ir.op import FloatOp
from binpoint.numeric.fixed import FixedType
from binpoint.ops.affine import Affine
from binpoint.ops.elementwise import Binary, Kind, MinMax
from binpoint.ops.pad import Pad
from binpoint.ops.pool import AveragePool
from binpoint.ops.prelu import PRelu
from binpoint.ops.reduce import Reduce
from binpoint.ops.rescaled import Quantize

Numbers = NDArray[np.float64]
Known = Mapping[str, Numbers]
"""By value: ``[C]``, NaN where a channel is not known to be constant."""

_SLACK = 1 / 64
"""Steps by which a real result may miss the exact one in any semantics, generously."""


def known_channels(graph: Graph) -> dict[str, Numbers]:
    """The constant channels of all values."""
    found: dict[str, Numbers] = {}
    for value in graph.values():
        if value.constant is not None:
            found[value.name] = _of_constant(value)
        elif value.name in graph.inputs:
            found[value.name] = np.full(channels(value), np.nan)
    for node in graph.nodes():
        numbers, steps = _of_node(graph, node, found)
        for value in graph.results(node):
            own = numbers if numbers is not None else np.full(channels(value), np.nan)
            found[value.name] = _rounded(own, value.fixed, steps)
    return found


def real_array(value: Value) -> Numbers:
    """A constant's real numbers in float64."""
    assert value.constant is not None
    if value.fixed is None:
        return value.constant.array.astype(np.float64)
    return value.fixed.dequantize(value.constant.array)


def _of_constant(value: Value) -> Numbers:
    """Numbers per channel of a constant that is the same at all positions."""
    if value.constant is None or 0 in value.shape:
        return np.full(channels(value), np.nan)
    rows = real_array(value).reshape(-1, channels(value))
    return np.where((rows == rows[0]).all(axis=0), rows[0], np.nan)


def _rounded(numbers: Numbers, kind: FixedType | None, steps: float) -> Numbers:
    """Numbers as elements of a type; NaN where they lie within `steps` of a tie."""
    known = ~np.isnan(numbers)
    if kind is None or not known.any():
        return numbers
    if kind.axis is not None:
        return np.full_like(numbers, np.nan)
    filled = np.where(known, numbers, 0.0)
    slack = (steps + _SLACK) * float(kind.scale)
    low, high = kind.quantize(filled - slack), kind.quantize(filled + slack)
    return np.where(known & (low == high), kind.dequantize(low), np.nan)


def _of_node(graph: Graph, node: Node, found: Known) -> tuple[Numbers | None, float]:
    """Constant channels of the one result, not rounded yet; by how many steps a bias may move."""
    linear = linear_of(graph, node)
    (result, *more) = graph.results(node)
    if linear is not None:
        if is_depthwise(graph, node):
            return _depthwise(linear, found[linear.x.name]), _bias_steps(linear, result)
        empty = ~linear.matrix.reshape(linear.channels, -1).any(axis=1)
        return np.where(empty, linear.offsets, np.nan), _bias_steps(linear, result)
    if more or not isinstance(node.op, FloatOp) or links(graph, node) is None:
        return None, 0.0
    match node.op:
        case Affine() | Binary() | MinMax() | PRelu():
            return _applied(graph, node, node.op, found), 0.0
        case Quantize():
            return _moved(graph, node, found), 0.0
        case AveragePool(edge=edge) if edge is not None:
            moved = _moved(graph, node, found)
            return np.where(moved == 0, moved, np.nan), 0.0
        case Pad(value=value):
            moved = _moved(graph, node, found)
            return np.where(moved == value, moved, np.nan), 0.0
        case Reduce(axes, mean):
            count = 1 if mean else int(np.prod([graph.arguments(node)[0].shape[i] for i in axes]))
            return _moved(graph, node, found) * count, 0.0
        case _:
            elementwise = node.op.elementwise
            applied = _applied(graph, node, node.op, found) if elementwise else None
            return (applied if applied is not None else _moved(graph, node, found)), 0.0


def _bias_steps(linear: Linear, result: Value) -> float:
    """By how many steps of the result rounding a real bias to steps of the sums may move it."""
    x, w, y = linear.x.fixed, linear.weights.fixed, result.fixed
    if x is None or w is None or y is None or None not in (y.axis, x.axis):
        return 0.0
    return 0.5 * float(x.scales[0]) * max(map(float, w.scales)) / float(y.scales[0])


def _depthwise(linear: Linear, x: Numbers) -> Numbers:
    """Rows of zeros give the bias, and so do constants unless padding interrupts them."""
    rows = linear.matrix.reshape(linear.channels, -1)
    spread = np.repeat(x, linear.channels // len(x))
    usable = (spread == 0) if linear.padded else ~np.isnan(spread)
    sums = np.where(np.isnan(spread), 0.0, spread) * rows.sum(axis=1)
    return np.where(usable | ~rows.any(axis=1), sums + linear.offsets, np.nan)


def _moved(graph: Graph, node: Node, found: Known) -> Numbers:
    """Constant channels of an op that passes its operands' elements on, or averages over them."""
    (result,) = graph.results(node)
    numbers = np.full(channels(result), np.nan)
    mixed = np.zeros(channels(result), bool)
    for link in links(graph, node) or ():
        given = found[node.inputs[link.operand]][link.source]
        numbers[link.target] = given
    for link in links(graph, node) or ():
        given = found[node.inputs[link.operand]][link.source]
        mixed[link.target] |= ~(numbers[link.target] == given)
    return np.where(mixed, np.nan, numbers)


def _applied(graph: Graph, node: Node, op: FloatOp, found: Known) -> Numbers:
    """Constant channels of a function of its operands' channels."""
    rank = len(graph.results(node)[0].shape)
    operands: list[Numbers] = []
    for value in graph.arguments(node):
        flat = isinstance(op, Affine | PRelu) and value.constant is not None
        shape = (1,) * (0 if flat else max(0, rank - 1))
        operands.append(found[value.name].reshape(*shape, -1))
    with np.errstate(all="ignore"):
        (numbers,) = op.reference(*(np.nan_to_num(v) for v in operands))
    unknown = np.zeros(numbers.shape, bool)
    for operand in operands:
        unknown |= np.isnan(operand)
    if _is_product(op):
        for operand in operands[:2]:
            unknown &= ~np.broadcast_to(operand == 0, numbers.shape)
    return np.where(unknown | ~np.isfinite(numbers), np.nan, numbers).reshape(-1)


def _is_product(op: FloatOp) -> bool:
    return isinstance(op, Affine) or (isinstance(op, Binary) and op.kind is Kind.MUL)
