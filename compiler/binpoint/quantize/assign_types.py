"""assign-types: an integer type for every value that has none, from ranges over the samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np

from binpoint.errors import BadOption, MissingSamples, NoIntegerForm, RangeOverflow
from binpoint.ir.constant import Constant
from binpoint.ir.graph import Graph, Node, Value
from binpoint.ir.op import FloatOp, Role
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import FixedType
from binpoint.ops.elementwise import Binary
from binpoint.options import CompileOptions
from binpoint.passes.base import Context, Effect, Pass, Stage
from binpoint.passes.cleanup import remove_dead
from binpoint.passes.samples import Samples
from binpoint.quantize.choose_type import activation_type, narrowed, weight_bits, weight_type
from binpoint.quantize.correction import correct
from binpoint.quantize.groups import activations, find_groups, join_concats
from binpoint.quantize.masked import above_masks
from binpoint.quantize.observe import Method, Policy, Range, observe
from binpoint.quantize.outputs import Outputs
from binpoint.quantize.refit_weights import refit_weights
from binpoint.quantize.share_bias import Place, correct_shares, narrow, widen
from binpoint.quantize.weights import (
    few_codes,
    open_weights,
    real_bias,
    replace_operand,
    symmetric_codes,
)

_NAMED = 3
_PRODUCTS = 0.9
"""Of the error of a product with shares: above it they are not corrected of themselves."""
_WORTHWHILE = 0.98
"""The same of the outputs."""


@dataclass(frozen=True, slots=True)
class AssignTypes(Pass):
    """Give every value a type of 8 bits, or of as many as the option `activation_bits` gives.

    1. Types that are there stay; an op that prescribes its result's type (softmax) gives it, in
       larger steps where that has too many bits; where elements are merely moved or clamped, a type
       passes on to the result, and to an operand that nobody else reads. States of recurrent layers
       keep their 8 bits.
    2. What remains is grouped: operands and results of ops that move or clamp elements share one
       type. Its range is what the samples show of the members; one that only such ops read does not
       count, so that a convolution before a Relu is rounded straight into the clamped range. What a
       Concat joins keeps a type of its own if other ops read it too and its range is less than a
       quarter of the whole. Of scores that a softmax alone reads, what is so low that it has no
       share does not count: masks that are inputs add numbers like -10000.
    3. Constant operands that are no weights get the type of their group, or one of their own.
    4. Weights become codes of eight bits, or of those that the options `weight_bits` and
       `layer_bits` give, symmetric, one scale per output channel; with the option `weight_terms`
       only codes that are sums of so many signed powers of two. With the option `weight_rounding`
       those of convolutions and matrix products make up for each other. Biases stay real, or become
       so again where they were stored for a scale that is no longer that of the sums; with the
       option `bias_correction` the mean error of each channel is taken out of them.
    5. A product with the shares of a softmax gets their mean error, as columns of its own
       (`share_bias`), before the biases. With ``softmax_correction=auto`` of each head, where rows
       have at least as many shares as shares have codes: if errors of products fall by a tenth and
       then those of the outputs by a fiftieth.
    6. A model of which only constants came quantized no longer counts as quantized: its rounding is
       binpoint's own. Of any other quantized model, the values that got types by rules 1, from
       their op, and 2 are listed in `Graph.filled`.

    `samples` and `corrections` are how many samples are used at most for ranges and for biases,
    evenly spread.
    """

    name: ClassVar[str] = "assign-types"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.TYPED
    effect: ClassVar[Effect] = Effect.CHANGES_VALUES
    assigns: ClassVar[bool] = True

    samples: int = 100
    corrections: int = 32

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        options = context.options
        shares = widen(graph, options)
        real = graph.copy()
        graph.quantized &= any(v.fixed and not v.constant for v in graph.values())
        stated = plain_types(graph, options.activation_bits)
        grouped = self._activations(graph, context)
        if graph.quantized and not graph.rational:
            graph.filled = tuple(sorted(stated | grouped))
        _refuse_unknown_layers(graph, options)
        for node in graph.nodes():
            _free_bias(real, graph, node)
            _weights(graph, graph.node(node.name), options)
        return remove_dead(self._corrected(real, graph, shares, context))

    def _corrected(
        self, real: Graph, graph: Graph, shares: Sequence[Place], context: Context
    ) -> Graph:
        """Shares, weights and biases that make up for rounding, layer by layer."""
        options, samples = context.options, context.samples
        if options.weight_rounding != "nearest" and samples is None:
            raise MissingSamples(
                "weights are rounded together by the values of samples",
                want="sample inputs",
                hint="--samples FILE.npz, or --set weight_rounding=nearest",
            )
        if samples is None:
            return graph
        samples = samples.spread(self.corrections)
        plain = _correct_shares(real, graph, shares, samples, options) if shares else None
        _correct_layers(real, graph, samples, options)
        if plain is None:
            return graph
        _correct_layers(*plain, samples, options)
        outputs = Outputs(plain[0], samples)
        before, after = (sum(outputs.errors(g)) for g in (plain[1], graph))
        return graph if after < _WORTHWHILE * before else plain[1]

    def _activations(self, graph: Graph, context: Context) -> set[str]:
        """Give all untyped values types; returns which were computed in float."""
        if graph.quantized and not graph.rational and context.options.semantics != "dyadic":
            _refuse_real_operands(graph)
        groups = find_groups(graph, concats=graph.quantized)
        ranges = self._ranges(graph, frozenset(n for g in groups for n in g.observed), context)
        groups = groups if graph.quantized else join_concats(graph, groups, ranges)
        options = context.options
        for group in groups:
            range_ = Range()
            for name in group.observed:
                range_ = range_.union(ranges[name])
            for name in group.constants if not group.observed else ():
                range_ = range_.union(_range_of(graph.value(name)))
            try:
                kind = activation_type(
                    range_,
                    symmetric=options.activations == "symmetric",
                    power_of_two=options.scales == "power-of-two",
                    bits=options.activation_bits,
                )
            except RangeOverflow as error:
                raise RangeOverflow(
                    error.message, at=group.members[0], have=error.have, want=error.want
                ) from error
            for name in group.members:
                set_type(graph, graph.value(name), kind)
        return {n for g in groups for n in g.observed}

    def _ranges(self, graph: Graph, names: frozenset[str], context: Context) -> Mapping[str, Range]:
        if not names:
            return {}
        if context.samples is None or context.samples.count == 0:
            raise _missing(graph, names)
        options = context.options
        method = Method(options.observer)
        samples = context.samples.spread(self.samples)
        found = observe(graph, names, samples, bins=method is not Method.MINMAX)
        policy = Policy(
            method, options.percentile, options.activations == "symmetric", options.activation_bits
        )
        return above_masks(graph, {n: h.choose(policy) for n, h in found.items()}, samples)


def _correct_shares(
    real: Graph,
    graph: Graph,
    places: Sequence[Place],
    samples: Samples,
    options: CompileOptions,
) -> tuple[Graph, Graph] | None:
    """Rule 5; with ``auto`` both graphs as they were, if anything was corrected."""
    auto, heads = options.softmax_correction == "auto", options.softmax_correction != "tensor"
    least = _PRODUCTS if auto else 1.0
    kept, figures = correct_shares(real, graph, places, samples, heads=heads, worthwhile=least)
    plain = real.copy(), graph.copy()
    narrow(plain, kept)
    none = {**figures, "corrected": 0, "error_after": figures["error_before"]}
    for each, told in ((graph, figures), (plain[1], none)):
        each.figures = {**each.figures, AssignTypes.name: told}
    return plain if auto and kept else None


def _correct_layers(real: Graph, graph: Graph, samples: Samples, options: CompileOptions) -> None:
    """Weights and biases that make up for rounding, layer by layer."""
    refit = partial(refit_weights, real, graph, options=options)
    if options.weight_rounding == "nearest":
        refit = None
    biases = options.bias_correction and not graph.rational
    if biases or refit is not None:
        correct(real, graph, samples, refit=refit, biases=biases)


def plain_types(graph: Graph, bits: int) -> set[str]:
    """Set all types that follow without ranges; returns the results whose op prescribes one.

    Integers that the model takes, and whose meaning it nowhere states, stand for themselves.

    Args:
        graph: changed in place.
        bits: that a prescribed type has at most.
    """
    stated = pass_types(graph, bits)
    for name, storage in graph.coded.items():
        if graph.value(name).fixed is None:
            set_type(graph, graph.value(name), FixedType.per_tensor(storage, Dyadic.one()))
    pass_types(graph, bits)
    return stated


def _refuse_real_operands(graph: Graph) -> None:
    """Refuse real constants beside quantized tensors: onnxruntime computes with them in float32.

    Stored in 8 bits they would give other bytes than the model's own.

    Raises:
        NoIntegerForm: naming the node.
    """
    for node in graph.nodes():
        values = (*graph.arguments(node), *graph.results(node))
        held = [v for v in values if v.constant is not None and v.fixed is None]
        stated = [v for v in values if v.constant is None and v.fixed is not None]
        if isinstance(node.op, Binary) and held and len(stated) == len(values) - 1:
            raise NoIntegerForm(
                "a real constant with more than one element beside quantized values",
                at=", ".join(node.origin.names) or node.name,
                have=f"shape {list(held[0].shape)}",
                hint="quantize the constant too, or fold it into the layer before",
            )


def _missing(graph: Graph, names: frozenset[str]) -> MissingSamples:
    order = [n for node in graph.nodes() for n in (*node.inputs, *node.outputs)]
    sources = dict.fromkeys(graph.value(n).source or n for n in order if n in names)
    shown = ", ".join(f"`{name}`" for name in tuple(sources)[:_NAMED])
    rest = f" and {len(sources) - _NAMED} more" if len(sources) > _NAMED else ""
    return MissingSamples(
        "the model has float values, whose ranges only samples can show",
        at=f"{shown}{rest}",
        want="sample inputs, or a model that is quantized throughout",
        hint="--samples FILE.npz, or --samples random to try without any promise of accuracy",
    )


def pass_types(graph: Graph, bits: int) -> set[str]:
    """Spread types through ops that keep them; set those that ops prescribe, and return whose.

    Args:
        graph: changed in place.
        bits: that a prescribed type has at most.
    """
    stated = {name for node in graph.nodes() for name in _pass_down(graph, node, bits)}
    for node in reversed(graph.nodes()):
        _pass_up(graph, node)
    return stated | {name for node in graph.nodes() for name in _pass_down(graph, node, bits)}


def _pass_down(graph: Graph, node: Node, bits: int) -> set[str]:
    """To results: the types their op prescribes, or the one type of all operands if it keeps it.

    Returns the results that got a type that their op prescribes; whole numbers are not meant.
    """
    assert isinstance(node.op, FloatOp)
    operands = [value.fixed for value in graph.arguments(node)]
    kinds = {value.fixed for value in activations(graph, node) if value.constant is None}
    stated = node.op.result_type(*operands)
    prescribed = stated is not None and stated.scales != (Dyadic.one(),)
    if stated is not None and prescribed and not (graph.rational or node.op.own_rounding):
        stated = narrowed(stated, bits)
    if stated is None and node.op.keeps_type and len(kinds) == 1:
        (stated,) = kinds
    each = node.op.result_types(*operands)
    types = each or (stated,) * len(node.outputs)
    found: set[str] = set()
    for value, kind in zip(graph.results(node), types, strict=True):
        if value.fixed is None and kind is not None:
            graph.set_value(replace(value, fixed=kind))
            found.add(value.name)
    return found if prescribed or each else set()


def _pass_up(graph: Graph, node: Node) -> None:
    """To operands that nobody else reads: the type of the results, if the op keeps it.

    Or the type that the op prescribes for them; a constant gets it even if others read it too.
    """
    assert isinstance(node.op, FloatOp)
    for index, kind in enumerate(node.op.operand_types()):
        value = graph.value(node.inputs[index])
        if kind is not None and value.fixed is None:
            _prescribe(graph, graph.node(node.name), index, kind)
    kinds = {value.fixed for value in graph.results(node)}
    if not node.op.keeps_type or len(kinds) != 1:
        return
    (stated,) = kinds
    for value in activations(graph, node):
        untyped = value.fixed is None and value.constant is None
        if untyped and stated is not None and graph.sole_consumer(value.name) is not None:
            graph.set_value(replace(value, fixed=stated))


def _prescribe(graph: Graph, node: Node, index: int, kind: FixedType) -> None:
    value = graph.value(node.inputs[index])
    if value.constant is not None:
        codes = kind.quantize(value.constant.array).astype(kind.storage.dtype)
        replace_operand(graph, node, index, codes, kind)
    elif graph.sole_consumer(value.name) is not None:
        graph.set_value(replace(value, fixed=kind))


def _range_of(value: Value) -> Range:
    assert value.constant is not None
    array = value.constant.array
    return Range(float(array.min(initial=0.0)), float(array.max(initial=0.0)))


def set_type(graph: Graph, value: Value, kind: FixedType) -> None:
    """Give a value a type; a constant becomes codes of it."""
    constant = value.constant
    if constant is not None:
        constant = Constant(kind.quantize(constant.array).astype(kind.storage.dtype))
    graph.set_value(replace(value, fixed=kind, constant=constant))


def _free_bias(real: Graph, graph: Graph, node: Node) -> None:
    """Make a stored bias real if its operand or weights got their types only now."""
    assert isinstance(node.op, FloatOp)
    roles = node.op.roles(len(node.inputs))
    assigned = any(
        role in (Role.ACTIVATION, Role.WEIGHT) and real.value(name).fixed is None
        for name, role in zip(node.inputs, roles, strict=True)
    )
    for index, (value, role) in enumerate(zip(graph.arguments(node), roles, strict=True)):
        if (
            role is Role.BIAS
            and value.fixed is not None
            and value.constant is not None
            and assigned
        ):
            array = real_bias(value).astype(np.float32)
            replace_operand(graph, node, index, array, None)


def _weights(graph: Graph, node: Node, options: CompileOptions) -> None:
    """Put integer codes in place of the real weights of a node."""
    assert isinstance(node.op, FloatOp)
    roles = node.op.roles(len(node.inputs))
    arguments = graph.arguments(node)
    biases = [
        v
        for v, r in zip(arguments, roles, strict=True)
        if r is Role.BIAS and v.constant is not None
    ]
    data = [v for v, r in zip(arguments, roles, strict=True) if r is Role.ACTIVATION]
    for index in open_weights(graph, node):
        value = arguments[index]
        assert value.constant is not None
        assert data[0].fixed is not None
        array = value.constant.array
        bias = real_bias(biases[0]) if biases else None
        bits = weight_bits(node, options)
        few = few_codes(bits, options.weight_terms)
        try:
            kind = weight_type(
                array,
                bias,
                float(data[0].fixed.scale),
                power_of_two=options.scales == "power-of-two",
                bits=bits,
                codes=few,
            )
        except RangeOverflow as error:
            raise RangeOverflow(error.message, at=node.name, have=error.have) from error
        scales = np.array([float(s) for s in kind.scales]).reshape(-1, *(1,) * (array.ndim - 1))
        codes = symmetric_codes(array / scales, bits, options.weight_terms)
        replace_operand(graph, node, index, codes.astype(kind.storage.dtype), kind)


def _refuse_unknown_layers(graph: Graph, options: CompileOptions) -> None:
    """Refuse bits for a layer that has no weights without a type.

    Where `binary-points` has chosen types it has asked before.

    Raises:
        BadOption: naming the layer.
    """
    if not options.layer_bits or options.binary_points != "range":
        return
    known = {
        name for node in graph.nodes() if open_weights(graph, node) for name in node.origin.names
    }
    for name in sorted(options.layer_bits):
        if name not in known:
            raise BadOption(
                "bits are given for a layer that has no real weights",
                at=f"layer_bits, {name}",
                want=", ".join(sorted(known)) or "a float model",
            )
