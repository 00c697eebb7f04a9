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
from binpoint.ops.pool import AveragePool, MaxPool
from binpoint.ops.shape import Reshape
from binpoint.ops.unary import Clip, Unary
from binpoint.passes.base import Context, Effect, Pass, Stage
from binpoint.passes.cleanup import remove_dead
from binpoint.quantize.channels import Channels, observe_channels, rounding_cost

_log = logging.getLogger(__name__)
_LARGEST = 16
"""Factors stay within 2^±16, so that float32 keeps every digit."""

_WORTHWHILE = 0.8
_POWERS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Equalize(Pass):
    """Move scale from one layer's output channels into the next layer's weights, and back.

    1. Pairs are linear ops with real weights, joined by a value that nobody else reads and by ops
       f with f(s·x) = s·f(x) per channel for s > 0: Relu, LeakyRelu, pooling, reshapes that keep
       the channels.
    2. A channel is divided by s before and multiplied by it behind. With r1 the range of its
       weights before and r2 behind, s = √(r1/r2) (Nagel et al. 2019, equation 11); or, as weights
       have a scale per output channel already, s = (a/r2)^p with a the range of its values.
       Rounded to a power of two, so that the float results are the same bits.
    3. Of these the one is taken that leaves the least rounding error behind (`rounding_cost`), if
       that is less by a fifth at least. Repeated until nothing changes, `rounds` times at most.

    Does nothing where the option `equalize` is off or there are no samples. `samples` is how many
    are used at most.
    """

    name: ClassVar[str] = "equalize"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    rounds: int = 4
    samples: int = 32

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        pairs = _pairs(graph)
        if not (context.options.equalize and context.samples and context.samples.count and pairs):
            return graph
        names = {n for a, b in pairs for n in (*graph.node(a).outputs, *_ends(graph.node(b)))}
        seen = observe_channels(graph, names, context.samples.spread(self.samples))
        for _ in range(self.rounds):
            changes = [_even_out(graph, graph.node(a), graph.node(b), seen) for a, b in pairs]
            if not any(changes):
                break
        return remove_dead(graph)


def _ends(node: Node) -> tuple[str, str]:
    """Operand and result of a linear op."""
    return node.inputs[0], node.outputs[0]


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
        case MaxPool() | AveragePool():
            return True
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


def _even_out(graph: Graph, first: Node, second: Node, seen: dict[str, Channels]) -> bool:
    """Rescale the channels between two linear ops if it pays; whether it did."""
    before, behind = _array(graph, first.inputs[1]), _array(graph, second.inputs[1])
    depthwise = _is_depthwise(graph, second)
    operand, result = _ends(second)
    x, y = seen[operand], seen[result]
    cost = rounding_cost(behind, x, y, depthwise=depthwise)
    best, chosen = cost * _WORTHWHILE, None
    for exponent in _candidates(before, behind, x, depthwise=depthwise):
        scaled = _scaled_inputs(behind, exponent, depthwise=depthwise)
        found = rounding_cost(scaled, x.divided(np.exp2(exponent)), y, depthwise=depthwise)
        if found < best:
            best, chosen = found, exponent
    if chosen is None:
        return False
    _log.debug("equalized: `%s` and `%s`, error %.3g to %.3g", first.name, second.name, cost, best)
    factors = np.exp2(chosen)
    for name in {operand, *first.outputs}:
        seen[name] = seen[name].divided(factors)
    _scale_rows(graph, first, -chosen)
    _set(graph, second, 1, _scaled_inputs(behind, chosen, depthwise=depthwise))
    return True


def _candidates(
    before: NDArray[Any], behind: NDArray[Any], x: Channels, *, depthwise: bool
) -> tuple[NDArray[np.int64], ...]:
    """Exponents of two for each channel; zero where the channel or its readers are dead."""
    r1 = np.abs(before).reshape(before.shape[0], -1).max(axis=1).astype(np.float64)
    r2 = _input_ranges(behind, depthwise=depthwise, channels=before.shape[0]).astype(np.float64)
    wanted = [(r1, 0.5), *((x.reach, power) for power in _POWERS)]
    return tuple(_exponents(ranges, r2, power) for ranges, power in wanted)


def _exponents(ranges: NDArray[Any], behind: NDArray[Any], power: float) -> NDArray[np.int64]:
    used = (ranges > 0) & (behind > 0)
    ratio = np.divide(ranges, behind, out=np.ones_like(ranges), where=used)
    logs = np.log2(ratio) * power
    logs[used] -= np.median(logs[used]) if used.any() else 0.0
    return np.clip(np.rint(logs), -_LARGEST, _LARGEST).astype(np.int64)


def _scaled_inputs(
    weights: NDArray[Any], exponent: NDArray[np.int64], *, depthwise: bool
) -> NDArray[Any]:
    """Weights with each input channel multiplied by a power of two."""
    if not depthwise:
        return np.ldexp(weights, exponent)
    each = np.repeat(exponent, weights.shape[0] // exponent.size)
    return np.ldexp(weights, each.reshape(-1, *[1] * (weights.ndim - 1)))


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
