"""Arithmetic on two operands with numpy's broadcasting: Add, Sub, Mul, Div, Pow, Min, Max.

One real number as operand makes a function of the other one: `Scalar`, a table; or, for Min and
Max, a `Clip`. Else the kinds of `pairwise` are built here, in both semantics:

``DYADIC``       one rounding, by the multipliers of `pair_factors`.
``ONNXRUNTIME``  8-bit Add and Mul of one integer type are QLinearAdd and QLinearMul, as onnxruntime
                 fuses them; everything else is the chain of float32 operators it runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, assert_never

import numpy as np

from binpoint import ort
from binpoint.errors import NoIntegerForm
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import FloatArray, FloatOp, Permuted, Semantics, Site
from binpoint.numeric import float32
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I16, FixedType, FloatType, TensorType
from binpoint.ops.broadcast import Broadcast
from binpoint.ops.chain import Chain
from binpoint.ops.lookup import codes_of, convert, lookup, tabulate
from binpoint.ops.pair_factors import product_of, sum_of
from binpoint.ops.pairwise import IntMinMax, Pairwise
from binpoint.ops.runtime_pair import OnnxruntimeAdd, OnnxruntimeChain, OnnxruntimeMul
from binpoint.ops.shape import reshape_value
from binpoint.ops.unary import Clip

_POWER = "raise to a power by Exp and Log"


class Kind(StrEnum):
    """The operator, named as in ONNX."""

    ADD = "Add"
    SUB = "Sub"
    MUL = "Mul"
    DIV = "Div"
    POW = "Pow"

    def apply(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """The operator on arrays that numpy broadcasts."""
        with np.errstate(all="ignore"):
            match self:
                case Kind.ADD:
                    return a + b
                case Kind.SUB:
                    return a - b
                case Kind.MUL:
                    return a * b
                case Kind.DIV:
                    return a / b
                case Kind.POW:
                    return a**b
                case _:
                    assert_never(self)


@dataclass(frozen=True, slots=True)
class Scalar(FloatOp):
    """y = x ∘ number, or number ∘ x if `first`."""

    elementwise: ClassVar[bool] = True

    kind: Kind
    number: float
    first: bool = False

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's shape."""
        return (TensorType(inputs[0].shape, FloatType()),)

    def _apply(self, x: FloatArray) -> FloatArray:
        number = np.asarray(self.number, x.dtype)
        return self.kind.apply(number, x) if self.first else self.kind.apply(x, number)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """Numpy's operator."""
        return (self._apply(inputs[0]),)

    def runtime(self, x: FloatArray) -> FloatArray:
        """The operator as onnxruntime computes it, in float32."""
        operands = [x.astype(np.float32), np.array(self.number, np.float32)]
        (y,) = ort.evaluate(self.kind, operands[::-1] if self.first else operands)
        return y

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """A table of all codes."""
        x = build.integer(site.inputs[0])
        function = self.runtime
        if site.semantics is not Semantics.ONNXRUNTIME:
            function = self._wide
        return (tabulate(build, x, site.result, site.semantics, function, site.name),)

    def _wide(self, x: FloatArray) -> FloatArray:
        return self._apply(x.astype(np.float64))


@dataclass(frozen=True, slots=True)
class Binary(FloatOp):
    """y = a ∘ b, two operands that broadcast.

    A quotient is computed only where a pass makes it part of a formula: it has no integer form.
    A constant divisor is imported as its reciprocal, except into a model that comes quantized:
    there float32 rounds a quotient in its own way, and `fold-affine` decides.
    `swapped` tells that onnxruntime's QLinearAdd takes the operands in the other order, because the
    first is repeated along the innermost axis of the model's own layout; `apart` that it computes
    a sum or product of quantized operands in float32 and not by QLinearAdd or QLinearMul.
    """

    reads_wide: ClassVar[bool] = True
    onnx: ClassVar[tuple[str, ...]] = (
        *Kind,
        "com.microsoft.QLinearAdd",
        "com.microsoft.QLinearMul",
    )

    kind: Kind
    swapped: bool = False
    apart: bool = False

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """See `arithmetic`."""
        kind = Kind(node.proto.op_type.removeprefix("QLinear"))
        return (arithmetic(node, build, kind, node.operand(0), node.operand(1)),)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The broadcast shape."""
        return (TensorType(np.broadcast_shapes(*(v.shape for v in inputs)), FloatType()),)

    def permuted(self, order: tuple[int, ...], *inputs: Value) -> Permuted | None:
        """The same."""
        return Permuted(self, order)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """Numpy's operator."""
        return (self.kind.apply(*inputs),)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """A table if an operand is one code or both are one value, else a kind of `Pairwise`."""
        a, b = (_operand(v, site, build) for v in site.inputs)
        if self.swapped:
            a, b = b, a
        axes = Broadcast.of(a.shape, b.shape, site.name)
        op = self._pairwise(site, a, b, axes)
        narrow = max(v.elem.storage.width for v in (a, b)) <= 8
        for x, other in ((a, b), (b, a)):
            repeated = other.name == x.name or (other.constant is not None and other.type.size == 1)
            if narrow and repeated and x.shape == axes.shape and x.constant is None:
                return (_tabulated(build, op, x, a, b),)
        return (build.one(op, a, b),)

    def _pairwise(self, site: Site, a: Value, b: Value, axes: Broadcast) -> Pairwise:
        target = site.result
        if self.kind is Kind.DIV:
            raise NoIntegerForm(
                "a quotient of two computed values", at=site.name, hint="use Reciprocal and Mul"
            )
        if any(t.axis is not None for t in (a.elem, b.elem, target)):
            raise NoIntegerForm("an operand with a scale per channel", at=site.name)
        widest = max(t.storage.width for t in (a.elem, b.elem, target))
        if site.semantics is Semantics.ONNXRUNTIME and widest <= 8:
            return self._onnxruntime(target, a, b, axes)
        if self.kind is Kind.MUL:
            return product_of(site, a, b, axes)
        return sum_of(site, a, b, axes, -1 if self.kind is Kind.SUB else 1)

    def _onnxruntime(self, target: FixedType, a: Value, b: Value, axes: Broadcast) -> Pairwise:
        kinds = a.elem, b.elem, a.interval, b.interval
        storage = target.storage
        fused = {a.elem.storage, b.elem.storage, storage} == {storage} and not self.apart
        if fused and self.kind is Kind.ADD:
            return OnnxruntimeAdd(axes, *kinds, target, storage.min, storage.max)
        if fused and self.kind is Kind.MUL:
            return OnnxruntimeMul(axes, *kinds, target, storage.min, storage.max)
        chain = Chain(self.kind.lower())
        return OnnxruntimeChain(axes, *kinds, target, storage.min, storage.max, kind=chain)


@dataclass(frozen=True, slots=True)
class MinMax(FloatOp):
    """y = min(a, b) or max(a, b), two operands that broadcast; more are taken in turn."""

    onnx: ClassVar[tuple[str, ...]] = ("Min", "Max")

    largest: bool

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """One real number as operand makes a `Clip`."""
        largest = node.proto.op_type == "Max"
        result = node.operand(0)
        for index in range(1, len(node.inputs)):
            result = cls._two(node, build, result, node.operand(index), largest)
        return (result,)

    @classmethod
    def _two(cls, node: OnnxNode, build: GraphBuilder, a: Value, b: Value, largest: bool) -> Value:
        shape = _broadcast(node, a, b)
        for number, other in ((a, b), (b, a)):
            if not is_number(number) or is_number(other):
                continue
            bound = float(constant_array(number).reshape(()))
            clip = Clip(bound, None) if largest else Clip(None, bound)
            return build.one(clip, reshape_value(build, other, shape))
        a, b = (reshape_value(build, v, _padded(v.shape, len(shape))) for v in (a, b))
        return build.one(cls(largest), a, b)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The broadcast shape."""
        return (TensorType(np.broadcast_shapes(*(v.shape for v in inputs)), FloatType()),)

    def permuted(self, order: tuple[int, ...], *inputs: Value) -> Permuted | None:
        """The same."""
        return Permuted(self, order)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """Numpy's extreme."""
        return (np.maximum(*inputs) if self.largest else np.minimum(*inputs),)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """Both operands brought to the result's type, then an exact extreme.

        Quantizing is monotone, so the extreme of quantized operands is the quantized extreme.
        """
        target = site.results[0] or site.inputs[0].elem
        a, b = (converted(v, target, site, build) for v in site.inputs)
        axes = Broadcast.of(a.shape, b.shape, site.name)
        return (build.one(IntMinMax(axes, self.largest, target), a, b),)


def converted(v: Value, target: FixedType, site: Site, build: GraphBuilder) -> Value:
    """An operand in type `target`; a constant is converted at once."""
    if v.constant is None:
        return convert(build, v, target, site.semantics)
    real = constant_array(v)
    if site.semantics is not Semantics.ONNXRUNTIME:
        return build.constant(target.quantize(real), target)
    low, high = target.storage.min, target.storage.max
    scale, zero = float(target.scale), target.zero_point
    return build.constant(float32.quantize_linear(real, scale, zero, low, high), target)


def arithmetic(node: OnnxNode, build: GraphBuilder, kind: Kind, a: Value, b: Value) -> Value:
    """A ∘ b as the node asks for it; operands get the rank of the result.

    One real number as operand makes a `Scalar`.
    """
    shape = _broadcast(node, a, b)
    for number, other, first in ((a, b, True), (b, a, False)):
        if is_number(number) and not is_number(other):
            x = reshape_value(build, other, shape)
            return build.one(Scalar(kind, float(constant_array(number).reshape(())), first), x)
    if kind is Kind.DIV and b.constant is not None and b.fixed is None:
        if not constant_array(b).all():
            node.refuse("division by zero", hint="the divisor is a constant with a zero in it")
        if not build.graph.quantized:
            kind, b = Kind.MUL, reciprocal(build, b)
    if kind is Kind.POW:
        node.refuse("the second operand is computed, or not one number", hint=_POWER)
    swapped = kind is Kind.ADD and float32.add_swaps(a.shape, b.shape)
    a, b = (reshape_value(build, v, _padded(v.shape, len(shape))) for v in (a, b))
    return build.one(Binary(kind, swapped), a, b)


def is_number(value: Value) -> bool:
    """Whether a value is one real number, known now."""
    return value.constant is not None and value.fixed is None and value.type.size == 1


def _broadcast(node: OnnxNode, a: Value, b: Value) -> tuple[int, ...]:
    try:
        return tuple(np.broadcast_shapes(a.shape, b.shape))
    except ValueError:
        node.refuse(f"operands of shapes {list(a.shape)} and {list(b.shape)} do not broadcast")


def _padded(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    return (1,) * (rank - len(shape)) + shape


def reciprocal(build: GraphBuilder, b: Value) -> Value:
    """1 / b of a real constant without zeros, in float32."""
    array = constant_array(b).astype(np.float64)
    return build.constant((1 / array).astype(np.float32), hint=f"{b.name}_reciprocal")


def _operand(value: Value, site: Site, build: GraphBuilder) -> Value:
    """An operand of an integer op; a real constant gets a symmetric 16-bit type in DYADIC."""
    if value.constant is None or value.fixed is not None:
        return build.integer(value)
    if site.semantics is Semantics.ONNXRUNTIME or not isinstance(value.type.elem, FloatType):
        return _typed(value, site)
    real = value.constant.array.astype(np.float64)
    top = float(np.abs(real).max(initial=0.0))
    if not math.isfinite(top):
        raise NoIntegerForm("a constant that is not finite", at=site.name)
    kind = FixedType.per_tensor(I16, Dyadic.from_float(top / I16.max or 1.0))
    return build.constant(kind.quantize(real), kind)


def _typed(value: Value, site: Site) -> Value:
    if isinstance(value.type.elem, FloatType):
        raise NoIntegerForm(
            "a real constant with more than one element beside quantized values",
            at=site.name,
            hint="quantize the constant too, or fold it into the layer before",
        )
    return value


def _tabulated(build: GraphBuilder, op: Pairwise, x: Value, a: Value, b: Value) -> Value:
    """The op as a function of `x` alone: its other operand is `x` too, or one code."""
    codes = codes_of(x.elem.storage)
    left, right = (
        codes if v.constant is None else v.constant.array.astype(np.int64).reshape(-1)
        for v in (a, b)
    )
    return lookup(build, x, op.codes(left, right), op.result)
