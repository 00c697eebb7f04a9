"""reparameterize-norms: channels of layer norms' results, and of bridges, brought to one range."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from binpoint.frontend.edit import drop_unread
from binpoint.frontend.linear import Linear, linear_of, set_real
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Graph, Node
from binpoint.ops.conv import Conv
from binpoint.ops.dense import Dense
from binpoint.ops.layernorm import LayerNorm
from binpoint.ops.shape import Reshape, Transpose
from binpoint.ops.slices import Take
from binpoint.options import CompileOptions
from binpoint.passes.base import Context, Effect, Pass, Stage
from binpoint.passes.samples import Samples
from binpoint.quantize.assign_types import AssignTypes
from binpoint.quantize.choose_type import activation_type, weight_bits, weight_type
from binpoint.quantize.observe import Range
from binpoint.quantize.outputs import Outputs
from binpoint.quantize.residual_widths import ResidualWidths
from binpoint.quantize.simulate import Simulation

_log = logging.getLogger(__name__)
_Floats = NDArray[np.float64]
_POWERS = (0.25, 0.5, 0.75, 1.0)
_WORTHWHILE = 0.98
_LEAST = 2.0**-8
"""Of the mean range: a channel that hardly moves is not blown up further."""

_CODES = 2**8
_MOST_STEPS = 80
"""Of these in a deviation: where there are more the samples are too alike, and others are not."""


@dataclass(frozen=True, slots=True)
class ReparameterizeNorms(Pass):
    """Move scales and offsets of channels from a layer norm into the products behind it.

    1. A layer norm over the last axis whose result only matrix products with real weights read,
       perhaps through ops that move channels as a whole (Reshape, Transpose, Take). Or a bridge of
       a hybrid network, a convolution whose result a matrix product reads so, or a matrix product
       whose result a convolution of one tap reads: Q-HyViT has a scale for each channel there
       (Lee et al. 2023).
    2. The result's channel c becomes (y − b)/r: gamma/r and (beta − b)/r before, or rows and bias
       of a product in the same way, W·diag(r) and bias + W·b behind, so that the products are the
       same numbers. r is the range of the channel over the mean range, to a power of at most 1, and
       b its centre, or zero. With the power 1 and centres it is RepQ-ViT's (Li et al. 2023,
       equations 8 to 11): one scale and zero point for all channels without loss.
    3. The products are computed on rows of the samples, with operand and weights rounded as
       `assign-types` will round them. Of these moves the one with the least error is made, if that
       is less by a fiftieth at least than without: weights have one step per output channel, and
       lose what the operand gains where the ranges of channels are far apart. A move is left out
       after which one deviation of a channel, of which gamma tells, would take more than 80 of 256
       codes: few samples, or such as are alike, show less of a channel than others need.
    4. The moves stay if, with the types that `assign-types` then gives, the outputs over the
       samples have less error than without them: errors of products may add up there, or cancel.

    Does nothing where the option `equalize` is off or there are no samples. `samples` and `rows`
    are how many of them are used at most.
    """

    name: ClassVar[str] = "reparameterize-norms"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    samples: int = 64
    rows: int = 4096

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        found = {n.name: readers for n in graph.nodes() if (readers := _products(graph, n))}
        options, samples = context.options, context.samples
        if not (found and options.equalize and samples is not None and samples.count):
            return graph
        spread = samples.spread(self.samples)
        seen, moved = self._observed(graph, tuple(found), spread), graph.copy()
        count = sum(
            _fold(moved, moved.node(name), readers, seen[name], options)
            for name, readers in found.items()
        )
        outputs = Outputs(graph, spread)
        power = sum(outputs.powers)
        if not (count and power):
            return graph
        before, after = (sum(outputs.errors(_typed(g, context))) / power for g in (graph, moved))
        made = moved if after < before else graph
        norms = sum(isinstance(graph.node(name).op, LayerNorm) for name in found)
        sources = {"norms": norms, "bridges": len(found) - norms}
        figures = {**sources, "moved": count if made is moved else 0}
        errors = {"error_before": before, "error_after": min(before, after)}
        shown = {key: float(f"{error:.4g}") for key, error in errors.items()}
        made.figures = {**made.figures, self.name: {**figures, **shown}}
        return made

    def _observed(
        self, graph: Graph, norms: Sequence[str], samples: Samples
    ) -> Mapping[str, _Rows]:
        """What each norm gives for the samples."""
        results = {graph.node(n).outputs[0]: n for n in norms}
        found: dict[str, list[_Floats]] = {n: [] for n in norms}
        simulation = Simulation(graph, rounded=False)
        for inputs in samples.inputs():
            for name, array in simulation.outputs(inputs, frozenset(results)).items():
                rows: _Floats = array.reshape(-1, array.shape[-1]).astype(np.float64)
                found[results[name]].append(rows)
        return {n: _Rows.of(np.concatenate(parts), self.rows) for n, parts in found.items()}


def _typed(graph: Graph, context: Context) -> Graph:
    """The graph with types, residual sums as wide as they may become."""
    options = context.options
    residuals = "narrow" if options.residuals == "narrow" else "wide"
    plain = msgspec.structs.replace(options, residuals=residuals)
    context = replace(context, options=plain)
    return AssignTypes().run(ResidualWidths().run(graph.copy(), context), context)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows ``[N, C]`` of a value, and the ends of each channel over all rows that were seen."""

    rows: _Floats
    lo: _Floats
    hi: _Floats

    @classmethod
    def of(cls, rows: _Floats, most: int) -> _Rows:
        """At most so many rows, evenly spread."""
        chosen = np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(np.int64)
        return cls(rows[chosen], rows.min(axis=0), rows.max(axis=0))

    def moved(self, move: _Move) -> _Rows:
        """The channels as (y − b)/r."""
        return _Rows(
            *((part - move.offsets) / move.factors for part in (self.rows, self.lo, self.hi))
        )

    @property
    def range(self) -> Range:
        """Of all channels, zero among it."""
        return Range(min(0.0, float(self.lo.min())), max(0.0, float(self.hi.max())))


@dataclass(frozen=True, slots=True)
class _Move:
    """Factor r and offset b of each channel."""

    factors: _Floats
    offsets: _Floats


def _products(graph: Graph, node: Node) -> tuple[str, ...]:
    """The products that are the only readers of a layer norm or a bridge, if rule 1 holds."""
    source = _source(graph, node)
    if source is None:
        return ()
    found: dict[str, None] = {}
    todo = [(node.outputs[0], len(graph.value(node.outputs[0]).shape) - 1)]
    while todo:
        name, axis = todo.pop()
        readers = graph.consumers(name)
        if graph.value(name).fixed is not None or name in graph.outputs or not readers:
            return ()
        for reader in readers:
            moved = _moved(graph, reader, axis)
            if moved is not None:
                todo.extend((result, moved) for result in reader.outputs)
            elif _is_product(graph, reader, name, axis):
                found[reader.name] = None
            else:
                _log.debug("%s not reparameterized: `%s` reads it", node.name, reader.name)
                return ()
    crosses = isinstance(source, LayerNorm) or any(
        isinstance(graph.node(name).op, Conv) is not isinstance(source, Conv) for name in found
    )
    return tuple(sorted(found)) if crosses else ()


def _source(graph: Graph, node: Node) -> LayerNorm | Conv | Dense | None:
    """The op of a node whose channels, the last axis, may be moved by its own constants."""
    if isinstance(node.op, LayerNorm):
        whole = node.op.axis == len(graph.value(node.outputs[0]).shape) - 1
        parameters = graph.arguments(node)[1:]
        return node.op if whole and all(v.constant is not None for v in parameters) else None
    linear = linear_of(graph, node)
    real = linear is not None and linear.real
    return node.op if real and isinstance(node.op, Conv | Dense) else None


def _moved(graph: Graph, node: Node, axis: int) -> int | None:
    """The axis of the channels behind an op that moves them as a whole, None behind others."""
    shape = graph.value(node.inputs[0]).shape
    match node.op:
        case Reshape(target):
            before = math.prod(shape[:axis])
            places = (i for i, n in enumerate(target) if n == shape[axis])
            return next((i for i in places if math.prod(target[:i]) == before), None)
        case Transpose(order):
            return order.index(axis)
        case Take(maps):
            return axis if tuple(maps[axis]) == tuple(range(shape[axis])) else None
        case _:
            return None


def _is_product(graph: Graph, node: Node, name: str, axis: int) -> bool:
    """Whether a node multiplies each row of channels with one real matrix."""
    linear = linear_of(graph, node)
    if linear is None or not linear.real or linear.x.name != name:
        return False
    if axis != len(linear.x.shape) - 1:
        return False
    match linear.op:
        case Dense():
            return True
        case Conv(groups=groups):
            one = linear.weights.type.size == linear.channels * linear.x.shape[-1]
            return groups == 1 and one and not linear.padded
        case _:
            return False


def _fold(
    graph: Graph, source: Node, readers: Sequence[str], seen: _Rows, options: CompileOptions
) -> bool:
    """Rules 2 and 3; whether there is such a move."""
    products = [p for name in readers if (p := linear_of(graph, graph.node(name)))]
    nothing = _Move(np.ones_like(seen.lo), np.zeros_like(seen.lo))
    error = _error(products, seen, nothing, options)
    best, chosen = error * _WORTHWHILE, None
    deviations = _deviations(graph, source, seen)
    for move in _candidates(seen):
        if _codes(deviations, seen, move) > _MOST_STEPS:
            continue
        found = _error(products, seen, move, options)
        if found < best:
            best, chosen = found, move
    if chosen is None:
        return False
    _log.debug("reparameterized: `%s`, error %.3g to %.3g", source.name, error, best)
    _divide(graph, source, chosen)
    for product in products:
        moved = product.matrix * chosen.factors
        added = _matrix(product) @ chosen.offsets * _scale(product)
        set_real(graph, product, product.x, moved, product.offsets + added)
    return True


def _divide(graph: Graph, source: Node, move: _Move) -> None:
    """Let a norm or a linear op give (y − b)/r."""
    linear = linear_of(graph, source)
    if linear is not None:
        rows = linear.matrix / move.factors.reshape(-1, *(1,) * (len(linear.weights.shape) - 1))
        offsets = (linear.offsets - move.offsets) / move.factors
        set_real(graph, linear, linear.x, rows, offsets)
        return
    gamma, beta = (constant_array(v).astype(np.float64) for v in graph.arguments(source)[1:])
    build = GraphBuilder(graph, source.name, source.origin)
    new = [
        build.constant(array.astype(np.float32), hint=name).name
        for array, name in (
            (gamma / move.factors, source.inputs[1]),
            ((beta - move.offsets) / move.factors, source.inputs[2]),
        )
    ]
    graph.replace(replace(source, inputs=(source.inputs[0], *new)))
    drop_unread(graph, *source.inputs[1:])


def _candidates(seen: _Rows) -> Iterator[_Move]:
    """Centred ones first: of two with equal errors they change more."""
    middle = (seen.lo + seen.hi) / 2
    for offsets in (middle, np.zeros_like(middle)):
        reach = np.maximum(seen.hi - offsets, offsets - seen.lo)
        if not reach.any():
            return
        share = np.maximum(reach / reach.mean(), _LEAST)
        for power in (0.0, *_POWERS):
            yield _Move(share**power, offsets)


def _deviations(graph: Graph, source: Node, seen: _Rows) -> _Floats:
    """What a row deviates in each channel by the constants of its source: gamma of a norm.

    By the weights of a linear op, whose operand is such that the samples deviate as much in mean.
    """
    linear = linear_of(graph, source)
    if linear is None:
        return np.abs(constant_array(graph.arguments(source)[1]).astype(np.float64))
    lengths = np.sqrt(np.square(_matrix(linear)).sum(axis=1))
    return lengths * (seen.rows.std(axis=0).mean() / (lengths.mean() or 1.0))


def _codes(deviations: _Floats, seen: _Rows, move: _Move) -> float:
    """Codes of the moved result that one deviation of a row takes in the channel of most, about."""
    reach = seen.moved(move).range
    return _CODES * float((deviations / move.factors).max()) / ((reach.hi - reach.lo) or 1.0)


def _error(products: Sequence[Linear], seen: _Rows, move: _Move, options: CompileOptions) -> float:
    """Of the products, their channels' mean left out: power of the error over that of the result.

    The mean goes into biases, where it costs nothing.
    """
    x = seen.moved(move)
    power_of_two = options.scales == "power-of-two"
    kind = activation_type(
        x.range,
        symmetric=options.activations == "symmetric",
        power_of_two=power_of_two,
        bits=options.activation_bits,
    )
    coded, total = kind.dequantize(kind.quantize(x.rows)), 0.0
    for product in products:
        matrix = _matrix(product) * move.factors
        bits = weight_bits(product.node, options)
        form = weight_type(matrix, None, 1.0, power_of_two=power_of_two, bits=bits)
        most = form.storage.max
        codes = np.clip(form.quantize(matrix), -most, most)
        wanted = x.rows @ matrix.T
        error = coded @ form.dequantize(codes).T - wanted
        power = float(wanted.var(axis=0).mean())
        total += float(error.var(axis=0).mean()) / power if power > 0 else 0.0
    return total


def _matrix(product: Linear) -> _Floats:
    """The weights ``[O, C]``."""
    return product.matrix.reshape(product.channels, -1)


def _scale(product: Linear) -> float:
    """What a product is multiplied by before its bias."""
    return product.op.alpha if isinstance(product.op, Dense) else 1.0
