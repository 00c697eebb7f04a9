"""Requantizing four channels at once on Helium: 32-bit lanes, the high word of a product.

    y = clamp((high(acc·2^up · m) + offset) >> shift, lo, hi),    high(p) = floor(p / 2^32)

with a multiplier, an offset and a shift per channel. The accumulator is moved up as far as its
proved range allows, so that the high word holds more places below the binary point. A form
``(acc·m + B) >> S`` is computed exactly if ``B·2^up`` is a multiple of 2^32; a channel without such
a form takes the always exact one, whose window around ties is tested for four channels at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.constant import Constant
from binpoint.ir.kernel import Argument, Number
from binpoint.numeric.exact import ExactScale
from binpoint.numeric.float32 import Ints
from binpoint.numeric.interval import Interval
from binpoint.ops.requantize import OnnxruntimeRequantize, Requantize

LANES = 4
REQUANTIZED = "requantized in the high word, exact as its constants are proved"
_WORD = 32
_HIGHEST_UP = 16
_HIGHEST_SHIFT = 30
_MANTISSA_SPARE = 31 - 24


@dataclass(frozen=True, slots=True)
class Row:
    """``(acc·multiplier + offset) >> shift`` of one channel; `window` where ties need a test."""

    multiplier: int
    shift: int
    offset: int
    window: int | None = None

    def high(self, up: int, reach: int) -> tuple[int, int, int] | None:
        """Offset, shift and log2 of the tie window in the high word, if all fits 32 bits.

        Args:
            up: places by which the accumulator is moved up.
            reach: largest magnitude of the accumulator.
        """
        shift = self.shift - _WORD + up
        if not 1 <= shift <= _HIGHEST_SHIFT:
            return None
        offset, bits = self.offset << up, 0
        if self.window is not None:
            edge = max(shift - self.window, 0)
            bits = edge + 1
            offset += 1 << (edge + _WORD)
        whole, rest = divmod(offset, 1 << _WORD)
        farthest = (((reach << up) * abs(self.multiplier)) >> _WORD) + 1 + abs(whole)
        return None if rest or farthest >= 1 << 31 else (whole, shift, bits)


@dataclass(frozen=True, slots=True)
class Lanes:
    """Constants of all channels, padded to whole vectors: `packed` is what the kernels read.

    `form` names the way to store: how results are clamped, and whether ties are tested.
    """

    form: str
    packed: Constant
    numbers: tuple[Argument, ...]

    def columns(self, count: int) -> NDArray[np.int32]:
        """The same of `count` channels in order: six words each, shifts as words of their own."""
        words = self.packed.array[:, : 3 * LANES].reshape(-1, 3, LANES)
        tails = np.ascontiguousarray(self.packed.array[:, 3 * LANES :].astype("<i4"))
        shifts, windows, ups = np.moveaxis(tails.view(np.int8).reshape(-1, 3, LANES), 1, 0)
        columns = [words[:, i].reshape(-1) for i in range(3)]
        down = shifts.reshape(-1).astype(np.int32)
        places = ups.astype(np.int32) + (windows.astype(np.int32) << 8)
        return np.stack([*columns, down, down + _WORD, places.reshape(-1)], axis=1)[:count]


def lanes(op: Requantize, bias: Ints, acc: Interval, order: Sequence[int]) -> Lanes | None:
    """The constants of a requantizer for sums that lack `bias`, or None if lanes cannot hold it.

    Args:
        op: the requantizer.
        bias: int64 [C], added to each sum modulo 2^32.
        acc: range of the sums with their bias.
        order: of the channels, in fours.
    """
    rows = rows_of(op, len(bias))
    if rows is None or op.result.storage.width != 8:
        return None
    largest = reaches(op, acc, len(bias))
    found = [_first(choices, reach) for choices, reach in zip(rows, largest, strict=True)]
    if any(f is None for f in found):
        return None
    return _packed(op, bias, [f for f in found if f is not None], order)


def reaches(op: Requantize, acc: Interval, channels: int) -> list[int]:
    """The largest magnitude of each channel's sums."""
    ranges = op.reach if isinstance(op, OnnxruntimeRequantize) else ((acc.lo, acc.hi),)
    largest = [max(abs(lo), abs(hi), 1) for lo, hi in ranges]
    return largest * channels if len(largest) == 1 else largest


Found = tuple[int, int, int, int, int]


def _first(choices: list[Row], reach: int) -> Found | None:
    """Multiplier, offset, shift, window and `up` of the first row that fits, as high as it fits."""
    highest = min(31 - reach.bit_length(), _HIGHEST_UP)
    for row in choices:
        for up in range(highest, -1, -1):
            high = row.high(up, reach)
            if high is not None:
                return row.multiplier, *high, up
    return None


def rows_of(op: Requantize, channels: int) -> list[list[Row]] | None:
    """The forms of each channel, the cheapest first."""
    form, zero = op.form, op.result.zero_points[0]
    exact = op.exact_scales() if isinstance(op, OnnxruntimeRequantize) else []
    always = [[_exact(scale, zero)] for scale in exact]
    match form.name:
        case "mulshift":
            halves = [(1 << (s - 1)) + (zero << s) for s in form.shifts]
            offsets = form.offsets or halves
            proved = [
                [_normal(*row)] for row in zip(form.multipliers, form.shifts, offsets, strict=True)
            ]
            rows = [p + a for p, a in zip(proved, always, strict=True)] if always else proved
        case "mixed":
            columns = zip(form.multipliers, form.shifts, form.offsets, form.windows, strict=True)
            rows = [
                a if w else [Row(m, s + _WORD, (o + (zero << s)) << _WORD), *a]
                for (m, s, o, w), a in zip(columns, always, strict=True)
            ]
        case "exact":
            rows = always
        case _:
            return None
    return rows * channels if len(rows) == 1 else rows


def _normal(multiplier: int, shift: int, offset: int) -> Row:
    """The same form with the multiplier moved up to 31 bits."""
    spare = max(31 - abs(multiplier).bit_length(), 0) if multiplier else _WORD
    return Row(multiplier << spare, shift + spare, offset << spare)


def _exact(scale: ExactScale, zero: int) -> Row:
    shift = scale.shift + _MANTISSA_SPARE
    half = (1 << (shift - 1)) + (zero << shift)
    return Row(scale.mantissa << _MANTISSA_SPARE, shift, half, scale.window)


def _packed(op: Requantize, bias: Ints, found: list[Found], order: Sequence[int]) -> Lanes:
    """Blocks of four channels: biases, multipliers, offsets, then three bytes each."""
    columns = np.zeros((6, max(len(order), len(found))), np.int64)
    # Of padding: one half, farthest from a tie.
    columns[2:4, :] = 1
    columns[1:, : len(found)] = np.array(found, np.int64).T
    columns[0, : len(found)] = bias << columns[5, : len(found)]
    biases, multipliers, offsets, shifts, windows, ups = columns[:, list(order)]
    words = [c.reshape(-1, LANES) for c in (biases, multipliers, offsets)]
    tail = [_bytes(-shifts), _bytes(windows), _bytes(ups)]
    block = wrapped(np.concatenate([*words, *tail], axis=1))
    near = max(
        ((1 << w) << (_WORD - s) for _, _, s, w, _ in found if w),
        default=0,
    )
    storage = op.result.storage
    whole = (op.lo, op.hi) == (storage.min, storage.max)
    clamp = ("s8" if storage.signed else "u8") if whole else "any"
    numbers = (
        Number("near", min(near, (1 << _WORD) - 1), "uint32_t"),
        Number("zero", op.result.zero_points[0]),
        Number("lo", op.lo),
        Number("hi", op.hi),
    )
    return Lanes(f"{clamp}_tie" if near else clamp, Constant(block), numbers)


def _bytes(column: Ints) -> Ints:
    """Four bytes a word, the first lowest."""
    return np.ascontiguousarray(column.astype(np.int8)).view("<i4").astype(np.int64)[:, None]


def wrapped(array: Ints) -> NDArray[np.int32]:
    """The integers modulo 2^32, as int32."""
    return (array & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
