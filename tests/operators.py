"""What a random model is made of: makers add one operator, or a small group of them, to a `Weave`.

A maker returns what it added, or None where the operator does not fit the tensor. Those with
windows are in `operators_windows`, those that move elements in `operators_moves`, products of
matrices in `operators_products`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto

from tests.operators_moves import (
    band,
    blocks,
    concat,
    cut,
    gather,
    indexed,
    pad,
    repeat,
    reshape,
    resize,
    split,
    transpose,
)
from tests.operators_products import attention, einsum, gemm, matmul
from tests.operators_windows import (
    convolution,
    global_pool,
    pool,
    spatial_of,
    transposed_convolution,
)
from tests.strategies import Weave

Maker = Callable[[Weave, str], str | None]
_REDUCTIONS = (
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare",
    "ReduceLogSum", "ReduceLogSumExp",
)  # fmt: skip


def reduction(w: Weave, x: str) -> str | None:
    op = w.pick(_REDUCTIONS)
    rank = len(w.shape(x))
    axes = sorted(w.random.sample(range(1, rank), w.number(1, rank - 1))) if rank > 1 else []
    if not axes:
        return None
    if w.chance(0.3):
        axes = [a - rank for a in axes]
    keep = w.number(0, 1) if len(axes) < rank - 1 or rank > 2 else 1
    if op == "ReduceLogSum":
        positive = w.apply("Softplus", x)
        if positive is None:
            return None
        x = positive
    as_operand = w.opset >= (13 if op == "ReduceSum" else 18)
    if as_operand:
        return w.apply(op, x, w.integers(*axes), keepdims=keep)
    return w.apply(op, x, axes=axes, keepdims=keep)


def _second(w: Weave, x: str) -> str:
    """Another operand: a tensor that broadcasts with `x`, `x` itself, or a constant."""
    shape = w.shape(x)
    others = [n for n in w.live() if n != x and _broadcasts(w.shape(n), shape)]
    if others and w.chance(0.7):
        return w.pick(others)
    match w.number(0, 4):
        case 0:
            return x
        case 1 | 2:
            return w.constant(w.normal(()) if w.chance(0.5) else w.normal((1,)))
        case 3:
            axis = w.number(0, len(shape) - 1)
            return w.constant(w.normal([n if i == axis else 1 for i, n in enumerate(shape)]))
        case _:
            return w.constant(w.normal(shape))


def _broadcasts(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return all(m == n or 1 in (m, n) for m, n in zip(a[::-1], b[::-1], strict=False))


def binary(w: Weave, x: str) -> str | None:
    pair = [x, _second(w, x)]
    if w.chance(0.3):
        pair.reverse()
    return w.apply(w.pick(["Add", "Add", "Sub", "Mul", "Mul", "Min", "Max"]), *pair)


def division(w: Weave, x: str) -> str | None:
    shape = w.shape(x)
    size = () if w.chance(0.5) else (shape[-1],)
    divisor = w.rng.uniform(0.5, 3, size).astype(np.float32) * np.float32(w.pick([-1, 1]))
    return w.apply("Div", x, w.constant(np.asarray(divisor)))


def quotient(w: Weave, x: str) -> str | None:
    """Over something computed that is never near zero."""
    y = w.apply("Softplus", _second(w, x))
    y = y and w.apply("Add", y, w.constant(np.array(0.5, np.float32)))
    return y and w.apply("Div", x, y)


def several(w: Weave, x: str) -> str | None:
    parts = [x, *(_second(w, x) for _ in range(w.number(0, 2)))]
    return w.apply(w.pick(["Sum", "Mean"]), *parts)


def choice(w: Weave, x: str) -> str | None:
    """What one or two comparisons choose, or tell."""
    tests = [_comparison(w, x) for _ in range(w.number(1, 2))]
    condition = tests[0]
    if condition and tests[-1] and w.chance(0.5):
        condition = w.apply(w.pick(["And", "Or", "Xor"]), condition, tests[-1])
    if condition and w.chance(0.3):
        condition = w.apply("Not", condition)
    if condition is None or w.chance(0.3):
        return condition and w.apply("Cast", condition, to=TensorProto.FLOAT)
    branches = [x, _second(w, x)]
    w.random.shuffle(branches)
    return w.apply("Where", condition, *branches)


def _comparison(w: Weave, x: str) -> str | None:
    kinds = ["Greater", "Less", "Equal"] + ["GreaterOrEqual", "LessOrEqual"] * (w.opset >= 16)
    return w.apply(w.pick(kinds), x, _second(w, x))


def power(w: Weave, x: str) -> str | None:
    return w.apply("Pow", x, w.constant(np.array(w.pick([2.0, 3.0]), np.float32)))


_ANYWHERE = (
    ("Abs", 13), ("Neg", 13), ("Sigmoid", 13), ("Tanh", 13), ("Exp", 13), ("Erf", 13),
    ("Softplus", 13), ("Softsign", 13), ("HardSigmoid", 13), ("HardSwish", 14), ("Elu", 13),
    ("Selu", 13), ("Celu", 13), ("LeakyRelu", 13), ("ThresholdedRelu", 13), ("Floor", 13),
    ("Ceil", 13), ("Round", 13), ("Sign", 13), ("Sin", 13), ("Cos", 13), ("Mish", 18),
    ("Gelu", 20), ("Atan", 13), ("Asinh", 13), ("Sinh", 13), ("Cosh", 13), ("Shrink", 13),
)  # fmt: skip
_POSITIVE = ("Sqrt", "Log", "Reciprocal", "Acosh")
_NARROW = ("Acos", "Asin", "Atanh", "Tan")
"""Functions of numbers within one."""


def function(w: Weave, x: str) -> str | None:
    op = w.pick([name for name, since in _ANYWHERE if w.opset >= since])
    attributes: dict[str, Any] = {}
    if op in ("Elu", "Celu", "LeakyRelu", "ThresholdedRelu") and w.chance(0.6):
        attributes["alpha"] = w.pick([0.1, 0.25, 1.5])
    if op == "Shrink" and w.chance(0.6):
        attributes |= {"bias": 0.25, "lambd": 0.25}
    if op == "Gelu" and w.chance(0.5):
        attributes["approximate"] = "tanh"
    return w.apply(op, x, **attributes)


def positive_function(w: Weave, x: str) -> str | None:
    """A function that wants positive operands, behind one that gives them."""
    op = w.pick(_POSITIVE)
    y = w.apply(w.pick(["Sigmoid", "Softplus", "Exp"]), x)
    if y is not None and op != "Sqrt":
        y = w.apply("Add", y, w.constant(np.array(1.5 if op == "Acosh" else 0.5, np.float32)))
    return None if y is None else w.apply(op, y)


def narrow_function(w: Weave, x: str) -> str | None:
    """A function that wants operands within one, behind one that gives them."""
    y = w.apply("Tanh", x)
    y = y and w.apply("Mul", y, w.constant(np.array(0.9, np.float32)))
    return y and w.apply(w.pick(_NARROW), y)


def clamp(w: Weave, x: str) -> str | None:
    if w.chance(0.5):
        return w.apply("Relu", x)
    low, high = sorted(w.normal((2,)).tolist())
    bounds = [w.constant(np.array(v, np.float32)) for v in (low, high)]
    match w.number(0, 3):
        case 0:
            return w.apply("Clip", x, bounds[0])
        case 1:
            return w.apply("Clip", x, "", bounds[1])
        case _:
            return w.apply("Clip", x, *bounds)


def relu6(w: Weave, x: str) -> str | None:
    return w.apply(
        "Clip", x, w.constant(np.array(0, np.float32)), w.constant(np.array(6, np.float32))
    )


def prelu(w: Weave, x: str) -> str | None:
    shape = w.shape(x)
    size = (1,) if len(shape) < 3 or w.chance(0.3) else (shape[1], *[1] * (len(shape) - 2))
    return w.apply("PRelu", x, w.constant(w.normal(size, 0.5)))


def batch_norm(w: Weave, x: str) -> str | None:
    if len(w.shape(x)) < 2:
        return None
    count = w.shape(x)[1]
    parameters = [w.constant(w.normal((count,))) for _ in range(3)]
    variance = w.constant(w.rng.uniform(0.3, 2, count).astype(np.float32))
    return w.apply("BatchNormalization", x, *parameters, variance)


def layer_norm(w: Weave, x: str) -> str | None:
    shape = w.shape(x)
    if w.opset < 17 or shape[-1] < 2:
        return None
    gamma, beta = (w.constant(w.normal(shape[-1:])) for _ in range(2))
    return w.apply("LayerNormalization", x, gamma, *([beta] if w.chance(0.7) else []), axis=-1)


def channel_norm(w: Weave, x: str) -> str | None:
    """Of channels, alone or in groups, or along any axis by its Euclidean norm."""
    shape = w.shape(x)
    if w.chance(0.3):
        return w.apply("LpNormalization", x, axis=w.number(1 - len(shape), -1), p=2)
    if len(shape) < 3 or np.prod(shape[2:]) < 2:
        return None
    gamma, beta = (w.constant(w.normal(shape[1:2])) for _ in range(2))
    if w.opset < 21 or w.chance(0.5):
        return w.apply("InstanceNormalization", x, gamma, beta)
    groups = w.pick([n for n in range(1, shape[1] + 1) if shape[1] % n == 0])
    return w.apply("GroupNormalization", x, gamma, beta, num_groups=groups)


def softmax(w: Weave, x: str) -> str | None:
    rank = len(w.shape(x))
    op = "LogSoftmax" if w.chance(0.2) else "Softmax"
    return w.apply(op, x, axis=w.pick([-1, rank - 1, w.number(0, rank - 1)]))


def argmax(w: Weave, x: str) -> str | None:
    rank = len(w.shape(x))
    if rank < 2:
        return None
    return w.apply(
        w.pick(["ArgMax", "ArgMin"]),
        x,
        axis=w.pick([-1, w.number(1, rank - 1)]),
        keepdims=w.number(0, 1),
    )


def nothing(w: Weave, x: str) -> str | None:
    return w.apply(w.pick(["Identity", "Dropout"]), x)


def conv_block(w: Weave, x: str) -> str | None:
    """Convolution, perhaps normalization, a clamp: what networks are mostly made of."""
    y = convolution(w, x)
    if y is not None and w.chance(0.4):
        y = batch_norm(w, y)
    return None if y is None else clamp(w, y)


def residual(w: Weave, x: str) -> str | None:
    """A branch that joins again."""
    y = function(w, x) if spatial_of(w, x) is None else conv_block(w, x)
    if y is None or not _broadcasts(w.shape(x), w.shape(y)):
        return y
    return w.apply("Add", x, y)


MAKERS: tuple[Maker, ...] = (
    convolution, conv_block, conv_block, transposed_convolution, pool, pool, global_pool,
    reduction, binary, binary, division, power, function, function, positive_function, clamp,
    relu6, prelu, batch_norm, softmax, layer_norm, channel_norm, argmax, concat, concat, split, cut,
    pad, reshape, transpose, gather, repeat, blocks, resize, gemm, matmul, attention, nothing,
    residual, residual, quotient, several, choice, narrow_function, indexed, band, einsum,
)  # fmt: skip
