"""Convolution and matrix product in plain C whose sums stay in registers.

A block of channels meets a block of positions: four and three or two where there are some thirty
registers, seven loads for twelve products; two and two where there are sixteen. The weights of a
block's channels lie interleaved; windows are copied side by side first, with the zero point in
place of padding, and zero points are folded into the biases.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from binpoint.ir.constant import Constant
from binpoint.ir.graph import Graph
from binpoint.ir.kernel import Argument, KernelCall, Number, Table
from binpoint.numeric.fixed import I32
from binpoint.numeric.float32 import Ints
from binpoint.options import CompileOptions
from binpoint.plan.fuse import Step
from binpoint.plan.variants.weighted import Weighted

WINDOW = (
    "batches", "in_h", "in_w", "in_c", "out_h", "out_w", "kernel_h", "kernel_w",
    "stride_h", "stride_w", "dilation_h", "pad_h", "pad_w",
)  # fmt: skip
"""What a kernel that copies windows side by side is told of them."""
_UNROLLED = 4
_LIMIT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Block:
    """How many channels and positions meet."""

    rows: int
    positions: int


def wide(step: Step, graph: Graph, _: CompileOptions) -> Step | None:
    """The step in blocks for some thirty registers."""
    return _blocked(step, graph, Block(4, 3))


def pair(step: Step, graph: Graph, _: CompileOptions) -> Step | None:
    """The step in blocks of two positions, for narrow maps and for some thirty registers."""
    return _blocked(step, graph, Block(4, 2))


def narrow(step: Step, graph: Graph, _: CompileOptions) -> Step | None:
    """The step in blocks for sixteen registers and an instruction that multiplies and adds."""
    return _blocked(step, graph, Block(2, 2))


def _blocked(step: Step, graph: Graph, block: Block) -> Step | None:
    """None for groups, dilated columns, and sums that may leave 32 bits."""
    call = step.call
    if call.stem not in ("conv", "dense"):
        return None
    found, numbers = Weighted.of(step, graph), call.numbers
    if found is None or numbers.get("groups", 1) != 1 or numbers.get("dilation_w", 1) != 1:
        return None
    x, w = found.x, found.w
    codes = found.codes.reshape(len(found.codes), -1)
    zero = numbers.get("zero_x", 0)
    folded = found.bias - zero * codes.sum(axis=1)
    largest = max(abs(x.elem.min), abs(x.elem.max))
    if (np.abs(codes).sum(axis=1) * largest + np.abs(folded)).max() > _LIMIT:
        return None
    packed = _pack(codes, block.rows)
    depth = packed.shape[1]
    padded = np.zeros(packed.shape[0] * block.rows, np.int32)
    padded[: len(folded)] = folded
    tables = (
        Table("w", Constant(packed.astype(w.elem.dtype)), w.elem),
        Table("bias", Constant(padded), I32),
    )
    shape, direct = _shape(call.stem, numbers, zero)
    sizes = shape | {"channels": len(codes), "depth": depth}
    arguments: tuple[Argument, ...] = (
        x, *tables, found.y, *(Number(n, v) for n, v in sizes.items()),
    )  # fmt: skip
    traits = (
        ("rows", str(block.rows)),
        ("positions", str(block.positions)),
        ("block", f"{x.elem}_{w.elem}_{block.rows}x{block.positions}"),
        ("direct", "direct" if direct else ""),
    )
    made = KernelCall(
        call.stem,
        arguments,
        traits,
        epilogue=call.epilogue,
        formula=call.formula,
        scratch=0 if direct else block.positions * depth * x.elem.dtype.itemsize,
        variant="block",
        note=f"sums of {block.rows} channels and {block.positions} positions in registers, zero "
        "points in the biases",
    )
    return replace(step, call=made)


def _shape(stem: str, numbers: dict[str, int], zero: int) -> tuple[dict[str, int], bool]:
    """The numbers that the template wants, and whether x is read where it lies."""
    if stem == "dense":
        shape = {"rows": numbers["rows"], "length": numbers["depth"]}
        return shape, numbers["depth"] % _UNROLLED == 0
    return {n: numbers[n] for n in WINDOW} | {"fill": zero}, False


def _pack(codes: Ints, rows: int) -> Ints:
    """``[O, K]`` to ``[O/rows, K, rows]``, padded with zeros."""
    count, depth = -(-codes.shape[0] // rows), -(-codes.shape[1] // _UNROLLED) * _UNROLLED
    padded = np.zeros((count * rows, depth), np.int64)
    padded[: codes.shape[0], : codes.shape[1]] = codes
    return np.moveaxis(padded.reshape(count, rows, depth), 1, 2)
