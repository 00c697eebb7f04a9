"""Units that need a whole row before its first result: softmax, layer normalization."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from binpoint.ir.constant import Constant
from binpoint.ir.op import IntArray
from binpoint.numeric.fixed import IntType
from binpoint.plan.unit import Unit

_ADDITION = 8
_MOST_TOGETHER = 8
_ROOT_STEPS = 31
_QUOTIENT_STEPS = 31


@dataclass(frozen=True, slots=True)
class _ByRow(Unit):
    """One row after the other: its words are read at its beginning, written at its end."""

    rows: int
    count: int

    @property
    def turns(self) -> int:
        """Rows, or blocks of rows that are computed as one."""
        return self.rows

    @property
    def words(self) -> int:
        """Of a turn."""
        return self.count

    @property
    @abstractmethod
    def row_cycles(self) -> int:
        """Of a turn."""

    @property
    def iterations(self) -> int:
        """Cycles of all rows."""
        return self.turns * self.row_cycles

    def reads(self) -> tuple[IntArray, ...]:
        """At the beginning of each turn."""
        starts = np.arange(self.turns)[:, None] * self.row_cycles
        return ((starts + np.arange(self.words)).reshape(-1),)

    def writes(self) -> tuple[IntArray, ...]:
        """At the end of each turn."""
        (starts,) = self.reads()
        return (starts + self.row_cycles - self.words,)


@dataclass(frozen=True, slots=True)
class Softmax(_ByRow):
    """Shares of rows of `count` elements: largest, sum of table entries, then a division each.

    With ``float`` an addition takes several cycles, and the next one waits for it. So a few rows
    are summed in turn.

    Args:
        table: an entry for each distance from the largest element, nearest last.
        form: ``table``, with integer entries, or ``float``, with bit patterns of float32.
        factor, shift: the whole has factor·2^-shift steps; 256 of them with 8-bit ``table``.
        zero, lo, hi: of the result.
    """

    stem: ClassVar[str] = "softmax"

    x: IntType
    table: Constant
    form: str
    factor: int
    shift: int
    zero: int
    lo: int
    hi: int

    @property
    def together(self) -> int:
        """Rows that are summed in turn; divides them all."""
        if self.form == "table":
            return 1
        return max(n for n in range(1, _MOST_TOGETHER + 1) if self.rows % n == 0)

    @property
    def sum_cycles(self) -> int:
        """Between two additions."""
        return -(-_ADDITION // self.together) if self.form == "float" else 1

    @property
    def quotient_bits(self) -> int:
        """Of a share; each is a stage of the division."""
        if self.form == "float":
            return self.factor.bit_length()
        return ((self.factor >> self.shift) + 1).bit_length()

    @property
    def drain(self) -> int:
        """Cycles in which the three loops of a block of rows fill and empty."""
        return 3 * 4 + (_ADDITION if self.form == "float" else 0) + self.quotient_bits

    @property
    def turns(self) -> int:
        """Blocks of rows."""
        return self.rows // self.together

    @property
    def words(self) -> int:
        """Of a block of rows."""
        return self.together * self.count

    @property
    def row_cycles(self) -> int:
        """Reading, adding, dividing."""
        return self.together * self.count * (1 + self.sum_cycles + 1) + self.drain


@dataclass(frozen=True, slots=True)
class LogShares(_ByRow):
    """Codes of the shares of rows of `count` elements, as `ops.logshares.IntLogShares` has them.

    Args:
        table: an entry for each distance from the largest element, nearest last.
        marks: factors of a row's sum, in units of 2^-31.
    """

    stem: ClassVar[str] = "log_shares"

    x: IntType
    table: Constant
    marks: tuple[int, ...]

    @property
    def row_cycles(self) -> int:
        """Reading, adding, a product of the sum, comparing."""
        return 3 * self.count + 4 * 4


@dataclass(frozen=True, slots=True)
class Reciprocal(_ByRow):
    """Rows of `count` elements by exponentials and a rounded-down reciprocal, as I-ViT released it.

    Args:
        table: an exponential for each distance from the largest element.
        form: ``shares``, `ops.shares.Reciprocal`, or ``gelu``, `ops.rowgate`.
        numerator, drop: what is divided by a sum, and the bits rounded off a product with it.
        zero: of the operand, with ``gelu``.
        scale, down: multiplier and shift of a result, with ``gelu``.
        origin, lo, hi: of the result.
    """

    stem: ClassVar[str] = "reciprocal"

    form: str
    x: IntType
    table: Constant
    numerator: int
    drop: int
    zero: int
    scale: int
    down: int
    origin: int
    lo: int
    hi: int

    @property
    def steps(self) -> int:
        """Bits of a quotient."""
        return self.numerator.bit_length()

    @property
    def row_cycles(self) -> int:
        """Reading, then adding and one quotient bit by bit, or a quotient an element; results."""
        loops = 3 if self.form == "shares" else 2
        return loops * self.count + self.steps + 4 * (loops + 1)


@dataclass(frozen=True, slots=True)
class LayerNorm(_ByRow):
    """Rows of `count` elements normalized, as `ops.exactnorm.IntLayerNorm` defines it.

    Args:
        multipliers, offsets: a number for each channel of all sets.
        each: neighbouring elements that make a channel; more than one are whole words.
        centre: what elements are counted from; None: their mean.
        spare, epsilon, least_up, shift: of the definition.
        lo, hi: clamp of the result.
        apart: type of an element less `centre`.
        sums: type of a sum of elements; `squares` of a sum of squares.
    """

    stem: ClassVar[str] = "layernorm"

    x: IntType
    multipliers: Constant
    offsets: Constant
    each: int
    centre: int | None
    spare: int
    epsilon: int
    least_up: int
    shift: int
    lo: int
    hi: int
    apart: IntType
    sums: IntType
    squares: IntType
    pe: int

    @property
    def words(self) -> int:
        """Of a row."""
        return self.count // self.pe

    @property
    def widest(self) -> int:
        """What `pe` divides: a word is of one channel, or has a channel for each element."""
        return self.count if self.each == 1 else self.each

    @property
    def hold(self) -> int:
        """Words with the same channels."""
        return 1 if self.each == 1 else self.each // self.pe

    @property
    def table(self) -> tuple[int, int]:
        """Words of channels, of all sets, and channels of a word."""
        lanes = self.pe if self.each == 1 else 1
        return self.multipliers.array.size // lanes, lanes

    @property
    def row_cycles(self) -> int:
        """Sums, root, quotient, results; four loops fill and empty."""
        return 2 * self.words + _ROOT_STEPS + _QUOTIENT_STEPS + 4 * 6
