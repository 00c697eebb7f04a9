"""Units that go step by step, each step needing the one before: recurrent layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from binpoint.ir.constant import Constant
from binpoint.ir.op import IntArray
from binpoint.numeric.fixed import IntType
from binpoint.plan.unit import Unit

_AROUND = 4
_GATE = 6
_PRODUCT = 4
_RESCALED = 3


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of cell as hardware.

    Args:
        phases: gates whose sums are made one after the other before a loop of gates, in turn.
        copies: for each table, how many are read at a time in a lane.
        depth: gates and products that follow one on the other in a loop of gates.
    """

    phases: tuple[int, ...]
    copies: tuple[int, ...]
    depth: tuple[int, int]

    @property
    def gates(self) -> int:
        """All of them."""
        return sum(self.phases)


FORMS: Mapping[str, Form] = MappingProxyType(
    {
        "rnn": Form((1,), (1,), (1, 0)),
        "gru": Form((3,), (2, 1), (2, 2)),
        "gru_before": Form((2, 1), (2, 1), (1, 1)),
        "lstm": Form((4,), (3, 1, 1), (2, 2)),
    }
)


@dataclass(frozen=True, slots=True)
class Recurrent(Unit):
    """All steps of a recurrent layer, as `ops.cell.IntRecurrent` defines them.

    A step is two loops for each row of the batch: the sums of R·h, PE of them with SIMD products
    a cycle, and then the gates of PE elements of the state a cycle. A GRU that resets its state
    before the product has both twice. Words of the operand, the states and the cell have PE
    elements.

    Args:
        kind: ``rnn``, ``gru``, ``gru_before`` or ``lstm``.
        count, batch, hidden: steps, rows of a step, elements of a state.
        a: type of the operand.
        weights, bias, x, weight, acc, product, arithmetic: of the sums, as a dense layer has them.
        factors: ``[G·H]``; a sum is scaled by factor·2^-shift.
        total: type of a sum times its factor; `scaled` of what is left of it.
        tables: ends of segments, for each function.
        fraction, state_bits, memory_bits: of sums, of the state, of the cell of an LSTM.
        state: type of the state.
        sequence: whether states of all steps are sent, or the last.
        sends: of ``states`` and ``cell``, what is read by anyone.
    """

    stem: ClassVar[str] = "recurrent"

    kind: str
    count: int
    batch: int
    hidden: int
    a: IntType
    weights: Constant
    bias: Constant
    x: IntType
    weight: IntType
    acc: IntType
    product: IntType
    arithmetic: str
    factors: Constant
    shift: int
    total: IntType
    scaled: IntType
    tables: tuple[Constant, ...]
    fraction: int
    state_bits: int
    memory_bits: int
    state: IntType
    sequence: bool
    sends: tuple[str, ...]
    pe: int
    simd: int

    @property
    def form(self) -> Form:
        """What its kind is made of."""
        return FORMS[self.kind]

    @property
    def folds(self) -> int:
        """Words of a state."""
        return self.hidden // self.pe

    @property
    def steps(self) -> int:
        """Iterations of one sum."""
        return self.hidden // self.simd

    @property
    def banks(self) -> int:
        """Memories of the state, side by side: words of PE and of SIMD elements divide them."""
        return int(np.lcm(self.pe, self.simd))

    @property
    def rows(self) -> int:
        """Rows of all steps."""
        return self.count * self.batch

    @property
    def sums_drain(self) -> int:
        """Cycles in which the loop of sums fills and empties."""
        tree = (self.simd - 1).bit_length()
        return _AROUND + tree + _RESCALED

    @property
    def gates_drain(self) -> int:
        """Cycles in which the loop of gates fills and empties."""
        gates, products = self.form.depth
        return _AROUND + gates * _GATE + products * _PRODUCT

    def _phases(self) -> list[tuple[int, int]]:
        """For each phase of a row the cycle in which it begins, and the words that it reads."""
        found: list[tuple[int, int]] = []
        start = 0
        for gates in self.form.phases:
            words = gates * self.folds
            found.append((start, words))
            start += words * self.steps + self.sums_drain + self.folds + self.gates_drain
        return found

    @property
    def row_cycles(self) -> int:
        """Of one row: sums and gates, once or twice."""
        start, words = self._phases()[-1]
        return start + words * self.steps + self.sums_drain + self.folds + self.gates_drain

    @property
    def prologue(self) -> int:
        """Cycles in which the initial state is read."""
        return self.batch * self.folds + _AROUND

    @property
    def iterations(self) -> int:
        """Cycles of all rows."""
        return self.prologue + self.rows * self.row_cycles

    def reads(self) -> tuple[IntArray, ...]:
        """The operand's words with the first products of each sum, initial states before."""
        rows = self.prologue + np.arange(self.rows)[:, None] * self.row_cycles
        parts = [start + np.arange(words) * self.steps for start, words in self._phases()]
        starts = np.arange(self.batch * self.folds)
        states = 2 if self.kind == "lstm" else 1
        return ((rows + np.concatenate(parts)).reshape(-1), *[starts] * states)

    def writes(self) -> tuple[IntArray, ...]:
        """At the end of each row; of the last step's rows, where nothing else is asked for."""
        ends = self.prologue + np.arange(1, self.rows + 1)[:, None] * self.row_cycles
        every = ends - self.folds + np.arange(self.folds)
        last = every[-self.batch :]
        times = {"states": every if self.sequence else last, "cell": last}
        return tuple(times[name].reshape(-1) for name in self.sends)
