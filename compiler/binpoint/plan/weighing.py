"""Units with sums of products that are no dense layers: computed weights, weights of a position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from binpoint.ir.constant import Constant
from binpoint.ir.op import IntArray
from binpoint.numeric.fixed import IntType
from binpoint.plan.movers import AHEAD
from binpoint.plan.store import Store
from binpoint.plan.unit import Unit, last_steps

ADDITION = 8
"""Cycles between two dependent additions of float32 on integers."""
_DRAIN = 12


@dataclass(frozen=True, slots=True)
class Sums(Unit):
    """y[r, n] = store(bias[n] + Σ_k x[r, k]·w[n, k]), a row a cycle, by additions and shifts alone.

    Args:
        rows: positions.
        weights: ``[channels, depth]``.
        bias: ``[channels]``, what the store has not taken in.
        x: type of the operand.
        acc: type of the sums, with and without the bias.
    """

    stem: ClassVar[str] = "sums"

    rows: int
    weights: Constant
    bias: Constant
    x: IntType
    acc: IntType
    store: Store

    @property
    def pe(self) -> int:
        """Channels, all side by side."""
        return self.weights.array.shape[0]

    @property
    def simd(self) -> int:
        """Products in a sum, all side by side."""
        return self.weights.array.shape[1]

    @property
    def iterations(self) -> int:
        """One a row."""
        return self.rows


@dataclass(frozen=True, slots=True)
class Product(Unit):
    """y[i, m, n] = store(Σ_k (a[i, m, k] − za)·(b[i, k, n] − zb)), PE sums of SIMD products.

    All of b[i] is held, in as many memories as there are products of a sum; while it is used,
    b[i + 1] is read into the other half. Words of a have SIMD elements, those of b and y PE.

    Args:
        batches, rows, depth, columns: sizes.
        zero_a, zero_b: zero points.
        a, b: types of the operands.
        left, right: types that hold them, with and without their zero point.
        acc: narrowest type of every partial sum.
        product: narrowest type of a product.
        pe: columns summed side by side; simd: products added side by side.
        shifts: whether a holds codes of powers of two (`ops.logshares`), by which b is shifted.
    """

    stem: ClassVar[str] = "product"

    batches: int
    rows: int
    depth: int
    columns: int
    zero_a: int
    zero_b: int
    a: IntType
    b: IntType
    left: IntType
    right: IntType
    acc: IntType
    product: IntType
    store: Store
    pe: int
    simd: int
    shifts: bool = False

    @property
    def folds(self) -> int:
        """Turns of all PEs for a row."""
        return self.columns // self.pe

    @property
    def steps(self) -> int:
        """Iterations of one sum."""
        return self.depth // self.simd

    @property
    def loads(self) -> int:
        """Words of one matrix b."""
        return self.depth * self.folds

    @property
    def sums(self) -> int:
        """Iterations in which one matrix is computed."""
        return self.rows * self.folds * self.steps

    @property
    def phase(self) -> int:
        """Iterations from one matrix to the next."""
        return max(self.sums, self.loads) + AHEAD if self.batches > 1 else self.sums

    @property
    def iterations(self) -> int:
        """The first matrix is read, then one phase for each."""
        return self.prologue + self.batches * self.phase

    @property
    def prologue(self) -> int:
        """Iterations before the first sum."""
        return self.loads + AHEAD

    def reads(self) -> tuple[IntArray, ...]:
        """A row of a during its first fold; b one matrix ahead."""
        phases = self.prologue + np.arange(self.batches) * self.phase
        rows = (phases[:, None] + np.arange(self.rows) * self.folds * self.steps).reshape(-1)
        ahead = np.append(0, phases[:-1])[:, None] + np.arange(self.loads)
        return ((rows[:, None] + np.arange(self.steps)).reshape(-1), ahead.reshape(-1))

    def writes(self) -> tuple[IntArray, ...]:
        """With the last step of each fold."""
        phases = self.prologue + np.arange(self.batches)[:, None] * self.phase
        ends = last_steps(self.rows * self.folds, self.steps)
        return ((phases + ends).reshape(-1),)


@dataclass(frozen=True, slots=True)
class Source(Unit):
    """The words of a constant, from a memory."""

    stem: ClassVar[str] = "source"

    array: Constant
    elem: IntType
    lanes: int

    @property
    def iterations(self) -> int:
        """One a word."""
        return self.array.array.size // self.lanes

    def reads(self) -> tuple[IntArray, ...]:
        """None."""
        return ()


@dataclass(frozen=True, slots=True)
class Blend(Unit):
    """y[r, c] = store(start + Σ_t x[r, c, t]·w[r, t]), PE channels side by side, a tap a cycle.

    Weights belong to a position, not a channel. The operand has the order row, channel word, tap.
    """

    stem: ClassVar[str] = "blend"

    rows: int
    folds: int
    weights: Constant
    x: IntType
    acc: IntType
    product: IntType
    store: Store
    pe: int
    start: int

    @property
    def taps(self) -> int:
        """Products in a sum."""
        return self.weights.array.shape[1]

    @property
    def iterations(self) -> int:
        """Rows by channel words by taps."""
        return self.rows * self.folds * self.taps

    def writes(self) -> tuple[IntArray, ...]:
        """With the last tap."""
        return (last_steps(self.rows * self.folds, self.taps),)


@dataclass(frozen=True, slots=True)
class FloatSum(Unit):
    """y[r, c] = lo + the number of steps that fl(Σ_t term(x[r, c, t])) reaches.

    Terms are float32 numbers by code, times a weight of the position where there are any; they are
    added one after the other, every product and sum rounded, all of it carried out on integers.
    What happens to a sum is monotone, so it is a list of the sums at which it steps, in which
    the result is found by halving. The operand has the order row, channel word, tap.

    Args:
        table: ``[codes]``, bit patterns of the terms; `low` is the operand of the first.
        weights: ``[rows, taps]``, bit patterns; or None.
        steps: ``[kinds, n]``, sums as integers of the same order (`ordered`).
        kinds: which list each row takes, ``[rows]``.
        lo: least result.
        result: narrowest type of the results.
    """

    stem: ClassVar[str] = "float_sum"

    rows: int
    folds: int
    taps: int
    x: IntType
    table: Constant
    low: int
    weights: Constant | None
    steps: Constant
    kinds: Constant
    lo: int
    result: IntType
    pe: int

    @property
    def halvings(self) -> int:
        """Comparisons that find a place in a list."""
        return self.steps.array.shape[1].bit_length()

    @property
    def word_cycles(self) -> int:
        """Additions, comparisons; two loops fill and empty."""
        return self.taps * ADDITION + self.halvings * 2 + _DRAIN

    @property
    def iterations(self) -> int:
        """Cycles of all words."""
        return self.rows * self.folds * self.word_cycles

    def reads(self) -> tuple[IntArray, ...]:
        """With each addition."""
        first = np.arange(self.rows * self.folds)[:, None] * self.word_cycles
        return ((first + np.arange(self.taps) * ADDITION).reshape(-1),)

    def writes(self) -> tuple[IntArray, ...]:
        """At the end of each word."""
        return (last_steps(self.rows * self.folds, self.word_cycles),)
