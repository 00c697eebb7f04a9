"""Unit: one process of a dataflow design, a flat loop with an iteration a cycle.

A unit reads words from its operand streams and writes words to its result streams at iterations
that depend on nothing but counters; `reads` and `writes` give them, so that FIFO depths and
throughput are computed without running anything. Iterations are counted per inference.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from binpoint.ir.op import IntArray


class Unit(ABC):
    """One process of the design."""

    stem: ClassVar[str]

    @property
    @abstractmethod
    def iterations(self) -> int:
        """Loop iterations for one inference; a cycle each at an initiation interval of one."""

    def reads(self) -> tuple[IntArray, ...]:
        """For each operand, the iteration in which each of its words is read, ascending.

        One operand, every iteration, unless a unit says otherwise.
        """
        return (np.arange(self.iterations),)

    def writes(self) -> tuple[IntArray, ...]:
        """For each result, the iteration in which each of its words is written, ascending.

        One result, every iteration, unless a unit says otherwise.
        """
        return (np.arange(self.iterations),)


def last_steps(count: int, steps: int) -> IntArray:
    """The last iterations of `count` sums of so many steps each, one after the other."""
    return np.arange(1, count + 1) * steps - 1
