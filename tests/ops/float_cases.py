"""Cases for the lowering of every float op: random operands and types, and the stated error.

Errors are in steps of the result, of the exact real value; saturation apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from binpoint.ir.build import GraphBuilder
from binpoint.ir.constant import Constant
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Graph, Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import FloatOp, Semantics
from binpoint.numeric import monotone
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, I16, I32, U8, FixedType, FloatType, IntType, TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.affine import Affine
from binpoint.ops.cell import Cell
from binpoint.ops.concat import Concat
from binpoint.ops.conv import Conv
from binpoint.ops.conv_transpose import ConvTranspose, Spread
from binpoint.ops.dense import Dense, MatMul
from binpoint.ops.elementwise import Binary, Kind, MinMax
from binpoint.ops.groupnorm import GroupNorm
from binpoint.ops.labels import Label
from binpoint.ops.layernorm import LayerNorm
from binpoint.ops.onehot import OneHot
from binpoint.ops.pad import Pad
from binpoint.ops.pool import AveragePool, MaxPool
from binpoint.ops.prelu import PRelu
from binpoint.ops.rational import Rational
from binpoint.ops.recurrent import Recurrent
from binpoint.ops.recurrent_numbers import memory_type, state_type
from binpoint.ops.reduce import ArgExtreme, Reduce, ReduceExtreme
from binpoint.ops.resize import Resize
from binpoint.ops.select import Select
from binpoint.ops.shape import Reshape, Transpose
from binpoint.ops.slices import Take
from binpoint.ops.softmax import Softmax
from binpoint.ops.unary import DEFAULTS, FUNCTIONS, Clip, Unary
from tests import laws
from tests.ops.sketch import Sketch

Made = tuple[FloatOp, Sequence[Value], FixedType | None]
_PLACES = FixedType.per_tensor(I32, Dyadic.one())
_NARROW = ("Acos", "Asin", "Atanh", "Tan")
_NEED_POSITIVE = ("Log", "Sqrt", "Reciprocal")
_STEPS = ("Ceil", "Floor", "Round", "Shrink", "Sign", "ThresholdedRelu")
"""Functions that jump: two roundings of an operand on the edge lie far apart."""


@dataclass(frozen=True, slots=True)
class FloatCase:
    """How to make a float op with integer operands, and its bound in each semantics."""

    kind: type[FloatOp]
    make: Callable[[Sketch, Semantics], Made]
    dyadic: float
    runtime: float

    def bound(self, semantics: Semantics, inputs: Sequence[Value], result: FixedType) -> float:
        """Steps of the result. A real bias is first rounded to whole steps of products."""
        steps = self.dyadic if semantics is Semantics.DYADIC else self.runtime
        if len(inputs) < 3 or inputs[1].fixed is None:
            return steps
        product = float(inputs[0].elem.scale) * max(
            float(scale) for scale in inputs[1].fixed.scales
        )
        return steps + product / float(result.scale) / 2

    def add(self, s: Sketch) -> Value:
        """Lower it in either semantics."""
        semantics = s.pick(*Semantics)
        op, inputs, target = self.make(s, semantics)
        return s.lower(op, inputs, target, semantics)


def real(array: NDArray[np.floating], fixed: FixedType | None = None) -> Value:
    """A constant of the typed graph: real numbers, or with `fixed` stored integers."""
    name = f"const_{Constant(array).digest[:12]}"
    codes = array if fixed is None else fixed.quantize(array).astype(fixed.storage.dtype)
    kind = TensorType(np.shape(array), FloatType())
    return Value(name, kind, fixed=fixed, constant=Constant(np.asarray(codes)))


def reals(
    values: Sequence[Value], arrays: Sequence[NDArray[np.int64] | None]
) -> list[NDArray[np.float64]]:
    """Operands as real numbers: constants, and what codes stand for."""
    found: list[NDArray[np.float64]] = []
    for value, codes in zip(values, arrays, strict=True):
        if codes is None:
            found.append(constant_array(value).astype(np.float64))
        else:
            found.append(value.elem.dequantize(codes))
    return found


def fitted(s: Sketch, semantics: Semantics, op: FloatOp, inputs: Sequence[Value]) -> FixedType:
    """A type about as wide as results are; of the operand's storage for onnxruntime's semantics."""
    first = inputs[0].elem.storage
    storage = first if semantics is Semantics.ONNXRUNTIME else s.storage(I8, U8)
    codes = [None if v.constant is not None else laws.codes(v, s.rng) for v in inputs]
    (result,) = op.reference(*reals(inputs, codes))
    inside = result[np.isfinite(result)]
    low, high = min(0.0, float(inside.min(initial=0))), max(0.0, float(inside.max(initial=0)))
    scale = np.float32(max(high - low, 2.0**-6) / 255 * s.pick(0.8, 1.0, 1.3))
    zero = round(np.clip(storage.min - low / scale, storage.min, storage.max))
    return FixedType.per_tensor(storage, Dyadic.from_float(scale), zero)


def _data(s: Sketch, semantics: Semantics, *shape: int, kind: FixedType | None = None) -> Value:
    narrow = semantics is Semantics.ONNXRUNTIME or s.pick(True, True, False)
    return s.input(shape, kind or s.type(s.storage(I8, U8) if narrow else None))


def _weights(s: Sketch, *shape: int) -> Value:
    array = s.rng.normal(size=shape)
    count = s.pick(1, shape[0])
    scales = tuple(
        Dyadic.from_float(np.float32(s.random.uniform(0.01, 0.03))) for _ in range(count)
    )
    return real(array, FixedType(I8, scales, (0,), 0 if count > 1 else None))


def _linear(s: Sketch, semantics: Semantics, op: FloatOp, x: Value, w: Value) -> Made:
    bias = [real(s.rng.normal(size=w.shape[0]).astype(np.float32))] if s.pick(True, False) else []
    inputs = [x, w, *bias]
    return op, inputs, fitted(s, semantics, op, inputs)


def _conv(s: Sketch, semantics: Semantics) -> Made:
    spatial, groups, each = s.spatial(), s.number(1, 3), s.number(1, 3)
    x = _data(s, semantics, s.number(1, 2), *spatial, groups * each)
    window = s.window(spatial)
    w = _weights(s, groups * s.number(1, 3), *window.kernel, each)
    return _linear(s, semantics, Conv(window, groups), x, w)


def _conv_transpose(s: Sketch, semantics: Semantics) -> Made:
    spatial, channels = s.spatial(), s.number(1, 3)
    x = _data(s, semantics, 1, *spatial, channels)
    window = s.window(spatial, padded=False)
    sizes = zip(spatial, window.strides, window.reach, strict=True)
    spread = Spread(window, tuple((n - 1) * t + r for n, t, r in sizes))
    w = _weights(s, s.number(1, 4), *window.kernel, channels)
    return _linear(s, semantics, ConvTranspose(spread), x, w)


def _dense(s: Sketch, semantics: Semantics) -> Made:
    depth = s.number(1, 9)
    x = _data(s, semantics, *s.shape(2), depth)
    return _linear(s, semantics, Dense(), x, _weights(s, s.number(1, 5), depth))


def _finished(s: Sketch, semantics: Semantics, op: FloatOp, *inputs: Value) -> Made:
    return op, inputs, fitted(s, semantics, op, inputs)


def _matmul(s: Sketch, semantics: Semantics) -> Made:
    m, k, n = s.shape(3)
    a = _data(s, semantics, m, k)
    # Sums of products of two 16-bit operands leave 32 bits.
    storage = a.elem.storage if a.elem.storage.width == 8 else I8
    return _finished(s, semantics, MatMul(), a, s.input((k, n), s.type(storage)))


def _max_pool(s: Sketch, semantics: Semantics) -> Made:
    spatial = s.spatial()
    x = _data(s, semantics, 1, *spatial, s.number(1, 3))
    return MaxPool(s.window(spatial)), [x], None


def _average_pool(s: Sketch, semantics: Semantics) -> Made:
    spatial = s.spatial()
    x = _data(s, semantics, 1, *spatial, s.number(1, 3))
    window = s.window(spatial, dilated=semantics is Semantics.DYADIC)
    return _finished(s, semantics, AveragePool(window, s.pick(None, window.after)), x)


def _affine(s: Sketch, semantics: Semantics) -> Made:
    x = _data(s, semantics, *s.shape())
    a, b = (real(s.rng.normal(size=x.shape[-1]).astype(np.float32)) for _ in range(2))
    return _finished(s, semantics, Affine(), x, a, b)


def _clip(s: Sketch, semantics: Semantics) -> Made:
    x = _data(s, semantics, *s.shape())
    low, high = sorted(s.rng.uniform(-0.5, 1.5, 2).tolist())
    op = Clip(s.pick(None, low), s.pick(None, high))
    wide = x.elem.storage.width > 8
    return op, [x], None if wide else s.pick(None, fitted(s, semantics, op, [x]))


def _unary(s: Sketch, semantics: Semantics) -> Made:
    name = s.pick(*(n for n in FUNCTIONS if n not in (*_STEPS, "Acosh")))
    storage = s.storage(I8, U8)
    kind = s.type(storage)
    if name in _NARROW:
        kind = FixedType.per_tensor(storage, Dyadic(1, -8), storage.min + 128)
    if name in _NEED_POSITIVE:
        kind = FixedType.per_tensor(storage, kind.scale, storage.min)
    x = s.input(s.shape(), kind)
    return _finished(s, semantics, Unary(name, DEFAULTS.get(name, ())), x)


def _prelu(s: Sketch, semantics: Semantics) -> Made:
    x = _data(s, semantics, *s.shape())
    slopes = real(s.rng.normal(size=x.shape[-1]).astype(np.float32))
    return _finished(s, semantics, PRelu(), x, slopes)


def _binary(s: Sketch, semantics: Semantics) -> Made:
    shape = s.shape()
    a = _data(s, semantics, *shape)
    b = s.input(s.pick(shape, shape[-1:]), s.type(a.elem.storage))
    pair = s.pick((a, b), (b, a))
    return _finished(s, semantics, Binary(s.pick(Kind.ADD, Kind.SUB, Kind.MUL)), *pair)


def _min_max(s: Sketch, semantics: Semantics) -> Made:
    shape = s.shape()
    a = _data(s, semantics, *shape, kind=s.type(s.storage(I8, U8)))
    return _finished(
        s, semantics, MinMax(s.pick(True, False)), a, s.input(shape, s.type(a.elem.storage))
    )


def _axes(s: Sketch, shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(s.random.sample(range(len(shape)), s.number(1, len(shape)))))


def _reduce(s: Sketch, semantics: Semantics) -> Made:
    x = _data(s, semantics, *s.shape())
    return _finished(s, semantics, Reduce(_axes(s, x.shape), s.pick(True, False)), x)


def _reduce_extreme(s: Sketch, semantics: Semantics) -> Made:
    x = _data(s, semantics, *s.shape())
    return ReduceExtreme(_axes(s, x.shape), s.pick(True, False)), [x], None


def _arg_extreme(s: Sketch, semantics: Semantics) -> Made:
    x = _data(s, semantics, *s.shape())
    op = ArgExtreme(s.number(0, len(x.shape) - 1), s.pick(True, False), s.pick(True, False))
    return op, [x], _PLACES


def _softmax(s: Sketch, semantics: Semantics) -> Made:
    x = _data(s, semantics, *s.shape(), kind=s.type(s.storage(I8, U8), s.pick(1.0, 4.0)))
    op = Softmax(s.number(0, len(x.shape) - 1))
    return op, [x], op.result_type(x.elem)


def _mask(s: Sketch, shape: Sequence[int]) -> Value:
    """Ones and zeros of which the last axis has a one everywhere; repeated along some axes."""
    keep = s.rng.random([n if s.number(0, 2) else 1 for n in shape[:-1]] + [shape[-1]]) < 0.6
    keep[..., s.number(0, shape[-1] - 1)] = True
    return real(keep.astype(np.float32))


def _masked_softmax(s: Sketch, semantics: Semantics) -> Made:
    x = _data(s, semantics, *s.shape(), kind=s.type(s.storage(I8, U8), s.pick(1.0, 4.0)))
    op = Softmax(len(x.shape) - 1)
    return op, [x, _mask(s, x.shape)], op.result_type(x.elem)


def _layer_norm(s: Sketch, semantics: Semantics) -> Made:
    x = _data(s, semantics, *s.shape())
    axis = s.number(0, len(x.shape) - 1)
    gamma, beta = (
        real(s.rng.normal(1 - i, 0.5, x.shape[axis]).astype(np.float32)) for i in range(2)
    )
    op = LayerNorm(axis, s.pick(1e-5, 1e-12, 0.1), centred=s.pick(True, False))
    return _finished(s, semantics, op, x, gamma, beta)


def _group_norm(s: Sketch, semantics: Semantics) -> Made:
    groups, each = s.number(1, 3), s.number(1, 2)
    x = _data(s, semantics, s.number(1, 2), groups * each, *s.shape(s.number(0, 2)))
    gamma, beta = (real(s.rng.normal(1 - i, 0.5, x.shape[1]).astype(np.float32)) for i in range(2))
    return _finished(s, semantics, GroupNorm(groups, s.pick(1e-5, 0.1)), x, gamma, beta)


def _recurrent(s: Sketch, _: Semantics) -> Made:
    """All forms of a step; the error of a state goes on into the next."""
    cell = s.pick(*Cell)
    gates = {Cell.RNN: 1, Cell.GRU: 3, Cell.LSTM: 4}[cell]
    steps, batch, depth, hidden = (s.number(1, n) for n in (3, 2, 3, 5))
    x = s.input((steps, batch, depth), s.type(s.storage(I8, U8)))
    kinds = [state_type(), memory_type()][: 1 + (cell is Cell.LSTM)]
    starts = [real(s.rng.uniform(-0.9, 0.9, (batch, hidden)), kind) for kind in kinds]
    biases = [real(s.rng.normal(0, 0.2, gates * hidden).astype(np.float32)) for _ in range(2)]
    matrices = [
        real(s.rng.normal(0, 0.3, (gates * hidden, n)), FixedType.per_tensor(I8, Dyadic(1, -6)))
        for n in (depth, hidden)
    ]
    functions = ("tanh",) if cell is Cell.RNN else ("sigmoid", "tanh", "tanh")[: gates - 1]
    before = cell is Cell.GRU and s.pick(True, False)
    op = Recurrent(cell, functions, before, sequence=s.pick(True, False))
    return op, [x, *matrices, *biases, *starts], state_type()


def _label(s: Sketch, _: Semantics) -> Made:
    count = s.number(2, 9)
    places = s.input((s.number(1, 3),), _PLACES, Interval(0, count - 1))
    classes = np.arange(count) if s.pick(True, False) else s.codes((count,), -1000, 1000)
    return Label(Constant(classes)), [places], _PLACES


def _one_hot(s: Sketch, _: Semantics) -> Made:
    op = OneHot(s.number(1, 300))
    (kind,) = op.operand_types()
    assert kind is not None
    places = s.input((*s.shape(), 1), kind, Interval(0, op.count - 1))
    return op, [places], op.result_type()


def _select(s: Sketch, semantics: Semantics) -> Made:
    shape = s.shape()
    numbers = [s.pick(None, -0.75, 0.0), s.pick(None, 1.5)]
    count = 1 + numbers.count(None)
    condition, *branches = (s.input(shape, s.type(s.storage(I8, U8))) for _ in range(count))
    op, inputs = Select(*numbers), [condition, *branches]
    return op, inputs, fitted(s, semantics, op, inputs)


def _transpose(s: Sketch, semantics: Semantics) -> Made:
    x = _data(s, semantics, *s.shape())
    return Transpose(tuple(s.random.sample(range(len(x.shape)), len(x.shape)))), [x], None


def _reshape(s: Sketch, semantics: Semantics) -> Made:
    x = _data(s, semantics, *s.shape())
    return Reshape((1, x.type.size)), [x], None


def _take(s: Sketch, semantics: Semantics) -> Made:
    x = _data(s, semantics, *s.shape(3))
    maps = tuple(tuple(s.number(0, n - 1) for _ in range(s.number(1, 4))) for n in x.shape)
    regular = tuple(range(n) for n in x.shape)
    chosen = tuple(s.pick(m, r) for m, r in zip(maps, regular, strict=True))
    return Take(chosen), [x], None


def _concat(s: Sketch, semantics: Semantics) -> Made:
    shape = s.shape()
    a = _data(s, semantics, *shape, kind=s.type(s.storage(I8, U8)))
    b = s.input(shape, s.type(a.elem.storage))
    constant = real(s.rng.uniform(-0.5, 0.5, shape).astype(np.float32))
    return _finished(
        s, semantics, Concat(s.number(0, len(shape) - 1)), a, b, *s.pick([], [constant])
    )


def _pad(s: Sketch, semantics: Semantics) -> Made:
    x = _data(s, semantics, *s.shape(), kind=s.type(s.storage(I8, U8)))
    before, after = (tuple(s.number(0, 2) for _ in x.shape) for _ in range(2))
    target = fitted(s, semantics, Pad(before, after, 0.0), [x])
    code = s.number(target.storage.min, target.storage.max)
    return Pad(before, after, float(target.dequantize(code))), [x], target


def _resize(s: Sketch, semantics: Semantics) -> Made:
    """Imported, as its weights come from the node's attributes."""
    x = _data(s, semantics, 1, *s.spatial(), s.number(1, 3), kind=s.type(s.storage(I8, U8)))
    spatial = x.shape[1:-1]
    build = GraphBuilder(Graph("import"))
    image = build.input("image", TensorType((1, x.shape[-1], *spatial), FloatType()))
    factors = [1.0, 1.0, *(float(s.number(1, 3)) for _ in spatial)]
    factors[2] = 2.0
    scales = build.constant(np.array(factors, np.float32))
    mode = s.pick("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    proto = helper.make_node(
        "Resize", ["x", "", "s"], ["y"], mode="linear", coordinate_transformation_mode=mode
    )
    Resize.from_onnx(OnnxNode(proto, (image, None, scales), 19, 0, ("y",)), build)
    (op,) = (node.op for node in build.graph.nodes() if isinstance(node.op, Resize))
    return _finished(s, semantics, op, x)


def _shifted(s: Sketch) -> Made:
    """Between scales that are powers of two: a shift, with ties to even."""
    zero = s.number(-128, 127)
    x = s.input(s.shape(3), FixedType.per_tensor(I16, Dyadic(1, -10), s.pick(0, zero)))
    op = Rational((monotone.scale(Fraction(1, 2 ** s.number(0, 3))),))
    return op, [x], FixedType.per_tensor(I8, Dyadic(1, -4), s.pick(0, zero))


def _rational(s: Sketch, semantics: Semantics) -> Made:
    """A factor and an offset for all or for each channel, falling or rising."""
    if s.pick(True, False):
        return _shifted(s)
    x = _data(s, semantics, *s.shape(2), s.number(1, 4))
    count = s.pick(1, x.shape[-1])
    factors = [Fraction(s.pick(-1, 1, 1, 1) * s.number(1, 99), 64) for _ in range(count)]
    offsets = tuple(Fraction(s.number(-99, 99), 128) for _ in range(count))
    op = Rational((monotone.scale(*factors), monotone.Shift(offsets)))
    kind = fitted(s, semantics, op, [x])
    # Results of few bits are emitted as comparisons.
    few = FixedType.per_tensor(IntType(4, signed=True), Dyadic(1, -2), s.number(-8, 7))
    return op, [x], s.pick(kind, kind, few)


FLOAT_CASES: tuple[FloatCase, ...] = (
    FloatCase(Conv, _conv, 0.51, 0.51),
    FloatCase(ConvTranspose, _conv_transpose, 0.51, 0.51),
    FloatCase(Dense, _dense, 0.51, 0.51),
    FloatCase(MatMul, _matmul, 0.51, 0.51),
    FloatCase(MaxPool, _max_pool, 0.0, 0.0),
    FloatCase(AveragePool, _average_pool, 0.51, 0.51),
    FloatCase(Affine, _affine, 0.51, 0.51),
    FloatCase(Clip, _clip, 0.51, 0.51),
    FloatCase(Unary, _unary, 0.51, 0.51),
    FloatCase(PRelu, _prelu, 0.51, 0.51),
    FloatCase(Binary, _binary, 0.51, 0.51),
    FloatCase(MinMax, _min_max, 0.51, 0.51),
    FloatCase(Reduce, _reduce, 0.51, 0.51),
    FloatCase(ReduceExtreme, _reduce_extreme, 0.0, 0.0),
    FloatCase(ArgExtreme, _arg_extreme, 0.0, 0.0),
    FloatCase(Softmax, _softmax, 0.502, 1.0),
    FloatCase(Softmax, _masked_softmax, 0.502, 1.0),
    FloatCase(LayerNorm, _layer_norm, 0.51, 0.51),
    FloatCase(GroupNorm, _group_norm, 0.51, 0.51),
    FloatCase(Recurrent, _recurrent, 3.0, 3.0),
    FloatCase(Label, _label, 0.0, 0.0),
    FloatCase(OneHot, _one_hot, 0.0, 0.0),
    FloatCase(Select, _select, 0.51, 0.51),
    FloatCase(Transpose, _transpose, 0.0, 0.0),
    FloatCase(Reshape, _reshape, 0.0, 0.0),
    FloatCase(Take, _take, 0.0, 0.0),
    FloatCase(Concat, _concat, 0.51, 0.51),
    FloatCase(Pad, _pad, 0.51, 0.51),
    FloatCase(Resize, _resize, 0.51, 0.51),
    FloatCase(Rational, _rational, 0.51, 0.51),
)
