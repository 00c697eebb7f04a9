"""What reads ONNX, in the order in which it is listed; nothing registers itself."""

from __future__ import annotations

from binpoint.ir.op import Reader
from binpoint.ops.affine import Affine
from binpoint.ops.attention import Attention
from binpoint.ops.bands import Bands
from binpoint.ops.compare import Compare
from binpoint.ops.concat import Concat
from binpoint.ops.conv import Conv
from binpoint.ops.conv_transpose import ConvTranspose
from binpoint.ops.dense import Dense, MatMul
from binpoint.ops.einsum import Einsum
from binpoint.ops.elementwise import Binary, MinMax
from binpoint.ops.groupnorm import GroupNorm
from binpoint.ops.indexed import Indexed
from binpoint.ops.labels import Label
from binpoint.ops.layernorm import LayerNorm
from binpoint.ops.logsoftmax import LogSoftmax
from binpoint.ops.mask import Mask
from binpoint.ops.onehot import OneHot, Rows
from binpoint.ops.pad import Pad
from binpoint.ops.pool import AveragePool, MaxPool
from binpoint.ops.prelu import PRelu
from binpoint.ops.rational import Rational
from binpoint.ops.recurrent import Recurrent
from binpoint.ops.reduce import ArgExtreme, Reduce, ReduceExtreme
from binpoint.ops.resize import Resize
from binpoint.ops.several import Several
from binpoint.ops.shape import Reshape, Transpose
from binpoint.ops.slices import Take
from binpoint.ops.softmax import Softmax
from binpoint.ops.unary import Clip, Unary

OPS: tuple[type[Reader], ...] = (
    Conv,
    ConvTranspose,
    Dense,
    MatMul,
    Einsum,
    Bands,
    MaxPool,
    AveragePool,
    Affine,
    Clip,
    Unary,
    PRelu,
    Binary,
    MinMax,
    Several,
    Compare,
    Reduce,
    ReduceExtreme,
    ArgExtreme,
    Softmax,
    LogSoftmax,
    Mask,
    Attention,
    LayerNorm,
    GroupNorm,
    Recurrent,
    Label,
    Transpose,
    Reshape,
    Take,
    Rows,
    OneHot,
    Indexed,
    Concat,
    Pad,
    Resize,
    Rational,
)
