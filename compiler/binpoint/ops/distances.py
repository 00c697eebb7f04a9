"""Exponentials of distances from the largest element, by a table; and masks, which lower elements.

t[d] = round(exp(−d·scale)·2^b) for d = 0..255. A masked element takes the code 2^8 below the
smallest one, in 16 bits; the table goes on with 2^8 zeros. So its term is zero exactly, and it is
never the largest.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from binpoint.errors import NoIntegerForm
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import FloatArray, IntArray
from binpoint.numeric.fixed import I16
from binpoint.numeric.interval import Interval
from binpoint.ops.broadcast import Broadcast
from binpoint.ops.pairwise import IntMinMax

CODES = 256
"""Distances between codes of eight bits."""
_MOST = 2**16


def exponentials(scale: float, count: int, bits: int, where: str) -> IntArray:
    """t[d] with b = `bits`, for rows of `count` elements.

    Raises:
        NoIntegerForm: the rows are too long for their sum to have a meaning.
    """
    if count > _MOST:
        raise NoIntegerForm(f"softmax over {count} elements", at=where, want=f"at most {_MOST}")
    distance = np.arange(CODES, dtype=np.float64)
    return np.rint(np.exp(-distance * scale) * 2.0**bits).astype(np.int64)


def eight_bits(x: Value, where: str) -> None:
    """Refuse an operand whose distances are not all in a table.

    Raises:
        NoIntegerForm: it has more than eight bits.
    """
    if x.elem.storage.width > 8:
        raise NoIntegerForm(
            f"softmax of {x.elem.storage.width}-bit values by table",
            at=where,
            hint="quantize its operand to 8 bits",
        )


def masked(build: GraphBuilder, x: Value, keep: FloatArray, where: str) -> Value:
    """Masked codes lowered below all others, by as much as a table of all distances is long."""
    storage = x.elem.storage
    low = storage.min - CODES
    kind = replace(x.elem, storage=I16)
    places = build.constant(np.where(keep != 0, storage.max, low), kind, hint=f"{where}_mask")
    axes = Broadcast.of(x.shape, places.shape, where)
    return build.one(IntMinMax(axes, False, kind), x, places)


def summed(w: OnnxWriter, x: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Terms of rows along the second axis of three, and their sum, which has the largest term."""
    index = w.sub(w.reduce_max(x, 1, keep=True), x)
    bounds = Interval(max(0, table.range.lo), table.range.hi)
    terms = w.emit("Gather", [table.name, index.name], x.shape, bounds, axis=0)
    total = w.reduce_sum(terms, 1, keep=True)
    return terms, Tensor(total.name, total.shape, Interval(bounds.hi, total.range.hi))


def beyond(table: IntArray) -> IntArray:
    """The table for an operand that may be masked."""
    return np.concatenate([table, np.zeros_like(table)])
