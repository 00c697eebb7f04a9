"""What integer norms of rows have in common: how normalized numbers become results."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from binpoint.ir.graph import Value
from binpoint.ir.kernel import Argument, Buffer, Number
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import IntArray, IntegerOp
from binpoint.numeric.fixed import FixedType, TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.blocks import Block

WORD = 32


def fits(multipliers: Sequence[int], offsets: Sequence[int], reach: int) -> bool:
    """Whether ⌊t·m/2^32⌋ + k fits 32 bits for |t| ≤ `reach`."""
    largest = max(map(abs, multipliers))
    high = (reach * largest >> WORD) + 1
    return largest < 2**31 and high + max(map(abs, offsets)) < 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class RowNorm(IntegerOp):
    """y = clamp((⌊t·m / 2^32⌋ + k) >> shift) of normalized numbers t.

    Operands x, m and k; the last two int32, a number for each channel.

    Args:
        block: rows.
        shift: s.
        result: type of y.
        lo, hi: clamp of y.
        groups: sets of channels, one for each of so many rows in turn.
        each: neighbouring elements of a row that make a channel.
        notes: why onnxruntime's bytes may be others.
    """

    block: Block
    shift: int
    result: FixedType
    lo: int
    hi: int
    groups: int = 1
    each: int = 1
    notes: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether every row has the same channels, one for each element."""
        return self.groups == self.each == 1

    @property
    def channels(self) -> str:
        """A trait of the kernel: whether a place in the row is the place in m and k."""
        return "row" if self.plain else "group"

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's shape."""
        x, m, k = inputs
        count = (self.groups * (self.block.n // self.each),)
        assert m.shape == k.shape == count, f"{m.shape} and {k.shape} for {count}"
        return (TensorType(x.shape, self.result),)

    def clamped(self, lo: int, hi: int) -> Self:
        """The same op with its result clamped further."""
        both = Interval(self.lo, self.hi).clamp(lo, hi)
        return replace(self, lo=both.lo, hi=both.hi)

    @abstractmethod
    def reach(self) -> int:
        """A bound of |t|."""

    def totals(self, m: IntArray, k: IntArray) -> Interval:
        """The range of what is shifted at last, which is proved to fit 32 bits."""
        reach = self.reach()
        assert fits(m.tolist(), k.tolist(), reach), "a result leaves 32 bits"
        return Interval.of((np.array([[-reach], [reach]]) * m >> WORD) + k)

    def ends(self, m: IntArray, k: IntArray) -> Interval:
        """The range of results."""
        totals = self.totals(m, k)
        return Interval(totals.lo >> self.shift, totals.hi >> self.shift).clamp(self.lo, self.hi)

    @property
    def _axes(self) -> tuple[int, int, int, int]:
        """Rows of all sets, sets, channels, and the elements of a channel."""
        block = self.block
        return (
            block.outer // self.groups, self.groups, block.n // self.each, self.each * block.inner
        )  # fmt: skip

    def finish(self, t: IntArray, m: IntArray, k: IntArray) -> IntArray:
        """The definition."""
        m, k = (v.reshape(self.groups, -1, 1) for v in (m, k))
        y = ((t.reshape(self._axes) * m >> WORD) + k) >> self.shift
        return np.clip(y, self.lo, self.hi).reshape(self.block.shape)

    def finish_onnx(self, w: OnnxWriter, t: Tensor, m: Tensor, k: Tensor) -> Tensor:
        """The same in the check graph."""
        m, k = (w.reshape(v, (self.groups, self._axes[2], 1)) for v in (m, k))
        y = w.add(w.floor_shift(w.mul(w.reshape(t, self._axes), m), WORD), k)
        y = w.clamp(w.floor_shift(y, self.shift), self.lo, self.hi)
        return w.reshape(y, self.block.shape)

    def arguments(self, inputs: Sequence[Value], y: Value, *own: Argument) -> tuple[Argument, ...]:
        """Of the kernel; `own` between those that all norms have."""
        x, m, k = inputs
        sets = () if self.plain else (Number("groups", self.groups), Number("each", self.each))
        return (
            *self.block.arguments(x, y),
            Buffer("m", m.name, m.elem.storage),
            Buffer("k", k.name, k.elem.storage),
            *own,
            *sets,
            Number("shift", self.shift),
            Number("lo", self.lo),
            Number("hi", self.hi),
        )
