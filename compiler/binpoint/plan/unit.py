"""Unit: one process of a dataflow design, a flat loop with an iteration a cycle.

A unit reads words from its operand streams and writes words to its result streams at iterations
that depend on nothing but counters; `reads` and `writes` give them, so that FIFO depths and
throughput are computed without running anything. Iterations are counted per inference.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from binpoint.ir.op import IntArray


class Unit(ABC):
    """One process of the design."""

    stem: ClassVar[str]

    @property
    @abstractmethod
    def iterations(self) -> int:
        """Loop iterations for one inference; a cycle each at an initiation interval of one."""

    @abstractmethod
    def reads(self) -> tuple[IntArray, ...]:
        """For each operand, the iteration in which each of its words is read, ascending."""

    @abstractmethod
    def writes(self) -> tuple[IntArray, ...]:
        """For each result, the iteration in which each of its words is written, ascending."""
