"""Softmax without a table: shares of exponentials by shifts or a polynomial.

e_j is an `Exponential` of the distance of element j from the largest, S their sum.

``Rounded``     y = floor((F·e + ⌊S·2^k/2⌋) / (S·2^k)) + zp, saturated, as with a table
``Reciprocal``  y = ⌊e·⌊N/S⌋ / 2^s⌋ + zp, saturated, as released: N = 2^31 − 1 in I-ViT, 2^32 in
                I-BERT. Rounded down twice, rows sum to less than one: with 8 bits to 0.4

The sum is proved to fit 32 bits: an exponential by shifts has as few halvings as that takes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from binpoint.ir.graph import Value
from binpoint.ir.kernel import KernelCall, Number, Work
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import IntArray, IntegerOp
from binpoint.numeric.fixed import FixedType, TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.blocks import Block
from binpoint.ops.exponential import Exponential

_WORD = 2**32
_LONG = 2**63
_STEPS = 256


class Division(ABC):
    """How a term becomes a share of the sum."""

    name: ClassVar[str]

    @abstractmethod
    def prove(self, peak: int, total: int) -> None:
        """Check every width, for terms and a sum of at most this."""

    @abstractmethod
    def whole(self) -> int:
        """An upper bound of shares."""

    @abstractmethod
    def shares(self, terms: IntArray, total: IntArray) -> IntArray:
        """The definition."""

    @abstractmethod
    def to_onnx(self, w: OnnxWriter, terms: Tensor, total: Tensor) -> Tensor:
        """The same in integer operators."""

    @abstractmethod
    def numbers(self) -> tuple[Number, ...]:
        """Arguments of the kernel."""


@dataclass(frozen=True, slots=True)
class Rounded(Division):
    """Once, half up.

    Args:
        factor, shift: F and k; the share 1 has F·2^-k steps.
    """

    name: ClassVar[str] = "rounded"

    factor: int = _STEPS
    shift: int = 0

    def prove(self, peak: int, total: int) -> None:
        """What is divided fits 63 bits, and 32 where the share has 256 steps."""
        assert total < _WORD, "the sum leaves 32 bits"
        assert not self.narrow or peak * _STEPS + total // 2 < _WORD, "it leaves 32 bits"
        assert peak * self.factor + (total << self.shift) < _LONG, "it leaves 63 bits"

    @property
    def narrow(self) -> bool:
        """Whether all is of 32 bits."""
        return (self.factor, self.shift) == (_STEPS, 0)

    def whole(self) -> int:
        """F·2^-k, rounded."""
        return (self.factor + (1 << self.shift >> 1)) >> self.shift

    def shares(self, terms: IntArray, total: IntArray) -> IntArray:
        """The definition."""
        divisor = total << self.shift
        return (terms * self.factor + divisor // 2) // divisor

    def to_onnx(self, w: OnnxWriter, terms: Tensor, total: Tensor) -> Tensor:
        """Half the divisor is added first."""
        divisor = w.mul(total, w.const(1 << self.shift))
        top = w.add(w.mul(terms, w.const(self.factor)), w.floor_shift(divisor, 1))
        share = w.floor_divide(top, divisor)
        # A term is at most the sum.
        return Tensor(share.name, share.shape, Interval(0, self.whole()))

    def numbers(self) -> tuple[Number, ...]:
        """F and k, unless they are 256 and 0."""
        if self.narrow:
            return ()
        return (
            Number("factor", self.factor, "uint32_t"),
            Number("shift", self.shift, "uint32_t"),
        )


@dataclass(frozen=True, slots=True)
class Reciprocal(Division):
    """By a rounded-down reciprocal of the sum.

    Args:
        numerator: N.
        shift: s.
    """

    name: ClassVar[str] = "reciprocal"

    numerator: int
    shift: int

    def prove(self, peak: int, total: int) -> None:
        """The sum may be all of N, no more: then e·⌊N/S⌋ ≤ N."""
        assert total <= self.numerator, "the sum leaves the numerator"
        assert total < _WORD, "the sum leaves 32 bits"

    def whole(self) -> int:
        """N·2^-s."""
        return self.numerator >> self.shift

    def shares(self, terms: IntArray, total: IntArray) -> IntArray:
        """The definition."""
        return terms * (self.numerator // total) >> self.shift

    def to_onnx(self, w: OnnxWriter, terms: Tensor, total: Tensor) -> Tensor:
        """A division a row, a product an element."""
        inverse = w.floor_divide(w.const(self.numerator), total)
        share = w.floor_shift(w.mul(terms, inverse), self.shift)
        return Tensor(share.name, share.shape, Interval(0, self.whole()))

    def numbers(self) -> tuple[Number, ...]:
        """N and s."""
        return (
            Number("numerator", self.numerator, "uint64_t"),
            Number("shift", self.shift, "uint32_t"),
        )


@dataclass(frozen=True, slots=True)
class IntShares(IntegerOp):
    """y = the share of exp(x − max) in the sum of a block, as the head of this file defines it.

    Args:
        block: the sets over which elements are added.
        terms: the exponential.
        division: how a share is made.
        result: type of the shares.
        notes: why onnxruntime's bytes are others.
    """

    stem: ClassVar[str] = "shares"

    block: Block
    terms: Exponential
    division: Division
    result: FixedType
    notes: tuple[str, ...] = ()

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's shape."""
        return (TensorType(self.block.shape, self.result),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """From no share to all; proves every width."""
        storage, zero = self.result.storage, self.result.zero_point
        self.division.prove(self.terms.peak, self.terms.peak * self.block.n)
        return (Interval(zero, zero + self.division.whole()).clamp(storage.min, storage.max),)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        x, storage = self.block.view(inputs[0]), self.result.storage
        terms = self.terms.terms(x.max(axis=1, keepdims=True) - x)
        share = self.division.shares(terms, terms.sum(axis=1, keepdims=True))
        moved = np.clip(share + self.result.zero_point, storage.min, storage.max)
        return (moved.reshape(self.block.shape),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Maximum, exponential, sum, share."""
        x = self.block.flat(w, inputs[0])
        apart = w.sub(w.reduce_max(x, 1, keep=True), x)
        apart = Tensor(apart.name, apart.shape, Interval(0, x.range.hi - x.range.lo))
        terms = self.terms.to_onnx(w, apart)
        total = w.reduce_sum(terms, 1, keep=True)
        total = Tensor(total.name, total.shape, Interval(self.terms.peak, total.range.hi))
        share = self.division.to_onnx(w, terms, total)
        moved = w.add(share, w.const(self.result.zero_point))
        storage = self.result.storage
        return (w.reshape(w.clamp(moved, storage.min, storage.max), self.block.shape),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Three passes over each set."""
        arguments = (
            *self.block.arguments(inputs[0], outputs[0]),
            *self.terms.numbers(),
            *self.division.numbers(),
            Number("zero", self.result.zero_point),
            Number("hi", self.result.storage.max),
        )
        wide = isinstance(self.division, Rounded) and not self.division.narrow
        form = "wide" if wide else self.division.name
        traits = (("terms", self.terms.name), ("form", form))
        formula = (
            f"y = exp(x - max) / sum(exp(x - max)), by {self.terms.name}, {self.division.name}"
        )
        return KernelCall(self.stem, arguments, traits, formula=formula)

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """Three passes over the operand, two of them with exponentials."""
        size = outputs[0].type.size
        return Work(macs=2 * size, loads=3 * size, stores=size, notes=self.notes)

    def in_place(self) -> tuple[int, ...]:
        """A set is added first, and each element is read before its share is stored."""
        return (0,)
