"""Matrix products and convolutions on cores with the DSP extension.

Two rows of weights share words of 16-bit lanes ``256·w_a + w_b`` (`pack`): multiplied with
activations widened to 16 bits, the word gives ``256·A + B``, and its low bytes give B. Both are
exact modulo 2^32, and so is A, because |A| < 2^23 is proved from the weights, bias and range of
activations of its channel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.constant import Constant
from binpoint.ir.graph import Graph, Value
from binpoint.ir.kernel import Argument, Block, Buffer, Epilogue, KernelCall, Number, Table
from binpoint.ir.op import IntArray
from binpoint.numeric.fixed import I32, IntType
from binpoint.ops.conv import IntConv
from binpoint.ops.dense import IntDense
from binpoint.ops.forms import U32
from binpoint.ops.linear import Weights, channel_reach
from binpoint.ops.requantize import Requantize
from binpoint.options import CompileOptions
from binpoint.plan.fuse import Step
from binpoint.plan.variants.fixed import Fixed, fixed

_ROWS = {"wide": 4, "tall": 8}
_LEAST_CHANNELS = {"wide": 3, "tall": 4}
_PAIR_LIMIT = 1 << 23
_FEW_INPUTS = 4
_ORDER = (0, 2, 1, 3)
_UNUSED = {
    "rows": ("stride_w",),
    "picked": ("pad_w", "columns", "width"),
    "columns": ("row", "stride_w"),
}
"""Numbers of a convolution that a layout of its scratch makes no use of."""


@dataclass(frozen=True, slots=True)
class Product:
    """Rows of weights ``[C, runs, run]`` by patches: what is common to all kernels here."""

    shape: str
    order: str
    weights: IntArray
    bias: IntArray
    reach: IntArray


def matrix(step: Step, graph: Graph, options: CompileOptions) -> Step | None:
    """A convolution without groups and dilation, or a product with a constant matrix."""
    node = step.nodes[0]
    inputs = graph.arguments(node)
    if step.call.variant or len(inputs) != 3 or inputs[0].elem.storage.dtype.itemsize != 1:
        return None
    match node.op:
        case IntDense():
            call = _dense(step, inputs, options)
        case IntConv(groups=1) if node.op.stem == "conv":
            call = _conv(step, inputs, node.op, options)
        case _:
            return None
    return None if call is None else replace(step, call=call)


def _dense(step: Step, inputs: tuple[Value, ...], options: CompileOptions) -> KernelCall | None:
    """Rows of the operand two at a time, or one alone with eight channels."""
    x, w, _ = inputs
    rows = _number(step, "rows")
    depth = w.shape[1]
    shape = "wide" if rows > 1 else "tall"
    product = _product(inputs, 0, shape, depth, padded=False)
    if product is None:
        return None
    run = product.weights.shape[2]
    numbers = ({"rows": rows} if shape == "wide" else {}) | {"depth": depth, "run": run}
    scratch = 2 * run * (2 if shape == "wide" else 1)
    return _call(step, product, numbers, (), scratch, options, x.elem.storage)


def _conv(
    step: Step, inputs: tuple[Value, ...], op: IntConv, options: CompileOptions
) -> KernelCall | None:
    """Rows of the input in scratch, two windows at a time."""
    x, w, _ = inputs
    window, size = op.window.planar(x.shape[1:-1])
    out = window.outputs(size)
    (height, width), (step_h, step_w), depth = window.kernel, window.strides, x.shape[-1]
    columns = (out[1] - 1) * step_w + width
    if window.dilations != (1, 1) or out[0] * out[1] == 1 or columns <= window.before[1]:
        return None
    codes = _codes(w).reshape(w.shape[0], height, width * depth)
    layout = "rows"
    if depth <= _FEW_INPUTS and height > 1:
        layout = "columns"
        codes = codes.reshape(w.shape[0], height, width, depth).swapaxes(1, 2)
        codes = codes.reshape(w.shape[0], 1, -1)
    elif width < step_w and not any((*window.before, *window.after)):
        layout, columns = "picked", out[1] * width
    unit = {"rows": step_w * depth, "picked": width * depth, "columns": step_w * depth * height}
    turned = 1 if layout == "columns" else depth
    product = _product(inputs, op.zero, "wide", turned, padded=op.window.padded, codes=codes)
    if product is None:
        return None
    row = columns * depth + columns * depth % 2
    entire = columns * height * depth if layout == "columns" else row * height
    numbers = {
        "batches": x.shape[0], "in_h": size[0], "in_w": size[1], "in_c": depth,
        "out_h": out[0], "out_w": out[1], "kernel_h": height, "stride_h": step_h,
        "pad_h": window.before[0], "pad_w": window.before[1], "zero_x": op.zero,
        "stride_w": step_w, "columns": columns, "row": row, "size": entire,
        "width": min(size[1], columns - window.before[1]), "step": unit[layout],
        "runs": product.weights.shape[1], "run": product.weights.shape[2], "pitch": row,
    }  # fmt: skip
    few = (("depth", f"d{depth}"),) if layout == "columns" else ()
    traits = (("layout", layout), *few)
    used = {name: n for name, n in numbers.items() if name not in _UNUSED[layout]}
    return _call(step, product, used, traits, 2 * entire + 4, options, x.elem.storage)


def _number(step: Step, name: str) -> int:
    return next(a.value for a in step.call.arguments if isinstance(a, Number) and a.name == name)


def _codes(value: Value) -> IntArray:
    assert value.constant is not None
    return value.constant.array.astype(np.int64)


def _product(
    inputs: tuple[Value, ...],
    zero: int,
    shape: str,
    depth: int,
    *,
    padded: bool,
    codes: IntArray | None = None,
) -> Product | None:
    """Weights with runs of an even length, the zero point in the bias, and the range of sums."""
    x, w, bias = inputs
    given = _codes(w) if codes is None else codes
    rows = given.reshape(given.shape[0], -1)
    if rows.shape[0] < _LEAST_CHANNELS[shape] or (w.shape[0] * rows.shape[1]) == 0:
        return None
    reach = channel_reach(Weights(rows, _codes(bias), w.elem), x, padded=padded, zero=zero)
    cubes = given if given.ndim == 3 else given[:, None, :]
    weights = np.pad(cubes, ((0, 0), (0, 0), (0, cubes.shape[2] % 2)))
    order = "even" if depth % 4 == 0 else ""
    if order:
        shaped = weights.reshape(*weights.shape[:2], -1, 4)
        weights = shaped[..., _ORDER].reshape(weights.shape)
    total = _codes(bias) - zero * rows.sum(axis=1)
    return Product(shape, order, weights, total, np.array(reach, np.int64).T)


def _call(
    step: Step,
    product: Product,
    numbers: dict[str, int],
    traits: tuple[tuple[str, str], ...],
    scratch: int,
    options: CompileOptions,
    operand: IntType,
) -> KernelCall | None:
    """The call; results of eight bits in the block itself, others by the portable epilogue."""
    op = step.nodes[1].op if len(step.nodes) > 1 else None
    found = fixed(op, product.reach) if isinstance(op, Requantize) else None
    if found is not None:
        alive = ~found.settled
        weights = product.weights * alive[:, None, None]
        product = replace(product, weights=weights, bias=product.bias * alive)
    elif np.abs(product.reach).max() >= _PAIR_LIMIT:
        return None
    words = pack(product.weights, _ROWS[product.shape])
    if words is None:
        return None
    y = next(a for a in step.call.arguments if isinstance(a, Buffer) and a.written)
    x = next(a for a in step.call.arguments if isinstance(a, Buffer) and not a.written)
    channels = product.bias.size
    epilogue, stored = _stored(step.call.epilogue, op, found)
    common = (("shape", product.shape), ("unroll", "u4" if options.optimize == "size" else "u12"))
    block = Block("block", (*common, ("y", str(y.elem) if found else ""), stored[1]))
    order = ("order", product.order)
    widen = Block("widen", (("elem", str(operand)), order))
    tail = ("tail", "tail" if found is not None and channels % _ROWS[product.shape] else "")
    arguments: tuple[Argument, ...] = (
        x,
        Table("w", Constant(words), U32),
        Table("c", Constant(_constants(product, found)), I32),
        y,
        *(Number(name, value) for name, value in (numbers | {"channels": channels}).items()),
        *_ways(found, op, stored[1][1]),
    )
    columns = ("layout", "columns") in traits
    return KernelCall(
        step.call.stem,
        arguments,
        (*common, *traits, order, *stored, tail),
        epilogue,
        step.call.formula,
        scratch,
        "dsp",
        _note(product, found),
        (block,) if columns else (block, widen),
        shared=True,
    )


def _stored(
    epilogue: Epilogue | None, op: object, found: Fixed | None
) -> tuple[Epilogue | None, tuple[tuple[str, str], ...]]:
    """The epilogue, and the traits `store` and `clamp`."""
    if found is None or not isinstance(op, Requantize):
        return epilogue, (("store", "sums"), ("clamp", ""))
    storage = op.result.storage
    clamp = "" if (op.lo, op.hi) == (storage.min, storage.max) else "clamp"
    return found.epilogue, (("store", "fixed"), ("clamp", clamp))


def _ways(found: Fixed | None, op: object, clamp: str) -> tuple[Number, ...]:
    """What the block needs to make results of sums."""
    if found is None:
        return ()
    up = (Number("up", found.up), Number("near", found.window * 0x10001, "uint32_t"))
    if not clamp:
        return up
    assert isinstance(op, Requantize)
    ends = (("lo4", op.lo), ("hi4", op.hi))
    return (*up, *(Number(name, (v & 0xFF) * 0x01010101, "uint32_t") for name, v in ends))


def pack(weights: IntArray, rows: int) -> NDArray[np.uint32] | None:
    """Words ``[groups, steps, rows / 2]`` of ``[C, runs, run]`` weights; None where lanes overflow.

    Channels are filled up to a multiple of `rows` by zeros.
    """
    flat = weights.reshape(weights.shape[0], -1)
    flat = np.pad(flat, ((0, -flat.shape[0] % rows), (0, 0)))
    lanes = 256 * flat[0::2] + flat[1::2]
    low = np.abs(flat[1::2] * 2 + 1).max() > 255
    if low or lanes.min() < -(1 << 15) or lanes.max() >= 1 << 15:
        return None
    halves = lanes & 0xFFFF
    words = halves[:, 0::2] | halves[:, 1::2] << 16
    shaped = words.reshape(-1, rows // 2, words.shape[1]).swapaxes(1, 2)
    return np.ascontiguousarray(shaped).astype(np.uint32)


def _constants(product: Product, found: Fixed | None) -> NDArray[np.int32]:
    """For each block: first values of its sums, then scale and offset of each row."""
    rows = _ROWS[product.shape]
    missing = -product.bias.size % rows
    bias = np.pad(product.bias, (0, missing))
    first = np.stack([256 * bias[0::2] + bias[1::2], bias[1::2]], axis=1).reshape(-1, rows)
    if found is not None:
        scales = np.pad(found.scales, (0, missing))
        offsets = np.pad(found.offsets, (0, missing), constant_values=1 << 15)
        pairs = np.stack([scales, offsets], axis=1).reshape(-1, 2 * rows)
        first = np.concatenate([first, pairs], axis=1)
    return (first & 0xFFFFFFFF).astype(np.uint32).view(np.int32)


def _note(product: Product, found: Fixed | None) -> str:
    bits = int(np.abs(product.reach).max()).bit_length()
    text = f"two rows of weights a word; exact, as sums have at most {bits} bits and a sign"
    if found is None:
        return text
    how = "the roundings to float32" if found.epilogue.form == "tie" else found.epilogue.form
    return f"{text}; results less than {found.window} / 2^16 above an integer are decided by {how}"
