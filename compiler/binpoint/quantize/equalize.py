"""equalize: cross-layer equalization, the ranges of neighbouring layers' channels made alike."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Node
from binpoint.ops.conv import Conv
from binpoint.ops.dense import Dense
from binpoint.ops.shape import Reshape
from binpoint.ops.unary import Clip, Unary
from binpoint.passes.base import Context, Effect, Pass, Stage
from binpoint.passes.cleanup import remove_dead

_log = logging.getLogger(__name__)
_LARGEST = 16
"""Factors stay within 2^±16, so that float32 keeps every digit."""


@dataclass(frozen=True, slots=True)
class Equalize(Pass):
    """Move scale from one layer's output channels into the next layer's weights, and back.

    1. Pairs are linear ops with real weights, joined by a value that nobody else reads and by ops f
       with f(s·x) = s·f(x) per channel for s > 0: Relu, LeakyRelu, reshapes that keep the channels.
    2. With ranges r1 of a channel's weights before and r2 behind, the channel is divided by
       s = √(r1/r2) before and multiplied by it behind (Nagel et al. 2019, equation 11), rounded to
       a power of two, so that the float results are the same bits.
    3. Repeated until no factor changes, `rounds` times at most.

    Does nothing where the option `equalize` is off.
    """

    name: ClassVar[str] = "equalize"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    rounds: int = 8

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        if not context.options.equalize:
            return graph
        for _ in range(self.rounds):
            changes = [_even_out(graph, graph.node(a), graph.node(b)) for a, b in _pairs(graph)]
            if not any(changes):
                break
        return remove_dead(graph)


def _pairs(graph: Graph) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    for node in graph.nodes():
        if not _has_real_weights(graph, node):
            continue
        last = _reader(graph, node)
        if last is not None:
            found.append((node.name, last.name))
    return tuple(found)


def _reader(graph: Graph, node: Node) -> Node | None:
    """The linear op that alone reads a linear op's result, behind ops that scale through."""
    (name,) = node.outputs
    while graph.value(name).fixed is None:
        reader = graph.sole_consumer(name)
        if reader is None:
            _log.debug("not equalized: `%s` has several readers, or none", name)
            return None
        if _has_real_weights(graph, reader) and reader.inputs[0] == name:
            return reader
        if not _scales_through(graph, reader):
            _log.debug("not equalized: `%s` does not scale through", reader.name)
            return None
        (name,) = reader.outputs
    return None


def _scales_through(graph: Graph, node: Node) -> bool:
    match node.op:
        case Clip(low=low, high=None):
            return low in (None, 0.0)
        case Unary(kind=kind):
            return kind in ("LeakyRelu", "Abs", "Neg")
        case Reshape(shape=shape):
            return bool(shape) and shape[-1:] == graph.value(node.inputs[0]).shape[-1:]
        case _:
            return False


def _has_real_weights(graph: Graph, node: Node) -> bool:
    """Whether a node is linear with real weights and bias, in one group or one per channel."""
    if not isinstance(node.op, Conv | Dense):
        return False
    if any(v.constant is None or v.fixed is not None for v in graph.arguments(node)[1:]):
        return False
    return isinstance(node.op, Dense) or node.op.groups == 1 or _is_depthwise(graph, node)


def _is_depthwise(graph: Graph, node: Node) -> bool:
    channels = graph.value(node.inputs[0]).shape[-1]
    return isinstance(node.op, Conv) and node.op.groups == channels > 1


def _even_out(graph: Graph, first: Node, second: Node) -> bool:
    """Rescale the channels between two linear ops; whether any changed."""
    before, behind = _array(graph, first.inputs[1]), _array(graph, second.inputs[1])
    r1 = np.abs(before).reshape(before.shape[0], -1).max(axis=1)
    r2 = _input_ranges(behind, depthwise=_is_depthwise(graph, second), channels=before.shape[0])
    used = (r1 > 0) & (r2 > 0)
    ratio = np.divide(r1, r2, out=np.ones_like(r1), where=used)
    exponent = np.clip(np.rint(np.log2(ratio) / 2), -_LARGEST, _LARGEST).astype(np.int64)
    if not exponent.any():
        return False
    _scale_rows(graph, first, -exponent)
    if _is_depthwise(graph, second):
        each = np.repeat(exponent, behind.shape[0] // exponent.size)
        _set(graph, second, 1, np.ldexp(behind, each.reshape(-1, *[1] * (behind.ndim - 1))))
    else:
        _set(graph, second, 1, np.ldexp(behind, exponent))
    return True


def _input_ranges(weights: NDArray[Any], *, depthwise: bool, channels: int) -> NDArray[Any]:
    """The largest weight that each input channel meets."""
    if depthwise:
        return np.abs(weights).reshape(channels, -1).max(axis=1)
    return np.abs(weights).reshape(-1, channels).max(axis=0)


def _scale_rows(graph: Graph, node: Node, exponent: NDArray[np.int64]) -> None:
    weights = _array(graph, node.inputs[1])
    _set(graph, node, 1, np.ldexp(weights, exponent.reshape(-1, *[1] * (weights.ndim - 1))))
    if len(node.inputs) > 2:
        _set(graph, node, 2, np.ldexp(_array(graph, node.inputs[2]), exponent))


def _array(graph: Graph, name: str) -> NDArray[Any]:
    constant = graph.value(name).constant
    assert constant is not None
    return constant.array


def _set(graph: Graph, node: Node, index: int, array: NDArray[Any]) -> None:
    """Give a node a new constant; other readers of the old one keep theirs."""
    current = graph.node(node.name)
    old = graph.value(current.inputs[index])
    new = GraphBuilder(graph, node.name, node.origin).constant(array, hint=old.name)
    inputs = tuple(new.name if i == index else n for i, n in enumerate(current.inputs))
    graph.replace(replace(current, inputs=inputs))
