"""split-projections: a layer that is read in parts becomes a layer for each of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from binpoint.frontend.absorb import narrowed
from binpoint.frontend.edit import drop_unread
from binpoint.frontend.linear import Linear, linear_of
from binpoint.frontend.ties import Index, is_mixing
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Node, Value
from binpoint.ir.op import FloatArray
from binpoint.numeric.fixed import FixedType
from binpoint.ops.conv_transpose import ConvTranspose
from binpoint.ops.shape import Reshape, reshape_value
from binpoint.ops.slices import Take
from binpoint.passes.base import Context, Effect, Pass, Stage

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Part:
    """A reading of some channels: the node that takes them, their numbers, the type of both."""

    node: Node
    rows: Index
    fixed: FixedType | None


@dataclass(frozen=True, slots=True)
class SplitProjections(Pass):
    """Let each part of a layer's result have a layer of its own; channels lie on the last axis.

    Exporters write the projections to queries, keys and values of attention as one layer and three
    slices, the halves of a gated unit as one and two. Apart, each has the range of its own numbers,
    what follows one alone can go into its weights, and it lives as long as it is needed itself.

    1. A Dense or Conv that mixes all channels, of which Takes, behind a Reshape or not, take some
       channels of every position each, and no channel twice, becomes one for each Take, with these
       rows of the weights.

    No value in between may have a type that the others have not: that is two roundings.
    """

    name: ClassVar[str] = "split-projections"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        for name in [node.name for node in graph.nodes()]:
            if not graph.has_node(name):
                continue
            node = graph.node(name)
            linear = linear_of(graph, node) if is_mixing(graph, node) else None
            if linear is not None and not isinstance(linear.op, ConvTranspose):
                _visit(graph, linear)
        return graph


def _visit(graph: Graph, linear: Linear) -> None:
    (whole,) = graph.results(linear.node)
    places = np.arange(whole.type.size, dtype=np.float64)
    parts = _parts(graph, whole, places, whole.fixed, linear.channels)
    if parts is None or len(parts) < 2:
        return
    taken = np.concatenate([part.rows for part in parts])
    if np.unique(taken).size < taken.size:
        _log.debug("%s stays whole: its parts overlap", linear.node.name)
        return
    for part in parts:
        _split(graph, linear, part)
    drop_unread(graph, *(part.node.inputs[0] for part in parts))


def _parts(
    graph: Graph, value: Value, places: FloatArray, fixed: FixedType | None, count: int
) -> list[_Part] | None:
    """All readings of `value`, whose elements are those at `places` of a layer's result.

    None if something else reads it, or takes anything but some of the `count` channels.
    """
    if value.name in graph.outputs:
        return None
    found: list[_Part] = []
    for node in graph.consumers(value.name):
        if not isinstance(node.op, Take | Reshape):
            return None
        (result,) = graph.results(node)
        if None not in (fixed, result.fixed) and result.fixed != fixed:
            return None
        kind = fixed or result.fixed
        (moved,) = node.op.reference(places.reshape(value.shape))
        if isinstance(node.op, Reshape):
            further = _parts(graph, result, moved, kind, count)
        else:
            rows = _rows(moved, places.size // count, count)
            further = None if rows is None else [_Part(node, rows, kind)]
        if further is None:
            return None
        found.extend(further)
    return found


def _rows(places: FloatArray, positions: int, count: int) -> Index | None:
    """The channels taken, if they are the same of all positions in order."""
    if places.size % positions:
        return None
    position, channel = np.divmod(places.reshape(positions, -1).astype(np.int64), count)
    same = (position == np.arange(positions)[:, None]).all() and (channel == channel[0]).all()
    return channel[0] if same else None


def _split(graph: Graph, linear: Linear, part: _Part) -> None:
    """Put a layer of its own in place of the node that takes a part."""
    columns = np.arange(linear.weights.shape[-1])
    constants = narrowed(graph, linear, part.rows, columns, np.zeros(columns.size))
    build = GraphBuilder(graph, part.node.name, linear.node.origin + part.node.origin)
    (old,) = graph.results(part.node)
    made = build.one(linear.op, linear.x, *(graph.value(name) for name in constants))
    graph.set_value(replace(made, fixed=part.fixed))
    last = reshape_value(build, graph.value(made.name), old.shape)
    graph.set_value(replace(last, fixed=part.fixed, source=old.source))
    graph.bypass(part.node, last.name)
