"""QONNX: quantizers of any width, and what lies between them, as exact steps.

Quantizers of a constant make stored integers, as QONNX computes them in float32; of a computed
tensor they make a `Rational`, as do normalisation, bias and clipping (`frontend.between`).
QuantizeLinear with a Clip of its codes (Brevitas's QCDQ) is read the same way, in `frontend.qcdq`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from binpoint.errors import InvalidConstant
from binpoint.frontend.exact import along, apply, spread
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.numeric import monotone
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import FixedType, IntType
from binpoint.numeric.monotone import Clip, Count, Round, Rule, Shift
from binpoint.ops.rational import Quantizer, Rational, rounding

DOMAINS = frozenset(("qonnx.custom_op.general", "finn.custom_op.general", "onnx.brevitas", ""))
"""Where exporters put the quantizers; some write none at all."""

_RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "ROUND": Rule.HALF_EVEN,
        "HALF_EVEN": Rule.HALF_EVEN,
        "HALF_UP": Rule.HALF_AWAY,
        "HALF_DOWN": Rule.HALF_ZERO,
        "FLOOR": Rule.FLOOR,
        "CEIL": Rule.CEIL,
        "UP": Rule.AWAY,
        "DOWN": Rule.ZERO,
    }
)
_WIDEST = 16
_WIDEST_CONSTANT = 32


def is_rational(graph: onnx.GraphProto, *, exact: bool = False) -> bool:
    """Whether a model states quantizers of QONNX, or clips codes; if `exact`, has any quantizer.

    Codes are what QuantizeLinear gives or DequantizeLinear reads, so also stored weights.
    """
    made = {name for n in graph.node if n.op_type == "QuantizeLinear" for name in n.output[:1]}
    read = {name for n in graph.node if n.op_type == "DequantizeLinear" for name in n.input[:1]}
    return (exact and bool(made)) or any(
        is_quantizer(node)
        or (
            node.op_type == "Clip"
            and not (made.isdisjoint(node.input[:1]) and read.isdisjoint(node.output[:1]))
        )
        for node in graph.node
    )


def is_quantizer(node: onnx.NodeProto) -> bool:
    """Whether a node is one of QONNX's quantizers."""
    return node.op_type in _READERS and node.domain in DOMAINS


def read_quantizer(node: OnnxNode, build: GraphBuilder) -> Value:
    """The result of one of QONNX's quantizers.

    Raises:
        UnsupportedOperator: a form without meaning in integers, by name.
        InvalidConstant: a scale or zero point that is none, or thresholds out of order.
    """
    return _READERS[node.proto.op_type](node, build)


def _float_quant(node: OnnxNode, _: GraphBuilder) -> Value:
    node.refuse(
        "floating-point codes have no integer form",
        hint="train with integer quantizers (Quant, BipolarQuant), not minifloat ones",
    )


# ---- Quant and BipolarQuant


@dataclass(frozen=True, slots=True)
class Statement:
    """What a quantizer node says: scales and zero points as arrays that broadcast, codes, rule."""

    scale: NDArray[Any]
    zero: NDArray[Any]
    storage: IntType
    lo: int
    hi: int
    rule: Rule
    bipolar: bool = False


def _quant(node: OnnxNode, build: GraphBuilder) -> Value:
    widest = _WIDEST_CONSTANT if node.operand(0).constant is not None else _WIDEST
    return _state(node, build, stated(node, 1, widest=widest))


def stated(node: OnnxNode, first: int, prefix: str = "", *, widest: int = _WIDEST) -> Statement:
    """The quantizer that three operands state, from `first` on, and attributes with a prefix."""
    bits = _bits(node, first + 2, widest)
    signed = bool(node.int(f"{prefix}signed", 1))
    narrow = bool(node.int(f"{prefix}narrow", node.int(f"{prefix}narrow_range", 1)))
    scale, zero = _scale(node, first), _zero(node, first + 1)
    if bits == 1 and signed:
        return _bipolar(scale, zero)
    storage = IntType(bits, signed)
    lo = storage.min + (1 if signed and narrow else 0)
    hi = storage.max - (1 if not signed and narrow else 0)
    return Statement(scale, zero, storage, lo, hi, _rule(node, "ROUND", prefix))


def _bipolar_quant(node: OnnxNode, build: GraphBuilder) -> Value:
    return _state(node, build, _bipolar(_scale(node, 1), np.zeros(1, np.float32)))


def _bipolar(scale: NDArray[Any], zero: NDArray[Any]) -> Statement:
    """Codes −1 and 1, stored in two bits."""
    return Statement(scale, zero, IntType(2, signed=True), -1, 1, Rule.HALF_EVEN, bipolar=True)


def _state(node: OnnxNode, build: GraphBuilder, says: Statement) -> Value:
    build.graph.quantized = True
    x = node.operand(0)
    if x.constant is not None:
        return _constant(node, build, x, says)
    return rounded(node, build, x, says)


def rounded(node: OnnxNode, build: GraphBuilder, x: Value, says: Statement) -> Value:
    """A computed tensor rounded to the codes that a quantizer states."""
    scales, axis = along(node, says.scale, x.shape)
    zeros, zero_axis = along(node, says.zero, x.shape)
    if axis is not None and zero_axis is not None and axis != zero_axis:
        node.refuse("scales and zero points along different axes")
    axis = axis if axis is not None else zero_axis
    kind = _type(node, says.storage, scales, zeros, None if axis is None else len(x.shape) - 1)
    quantizer = Quantizer(kind, says.lo, says.hi)
    steps = rounding(quantizer, says.rule)
    if says.bipolar:
        steps = (*steps[:2], Count(((Fraction(0),),)), monotone.scale(Fraction(2)), _MINUS_ONE)
    return apply(build, x, Rational(steps, quantizer), axis)


_MINUS_ONE = Shift((Fraction(-1),))


def _constant(node: OnnxNode, build: GraphBuilder, x: Value, says: Statement) -> Value:
    """Codes of a constant, in float32 as QONNX computes them: divide, add, clamp, round."""
    real = constant_array(x).astype(np.float32)
    scales, axis = along(node, says.scale, x.shape)
    zeros, zero_axis = along(node, says.zero, x.shape)
    axis = axis if axis is not None else zero_axis
    shaped = says.scale.reshape(spread(says.scale, len(x.shape)))
    total = (real / shaped).astype(np.float32) + says.zero.reshape(spread(says.zero, len(x.shape)))
    if says.bipolar:
        codes = np.where(total >= 0, 1, -1)
    else:
        codes = says.rule.apply(np.clip(total.astype(np.float64), says.lo, says.hi))
    kind = _type(node, says.storage, scales, zeros, axis)
    return build.constant(codes.astype(kind.storage.dtype), fixed=kind, hint=node.outputs[0])


def _type(
    node: OnnxNode, storage: IntType, scales: NDArray[Any], zeros: NDArray[Any], axis: int | None
) -> FixedType:
    dyadics = tuple(Dyadic.from_float(float(s)) for s in scales)
    whole = tuple(int(z) for z in zeros)
    if min(whole) < storage.min or max(whole) > storage.max:
        raise InvalidConstant(
            f"`{node.op}` has a zero point outside its type", at=node.place, have=str(whole[0]),
            want=str(storage),
        )  # fmt: skip
    if axis is None:
        return FixedType.per_tensor(storage, dyadics[0], whole[0])
    count = max(len(dyadics), len(whole))
    return FixedType(
        storage, dyadics * (count // len(dyadics)), whole * (count // len(whole)), axis
    )


def _scale(node: OnnxNode, index: int) -> NDArray[Any]:
    scale = np.asarray(node.array(index), np.float32)
    bad = scale[~(np.isfinite(scale) & (scale > 0))]
    if bad.size:
        raise InvalidConstant(
            f"`{node.op}` has a scale that is not positive and finite",
            at=node.place,
            have=str(bad.reshape(-1)[0]),
            want="0 < scale < inf",
            hint="a layer without range may have been exported before it saw data",
        )
    return scale


def _zero(node: OnnxNode, index: int) -> NDArray[Any]:
    zero = np.asarray(node.array(index), np.float32)
    if (zero != np.rint(zero)).any():
        raise InvalidConstant(
            f"`{node.op}` has a zero point that is no integer",
            at=node.place,
            have=str(zero[zero != np.rint(zero)].reshape(-1)[0]),
        )
    return zero


def _bits(node: OnnxNode, index: int, widest: int) -> int:
    array = np.asarray(node.array(index), np.float64).reshape(-1)
    width = float(array[0]) if array.size else 0.0
    if not array.size or (array != width).any() or width != int(width):
        shown = ", ".join(f"{v:g}" for v in np.unique(array))
        raise InvalidConstant(
            f"`{node.op}` has a bit width that is not one integer", at=node.place, have=shown,
            want=f"1 to {widest}", hint="export with a fixed bit width; round a learned one",
        )  # fmt: skip
    if not 1 <= width <= widest:
        node.refuse(f"{int(width)} bits", want=f"1 to {widest}")
    return int(width)


def _rule(node: OnnxNode, default: str, prefix: str = "") -> Rule:
    name = node.string(f"{prefix}rounding_mode", default).upper()
    if name not in _RULES:
        node.refuse(f"rounding mode {name}", want=", ".join(sorted(_RULES)))
    return _RULES[name]


# ---- Trunc


def _trunc(node: OnnxNode, build: GraphBuilder) -> Value:
    """Codes of a stated grid over a power of two: version 1 keeps the scale, 2 states one."""
    x = node.operand(0)
    if x.constant is not None:
        node.refuse("of a constant", hint="store the truncated constant")
    build.graph.quantized = True
    scale, zero = _one(node, _scale(node, 1)), _one(node, _zero(node, 2))
    second = len(node.inputs) > 5
    bits = _bits(node, 5 if second else 4, _WIDEST)
    signed, narrow = bool(node.int("signed", 1)), bool(node.int("narrow", 0))
    if second:
        result = _one(node, _scale(node, 4))
        divisor = Fraction(2) ** round(math.log2(float(result) / float(scale)))
        storage = IntType(bits, signed)
        lo = storage.min + (1 if signed and narrow else 0)
        hi = storage.max - (1 if not signed and narrow else 0)
    else:
        result = scale
        given = _bits(node, 3, _WIDEST_CONSTANT)
        divisor = Fraction(2) ** (given - bits)
        # The first version clamps nothing: the codes are all that operands of both signs can give.
        lo, hi = -(1 << (given - 1)), (1 << given) - 1
        lo, hi = math.floor(lo / divisor), math.ceil(hi / divisor)
        storage = _smallest(lo, hi)
    moved = Fraction(float(zero)) / (divisor if second else 1)
    if moved.denominator != 1:
        node.refuse("a zero point that the truncation does not divide", have=str(moved))
    kind = _type(node, storage, np.array([result]), np.array([int(moved)]), None)
    inside = (monotone.scale(1 / Fraction(float(scale))), Shift((Fraction(float(zero)),)))
    clip = Clip(Fraction(lo), Fraction(hi))
    steps = (
        *inside, Round(Rule.HALF_EVEN), monotone.scale(1 / divisor), clip,
        Round(_rule(node, "FLOOR")),
    )  # fmt: skip
    return apply(build, x, Rational(steps, Quantizer(kind, lo, hi)), None)


def _one(node: OnnxNode, array: NDArray[Any]) -> Any:
    if array.size != 1:
        node.refuse("one scale and zero point per channel", want="one for all")
    return array.reshape(-1)[0]


# ---- MultiThreshold


def _multi_threshold(node: OnnxNode, build: GraphBuilder) -> Value:
    """out_scale · (thresholds reached) + out_bias, the bias a multiple of half the scale."""
    x, table = node.operand(0), np.asarray(node.array(1), np.float32)
    if table.ndim != 2 or not table.shape[1]:
        node.refuse(f"thresholds of shape {list(table.shape)}", want="[channels, steps]")
    if (np.diff(table, axis=1) < 0).any():
        channel = int(np.argwhere(np.diff(table, axis=1) < 0)[0][0])
        raise InvalidConstant(
            f"`{node.op}` has thresholds out of order", at=node.place, have=f"channel {channel}",
            want="ascending thresholds", hint="sort the thresholds of each channel",
        )  # fmt: skip
    build.graph.quantized = True
    axis = _threshold_axis(node, len(x.shape))
    if table.shape[0] not in (1, x.shape[axis]):
        node.refuse(f"thresholds of {table.shape[0]} channels for {x.shape[axis]}")
    out, bias = Fraction(node.float("out_scale", 1.0)), Fraction(node.float("out_bias", 0.0))
    if out <= 0 or (2 * bias / out).denominator != 1:
        node.refuse("an out_bias that is no multiple of half the out_scale", have=f"{out}, {bias}")
    # An odd multiple of half the scale: codes two apart on half the scale, as for -1 and 1.
    unit = 1 if (bias / out).denominator == 1 else 2
    lo = int(bias / out * unit)
    hi = lo + unit * table.shape[1]
    kind = FixedType.per_tensor(_smallest(lo, hi), Dyadic.from_fraction(out / unit))
    rows = tuple(tuple(Fraction(float(t)) for t in row) for row in table)
    steps = (Count(rows), monotone.scale(Fraction(unit)), Shift((Fraction(lo),)))
    op = Rational(steps, Quantizer(kind, lo, hi))
    return apply(build, x, op, axis if len(rows) > 1 else None)


def _threshold_axis(node: OnnxNode, rank: int) -> int:
    layout = node.string("data_layout", "") or {2: "NC", 3: "NWC", 4: "NCHW"}.get(rank, "")
    axis = layout.index("C") if "C" in layout else 1
    if axis >= rank:
        node.refuse(f"data_layout {layout} for {rank} axes")
    return axis


def _smallest(lo: int, hi: int) -> IntType:
    """The narrowest type that holds a range."""
    for width in range(1, _WIDEST_CONSTANT + 1):
        for signed in (False, True):
            storage = IntType(width, signed)
            if storage.min <= lo and hi <= storage.max:
                return storage
    raise InvalidConstant("a range of codes leaves 32 bits", have=f"{lo} to {hi}")


_READERS: Mapping[str, Callable[[OnnxNode, GraphBuilder], Value]] = MappingProxyType(
    {
        "Quant": _quant,
        "IntQuant": _quant,
        "BipolarQuant": _bipolar_quant,
        "Trunc": _trunc,
        "MultiThreshold": _multi_threshold,
        "FloatQuant": _float_quant,
    }
)
