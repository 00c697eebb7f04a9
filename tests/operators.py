"""What a random model is made of: makers add one operator, or a small group of them, to a `Weave`.

A maker returns what it added, or None where the operator does not fit the tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto

from tests.strategies import Weave

Maker = Callable[[Weave, str], str | None]


def _spatial(w: Weave, x: str) -> tuple[int, ...] | None:
    shape = w.shape(x)
    return shape[2:] if len(shape) in (3, 4) else None


def _weights(w: Weave, *shape: int) -> str:
    """Weights that keep the size of numbers; now and then a channel of zeros."""
    array = w.normal(shape, 1.5 / np.sqrt(max(1, np.prod(shape[1:]))))
    if w.chance(0.1):
        array[w.number(0, shape[0] - 1)] = 0
    return w.constant(array)


def _bias(w: Weave, count: int) -> list[str]:
    return [w.constant(w.normal((count,), 0.3))] if w.chance(0.7) else []


def _groups(w: Weave, channels: int) -> int:
    options = [1, 1, channels, *(g for g in range(2, channels) if channels % g == 0)]
    return w.pick(options)


def _window(w: Weave, spatial: tuple[int, ...], *, dilated: bool = True) -> dict[str, Any]:
    """Kernel, strides, dilations and paddings that fit; no padding reaches the kernel's size."""
    kernel = [w.number(1, min(3, n)) for n in spatial]
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": [w.number(1, 3) for _ in spatial],
    }
    mode = w.number(0, 5)
    if mode == 0:
        # onnxruntime has no dilation with SAME, and computes negative paddings for longer strides.
        attributes["auto_pad"] = w.pick(["SAME_UPPER", "SAME_LOWER", "VALID"])
        attributes["strides"] = [w.number(1, k) for k in kernel]
        return attributes
    if dilated:
        fits = [2 * (k - 1) < n for k, n in zip(kernel, spatial, strict=True)]
        attributes["dilations"] = [w.number(1, 2) if fit else 1 for fit in fits]
    if mode < 4:
        attributes["pads"] = [w.number(0, k - 1) for k in kernel * 2]
    return attributes


def convolution(w: Weave, x: str) -> str | None:
    spatial = _spatial(w, x)
    if spatial is None:
        return None
    channels = w.shape(x)[1]
    groups = _groups(w, channels)
    window = _window(w, spatial)
    kernel: list[int] = window["kernel_shape"]
    count = groups * w.number(1, 3)
    weights = _weights(w, count, channels // groups, *kernel)
    return w.apply("Conv", x, weights, *_bias(w, count), group=groups, **window)


def transposed_convolution(w: Weave, x: str) -> str | None:
    spatial = _spatial(w, x)
    if spatial is None:
        return None
    channels = w.shape(x)[1]
    groups = _groups(w, channels)
    kernel = [w.number(1, 3) for _ in spatial]
    strides = [w.number(1, 3) for _ in spatial]
    each = w.number(1, 3)
    attributes: dict[str, Any] = {
        "strides": strides,
        "dilations": [w.number(1, 2) for _ in spatial],
        "group": groups,
    }
    if w.chance(0.4):
        attributes["output_padding"] = [w.number(0, s - 1) for s in strides]
    if w.chance(0.4):
        attributes["pads"] = [w.number(0, (k - 1) // 2) for k in kernel * 2]
    return w.apply(
        "ConvTranspose",
        x,
        _weights(w, channels, each, *kernel),
        *_bias(w, each * groups),
        **attributes,
    )


def pool(w: Weave, x: str) -> str | None:
    spatial = _spatial(w, x)
    if spatial is None:
        return None
    op = w.pick(["MaxPool", "AveragePool"])
    window = _window(w, spatial, dilated=op == "MaxPool" or w.opset >= 19)
    if "auto_pad" not in window and w.chance(0.3):
        window["ceil_mode"] = 1
    if op == "AveragePool" and w.chance(0.5):
        window["count_include_pad"] = 1
    return w.apply(op, x, **window)


def global_pool(w: Weave, x: str) -> str | None:
    return w.apply(w.pick(["GlobalAveragePool", "GlobalMaxPool"]), x) if _spatial(w, x) else None


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


def concat(w: Weave, x: str) -> str | None:
    shape = w.shape(x)
    axis = w.number(0, len(shape) - 1)
    fits = [n for n in w.live() if _joins(w.shape(n), shape, axis)]
    parts = [x, *(w.pick(fits) for _ in range(w.number(1, 2)))]
    if w.chance(0.2):
        parts.append(w.constant(w.normal(shape)))
    w.random.shuffle(parts)
    return w.apply("Concat", *parts, axis=axis)


def _joins(a: tuple[int, ...], b: tuple[int, ...], axis: int) -> bool:
    return len(a) == len(b) and a[:axis] + a[axis + 1 :] == b[:axis] + b[axis + 1 :]


def split(w: Weave, x: str) -> str | None:
    shape = w.shape(x)
    axis = w.pick([i for i, n in enumerate(shape) if n > 1] or [0])
    if shape[axis] < 2:
        return None
    first = w.number(1, shape[axis] - 1)
    names = w.many("Split", [x, w.integers(first, shape[axis] - first)], 2, axis=axis)
    return None if names is None else names[-1]


def cut(w: Weave, x: str) -> str | None:
    shape = w.shape(x)
    axis = w.number(0, len(shape) - 1)
    size = shape[axis]
    if w.chance(0.2):
        return w.apply(
            "Slice", x, w.integers(-1), w.integers(-size - 1), w.integers(axis), w.integers(-1)
        )
    start = w.number(0, size - 1)
    stop = w.number(start + 1, size + 2)
    return w.apply(
        "Slice",
        x,
        w.integers(start),
        w.integers(stop),
        w.integers(axis),
        w.integers(w.number(1, 2)),
    )


def pad(w: Weave, x: str) -> str | None:
    shape = w.shape(x)
    mode = w.pick(["constant", "constant", "reflect", "edge"])
    room = [0 if i == 0 else min(2, n - 1) if mode == "reflect" else 2 for i, n in enumerate(shape)]
    pads = w.integers(*(w.number(0, r) for r in room + room))
    if mode != "constant" or w.chance(0.4):
        return w.apply("Pad", x, pads, mode=mode)
    return w.apply("Pad", x, pads, w.constant(np.array(w.pick([0.0, 0.5, -1.0]), np.float32)))


def _factors(w: Weave, count: int) -> list[int]:
    """Sizes of which `count` is the product."""
    sizes: list[int] = []
    while count > 1 and len(sizes) < 3:
        divisor = w.pick([d for d in range(1, count + 1) if count % d == 0])
        sizes.append(divisor)
        count //= divisor
    return [*sizes, count]


def reshape(w: Weave, x: str) -> str | None:
    shape = w.shape(x)
    match w.number(0, 3):
        case 0:
            return w.apply("Flatten", x, axis=1)
        case 1:
            ones = [i for i, n in enumerate(shape) if n == 1 and i > 0]
            return w.apply("Squeeze", x, w.integers(w.pick(ones))) if ones else None
        case 2:
            return (
                w.apply("Unsqueeze", x, w.integers(w.number(1, len(shape))))
                if len(shape) < 4
                else None
            )
        case _:
            sizes = _factors(w, int(np.prod(shape[1:])))[:3]
            return w.apply("Reshape", x, w.integers(0 if w.chance(0.5) else 1, *sizes[:-1], -1))


def transpose(w: Weave, x: str) -> str | None:
    rank = len(w.shape(x))
    order = [0, *w.random.sample(range(1, rank), rank - 1)]
    return w.apply("Transpose", x, perm=order)


def gather(w: Weave, x: str) -> str | None:
    shape = w.shape(x)
    axis = w.number(0, len(shape) - 1)
    size = shape[axis]
    indices = [w.number(-size, size - 1) for _ in range(w.number(1, 5))]
    return w.apply("Gather", x, w.integers(*indices), axis=axis)


def indexed(w: Weave, x: str) -> str | None:
    """Elements at constant places, or others in their stead."""
    shape = w.shape(x)
    axis = w.number(0, len(shape) - 1)
    if w.chance(0.5):
        sizes = [w.number(1, 4) if i == axis else w.number(1, n) for i, n in enumerate(shape)]
        places = w.rng.integers(-shape[axis], shape[axis], sizes)
        if w.chance(0.5):
            return w.apply("GatherElements", x, w.constant(places), axis=axis)
        unique = np.broadcast_to(w.rng.permutation(shape[axis])[:1], sizes)
        unique = np.take(unique, [0], axis)
        updates = w.constant(w.normal(unique.shape))
        return w.apply("ScatterElements", x, w.constant(unique), updates, axis=axis)
    places = np.stack([w.rng.integers(0, n, 3) for n in shape[: axis + 1]], -1)
    if w.chance(0.5):
        return w.apply("GatherND", x, w.constant(places))
    first = np.unique(places, axis=0)
    return w.apply(
        "ScatterND", x, w.constant(first), w.constant(w.normal((len(first), *shape[axis + 1 :])))
    )


def band(w: Weave, x: str) -> str | None:
    shape = w.shape(x)
    if len(shape) == 4 and w.chance(0.4):
        return w.apply("LRN", x, size=w.pick([1, 3, 5]), alpha=w.pick([1e-4, 0.5]), bias=1.0)
    axis = w.constant(np.array(w.number(0, len(shape) - 1), np.int64))
    return w.apply("CumSum", x, axis, exclusive=w.number(0, 1), reverse=w.number(0, 1))


def repeat(w: Weave, x: str) -> str | None:
    shape = w.shape(x)
    if w.chance(0.5):
        return w.apply("Tile", x, w.integers(1, *(w.number(1, 2) for _ in shape[1:])))
    return w.apply(
        "Expand", x, w.integers(1, *(w.number(1, 3) if n == 1 else n for n in shape[1:]))
    )


def blocks(w: Weave, x: str) -> str | None:
    shape = w.shape(x)
    if len(shape) != 4:
        return None
    if shape[1] % 4 == 0:
        return w.apply("DepthToSpace", x, blocksize=2, mode=w.pick(["DCR", "CRD"]))
    if shape[2] % 2 == 0 and shape[3] % 2 == 0:
        return w.apply("SpaceToDepth", x, blocksize=2)
    return None


def resize(w: Weave, x: str) -> str | None:
    spatial = _spatial(w, x)
    if spatial is None:
        return None
    scales = [1.0, 1.0, *(float(w.number(1, 3)) for _ in spatial)]
    attributes: dict[str, Any] = {"mode": w.pick(["nearest", "linear"])}
    attributes["coordinate_transformation_mode"] = w.pick(
        ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
    )
    if attributes["mode"] == "nearest":
        attributes["nearest_mode"] = w.pick(
            ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]
        )
    return w.apply("Resize", x, "", w.constant(np.array(scales, np.float32)), **attributes)


def gemm(w: Weave, x: str) -> str | None:
    shape = w.shape(x)
    if len(shape) != 2:
        flat = w.apply("Flatten", x, axis=1)
        return None if flat is None else gemm(w, flat)
    count, depth, turned = w.number(1, 8), shape[1], w.number(0, 1)
    weights = w.normal((count, depth), 1.5 / np.sqrt(depth))
    attributes: dict[str, Any] = {"transB": turned}
    if w.chance(0.3):
        attributes |= {"alpha": 0.5, "beta": 2.0}
    return w.apply(
        "Gemm",
        x,
        w.constant(weights if turned else weights.T.copy()),
        *_bias(w, count),
        **attributes,
    )


def matmul(w: Weave, x: str) -> str | None:
    shape = w.shape(x)
    if len(shape) < 2:
        return None
    if len(shape) > 2 and w.chance(0.4):
        order = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
        turned = w.apply("Transpose", x, perm=order)
        return None if turned is None else w.apply("MatMul", x, turned)
    y = w.apply(
        "MatMul", x, w.constant(w.normal((shape[-1], w.number(1, 8)), 1.5 / np.sqrt(shape[-1])))
    )
    return (
        w.apply("Add", y, w.constant(w.normal(w.shape(y)[-1:], 0.3)))
        if y is not None and w.chance(0.5)
        else y
    )


def einsum(w: Weave, x: str) -> str | None:
    """Sums, products with constants or with itself, and transpositions."""
    shape = w.shape(x)
    letters = "abcd"[: len(shape)]
    last = shape[-1]
    match w.number(0, 4):
        case 0:
            kept = w.random.sample(letters, w.number(1, len(letters)))
            return w.apply("Einsum", x, equation=f"{letters}->{''.join(kept)}")
        case 1:
            weights = w.constant(w.normal((last, w.number(1, 6)), 1.5 / np.sqrt(last)))
            return w.apply("Einsum", x, weights, equation=f"...{letters[-1]},{letters[-1]}z->z...")
        case 2:
            weights = w.constant(w.normal((w.number(1, 6), last), 1.5 / np.sqrt(last)))
            return w.apply(
                "Einsum", weights, x, equation=f"z{letters[-1]},{letters}->{letters[:-1]}z"
            )
        case 3:
            scales = w.constant(w.normal(shape[:1]))
            return w.apply("Einsum", x, scales, equation=f"{letters},a->{letters}")
        case _:
            other = letters[:-2] + "yz"[-len(letters) + len(letters[:-2]) :]
            other = other[:-1] + letters[-1]
            ends = letters[:-1] + other[-2:-1] if len(letters) > 1 else ""
            return w.apply("Einsum", x, x, equation=f"{letters},{other}->{ends}")


def attention(w: Weave, x: str) -> str | None:
    """Heads of self-attention, from one projection or three, or of the tokens themselves."""
    shape = w.shape(x)
    if len(shape) != 3:
        return None
    batch, tokens, _ = shape
    heads, size = w.number(1, 3), w.pick((5, 8, 12, 16))
    parts = _projected(w, x, heads * size)
    apart = w.integers(batch, tokens, heads, size)
    moved: list[str | None] = []
    for part, order in zip(parts, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True):
        rows = part and w.apply("Reshape", part, apart)
        moved.append(rows and w.apply("Transpose", rows, perm=order))
    q, k, v = moved
    scores = q and k and w.apply("MatMul", q, k)
    shares = scores and w.apply("Softmax", scores, axis=-1) if w.chance(0.8) else scores
    seen = shares and v and w.apply("MatMul", shares, v)
    rows = seen and w.apply("Transpose", seen, perm=[0, 2, 1, 3])
    return rows and w.apply("Reshape", rows, w.integers(batch, tokens, heads * size))


def _projected(w: Weave, x: str, width: int) -> list[str | None]:
    """Queries, keys and values, each ``[batch, tokens, width]``."""
    depth = w.shape(x)[-1]

    def weights(count: int) -> str:
        return w.constant(w.normal((depth, count), 1.0 / np.sqrt(depth)))

    if w.chance(0.5):
        return [w.apply("MatMul", x, weights(width)) for _ in range(3)]
    row = w.apply("MatMul", x, weights(3 * width))
    if row is not None and w.chance(0.5):
        row = w.apply("Tanh", row)
    parts = (
        None if row is None else w.many("Split", [row, w.integers(width, width, width)], 3, axis=2)
    )
    return [None, None, None] if parts is None else list(parts)


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
    y = function(w, x) if _spatial(w, x) is None else conv_block(w, x)
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
