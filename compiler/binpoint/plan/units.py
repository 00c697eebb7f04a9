"""Units that compute: what a dataflow design is made of.

Here are those that multiply and add, fold, map and join. Those that only move words are in
`plan/movers.py`, windows in `plan/windows.py`, those that need whole rows in `plan/rows.py`, those
with other sums of products in `plan/weighing.py`, and recurrent layers in `plan/steps.py`.

Constants are kept as the graph has them; folding is a field, and emission lays the constants out
for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from binpoint.ir.constant import Constant
from binpoint.ir.op import IntArray
from binpoint.numeric.fixed import IntType
from binpoint.numeric.interval import Interval
from binpoint.plan.movers import AHEAD, Concat, Copy, Fork, Frame, Gather, Lanes, Neighbours
from binpoint.plan.rows import LayerNorm, LogShares, Reciprocal, Softmax
from binpoint.plan.steps import Recurrent
from binpoint.plan.store import Store
from binpoint.plan.unit import Unit, last_steps
from binpoint.plan.weighing import Blend, FloatSum, Product, Source, Sums
from binpoint.plan.windows import Window

__all__ = (
    "AHEAD",
    "Arg",
    "Blend",
    "Concat",
    "Copy",
    "Dense",
    "Depthwise",
    "FloatSum",
    "Fork",
    "Frame",
    "Gather",
    "Lanes",
    "LayerNorm",
    "LogShares",
    "Map",
    "Neighbours",
    "Pair",
    "Product",
    "Reciprocal",
    "Recurrent",
    "Reduce",
    "Softmax",
    "Source",
    "Sums",
    "Unit",
    "Window",
    "narrowest",
)


@dataclass(frozen=True, slots=True)
class Dense(Unit):
    """y[r, g, n] = store(bias[g, n] + Σ_k x[r, g, k]·w[g, n, k]): PE sums of SIMD products a cycle.

    Args:
        rows: positions.
        groups: independent groups of channels; one for a full matrix.
        weights: ``[groups·channels, depth]``, of type `weight`.
        bias: ``[groups·channels]``, zero points folded in.
        x: type of the operand.
        weight: narrowest type of the weights.
        acc: narrowest type of every partial sum.
        product: narrowest type of a product.
        pe: channels summed side by side; divides the channels of a group.
        simd: products added side by side; divides the depth.
        arithmetic: ``multiply``; ``planes`` adds shifted operands, for weights of one or two bits;
            ``signs`` adds or subtracts, for weights of -1 and 1 only, held as one bit; ``count``
            counts equal bits, where the operand is carried as one bit as well, and doubles: `bias`
            has the depth taken off then; ``shifts`` and ``rows``: see `plan.shifts`.
        adders: whether it becomes `Sums` once nothing of it is folded.
    """

    stem: ClassVar[str] = "dense"

    rows: int
    groups: int
    weights: Constant
    bias: Constant
    x: IntType
    weight: IntType
    acc: IntType
    product: IntType
    store: Store
    pe: int
    simd: int
    arithmetic: str = "multiply"
    adders: bool = False

    @property
    def channels(self) -> int:
        """Channels of one group."""
        return self.weights.array.shape[0] // self.groups

    @property
    def depth(self) -> int:
        """Products in a sum."""
        return self.weights.array.shape[1]

    @property
    def folds(self) -> int:
        """Turns of all PEs for one group."""
        return self.channels // self.pe

    @property
    def steps(self) -> int:
        """Iterations of one sum."""
        return self.depth // self.simd

    @property
    def iterations(self) -> int:
        """Rows by groups by folds by steps."""
        return self.rows * self.groups * self.folds * self.steps

    def reads(self) -> tuple[IntArray, ...]:
        """A group's words during its first fold; they are held for the others."""
        first = np.arange(self.rows * self.groups)[:, None] * (self.folds * self.steps)
        return ((first + np.arange(self.steps)).reshape(-1),)

    def writes(self) -> tuple[IntArray, ...]:
        """With the last step of each fold."""
        count = self.rows * self.groups * self.folds
        return (last_steps(count, self.steps),)


@dataclass(frozen=True, slots=True)
class Depthwise(Unit):
    """y[r, c] = store(bias[c] + Σ_t x[r, t, c]·w[t, c]), PE channels by SIMD taps a cycle.

    The operand comes from a `Window` in the order row, channel word, tap; with SIMD taps, which are
    a column of the window, in the order row, channel word, column. Weights are
    ``[channels, taps]``.
    """

    stem: ClassVar[str] = "depthwise"

    rows: int
    weights: Constant
    bias: Constant
    x: IntType
    weight: IntType
    acc: IntType
    product: IntType
    store: Store
    pe: int
    arithmetic: str = "multiply"
    simd: int = 1

    @property
    def channels(self) -> int:
        """Channels in all."""
        return self.weights.array.shape[0]

    @property
    def taps(self) -> int:
        """Products in a sum."""
        return self.weights.array.shape[1]

    @property
    def folds(self) -> int:
        """Channel words of a row."""
        return self.channels // self.pe

    @property
    def steps(self) -> int:
        """Iterations of one sum."""
        return self.taps // self.simd

    @property
    def iterations(self) -> int:
        """Rows by channel words by steps."""
        return self.rows * self.folds * self.steps

    def writes(self) -> tuple[IntArray, ...]:
        """With the last step."""
        return (last_steps(self.rows * self.folds, self.steps),)


@dataclass(frozen=True, slots=True)
class Reduce(Unit):
    """y[r, c] = store(fold of x[r, t, c] over t): ``max``, ``min``, or ``sum`` from `start` on.

    The operand has the order row, channel word, tap. With `held` the results of all channel words
    are held, and the order is row, tap, channel word, as a plain tensor has it. With `kinds`,
    ``[rows]``, a row has the store's constants of its kind, which then are no channel's.
    """

    stem: ClassVar[str] = "reduce"

    kind: str
    rows: int
    folds: int
    taps: int
    x: IntType
    acc: IntType
    store: Store
    pe: int
    held: bool = False
    start: int = 0
    kinds: Constant | None = None

    @property
    def in_memory(self) -> bool:
        """Whether held results are too many for registers; then each has time to be stored."""
        return self.held and self.folds >= 2 * AHEAD

    @property
    def iterations(self) -> int:
        """Rows by channel words by taps."""
        return self.rows * self.folds * self.taps

    def writes(self) -> tuple[IntArray, ...]:
        """With the last tap."""
        if not self.held:
            return (last_steps(self.rows * self.folds, self.taps),)
        last = (np.arange(self.rows)[:, None] * self.taps + self.taps - 1) * self.folds
        return ((last + np.arange(self.folds)).reshape(-1),)


@dataclass(frozen=True, slots=True)
class Arg(Unit):
    """y[r, c] = the first, or last, t at which x[r, t, c] is largest, or smallest.

    The order is row, t, channel word.

    Args:
        relation: ``>``, ``>=``, ``<`` or ``<=``: when a later element takes the place.
    """

    stem: ClassVar[str] = "arg"

    relation: str
    rows: int
    folds: int
    taps: int
    x: IntType
    pe: int

    @property
    def iterations(self) -> int:
        """Rows by taps by channel words."""
        return self.rows * self.folds * self.taps

    def writes(self) -> tuple[IntArray, ...]:
        """With the last tap."""
        last = (np.arange(self.rows)[:, None] * self.taps + self.taps - 1) * self.folds
        return ((last + np.arange(self.folds)).reshape(-1),)


@dataclass(frozen=True, slots=True)
class Map(Unit):
    """y = store(x) for each element; constants per channel repeat after `folds` words."""

    stem: ClassVar[str] = "map"

    words: int
    folds: int
    x: IntType
    store: Store
    pe: int

    @property
    def iterations(self) -> int:
        """One a word."""
        return self.words


@dataclass(frozen=True, slots=True)
class Pair(Unit):
    """y = f(a, b), element by element.

    An operand that is a constant has one row. So has an operand in `held`, of `folds` words, which
    are read first and used for every row.

    Args:
        form: ``linear`` (a·ma + b·mb), ``product`` ((a − za)·(b − zb)·m), ``max`` or ``min``.
        a, b: types of the operands.
        total: narrowest type of the sum that is shifted; of the operands for max and min.
        product: narrowest type of the centred product, with ``product``.
        numbers: constants of the form by name.
        constant: the constant operand, one row; None if both are streams.
        constant_first: whether it is `a`.
        held: operand, 0 or 1, that is repeated over rows; None if both are streams of full size.
        arithmetic: of products with constants: ``multiply`` or ``rows``.
    """

    stem: ClassVar[str] = "pair"

    form: str
    rows: int
    folds: int
    a: IntType
    b: IntType
    product: IntType
    store: Store
    pe: int
    numbers: tuple[tuple[str, int], ...] = ()
    constant: Constant | None = None
    constant_first: bool = False
    held: int | None = None
    arithmetic: str = "multiply"

    @property
    def iterations(self) -> int:
        """One a word."""
        return self.rows * self.folds

    def reads(self) -> tuple[IntArray, ...]:
        """Every iteration, a repeated operand during the first row."""
        every, row = np.arange(self.iterations), np.arange(self.folds)
        if self.constant is not None:
            return (every,)
        return tuple(row if self.held == index else every for index in (0, 1))


def narrowest(*ranges: Interval) -> IntType:
    """The narrowest type that holds every one of some ranges."""
    whole = ranges[0]
    for other in ranges[1:]:
        whole = whole.union(other)
    return whole.int_type()
