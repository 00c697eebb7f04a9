"""Makers of matrix products, and of attention: see `operators`."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.operators_windows import bias_of
from tests.strategies import Weave


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
        *bias_of(w, count),
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

    def matrix(count: int) -> str:
        return w.constant(w.normal((depth, count), 1.0 / np.sqrt(depth)))

    if w.chance(0.5):
        return [w.apply("MatMul", x, matrix(width)) for _ in range(3)]
    row = w.apply("MatMul", x, matrix(3 * width))
    if row is not None and w.chance(0.5):
        row = w.apply("Tanh", row)
    parts = (
        None if row is None else w.many("Split", [row, w.integers(width, width, width)], 3, axis=2)
    )
    return [None, None, None] if parts is None else list(parts)
