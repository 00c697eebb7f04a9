"""Layer normalization as I-ViT and I-BERT compute it: a root by Newton's steps, a reciprocal a row.

Of a row of n codes x, S their sum; r is the root of V = Σ d²:

``SHIFT_RELEASED``  d = x − rne(S/n),  r = ten steps r ← ⌊(r + ⌊V/r⌋)/2⌋ from 2^16, which have not
                    converged below V = 35000;  i = ⌊(2^31 − 1)/r⌋,  t = ⌊d·i/2⌋
``POLYNOMIAL``      d = x − rne(S/n),  r = ⌊√V⌋, at least 1;  i = ⌊2^31/r⌋,  t = ⌊d·i/2⌋
``SHIFT``           d = n·x − S, exact;  r = ⌊√V⌋, at least 1;  i = ⌊(2^61 − 1)/r⌋,  t = ⌊d·i/2^31⌋
all                 y = clamp((⌊t·m/2^32⌋ + k) >> s)

t is normalized in steps of √n·2^-30: d² ≤ V, so |d| ≤ r and |t| ≤ 2^30. m = gamma·√n/sy·2^(s+2) and
k = (beta/sy + zp + 1/2)·2^s, nearest integers for each channel. The papers know no epsilon; it is
left out, and a constant row gives beta.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Value
from binpoint.ir.kernel import KernelCall, Number, Work
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import IntArray
from binpoint.numeric.interval import Interval
from binpoint.ops.methods import Method
from binpoint.ops.roots import floor_root, newton_root, normalized
from binpoint.ops.rownorm import RowNorm

REACH = 2**30 + 1
FRACTION = 30
_START = 2**16
_STEPS = 10
_LEAST_ROOT = _START >> _STEPS
_NUMERATORS: Mapping[Method, int] = MappingProxyType(
    {Method.SHIFT: 2**61 - 1, Method.SHIFT_RELEASED: 2**31 - 1, Method.POLYNOMIAL: 2**31}
)


@dataclass(frozen=True, slots=True)
class IntShiftNorm(RowNorm):
    """The algorithm at the head of this file."""

    stem: ClassVar[str] = "shiftnorm"

    method: Method

    @property
    def numerator(self) -> int:
        """What the root divides."""
        return _NUMERATORS[self.method]

    @property
    def drop(self) -> int:
        """Bits of a product that are rounded off."""
        return 31 if self.method is Method.SHIFT else 1

    def reach(self) -> int:
        """Of a distance over the root."""
        return REACH

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """From the constants, t at its ends; proves every width."""
        x, n = inputs[0].interval, self.block.n
        peak = max(abs(x.lo), abs(x.hi))
        assert 2 * n * max(peak + 1, x.hi - x.lo) < 2**31, "a sum of codes leaves 32 bits"
        assert self._most(x) < 2**62, "the sum of squares leaves 62 bits"
        m, k = (constant_array(v).astype(np.int64) for v in inputs[1:])
        return (self.ends(m, k),)

    def _most(self, x: Interval) -> int:
        """The largest V."""
        n, span = self.block.n, x.hi - x.lo
        return n * (n * span) ** 2 if self.method is Method.SHIFT else n * span**2

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        x = self.block.view(inputs[0])
        total, n = x.sum(axis=1, keepdims=True), self.block.n
        apart = n * x - total if self.method is Method.SHIFT else x - _rounded(total, n)
        squares = np.square(apart).sum(axis=1, keepdims=True)
        if self.method is Method.SHIFT_RELEASED:
            root = np.full_like(squares, _START)
            for _ in range(_STEPS):
                root = root + squares // root >> 1
        else:
            root = np.maximum(floor_root(squares), 1)
        return (self.finish(apart * (self.numerator // root) >> self.drop, *inputs[1:]),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Sums, Newton's steps, a division and two products."""
        x, n = self.block.flat(w, inputs[0]), self.block.n
        total, span = w.reduce_sum(x, 1, keep=True), x.range.hi - x.range.lo
        if self.method is Method.SHIFT:
            apart, reach = w.sub(w.mul(x, w.const(n)), total), n * span
        else:
            apart, reach = w.sub(x, _rounded_onnx(w, total, n)), span
        apart = Tensor(apart.name, apart.shape, Interval(-reach, reach))
        squares = self._squares(w, x, total, apart)
        root = self._root(w, squares)
        inverse = w.floor_divide(w.const(self.numerator), root)
        # No distance is longer than the root.
        bounds = Interval(-self.numerator, self.numerator)
        product = w.emit("Mul", [apart.name, inverse.name], apart.shape, bounds)
        return (self.finish_onnx(w, w.floor_shift(product, self.drop), *inputs[1:]),)

    def _squares(self, w: OnnxWriter, x: Tensor, total: Tensor, apart: Tensor) -> Tensor:
        """V: of the exact mean from sums of codes, as Σ d² may leave what the provider adds in."""
        n = self.block.n
        if self.method is Method.SHIFT:
            codes = w.reduce_sum(w.mul(x, x), 1, keep=True)
            spread = w.sub(w.mul(codes, w.const(n)), w.mul(total, total))
            most = self._most(x.range)
            spread = Tensor(spread.name, spread.shape, Interval(0, most // n))
            return w.mul(spread, w.const(n))
        found = w.reduce_sum(w.mul(apart, apart), 1, keep=True)
        return Tensor(found.name, found.shape, Interval(0, self._most(x.range)))

    def _root(self, w: OnnxWriter, squares: Tensor) -> Tensor:
        if self.method is Method.SHIFT_RELEASED:
            top = max(_START, (_START + squares.range.hi // _LEAST_ROOT) // 2 + 1)
            root = w.const(np.full(squares.shape, _START))
            for _ in range(_STEPS):
                step = w.floor_shift(w.add(root, w.floor_divide(squares, root)), 1)
                root = Tensor(step.name, step.shape, Interval(_LEAST_ROOT, top))
            return root
        whole, power = normalized(w, w.maximum(squares, w.const(1)))
        return w.maximum(w.floor_divide(newton_root(w, whole), power), w.const(1))

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Two or three passes over each row."""
        own = Number("numerator", self.numerator, "uint64_t"), Number("drop", self.drop)
        arguments = self.arguments(inputs, outputs[0], *own)
        form = {Method.SHIFT: "exact", Method.SHIFT_RELEASED: "released"}.get(self.method, "mean")
        formula = "y = (x - mean) * (1 / sqrt(sum of squares)) * m + k"
        traits = ("form", form), ("channels", self.channels)
        return KernelCall(self.stem, arguments, traits, formula=formula)

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """A square, and two products for the result, an element."""
        size = outputs[0].type.size
        return Work(macs=3 * size, loads=4 * size, stores=size, notes=self.notes)

    def in_place(self) -> tuple[int, ...]:
        """A row is summed before its first result is stored."""
        return (0,)


def _rounded(total: IntArray, n: int) -> IntArray:
    """total/n to the nearest integer, ties to even."""
    twice = 2 * total + n
    mean = twice // (2 * n)
    return mean - ((twice == mean * 2 * n) & (mean & 1 == 1))


def _rounded_onnx(w: OnnxWriter, total: Tensor, n: int) -> Tensor:
    """The same in the check graph."""
    twice = w.add(w.mul(total, w.const(2)), w.const(n))
    mean = w.floor_divide(twice, w.const(2 * n))
    odd = w.sub(mean, w.mul(w.floor_shift(mean, 1), w.const(2)))
    rest = w.sub(twice, w.mul(mean, w.const(2 * n)))
    return w.sub(mean, w.select(rest, "Equal", w.const(0), odd, w.const(0)))
