"""Matrix products and convolutions on cores with the DSP extension.

Rows of weights share words of 16-bit lanes (`dsp_packing`), of two rows ``256·w_a + w_b``:
multiplied with activations widened to 16 bits, the word gives ``256·A + B``, and its low bytes give
B. Both are exact modulo 2^32, and so is A, because |A| < 2^23 is proved from the weights, bias and
range of activations of its channel. Where it cannot be, a word has the bytes of both rows. Weights
of four bits or less are digits of four or eight rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.constant import Constant
from binpoint.ir.graph import Graph, Value
from binpoint.ir.kernel import Argument, Block, Buffer, Epilogue, KernelCall, Number, Table
from binpoint.ir.op import IntArray
from binpoint.numeric.fixed import I8, I32, U8
from binpoint.ops.conv import IntConv
from binpoint.ops.dense import IntDense
from binpoint.ops.forms import U32
from binpoint.ops.linear import Weights, channel_reach
from binpoint.ops.requantize import Requantize
from binpoint.ops.window import Window
from binpoint.options import CompileOptions
from binpoint.plan.fuse import Step
from binpoint.plan.variants.dsp_layout import Plane, by_columns, by_phases, by_pieces, by_rows
from binpoint.plan.variants.dsp_packing import Packing, packings
from binpoint.plan.variants.fixed import Fixed, fixed

_ROWS = {"wide": 4, "tall": 8}
_LEAST_CHANNELS = {"wide": 2, "tall": 3}
_HOW = {
    "": "256 times one row plus another",
    "bytes": "bytes of two rows",
    "n4": "four rows' digits of four bits",
    "n2": "rows' digits of two bits",
}
_FEW_INPUTS = 4
_FEW_ROWS = 256
"""Elements of rows that are widened together."""
_ORDER = (0, 2, 1, 3)
_ONE = Window((1, 1), (1, 1), (0, 0), (0, 0), (1, 1))


@dataclass(frozen=True, slots=True)
class Product:
    """Rows of weights ``[C, runs, run]`` by patches: what is common to all kernels here."""

    shape: str
    order: str
    packing: Packing
    weights: IntArray
    bias: IntArray
    reach: IntArray


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel that can be called: its template, numbers, traits, and bytes of scratch."""

    stem: str
    product: Product
    numbers: dict[str, int]
    traits: tuple[tuple[str, str], ...]
    scratch: int


def matrix(
    step: Step, graph: Graph, options: CompileOptions, *, digits: bool = True
) -> Step | None:
    """A convolution, or a product with a constant matrix; without `digits` weights are bytes.

    Not ones in groups, or with steps across, that are dilated in both directions, nor groups that
    do not fill blocks of channels.
    """
    node = step.nodes[0]
    inputs = graph.arguments(node)
    if step.call.variant or len(inputs) != 3 or inputs[0].elem.storage.dtype.itemsize != 1:
        return None
    match node.op:
        case IntDense():
            found = _dense(step, graph, step.call.numbers["rows"], options)
        case IntConv(groups=1) if node.op.stem == "conv" and _whole(node.op, inputs[0]):
            found = _dense(step, graph, inputs[0].shape[0], options)
        case IntConv() if node.op.stem == "conv":
            found = _conv(inputs, node.op, options)
        case _:
            return None
    call = None if found is None else _call(found, step, options, digits=digits)
    return None if call is None else replace(step, call=call)


def _whole(op: IntConv, x: Value) -> bool:
    """Whether the window is the whole input, so that the convolution is a matrix product."""
    return x.shape[1:-1] == op.window.kernel and not op.window.padded and op.zero == 0


def _dense(step: Step, graph: Graph, rows: int, options: CompileOptions) -> Kernel | None:
    """Rows of the operand two at a time, or one alone with eight channels.

    A small program that has convolutions makes it one of windows of one element.
    """
    inputs = graph.arguments(step.nodes[0])
    w = inputs[1]
    depth = w.constant.array[0].size if w.constant is not None else 0
    small = options.optimize == "size" and any(isinstance(n.op, IntConv) for n in graph.nodes())
    shape = "wide" if rows > 1 or small else "tall"
    codes = _codes(w).reshape(w.shape[0], 1, depth)
    product = _product(inputs, 0, shape, depth, padded=False, codes=codes, options=options)
    if product is None:
        return None
    run = product.weights.shape[2]
    if small:
        plane = Plane(_ONE, (1, rows), rows, depth, depth)
        layout = by_rows(plane) if rows == 1 and _tall_windows(graph) else by_pieces(plane)
        numbers = {"batches": 1, "run": run, "zero_x": 0} | layout.numbers
        scratch = 2 * layout.elements + 4
        return Kernel("conv", product, numbers, layout.traits, scratch)
    if shape == "tall":
        numbers, scratch = {"depth": depth, "run": run}, 2 * run
    else:
        few = min(rows, max(2, _FEW_ROWS // depth // 2 * 2))
        numbers, scratch = (
            {"rows": rows, "depth": depth, "run": run, "few": few},
            2 * few * depth + 4,
        )
    return Kernel("dense", product, numbers, (), scratch)


def _tall_windows(graph: Graph) -> bool:
    """Whether a convolution has windows of several rows."""
    ops = (n.op for n in graph.nodes())
    return any(isinstance(op, IntConv) and op.window.kernel[:-1] > (1,) for op in ops)


def _conv(inputs: tuple[Value, ...], op: IntConv, options: CompileOptions) -> Kernel | None:
    """Two windows at a time, from a few rows or a piece of one row in scratch, group by group."""
    x, w, _ = inputs
    window, size = op.window.planar(x.shape[1:-1])
    (height, width), depth = window.kernel, x.shape[-1] // op.groups
    if op.groups > 1 and w.shape[0] // op.groups % _ROWS["wide"]:
        return None
    columns = (window.outputs(size)[1] - 1) * window.strides[1] + window.reach[1]
    phased = window.dilations[1] > 1 and height > 1
    apart = phased and (window.strides[1] > 1 or op.groups > 1)
    if apart or columns <= window.before[1]:
        return None
    codes = _codes(w).reshape(w.shape[0], height, width, depth)
    few = depth <= _FEW_INPUTS and height > 1 and max(window.dilations) == 1
    plane = Plane(window, size, columns, depth, x.shape[-1])
    if few and op.groups == 1 and options.optimize != "size":
        codes = codes.swapaxes(1, 2).reshape(w.shape[0], 1, -1)
        layout = by_columns(plane, odd=w.shape[0] % _ROWS["wide"] != 0)
    elif phased:
        layout = by_phases(plane)
    elif _flat(window) and op.groups == 1:
        layout = by_pieces(plane)
    else:
        layout = by_rows(plane)
    if (phased or window.dilations[1] == 1) and codes.ndim > 3:
        codes = codes.reshape(w.shape[0], height, -1)
    codes = codes.reshape(w.shape[0], -1, codes.shape[-1])
    inner, padded = (depth if layout.traits[0][1] != "columns" else 1), op.window.padded
    product = _product(inputs, op.zero, "wide", inner, padded=padded, codes=codes, options=options)
    if product is None:
        return None
    numbers = {"batches": x.shape[0] * layout.lines, "run": product.weights.shape[2]}
    numbers |= {"zero_x": op.zero} | layout.numbers
    traits, scratch = layout.traits, 2 * layout.elements + 4
    if op.groups > 1:
        numbers |= {"groups": op.groups, "depth": depth}
    return Kernel("conv", product, numbers, traits, scratch)


def _flat(window: Window) -> bool:
    """Whether every row of the input is by itself, and makes one row of results."""
    flat = window.kernel[0] == window.strides[0] == 1
    return flat and (window.before[0], window.after[0]) == (0, 0)


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
    options: CompileOptions,
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
    order = "even" if depth % 4 == 0 and options.optimize != "size" else ""
    if order:
        shaped = weights.reshape(*weights.shape[:2], -1, 4)
        weights = shaped[..., _ORDER].reshape(weights.shape)
    total = _codes(bias) - zero * rows.sum(axis=1)
    return Product(shape, order, packings(shape)[-1], weights, total, np.array(reach, np.int64).T)


def _call(
    kernel: Kernel, step: Step, options: CompileOptions, *, digits: bool
) -> KernelCall | None:
    """The call; results of eight bits in the block itself, others by the portable epilogue."""
    stem, numbers, traits = kernel.stem, kernel.numbers, kernel.traits
    parts = numbers.get("groups", 1)
    op = step.nodes[1].op if len(step.nodes) > 1 else None
    product, found, words = _packed(kernel.product, op, parts, digits=digits)
    if words is None:
        return None
    y = next(a for a in step.call.arguments if isinstance(a, Buffer) and a.written)
    x = next(a for a in step.call.arguments if isinstance(a, Buffer) and not a.written)
    channels = product.bias.size // parts
    epilogue, stored = _stored(step.call.epilogue, op, found)
    unroll = "u4" if options.optimize == "size" else "u12"
    common = (("shape", product.shape), ("unroll", unroll), ("pack", product.packing.name))
    byte = ("y", str(I8 if y.elem.signed else U8) if found else "")
    block = Block("block", (*common, byte, stored[1]))
    order = ("order", product.order)
    widen = Block("widen", (("elem", str(x.elem)), order))
    one = stem == "conv" and options.optimize == "size"
    rest = one or channels % _ROWS[product.shape] != 0
    tail = ("tail", "tail" if found is not None and rest and parts == 1 else "")
    groups = ("groups", "phases" if "phases" in numbers else "grouped" if parts > 1 else "")
    arguments: tuple[Argument, ...] = (
        x,
        Table("w", Constant(words), U32),
        Table("c", Constant(_constants(product, found)), I32),
        y,
        *(Number(name, value) for name, value in (numbers | {"channels": channels}).items()),
        *_ways(found, op, stored[1][1]),
    )
    moved = ("moved", "moved" if found is not None and found.moved.any() else "")
    blocks = [block] if ("layout", "columns") in traits else [block, widen]
    if epilogue is not None and epilogue.form == "tie":
        how = (("shape", product.shape), common[2], byte, stored[1], moved)
        blocks.append(Block("tie", how))
    return KernelCall(
        stem,
        arguments,
        (*common, *traits, order, *stored, tail, moved, groups),
        epilogue,
        step.call.formula,
        kernel.scratch,
        "dsp",
        _note(product, found),
        tuple(blocks),
        shared=True,
    )


def _packed(
    product: Product, op: object, parts: int, *, digits: bool
) -> tuple[Product, Fixed | None, NDArray[np.uint32] | None]:
    """The weights packed, in the first way that the values allow; None if none does.

    Ways below a byte with results in bytes, then with sums; then bytes, alike. The sum of a
    patch serves the channels of one of `parts` groups.
    """
    ways = [way for way in packings(product.shape) if product.bias.size // parts >= way.least]
    for few in (True, False) if digits else (False,):
        chosen = [way for way in ways if bool(way.bits) is few]
        for way in chosen if isinstance(op, Requantize) else ():
            assert isinstance(op, Requantize)
            found = fixed(op, product.reach, product.bias, way.lifts)
            if found is None:
                continue
            made = _settled(product, found, way)
            words = way.pack(made.weights)
            if words is not None:
                return made, found, words
        for way in chosen:
            if way.name == "bytes" or np.abs(product.reach).max() < way.limit:
                words = way.pack(product.weights)
                if words is not None:
                    return replace(product, packing=way), None, words
    return product, None, None


def _settled(product: Product, found: Fixed, way: Packing) -> Product:
    """Without the weights of settled channels, and without what the offsets hold of biases."""
    alive = ~found.settled
    return replace(
        product,
        packing=way,
        weights=product.weights * alive[:, None, None],
        bias=(product.bias - found.moved) * alive,
        reach=(product.reach - found.moved) * alive,
    )


def _stored(
    epilogue: Epilogue | None, op: object, found: Fixed | None
) -> tuple[Epilogue | None, tuple[tuple[str, str], ...]]:
    """The epilogue, and the traits `store` and `clamp`."""
    if found is None or not isinstance(op, Requantize):
        return epilogue, (("store", "sums"), ("clamp", ""))
    byte = I8 if op.result.storage.signed else U8
    clamp = "" if (op.lo, op.hi) == (byte.min, byte.max) else "clamp"
    return found.epilogue, (("store", "fixed"), ("clamp", clamp))


def _ways(found: Fixed | None, op: object, clamp: str) -> tuple[Number, ...]:
    """What the block needs to make results of sums."""
    if found is None:
        return ()
    near = Number("near", found.window * 0x10001, "uint32_t")
    if not clamp:
        return (near,)
    assert isinstance(op, Requantize)
    ends = (("lo4", op.lo), ("hi4", op.hi))
    return (near, *(Number(name, (v & 0xFF) * 0x01010101, "uint32_t") for name, v in ends))


def _constants(product: Product, found: Fixed | None) -> NDArray[np.int32]:
    """For each block: first values of its sums, then scale and offset of each row."""
    rows = _ROWS[product.shape]
    missing = -product.bias.size % rows
    bias = np.pad(product.bias, (0, missing))
    first = product.packing.first(bias)
    if found is not None:
        scales = np.pad(found.scales, (0, missing))
        offsets = np.pad(found.offsets, (0, missing), constant_values=1 << 15)
        pairs = np.stack([scales, offsets], axis=1).reshape(-1, 2 * rows)
        first = np.concatenate([first, pairs], axis=1)
    return (first & 0xFFFFFFFF).astype(np.uint32).view(np.int32)


def _note(product: Product, found: Fixed | None) -> str:
    bits = int(np.abs(product.reach).max()).bit_length()
    how = _HOW[product.packing.name]
    text = f"weights are {how}; exact, as sums have at most {bits} bits and a sign"
    if found is None:
        return text
    how = "the roundings to float32" if found.epilogue.form == "tie" else found.epilogue.form
    return f"{text}; results less than {found.window} / 2^16 above an integer are decided by {how}"
