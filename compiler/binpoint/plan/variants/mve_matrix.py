"""Convolution and matrix product on Helium: sixteen 8-bit products an instruction.

Four channels meet two vectors of x: the weights of four channels lie interleaved in vectors of 16,
padded with zeros, so that eight sums share six loads. Windows are copied side by side first, with
the zero point in place of padding; zero points are folded into the biases. Unsigned x is moved by
128 on the way, as products are of signed bytes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from binpoint.ir.constant import Constant
from binpoint.ir.graph import Graph
from binpoint.ir.kernel import Argument, Buffer, KernelCall, Number, Table
from binpoint.numeric.fixed import I8, I32, U8
from binpoint.ops.requantize import Requantize
from binpoint.options import CompileOptions
from binpoint.plan.fuse import Step
from binpoint.plan.variants.mve_lanes import LANES, lanes, wrapped

_VECTOR = 16
_MIDDLE = 128


def matrix(step: Step, graph: Graph, _: CompileOptions) -> Step | None:
    """The step as a product of packed rows; None for groups and for wider operands."""
    call = step.call
    if call.stem not in ("conv", "dense"):
        return None
    x, w, bias, y = (a for a in call.arguments if isinstance(a, Buffer))
    numbers = {a.name: a.value for a in call.arguments if isinstance(a, Number)}
    weights, offsets = graph.value(w.value).constant, graph.value(bias.value).constant
    unfit = weights is None or offsets is None or x.elem not in (I8, U8) or w.elem != I8
    if unfit or numbers.get("groups", 1) != 1:
        return None
    assert weights is not None
    assert offsets is not None
    codes = weights.array.astype(np.int64).reshape(weights.array.shape[0], -1)
    signed_zero = numbers.get("zero_x", 0) - (0 if x.elem == I8 else _MIDDLE)
    folded = offsets.array.astype(np.int64) - signed_zero * codes.sum(axis=1)
    rows = _pack(codes)
    steps = rows.shape[1]
    form, constants, tail = _stored(step, graph, folded)
    table = Table("w", Constant(rows.astype(np.int8)), I8)
    fixed: dict[str, int] = {"channels": len(codes), "steps": steps}
    if call.stem == "dense":
        depth = numbers["depth"]
        direct = x.elem == I8 and depth % _VECTOR == 0
        shape = {"count": numbers["rows"], "depth": depth} | fixed
        traits = (("direct", "direct" if direct else ""),)
        scratch = 0 if direct else 2 * _VECTOR * steps
    else:
        if numbers["dilation_w"] != 1:
            return None
        names = ("batches", "in_h", "in_w", "in_c", "out_h", "out_w", "kernel_h", "kernel_w")
        names += ("stride_h", "stride_w", "dilation_h", "pad_h", "pad_w")
        shape = {n: numbers[n] for n in names} | {"fill": signed_zero} | fixed
        traits, scratch = (), 2 * _VECTOR * steps
    raw = form == "raw"
    arguments: tuple[Argument, ...] = (
        x, table, Table("k", Constant(constants), I32), y,
        *(Number(n, v) for n, v in shape.items()), *tail,
    )  # fmt: skip
    found = KernelCall(
        call.stem,
        arguments,
        (("lanes", form), *traits),
        epilogue=call.epilogue if raw else None,
        formula=call.formula,
        scratch=scratch + (2 * 4 * len(codes) if raw else 0),
        variant="mve",
        note="8-bit products summed in 32 bits, zero points in the biases"
        + ("" if raw else "; requantized in the high word, exact as its constants are proved"),
    )
    return replace(step, call=found)


def _pack(codes: np.ndarray) -> np.ndarray:
    """``[O, K]`` to ``[O/4, K/16, 4, 16]``, padded with zeros."""
    count, depth = -(-codes.shape[0] // LANES), -(-codes.shape[1] // _VECTOR)
    padded = np.zeros((count * LANES, depth * _VECTOR), np.int64)
    padded[: codes.shape[0], : codes.shape[1]] = codes
    return np.moveaxis(padded.reshape(count, LANES, depth, _VECTOR), 1, 2)


def _stored(
    step: Step, graph: Graph, bias: np.ndarray
) -> tuple[str, np.ndarray, tuple[Argument, ...]]:
    """How sums are stored: the name of the lanes, their constants, and numbers."""
    op = step.nodes[-1].op
    if step.call.epilogue is not None and isinstance(op, Requantize):
        order = range(-(-len(bias) // LANES) * LANES)
        found = lanes(op, bias, graph.value(step.nodes[0].outputs[0]).interval, order)
        if found is not None:
            return found.form, found.packed.array, found.numbers
    padded = np.zeros(-(-len(bias) // LANES) * LANES, np.int64)
    padded[: len(bias)] = bias
    return "raw", wrapped(padded.reshape(-1, LANES)), ()
