"""Window: what turns a map's pixels, as they come, into the words of its windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from binpoint.ir.op import IntArray
from binpoint.numeric.fixed import IntType
from binpoint.plan.movers import AHEAD
from binpoint.plan.unit import Unit


@dataclass(frozen=True, slots=True)
class Window(Unit):
    """The words of every window over a map of pixels, in the order pixel, group, tap, word.

    A ring of rows is held: while the windows of one row of results are sent, the rows that the next
    one needs are read. Words outside the map are `fill`. No word is read from the ring within
    `AHEAD` iterations of being written, or overwritten within as many of being read.

    Args:
        size: rows and columns of the operand.
        outputs: rows and columns of windows.
        kernel, strides, dilations, before: of rows and columns.
        groups: runs over all taps of a pixel, each over its own part of the channels.
        words: words of a group at one tap.
        lanes: elements of a word.
        elem: their type.
        fill: element outside of the map.
        images: maps, one after the other.
        together: rows of a window that are sent in one word, ``[rows, lanes]``: one, or all. Then
            every row of the ring is a memory of its own, and the order is pixel, group, column,
            word.
    """

    stem: ClassVar[str] = "window"

    size: tuple[int, int]
    outputs: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    before: tuple[int, int]
    groups: int
    words: int
    lanes: int
    elem: IntType
    fill: int
    images: int = 1
    together: int = 1

    @property
    def row_words(self) -> int:
        """Words of a row of the operand."""
        return self.size[1] * self.groups * self.words

    @property
    def reach(self) -> int:
        """Rows that a window spans."""
        return (self.kernel[0] - 1) * self.dilations[0] + 1

    @property
    def rows_held(self) -> int:
        """Rows in the ring: those of a window and those that the next row of windows adds."""
        return self.reach + self.strides[0]

    @property
    def sent(self) -> int:
        """Words of one row of windows."""
        taps = self.kernel[0] * self.kernel[1] // self.together
        return self.outputs[1] * self.groups * taps * self.words

    def rows_needed(self) -> IntArray:
        """Rows that must have been read before each row of windows, and finally all of them."""
        base = np.arange(self.outputs[0]) * self.strides[0] - self.before[0]
        return np.append(np.clip(base + self.reach, 0, self.size[0]), self.size[0])

    @property
    def prologue(self) -> int:
        """Iterations before the first row of windows."""
        loads = int(self.rows_needed()[0]) * self.row_words
        used = (self.kernel[0] - 1) * self._tap_row
        return loads + max(0, AHEAD - used) if loads else 0

    @property
    def phase(self) -> int:
        """Iterations of one row of windows."""
        loads = int(np.diff(self.rows_needed()).max(initial=0)) * self.row_words
        longest = max(self.sent, loads)
        new = max(0, -(-(self.reach - self.strides[0]) // self.dilations[0])) * self._tap_row
        last = min(self.kernel[0] - 1, (self.strides[0] - 1) // self.dilations[0])
        old = (self.kernel[0] - 1 - last) * self._tap_row
        apart = min(longest - loads + new, longest - self.sent + old)
        return longest + (AHEAD if self.images > 1 else max(0, AHEAD - apart))

    @property
    def _tap_row(self) -> int:
        """Words of a row of taps; none if all rows are in one word."""
        return self.kernel[1] * self.words if self.together == 1 else 0

    @property
    def image(self) -> int:
        """The prologue, then one phase for each row of windows."""
        return self.prologue + self.outputs[0] * self.phase

    @property
    def iterations(self) -> int:
        """All images."""
        return self.images * self.image

    def _for_all(self, at: IntArray) -> IntArray:
        return (np.arange(self.images)[:, None] * self.image + at).reshape(-1)

    def reads(self) -> tuple[IntArray, ...]:
        """The prologue's rows at once, then each phase's from its beginning."""
        needed = self.rows_needed()
        parts = [np.arange(int(needed[0]) * self.row_words)]
        for index, rows in enumerate(np.diff(needed)):
            start = self.prologue + index * self.phase
            parts.append(start + np.arange(int(rows) * self.row_words))
        return (self._for_all(np.concatenate(parts)),)

    def writes(self) -> tuple[IntArray, ...]:
        """From the beginning of each phase."""
        starts = self.prologue + np.arange(self.outputs[0])[:, None] * self.phase
        return (self._for_all((starts + np.arange(self.sent)).reshape(-1)),)
