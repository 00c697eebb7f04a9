"""Normalization of rows with an exact mean, or about zero, in integers.

Of a row of n codes x (the zero point cancels out; sx is their scale):

    S = Σ x,  Q = n·Σ x² − S²              exact: n² times the variance, in 64 bits where needed
    D = Q·2^e + E                          E = epsilon·n²/sx²·2^e, nearest integer, at least 1
    4^h·D in [2^60, 2^62),  r = ⌊√(4^h·D)⌋ the root is exact
    i = ⌊(2^61 − 1) / r⌋                   31 bits: nearly 2^61 / r
    d = n·x − S                            n times the distance from the mean, exact
    t = ⌊d·2^u·i / 2^32⌋                   normalized, in steps of 2^-f; u = e/2 + h + f − 29
    y = clamp((⌊t·m / 2^32⌋ + k) >> s)     m = gamma/sy·2^(s+32−f), k = (beta/sy + zp + 1/2)·2^s,
                                           nearest integers for each channel

Every product is of two 31-bit factors, of which the high word is taken. Widths: Σd² = n·Q and
Σd = 0 give |d| ≤ √(n−1)·√Q, so |d|·2^u < √(n−1)·2^(f+2) ≤ 2^31 with n − 1 ≤ 4^(29−f).

Error: i·√(4^h·D)/2^61 is 1 within 2^-29, t is rounded down by less than 2^-f, m by 1/2, the last
high word by less than 1, k by 1/2. As |gamma|/sy < 2^(f−1−s), y is within 1/2 + 3·2^-s steps of the
real result with E/2^e for epsilon·n²/sx²; E itself is off by at most half a unit of D, which is at
least (n − 1)·2^e wherever a row is not constant. Half a step rounds up.

About zero (root mean square, and the Euclidean norm, which is it times √n) S is 0 and x counts from
its zero point; then |d| ≤ √n·√Q, and n takes the place of n − 1 throughout.

Both semantics use this definition. onnxruntime itself adds and divides in float32, in an order of
its own; about two codes in a million differ by one from the real result rounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from binpoint.errors import NoIntegerForm
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Value
from binpoint.ir.kernel import KernelCall, Number, Work
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import IntArray
from binpoint.numeric.interval import Interval
from binpoint.ops.roots import floor_root, half_shift, newton_root, normalized
from binpoint.ops.rownorm import WORD, RowNorm

_TOP = 62
_MOST_FRACTION = 29


def fraction_of(count: int) -> int:
    """The largest f ≤ 29 with count − 1 ≤ 4^(29−f)."""
    return _MOST_FRACTION - ((count - 2).bit_length() + 1) // 2 if count > 2 else _MOST_FRACTION


def freedom_of(count: int, centre: int | None) -> int:
    """One more than the largest square of a distance over the mean square, of n codes."""
    return count + (centre is not None)


def largest(x: Interval, count: int, centre: int | None) -> int:
    """The largest Q of so many codes in a range: half of them at either end, or all far off."""
    if centre is None:
        return (count * (x.hi - x.lo)) ** 2 // 4
    return (count * max(abs(x.lo - centre), abs(x.hi - centre))) ** 2


def most_reach(count: int) -> int:
    """The largest r for which rows of `count` codes within ±r have an exact norm, about."""
    spare = 2 * (_MOST_FRACTION - fraction_of(count + 1))
    return min(math.isqrt(2 ** (_TOP - 1 - spare)), (2**31 - 1) // 2) // count


def epsilon_of(
    epsilon: float, x: Value, count: int, centre: int | None, where: str
) -> tuple[int, int]:
    """Return e and E: the largest even e for which every D stays below 2^62, and epsilon.

    Args:
        epsilon: real.
        x: the operand, in rows of `count` from `centre` or the mean.
        count: n.
        centre: as of the op.
        where: for the error.
    """
    freedom, most = freedom_of(count, centre), largest(x.interval, count, centre)
    real = Fraction(epsilon) * count**2 / x.elem.scale.as_fraction() ** 2
    for spare in range(2 * (_MOST_FRACTION - fraction_of(freedom)), _TOP, 2)[::-1]:
        whole = max(1, round(real * 2**spare))
        if (most << spare) + whole < 2**_TOP:
            return spare, whole
    raise NoIntegerForm(
        f"a norm of rows of {x.elem.storage.width}-bit values",
        at=where,
        have=f"range {x.interval}, rows of {count}, a scale of {float(x.elem.scale):g}",
        want="epsilon and the variances together within 62 bits",
        hint="quantize its operand to 8 bits",
    )


def reach_of(count: int) -> int:
    """A bound of |t|: √(n−1)·2^f, the relative error of i, and the rounding down."""
    fraction = fraction_of(count)
    root = math.isqrt(max(count - 1, 1) << 2 * fraction) + 1
    return root + (root >> 29) + 2


@dataclass(frozen=True, slots=True)
class IntLayerNorm(RowNorm):
    """The algorithm at the head of this file.

    Args:
        spare, epsilon: e and E.
        centre: the code from which x counts; None: the mean.
    """

    stem: ClassVar[str] = "layernorm"

    spare: int
    epsilon: int
    centre: int | None = None

    @property
    def _freedom(self) -> int:
        return freedom_of(self.block.n, self.centre)

    @property
    def least_up(self) -> int:
        """The exponent u without h."""
        return self.spare // 2 + fraction_of(self._freedom) - _MOST_FRACTION

    def reach(self) -> int:
        """Of an element in deviations."""
        return reach_of(self._freedom)

    def _codes(self, x: Interval) -> Interval:
        return x if self.centre is None else x - self.centre

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """From the constants, t at its ends; proves every width."""
        x, n = self._codes(inputs[0].interval), self.block.n
        peak = max(abs(x.lo), abs(x.hi))
        assert n * max(peak, x.hi - x.lo) < 2**31, "a sum of codes leaves 32 bits"
        assert (n * peak) ** 2 < 2**63, "n times the sum of squares leaves 64 bits"
        assert (self._most(inputs[0].interval) << self.spare) + self.epsilon < 2**_TOP, (
            "D leaves 62 bits"
        )
        assert self.epsilon >= 1, "D may be zero"
        assert self.least_up >= 0, "u is negative"
        m, k = (constant_array(v).astype(np.int64) for v in inputs[1:])
        return (self.ends(m, k),)

    def _most(self, x: Interval) -> int:
        return largest(x, self.block.n, self.centre)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        x, n = self.block.view(inputs[0]), self.block.n
        x = x if self.centre is None else x - self.centre
        total = x.sum(axis=1, keepdims=True) if self.centre is None else 0
        spread = n * np.square(x).sum(axis=1, keepdims=True) - total**2
        whole = (spread << self.spare) + self.epsilon
        half = half_shift(whole)
        inverse = (2**61 - 1) // floor_root(whole << 2 * half)
        up = np.minimum(half + self.least_up, 30)
        return (self.finish(((n * x - total) << up) * inverse >> WORD, *inputs[1:]),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Sums, then selections for h, Newton steps for the root, and two high words."""
        x, n = self.block.flat(w, inputs[0]), w.const(self.block.n)
        most = self._most(x.range)
        if self.centre is None:
            total = w.reduce_sum(x, 1, keep=True)
            squares = w.mul(w.reduce_sum(w.mul(x, x), 1, keep=True), n)
            spread = w.sub(squares, w.mul(total, total))
            apart = w.sub(w.mul(x, n), total)
        else:
            x = w.sub(x, w.const(self.centre))
            spread = w.mul(w.reduce_sum(w.mul(x, x), 1, keep=True), n)
            apart = w.mul(x, n)
        # Proved by `bounds`; intervals cannot see that both terms come from the same numbers.
        spread = Tensor(spread.name, spread.shape, Interval(0, most))
        whole = w.add(w.mul(spread, w.const(1 << self.spare)), w.const(self.epsilon))
        whole, power = normalized(w, whole)
        inverse = w.floor_divide(w.const(2**61 - 1), newton_root(w, whole))
        factor = w.minimum(w.mul(power, w.const(1 << self.least_up)), w.const(1 << 30))
        bounds = Interval(-(2**31), 2**31)
        high = w.emit("Mul", [apart.name, factor.name], apart.shape, bounds)
        t = w.floor_shift(w.mul(high, inverse), WORD)
        return (self.finish_onnx(w, t, *inputs[1:]),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Two passes over each row."""
        x = self._codes(inputs[0].interval)
        narrow = self.block.n * max(abs(x.lo), abs(x.hi)) ** 2 < 2**32
        own = [
            Number("spare", self.spare, "uint32_t"),
            Number("epsilon", self.epsilon, "uint64_t"),
            Number("up", self.least_up, "uint32_t"),
        ]
        mean = "mean"
        if self.centre is not None:
            own.append(Number("centre", self.centre))
            mean = str(self.centre)
        traits = (
            ("sums", "narrow" if narrow else "wide"),
            ("form", "mean" if self.centre is None else "centre"),
            ("channels", self.channels),
        )
        formula = f"y = (x - {mean}) / sqrt(mean square + epsilon) * m + k"
        arguments = self.arguments(inputs, outputs[0], *own)
        return KernelCall(self.stem, arguments, traits, formula=formula)

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """A square, and three products for the result, an element."""
        size = outputs[0].type.size
        return Work(macs=4 * size, loads=4 * size, stores=size, notes=self.notes)

    def in_place(self) -> tuple[int, ...]:
        """A row is summed before its first result is stored."""
        return (0,)
