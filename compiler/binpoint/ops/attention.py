"""Attention as one operator: Attention (ai.onnx), Attention and MultiHeadAttention (com.microsoft).

Each is read as what it stands for: heads as a reshape and a transposition,
softmax(scale·Q·Kᵀ + bias)·V as two matrix products and a Softmax, masks as `Mask`. So the compiler
knows one form of attention, the one that exporters write when they take it apart.

References: ONNX operator Attention, opset 23 and 24; onnxruntime's contrib operators.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import FloatArray, Reader
from binpoint.ops.dense import Dense, MatMul
from binpoint.ops.elementwise import Binary, Kind, Scalar
from binpoint.ops.mask import LOWEST, mask_value
from binpoint.ops.shape import reshape_value, transpose_value
from binpoint.ops.slices import take_value
from binpoint.ops.softmax import Softmax
from binpoint.ops.unary import Unary

_FILTER = -10000.0
_ATTRIBUTES = frozenset(
    {
        "is_causal", "kv_num_heads", "q_num_heads", "qk_matmul_output_mode", "scale", "softcap",
        "softmax_precision",
    }
)  # fmt: skip
"""What is known of an Attention of ai.onnx: windows, for one, are not."""


@dataclass(frozen=True, slots=True)
class _Heads:
    """Operands of attention, ``[batch, heads, tokens, size]`` each, and what is added to scores."""

    q: Value
    k: Value
    v: Value
    scale: float
    causal: bool = False
    softcap: float = 0.0
    bias: Value | None = None
    keep: FloatArray | None = None
    """1 where a key is seen, 0 where not; broadcasts to the scores."""


class Attention(Reader):
    """y = softmax(scale·Q·Kᵀ + bias)·V for each head; read as the ops that this is made of."""

    onnx: ClassVar[tuple[str, ...]] = (
        "Attention",
        "com.microsoft.Attention",
        "com.microsoft.MultiHeadAttention",
    )

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """Refuses what depends on earlier calls: past keys, present keys, caches."""
        if any(v.fixed is not None for v in node.inputs if v is not None):
            node.refuse("quantized operands", hint="export attention as MatMul and Softmax")
        match node.op:
            case "Attention":
                return _onnx(node, build)
            case "com.microsoft.Attention":
                return _packed(node, build)
            case _:
                return _multi_head(node, build)


# ---- the three operators


def _onnx(node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
    """Attention of ai.onnx, on three or four axes."""
    for attribute in node.proto.attribute:
        if attribute.name not in _ATTRIBUTES:
            node.refuse(f"`{attribute.name}`", hint="export a constant attn_mask")
    q, k, v = (node.operand(i) for i in range(3))
    if any(node.has(i) for i in (4, 5)) or any(node.outputs[1:3]):
        node.refuse("past or present keys", hint="export the model without a cache")
    if any(node.outputs[3:]):
        node.refuse("scores as a result")
    if node.has(6):
        node.refuse("sequences that are padded at run time", hint="export a constant attn_mask")
    flat = len(q.shape) == 3
    if flat:
        counts = node.int("q_num_heads", 0), node.int("kv_num_heads", 0)
        if min(counts) < 1:
            node.refuse("q_num_heads and kv_num_heads are missing")
        q, k, v = (
            _split(node, build, x, n) for x, n in zip((q, k, v), (*counts, counts[1]), strict=True)
        )
    bias, keep = _attn_mask(node, build, 3)
    heads = _Heads(
        q,
        k,
        v,
        node.float("scale", 1 / math.sqrt(q.shape[-1])),
        bool(node.int("is_causal", 0)),
        node.float("softcap", 0.0),
        bias,
        keep,
    )
    y = _attend(node, build, heads)
    return (_joined(build, y) if flat else y,)


def _packed(node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
    """Attention of com.microsoft: the projection to Q, K and V is part of it."""
    x, heads = node.operand(0), node.int("num_heads", 0)
    weights, total = node.array(1).astype(np.float32), node.array(1).shape[-1]
    if node.has(4) or any(node.outputs[1:]) or node.int("do_rotary", 0):
        node.refuse("past or present keys, or rotary embedding", hint="export without them")
    sizes = node.ints("qkv_hidden_sizes", (total // 3,) * 3)
    if len(sizes) != 3 or sum(sizes) != total or heads < 1 or sizes[0] != sizes[1]:
        node.refuse(f"hidden sizes {list(sizes)}, {heads} heads", want=f"three that make {total}")
    bias = node.optional_array(2)
    start = np.zeros(total, np.float32) if bias is None else bias.astype(np.float32)
    ends = np.cumsum((0, *sizes))
    parts = [
        build.one(
            Dense(),
            x,
            build.constant(
                np.ascontiguousarray(weights[:, a:b].T), hint=f"{build.hint}_{name}_weights"
            ),
            build.constant(start[a:b], hint=f"{build.hint}_{name}_bias"),
            hint=f"{build.hint}_{name}",
        )
        for name, a, b in zip("qkv", ends[:-1], ends[1:], strict=True)
    ]
    q, k, v = (_split(node, build, part, heads) for part in parts)
    return _microsoft(node, build, (q, k, v), mask=3, bias=5)


def _multi_head(node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
    """MultiHeadAttention of com.microsoft: Q, K and V are projected before."""
    count = node.int("num_heads", 0)
    if count < 1:
        node.refuse("num_heads is missing")
    if any(node.has(i) for i in (6, 7)) or any(node.outputs[1:]):
        node.refuse("past or present keys", hint="export the model without a cache")
    query = node.operand(0)
    if not node.has(2):
        node.refuse("queries, keys and values in one operand", hint="export them apart")
    operands = _with_bias(node, build, [query, node.operand(1), node.operand(2)])
    q, k, v = (_split(node, build, x, count) for x in operands)
    return _microsoft(node, build, (q, k, v), mask=4, bias=5)


def _microsoft(
    node: OnnxNode, build: GraphBuilder, qkv: tuple[Value, Value, Value], *, mask: int, bias: int
) -> tuple[Value, ...]:
    """What both of them share: key masks, biases, direction, scale."""
    q, k, v = qkv
    if node.float("mask_filter_value", _FILTER) > LOWEST:
        node.refuse(f"a mask_filter_value above {LOWEST:g}")
    keep = _key_mask(node, mask, q.shape[2], k.shape[2]) if node.has(mask) else None
    added, seen = _attn_mask(node, build, bias)
    if keep is not None and seen is not None:
        keep = keep * seen
    scale = node.float("scale", 0.0) or 1 / math.sqrt(q.shape[-1])
    causal = bool(node.int("unidirectional", 0))
    both = keep if keep is not None else seen
    y = _attend(node, build, _Heads(q, k, v, scale, causal, 0.0, added, both))
    return (_joined(build, y),)


# ---- what they are made of


def _attend(node: OnnxNode, build: GraphBuilder, heads: _Heads) -> Value:
    """The products and the softmax; keys and values are repeated for groups of heads."""
    q, (k, v) = heads.q, (_repeated(node, build, x, heads.q.shape[1]) for x in (heads.k, heads.v))
    scores = build.one(MatMul(), q, transpose_value(build, k, (0, 1, 3, 2)))
    if heads.scale != 1.0:
        scores = build.one(Scalar(Kind.MUL, float(np.float32(heads.scale))), scores)
    if heads.softcap > 0:
        scores = build.one(Scalar(Kind.MUL, 1 / heads.softcap), scores)
        scores = build.one(Scalar(Kind.MUL, heads.softcap), build.one(Unary("Tanh"), scores))
    if heads.bias is not None:
        shape = heads.bias.shape
        bias = reshape_value(build, heads.bias, (1,) * (4 - len(shape)) + shape)
        scores = build.one(Binary(Kind.ADD), scores, bias)
    keep = np.ones((1, 1, 1, 1), bool) if heads.keep is None else heads.keep != 0
    if heads.causal:
        rows, columns = scores.shape[2:]
        keep = keep & np.tri(rows, columns, dtype=bool)
    if not np.broadcast_to(keep, scores.shape).any(axis=-1).all():
        node.refuse("a query that sees no key", hint="mask one key less")
    shares = build.one(Softmax(3), mask_value(build, scores, keep))
    return build.one(MatMul(), shares, v)


def _split(node: OnnxNode, build: GraphBuilder, x: Value, heads: int) -> Value:
    """``[batch, tokens, heads·size]`` as ``[batch, heads, tokens, size]``; four axes stay."""
    if len(x.shape) == 4:
        return x
    if len(x.shape) != 3 or x.shape[2] % heads:
        node.refuse(f"an operand of shape {list(x.shape)} for {heads} heads")
    batch, tokens, width = x.shape
    apart = reshape_value(build, x, (batch, tokens, heads, width // heads))
    return transpose_value(build, apart, (0, 2, 1, 3))


def _joined(build: GraphBuilder, y: Value) -> Value:
    """Heads side by side again."""
    batch, heads, tokens, size = y.shape
    together = transpose_value(build, y, (0, 2, 1, 3))
    return reshape_value(build, together, (batch, tokens, heads * size))


def _with_bias(node: OnnxNode, build: GraphBuilder, operands: list[Value]) -> list[Value]:
    """The bias of the projections, side by side in one constant."""
    if not node.has(3):
        return operands
    bias = node.array(3).astype(np.float32).reshape(-1)
    found: list[Value] = []
    for x in operands:
        if len(x.shape) != 3 or bias.size < x.shape[2]:
            node.refuse(f"a bias for an operand of shape {list(x.shape)}")
        own, bias = bias[: x.shape[2]], bias[x.shape[2] :]
        found.append(build.one(Binary(Kind.ADD), x, build.constant(own.reshape(1, 1, -1))))
    return found


def _repeated(node: OnnxNode, build: GraphBuilder, x: Value, heads: int) -> Value:
    """Each head of keys or values for its group of queries' heads."""
    if x.shape[1] == heads:
        return x
    if heads % x.shape[1]:
        node.refuse(f"{heads} heads of queries for {x.shape[1]} of keys")
    group = heads // x.shape[1]
    maps = [range(n) for n in x.shape]
    return take_value(build, x, [maps[0], [i // group for i in range(heads)], *maps[2:]])


def _attn_mask(
    node: OnnxNode, build: GraphBuilder, index: int
) -> tuple[Value | None, FloatArray | None]:
    """A bias that is added to scores, or what a mask of truth values keeps."""
    if not node.has(index):
        return None, None
    value = node.operand(index)
    if value.constant is None:
        return value, None
    array = value.constant.array
    if array.dtype.kind == "b":
        return None, array.reshape((1,) * (4 - array.ndim) + array.shape).astype(np.float32)
    addend = constant_array(value)
    keep = addend > LOWEST
    if keep.all():
        return value, None
    finite = np.where(keep, addend, np.float32(0)).astype(np.float32)
    seen = keep.reshape((1,) * (4 - keep.ndim) + keep.shape).astype(np.float32)
    return build.constant(finite) if finite.any() else None, seen


def _key_mask(node: OnnxNode, index: int, rows: int, columns: int) -> FloatArray:
    """Which keys are seen: ``[batch, keys]`` or ``[batch, queries, keys]`` or their number."""
    array = node.array(index)
    if array.shape == (1,):
        seen = np.arange(columns) < int(array[0])
        return seen.astype(np.float32).reshape(1, 1, 1, columns)
    if array.shape[-1] != columns or array.ndim not in (2, 3) or array.shape[-2] not in (1, rows):
        node.refuse(f"a mask of shape {list(array.shape)}", want=f"[1, {columns}]")
    seen = (array != 0).astype(np.float32)
    return seen.reshape(1, 1, -1, columns)
