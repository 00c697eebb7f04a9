"""RationalSum: two quantized values of scales without a common unit, summed, mapped, quantized.

    y = chain(a · sa ± b · sb), exact

The sum is a small integer combination ``a·ma ± b·mb`` with ma : mb near sa : sb, and thresholds on
it that part all pairs of codes exactly as the real sum does: tried on every pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from binpoint.errors import NoIntegerForm
from binpoint.ir.build import GraphBuilder
from binpoint.ir.constant import Constant
from binpoint.ir.graph import Value
from binpoint.ir.op import FloatArray, FloatOp, IntArray, Site
from binpoint.numeric import monotone
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I32, FixedType, FloatType, TensorType
from binpoint.numeric.monotone import Steps
from binpoint.ops.broadcast import Broadcast
from binpoint.ops.pairwise import IntAdd
from binpoint.ops.rational import Quantizer
from binpoint.ops.thresholds import IntThresholds, is_line

_WIDEST = 8
_SUM_BITS = 30
_EXACT_BITS = 62
_NEIGHBOURS = (0, 1, -1, 2, -2)
_SHIFTS = 6


@dataclass(frozen=True, slots=True)
class RationalSum(FloatOp):
    """y = the chain of a + b, or of a − b if `negative`, channels on the last axis."""

    onnx: ClassVar[tuple[str, ...]] = ()

    steps: Steps
    quantizer: Quantizer
    negative: bool

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The broadcast shape."""
        return (TensorType(np.broadcast_shapes(*(v.shape for v in inputs)), FloatType()),)

    def result_type(self, *inputs: FixedType | None) -> FixedType | None:
        """The quantizer's."""
        return self.quantizer.type

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """The chain in float64."""
        a, b = (v.astype(np.float64) for v in inputs)
        y = monotone.evaluate(self.steps, a - b if self.negative else a + b)
        return (self.quantizer.type.dequantize(y.astype(np.int64)).astype(inputs[0].dtype),)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """A sum with small multipliers, then thresholds."""
        a, b = (build.integer(v) for v in site.inputs)
        if max(v.elem.storage.width for v in (a, b)) > _WIDEST:
            raise NoIntegerForm(
                "a sum of values whose scales have no common unit in 32 bits",
                at=site.name,
                have=f"{a.elem} and {b.elem}",
                hint="give both operands the same quantizer, or 8 bits at most",
            )
        axes = Broadcast.of(a.shape, b.shape, site.name)
        pairs = Pairs.of(a, b, negative=self.negative)
        count = monotone.channels_of(self.steps)
        chain = (monotone.scale(pairs.unit), *self.steps)
        low, high = self.quantizer.lo, self.quantizer.hi
        ends = (int(pairs.exact[0]), int(pairs.exact[-1]))
        signs, table = monotone.thresholds(chain, low, high, [ends] * count)
        ma, mb, near = self._multipliers(site, pairs, signs, table)
        scale = Dyadic.from_float(float(a.elem.scale) / ma)
        kind = FixedType.per_tensor(I32, scale)
        zeros = a.elem.zero_point, b.elem.zero_point
        turned = -2 * mb if self.negative else 2 * mb
        total = IntAdd(axes, 2 * ma, turned, 1, *zeros, kind, I32.min, I32.max)
        v = build.one(total, a, b)
        reach = ((v.interval.lo, v.interval.hi),) * count
        slopes: tuple[float, ...] = ()
        if is_line(self.steps):
            slopes = tuple(float(scale) * monotone.slope(self.steps, c) for c in range(count))
        op = IntThresholds(Constant(near), signs, reach, slopes, (), self.quantizer.type, low, high)
        return (build.one(op, v, hint=f"{site.name}_thresholds"),)

    @staticmethod
    def _multipliers(
        site: Site, pairs: Pairs, signs: tuple[int, ...], table: IntArray
    ) -> tuple[int, int, IntArray]:
        for ma, mb in pairs.candidates():
            near = pairs.moved(ma, mb, signs, table)
            if near is not None:
                return ma, mb, near
        raise NoIntegerForm(
            "no 32-bit sum parts the results as the exact one does",
            at=site.name,
            hint="give both operands the same quantizer",
        )


@dataclass(frozen=True, slots=True)
class Pairs:
    """All pairs of codes that occur, zero points taken off, in the order of their exact sums.

    Args:
        a: int64, codes of the first operand.
        b: int64, codes of the second, negated for a difference.
        exact: int64, ascending, ``a·na + b·nb``: the sum in `unit`.
        na: the first scale in `unit`.
        nb: the second.
        unit: of the exact sums.
    """

    a: IntArray
    b: IntArray
    exact: IntArray
    na: int
    nb: int
    unit: Fraction

    @classmethod
    def of(cls, a: Value, b: Value, *, negative: bool) -> Pairs:
        """All pairs within the operands' ranges.

        Raises:
            NoIntegerForm: the scales lie too far apart.
        """
        first, second = a.elem.scale, b.elem.scale
        exponent = min(first.exponent, second.exponent)
        na, nb = (s.multiplier << (s.exponent - exponent) for s in (first, second))
        if max(na, nb).bit_length() + _WIDEST + 2 > _EXACT_BITS:
            raise NoIntegerForm("the scales of a sum lie too far apart", have=f"{first}, {second}")
        x, y = (_centred(v) for v in (a, b))
        left, right = (g.reshape(-1) for g in np.meshgrid(x, -y if negative else y))
        total = left * na + right * nb
        order = np.argsort(total, kind="stable")
        unit = Fraction(2) ** exponent
        return cls(left[order], right[order], total[order], na, nb, unit)

    def candidates(self) -> Iterator[tuple[int, int]]:
        """Small multipliers near the exact ones, the finest first."""
        largest = max(self.na, self.nb).bit_length() + _WIDEST + 1
        start = max(0, largest - _SUM_BITS)
        for shift in range(start, start + _SHIFTS):
            ma, mb = (round(Fraction(n, 1 << shift)) for n in (self.na, self.nb))
            for da in _NEIGHBOURS:
                for db in _NEIGHBOURS:
                    if ma + da > 0 and mb + db > 0:
                        yield ma + da, mb + db

    def moved(self, ma: int, mb: int, signs: tuple[int, ...], table: IntArray) -> IntArray | None:
        """Thresholds on a·ma + b·mb that part all pairs as `table` parts exact sums, or None."""
        near = self.a * ma + self.b * mb
        result = np.empty_like(table)
        for sign in set(signs):
            rows = [c for c, s in enumerate(signs) if s == sign]
            exact, close = self.exact[::sign] * sign, near[::sign] * sign
            below = np.concatenate([[np.iinfo(np.int64).min], np.maximum.accumulate(close)])
            above = np.concatenate([np.minimum.accumulate(close[::-1])[::-1], [close.max() + 1]])
            places = np.searchsorted(exact, table[rows], side="left")
            if (below[places] >= above[places]).any():
                return None
            result[rows] = above[places]
        return result


def _centred(value: Value) -> NDArray[Any]:
    codes = np.arange(value.interval.lo, value.interval.hi + 1, dtype=np.int64)
    return codes - value.elem.zero_point
