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
from binpoint.ir.kernel import Argument, KernelCall, Number, Table
from binpoint.numeric.fixed import I8, I32
from binpoint.numeric.float32 import Ints
from binpoint.ops.requantize import Requantize
from binpoint.options import CompileOptions
from binpoint.plan.fuse import Step
from binpoint.plan.variants.block_matrix import WINDOW
from binpoint.plan.variants.mve_lanes import LANES, REQUANTIZED, Lanes, lanes, wrapped
from binpoint.plan.variants.weighted import Weighted, moved

_VECTOR = 16
_EXACT = "8-bit products summed in 32 bits, zero points in the biases"


def matrix(step: Step, graph: Graph, options: CompileOptions) -> Step | None:
    """The step as a product of packed rows; None for groups and for wider operands."""
    call = step.call
    if call.stem not in ("conv", "dense"):
        return None
    operands, numbers = Weighted.of_bytes(step, graph), call.numbers
    if operands is None or numbers.get("groups", 1) != 1 or numbers.get("dilation_w", 1) != 1:
        return None
    x, codes = operands.x, operands.codes.reshape(len(operands.codes), -1)
    zero = numbers.get("zero_x", 0) - moved(x.elem)
    rows = _pack(codes)
    stored = _stored(step, graph, operands.bias - zero * codes.sum(axis=1))
    shape = _shape(call.stem, numbers, zero) | {"channels": len(codes), "steps": rows.shape[1]}
    direct = call.stem == "dense" and x.elem == I8 and numbers["depth"] % _VECTOR == 0
    patches = 0 if direct else 2 * _VECTOR * rows.shape[1]
    arguments: tuple[Argument, ...] = (
        x, Table("w", Constant(rows.astype(np.int8)), I8), Table("k", stored.packed, I32),
        operands.y,
        *(Number(n, v) for n, v in shape.items()), *stored.numbers,
    )  # fmt: skip
    raw = stored.form == "raw"
    thin = rows.shape[1] == 1 and not raw and options.optimize != "size"
    found = KernelCall(
        call.stem,
        arguments,
        (
            ("lanes", f"thin_{stored.form}" if thin else stored.form),
            ("direct", "direct" if direct else ""),
        ),
        epilogue=call.epilogue if raw else None,
        formula=call.formula,
        scratch=patches + (2 * 4 * len(codes) if raw else 0),
        variant="mve",
        note=_EXACT if raw else f"{_EXACT}; {REQUANTIZED}",
    )
    return replace(step, call=found)


def _shape(stem: str, numbers: dict[str, int], zero: int) -> dict[str, int]:
    """The sizes that the template wants."""
    if stem == "dense":
        return {"count": numbers["rows"], "depth": numbers["depth"]}
    return {n: numbers[n] for n in WINDOW} | {"fill": zero}


def _pack(codes: Ints) -> Ints:
    """``[O, K]`` to ``[O/4, K/16, 4, 16]``, padded with zeros."""
    count, depth = -(-codes.shape[0] // LANES), -(-codes.shape[1] // _VECTOR)
    padded = np.zeros((count * LANES, depth * _VECTOR), np.int64)
    padded[: codes.shape[0], : codes.shape[1]] = codes
    return np.moveaxis(padded.reshape(count, LANES, depth, _VECTOR), 1, 2)


def _stored(step: Step, graph: Graph, bias: Ints) -> Lanes:
    """How sums are stored; `raw` ones pass through the portable epilogue."""
    op = step.nodes[-1].op
    count = -(-len(bias) // LANES) * LANES
    if step.call.epilogue is not None and isinstance(op, Requantize):
        acc = graph.value(step.nodes[0].outputs[0]).interval
        found = lanes(op, bias, acc, range(count))
        if found is not None:
            return found
    padded = np.zeros(count, np.int64)
    padded[: len(bias)] = bias
    return Lanes("raw", Constant(wrapped(padded)), ())
