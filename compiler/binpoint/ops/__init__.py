"""All float ops, in the order in which they are listed; nothing registers itself."""

from __future__ import annotations

from binpoint.ir.op import FloatOp
from binpoint.ops.conv import Conv
from binpoint.ops.dense import Dense, MatMul
from binpoint.ops.shape import Reshape, Transpose
from binpoint.ops.unary import Clip, Unary

OPS: tuple[type[FloatOp], ...] = (
    Conv,
    Dense,
    MatMul,
    Clip,
    Unary,
    Transpose,
    Reshape,
)
