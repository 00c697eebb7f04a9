"""Softmax whose shares are powers of two: 4-bit codes, and matrix products that are shifts.

Codes are those of FQ-ViT (Lin et al., IJCAI 2022) and, to the base of the root of two, of RepQ-ViT
(Li et al., ICCV 2023): q = clip(round(−log_r(p)), 0, 15) of a share p. The last one, shares up to
r^-14.5 and of masked elements, stands for none at all.

With the terms t of `distances` and their sum S in a row, −log_r(p) rounds to q or more where
t·r^(q−½) ≤ S. Whole powers of two are shifts of a mark M = ⌊S·c⌋:

    base 2    t ≤ M >> q,                       c = √2
    root of 2 t ≤ Mᵢ >> ⌊q/2⌋, i = q mod 2,     c₀ = 2^(1/4), c₁ = 2^(−1/4)

so the code is the number of q from 1 to 15 for which that holds. c has 31 bits after the point.
Terms are of so many bits that S fits 31.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from binpoint.errors import NoIntegerForm
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.kernel import Buffer, KernelCall, Number, Work
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import FloatArray, IntArray, IntegerOp
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I16, I32, FixedType, IntType, TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.blocks import Block
from binpoint.ops.dense import matmul_arguments, matmul_work
from binpoint.ops.distances import CODES, beyond, exponentials, masked, summed
from binpoint.ops.lookup import lookup

NONE = 15
"""The code of no share, and the largest."""
TOP = NONE - 1
"""Halvings from the whole to the least share."""
WHOLE = math.isqrt(2 << 2 * TOP)
"""What the powers of a row add up to at most, in units of 2^-14; see `IntShiftMatMul`."""
MARK_BITS = 31
_SUM_BITS = 31
_MOST_BITS = 23
_LEAST = 2**20
_LONGEST = 2**11 - 1
CODE = FixedType.per_tensor(IntType(4, signed=False), Dyadic.one())
"""The type of codes: exponents."""
POWERS = FixedType.per_tensor(I16, Dyadic(1, -TOP))
"""A type that holds all powers of two exactly."""


@dataclass(frozen=True, slots=True)
class Base:
    """A base r = 2^(1/`parts`) of logarithms.

    Attributes:
        name: of it.
        parts: steps to a halving, one or two.
    """

    name: str
    parts: int

    @property
    def marks(self) -> tuple[int, ...]:
        """The factors c in units of 2^-31: of codes q with q mod `parts` = 0, 1, …."""
        # Code q begins where t·2^⌊q/parts⌋ = S·c.
        exponents = (0.5 / self.parts - i / self.parts for i in range(self.parts))
        return tuple(math.floor(2.0 ** (MARK_BITS + e)) for e in exponents)

    def values(self) -> FloatArray:
        """What codes stand for."""
        real = 2.0 ** (-np.arange(NONE + 1) / self.parts)
        real[NONE] = 0.0
        return real

    def nearest(self, share: FloatArray) -> FloatArray:
        """Real shares as codes give them back."""
        with np.errstate(divide="ignore"):
            code = np.rint(-np.log2(share.astype(np.float64)) * self.parts)
        return self.values()[np.clip(code, 0, NONE).astype(np.int64)].astype(share.dtype)


LOG2 = Base("log2", 1)
LOG_SQRT2 = Base("log-sqrt2", 2)


def powers(
    build: GraphBuilder,
    x: Value,
    block: Block,
    base: Base,
    target: FixedType,
    keep: FloatArray | None,
    where: str,
) -> Value:
    """Codes of the shares of 8-bit `x`, and by a table what they stand for in a type.

    Args:
        build: where they are added.
        x: operand.
        block: its rows.
        base: of the logarithms.
        target: type of the result.
        keep: ones and zeros that say which elements count; None: all.
        where: for messages and names.

    Raises:
        NoIntegerForm: rows are too long.
    """
    bits = _bits(block.n, where)
    table = exponentials(float(x.elem.scale), block.n, bits, where)
    if keep is not None:
        x, table = masked(build, x, keep, where), beyond(table)
    kind = FixedType.per_tensor(I32, Dyadic(1, -bits))
    entries = build.constant(table, kind, hint=f"{where}_table")
    codes = build.one(IntLogShares(block, base), x, entries)
    return lookup(build, codes, target.quantize(base.values()), target)


def _bits(count: int, where: str) -> int:
    """Of terms, so that the sum fits.

    Raises:
        NoIntegerForm: too few are left.
    """
    if count > _LONGEST:
        raise NoIntegerForm(
            f"softmax over {count} elements by powers of two", at=where, want=f"at most {_LONGEST}"
        )
    return min(_MOST_BITS, _SUM_BITS - count.bit_length())


@dataclass(frozen=True, slots=True)
class IntLogShares(IntegerOp):
    """y = the number of q from 1 to 15 with t ≤ ⌊S·c[q mod parts]·2^-31⌋ >> ⌊q / parts⌋.

    t = table[max − x], S = Σ t of a block, as the head of this file defines them.

    Args:
        block: the sets over which elements are added.
        base: of the logarithms.
    """

    stem: ClassVar[str] = "logshares"

    block: Block
    base: Base

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's shape."""
        x, table = inputs
        assert table.shape in ((CODES,), (2 * CODES,)), "the table does not fit"
        reach = x.interval.hi - x.interval.lo
        assert reach < table.type.size, "a distance is not in the table"
        return (TensorType(self.block.shape, CODE),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """All codes, but for shares that are the whole; proves every width."""
        top = inputs[1].interval.hi
        assert top >= _LEAST, "the terms are too coarse"
        assert top * self.block.n < 1 << _SUM_BITS, "the sum leaves 31 bits"
        return (Interval(0, 0 if self.block.n == 1 else NONE),)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        x, table = self.block.view(inputs[0]), inputs[1]
        terms = table[x.max(axis=1, keepdims=True) - x]
        total, parts = terms.sum(axis=1, keepdims=True), self.base.parts
        marks = [total * c >> MARK_BITS for c in self.base.marks]
        code = np.zeros_like(terms)
        for q in range(1, NONE + 1):
            code += terms <= marks[q % parts] >> q // parts
        return (code.reshape(self.block.shape),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Maximum, table, sum, marks, and fifteen comparisons."""
        terms, total = summed(w, self.block.flat(w, inputs[0]), inputs[1])
        parts, one, none = self.base.parts, w.const(1), w.const(0)
        marks = [w.floor_shift(w.mul(total, w.const(c)), MARK_BITS) for c in self.base.marks]
        code = none
        for q in range(1, NONE + 1):
            mark = w.floor_shift(marks[q % parts], q // parts)
            code = w.add(code, w.select(terms, "Greater", mark, none, one))
        return (w.reshape(code, self.block.shape),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Three passes over each set."""
        x, table = inputs
        marks = self.base.marks
        arguments = (
            *self.block.arguments(x, outputs[0]),
            Buffer("table", table.name, table.elem.storage),
            *(Number(f"mark{i}", c, "uint32_t") for i, c in enumerate(marks)),
        )
        formula = f"y = round(-log(exp(x - max) / sum(exp(x - max)))), by {self.base.name}"
        return KernelCall(self.stem, arguments, (("base", self.base.name),), formula=formula)

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """Three passes over the operand, two of them with lookups."""
        size = outputs[0].type.size
        return Work(loads=3 * size, lookups=2 * size, stores=size)

    def in_place(self) -> tuple[int, ...]:
        """A set is added first, and each element is read before its code is stored."""
        return (0,)


@dataclass(frozen=True, slots=True)
class IntShiftMatMul(IntegerOp):
    """acc[…, m, n] = Σ_k (b[…, k, n] − zb)·2^(14 − a[…, m, k]), without the k of code 15.

    So it is the matrix product with the powers of two that codes of `LOG2` stand for. Rows of a are
    those of a softmax. A term of code q < 15 has t·2^(q+1) > M, hence a row's powers add up to less
    than 2·S/M, where M > S·√2 − 2: less than √2·(1 + 2^-19), as S ≥ 2^20, and in units of 2^-14 at
    most ⌊2^14·√2⌋ = 23170.
    """

    stem: ClassVar[str] = "shift_matmul"
    accumulates: ClassVar[bool] = True

    zero_b: int
    result: FixedType

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """``[…, M, N]`` of the accumulator's type."""
        a, b = inputs
        assert a.elem == CODE, f"{a.elem} is no code"
        return (TensorType((*a.shape[:-1], b.shape[-1]), self.result),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """The whole of a row on one element."""
        return (Interval(0, WHOLE) * (inputs[1].interval - self.zero_b),)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        a, b = inputs
        weights = _weights()[a].astype(np.float64)
        return ((weights @ (b - self.zero_b).astype(np.float64)).astype(np.int64),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """A table of powers, and MatMul."""
        a, b = inputs
        x, y = w.lookup(_weights(), a), w.sub(b, w.const(self.zero_b))
        return (w.matmul(x, y, Interval(0, WHOLE) * y.range),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Batches by rows by columns by depth."""
        arguments = (*matmul_arguments(*inputs, *outputs), Number("zero_b", self.zero_b))
        formula = f"acc = sum((b - {self.zero_b}) << ({TOP} - a)), without a = {NONE}"
        return KernelCall(self.stem, arguments, (("b", ""),), formula=formula)

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """One shift and addition per element of depth."""
        return matmul_work(*inputs, *outputs)


def _weights() -> IntArray:
    """Powers of two by code, in units of 2^-14."""
    return POWERS.quantize(LOG2.values())


def is_shift(entries: IntArray) -> bool:
    """Whether a table of codes says what `IntShiftMatMul` takes them for."""
    return bool(np.array_equal(entries, _weights()))
