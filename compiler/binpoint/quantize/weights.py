"""Constant operands of float ops: which are weights, what codes they may have, others for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Node, Value
from binpoint.ir.op import FloatOp, Role
from binpoint.numeric.digits import grid, nearest
from binpoint.numeric.fixed import FixedType


def replace_operand(
    graph: Graph, node: Node, index: int, array: NDArray[Any], kind: FixedType | None
) -> None:
    """Let a node read a new constant, real or, with `kind`, of codes."""
    node = graph.node(node.name)
    old = node.inputs[index]
    new = GraphBuilder(graph, old, node.origin).constant(array, fixed=kind, hint=old)
    inputs = tuple(new.name if i == index else n for i, n in enumerate(node.inputs))
    graph.replace(replace(node, inputs=inputs))


def few_codes(bits: int, terms: int | None) -> NDArray[np.int64] | None:
    """The symmetric codes that are sums of at most `terms` signed powers of two; None for all."""
    return None if terms is None else grid(terms, _most(bits))


def symmetric_codes(numbers: NDArray[Any], bits: int, terms: int | None) -> NDArray[np.int64]:
    """The nearest codes of `bits`, of those of `few_codes`, of numbers in steps."""
    few = few_codes(bits, terms)
    if few is not None:
        return nearest(numbers, few)
    return np.clip(np.rint(numbers), -_most(bits), _most(bits)).astype(np.int64)


def _most(bits: int) -> int:
    return (1 << (bits - 1)) - 1


def open_weights(graph: Graph, node: Node) -> tuple[int, ...]:
    """Which operands of a node are weights that are to be quantized."""
    assert isinstance(node.op, FloatOp)
    pairs = zip(graph.arguments(node), node.op.roles(len(node.inputs)), strict=True)
    return tuple(
        index
        for index, (value, role) in enumerate(pairs)
        if role is Role.WEIGHT and value.fixed is None and value.constant is not None
    )


def real_bias(value: Value) -> NDArray[np.float64]:
    """A constant bias as real numbers."""
    assert value.constant is not None
    if value.fixed is None:
        return value.constant.array.astype(np.float64)
    return value.fixed.dequantize(value.constant.array)
