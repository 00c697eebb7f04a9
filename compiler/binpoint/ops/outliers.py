"""How many values of a region are outliers, and which body computes a patch by that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from binpoint.ir.graph import Value
from binpoint.ir.kernel import Buffer, KernelCall, Number, Work
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import IntArray, IntegerOp
from binpoint.numeric.fixed import TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.blocks import PLACE
from binpoint.ops.copy import places, run_on


@dataclass(frozen=True, slots=True)
class OutlierTest:
    """Which of two bodies computes a patch, by the values that it reads, for each input anew.

    A value is an outlier outside of `lo` to `hi`. With more than the part `allowed` of them, a
    patch is of the first body, otherwise of the second.

    Attributes:
        lo, hi: codes.
        allowed: at least 0, below 1.
        samples: on how many inputs the shares below were seen.
        shares: of each patch, the part of these inputs on which it is of the first body.
    """

    lo: int
    hi: int
    allowed: Fraction
    samples: int
    shares: tuple[Fraction, ...]

    def limit(self, size: int) -> int:
        """The most outliers among so many values with which a patch is of the second body."""
        return math.floor(self.allowed * size)

    def body(self, codes: IntArray) -> int:
        """The body of a patch that reads these."""
        return 0 if outside(codes, self.lo, self.hi) > self.limit(codes.size) else 1

    def region(self, sizes: Sequence[int], strides: Sequence[int]) -> IntOutliers:
        """The op that counts the outliers in such a region."""
        return IntOutliers.of(sizes, strides, self.lo, self.hi)


def outside(codes: IntArray, lo: int, hi: int) -> int:
    """How many lie outside."""
    return int(((codes < lo) | (codes > hi)).sum())


@dataclass(frozen=True, slots=True)
class IntOutliers(IntegerOp):
    """y = how many of x.flat[Σ i_j·strides_j] are below `lo` or above `hi`, over axes `sizes`."""

    stem: ClassVar[str] = "outliers"

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    lo: int
    hi: int

    @classmethod
    def of(cls, sizes: Sequence[int], strides: Sequence[int], lo: int, hi: int) -> IntOutliers:
        """The op with the smallest stride last, and axes that run on joined: order is no matter."""
        pairs = sorted(zip(sizes, strides, strict=True), key=lambda axis: -abs(axis[1]))
        merged = run_on([n for n, _ in pairs], [s for _, s in pairs])
        return cls(tuple(n for n, _ in merged), tuple(s for _, s in merged), lo, hi)

    @property
    def indices(self) -> IntArray:
        """Which elements of the flat operand are counted among."""
        return places(0, self.sizes, self.strides)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """A whole number."""
        (x,) = inputs
        assert self.lo <= self.hi, "no value is inside"
        assert x.elem.storage.min <= self.lo, "the least code inside is none of the type's"
        assert self.hi <= x.elem.storage.max, "the largest code inside is none of the type's"
        assert self.indices.min() >= 0, "outliers are counted outside the operand"
        assert self.indices.max() < x.type.size, "outliers are counted outside the operand"
        return (TensorType((1,), PLACE),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """From none to all."""
        return (Interval(0, math.prod(self.sizes)),)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        count = outside(inputs[0].reshape(-1)[self.indices], self.lo, self.hi)
        return (np.array([count], np.int64),)

    @property
    def run(self) -> int:
        """How many elements lie side by side in memory."""
        return self.sizes[-1] if self.strides[-1] == 1 else 1

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Comparisons, summed."""
        (x,) = inputs
        chosen = w.take(w.reshape(x, (math.prod(x.shape),)), self.indices, 0)
        return (w.reduce_sum(marked(w, chosen, self.lo, self.hi), 0, keep=True),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Nested loops over the axes."""
        (x,), (y,) = inputs, outputs
        rank = len(self.sizes)
        arguments = (
            Buffer("x", x.name, x.elem.storage),
            Buffer("y", y.name, y.elem.storage, written=True),
            Number("lo", self.lo),
            Number("hi", self.hi),
            *(Number(f"n{i}", n) for i, n in enumerate(self.sizes)),
            *(Number(f"s{i}", s) for i, s in enumerate(self.strides)),
        )
        formula = f"y = number of x outside {self.lo}..{self.hi}"
        return KernelCall(self.stem, arguments, (("rank", f"{rank}d"),), formula=formula)

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """One load an element."""
        return Work(loads=math.prod(self.sizes), stores=1)


def marked(w: OnnxWriter, x: Tensor, lo: int, hi: int) -> Tensor:
    """1 where a value lies outside, otherwise 0."""
    one, zero = w.const(1), w.const(0)
    below = w.select(x, "Less", w.const(lo), one, zero)
    return w.select(x, "Greater", w.const(hi), one, below)
