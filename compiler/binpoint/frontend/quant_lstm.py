"""QuantLSTMCell, as Brevitas exports a recurrent layer with all its quantizers: step by step.

The operator names no order of its roundings; they are those of Brevitas's module. Each step becomes
products, sums, functions and quantizers of its own, with the same weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import onnx

from binpoint.frontend.qonnx import DOMAINS, Statement, rounded, stated
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.numeric import monotone
from binpoint.numeric.monotone import Shift
from binpoint.ops.concat import Concat
from binpoint.ops.dense import Dense
from binpoint.ops.elementwise import Binary, Kind
from binpoint.ops.rational import Quantizer, Rational, rounding
from binpoint.ops.shape import reshape_value
from binpoint.ops.slices import take_value
from binpoint.ops.unary import Unary

_QUANTIZERS = (
    "output", "cell_state", "input_acc", "forget_acc", "cell_acc", "output_acc", "input_sigmoid",
    "forget_sigmoid", "cell_tanh", "output_sigmoid", "hidden_state_tanh",
)  # fmt: skip
_GATES = ("input", "forget", "cell", "output")
_WEIGHTS, _BIASES, _STATED = 3, 11, 15
"""First operands: weights of inputs and of states, biases, and what quantizers state."""


def is_quant_lstm(node: onnx.NodeProto) -> bool:
    """Whether a node is a quantized LSTM of Brevitas."""
    return node.op_type == "QuantLSTMCell" and node.domain in DOMAINS


def read_quant_lstm(node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
    """All outputs ``[N, T, H]`` or ``[T, N, H]``, the last output and cell state ``[N, H]``.

    Raises:
        UnsupportedOperator: a state that is neither zero nor quantized as the layer's own, or
            weights of inputs and of states on different scales.
    """
    build.graph.quantized = True
    says = {name: stated(node, _STATED + 3 * i, f"{name}_") for i, name in enumerate(_QUANTIZERS)}
    gates = {name: _gate(node, build, i) for i, name in enumerate(_GATES)}
    cell = _Cell(node, build, says, gates, cifg=bool(node.int("cifg", 0)))
    x, axis = node.operand(0), node.int("batch_first", 0)
    steps, batch = x.shape[axis], x.shape[1 - axis]
    hidden, state = _initial(node, 1), _initial(node, 2)
    outputs: dict[int, Value] = {}
    order = range(steps)
    for step in reversed(order) if node.int("reverse_input", 0) else order:
        maps = [[step] if i == axis else range(n) for i, n in enumerate(x.shape)]
        here = build.at(f"{build.hint}_t{step}", build.origin)
        row = reshape_value(here, take_value(here, x, maps), (batch, x.shape[2]))
        hidden, state = replace(cell, build=here).step(row, hidden, state)
        shape = tuple(1 if i == axis else n for i, n in enumerate((*x.shape[:2], hidden.shape[1])))
        outputs[step] = reshape_value(here, hidden, shape)
    assert hidden is not None
    assert state is not None
    parts = [outputs[step] for step in order]
    every = parts[0] if steps == 1 else build.one(Concat(axis), *parts)
    return every, hidden, state


@dataclass(frozen=True, slots=True)
class _Gate:
    """Weights ``[H, I]``, the same with those of states behind ``[H, I + H]``, bias ``[H]``."""

    weights: Value
    both: Value
    bias: Value | None


def _gate(node: OnnxNode, build: GraphBuilder, index: int) -> _Gate:
    x, h = (node.operand(_WEIGHTS + index + offset) for offset in (0, len(_GATES)))
    if x.constant is None or h.constant is None or x.fixed is None or x.fixed != h.fixed:
        node.refuse(
            "weights of inputs and of states that do not share a quantizer",
            have=f"{x.fixed} and {h.fixed}",
        )
    both = np.concatenate([x.constant.array, h.constant.array], axis=1)
    held = build.constant(both, fixed=x.fixed, hint=f"{build.hint}_{_GATES[index]}")
    bias = node.operand(_BIASES + index)
    if bias.constant is None:
        node.refuse("a bias that is computed")
    array = np.broadcast_to(bias.constant.array.reshape(-1), (both.shape[0],))
    own = build.constant(array, fixed=bias.fixed, hint=f"{build.hint}_{_GATES[index]}_bias")
    return _Gate(x, held, own if array.any() else None)


def _initial(node: OnnxNode, index: int) -> Value | None:
    """A state before the first step; None if it is zero."""
    state = node.operand(index)
    if state.constant is not None and state.fixed is None:
        if state.constant.array.any():
            node.refuse("an initial state that is not zero and has no quantizer")
        return None
    return state


@dataclass(frozen=True, slots=True)
class _Cell:
    """One step of the layer, in the order of Brevitas's module."""

    node: OnnxNode
    build: GraphBuilder
    says: dict[str, Statement]
    gates: dict[str, _Gate]
    cifg: bool

    def step(self, x: Value, hidden: Value | None, state: Value | None) -> tuple[Value, Value]:
        """Output and cell state; a state that is None is zero, and so is what it is part of."""
        opened = self._gated("input", "sigmoid", x, hidden)
        entered = self._product(
            "cell_state", "entered", opened, self._gated("cell", "tanh", x, hidden)
        )
        if state is not None:
            kept = self._rest(opened) if self.cifg else self._gated("forget", "sigmoid", x, hidden)
            kept = self._product("cell_state", "kept", kept, state)
            both = self._at("sum").one(Binary(Kind.ADD), kept, entered)
            entered = self._rounded("cell_state", "cell", both)
        shown = self._gated("output", "sigmoid", x, hidden)
        bent = self._at("tanh").one(Unary("Tanh"), entered)
        bent = self._rounded("hidden_state_tanh", "hidden_state_tanh", bent)
        return self._product("output", "hidden", shown, bent), entered

    def _gated(self, name: str, function: str, x: Value, hidden: Value | None) -> Value:
        """A gate: sums, quantized, their function, quantized."""
        gate, here = self.gates[name], self._at(f"{name}_gate")
        weights = gate.weights
        if hidden is not None:
            x, weights = here.one(Concat(1), x, hidden), gate.both
        operands = (x, weights) if gate.bias is None else (x, weights, gate.bias)
        acc = self._rounded(f"{name}_acc", f"{name}_acc", here.one(Dense(), *operands))
        bent = here.one(Unary(function.capitalize()), acc)
        return self._rounded(f"{name}_{function}", f"{name}_{function}", bent)

    def _rest(self, opened: Value) -> Value:
        """One, as the input gate's quantizer rounds it, less the gate."""
        kind, says = opened.fixed, self.says["input_sigmoid"]
        assert kind is not None
        scale = kind.scale.as_fraction()
        code = min(max(round(1 / scale) + kind.zero_point, says.lo), says.hi)
        one = (code - kind.zero_point) * scale
        quantizer = Quantizer(kind, says.lo, says.hi)
        steps = (monotone.scale(Fraction(-1)), Shift((one,)), *rounding(quantizer))
        rest = replace(self._at("rest").one(Rational(steps, quantizer), opened), fixed=kind)
        self.build.graph.set_value(rest)
        return rest

    def _product(self, name: str, place: str, a: Value, b: Value) -> Value:
        return self._rounded(name, place, self._at("product").one(Binary(Kind.MUL), a, b))

    def _rounded(self, name: str, place: str, x: Value) -> Value:
        return self.build.graph.value(rounded(self.node, self._at(place), x, self.says[name]).name)

    def _at(self, place: str) -> GraphBuilder:
        return self.build.at(f"{self.build.hint}_{place}", self.build.origin)
