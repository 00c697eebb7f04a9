"""Softmax over one axis, by a table of exponentials.

By other methods see `shares`; for shares that are powers of two, `logshares`.

``DYADIC``       t[d] = round(exp(−d·sx)·2^b) for the distance d of an element from the largest,
                 S = Σ t in 32 bits, y = floor((256·t + ⌊S/2⌋) / S) + zp steps of 2^-8, saturated.
                 With n elements b = min(23, 32 − bits of n), and y is within 0.5 + 128·(n + 1)/2^b
                 steps of the true share: 0.502 for n ≤ 128. In steps of another size, of which
                 F·2^-k make one, y = floor((F·t + ⌊S·2^k/2⌋) / (S·2^k)) + zp: rounded once as well.
``ONNXRUNTIME``  where operand and result have one 8-bit integer type QLinearSoftmax, as
                 `float32.qlinear_softmax` defines it: a table of float32, their sequential
                 float32 sum, and the exactly rounded quotient, all carried out on integers. Else
                 onnxruntime itself computes in float, where the order of a sum depends on the
                 machine: then as ``DYADIC``, and noted.

A masked element (`distances`) has the share zero exactly, in both semantics.

Results are of scale 2^-8 with the smallest code for zero, unless the model states another type.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from binpoint.errors import NoIntegerForm
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Value
from binpoint.ir.kernel import Buffer, KernelCall, Number, Work
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import FloatArray, FloatOp, IntArray, IntegerOp, Permuted, Role, Semantics, Site
from binpoint.numeric import float32
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, I16, I32, U8, FixedType, FloatType, IntType, TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.blocks import Block
from binpoint.ops.distances import CODES, beyond, eight_bits, exponentials, masked, summed
from binpoint.ops.exponential import Exponential, PolynomialExp, ShiftExp
from binpoint.ops.logshares import LOG2, LOG_SQRT2, POWERS, Base, powers
from binpoint.ops.lookup import convert
from binpoint.ops.methods import Method
from binpoint.ops.shape import reshape_value
from binpoint.ops.shares import IntShares, Reciprocal, Rounded

_OTHER = "softmax by {}: an approximation, which onnxruntime does not compute"
_NOTE = "softmax in float: onnxruntime adds in float32 and may differ by one in rare cases"
_STEPS = 256
_MOST_BITS = 23
_FINEST = 2**16
_WIDEST = 16
_BITS = IntType(32, signed=False)
_LARGEST_FACTOR = 2**27
_NORMAL = 0x00800000
"""The bits of the least normal float32."""
_LARGEST_SHIFT = 30
_PRECISION = 24
_EXACT = 30
_LARGEST_SUM = 2**31
_RELEASED = FixedType.per_tensor(I16, Dyadic(1, -15))
SHIFTMAX_BITS = 15
"""Halvings of I-ViT's Shiftmax."""
_BASES: Mapping[Method, Base] = MappingProxyType({Method.LOG2: LOG2, Method.LOG_SQRT2: LOG_SQRT2})


def share_type(storage: IntType) -> FixedType:
    """Steps of 2^-8 from the smallest code, of eight bits."""
    eight = I8 if storage.signed else U8
    return FixedType.per_tensor(eight, Dyadic(1, -8), eight.min)


@dataclass(frozen=True, slots=True)
class Softmax(FloatOp):
    """y = exp(x) / Σ exp(x) over `axis`; a second operand of ones and zeros says what is kept.

    What is not kept has no share, and in integers exactly none.
    """

    onnx: ClassVar[tuple[str, ...]] = ("Softmax", "com.microsoft.QLinearSoftmax")

    axis: int
    method: Method = Method.TABLE

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """Before opset 13 over all axes from `axis` on, as one."""
        x = node.operand(0)
        rank = len(x.shape)
        quantized = "QLinear" in node.op
        flat = (node.int("opset", 13) if quantized else node.opset) < 13
        axis = node.int("axis", 1 if flat and not quantized else -1)
        if not -rank <= axis < rank:
            node.refuse(f"axis {axis} is outside rank {rank}")
        axis %= rank
        if flat and math.prod(x.shape[axis:]) != x.shape[axis]:
            rows = math.prod(x.shape[:axis]), math.prod(x.shape[axis:])
            y = build.one(cls(1), reshape_value(build, x, rows))
            return (reshape_value(build, y, x.shape),)
        return build.add(cls(axis), x)

    def roles(self, count: int) -> tuple[Role, ...]:
        """Data, and what of it is kept."""
        return (Role.ACTIVATION, Role.PARAMETER)[:count]

    def permuted(self, order: tuple[int, ...], *inputs: Value) -> Permuted | None:
        """The same over the axis where it is then; a mask keeps the axes in place."""
        if len(inputs) > 1:
            return None
        return Permuted(replace(self, axis=order.index(self.axis)), order)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's shape."""
        return (TensorType(inputs[0].shape, FloatType()),)

    def result_type(self, *inputs: FixedType | None) -> FixedType | None:
        """Steps of 2^-8, signed as the operand; 15 bits as released by I-ViT."""
        x = inputs[0]
        if self.method is Method.SHIFT_RELEASED:
            return _RELEASED
        if self.own_rounding:
            return POWERS
        return share_type(U8 if x is None else x.storage)

    @property
    def own_rounding(self) -> bool:
        """Whether shares are powers of two, or of its root."""
        return self.method in _BASES

    def rounded(self, *results: FloatArray) -> tuple[FloatArray, ...]:
        """The nearest of 15 powers by their logarithm, or zero."""
        base = _BASES.get(self.method)
        return results if base is None else tuple(base.nearest(y) for y in results)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """With the largest element taken off."""
        x = inputs[0].astype(np.float64)
        for keep in inputs[1:]:
            x = np.where(keep != 0, x, -np.inf)
        raised = np.exp(x - x.max(axis=self.axis, keepdims=True))
        share = raised / raised.sum(axis=self.axis, keepdims=True)
        return (share.astype(inputs[0].dtype),)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """A composite op that reads a table, or computes its exponentials."""
        x = build.integer(site.inputs[0])
        if self.own_rounding:
            return (self._powers(site, build, x),)
        if self.method is not Method.TABLE:
            return (self._shares(site, build, x),)
        eight_bits(x, site.name)
        block = replace(Block.of(x.shape, (self.axis,)), shape=x.shape)
        target = site.results[0] or share_type(x.elem.storage)
        runtime = site.semantics is Semantics.ONNXRUNTIME
        with_mask = len(site.inputs) > 1
        if runtime and not with_mask and _is_quantized(x.elem, target):
            return (_quantized(site, build, x, block, target),)
        table = exponentials(float(x.elem.scale), block.n, _bits(block.n), site.name)
        if with_mask:
            x = masked(build, x, constant_array(site.inputs[1]), site.name)
            table = beyond(table)
        kind = FixedType.per_tensor(I32, Dyadic(1, -_bits(block.n)))
        entries = build.constant(table, kind, hint=f"{site.name}_table")
        precision = _EXACT if site.semantics is Semantics.RATIONAL else _PRECISION
        factor, shift = _steps(target, site.name, precision)
        op = IntSoftmax(block, target, factor, shift, (_NOTE,) if runtime else ())
        return (build.one(op, x, entries),)

    def _powers(self, site: Site, build: GraphBuilder, x: Value) -> Value:
        """Codes of powers, and what they stand for."""
        eight_bits(x, site.name)
        keep = constant_array(site.inputs[1]) if len(site.inputs) > 1 else None
        block = replace(Block.of(x.shape, (self.axis,)), shape=x.shape)
        target = site.results[0] or POWERS
        return powers(build, x, block, _BASES[self.method], target, keep, site.name)

    def _shares(self, site: Site, build: GraphBuilder, x: Value) -> Value:
        """By shifts or a polynomial; as released its own 15-bit result is rescaled if need be."""
        if x.elem.storage.width > _WIDEST or x.elem.axis is not None:
            raise NoIntegerForm(f"softmax of {x.elem} by {self.method}", at=site.name)
        if len(site.inputs) > 1:
            raise NoIntegerForm(
                f"a masked softmax by {self.method}, whose terms are never zero",
                at=site.name,
                hint="leave masked softmaxes to the method `table`",
            )
        block = replace(Block.of(x.shape, (self.axis,)), shape=x.shape)
        target = site.results[0] or self.result_type(x.elem)
        assert target is not None
        scale, notes = float(x.elem.scale), (_OTHER.format(self.method),)
        if self.method is Method.SHIFT_RELEASED:
            terms = ShiftExp.of(scale, SHIFTMAX_BITS, (2**31 - 1) // block.n, site.name)
            op = IntShares(block, terms, Reciprocal(2**31 - 1, 16), _RELEASED, notes)
            return convert(build, build.one(op, x), target, site.semantics)
        rounded = Rounded(*_steps(target, site.name))
        if self.method is Method.POLYNOMIAL:
            terms: Exponential = PolynomialExp.of(scale, site.name)
            if terms.peak * block.n >= _LARGEST_SUM:
                raise NoIntegerForm(f"softmax over {block.n} elements", at=site.name)
        else:
            top = _LARGEST_SUM // max(block.n, 2 * _STEPS)
            terms = ShiftExp.of(scale, SHIFTMAX_BITS, top, site.name)
        return build.one(IntShares(block, terms, rounded, target, notes), x)


def _bits(count: int) -> int:
    return min(_MOST_BITS, 32 - count.bit_length())


def _steps(target: FixedType, where: str, precision: int = _PRECISION) -> tuple[int, int]:
    """``(F, k)``: the share 1 has F·2^-k steps, to so many bits."""
    if target.axis is not None:
        raise NoIntegerForm("a result with a scale per channel", at=where)
    if target.storage.width > _WIDEST:
        raise NoIntegerForm(
            f"a softmax with {target.storage.width}-bit results", at=where, want=f"{_WIDEST} bits"
        )
    steps = 1 / target.scale.as_fraction()
    if steps > _FINEST:
        raise NoIntegerForm(
            "a softmax in steps below 2^-16", at=where, have=str(target), hint="a larger scale"
        )
    for shift in range(_LARGEST_SHIFT):
        factor = round(steps * 2**shift)
        if abs(factor - steps * 2**shift) * 2**precision <= factor:
            return factor, shift
    return round(steps * 2**_LARGEST_SHIFT), _LARGEST_SHIFT


def _is_quantized(x: FixedType, target: FixedType) -> bool:
    """Whether onnxruntime fuses it into QLinearSoftmax, and its factor fits."""
    factor = int(float32.softmax_factor(float(target.scale)))
    return target.storage == x.storage and factor < _LARGEST_FACTOR


def _quantized(site: Site, build: GraphBuilder, x: Value, block: Block, target: FixedType) -> Value:
    """QLinearSoftmax with its table of bit patterns."""
    terms = float32.softmax_table(float(x.elem.scale), block.n)
    kind = FixedType.per_tensor(_BITS, Dyadic.one())
    table = build.constant(terms.view(np.uint32).astype(np.int64), kind, hint=f"{site.name}_table")
    return build.one(OnnxruntimeSoftmax(block, x.elem, target), x, table)


def _arguments(block: Block, inputs: Sequence[Value], y: Value) -> tuple[Buffer | Number, ...]:
    x, table = inputs
    return (*block.arguments(x, y), Buffer("table", table.name, table.elem.storage))


@dataclass(frozen=True, slots=True)
class IntSoftmax(IntegerOp):
    """y = clamp(floor((F·t + ⌊S·2^k/2⌋) / (S·2^k)) + zp), t = table[max − x], S = Σ t of a block.

    Args:
        block: the sets over which elements are added.
        result: type of the shares.
        factor: F.
        shift: k.
        notes: why onnxruntime's bytes may be others.
    """

    stem: ClassVar[str] = "softmax"

    block: Block
    result: FixedType
    factor: int = _STEPS
    shift: int = 0
    notes: tuple[str, ...] = ()

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's shape."""
        x, table = inputs[0], inputs[1]
        assert table.shape in ((CODES,), (2 * CODES,)), "the table does not fit"
        reach = x.interval.hi - x.interval.lo
        assert reach < table.type.size, "a distance is not in the table"
        return (TensorType(self.block.shape, self.result),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """From no share to all; the sum is proved to fit 32 bits, what is divided 63."""
        top, storage = inputs[1].interval.hi, self.result.storage
        assert top * max(self.block.n, _STEPS) < 2**32, "the sum leaves 32 bits"
        assert top * self.factor + (top * self.block.n << self.shift) < 2**63, "it leaves 63 bits"
        whole = (self.factor + (1 << self.shift >> 1)) >> self.shift
        zero = self.result.zero_point
        return (Interval(zero, zero + whole).clamp(storage.min, storage.max),)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        x, table, storage = self.block.view(inputs[0]), inputs[1], self.result.storage
        terms = table[x.max(axis=1, keepdims=True) - x]
        total = terms.sum(axis=1, keepdims=True) << self.shift
        share = (terms * self.factor + total // 2) // total + self.result.zero_point
        return (np.clip(share, storage.min, storage.max).reshape(self.block.shape),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Maximum, table, sum, rounded division."""
        terms, total = summed(w, self.block.flat(w, inputs[0]), inputs[1])
        total = w.mul(total, w.const(1 << self.shift))
        top = w.add(w.mul(terms, w.const(self.factor)), w.floor_shift(total, 1))
        share = w.add(w.floor_divide(top, total), w.const(self.result.zero_point))
        storage = self.result.storage
        return (w.reshape(w.clamp(share, storage.min, storage.max), self.block.shape),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """A loop over each set."""
        narrow = (self.factor, self.shift) == (_STEPS, 0)
        steps = (
            ()
            if narrow
            else (
                Number("factor", self.factor, "uint32_t"),
                Number("shift", self.shift, "uint32_t"),
            )
        )
        arguments = (
            *_arguments(self.block, inputs, outputs[0]),
            *steps,
            Number("zero", self.result.zero_point),
            Number("hi", self.result.storage.max),
        )
        whole = str(self.factor) if narrow else f"({self.factor} / 2^{self.shift})"
        formula = f"y = exp(x - max) * {whole} / sum(exp(x - max)), by table"
        form = "table" if narrow else "wide"
        return KernelCall(self.stem, arguments, (("form", form),), formula=formula)

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """Three passes over the operand, two of them with lookups."""
        size = outputs[0].type.size
        return Work(loads=3 * size, lookups=len(inputs) * size, stores=size, notes=self.notes)

    def in_place(self) -> tuple[int, ...]:
        """A set is added first, and each element is read before its share is stored."""
        return (0,)


@dataclass(frozen=True, slots=True)
class OnnxruntimeSoftmax(IntegerOp):
    """QLinearSoftmax: `float32.qlinear_softmax` along the block's middle axis."""

    stem: ClassVar[str] = "softmax"

    block: Block
    x: FixedType
    result: FixedType

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's shape."""
        assert inputs[0].elem == self.x, f"{inputs[0].elem} for {self.x}"
        return (TensorType(self.block.shape, self.result),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """All codes."""
        return (Interval.of_type(self.result.storage),)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        rows = np.moveaxis(self.block.view(inputs[0]), 1, 2)
        y, storage = self.result, self.result.storage
        kinds = float(self.x.scale), float(y.scale), y.zero_point
        share = float32.qlinear_softmax(rows, *kinds, storage.min, storage.max)
        return (np.moveaxis(share, 2, 1).reshape(self.block.shape),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The operator itself."""
        flat = self.block.flat(w, inputs[0])
        parameters = [
            np.array(value, kind)
            for t in (self.x, self.result)
            for value, kind in ((float(t.scale), np.float32), (t.zero_point, t.storage.dtype))
        ]
        operands = [(flat, self.x.storage), *parameters]
        storage = self.result.storage
        y = w.quantized("QLinearSoftmax", operands, flat.shape, storage, axis=1, opset=13)
        return (w.reshape(y, self.block.shape),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """A loop over each set, float32 carried out on integers."""
        factor = int(float32.softmax_factor(float(self.result.scale)))
        arguments = (
            *_arguments(self.block, inputs, outputs[0]),
            Number("factor", factor),
            Number("zero", self.result.zero_point),
            Number("lo", self.result.storage.min),
            Number("hi", self.result.storage.max),
        )
        product = "_wide" if factor > CODES else ""
        table = inputs[1].constant
        assert table is not None
        normal = ((table.array == 0) | (table.array >= _NORMAL)).all()
        terms = ("terms", "normal" if normal else "positive")
        traits = (("form", "float"), terms, ("product", product), ("softfloat", "softfloat"))
        return KernelCall(self.stem, arguments, traits, formula="y = QLinearSoftmax(x)")

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """Three passes over the operand, two of them with lookups."""
        size = outputs[0].type.size
        return Work(loads=3 * size, lookups=len(inputs) * size, stores=size)

    def in_place(self) -> tuple[int, ...]:
        """A set is added first, and each element is read before its share is stored."""
        return (0,)
