"""ShiftGELU as released by I-ViT (ICCV 2023): exponentials relative to the row's largest element.

Of a row x without its zero point, with M = max(0, largest x) and ShiftExp of 1.702·S:

    e = exp(M − x),  f = exp(M)             shifts; no more than n = 23 halvings, then cut off
    F = ⌊(2^31 − 1) / (e + f)⌋              a reciprocal of a few significant bits
    g = ⌊e·F / 2^24⌋                        sigmoid(1.702·x) in steps of 2^-7
    y = clamp(⌊(x·g·m + 2^(s−1)) / 2^s⌋ + zp)

The same x gives different results in different rows. A row without a positive element is taken as
if it had a zero, where the release raises e above its own peak. Steps of less than 0.004 get fewer
than 23 halvings, so that 32 bits hold the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from binpoint.ir.graph import Value
from binpoint.ir.kernel import KernelCall, Number, Work
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import IntArray, IntegerOp
from binpoint.numeric.fixed import TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.blocks import Block
from binpoint.ops.exponential import ShiftExp
from binpoint.ops.product import Product

NUMERATOR = 2**31 - 1
SIGMA_BITS = 8
DROP = 32 - SIGMA_BITS


@dataclass(frozen=True, slots=True)
class IntShiftGelu(IntegerOp):
    """The algorithm at the head of this file.

    Args:
        block: rows.
        terms: the exponential.
        zero: the operand's zero point.
        store: m, s and the type of y.
        notes: why onnxruntime's bytes are others.
    """

    stem: ClassVar[str] = "shiftgelu"

    block: Block
    terms: ShiftExp
    zero: int
    store: Product
    notes: tuple[str, ...] = ()

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's shape."""
        return (TensorType(inputs[0].shape, self.store.result),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """Of gates from none to all; proves every width."""
        x, most = inputs[0].interval - self.zero, NUMERATOR >> DROP
        assert 2 * self.terms.peak <= NUMERATOR, "the sum leaves 31 bits"
        self.store.prove()
        ends = np.array([[x.lo, x.hi], [x.lo * most, x.hi * most], [0, 0]], np.int64)
        low, high = min(0, int(ends[:2].min())), max(0, int(ends[:2].max()))
        return (Interval.of(self.store.stored(np.array([low, high], np.int64))),)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        x = self.block.view(inputs[0]) - self.zero
        most = np.maximum(x.max(axis=1, keepdims=True), 0)
        term = self.terms.terms(most - x)
        gate = term * (NUMERATOR // (term + self.terms.terms(most))) >> DROP
        return (self.store.stored(x * gate).reshape(inputs[0].shape),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Maximum, two exponentials, a division and three products."""
        x = w.sub(self.block.flat(w, inputs[0]), w.const(self.zero))
        most = w.maximum(w.reduce_max(x, 1, keep=True), w.const(0))
        apart = w.sub(most, x)
        apart = Tensor(apart.name, apart.shape, Interval(0, most.range.hi - min(0, x.range.lo)))
        term, start = self.terms.to_onnx(w, apart), self.terms.to_onnx(w, most)
        inverse = w.floor_divide(w.const(NUMERATOR), w.add(term, start))
        gate = w.floor_shift(w.mul(term, inverse), DROP)
        # A term is at most the sum.
        gate = Tensor(gate.name, gate.shape, Interval(0, NUMERATOR >> DROP))
        return (w.reshape(self.store.to_onnx(w, w.mul(x, gate)), inputs[0].shape),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Two passes over each row."""
        arguments = (
            *self.block.arguments(inputs[0], outputs[0]),
            *self.terms.numbers(),
            Number("zero", self.zero),
            *self.store.numbers(),
        )
        formula = "y = x * exp(x - max) / (exp(x - max) + exp(-max)), by shifts"
        return KernelCall(self.stem, arguments, (("terms", "shift"),), formula=formula)

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """Three products an element."""
        size = outputs[0].type.size
        return Work(macs=3 * size, loads=2 * size, stores=size, notes=self.notes)

    def in_place(self) -> tuple[int, ...]:
        """The largest of a row is found before its first result is stored."""
        return (0,)
