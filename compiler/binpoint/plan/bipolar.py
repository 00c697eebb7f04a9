"""Values of -1 and 1 only, carried as one bit: those read by nothing but sums with such weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from binpoint.ir.graph import Graph, Node, Value
from binpoint.ops.conv import IntConv, IntDepthwise
from binpoint.ops.copy import IntReshape
from binpoint.ops.dense import IntDense
from binpoint.ops.thresholds import IntThresholds
from binpoint.plan.fuse import Step


def bipolar_values(graph: Graph, steps: Sequence[Step]) -> frozenset[str]:
    """Names of the values that are carried as one bit, with those that are only other shapes."""
    found: set[str] = set()
    for step in steps:
        op = step.nodes[-1].op
        if not (isinstance(op, IntThresholds) and op.bipolar):
            continue
        names = _shapes_of(graph, step.writes[0])
        if not names & set(graph.outputs) and all(_only_sums(graph, name) for name in names):
            found |= names
    return frozenset(found)


def _shapes_of(graph: Graph, value: str) -> set[str]:
    """The value, and what is the same in another shape."""
    names = {value}
    for reader in graph.consumers(value):
        if isinstance(reader.op, IntReshape):
            names |= _shapes_of(graph, reader.outputs[0])
    return names


def _only_sums(graph: Graph, value: str) -> bool:
    return all(_sums_signs(graph, n) for n in graph.consumers(value))


def _sums_signs(graph: Graph, node: Node) -> bool:
    """Whether a node adds and subtracts its operand, without padding it."""
    match node.op:
        case IntReshape():
            return True
        case IntDepthwise():
            return False
        case IntConv(window=window, zero=zero):
            return not window.padded and zero == 0 and _signs(graph.arguments(node)[1])
        case IntDense():
            return _signs(graph.arguments(node)[1])
        case _:
            return False


def _signs(weights: Value) -> bool:
    assert weights.constant is not None
    return set(np.unique(weights.constant.array).tolist()) <= {-1, 1}
