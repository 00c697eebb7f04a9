"""Units that move words: concatenation, rearrangement, frames, forks, other widths of words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from binpoint.ir.constant import Constant
from binpoint.ir.op import IntArray
from binpoint.numeric.fixed import IntType
from binpoint.plan.unit import Unit, last_steps

AHEAD = 4
"""Iterations from writing a word of a memory to reading it, and from reading to writing it anew."""


@dataclass(frozen=True, slots=True)
class Concat(Unit):
    """For every outer index, the words of each operand in turn."""

    stem: ClassVar[str] = "concat"

    outer: int
    parts: tuple[int, ...]
    elem: IntType
    lanes: int

    @property
    def iterations(self) -> int:
        """One a word of the result."""
        return self.outer * sum(self.parts)

    def reads(self) -> tuple[IntArray, ...]:
        """In runs."""
        outer = np.arange(self.outer)[:, None] * sum(self.parts)
        starts = np.cumsum((0, *self.parts[:-1]))
        runs = zip(starts, self.parts, strict=True)
        return tuple((outer + start + np.arange(count)).reshape(-1) for start, count in runs)


@dataclass(frozen=True, slots=True)
class Copy(Unit):
    """y[i] = x.flat[offset + Σ i_j·strides_j] in words, from a ring of what may still be read.

    An iteration reads a word if the next result is not there yet, else it sends that result. A
    result counts as there once `AHEAD` further words were read, or as many iterations have passed:
    so long may a memory take from writing a word to reading it.
    """

    stem: ClassVar[str] = "copy"

    words: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    elem: IntType
    lanes: int

    def indices(self) -> IntArray:
        """Which word of the operand each word of the result is."""
        index = np.array([self.offset], np.int64)
        for size, stride in zip(self.sizes, self.strides, strict=True):
            index = (index[:, None] + np.arange(size) * stride).reshape(-1)
        return index

    @property
    def ring(self) -> int:
        """Words held, a power of two: from the newest read to the oldest still wanted."""
        index = self.indices()
        newest = np.maximum.accumulate(index) + 2 * AHEAD
        oldest = np.minimum.accumulate(index[::-1])[::-1]
        return 1 << int((newest - oldest).max()).bit_length()

    @property
    def iterations(self) -> int:
        """One for each word of operand and result, and those that wait for the last words."""
        return self.words + AHEAD + self.indices().size

    def _read_before(self) -> IntArray:
        """Words read before each result is sent."""
        return np.maximum.accumulate(self.indices()) + 1 + AHEAD

    def reads(self) -> tuple[IntArray, ...]:
        """Just before the first result that needs the word; what is left over at the end."""
        sent = np.searchsorted(self._read_before(), np.arange(self.words), side="right")
        return (np.arange(self.words) + sent,)

    def writes(self) -> tuple[IntArray, ...]:
        """As soon as the word is there."""
        before = self._read_before()
        return (before + np.arange(before.size),)


@dataclass(frozen=True, slots=True)
class Gather(Copy):
    """The same with the index of each word of the result in a table."""

    stem: ClassVar[str] = "gather"

    table: Constant

    def indices(self) -> IntArray:
        """Which word of the operand each word of the result is."""
        return self.table.array.astype(np.int64)


@dataclass(frozen=True, slots=True)
class Neighbours(Copy):
    """For every position the same few pixels of the operand, in the order row, channel word, tap.

    Args:
        places: ``[rows, taps]``, pixels of the operand.
        inner: words of a pixel.
    """

    stem: ClassVar[str] = "neighbours"

    places: Constant
    inner: int

    def indices(self) -> IntArray:
        """Which word of the operand each word of the result is."""
        places = self.places.array.astype(np.int64)[:, None, :] * self.inner
        return (places + np.arange(self.inner)[:, None]).reshape(-1)


@dataclass(frozen=True, slots=True)
class Frame(Unit):
    """The operand in a frame of `code`, its words `steps` apart with `code` in between.

    Args:
        before: words of the frame before the operand, on each axis.
        sizes: words of the operand.
        whole: words of the result.
        steps: distance of the operand's words in the result.
    """

    stem: ClassVar[str] = "frame"

    before: tuple[int, ...]
    sizes: tuple[int, ...]
    whole: tuple[int, ...]
    steps: tuple[int, ...]
    code: int
    elem: IntType
    lanes: int

    @property
    def iterations(self) -> int:
        """One a word of the result."""
        return int(np.prod(self.whole))

    def reads(self) -> tuple[IntArray, ...]:
        """Inside of the frame."""
        inside = np.zeros(self.whole, bool)
        axes = zip(self.before, self.sizes, self.steps, strict=True)
        inside[tuple(slice(b, b + n * s, s) for b, n, s in axes)] = True
        return (np.flatnonzero(inside),)


@dataclass(frozen=True, slots=True)
class Fork(Unit):
    """The same words to several readers."""

    stem: ClassVar[str] = "fork"

    words: int
    count: int
    elem: IntType
    lanes: int

    @property
    def iterations(self) -> int:
        """One a word."""
        return self.words

    def writes(self) -> tuple[IntArray, ...]:
        """Every iteration."""
        return (np.arange(self.words),) * self.count


@dataclass(frozen=True, slots=True)
class Lanes(Unit):
    """The same elements in words of another width, one of which divides the other."""

    stem: ClassVar[str] = "lanes"

    elements: int
    lanes_in: int
    lanes_out: int
    elem: IntType

    @property
    def iterations(self) -> int:
        """One a narrow word."""
        return self.elements // min(self.lanes_in, self.lanes_out)

    def reads(self) -> tuple[IntArray, ...]:
        """Every iteration, or a wide word with the first of its parts."""
        step = max(1, self.lanes_in // self.lanes_out)
        return (np.arange(self.elements // self.lanes_in) * step,)

    def writes(self) -> tuple[IntArray, ...]:
        """Every iteration, or a wide word with the last of its parts."""
        step = max(1, self.lanes_out // self.lanes_in)
        return (last_steps(self.elements // self.lanes_out, step),)
