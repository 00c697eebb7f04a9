"""A constant matrix times a vector as additions of shifted numbers, with common parts made once.

Every weight is split into canonical signed digits, so that a row is a sum of shifted operands. The
pair of summands that occurs most often, in any row and at any shift, becomes a number of its own
and takes the place of its occurrences, until no pair occurs twice (Potkonjak, Srivastava and
Chandrakasan 1996, "Multiple constant multiplications"; Hartley 1996). What is left of a row is
added up, the earliest numbers first, so that few additions follow one another.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from binpoint.numeric.digits import digits

_SHIFTS = 7
_ROOM = 1 << _SHIFTS
"""More than twice any shift."""


@dataclass(frozen=True, slots=True)
class Adder:
    """left·2^up ± right·2^down, of numbers made before; one of the shifts is zero.

    Numbers are counted: first the operands, then the adders in order.
    """

    left: int
    right: int
    up: int
    down: int
    minus: bool


@dataclass(frozen=True, slots=True)
class Scaled:
    """A number times a signed power of two."""

    number: int
    shift: int
    negative: bool


@dataclass(frozen=True, slots=True)
class AdderGraph:
    """Rows of a matrix as sums of shifted operands.

    Args:
        operands: columns of the matrix.
        adders: in an order in which each comes after what it adds.
        rows: what each row is; None for a row of zeros.
    """

    operands: int
    adders: tuple[Adder, ...]
    rows: tuple[Scaled | None, ...]

    def numbers(self) -> NDArray[np.int64]:
        """The weights of all operands in each number, ``[operands + adders, operands]``."""
        found = np.zeros((self.operands + len(self.adders), self.operands), np.int64)
        found[: self.operands] = np.eye(self.operands, dtype=np.int64)
        for index, adder in enumerate(self.adders, self.operands):
            right = found[adder.right] << adder.down
            found[index] = (found[adder.left] << adder.up) + (-right if adder.minus else right)
        return found

    def matrix(self) -> NDArray[np.int64]:
        """The matrix, ``[rows, operands]``."""
        numbers = self.numbers()
        none = np.zeros(self.operands, np.int64)
        return np.array(
            [none if r is None else (numbers[r.number] << r.shift) * (-1 if r.negative else 1)
             for r in self.rows], np.int64,
        ).reshape(len(self.rows), self.operands)  # fmt: skip

    def levels(self) -> tuple[int, ...]:
        """How many additions follow one another up to each number."""
        found = [0] * self.operands
        for adder in self.adders:
            found.append(1 + max(found[adder.left], found[adder.right]))
        return tuple(found)


def adder_graph(weights: NDArray[np.int64]) -> AdderGraph:
    """The additions for a matrix ``[rows, operands]``; the same matrix gives the same additions."""
    search = _Search([0] * weights.shape[1], [_terms(row) for row in weights])
    search.share()
    rows = tuple(search.summed(row) for row in search.rows)
    return AdderGraph(weights.shape[1], tuple(search.adders), rows)


_Row = dict[int, int]
"""Summands of a row: 1 for those taken off, by number and shift, `number << 7 | shift`."""


def _terms(row: NDArray[np.int64]) -> _Row:
    return {
        column << _SHIFTS | digit.shift: int(digit.negative)
        for column, weight in enumerate(row.tolist())
        for digit in digits(weight)
    }


@dataclass(slots=True)
class _Search:
    """Rows while common pairs are taken out of them.

    A pair is the first number, the second, by how much more that is shifted, and whether their
    signs differ, as one integer. Of each it is counted how often it occurs.
    """

    levels: list[int]
    rows: list[_Row]
    adders: list[Adder] = field(default_factory=list[Adder])
    counts: dict[int, int] = field(default_factory=dict[int, int])
    heap: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    where: defaultdict[int, set[int]] = field(default_factory=lambda: defaultdict(set))

    def share(self) -> None:
        """Take out the most frequent pair until none occurs twice."""
        counts = self.counts
        for index, row in enumerate(self.rows):
            held = sorted(row.items())
            for place, (term, sign) in enumerate(held):
                self.where[term >> _SHIFTS].add(index)
                for other, its in held[place + 1 :]:
                    pair = _pair(term, other, sign ^ its)
                    counts[pair] = counts.get(pair, 0) + 1
        self.heap = [(-count, pair) for pair, count in counts.items() if count > 1]
        heapq.heapify(self.heap)
        while self.heap:
            count, pair = heapq.heappop(self.heap)
            now = self.counts[pair]
            if now == -count:
                self._take(pair)
            elif now > 1:
                heapq.heappush(self.heap, (-now, pair))

    def _take(self, pair: int) -> None:
        """Make a pair's number, if it still occurs twice apart, and put it in its places."""
        first, second, apart, differ = _unpair(pair)
        places = [
            (index, shift)
            for index in sorted(self.where[first] & self.where[second])
            for shift in _occurrences(self.rows[index], first, second, apart, differ)
        ]
        self.counts[pair] = 0
        if len(places) < 2:
            return
        made = self._adder(first, second, apart, differ)
        for index, shift in places:
            row = self.rows[index]
            sign = self._drop(row, first << _SHIFTS | shift)
            self._drop(row, second << _SHIFTS | (shift + apart))
            self._put(row, made << _SHIFTS | (shift + min(apart, 0)), sign, index)
        self.counts[pair] = 0

    def _adder(self, first: int, second: int, apart: int, differ: int) -> int:
        self.adders.append(Adder(first, second, max(-apart, 0), max(apart, 0), bool(differ)))
        self.levels.append(1 + max(self.levels[first], self.levels[second]))
        return len(self.levels) - 1

    def _drop(self, row: _Row, term: int) -> int:
        counts, sign = self.counts, row.pop(term)
        for other, its in row.items():
            counts[_pair(term, other, sign ^ its)] -= 1
        return sign

    def _put(self, row: _Row, term: int, sign: int, index: int) -> None:
        counts, heap = self.counts, self.heap
        for other, its in row.items():
            pair = _pair(term, other, sign ^ its)
            count = counts.get(pair, 0) + 1
            counts[pair] = count
            if count > 1:
                heapq.heappush(heap, (-count, pair))
        row[term] = sign
        self.where[term >> _SHIFTS].add(index)

    def summed(self, row: _Row) -> Scaled | None:
        """What is left of a row as one number, by adders of its own."""
        heap = [
            (self.levels[term >> _SHIFTS], term % _ROOM, term >> _SHIFTS, sign)
            for term, sign in row.items()
        ]
        heapq.heapify(heap)
        while len(heap) > 1:
            a, b = heapq.heappop(heap), heapq.heappop(heap)
            if a[3] > b[3]:
                a, b = b, a
            made = self._adder(a[2], b[2], b[1] - a[1], a[3] ^ b[3])
            heapq.heappush(heap, (self.levels[made], min(a[1], b[1]), made, a[3]))
        return Scaled(heap[0][2], heap[0][1], bool(heap[0][3])) if heap else None


def _pair(a: int, b: int, differ: int) -> int:
    if b < a:
        a, b = b, a
    shift = a % _ROOM
    return ((a - shift) << 32) + ((b - shift + _ROOM // 2) << 1) + differ


def _unpair(pair: int) -> tuple[int, int, int, int]:
    first, rest = divmod(pair, 1 << (32 + _SHIFTS))
    second, apart = divmod(rest >> 1, _ROOM)
    return first, second, apart - _ROOM // 2, rest & 1


def _occurrences(row: _Row, first: int, second: int, apart: int, differ: int) -> list[int]:
    """Shifts of the first number at which the pair occurs, no summand taken twice."""
    found: list[int] = []
    taken: set[int] = set()
    for term in sorted(t for t in row if t >> _SHIFTS == first):
        other = second << _SHIFTS | (term % _ROOM + apart)
        if term not in taken and row.get(other, 2) == row[term] ^ differ:
            found.append(term % _ROOM)
            taken |= {term, other}
    return found
