"""type-accumulators: exact 32-bit types for the sums of a model with quantizers of any width."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from binpoint.errors import MissingSamples, NoIntegerForm, QuantizationError
from binpoint.frontend.rational import follow
from binpoint.ir.graph import Graph, Node, Value
from binpoint.ir.op import FloatOp
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I16, I32, FixedType
from binpoint.ops.composite import Composite
from binpoint.ops.conv import Conv
from binpoint.ops.conv_transpose import ConvTranspose
from binpoint.ops.dense import Dense, MatMul
from binpoint.ops.elementwise import Binary, Kind
from binpoint.ops.methods import Method
from binpoint.ops.rational import Rational, rounding
from binpoint.ops.rational_sum import RationalSum
from binpoint.ops.rational_table import RationalTable
from binpoint.ops.reduce import Reduce
from binpoint.ops.rescale import accumulator
from binpoint.ops.softmax import Softmax
from binpoint.ops.unary import Unary
from binpoint.passes.base import Context, Effect, Pass, Stage
from binpoint.quantize.channel_scales import fold_channel_scales
from binpoint.quantize.groups import activations
from binpoint.quantize.inputs import absorbed
from binpoint.quantize.observe import observe
from binpoint.quantize.readings import before_moves, read_output

_HEADROOM = 2
_HINT = "quantize it: Quant in QONNX, QuantIdentity or return_quant_tensor in Brevitas"


@dataclass(frozen=True, slots=True)
class TypeAccumulators(Pass):
    """Give sums, and the borders of the graph, their exact types.

    For models with quantizers of any width (`Graph.rational`).

    1. An input that one quantizer reads takes the quantizer's codes, if the function in between
       keeps their grid; then nothing is computed. Any other input, and one that several quantizers
       read, is a 16-bit number with a binary point, from samples.
    2. A sum of products, of quantized values or over axes has 32 bits and the exact scale.
    3. A sum of two scales without common unit in 32 bits, and a function without exact steps, are
       one op with the quantizer that reads them.
    4. Scales per channel of activations move into the weights that read them.
    5. An output without quantizer is the integer sum, with the bias in it; its exact meaning
       is in `Value.reading` where the type does not tell it.
    6. A value without type that is multiplied or summed is an error.
    """

    name: ClassVar[str] = "type-accumulators"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.CHANGES_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        if not graph.rational:
            return graph
        fold_channel_scales(graph)
        for name in graph.outputs:
            _part(graph, name)
        for name in graph.inputs:
            if graph.value(name).fixed is None:
                _type_input(graph, graph.value(name), context)
        for node in graph.nodes():
            joined = graph.has_node(node.name) and _join(graph, node)
            if graph.has_node(node.name) and not joined:
                _type_results(graph, graph.node(node.name))
        for name in graph.outputs:
            if graph.value(name).fixed is None:
                read_output(graph, name)
        return graph


def _part(graph: Graph, name: str) -> None:
    """Keep an output apart from the sum that it is, so that its channels can get one unit."""
    _, node = before_moves(graph, name)
    if node is None or not isinstance(node.op, Conv | Dense | ConvTranspose):
        return
    kind = graph.arguments(node)[1].fixed
    if graph.value(name).fixed is None and kind is not None and kind.axis is not None:
        follow(graph, node, ())


# ---- inputs


def _type_input(graph: Graph, value: Value, context: Context) -> None:
    readers = {node.op for node in graph.consumers(value.name)}
    quantizing = [op for op in readers if isinstance(op, Rational) and op.quantizer is not None]
    kinds = {absorbed(op) for op in quantizing}
    if len(kinds - {None}) > 1:
        raise QuantizationError(
            f"two quantizers disagree on the input `{value.source}`",
            have=" and ".join(sorted(str(k) for k in kinds)),
            want="one type for an input",
            hint="let one quantizer follow the input, and the others follow that one",
        )
    if any(op.quantizer is not None and op.quantizer.type.axis is not None for op in quantizing):
        raise NoIntegerForm(
            f"the input `{value.source}` is quantized with a scale per channel",
            hint="quantize activations per tensor; weights may have a scale per output channel",
        )
    if len(readers) == 1 and quantizing and value.name not in graph.outputs:
        (kind,) = kinds
        if kind is not None:
            graph.set_value(replace(value, fixed=kind))
            return
    if context.samples is None or context.samples.count == 0:
        raise MissingSamples(
            f"the input `{value.source}` has no quantizer whose codes it could take",
            at=value.source,
            want="sample inputs, which show its range",
            hint=f"or {_HINT} right after the input",
        )
    seen = observe(graph, [value.name], context.samples, bins=False)[value.name].range
    reach = max(-seen.lo, seen.hi) * _HEADROOM or 1.0
    exponent = math.ceil(math.log2(reach)) - (I16.width - 1)
    kind = FixedType.per_tensor(I16, Dyadic(1, exponent))
    graph.set_value(replace(value, fixed=kind))


# ---- sums


def _type_results(graph: Graph, node: Node) -> None:
    assert isinstance(node.op, FloatOp)
    (*_, result) = graph.results(node)
    if result.fixed is not None:
        return
    kind = _kind(graph, node)
    if kind is not None:
        graph.set_value(replace(result, fixed=kind))


def _kind(graph: Graph, node: Node) -> FixedType | None:
    operands = graph.arguments(node)
    match node.op:
        case Conv() | Dense() | ConvTranspose():
            x, weights = _typed(graph, node, operands[0]), _typed(graph, node, operands[1])
            scales = [x.scale * scale for scale in weights.scales]
            return accumulator(scales, len(graph.results(node)[0].shape))
        case MatMul() | Binary(kind=Kind.MUL):
            a, b = (_typed(graph, node, v) for v in operands)
            return FixedType.per_tensor(I32, a.scale * b.scale)
        case Reduce(mean=False):
            return FixedType.per_tensor(I32, _typed(graph, node, operands[0]).scale)
        case Binary():
            return _sum(node, *(_typed(graph, node, v) for v in operands))
        case FloatOp(keeps_type=True):
            return _moved(graph, node)
        case _:
            return None


def _moved(graph: Graph, node: Node) -> FixedType | None:
    kinds = {v.fixed for v in activations(graph, node) if v.constant is None}
    if len(kinds) > 1:
        raise NoIntegerForm(
            "values of different types meet",
            at=_place(node),
            have=", ".join(sorted(str(k) for k in kinds)),
            hint="give all of them the same quantizer",
        )
    kind = kinds.pop()
    if kind is not None and kind.axis is not None:
        raise NoIntegerForm("values with a scale per channel are moved", at=_place(node))
    return kind


def _join(graph: Graph, node: Node) -> bool:
    """Let one op compute what has no exact type together with the quantizer that reads it."""
    result = graph.results(node)[0]
    reader = graph.sole_consumer(result.name)
    if result.fixed is not None or reader is None or not isinstance(reader.op, Rational):
        return False
    op = _joined(graph, node, reader.op)
    if op is None:
        return False
    (final,) = graph.results(reader)
    graph.remove(node.name)
    graph.remove(reader.name)
    graph.drop_value(result.name)
    joined = Node(node.name, op, node.inputs, (final.name,), node.origin + reader.origin)
    graph.set_producer(joined)
    return True


def _joined(graph: Graph, node: Node, last: Rational) -> FloatOp | None:
    """A sum of scales without common unit, or a function without exact steps, quantized at once.

    Shares of a softmax are rounded to the quantizer's codes and to nothing before.
    """
    if last.quantizer is None:
        return None
    match node.op:
        case Binary(kind=Kind.ADD | Kind.SUB as kind):
            a, b = (_typed(graph, node, v) for v in graph.arguments(node))
            if _common_unit(a, b) is None:
                return RationalSum(last.steps, last.quantizer, kind is Kind.SUB)
        case Unary() | Composite() if last.channels == 1 and last.quantizer.type.axis is None:
            if graph.arguments(node)[0].fixed is not None:
                return RationalTable(node.op, last)
        case Softmax(method=Method.TABLE) if _takes_all(last):
            return node.op
        case _:
            pass
    return None


def _takes_all(last: Rational) -> bool:
    """Whether a quantizer of shares only rounds to codes of its type, up to the largest."""
    quantizer = last.quantizer
    if quantizer is None or quantizer.type.axis is not None:
        return False
    kind = quantizer.type
    return (
        last.steps == rounding(quantizer)
        and quantizer.hi == kind.storage.max
        and quantizer.lo <= kind.zero_points[0]
    )


def _sum(node: Node, a: FixedType, b: FixedType) -> FixedType:
    """The type of an exact sum."""
    unit = _common_unit(a, b)
    if unit is None:
        raise NoIntegerForm(
            "a sum of values whose scales have no common unit in 32 bits",
            at=_place(node),
            have=f"{a} and {b}",
            hint="give both operands the same quantizer, or quantize the sum",
        )
    return FixedType.per_tensor(I32, unit)


def _common_unit(a: FixedType, b: FixedType) -> Dyadic | None:
    """The largest scale of which both are multiples, if 32 bits hold the sum in it."""
    exponent = min(a.scale.exponent, b.scale.exponent)
    parts = [k.scale.multiplier << (k.scale.exponent - exponent) for k in (a, b)]
    unit = math.gcd(*parts)
    reach = sum(p // unit << k.storage.width for p, k in zip(parts, (a, b), strict=True))
    return Dyadic.of(unit, exponent) if reach < 1 << (I32.width - 1) else None


def _typed(graph: Graph, node: Node, value: Value) -> FixedType:
    """The type of an operand of a sum; refuses where it has none, or one per channel for data."""
    kind = value.fixed
    if kind is None:
        first = graph.producer(value.name)
        raise QuantizationError(
            f"`{value.source or value.name}` is not quantized, and `{_place(node)}` needs integers",
            at=_place(first) if first is not None else value.source or value.name,
            have="real numbers",
            hint=_HINT,
        )
    if kind.axis is not None and value.constant is None:
        raise NoIntegerForm(
            "an activation with a scale per channel", at=_place(node), have=str(kind),
            hint="quantize activations per tensor; weights may have a scale per output channel",
        )  # fmt: skip
    return kind


def _place(node: Node) -> str:
    return ", ".join(node.origin.names) or node.name
