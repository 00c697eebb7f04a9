"""Cases for the laws: for every integer op, how to add one to a sketch with random operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from binpoint.ir.constant import Constant
from binpoint.ir.graph import Value
from binpoint.ir.op import Semantics
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, I16, I32, U8, FixedType, IntType
from binpoint.numeric.interval import Interval
from binpoint.ops.affine import AffineRequantize, IntChannelLookup
from binpoint.ops.blocks import PLACE, Block, IntArgExtreme, IntExtreme, IntSum
from binpoint.ops.broadcast import Broadcast
from binpoint.ops.chain import Chain
from binpoint.ops.concat import IntConcat
from binpoint.ops.conv import IntConv, IntDepthwise
from binpoint.ops.conv_transpose import IntConvTranspose, Spread
from binpoint.ops.copy import IntCopy, IntReshape, row_major, transposed
from binpoint.ops.dense import IntDense, IntMatMul
from binpoint.ops.distances import exponentials
from binpoint.ops.gate import KINDS, Gated
from binpoint.ops.layernorm import LayerNorm
from binpoint.ops.logshares import LOG2, IntLogShares, IntShiftMatMul
from binpoint.ops.lookup import IntLookup
from binpoint.ops.methods import FUNCTIONS, Method
from binpoint.ops.outliers import IntOutliers
from binpoint.ops.packed import PACKED, Digits, IntPack, IntUnpack
from binpoint.ops.pad import IntPad
from binpoint.ops.pairwise import IntAdd, IntMinMax, IntMul
from binpoint.ops.pool import AveragePool
from binpoint.ops.pooling import IntMaxPool
from binpoint.ops.prelu import IntPRelu
from binpoint.ops.requantize import Clamp, DyadicRequantize, OnnxruntimeRequantize, Requantize
from binpoint.ops.resize import IntResizeLinear, Weights
from binpoint.ops.runtime_pair import OnnxruntimeAdd, OnnxruntimeChain, OnnxruntimeMul
from binpoint.ops.slices import IntGather
from binpoint.ops.softmax import Softmax
from tests.ops.float_cases import real
from tests.ops.sketch import Sketch

Case = Callable[[Sketch], Value]

SUM = FixedType.per_tensor(I32, Dyadic(1, -12))


def conv(s: Sketch) -> Value:
    spatial, groups, each, outs = s.spatial(), s.number(1, 3), s.number(1, 3), s.number(1, 5)
    x = s.input((s.number(1, 2), *spatial, groups * each))
    window = s.window(spatial)
    zero = x.elem.zero_point if window.padded else 0
    w = s.weights(x, groups * outs, *window.kernel, each)
    return s.add(IntConv(window, groups, zero, SUM), x, w, s.bias(groups * outs))


def depthwise(s: Sketch) -> Value:
    spatial, groups, each = s.spatial(), s.number(1, 6), s.number(1, 2)
    x = s.input((s.number(1, 2), *spatial, groups))
    window = s.window(spatial)
    w = s.weights(x, *window.kernel, groups * each)
    return s.add(IntDepthwise(window, groups, x.elem.zero_point, SUM), x, w, s.bias(groups * each))


def dense(s: Sketch) -> Value:
    depth, count = s.number(1, 9), s.number(1, 6)
    x = s.input((*s.shape(s.number(1, 2)), depth))
    return s.add(IntDense(SUM), x, s.weights(x, count, depth), s.bias(count))


def matmul(s: Sketch) -> Value:
    batch, m, k, n = s.shape(s.number(0, 2)), s.number(1, 4), s.number(1, 5), s.number(1, 4)
    a, b = s.input((*batch, m, k)), s.input((*batch, k, n), s.type(s.storage(I8, U8)))
    return s.add(IntMatMul(a.elem.zero_point, b.elem.zero_point, SUM), a, b)


def conv_transpose(s: Sketch) -> Value:
    spatial, groups, each, outs = s.spatial(), s.number(1, 2), s.number(1, 3), s.number(1, 3)
    x = s.input((s.number(1, 2), *spatial, groups * each))
    window = s.window(spatial)
    sizes = zip(spatial, window.strides, window.reach, window.before, strict=True)
    outputs = tuple(max(1, (n - 1) * t + r - b - s.number(0, 1)) for n, t, r, b in sizes)
    w = s.weights(x, groups * outs, *window.kernel, each)
    op = IntConvTranspose(Spread(window, outputs), groups, x.elem.zero_point, SUM)
    return s.add(op, x, w, s.bias(groups * outs))


def _clamp(s: Sketch, storage: IntType) -> tuple[int, int]:
    """The whole range, or a part of it, or one code."""
    ends = sorted((s.number(storage.min, storage.max), s.number(storage.min, storage.max)))
    return s.pick((storage.min, storage.max), (ends[0], ends[1]), (ends[0], ends[0]))


def dyadic_requantizer(s: Sketch, channels: int) -> Requantize:
    target = s.type(s.storage(I8, U8, I16))
    count = s.pick(1, channels)
    shifts = tuple(s.number(1, 50) for _ in range(count))
    multipliers = tuple(s.number(0, min(2**30, 2 ** min(30, n))) for n in shifts)
    return DyadicRequantize(multipliers, shifts, target, *_clamp(s, target.storage))


def affine_requantizer(s: Sketch, channels: int) -> Requantize:
    target = s.type(s.storage(I8, U8, I16))
    shifts = tuple(s.number(1, 40) for _ in range(channels))
    multipliers = tuple(s.number(-(2**20), 2**20) for _ in range(channels))
    offsets = tuple(s.number(-(2**40), 2**40) for _ in range(channels))
    return AffineRequantize(multipliers, shifts, offsets, target, *_clamp(s, target.storage))


def onnxruntime_requantizer(s: Sketch, channels: int, reach: Interval) -> Requantize:
    """Results of 8 or 4 bits, scales from tiny to above one."""
    target = s.type(s.storage(I8, U8, IntType(4, signed=True), IntType(2, signed=False)))
    count = s.pick(1, channels)
    # A power of two meets ties, which no multiplication with ties upwards rounds to even.
    exponents = (s.pick(s.random.uniform(-24, 1), s.number(-12, -8)) for _ in range(count))
    scales = tuple(float(np.float32(2.0**e)) for e in exponents)
    ends = ((reach.lo, reach.hi),) * count
    return OnnxruntimeRequantize(scales, ends, target, *_clamp(s, target.storage))


def requantized(s: Sketch) -> Value:
    """A requantizer of its own."""
    channels = s.number(1, 5)
    x = s.sums((*s.shape(2), channels))
    return _requantized(s, x, channels)


def _requantized(s: Sketch, x: Value, channels: int) -> Value:
    match s.number(0, 2):
        case 0:
            return s.add(dyadic_requantizer(s, channels), x)
        case 1:
            return s.add(affine_requantizer(s, channels), x)
        case _:
            return s.add(onnxruntime_requantizer(s, channels, x.interval), x)


def fused(s: Sketch) -> Value:
    """A requantizer fused to what makes the sums."""
    acc = s.pick(conv, depthwise, dense, matmul, summed)(s)
    return _requantized(s, acc, acc.shape[-1])


def clamp(s: Sketch) -> Value:
    x = s.input(s.shape())
    return s.add(Clamp(*_clamp(s, x.elem.storage)), x)


def _narrow(s: Sketch, shape: Sequence[int]) -> Value:
    return s.input(shape, s.type(s.storage(I8, U8)))


def lookup(s: Sketch) -> Value:
    x, target = _narrow(s, s.shape()), s.type()
    table = s.build.constant(s.codes((256,), target.storage.min, target.storage.max), target)
    return s.add(IntLookup(target, x.elem.storage.min), x, table)


def channel_lookup(s: Sketch) -> Value:
    x, target = _narrow(s, s.shape()), s.type()
    entries = s.codes((x.shape[-1], 256), target.storage.min, target.storage.max)
    return s.add(IntChannelLookup(target, x.elem.storage), x, s.build.constant(entries, target))


def prelu(s: Sketch) -> Value:
    x, target = s.input(s.shape()), s.type()
    count = range(x.shape[-1])
    positive, negative = (tuple(s.number(-(2**20), 2**20) for _ in count) for _ in range(2))
    shifts, offsets = (
        tuple(s.number(1, 30) for _ in count),
        tuple(s.number(-(2**30), 2**30) for _ in count),
    )
    op = IntPRelu(positive, negative, shifts, offsets, x.elem.zero_point, target)
    return s.add(op, x)


def _pair_shapes(s: Sketch) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Equal shapes, or one with axes left out or of size one."""
    shape = s.shape(s.number(1, 4))
    thin = tuple(s.pick(n, 1) for n in shape)
    other = s.pick(shape, thin, shape[s.number(0, len(shape) - 1) :])
    return s.pick((shape, other), (other, shape))


def add(s: Sketch) -> Value:
    shapes, target = _pair_shapes(s), s.type()
    a, b = (s.input(shape) for shape in shapes)
    shift = s.number(1, 30)
    # In 32 bits on raw codes, or in 64.
    top = s.pick(2**8, 2**30)
    factors = s.number(-top, top), s.number(-top, top)
    zeros = a.elem.zero_point, b.elem.zero_point
    return s.add(
        IntAdd(Broadcast.of(*shapes), *factors, shift, *zeros, target, *_clamp(s, target.storage)),
        a,
        b,
    )


def mul(s: Sketch) -> Value:
    shapes, target = _pair_shapes(s), s.type()
    a, b = (s.input(shape) for shape in shapes)
    zeros = a.elem.zero_point, b.elem.zero_point
    factor, shift = s.number(0, s.pick(2**6, 2**26)), s.number(1, 40)
    return s.add(
        IntMul(Broadcast.of(*shapes), factor, shift, *zeros, target, *_clamp(s, target.storage)),
        a,
        b,
    )


def runtime_pair(s: Sketch) -> Value:
    """QLinearAdd, QLinearMul, or a chain of float operators; results also of six bits."""
    shapes, storage = _pair_shapes(s), s.storage(I8, U8)
    a, b = (s.input(shape, s.type(storage)) for shape in shapes)
    size = s.pick(0.01, 1.0, 30.0)
    axes, kinds, target = (
        Broadcast.of(*shapes),
        (a.elem, b.elem, a.interval, b.interval),
        s.type(s.pick(storage, IntType(6, signed=storage.signed)), size),
    )
    narrow = target.storage
    ends = _clamp(s, storage) if narrow == storage else (narrow.min, narrow.max)
    match s.number(0, 2):
        case 0:
            return s.add(OnnxruntimeAdd(axes, *kinds, target, *ends), a, b)
        case 1:
            return s.add(OnnxruntimeMul(axes, *kinds, target, *ends), a, b)
        case _:
            kind = s.pick(Chain.ADD, Chain.SUB, Chain.MUL)
            return s.add(OnnxruntimeChain(axes, *kinds, target, *ends, kind=kind), a, b)


def minmax(s: Sketch) -> Value:
    shapes, kind = _pair_shapes(s), s.type()
    a, b = (s.input(shape, kind) for shape in shapes)
    return s.add(IntMinMax(Broadcast.of(*shapes), s.pick(True, False), kind), a, b)


def _block(s: Sketch, shape: Sequence[int]) -> Block:
    first = s.number(0, len(shape) - 1)
    return Block.of(shape, range(first, s.number(first, len(shape) - 1) + 1))


def summed(s: Sketch) -> Value:
    x = s.input(s.shape())
    return s.add(IntSum(_block(s, x.shape), x.elem.zero_point, SUM), x)


def extreme(s: Sketch) -> Value:
    x = s.input(s.shape(), s.pick(None, SUM))
    return s.add(IntExtreme(_block(s, x.shape), s.pick(True, False)), x)


def arg_extreme(s: Sketch) -> Value:
    x = s.input(s.shape())
    op = IntArgExtreme(_block(s, x.shape), s.pick(True, False), s.pick(True, False))
    value = s.add(op, x)
    assert value.elem == PLACE
    return value


def max_pool(s: Sketch) -> Value:
    spatial = s.spatial()
    x = s.input((s.number(1, 2), *spatial, s.number(1, 4)))
    return s.add(IntMaxPool(s.window(spatial)), x)


def average(s: Sketch) -> Value:
    """In both semantics, padding counted or not."""
    spatial = s.spatial()
    semantics = s.pick(*Semantics)
    x = s.input((s.number(1, 2), *spatial, s.number(1, 4)), s.type(s.storage(I8, U8)))
    window = s.window(spatial, dilated=semantics is Semantics.DYADIC)
    op = AveragePool(window, s.pick(None, window.after))
    return s.lower(op, [x], s.type(x.elem.storage), semantics)


def softmax(s: Sketch) -> Value:
    """In both semantics."""
    shape = s.shape(s.number(1, 3))
    x = s.input(shape, s.type(s.storage(I8, U8), s.pick(1.0, 16.0)))
    op, semantics = Softmax(s.number(0, len(shape) - 1)), s.pick(*Semantics)
    return s.lower(op, [x], op.result_type(x.elem), semantics)


def softmax_in_other_steps(s: Sketch) -> Value:
    """Of results in steps of any size."""
    shape = s.shape(s.number(1, 3))
    x = s.input(shape, s.type(s.storage(I8, U8), s.pick(1.0, 16.0)))
    op, result = Softmax(len(shape) - 1), s.type(s.storage(), s.pick(0.1, 1.0, 300.0))
    return s.lower(op, [x], result, s.pick(*Semantics))


def shares(s: Sketch) -> Value:
    """Softmax without a table, of 8 or 16 bits."""
    shape = s.shape(s.number(1, 3))
    wide = s.pick(True, False, False)
    storage = I16 if wide else s.storage(I8, U8)
    x = s.input(shape, s.type(storage, 0.3 if wide else s.pick(1.0, 16.0)))
    method = s.pick(Method.SHIFT, Method.SHIFT_RELEASED, Method.POLYNOMIAL)
    op = Softmax(s.number(0, len(shape) - 1), method)
    target = s.pick(op.result_type(x.elem), s.type(s.storage(I8, U8), 0.3))
    return s.lower(op, [x], target, s.pick(*Semantics))


def log_shares(s: Sketch) -> Value:
    """Powers of two and of its root, in their own type and in others."""
    shape = s.shape(s.number(1, 3))
    x = s.input(shape, s.type(s.storage(I8, U8), s.pick(1.0, 16.0)))
    op = Softmax(s.number(0, len(shape) - 1), s.pick(Method.LOG2, Method.LOG_SQRT2))
    target = s.pick(op.result_type(x.elem), s.type(s.storage(I8, U8), 0.3))
    return s.lower(op, [x], target, s.pick(*Semantics))


def shift_matmul(s: Sketch) -> Value:
    """A matrix shifted by the codes of a log2 softmax."""
    batch, rows, depth, columns = (s.number(1, n) for n in (2, 4, 9, 6))
    x = s.input((batch, rows, depth), s.type(s.storage(I8, U8), 4.0))
    table = s.add(
        IntLogShares(replace(Block.of(x.shape, (2,)), shape=x.shape), LOG2),
        x,
        s.build.constant(exponentials(float(x.elem.scale), depth, 23, "op"), SUM),
    )
    b = s.input((batch, depth, columns))
    acc = s.add(IntShiftMatMul(b.elem.zero_point, SUM), table, b)
    return s.pick(acc, _requantized(s, acc, columns))


def powers(s: Sketch) -> Value:
    """Both."""
    return s.pick(log_shares, shift_matmul)(s)


def gated(s: Sketch) -> Value:
    """GELU and SiLU without a table."""
    storage = s.storage()
    x = s.input(s.shape(), s.type(storage, 0.3 if storage == I16 else s.pick(1.0, 8.0)))
    method = s.pick(Method.SHIFT, Method.SHIFT_RELEASED, Method.POLYNOMIAL)
    return s.lower(Gated(s.pick(*KINDS), method), [x], s.type(size=2.0), s.pick(*Semantics))


def layer_norm(s: Sketch) -> Value:
    """Over any axis, of 8 and 16 bits on either side, now and then clamped."""
    shape = s.shape(s.number(1, 3))
    axis = s.number(0, len(shape) - 1)
    x = s.input(shape)
    parameters = [real(s.rng.normal(size=shape[axis]).astype(np.float32)) for _ in range(2)]
    method, centred = s.pick(Method.TABLE, *FUNCTIONS["layer-norm"]), s.pick(True, True, False)
    op = LayerNorm(axis, s.pick(0.0, 1e-5, 1.0), method if centred else Method.TABLE, centred)
    y = s.lower(op, [x, *parameters], s.type(size=4.0), s.pick(*Semantics))
    return s.add(Clamp(-5, 100), y) if s.pick(True, False) else y


def copy(s: Sketch) -> Value:
    """A transposition, or a strided selection backwards."""
    shape = s.shape(s.number(2, 4))
    x = s.input(shape, s.pick(None, SUM))
    if s.pick(True, False):
        return s.add(transposed(x, s.random.sample(range(len(shape)), len(shape))), x)
    size = x.type.size
    count, step = s.number(1, max(1, size // 2)), 2 if size > 1 else 1
    return s.add(IntCopy.of((count,), (count,), (-step,), (count - 1) * step, x.elem), x)


def reshape(s: Sketch) -> Value:
    """Between two ops of its own, so that it is no copy."""
    x = lookup(s)
    flat = s.add(IntReshape((x.type.size,), x.elem), x)
    return s.add(Clamp(x.elem.storage.min, x.elem.storage.max - 1), flat)


def pad(s: Sketch) -> Value:
    x = s.input(s.shape())
    before, after = (tuple(s.number(0, 2) for _ in x.shape) for _ in range(2))
    code = s.number(x.elem.storage.min, x.elem.storage.max)
    return s.add(IntPad(before, after, code, x.elem), x)


def concat(s: Sketch) -> Value:
    shape, kind = list(s.shape()), s.type()
    axis = s.number(0, len(shape) - 1)
    parts: list[Value] = []
    for _ in range(s.number(2, 4)):
        shape[axis] = s.number(1, 3)
        parts.append(s.input(shape, kind))
    return s.add(IntConcat(axis, kind), *parts)


def gather(s: Sketch) -> Value:
    x = s.input(s.shape(), s.pick(None, SUM))
    axis = s.number(0, len(x.shape) - 1)
    indices = s.codes((s.number(1, 6),), 0, x.shape[axis] - 1).astype(np.int32)
    return s.add(IntGather(axis, Constant(indices), x.elem), x)


def resize_linear(s: Sketch) -> Value:
    spatial = s.spatial()
    x = s.input((s.number(1, 2), *spatial, s.number(1, 3)))
    axes = [_weights(s, n) for n in spatial]
    rows = axes[0] if len(axes) == 2 else Weights((0,), (0,), (0,), 1)
    return s.add(IntResizeLinear(rows, axes[-1], len(spatial), x.elem.zero_point, SUM), x)


def _weights(s: Sketch, size: int) -> Weights:
    factor = s.number(1, 3)
    low = tuple(s.number(0, size - 1) for _ in range(size * factor))
    share = tuple(s.number(0, 2 * factor) for _ in low)
    return Weights(low, tuple(min(i + 1, size - 1) for i in low), share, 2 * factor)


def in_place(s: Sketch) -> Value:
    """Ops one after another that may take their operand's memory, and a reader of both ends."""
    x = _narrow(s, s.shape(3))
    table = s.build.constant(s.codes((256,), x.elem.storage.min, x.elem.storage.max), x.elem)
    first = s.add(IntLookup(x.elem, x.elem.storage.min), x, table)
    second = s.add(Clamp(x.elem.storage.min + 3, x.elem.storage.max - 3), first)
    third = s.add(IntMinMax(Broadcast.of(x.shape, x.shape), True, x.elem), second, first)
    last = s.add(IntLookup(x.elem, x.elem.storage.min), third, table)
    return s.add(IntMinMax(Broadcast.of(x.shape, x.shape), False, x.elem), last, x)


def _digits(s: Sketch) -> Digits:
    """Of pixels that fill whole words of bytes, or not."""
    return Digits(s.number(1, 6), s.pick(True, False), s.pick(1, 3, 5, 8, 32, 45, 48))


def pack(s: Sketch) -> Value:
    digits = _digits(s)
    storage = I8 if digits.signed else s.pick(I8, U8)
    kind = FixedType.per_tensor(storage, Dyadic.one())
    return s.add(IntPack(digits), s.input((*s.shape(2), digits.channels), kind, digits.interval))


def unpack(s: Sketch) -> Value:
    digits = _digits(s)
    kind = FixedType.per_tensor(IntType(s.pick(6, 8), digits.signed), Dyadic(1, -3))
    return s.add(IntUnpack(digits, kind), s.input((*s.shape(2), digits.pixel), PACKED))


def outliers(s: Sketch) -> Value:
    """Counted in the first part of each axis of a map, in another order of axes now and then."""
    shape, storage = (*s.shape(2), s.pick(1, 11, 40)), s.pick(I8, I8, U8, I16)
    x = s.input(shape, s.type(storage))
    lo, hi = sorted(s.number(storage.min, storage.max) for _ in range(2))
    sizes = [s.pick(n, s.number(1, n)) for n in shape]
    axes = list(zip(sizes, row_major(shape), strict=True))
    s.random.shuffle(axes)
    return s.add(IntOutliers.of([n for n, _ in axes], [k for _, k in axes], lo, hi), x)


CASES: tuple[Case, ...] = (
    conv, depthwise, dense, matmul, conv_transpose, requantized, requantized, fused, fused,
    clamp, lookup, channel_lookup, prelu, add, mul, runtime_pair, runtime_pair, minmax,
    summed, extreme, arg_extreme, max_pool, average, average, softmax, softmax, layer_norm,
    copy, reshape, pad, concat, gather, resize_linear, in_place, softmax_in_other_steps,
    shares, shares, gated, gated, gated, layer_norm, powers,
)  # fmt: skip
OF_STAGES: tuple[Case, ...] = (pack, pack, unpack, unpack, outliers, outliers)
"""Of stages of patches and of packed maps, which only microcontrollers have."""
