"""What lies between two quantizers of a model, operator by operator, as exact steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType

import numpy as np

from binpoint.frontend.exact import along, apply, exact
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.numeric import monotone
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.enclosed import Factor
from binpoint.numeric.fixed import FixedType
from binpoint.numeric.monotone import Clip, Shift, Step
from binpoint.ops.affine import normalized
from binpoint.ops.rational import Rational

_UNBOUNDED = float(np.finfo(np.float32).max)


def read_function(node: OnnxNode, build: GraphBuilder) -> Value | None:
    """An operator that is a monotone function of one computed operand, per channel; else None."""
    if node.proto.domain in ("", "ai.onnx") and not any(node.codes):
        reader = _FUNCTIONS.get(node.proto.op_type)
        return reader(node, build) if reader is not None else None
    return None


def _relu(node: OnnxNode, build: GraphBuilder) -> Value | None:
    return _simple(node, build, Clip(Fraction(0), None))


def _clip(node: OnnxNode, build: GraphBuilder) -> Value | None:
    bounds: list[Fraction | None] = []
    for index, name in ((1, "min"), (2, "max")):
        array = node.optional_array(index)
        given = node.attribute(name) if array is None else array.reshape(-1)[0]
        number = np.inf if given is None else float(given)
        bounds.append(Fraction(number) if abs(number) < _UNBOUNDED else None)
    return _simple(node, build, Clip(bounds[0], bounds[1]))


def _leaky(node: OnnxNode, build: GraphBuilder) -> Value | None:
    alpha = Fraction(node.float("alpha", 0.01))
    if node.proto.op_type == "LeakyRelu":
        return _simple(node, build, monotone.Slope((alpha,))) if alpha >= 0 else None
    return None


def _negate(node: OnnxNode, build: GraphBuilder) -> Value | None:
    return _simple(node, build, monotone.scale(Fraction(-1)))


def _hard_sigmoid(node: OnnxNode, build: GraphBuilder) -> Value | None:
    alpha, beta = Fraction(node.float("alpha", 0.2)), Fraction(node.float("beta", 0.5))
    clip = Clip(Fraction(0), Fraction(1))
    return _simple(node, build, monotone.scale(alpha), Shift((beta,)), clip)


def _simple(node: OnnxNode, build: GraphBuilder, *steps: Step) -> Value | None:
    x = node.operand(0)
    return None if x.constant is not None else apply(build, x, Rational(steps), None)


def _prelu(node: OnnxNode, build: GraphBuilder) -> Value | None:
    x, slope = node.operand(0), node.operand(1)
    if x.constant is not None or slope.constant is None:
        return None
    factors = exact(slope)
    if min(factors.reshape(-1)) < 0:
        return None
    rows, axis = along(node, factors, x.shape)
    return apply(build, x, Rational((monotone.Slope(tuple(rows)),)), axis)


def _arithmetic(node: OnnxNode, build: GraphBuilder) -> Value | None:
    """Add, Sub, Mul, Div of a computed and a constant operand."""
    a, b = node.operand(0), node.operand(1)
    x, constant, first = (b, a, True) if a.constant is not None else (a, b, False)
    if x.constant is not None:
        return _scaled(node, build, a, b)
    if constant.constant is None:
        return None
    if np.broadcast_shapes(x.shape, constant.shape) != x.shape:
        return None
    numbers, axis = along(node, exact(constant), x.shape)
    steps = _arithmetic_steps(node, tuple(numbers), first=first)
    return None if steps is None else apply(build, x, Rational(steps), axis)


def _scaled(node: OnnxNode, build: GraphBuilder, a: Value, b: Value) -> Value | None:
    """Stored integers times real numbers: another scale; None for other constants."""
    codes, factor = (a, b) if a.fixed is not None else (b, a)
    kind = codes.fixed
    if node.proto.op_type != "Mul" or kind is None or factor.fixed is not None:
        return None
    assert codes.constant is not None
    numbers, axis = along(node, exact(factor), codes.shape)
    if min(numbers) <= 0 or (axis is not None and kind.axis not in (None, axis)):
        node.refuse("quantized constants times numbers that are no scale", have=str(min(numbers)))
    axis = kind.axis if axis is None else axis
    count = max(len(numbers), kind.channels)
    factors = [Dyadic.from_fraction(n) for n in numbers] * (count // len(numbers))
    scales = [*kind.scales] * (count // kind.channels)
    products = tuple(s * f for s, f in zip(scales, factors, strict=True))
    stated = FixedType(kind.storage, products, kind.zero_points, axis)
    return build.constant(codes.constant.array, fixed=stated, hint=codes.name)


def _arithmetic_steps(
    node: OnnxNode, numbers: tuple[Fraction, ...], *, first: bool
) -> tuple[Step, ...] | None:
    match node.proto.op_type:
        case "Add":
            return (Shift(numbers),)
        case "Sub" if first:
            return monotone.scale(Fraction(-1)), Shift(numbers)
        case "Sub":
            return (Shift(tuple(-n for n in numbers)),)
        case "Mul":
            return (monotone.scale(*numbers),)
        case "Div" if first:
            return None
        case _:
            if not all(numbers):
                node.refuse("division by zero")
            return (monotone.scale(*(1 / n for n in numbers)),)


def _normalization(node: OnnxNode, build: GraphBuilder) -> Value | None:
    """(x − mean) · scale / sqrt(variance + epsilon) + bias, of the float32 parameters."""
    x = normalized(node)
    parameters = [exact(node.operand(i)).reshape(-1) for i in range(1, 5)]
    if {len(p) for p in parameters} != {x.shape[1]}:
        node.refuse(f"parameters do not fit {x.shape[1]} channels")
    gamma, beta, mean, variance = (p.tolist() for p in parameters)
    epsilon = Fraction(node.float("epsilon", 1e-5))
    factors = [Factor.of(g, v + epsilon) for g, v in zip(gamma, variance, strict=True)]
    steps = (
        Shift(tuple(-m for m in mean)),
        monotone.Scale(tuple(factors)),
        Shift(tuple(beta)),
    )
    return apply(build, x, Rational(steps), 1)


_FUNCTIONS: Mapping[str, Callable[[OnnxNode, GraphBuilder], Value | None]] = MappingProxyType(
    {
        "Add": _arithmetic,
        "Sub": _arithmetic,
        "Mul": _arithmetic,
        "Div": _arithmetic,
        "BatchNormalization": _normalization,
        "Relu": _relu,
        "Clip": _clip,
        "LeakyRelu": _leaky,
        "PRelu": _prelu,
        "Neg": _negate,
        "HardSigmoid": _hard_sigmoid,
    }
)
