"""Requantizing by the high word of one product: a multiply-add and a saturating shift.

    y = clamp((floor(A * m / 2**32) + offset) >> shift, lo, hi),   A = acc * 2**prescale

in 32 bits: SMMLA and SSAT (or USAT) on Arm. Nested floors are one floor, so this is the form
``(acc * m + offset * 2**(32 - prescale)) >> (shift + 32 - prescale)`` of `mulshift` with an offset
of whole high words, and is proved the same way: by the places where it steps. What an accumulator
is scaled up by are bits of the binary point that the high word keeps.

A channel without a proof has a window: unless the bits of the sum below the binary point are less
than ``2 * window``, the form is exact; there the float definition decides (``exact``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from binpoint.numeric.float32 import Ints
from binpoint.numeric.mulshift import MULTIPLIER_BITS, Steps, fit

_WORD = 32
_MAX_SHIFT = 24


@dataclass(frozen=True, slots=True)
class HighWord:
    """Constants of all channels; one shift for all.

    Args:
        bases: what is to be taken off the accumulators first, per channel; 0 where all of them fit.
        multipliers: 0 to 2**31 - 1 per channel.
        offsets: int32 per channel; zero point and one half are inside.
        windows: 0 per channel with a proof.
        shift: 1 to 24.
    """

    bases: tuple[int, ...]
    multipliers: tuple[int, ...]
    offsets: tuple[int, ...]
    windows: tuple[int, ...]
    shift: int


@dataclass(frozen=True, slots=True)
class Staircase:
    """A monotone function of an accumulator to a code, per channel, within its reach.

    Args:
        table: int64 [C, hi - lo], the least accumulator with a result of at least lo + 1 + k.
        low: int64 [C], least accumulator.
        high: int64 [C], largest accumulator.
        lo: least code.
        zero: of the result.
        slope: float64 [C], steps of the result per step of the accumulator.
    """

    table: Ints
    low: Ints
    high: Ints
    lo: int
    zero: int
    slope: np.ndarray[tuple[int, ...], np.dtype[np.float64]]

    @property
    def flat(self) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Which channels have one result only."""
        return self.start == self.lo + (self.table <= self.high[:, None]).sum(axis=1)

    @property
    def start(self) -> Ints:
        """The result of the least accumulator."""
        return self.lo + (self.table <= self.low[:, None]).sum(axis=1)

    @property
    def steps(self) -> Steps:
        """The same as steps."""
        codes = np.arange(self.lo + 1, self.lo + 1 + self.table.shape[1], dtype=np.int64)
        reached, preceded = self.table <= self.high[:, None], self.table > self.low[:, None]
        return Steps(codes, self.table, self.table - 1, reached, preceded)

    def above(self, base: Ints) -> Staircase:
        """The same function of the accumulator less `base`."""
        table, low, high = self.table - base[:, None], self.low - base, self.high - base
        return replace(self, table=table, low=low, high=high)


def thresholds_of(
    function: Callable[[Ints], Ints], low: Ints, high: Ints, lo: int, hi: int
) -> Ints:
    """Return the `table` of a `Staircase` by bisection; `function` takes and gives int64 [K, C]."""
    codes = np.arange(lo + 1, hi + 1, dtype=np.int64)[:, None]
    first = np.broadcast_to(low, (len(codes), len(low)))
    last = np.broadcast_to(high + 1, first.shape)
    while (first < last).any():
        middle = np.minimum((first + last) >> 1, high)
        above = function(middle) >= codes
        first, last = np.where(above, first, middle + 1), np.where(above, middle, last)
    return first.T


def high_word(
    stairs: Staircase, prescale: int, window_bits: int | None, grid: int = 1
) -> HighWord | None:
    """Return constants for all channels, or None where some channel has neither proof nor window.

    Args:
        stairs: the function.
        prescale: 0 to 8; every accumulator scaled up by it fits int32.
        window_bits: float32 rounding changes nothing further than ``2**-window_bits`` from a tie;
            None where the function has no exact form.
        grid: a shift of that or more is a multiple of it, else the largest possible one.
    """
    flat, base = stairs.flat, _bases(stairs, prescale)
    most = min(_most(stairs, prescale), _MAX_SHIFT)
    most -= most % grid if most >= grid else 0
    if base is None or most < 1:
        return None
    bits, grain = most + _WORD - prescale, 1 << (_WORD - prescale)
    moved = stairs.above(base)
    proofs = fit(moved.steps, stairs.slope, shift=bits, grain=grain)
    rows: list[tuple[int, int, int]] = []
    for channel, proof in enumerate(proofs):
        proved = None if proof is None else (proof.multiplier, proof.offset // grain, 0)
        if flat[channel]:
            rows.append((0, int(stairs.start[channel]) << most, 0))
        elif proved is not None and _fits(moved, channel, proved, prescale):
            rows.append(proved)
        elif window_bits is not None:
            rows.append(_exact(moved, channel, int(base[channel]), (bits, most), window_bits))
        else:
            return None
    multipliers, offsets, windows = (tuple(c) for c in zip(*rows, strict=True))
    return HighWord(tuple(base.tolist()), multipliers, offsets, windows, most)


def _bases(stairs: Staircase, prescale: int) -> Ints | None:
    """The middle of each reach that int32 does not hold scaled; None where it is too wide."""
    limit = (1 << (31 - prescale)) - 1
    fitting = np.maximum(-stairs.low, stairs.high) <= limit
    base = np.where(fitting, 0, (stairs.low + stairs.high) >> 1)
    return base if bool((stairs.high - base <= limit).all()) else None


def _most(stairs: Staircase, prescale: int) -> int:
    """The largest shift for which multipliers have 31 bits and sums 32."""
    slope = np.where(stairs.flat, 2.0**-_WORD, stairs.slope)
    reach = np.maximum(np.abs(stairs.low), np.abs(stairs.high))
    ends = max(abs(stairs.lo), abs(stairs.lo + stairs.table.shape[1])) + 1.0
    largest = max(float((reach * slope).max()) + abs(stairs.zero) + 2.0, ends)
    steepest = math.frexp(float(slope.max()))[1]
    return min(30 - math.frexp(largest)[1], MULTIPLIER_BITS - _WORD + prescale - steepest)


def _fits(stairs: Staircase, channel: int, row: tuple[int, int, int], prescale: int) -> bool:
    """Whether the sum stays within int32."""
    multiplier, offset, _ = row
    ends = (int(stairs.low[channel]), int(stairs.high[channel]))
    sums = [offset, *(((acc << prescale) * multiplier >> _WORD) + offset for acc in ends)]
    return all(-(1 << 31) <= s < 1 << 31 for s in sums)


def _exact(
    stairs: Staircase, channel: int, base: int, shifts: tuple[int, int], window_bits: int
) -> tuple[int, int, int]:
    """Nearest multiplier; the window covers its error, and that of the base's own product."""
    bits, shift = shifts
    slope = float(stairs.slope[channel])
    multiplier, start = round(slope * 2.0**bits), round(base * slope * 2.0**shift)
    reach = max(abs(int(stairs.low[channel])), abs(int(stairs.high[channel])))
    error = reach * abs(slope * 2.0**bits - multiplier) * 2.0 ** (shift - bits)
    error += 1.0 if base else 0.0
    window = math.ceil(2.0 ** (shift - window_bits) + error * (1 + 2.0**-20))
    assert multiplier < 1 << MULTIPLIER_BITS, "a multiplier leaves 31 bits"
    offset = start + (stairs.zero << shift) + (1 << (shift - 1)) + window
    return multiplier, offset, window
