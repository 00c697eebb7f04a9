# pyright: basic, reportMissingImports=false
"""prepare(): a module's layers swapped for fixed-point ones, by one call.

The module is traced (torch.fx). A value is either *narrow*, of a quantizer's width, or *wide*, an
exact sum or product of narrow ones. What an operation needs narrow and is wide is cast, once, where
it is made; everything else stays full width up to the next cast.

Supported: Linear, Conv1d/2d, ConvTranspose1d/2d and Brevitas's forms of them; BatchNorm1d/2d; ReLU,
ReLU6, LeakyReLU, Hardtanh, Hardsigmoid, Sigmoid, Tanh and Brevitas's forms; sums, differences and
products of two values, concatenation, sums and products with a number; average and maximum pooling;
reshapes, dropout.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from brevitas import nn as qnn
from torch import fx, nn

from binpoint.errors import NotTrainable
from binpoint.training.cast import Overflow, Rounding
from binpoint.training.kinds import Kind, kind_of
from binpoint.training.norm import FixedBatchNorm
from binpoint.training.quantizers import (
    BiasFixedPoint,
    SignedFixedPoint,
    UnsignedFixedPoint,
    WeightFixedPoint,
)
from binpoint.training.swap import fixed_layer, requantized


@dataclass(frozen=True, slots=True)
class Formats:
    """Widths and rules for all quantizers that `prepare` makes.

    Args:
        bits: of activations.
        weight_bits: of weights.
        input_bits: of the module's inputs.
        scale_bits: of the factors of normalisations.
        shift_bits: of biases, and of what normalisations add.
        rounding: of all casts but those of inputs, which are half even.
        overflow: of activations; weights are symmetric, inputs saturate.
        per_channel: whether weights have a binary point per output channel.
        weight_terms: signed powers of two that a weight is the sum of, at most (K-hot weights).
        input_signed: whether inputs are below zero, too.
        output_bits: of the module's results; None leaves them as exact sums, which the last layer
            must be linear for.
    """

    bits: int
    weight_bits: int
    input_bits: int = 8
    scale_bits: int = 8
    shift_bits: int = 16
    rounding: Rounding = Rounding.HALF_EVEN
    overflow: Overflow = Overflow.SATURATE
    per_channel: bool = True
    weight_terms: int | None = None
    input_signed: bool = True
    output_bits: int | None = None

    def weights(self, bits: int | None = None) -> Any:
        """The injector for weights."""
        return WeightFixedPoint.let(
            bit_width=bits or self.weight_bits,
            rounding=self.rounding,
            per_channel=self.per_channel,
            terms=self.weight_terms,
        )

    def biases(self) -> Any:
        """The injector for biases."""
        return BiasFixedPoint.let(bit_width=self.shift_bits, rounding=self.rounding)

    def activations(self, *, signed: bool, bits: int | None = None) -> Any:
        """The injector for activations."""
        base = SignedFixedPoint if signed else UnsignedFixedPoint
        return base.let(bit_width=bits or self.bits, rounding=self.rounding, overflow=self.overflow)

    def inputs(self) -> Any:
        """The injector for inputs, which become codes before they reach the firmware."""
        base = SignedFixedPoint if self.input_signed else UnsignedFixedPoint
        return base.let(bit_width=self.input_bits)


def prepare(
    module: nn.Module,
    *,
    bits: int = 8,
    weight_bits: int | None = None,
    **others: Any,
) -> fx.GraphModule:
    """A copy of a module that computes in fixed point throughout.

    Args:
        module: float layers, or Brevitas's, whose widths stay; without control flow that depends
            on data.
        bits: of activations.
        weight_bits: of weights, by default `bits`.
        others: further fields of `Formats`.

    Returns:
        The copy. Its quantizers of activations have no binary point yet: `calibrate` it, or run it
        on a first batch in training mode.

    Raises:
        NotTrainable: an operation without a fixed-point form, by name.
    """
    formats = Formats(bits, weight_bits or bits, **others)
    formats = _enums(formats)
    copied = copy.deepcopy(module)
    tracer = _Tracer()
    graph = tracer.trace(copied)
    traced = fx.GraphModule(tracer.root, graph)
    _Swap(traced, formats).run()
    traced.graph.lint()
    traced.recompile()
    traced.train(module.training)
    return traced


def _enums(formats: Formats) -> Formats:
    return replace(
        formats, rounding=Rounding(formats.rounding), overflow=Overflow(formats.overflow)
    )


class _Tracer(fx.Tracer):
    """Layers of Brevitas and of this package are leaves."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, nn.Sequential):
            return False
        home = type(m).__module__
        return home.startswith(("brevitas.nn", "binpoint.training")) or super().is_leaf_module(
            m, module_qualified_name
        )


@dataclass(slots=True)
class _State:
    """What is known of a value."""

    narrow: bool
    positive: bool = False
    cast: fx.Node | None = None


@dataclass(slots=True)
class _Swap:
    """The walk over a traced module."""

    module: fx.GraphModule
    formats: Formats
    states: dict[fx.Node, _State] = field(default_factory=dict)

    def run(self) -> None:
        for node in list(self.module.graph.nodes):
            match node.op:
                case "placeholder":
                    self.states[node] = _State(narrow=False, positive=not self.formats.input_signed)
                    if not self._is_quantized(node):
                        self.states[node].cast = self._insert(node, node, self._input())
                case "output":
                    self._output(node)
                case "get_attr":
                    raise self._refused(node, "a tensor of the module beside computed ones")
                case _:
                    self.states[node] = self._visit(node)

    def _is_quantized(self, node: fx.Node) -> bool:
        """Whether quantizers of the module's own alone read an input."""
        return all(kind_of(u, self._layer(u)) is Kind.QUANTIZER for u in node.users)

    def _visit(self, node: fx.Node) -> _State:
        layer = self._layer(node)
        kind = kind_of(node, layer)
        operands = [a for a in node.all_input_nodes if a in self.states]
        match kind:
            case None:
                raise self._refused(node, "no fixed-point form")
            case Kind.PASS:
                first = self._state(operands[0])
                return _State(first.narrow, first.positive)
            case Kind.LINE | Kind.RECTIFIER | Kind.BENT:
                positive = kind is Kind.RECTIFIER
                return _State(narrow=False, positive=positive)
            case Kind.NORM:
                return self._norm(node, layer)
            case Kind.LINEAR:
                self._operand(node, operands[0])
                self._put(node, fixed_layer(layer, self.formats))
                return _State(narrow=layer_is_narrow(self._layer(node)))
            case Kind.QUANTIZER:
                fixed = requantized(layer, self.formats)
                self._put(node, fixed)
                return _State(narrow=True, positive=not fixed.act_quant.is_signed)
            case Kind.CONCAT:
                return self._concat(node, operands)
            case Kind.MAX:
                self._operand(node, operands[0])
                return _State(narrow=True, positive=self._state(operands[0]).positive)
            case Kind.MEAN | Kind.CURVE | Kind.POSITIVE_CURVE | Kind.SUM:
                return self._joined(node, kind, operands)

    def _norm(self, node: fx.Node, layer: Any) -> _State:
        f = self.formats
        norm = FixedBatchNorm(
            layer, scale_bits=f.scale_bits, shift_bits=f.shift_bits, rounding=f.rounding
        )
        self._put(node, norm)
        return _State(narrow=False)

    def _joined(self, node: fx.Node, kind: Kind, operands: list[fx.Node]) -> _State:
        for operand in operands:
            self._operand(node, operand)
        both = all(self._state(o).positive for o in operands)
        keeps = kind is Kind.MEAN or (kind is Kind.SUM and not _is_difference(node))
        return _State(False, kind is Kind.POSITIVE_CURVE or (both and keeps))

    def _concat(self, node: fx.Node, operands: list[fx.Node]) -> _State:
        """All operands take one quantizer, so that the result has one format."""
        positive = all(self._state(o).positive for o in operands)
        target = self._new_name(f"{node.name}_cast")
        chosen = self.formats.activations(signed=not positive)
        self.module.add_submodule(target, qnn.QuantIdentity(act_quant=chosen))
        for operand in operands:
            with self.module.graph.inserting_before(node):
                made = self.module.graph.call_module(target, (operand,))
            node.replace_input_with(operand, made)
            self.states[made] = _State(narrow=True, positive=positive)
        return _State(narrow=True, positive=positive)

    def _operand(self, node: fx.Node, operand: fx.Node) -> None:
        narrow = self._narrow(operand)
        if narrow is not operand:
            node.replace_input_with(operand, narrow)

    def _narrow(self, node: fx.Node) -> fx.Node:
        """The value itself if narrow, else its cast, made where the value is."""
        state = self.states[node]
        if state.narrow:
            return node
        if state.cast is None:
            state.cast = self._cast(node, state)
        return state.cast

    def _output(self, node: fx.Node) -> None:
        bits = self.formats.output_bits
        for operand in node.all_input_nodes:
            state = self._state(operand)
            if bits is not None and not state.narrow:
                chosen = self.formats.activations(signed=not state.positive, bits=bits)
                self._insert(operand, operand, qnn.QuantIdentity(act_quant=chosen))

    def _cast(self, node: fx.Node, state: _State) -> fx.Node:
        layer = self._layer(node)
        if kind_of(node, layer) is Kind.PASS:  # cast before elements are moved
            self._operand(node, node.all_input_nodes[0])
            state.narrow = True
            return node
        chosen = self.formats.activations(signed=not state.positive)
        if kind_of(node, layer) is not Kind.RECTIFIER or not _is_relu(node, layer):
            return self._insert(node, node, qnn.QuantIdentity(act_quant=chosen))
        made = self._insert(node, node.all_input_nodes[0], qnn.QuantReLU(act_quant=chosen))
        self.module.graph.erase_node(node)
        return made

    def _insert(self, node: fx.Node, source: fx.Node, quantizer: nn.Module) -> fx.Node:
        """A quantizer of `source` in place of a node's value, for all that read it."""
        target = self._new_name(f"{node.name}_cast")
        self.module.add_submodule(target, quantizer)
        with self.module.graph.inserting_after(node):
            made = self.module.graph.call_module(target, (source,))
        node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)
        self.states[made] = _State(narrow=True, positive=self._state(node).positive)
        return made

    def _input(self) -> nn.Module:
        return qnn.QuantIdentity(act_quant=self.formats.inputs())

    def _state(self, node: fx.Node) -> _State:
        return self.states[node]

    def _layer(self, node: fx.Node) -> nn.Module | None:
        return self.module.get_submodule(node.target) if node.op == "call_module" else None

    def _put(self, node: fx.Node, layer: nn.Module) -> None:
        """Put another module in a node's place; a module called twice stays one."""
        parent, _, name = node.target.rpartition(".")
        owner = self.module.get_submodule(parent)
        if isinstance(owner, nn.Sequential | nn.ModuleList):
            owner[int(name)] = layer
        else:
            setattr(owner, name, layer)

    def _new_name(self, wanted: str) -> str:
        taken = {name for name, _ in self.module.named_modules()}
        name, index = wanted, 1
        while name in taken:
            name, index = f"{wanted}_{index}", index + 1
        return name

    def _refused(self, node: fx.Node, why: str) -> NotTrainable:
        have = str(node.target)
        if node.op == "call_module":
            have = f"{type(self._layer(node)).__name__} `{node.target}`"
        return NotTrainable(
            f"`{node.name}` cannot be put into fixed point: {why}",
            have=have,
            want="the operations that binpoint.training.prepare lists",
        )


def layer_is_narrow(layer: Any) -> bool:
    """Whether a layer of Brevitas quantizes its result itself."""
    output = getattr(layer, "output_quant", None)
    return output is not None and output.is_quant_enabled


def _is_relu(node: fx.Node, layer: nn.Module | None) -> bool:
    if layer is not None:
        return type(layer) is nn.ReLU
    return node.target in (torch.relu, nn.functional.relu, "relu", "relu_", torch.relu_)


def _is_difference(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else node.target.__name__
    return "sub" in name
