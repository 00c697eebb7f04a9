"""Which layout a tensor had before its producer brought it to channel-first order.

Operators without a layout of their own (reductions) are imported channel-last where their operand
comes from a channel-last op, so that the transpositions on both sides cancel.
"""

from __future__ import annotations

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ops.shape import Transpose


def channel_first(rank: int) -> tuple[int, ...]:
    """The order that brings channel-last axes to channel-first."""
    return (0, rank - 1, *range(1, rank - 1))


def is_channel_last(build: GraphBuilder, x: Value) -> bool:
    """Whether `x` is a channel-last tensor transposed, perhaps with elementwise ops in between."""
    if len(x.shape) < 3:
        return False
    name = x.name
    while (node := build.graph.producer(name)) is not None:
        if isinstance(node.op, Transpose):
            return node.op.order == channel_first(len(x.shape))
        same = [
            v.name for v in build.graph.arguments(node) if v.constant is None and v.shape == x.shape
        ]
        if not same:
            return False
        name = same[0]
    return False
