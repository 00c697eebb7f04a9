"""Recurrent layers: GRU, LSTM and RNN, as ONNX defines them.

A layer is two ops. The products of the input with W, of all steps at once, are an ordinary dense
layer (`IntDense`), whose sums are rounded to 16 bits in steps of 2^-f; what depends on the state is
`ops/cell.py`. f is the largest for which neither those sums nor the products of the state with R
can leave 16 bits, whatever the operands: gates saturate, their operands do not.

The state lies between -1 and 1 wherever the layer starts there, so its type is known without
samples: 8 bits in steps of 2^-7, for every step, the initial state and the results alike. The state
of an LSTM's cell has 16 bits in steps of 2^-11, and saturates at ±16. Constant initial states
beyond these ends are refused; those that are inputs have these types. Layers that run backwards run
forwards over reversed operands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from binpoint.errors import NoIntegerForm
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import constant_array
from binpoint.ir.exchange import OnnxNode
from binpoint.ir.graph import Value
from binpoint.ir.op import FloatArray, FloatOp, IntArray, Role, Semantics, Site
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, I16, I32, FixedType, FloatType, IntType, TensorType
from binpoint.ops.cell import REACH, SEGMENTS, UNIT, Cell, IntRecurrent
from binpoint.ops.concat import Concat
from binpoint.ops.dense import IntDense
from binpoint.ops.linear import Weights, bias_codes, channel_reach, read_weights
from binpoint.ops.lookup import convert
from binpoint.ops.rescale import requantize
from binpoint.ops.shape import reshape_value
from binpoint.ops.slices import take_value

_NOTE = "a recurrent layer in float: onnxruntime rounds no gate and no state between steps"
_MOST_FRACTION = 12
_LEAST_FRACTION = 5
_MOST_SHIFT = 62
_ENDS: Mapping[int, float] = MappingProxyType({5: 1.0, 6: 16.0})
"""Of the initial states by operand: that of the state, and of an LSTM's cell."""
_PLAIN = FixedType.per_tensor(I32, Dyadic.one())
_TABLE = FixedType.per_tensor(I16, Dyadic(1, -15))
_GATES: Mapping[Cell, int] = MappingProxyType({Cell.RNN: 1, Cell.GRU: 3, Cell.LSTM: 4})


def _sigmoid(x: FloatArray) -> FloatArray:
    return 0.5 + 0.5 * np.tanh(0.5 * x)


_FUNCTIONS: Mapping[str, Callable[[FloatArray], FloatArray]] = MappingProxyType(
    {
        "sigmoid": _sigmoid,
        "tanh": np.tanh,
        "hardsigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    }
)
_SHARES = ("sigmoid", "hardsigmoid")
"""Functions with values from 0 to 1: what gates need for the state to stay within ±1."""
_DEFAULTS: Mapping[Cell, tuple[str, ...]] = MappingProxyType(
    {
        Cell.RNN: ("tanh",),
        Cell.GRU: ("sigmoid", "tanh"),
        Cell.LSTM: ("sigmoid", "tanh", "tanh"),
    }
)


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
        gates = _GATES[self.cell] * r[1]
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
        f, *others = (_FUNCTIONS[name] for name in self.functions)
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
    _refuse_attributes(node, cell)
    x = node.operand(0)
    if len(x.shape) != 3:
        node.refuse(f"an operand of shape {list(x.shape)}", want="[steps, batch, inputs]")
    direction = node.string("direction", "forward").lower()
    ways = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}.get(direction)
    if ways is None:
        node.refuse(f"the direction `{direction}`", want="forward, reverse or bidirectional")
    _check_lengths(node, x.shape)
    names = _functions(node, cell, len(ways))
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


def _refuse_attributes(node: OnnxNode, cell: Cell) -> None:
    if node.int("layout", 0) != 0:
        node.refuse("layout 1", hint="transpose its operands and results, and use layout 0")
    if node.float("clip", 0.0) != 0.0:
        node.refuse("clipped gates", hint="export it without `clip`; the tables saturate at ±8")
    for name in ("activation_alpha", "activation_beta"):
        if node.attribute(name):
            node.refuse(f"`{name}`", hint="use Sigmoid, Tanh, or HardSigmoid of the default slope")
    if cell is Cell.LSTM and node.int("input_forget", 0) != 0:
        node.refuse("coupled input and forget gates", hint="export it with separate gates")
    peephole = node.optional_array(7)
    if peephole is not None and peephole.any():
        node.refuse("peepholes", hint="train it without: no framework's default layer has them")


def _check_lengths(node: OnnxNode, shape: tuple[int, ...]) -> None:
    lengths = node.optional_array(4)
    if lengths is not None and (lengths != shape[0]).any():
        node.refuse(
            "sequences of different lengths",
            have=str(lengths.tolist()),
            want=f"{shape[0]} for each",
            hint="cut the input to the length that is used",
        )


def _functions(node: OnnxNode, cell: Cell, ways: int) -> list[tuple[str, ...]]:
    """The functions of each direction, in lower case."""
    defaults = _DEFAULTS[cell]
    stated: list[bytes] = node.attribute("activations") or []
    given = tuple(v.decode("utf-8", "replace").lower() for v in stated) or defaults * ways
    size = len(defaults)
    if len(given) != size * ways:
        node.refuse(f"{len(given)} activations", want=str(size * ways))
    for index, name in enumerate(given):
        gate = index % size == 0 and cell is not Cell.RNN
        allowed = _SHARES if gate else tuple(_FUNCTIONS)
        if name not in allowed:
            node.refuse(
                f"the activation `{name}`",
                want=", ".join(allowed),
                hint="only functions that keep the state within ±1 have integer tables",
            )
    return [given[i * size : (i + 1) * size] for i in range(ways)]


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
    operands = _operands(node, build, cell, way)
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


def _operands(node: OnnxNode, build: GraphBuilder, cell: Cell, way: int) -> list[Value]:
    """Matrices, biases and initial states of one direction."""
    x = node.operand(0)
    w, r = (_matrix(node, build, index, way) for index in (1, 2))
    gates, hidden = r.shape
    if gates != _GATES[cell] * hidden or w.shape != (gates, x.shape[2]):
        node.refuse("its matrices do not fit", have=f"W {list(w.shape)}, R {list(r.shape)}")
    if node.int("hidden_size", hidden) != hidden:
        node.refuse(f"hidden_size {node.int('hidden_size', hidden)}", want=str(hidden))
    biases = np.zeros(2 * gates, np.float32)
    if node.has(3):
        node.array(3)
        biases = constant_array(node.operand(3))[way].astype(np.float32)
    parts = [build.constant(b, hint=f"{build.hint}_bias") for b in (biases[:gates], biases[gates:])]
    starts = [_start(node, build, 5, way, hidden)]
    if cell is Cell.LSTM:
        starts.append(_start(node, build, 6, way, hidden))
    return [w, r, *parts, *starts]


def _matrix(node: OnnxNode, build: GraphBuilder, index: int, way: int) -> Value:
    """One direction's matrix ``[G·H, …]``; codes of a per-tensor type stay what they are."""
    array, value = node.array(index), node.operand(index)
    kind = value.fixed
    if kind is not None and (kind.axis is not None or any(kind.zero_points)):
        array, kind = constant_array(value), None
    return build.constant(array[way], fixed=kind, hint=f"{build.hint}_{'wr'[index - 1]}")


def _start(node: OnnxNode, build: GraphBuilder, index: int, way: int, hidden: int) -> Value:
    """The initial state ``[B, H]`` of one direction, zero if it is not given."""
    batch = node.operand(0).shape[1]
    if not node.has(index):
        return build.constant(np.zeros((batch, hidden), np.float32), hint=f"{build.hint}_start")
    value = node.operand(index)
    if len(value.shape) != 3 or value.shape[1:] != (batch, hidden):
        node.refuse(
            f"an initial state of shape {list(value.shape)}", want=f"[ways, {batch}, {hidden}]"
        )
    end = _ENDS[index]
    if value.constant is not None and (np.abs(constant_array(value)) > end).any():
        node.refuse("an initial state that no step could reach", want=f"from {-end:g} to {end:g}")
    one = take_value(build, value, [range(way, way + 1), range(batch), range(hidden)])
    return reshape_value(build, one, (batch, hidden))


# ---- integers


def state_type(width: int = 8) -> FixedType:
    """Of the state: ±1."""
    return FixedType.per_tensor(IntType(width, signed=True), Dyadic(1, 1 - width))


def memory_type() -> FixedType:
    """Of an LSTM's cell: ±16."""
    return FixedType.per_tensor(I16, Dyadic(1, -11))


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
    fraction = _fraction(_bound(reach, kind.scales), _state_bound(second, state), site.name)
    gates = FixedType.per_tensor(I16, Dyadic(1, -fraction))
    acc = build.one(
        IntDense(kind), x, folded.constant(build, folded.codes), folded.bias_constant(build)
    )
    inner = replace(site, results=(gates,), semantics=Semantics.DYADIC)
    a = requantize(inner, build, acc, reach=reach)
    multipliers, shift = _factors(second, state, fraction)
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
        build.constant(entries(_FUNCTIONS[name]), _TABLE, hint=f"{site.name}_{name}")
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


def _per_channel(scales: Sequence[Dyadic], count: int) -> list[Fraction]:
    found = [s.as_fraction() for s in scales]
    return found * (count // len(found))


def _bound(reach: Sequence[tuple[int, int]], scales: Sequence[Dyadic]) -> float:
    """The largest real sum."""
    pairs = zip(reach, _per_channel(scales, len(reach)), strict=True)
    return max(float(max(-lo, hi) * scale) for (lo, hi), scale in pairs)


def _state_bound(weights: Weights, state: FixedType) -> float:
    sums = np.abs(weights.codes).sum(axis=1) * -state.storage.min + np.abs(weights.bias)
    scales = [state.scale * s for s in weights.type.scales]
    return _bound([(0, int(v)) for v in sums], scales)


def _fraction(of_input: float, of_state: float, where: str) -> int:
    """The most fraction bits with which both sums, and their rounding, fit 16 bits."""
    for fraction in range(_MOST_FRACTION, _LEAST_FRACTION - 1, -1):
        if max(of_input, of_state) * 2**fraction + 1 < I16.max:
            return fraction
    raise NoIntegerForm(
        "a gate's sums are too large",
        at=where,
        have=f"up to {max(of_input, of_state):g}",
        want=f"at most {2**15 >> _LEAST_FRACTION}",
        hint="scale the input, or give samples of its true range",
    )


def _factors(weights: Weights, state: FixedType, fraction: int) -> tuple[IntArray, int]:
    """Factors of 31 bits per channel, and one shift, from sums to steps of 2^-fraction."""
    count = weights.codes.shape[0]
    ratios = [
        s * state.scale.as_fraction() * 2**fraction
        for s in _per_channel(weights.type.scales, count)
    ]
    shift = min(_MOST_SHIFT, 30 - math.floor(math.log2(max(ratios))))
    factors = [min(round(ratio * Fraction(2) ** shift), 2**31 - 1) for ratio in ratios]
    return np.array(factors, np.int64), shift


def entries(function: Callable[[FloatArray], FloatArray]) -> IntArray:
    """A function at the ends of all segments of ±8, in steps of 2^-15."""
    ends = np.linspace(-REACH, REACH, SEGMENTS + 1)
    return np.clip(np.rint(function(ends) * UNIT), 1 - UNIT, UNIT - 1).astype(np.int64)
