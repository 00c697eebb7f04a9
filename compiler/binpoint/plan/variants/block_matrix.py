"""Convolution and matrix product in plain C for cores with many registers.

Four channels meet four positions: eight loads for sixteen products, whose sums stay in registers.
The weights of four channels lie interleaved; windows are copied side by side first, with the zero
point in place of padding, and zero points are folded into the biases.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from binpoint.ir.constant import Constant
from binpoint.ir.graph import Graph
from binpoint.ir.kernel import Argument, Buffer, KernelCall, Number, Table
from binpoint.numeric.fixed import I32
from binpoint.numeric.float32 import Ints
from binpoint.options import CompileOptions
from binpoint.plan.fuse import Step

_ROWS = 4
_POSITIONS = 3
_UNROLLED = 4
_LIMIT = 2**31 - 1


def block_matrix(step: Step, graph: Graph, _: CompileOptions) -> Step | None:
    """The step in blocks; None for groups, dilated columns, and sums that may leave 32 bits."""
    call = step.call
    if call.stem not in ("conv", "dense"):
        return None
    x, w, bias, y = (a for a in call.arguments if isinstance(a, Buffer))
    numbers = {a.name: a.value for a in call.arguments if isinstance(a, Number)}
    weights, offsets = graph.value(w.value).constant, graph.value(bias.value).constant
    if weights is None or offsets is None:
        return None
    if numbers.get("groups", 1) != 1 or numbers.get("dilation_w", 1) != 1:
        return None
    codes = weights.array.astype(np.int64).reshape(weights.array.shape[0], -1)
    zero = numbers.get("zero_x", 0)
    folded = offsets.array.astype(np.int64) - zero * codes.sum(axis=1)
    largest = max(abs(x.elem.min), abs(x.elem.max))
    if (np.abs(codes).sum(axis=1) * largest + np.abs(folded)).max() > _LIMIT:
        return None
    packed = _pack(codes)
    depth = packed.shape[1]
    padded = np.zeros(packed.shape[0] * _ROWS, np.int32)
    padded[: len(folded)] = folded
    tables = (
        Table("w", Constant(packed.astype(w.elem.dtype)), w.elem),
        Table("bias", Constant(padded), I32),
    )
    shape, direct = _shape(call.stem, numbers, zero)
    sizes = shape | {"channels": len(codes), "depth": depth}
    arguments: tuple[Argument, ...] = (
        x, *tables, y, *(Number(n, v) for n, v in sizes.items()),
    )  # fmt: skip
    traits = (
        ("rows", str(_ROWS)),
        ("positions", str(_POSITIONS)),
        ("block", f"{x.elem}_{w.elem}"),
        ("direct", "direct" if direct else ""),
    )
    found = KernelCall(
        call.stem,
        arguments,
        traits,
        epilogue=call.epilogue,
        formula=call.formula,
        scratch=0 if direct else _POSITIONS * depth * x.elem.dtype.itemsize,
        variant="block",
        note="sums of four channels and four positions in registers, zero points in the biases",
    )
    return replace(step, call=found)


def _shape(stem: str, numbers: dict[str, int], zero: int) -> tuple[dict[str, int], bool]:
    """The numbers that the template wants, and whether x is read where it lies."""
    if stem == "dense":
        shape = {"rows": numbers["rows"], "length": numbers["depth"]}
        return shape, numbers["depth"] % _UNROLLED == 0
    names = ("batches", "in_h", "in_w", "in_c", "out_h", "out_w", "kernel_h", "kernel_w")
    names += ("stride_h", "stride_w", "dilation_h", "pad_h", "pad_w")
    return {n: numbers[n] for n in names} | {"fill": zero}, False


def _pack(codes: Ints) -> Ints:
    """``[O, K]`` to ``[O/4, K, 4]``, padded with zeros."""
    count, depth = -(-codes.shape[0] // _ROWS), -(-codes.shape[1] // _UNROLLED) * _UNROLLED
    padded = np.zeros((count * _ROWS, depth), np.int64)
    padded[: codes.shape[0], : codes.shape[1]] = codes
    return np.moveaxis(padded.reshape(count, _ROWS, depth), 1, 2)
