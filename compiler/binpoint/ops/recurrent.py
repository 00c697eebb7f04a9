"""Recurrent layers: GRU, LSTM and RNN, as ONNX defines them.

A layer is two ops. The products of the input with W, of all steps at once, are an ordinary dense
layer (`IntDense`), whose sums are rounded to 16 bits; what depends on the state is `ops/cell.py`.
Steps of the sums and types of the states are chosen in `ops/recurrent_numbers.py`. Layers that run
backwards run forwards over reversed operands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from binpoint.errors import NoIntegerForm
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import FloatArray, FloatOp, Role, Semantics, Site
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, I16, I32, FixedType, FloatType, TensorType
from binpoint.ops.cell import Cell, IntRecurrent
from binpoint.ops.concat import Concat
from binpoint.ops.dense import IntDense
from binpoint.ops.linear import Weights, bias_codes, channel_reach, read_weights
from binpoint.ops.lookup import convert
from binpoint.ops.recurrent_node import functions_of, operands_of, refuse_forms, ways_of
from binpoint.ops.recurrent_numbers import (
    FUNCTIONS,
    bound_of,
    entries,
    factors_of,
    fraction_of,
    memory_type,
    state_bound,
    state_type,
)
from binpoint.ops.rescale import requantize
from binpoint.ops.shape import reshape_value
from binpoint.ops.slices import take_value

_NOTE = "a recurrent layer in float: onnxruntime rounds no gate and no state between steps"
_PLAIN = FixedType.per_tensor(I32, Dyadic.one())
_TABLE = FixedType.per_tensor(I16, Dyadic(1, -15))


@dataclass(frozen=True, slots=True)
class Recurrent(FloatOp):
    """One direction of a layer: x ``[T, B, I]`` to states ``[T, B, H]``, or the last ``[B, H]``.

    Operands: x, W ``[G·H, I]``, R ``[G·H, H]``, the biases of either ``[G·H]``, the initial state
    ``[B, H]`` and for an LSTM that of its cell. With `keeps` the last state of the cell is a second
    result. With `before` a GRU resets its state before the product with R. `backwards` tells that
    the operand begins with the last step.
    """

    onnx: ClassVar[tuple[str, ...]] = ("GRU", "LSTM", "RNN")

    cell: Cell
    functions: tuple[str, ...]
    before: bool = False
    sequence: bool = True
    keeps: bool = False
    backwards: bool = False

    def roles(self, count: int) -> tuple[Role, ...]:
        """Data, two matrices, their biases, initial states."""
        return (
            Role.ACTIVATION,
            Role.WEIGHT,
            Role.WEIGHT,
            Role.BIAS,
            Role.PARAMETER,
            Role.ACTIVATION,
            Role.ACTIVATION,
        )[:count]

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """One op for each direction; results that nobody reads are not computed."""
        return _imported(node, build)

    def result_types(self, *inputs: FixedType | None) -> tuple[FixedType | None, ...]:
        """The state's own types, which do not depend on samples."""
        return (state_type(), memory_type())[: 1 + self.keeps]

    def operand_types(self) -> tuple[FixedType | None, ...]:
        """Initial states are stored as all other states are."""
        return (*[None] * 5, state_type(), *([memory_type()] if self.cell is Cell.LSTM else []))

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """All states or the last one, and the last of the cell."""
        x, w, r, wb, rb, *starts = (v.shape for v in inputs)
        gates = self.cell.gates * r[1]
        assert w == (gates, x[2]), f"W is {w}"
        assert r[0] == gates, f"R is {r}"
        assert wb == rb == (gates,), f"biases are {wb} and {rb}"
        assert set(starts) == {(x[1], r[1])}, f"initial states are {starts}"
        assert len(starts) == 1 + (self.cell is Cell.LSTM), "an initial state is missing"
        last = (x[1], r[1])
        shapes = [(x[0], *last) if self.sequence else last, *[last] * self.keeps]
        return tuple(TensorType(shape, FloatType()) for shape in shapes)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """Step by step, in float64."""
        x, w, r, wb, rb, h, *rest = (v.astype(np.float64) for v in inputs)
        c = rest[0] if rest else np.zeros_like(h)
        products = x @ w.T + wb
        states: list[FloatArray] = []
        for a in products:
            h, c = self._step(a, r, rb, h, c)
            states.append(h)
        results = [np.stack(states) if self.sequence else h, *[c] * self.keeps]
        return tuple(v.astype(inputs[0].dtype) for v in results)

    def _step(
        self, a: FloatArray, r: FloatArray, rb: FloatArray, h: FloatArray, c: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        f, *others = (FUNCTIONS[name] for name in self.functions)
        n = h.shape[1]
        s = h @ r.T + rb
        match self.cell:
            case Cell.RNN:
                return f(a + s), c
            case Cell.GRU:
                z, reset = f(a[:, :n] + s[:, :n]), f(a[:, n : 2 * n] + s[:, n : 2 * n])
                product = reset * s[:, 2 * n :]
                if self.before:
                    product = (reset * h) @ r[2 * n :].T + rb[2 * n :]
                return (1 - z) * others[0](a[:, 2 * n :] + product) + z * h, c
            case Cell.LSTM:
                i, o, keep, new = (
                    a[:, k * n : k * n + n] + s[:, k * n : k * n + n] for k in range(4)
                )
                c = f(keep) * c + f(i) * others[0](new)
                return f(o) * others[1](c), c

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """The dense layer of the input, then the cell."""
        return _lowered(self, site, build)


# ---- import


def _imported(node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
    cell = Cell(node.proto.op_type.lower())
    refuse_forms(node, cell)
    ways = ways_of(node)
    names = functions_of(node, cell, len(ways))
    parts = [
        _one_way(node, build, cell, names[i], i, backwards=backwards)
        for i, backwards in enumerate(ways)
    ]
    wanted = node.read
    results: list[Value] = []
    for index, axis in enumerate((1, 0, 0)[: len(wanted)]):
        found = [part[index] for part in parts]
        shape = list(found[0].shape)
        shape.insert(axis, 1)
        lifted = [reshape_value(build, v, shape) for v in found]
        results.append(lifted[0] if len(lifted) == 1 else build.one(Concat(axis), *lifted))
    return tuple(results)


def _one_way(
    node: OnnxNode,
    build: GraphBuilder,
    cell: Cell,
    functions: tuple[str, ...],
    way: int,
    *,
    backwards: bool,
) -> tuple[Value, Value, Value]:
    """All states, the last one, the last of the cell; those that are not wanted repeat others."""
    x = node.operand(0)
    wanted: tuple[bool, ...] = node.read
    keeps = len(wanted) > 2 and wanted[2]
    sequence = wanted[:1] == (True,) or not any(wanted)
    before = cell is Cell.GRU and node.int("linear_before_reset", 0) == 0
    operands = operands_of(node, build, cell, way)
    turned = _reversed(build, x) if backwards else x
    op = Recurrent(cell, functions, before, sequence, keeps, backwards)
    y, *rest = build.add(op, turned, *operands)
    last = y
    if sequence:
        steps, *shape = y.shape
        end = take_value(build, y, [range(steps - 1, steps), *map(range, shape)])
        last = reshape_value(build, end, shape) if len(wanted) > 1 and wanted[1] else y
        y = _reversed(build, y) if backwards else y
    return y, last, rest[0] if rest else last


def _reversed(build: GraphBuilder, x: Value) -> Value:
    return take_value(build, x, [range(x.shape[0] - 1, -1, -1), *map(range, x.shape[1:])])


# ---- integers


def _lowered(op: Recurrent, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
    x = build.integer(site.inputs[0])
    if x.elem.storage.width > I8.width or x.elem.axis is not None:
        raise NoIntegerForm(
            "a recurrent layer of this operand",
            at=site.name,
            have=str(x.elem),
            want="one type of at most 8 bits",
        )
    state, memory = state_type(), memory_type()
    first = read_weights(replace(site, inputs=(x, *site.inputs[1:])), bias=3)
    second = _recurrent_weights(site, state)
    reach = channel_reach(first, x, padded=False)
    folded = first.folded(x.elem.zero_point)
    kind = folded.scales(x.elem, len(x.shape))
    fraction = fraction_of(bound_of(reach, kind.scales), state_bound(second, state), site.name)
    gates = FixedType.per_tensor(I16, Dyadic(1, -fraction))
    acc = build.one(
        IntDense(kind), x, folded.constant(build, folded.codes), folded.bias_constant(build)
    )
    inner = replace(site, results=(gates,), semantics=Semantics.DYADIC)
    a = requantize(inner, build, acc, reach=reach)
    multipliers, shift = factors_of(second, state, fraction)
    parameters = [
        second.constant(build, second.codes),
        second.bias_constant(build),
        build.constant(multipliers, _PLAIN, hint=f"{site.name}_multipliers"),
    ]
    types = (state, memory)[: 1 + (op.cell is Cell.LSTM)]
    starts = [
        _initial(build, v, t, site.semantics) for v, t in zip(site.inputs[5:], types, strict=True)
    ]
    tables = [
        build.constant(entries(FUNCTIONS[name]), _TABLE, hint=f"{site.name}_{name}")
        for name in op.functions
    ]
    notes = (_NOTE,) if site.semantics is Semantics.ONNXRUNTIME else ()
    cell = IntRecurrent(
        op.cell,
        op.before,
        op.sequence,
        op.keeps,
        fraction,
        shift,
        state,
        memory,
        op.backwards,
        notes,
    )
    results = build.add(cell, a, *parameters, *starts, *tables)
    wanted = (t or v.elem for t, v in zip(site.results, results, strict=True))
    return tuple(convert(build, v, t, site.semantics) for v, t in zip(results, wanted, strict=True))


def _initial(build: GraphBuilder, value: Value, kind: FixedType, semantics: Semantics) -> Value:
    if value.constant is None:
        return convert(build, value, kind, semantics)
    return build.constant(kind.quantize(constant_array(value)), kind)


def _recurrent_weights(site: Site, state: FixedType) -> Weights:
    """R with its bias on the scale of its sums; the state has no zero point."""
    r = site.inputs[2]
    if r.constant is None or r.fixed is None or r.fixed.axis not in (None, 0):
        raise NoIntegerForm("recurrent weights without an integer type", at=site.name)
    codes = r.constant.array.astype(np.int64)
    scales = [state.scale * s for s in r.fixed.scales]
    return Weights(codes, bias_codes(
        replace(site, semantics=Semantics.DYADIC), site.inputs[4], scales, codes.shape[0]
    ), r.fixed)  # fmt: skip
