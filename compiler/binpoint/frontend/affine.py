"""fold-affine and fold-bias: normalisations, scalings and additions become weights and biases."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from binpoint.frontend.edit import drop_unread, until_settled
from binpoint.frontend.linear import Function, Linear, Reals, function_of, linear_of, set_real
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Graph, Node, Value
from binpoint.numeric.fixed import I32, FixedType
from binpoint.ops.affine import Affine
from binpoint.ops.dense import MatMul
from binpoint.ops.elementwise import Binary, Kind, reciprocal
from binpoint.ops.shape import Reshape, Transpose
from binpoint.passes.base import Context, Effect, Pass, Stage

_SAME_SCALE = 1e-6
"""Exporters state the scale of a bias in float32: the product of two others, rounded."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FoldAffine(Pass):
    """Fold y = x·a[c] + b[c] with real constants into real weights nearby.

    Such functions are batch normalisation, and arithmetic with one number or one per channel.

    1. After a Conv, ConvTranspose or Dense: rows of weights times a, bias times a plus b.
    2. Before one: columns of weights times a, bias plus weights times b. With padding only if b is
       zero. A Reshape in between is allowed where it keeps channels apart.
    3. One factor for all also goes back through transpositions, reshapes and a product of two
       computed matrices to the weights of a linear op.
    4. Two such functions in a row are one; not in models that come with quantizers, whose single
       steps are rounded in float32.
    5. What is left with one number per channel becomes an `Affine`. A division stays one in models
       that come with quantizers; other constant divisors become reciprocals.

    The value in between must be untyped and read by nobody else.
    """

    name: ClassVar[str] = "fold-affine"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        until_settled(graph, _fold)
        for node in graph.nodes():
            _make_affine(graph, node)
            _make_product(graph, graph.node(node.name))
        return graph


def passing(graph: Graph, value: Value) -> bool:
    """Whether a value is untyped, computed, and read by one node only."""
    computed = graph.producer(value.name) is not None
    return computed and value.fixed is None and graph.sole_consumer(value.name) is not None


def _fold(graph: Graph, node: Node) -> bool:
    function = function_of(graph, node)
    if function is None:
        return False
    if _fold_back(graph, function) or _fold_ahead(graph, function):
        return True
    return _scale_back(graph, function) or _compose(graph, function)


# ---- rule 1


def _fold_back(graph: Graph, function: Function) -> bool:
    linear = linear_of(graph, graph.producer(function.x.name))
    if linear is None or not linear.real or not passing(graph, function.x):
        return False
    rows = np.broadcast_to(function.factors, (linear.channels,))
    matrix = linear.matrix * rows.reshape(-1, *[1] * (linear.matrix.ndim - 1))
    _take_over(graph, linear.node, function.node)
    linear = replace(linear, node=graph.node(linear.node.name))
    set_real(graph, linear, linear.x, matrix, linear.offsets * rows + function.offsets)
    return True


def _take_over(graph: Graph, first: Node, second: Node) -> None:
    """Let `first` compute the result of `second`, which reads it, and remove `second`."""
    old = second.inputs
    graph.remove(second.name)
    drop = first.outputs
    graph.replace(replace(first, outputs=second.outputs, origin=first.origin + second.origin))
    for name in drop:
        graph.drop_value(name)
    drop_unread(graph, *(name for name in old if name not in drop))


# ---- rule 2


def _fold_ahead(graph: Graph, function: Function) -> bool:
    (result,) = graph.results(function.node)
    if not passing(graph, result):
        return False
    reader, operand = graph.sole_consumer(result.name), result
    factors = np.broadcast_to(function.factors, result.shape[-1:])
    offsets = np.broadcast_to(function.offsets, result.shape[-1:])
    reshape = reader if reader is not None and isinstance(reader.op, Reshape) else None
    if reshape is not None:
        (operand,) = graph.results(reshape)
        spread = [_spread(v, result.shape, operand.shape) for v in (factors, offsets)]
        if not passing(graph, operand) or spread[0] is None or spread[1] is None:
            return False
        factors, offsets = spread[0], spread[1]
        reader = graph.sole_consumer(operand.name)
    linear = linear_of(graph, reader)
    if linear is None or not _takes(linear, function, operand):
        return False
    _absorb(graph, linear, function, reshape, factors, offsets)
    return True


def _takes(linear: Linear, function: Function, value: Value) -> bool:
    if not linear.real or linear.x.name != value.name:
        return False
    if linear.padded and function.shifts:
        _log.debug("%s not folded ahead: the borders are padded with zero", function.node.name)
        return False
    return True


def _absorb(
    graph: Graph,
    linear: Linear,
    function: Function,
    reshape: Node | None,
    factors: Reals,
    offsets: Reals,
) -> None:
    matrix = linear.matrix * linear.per_input(factors)
    added = (linear.matrix * linear.per_input(offsets)).reshape(linear.channels, -1).sum(axis=1)
    x = function.x
    if reshape is not None:
        op = reshape.op
        assert isinstance(op, Reshape)
        x = GraphBuilder(graph, reshape.name, reshape.origin).one(op, x)
    set_real(graph, linear, x, matrix, linear.offsets + added)


def _spread(values: Reals, shape: tuple[int, ...], target: tuple[int, ...]) -> Reals | None:
    """Numbers per channel of `shape` as numbers per element of the last axis of `target`, if so."""
    if not target or 0 in target:
        return None
    rows = np.broadcast_to(values, shape).reshape(-1, target[-1])
    return rows[0] if (rows == rows[0]).all() else None


# ---- rule 3


def _scale_back(graph: Graph, function: Function) -> bool:
    if function.shifts or function.factors.size != 1 or not function.scales:
        return False
    linear = _source(graph, function.x)
    (result,) = graph.results(function.node)
    if linear is None:
        return False
    factor = function.factors[0]
    set_real(graph, linear, linear.x, linear.matrix * factor, linear.offsets * factor)
    moved = graph.value(function.x.name)
    graph.set_value(replace(moved, fixed=result.fixed, source=result.source or moved.source))
    graph.bypass(graph.node(function.node.name), moved.name)
    return True


def _source(graph: Graph, value: Value) -> Linear | None:
    """The linear op with real weights of which a value is a homogeneous function."""
    if not passing(graph, value):
        return None
    node = graph.producer(value.name)
    assert node is not None
    linear = linear_of(graph, node)
    if linear is not None:
        return linear if linear.real else None
    if isinstance(node.op, Transpose | Reshape):
        return _source(graph, graph.arguments(node)[0])
    if not isinstance(node.op, MatMul):
        return None
    left, right = graph.arguments(node)
    return _source(graph, left) or _source(graph, right)


# ---- rules 4 and 5


def _compose(graph: Graph, function: Function) -> bool:
    if graph.quantized or not passing(graph, function.x):
        return False
    first = function_of(graph, graph.producer(function.x.name))
    if first is None:
        return False
    factors = first.factors * function.factors
    offsets = first.offsets * function.factors + function.offsets
    origin = first.node.origin + function.node.origin
    _set_affine(graph, replace(function.node, origin=origin), first.x, factors, offsets)
    return True


def _set_affine(
    graph: Graph, node: Node, x: Value, factors: Reals, offsets: Reals, *, divides: bool = False
) -> None:
    build = GraphBuilder(graph, node.name, node.origin)
    parts = [np.broadcast_to(v, x.shape[-1:]).astype(np.float32) for v in (factors, offsets)]
    a, b = (build.constant(v, hint=f"{node.name}_{t}") for v, t in zip(parts, "ab", strict=True))
    old = graph.node(node.name).inputs
    graph.replace(replace(node, op=Affine(divides), inputs=(x.name, a.name, b.name)))
    drop_unread(graph, *old)


def _make_affine(graph: Graph, node: Node) -> None:
    function = function_of(graph, node) if isinstance(node.op, Binary) else None
    if function is None or max(function.factors.size, function.offsets.size) == 1:
        return
    divides = isinstance(node.op, Binary) and node.op.kind is Kind.DIV
    factors = constant_array(graph.arguments(node)[1]).reshape(-1) if divides else function.factors
    _set_affine(graph, node, function.x, factors, function.offsets, divides=divides)


def _make_product(graph: Graph, node: Node) -> None:
    if not isinstance(node.op, Binary) or node.op.kind is not Kind.DIV:
        return
    a, b = graph.arguments(node)
    if b.constant is None or b.fixed is not None:
        return
    inverse = reciprocal(GraphBuilder(graph, node.name, node.origin), b)
    graph.replace(replace(node, op=Binary(Kind.MUL), inputs=(a.name, inverse.name)))
    drop_unread(graph, b.name)


# ---- fold-bias


@dataclass(frozen=True, slots=True)
class FoldBias(Pass):
    """An addition of constants after a Conv, ConvTranspose or Dense becomes its bias.

    1. The sum's other operand is a constant of one number, or one per channel. It stays stored
       integers if it is of type int32 in steps of the sums, else it is a real bias. The value in
       between is untyped and read by nobody else.
    2. Where the op has a bias: two real ones are added, and two of stored integers if their types
       are equal and the sum fits; else nothing is done.
    """

    name: ClassVar[str] = "fold-bias"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        until_settled(graph, _fold_bias)
        return graph


def _fold_bias(graph: Graph, node: Node) -> bool:
    if not isinstance(node.op, Binary) or node.op.kind is not Kind.ADD:
        return False
    arguments = graph.arguments(node)
    constants = [v for v in arguments if v.constant is not None]
    values = [v for v in arguments if v.constant is None]
    if len(constants) != 1 or not passing(graph, values[0]):
        return False
    linear = linear_of(graph, graph.producer(values[0].name))
    if linear is None:
        return False
    bias = _bias(graph, linear, constants[0])
    if bias is None:
        return False
    _take_over(graph, linear.node, node)
    current = graph.node(linear.node.name)
    graph.replace(replace(current, inputs=(*linear.node.inputs[:2], bias.name)))
    drop_unread(graph, *linear.node.inputs[2:])
    return True


def _bias(graph: Graph, linear: Linear, added: Value) -> Value | None:
    """The bias with `added` in it, as a constant ``[O]``; None if that is not exact."""
    assert added.constant is not None
    array, kind = added.constant.array, _bias_type(linear, added)
    if array.size != (added.shape or (1,))[-1] or array.size not in (1, linear.channels):
        return None
    if kind is None:
        array = constant_array(added)
    total = np.broadcast_to(array.reshape(-1), (linear.channels,))
    build = GraphBuilder(graph, linear.node.name)
    if linear.bias is None:
        return build.constant(total, fixed=kind, hint=added.name)
    assert linear.bias.constant is not None
    if linear.bias.fixed != kind:
        _log.debug("%s keeps its bias apart: types differ", linear.node.name)
        return None
    return _sum(build, linear.bias.constant.array, total, kind, added.name)


def _bias_type(linear: Linear, added: Value) -> FixedType | None:
    """The type of `added` as bias, if its steps are those of the sums; None to read it as real."""
    kind, x, w = added.fixed, linear.x.fixed, linear.weights.fixed
    if kind is None or x is None or w is None or x.axis is not None:
        return None
    steps = np.array([float(x.scale) * float(s) for s in w.scales])
    stated = np.array([float(s) for s in kind.scales])
    if kind.storage != I32 or any(kind.zero_points) or len(stated) not in (1, len(steps)):
        return None
    if not np.allclose(stated, steps, rtol=_SAME_SCALE, atol=0):
        return None
    return kind if kind.axis is None else replace(kind, axis=0)


def _sum(
    build: GraphBuilder, a: np.ndarray, b: np.ndarray, kind: FixedType | None, hint: str
) -> Value | None:
    if kind is None:
        return build.constant((a.astype(np.float64) + b).astype(np.float32), hint=hint)
    total = a.astype(np.int64) + b.astype(np.int64)
    if any(kind.zero_points) or total.min() < I32.min or total.max() > I32.max:
        _log.debug("a sum of biases has no exact form")
        return None
    return build.constant(total.astype(np.int32), fixed=kind.with_storage(I32), hint=hint)
