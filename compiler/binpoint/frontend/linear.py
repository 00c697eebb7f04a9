"""The ops with constant weights, and the affine functions around them, as passes see them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from binpoint.frontend.edit import drop_unread
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Graph, Node, Value
from binpoint.ops.affine import Affine
from binpoint.ops.conv import Conv
from binpoint.ops.conv_transpose import ConvTranspose
from binpoint.ops.dense import Dense
from binpoint.ops.elementwise import Binary, Kind, Scalar
from binpoint.ops.unary import Unary

Reals = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Linear:
    """A Conv, ConvTranspose or Dense.

    Weights with output channels on axis 0, bias ``[O]`` or none.
    """

    node: Node
    op: Conv | ConvTranspose | Dense
    x: Value
    weights: Value
    bias: Value | None

    @property
    def channels(self) -> int:
        """Output channels."""
        return self.weights.shape[0]

    @property
    def real(self) -> bool:
        """Whether weights and bias are real numbers, so that any change of them is allowed."""
        return self.weights.fixed is None and (self.bias is None or self.bias.fixed is None)

    @property
    def padded(self) -> bool:
        """Whether some sums lack terms, so that a constant operand does not give a constant."""
        return not isinstance(self.op, Dense) and (
            isinstance(self.op, ConvTranspose) or self.op.window.padded
        )

    @property
    def matrix(self) -> Reals:
        """Real weights, float64."""
        return constant_array(self.weights).astype(np.float64)

    @property
    def offsets(self) -> Reals:
        """Real bias ``[O]``, float64; zeros if there is none."""
        if self.bias is None:
            return np.zeros(self.channels)
        return constant_array(self.bias).astype(np.float64)

    def per_input(self, factors: Reals) -> Reals:
        """Factors of input channels ``[C]``, laid along the weights: ``[O or 1, 1…, C/groups]``."""
        shape = [1] * (len(self.weights.shape) - 1)
        if isinstance(self.op, Dense) or self.op.groups == 1:
            return factors.reshape(*shape, -1)
        rows = factors.reshape(self.op.groups, -1)
        rows = np.repeat(rows, self.channels // self.op.groups, axis=0)
        return rows.reshape(self.channels, *shape[1:], -1)


def linear_of(graph: Graph, node: Node | None) -> Linear | None:
    """A node as linear op with constant weights and bias, if it is one."""
    if node is None or not isinstance(node.op, Conv | ConvTranspose | Dense):
        return None
    x, weights, *rest = graph.arguments(node)
    if weights.constant is None or any(v.constant is None for v in rest):
        return None
    return Linear(node, node.op, x, weights, rest[0] if rest else None)


def set_real(graph: Graph, linear: Linear, x: Value, matrix: Reals, offsets: Reals) -> None:
    """Give a linear op another operand, weights and bias; float32, no bias where all are zero."""
    build = GraphBuilder(graph, linear.node.name)
    old = linear.node.inputs
    inputs = [x.name, linear.weights.name]
    if not np.array_equal(matrix, linear.matrix):
        hint = linear.weights.name
        inputs[1] = build.constant(matrix.astype(np.float32), hint=hint).name
    if linear.bias is not None and np.array_equal(offsets, linear.offsets):
        inputs.append(linear.bias.name)
    elif linear.bias is not None or offsets.any():
        hint = f"{linear.node.name}_bias" if linear.bias is None else linear.bias.name
        inputs.append(build.constant(offsets.astype(np.float32), hint=hint).name)
    graph.replace(replace(graph.node(linear.node.name), inputs=tuple(inputs)))
    drop_unread(graph, *old)


@dataclass(frozen=True, slots=True)
class Function:
    """y = x·factors + offsets, one or one per channel of the last axis; float64."""

    node: Node
    x: Value
    factors: Reals
    offsets: Reals

    @property
    def shifts(self) -> bool:
        """Whether anything is added."""
        return bool(self.offsets.any())

    @property
    def scales(self) -> bool:
        """Whether anything is multiplied."""
        return bool((self.factors != 1).any())


def function_of(graph: Graph, node: Node | None) -> Function | None:
    """A node as affine function of its one computed operand, with real constants; None if not."""
    if node is None:
        return None
    one, none = np.ones(1), np.zeros(1)
    match node.op:
        case Affine():
            x, a, b = graph.arguments(node)
            if a.constant is None or b.constant is None:
                return None
            factors = 1 / _flat(a) if node.op.divides else _flat(a)
            return Function(node, x, factors, _flat(b))
        case Unary("Neg"):
            return Function(node, graph.arguments(node)[0], -one, none)
        case Scalar():
            pair = _pair(node.op.kind, np.array([float(node.op.number)]), node.op.first)
            return None if pair is None else Function(node, graph.arguments(node)[0], *pair)
        case Binary():
            return _function_of_pair(graph, node, node.op)
        case _:
            return None


def _flat(value: Value) -> Reals:
    return constant_array(value).astype(np.float64).reshape(-1)


def _function_of_pair(graph: Graph, node: Node, op: Binary) -> Function | None:
    (a, b), (y,) = graph.arguments(node), graph.results(node)
    for x, other in ((a, b), (b, a)):
        if other.constant is None or x.constant is not None or x.shape != y.shape:
            continue
        if other.fixed is not None or other.type.size != (other.shape or (1,))[-1]:
            continue
        pair = _pair(op.kind, _flat(other), other is a)
        return None if pair is None else Function(node, x, *pair)
    return None


def _pair(kind: Kind, number: Reals, first: bool) -> tuple[Reals, Reals] | None:
    """Factor and offset of x ∘ number, or number ∘ x if `first`."""
    one, none = np.ones(1), np.zeros(1)
    match kind:
        case Kind.ADD:
            return one, number
        case Kind.SUB:
            return (-one, number) if first else (one, -number)
        case Kind.MUL:
            return number, none
        case Kind.DIV if not first and number.all():
            return 1 / number, none
        case _:
            return None
