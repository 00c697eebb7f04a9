"""The option `weight_rounding`: weights of convolutions and matrix products, rounded together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.graph import Graph, Node
from binpoint.ops.conv import Conv
from binpoint.ops.dense import Dense
from binpoint.options import CompileOptions
from binpoint.quantize.compensate import POSITIONS, Moments, compensated_codes, operands, total
from binpoint.quantize.weights import open_weights, replace_operand, symmetric_codes


def refit_weights(
    graph: Graph,
    typed: Graph,
    node: Node,
    columns: tuple[Sequence[NDArray[Any]], Sequence[NDArray[Any]]],
    options: CompileOptions,
) -> None:
    """Round the weights of a node anew, at the scales that they have.

    Args:
        graph: real.
        typed: made from it; its constant is replaced.
        node: of `graph`; only convolutions and products with real weights are touched.
        columns: what the node reads in each sample: real, and rounded.
        options: tell which codes there are.
    """
    if not isinstance(node.op, Conv | Dense) or 1 not in open_weights(graph, node):
        return
    twin = typed.node(node.name)
    weights, value = graph.value(node.inputs[1]).constant, typed.value(twin.inputs[1])
    assert weights is not None
    assert value.fixed is not None
    rows = weights.array.reshape(len(weights.array), -1).astype(np.float64)
    steps = np.broadcast_to([float(s) for s in value.fixed.scales], (len(rows),))
    moments = total([_moments(node, *pair) for pair in zip(*columns, strict=True)])
    bits = value.fixed.storage.width

    def nearest(real: NDArray[np.float64]) -> NDArray[np.float64]:
        return symmetric_codes(real, bits, options.weight_terms).astype(np.float64)

    codes = compensated_codes(rows, moments, steps, nearest).reshape(weights.array.shape)
    replace_operand(typed, twin, 1, codes.astype(value.fixed.storage.dtype), value.fixed)


def _moments(node: Node, old: NDArray[Any], new: NDArray[Any]) -> Moments:
    window, groups = (node.op.window, node.op.groups) if isinstance(node.op, Conv) else (None, 1)
    outputs = old.shape[:-1] if window is None else window.outputs(old.shape[1:-1])
    mask = np.ones(outputs, bool)
    found = [operands(x.astype(np.float64), mask, POSITIONS, window, groups) for x in (old, new)]
    return Moments.of(found[0], found[1])
