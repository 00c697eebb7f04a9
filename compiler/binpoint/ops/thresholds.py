"""IntThresholds: any monotone function of an integer to a code, by the places where it steps.

    y = lo + #{k: sign[c] · x >= T[c, k]}

exact by construction: the thresholds come out of rational arithmetic (`numeric.monotone`). Emitted
as comparisons for results of four bits or fewer; for wider ones as one multiplication where that is
proved to step at the same places, with ties upwards (`mulshift`) or to even (`even`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from binpoint.errors import AccumulatorOverflow, NoIntegerForm
from binpoint.ir.build import GraphBuilder
from binpoint.ir.constant import Constant
from binpoint.ir.graph import Value
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import IntArray
from binpoint.numeric import lines, monotone
from binpoint.numeric.fixed import I32, FixedType
from binpoint.numeric.interval import Interval
from binpoint.numeric.monotone import Steps as Chain
from binpoint.numeric.mulshift import Steps, fit
from binpoint.numeric.wide import ONE_WORD, TWO_WORDS, WideShift, fit_line
from binpoint.ops.forms import Form
from binpoint.ops.requantize import Ranges, Requantize

_COMPARED_BITS = 4
_MOST_COMPARED = 255
_COMPARED_ONNX = 16
_MULTIPLIER_BITS = 31
_MOST_SHIFT = 53
_SHIFTED_BITS = 8
_LEAST = 2.0**-60
_LEAST_WIDE = 2.0**-14
_WHOLE = 33
_WORD_BITS = 32


@dataclass(frozen=True, slots=True)
class IntThresholds(Requantize):
    """y = lo + #{k: signs[c]·x ≥ table[c, k]}; channels lie on the last axis.

    Args:
        table: int64 ``[C, hi − lo]``, ascending, within the reach of sign · x or one past it.
        signs: 1 or −1 per channel: where the function falls it rises in −x.
        reach: least and largest x of each channel; the proof covers it.
        slopes: steps of the result per step of x, where the function is a straight line.
        exact: that line as rational factor and offset, to 160 bits where roots are in it.
        result: type of the result.
        lo: least code.
        hi: largest code.
        proof: form proved equal.
    """

    table: Constant
    signs: tuple[int, ...]
    reach: Ranges
    slopes: tuple[float, ...]
    exact: tuple[tuple[Fraction, Fraction], ...]
    result: FixedType
    lo: int
    hi: int
    proof: Form | None = None

    @property
    def channels(self) -> int:
        """Number of rows of thresholds."""
        return len(self.signs)

    @property
    def form(self) -> Form:
        """The proved form, else `thresholds`."""
        if self.proof is not None:
            return self.proof
        rows = tuple(tuple(int(t) for t in row) for row in self.table.array)
        return Form("thresholds", thresholds=rows, signs=self.signs if -1 in self.signs else ())

    @property
    def bipolar(self) -> bool:
        """Whether the result takes two values only, −1 and 1: all codes are reached at once."""
        steps = self.table.array
        return (self.lo, self.hi) == (-1, 1) and bool((steps[:, 0] == steps[:, 1]).all())

    @property
    def formula(self) -> str:
        """The definition, and the form it takes."""
        sign = "-" if set(self.signs) == {-1} else "" if set(self.signs) == {1} else "±"
        return f"y = {self.lo} + count({sign}x >= T), {self.form.name}"

    def clamped(self, lo: int, hi: int) -> IntThresholds:
        """The same op with its result clamped further; the proof is to be made anew."""
        both = Interval(self.lo, self.hi).clamp(lo, hi)
        table = Constant(self.table.array[:, both.lo - self.lo : both.hi - self.lo])
        return replace(self, table=table, lo=both.lo, hi=both.hi, proof=None)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition: the place of sign · x among the thresholds of its channel."""
        (x,) = inputs
        x = x * np.array(self.signs, np.int64)
        rows = self.table.array
        if len(rows) == 1:
            return (self.lo + np.searchsorted(rows[0], x, side="right"),)
        columns = [np.searchsorted(row, x[..., c], side="right") for c, row in enumerate(rows)]
        return (self.lo + np.stack(columns, axis=-1),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Comparisons added up; where they are many, a binary search by Gather."""
        x = w.mul(inputs[0], w.const(np.array(self.signs))) if -1 in self.signs else inputs[0]
        levels = self.table.array.shape[1]
        count = self._compared(w, x) if levels <= _COMPARED_ONNX else self._searched(w, x)
        y = w.add(count, w.const(self.lo))
        return (Tensor(y.name, y.shape, Interval(self.lo, self.hi)),)

    def _compared(self, w: OnnxWriter, x: Tensor) -> Tensor:
        count = w.mul(x, w.const(0))
        for column in self.table.array.T:
            count = w.add(count, w.select(x, "Less", w.const(column), w.const(0), w.const(1)))
        return count

    def _searched(self, w: OnnxWriter, x: Tensor) -> Tensor:
        bits = int(self.table.array.shape[1]).bit_length()
        size = (1 << bits) - 1
        far = np.full((self.channels, size), np.int64(2**40))
        far[:, : self.table.array.shape[1]] = self.table.array
        starts = w.const(np.arange(self.channels) * size - 1)
        count = w.mul(x, w.const(0))
        for bit in reversed(range(bits)):
            probe = w.add(count, w.const(1 << bit))
            place = Tensor(probe.name, probe.shape, Interval(1, size))
            found = w.lookup(far.reshape(-1), w.add(place, starts))
            chosen = w.select(x, "Less", found, count, place)
            count = Tensor(chosen.name, chosen.shape, Interval(0, size))
        return count

    # ---- proof

    def proved(self) -> IntThresholds:
        """The op with the cheapest form that is proved equal.

        Raises:
            NoIntegerForm: the result has more than 8 bits and no form but comparisons.
        """
        if self.result.storage.width <= _COMPARED_BITS or self.lo == self.hi:
            return replace(self, proof=None)
        if (trimmed := self._trimmed()) != self:
            return trimmed.proved()
        form = self._mulshift() or self._even() or self._wide()
        if form is None and self.hi - self.lo > _MOST_COMPARED:
            raise NoIntegerForm(
                "a rounding to more than 8 bits of what is no straight line",
                have=f"{self.hi - self.lo + 1} codes, {self.channels} channels",
                hint="quantize to 8 bits or fewer, or leave out what bends it",
            )
        return replace(self, proof=form)

    def _trimmed(self) -> IntThresholds:
        """The same op without codes below or above all that occur: a line need not fit there."""
        low, high = self._arguments()
        always = int((self.table.array <= low[:, None]).sum(axis=1).min())
        never = int((self.table.array > high[:, None]).sum(axis=1).min())
        return self.clamped(self.lo + always, self.hi - never) if always or never else self

    def _mulshift(self) -> Form | None:
        """One multiplication and shift per channel, if `fit` finds all of them."""
        low, high = self._arguments()
        table = self.table.array
        settled = (table <= low[:, None]) | (table > high[:, None])
        steady: NDArray[np.bool_] = np.logical_and.reduce(settled, axis=1)
        slopes = np.abs(np.array(self.slopes or [0.0] * self.channels, np.float32))
        wide = max(abs(self.lo), abs(self.hi)).bit_length() > _SHIFTED_BITS
        least = slopes[~steady].min(initial=1.0)
        if least < (_LEAST_WIDE if wide else _LEAST):
            return None
        codes = np.arange(self.lo + 1, self.hi + 1, dtype=np.int64)
        steps = Steps(codes, table, table - 1, table <= high[:, None], table > low[:, None])
        found = iter(fit(steps.select(~steady), slopes[~steady]))
        rows: list[tuple[int, int, int]] = []
        for channel, sign in enumerate(self.signs):
            if steady[channel]:
                code = self.lo + int((table[channel] <= low[channel]).sum())
                rows.append((0, _WHOLE, code << _WHOLE))
                continue
            one = next(found)
            if one is None:
                return None
            rows.append((one.multiplier * sign, one.shift, one.offset))
        multipliers, shifts, offsets = (tuple(c) for c in zip(*rows, strict=True))
        return Form("mulshift", multipliers, shifts, offsets)

    def _even(self) -> Form | None:
        """A binary shift with ties to even, if the line is one: checked at every step."""
        rows = [_binary(a, b + self.result.zero_points[0]) for a, b in self.exact]
        if not rows or any(row is None for row in rows):
            return None
        multipliers, shifts, offsets = (tuple(c) for c in zip(*rows, strict=True))
        form = Form("even", multipliers, shifts, offsets)
        low, high = self._arguments()
        table, signs = self.table.array, np.array(self.signs, np.int64)[:, None]
        codes = np.arange(self.lo + 1, self.hi + 1, dtype=np.int64)
        above = _even_codes(form, signs * np.minimum(table, high[:, None]))
        below = _even_codes(form, signs * np.maximum(table - 1, low[:, None]))
        right = (above >= codes) | (table > high[:, None])
        right &= (below < codes) | (table <= low[:, None])
        return form if bool(right.all()) else None

    def _wide(self) -> Form | None:
        """One long multiplication per channel, for more codes than are compared."""
        if self.hi - self.lo <= _MOST_COMPARED or len(self.exact) != self.channels:
            return None
        for bits in (ONE_WORD, TWO_WORDS):
            found = [self.wide(channel, bits) for channel in range(self.channels)]
            forms = [f for f in found if f is not None]
            if len(forms) < self.channels:
                continue
            multipliers = tuple(f.multiplier * s for f, s in zip(forms, self.signs, strict=True))
            shifts, offsets = tuple(f.shift for f in forms), tuple(f.offset for f in forms)
            if bits == ONE_WORD:
                return Form("wide", multipliers, shifts, offsets)
            words = tuple(o >> _WORD_BITS for o in offsets)
            return Form("wider", multipliers, tuple(s - _WORD_BITS for s in shifts), words)
        return None

    def wide(self, channel: int, bits: int) -> WideShift | None:
        """The constants of one channel, for its argument times its sign."""
        low, high = self._arguments()
        codes = np.arange(self.lo + 1, self.hi + 1, dtype=np.int64)
        slope, reach = abs(self.exact[channel][0]), (int(low[channel]), int(high[channel]))
        return fit_line(slope, codes, self.table.array[channel], reach, bits)

    def _arguments(self) -> tuple[IntArray, IntArray]:
        """Least and largest sign · x of each channel."""
        ends = np.array(self.reach, np.int64) * np.array(self.signs, np.int64)[:, None]
        return ends.min(axis=1), ends.max(axis=1)


def _binary(a: Fraction, b: Fraction) -> tuple[int, int, int] | None:
    """Multiplier, shift and offset of x·a + b, exact; None if they are not binary or too long."""
    denominator = max(a.denominator, b.denominator, 2)
    shift = denominator.bit_length() - 1
    if denominator != 1 << shift or a.denominator & (a.denominator - 1) or shift > _MOST_SHIFT:
        return None
    multiplier, offset = a * denominator, b * denominator
    if offset.denominator != 1 or abs(multiplier) >= 1 << _MULTIPLIER_BITS:
        return None
    if abs(offset) >= 1 << 60:
        return None
    return int(multiplier), shift, int(offset)


def _even_codes(form: Form, x: IntArray) -> IntArray:
    """The form `even` as C computes it, channels on the first axis."""
    m, s, b = (
        np.array(c, np.int64)[:, None] for c in (form.multipliers, form.shifts, form.offsets)
    )
    total = x * m + b
    return (total + ((np.int64(1) << (s - 1)) - 1) + ((total >> s) & 1)) >> s


def thresholds(
    build: GraphBuilder,
    x: Value,
    chain: Chain,
    result: FixedType,
    lo: int,
    hi: int,
    *,
    channels: int,
) -> IntThresholds:
    """The op for a chain of stored integers of `x` to codes of `result`.

    Args:
        build: names the place in messages.
        x: the operand; its proven range is the reach of every channel.
        chain: ending in integers within ``lo..hi``.
        result: type of the result.
        lo: least code.
        hi: largest code.
        channels: 1, or the size of the last axis.

    Raises:
        AccumulatorOverflow: the operand leaves 32 bits.
    """
    reach = ((x.interval.lo, x.interval.hi),) * channels
    if max(-x.interval.lo, x.interval.hi) >= I32.max:
        raise AccumulatorOverflow("a sum may leave 32 bits", at=build.hint, have=str(x.interval))
    chain = lines.without_idle_rounds(chain, channels)
    signs, table = lines.thresholds(chain, lo, hi, reach)
    slopes: tuple[float, ...] = ()
    exact: tuple[tuple[Fraction, Fraction], ...] = ()
    if is_line(chain):
        slopes = tuple(monotone.slope(chain, c) for c in range(channels))
        found = [monotone.affine(chain, c) for c in range(channels)]
        known = tuple(line for line in found if line is not None)
        exact = known if len(known) == channels else ()
    return IntThresholds(Constant(table), signs, reach, slopes, exact, result, lo, hi)


def is_line(chain: Sequence[object]) -> bool:
    """Whether nothing but clipping to one range for all and one rounding bend a chain."""
    kinds = [type(step) for step in chain]
    lines = (monotone.Scale, monotone.Shift)
    bends = [i for i, kind in enumerate(kinds) if kind not in lines]
    return all(kinds[i] in (monotone.Clip, monotone.Round) for i in bends) and (
        sum(kinds[i] is monotone.Round for i in bends) == 1
    )
