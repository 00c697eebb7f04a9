"""GELU and SiLU without a table: y = x·g(x), the gate g by shifts or a polynomial.

``SHIFT``           ShiftGELU of I-ViT (ICCV 2023), x·sigmoid(1.702·x); SiLU x·sigmoid(x). With
                    the exponential t of |x| by shifts, h = t / (t + peak), rounded to 15 bits, is
                    the gate where x < 0, and 1 − h elsewhere. As released exponentials are
                    relative to the row's largest element, and the division is rounded down; see
                    `rowgate`. Here the reference is the larger of x and 0: the result depends on
                    the element alone, and no exponent is cut off however long the row's span.
``POLYNOMIAL``      i-GELU of I-BERT (ICML 2021), 1 + erf(x/√2) with erf(a) taken for
                    sign(a)·(1 − 0.2888·(min(|a|, 1.769) − 1.769)²); SiLU by its exponential.

The product x·g is exact; y = clamp(⌊(x·g·m + 2^(s−1)) / 2^s⌋ + zp). Both forms of GELU, by erf
and by tanh, have the same approximation, which is within 0.021 of either by shifts (beside what
ShiftExp adds) and within 0.019 by the polynomial.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

import numpy as np

from binpoint.errors import NoIntegerForm
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.kernel import Buffer, KernelCall, Number, Work
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import FloatArray, FloatOp, IntArray, IntegerOp, Permuted, Semantics, Site
from binpoint.numeric.fixed import FloatType, TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.blocks import Block
from binpoint.ops.exponential import Exponential, PolynomialExp, ShiftExp
from binpoint.ops.methods import Method
from binpoint.ops.product import Product
from binpoint.ops.rowgate import SIGMA_BITS, IntShiftGelu
from binpoint.ops.unary import FUNCTIONS

GatedKind = Literal["gelu", "gelu-tanh", "silu"]
KINDS: tuple[GatedKind, ...] = ("gelu", "gelu-tanh", "silu")
_WIDEST = 16
_ONE = 2**15
_NARROW = 2**32
_FACTOR = 1.702
_SHARP, _KNEE = 0.2888, 1.769
_FINE_BITS, _COARSE_BITS = 11, 15
_HALVINGS = 23
_OTHER = "{} by {}: an approximation, which onnxruntime does not compute"


@dataclass(frozen=True, slots=True)
class Gated(FloatOp):
    """y = factor·x·g(x): GELU by erf or tanh, or SiLU, computed by a method other than a table.

    Args:
        kind: ``gelu``, ``gelu-tanh`` or ``silu``.
        method: as named in the papers.
        factor: positive; 2 where the half of GELU went into the weights behind it.
    """

    kind: GatedKind
    method: Method
    factor: float = 1.0

    def permuted(self, order: tuple[int, ...], *inputs: Value) -> Permuted | None:
        """Itself, unless it looks at rows."""
        return None if self.method is Method.SHIFT_RELEASED else Permuted(self, order)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's shape."""
        return (TensorType(inputs[0].shape, FloatType()),)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """The function itself."""
        x = inputs[0].astype(np.float64)
        return ((self.factor * gated(self.kind, x)).astype(inputs[0].dtype),)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """One op."""
        x = build.integer(site.inputs[0])
        if x.elem.storage.width > _WIDEST or x.elem.axis is not None:
            raise NoIntegerForm(f"{self.kind} of {x.elem} by {self.method}", at=site.name)
        scale, where = float(x.elem.scale), site.name
        runtime = site.semantics is Semantics.ONNXRUNTIME
        notes = (_OTHER.format(self.kind, self.method),) if runtime else ()
        fine = 1.0 if self.kind == "silu" else _FACTOR
        if self.method is Method.SHIFT_RELEASED:
            terms = ShiftExp.of(fine * scale, _HALVINGS, 2**30 - 1, where)
            unit = Fraction(self.factor) / (1 << (SIGMA_BITS - 1))
            store = Product.to(site, x, unit)
            block = Block.of(x.shape, (len(x.shape) - 1,)) if x.shape else Block(1, 1, 1, ())
            block = Block(block.outer, block.n, block.inner, x.shape)
            op = IntShiftGelu(block, terms, x.elem.zero_point, store, notes)
            return (build.one(op, x),)
        gate, unit = _gate(self.method, self.kind, x, fine, where)
        store = Product.to(site, x, unit * Fraction(self.factor))
        return (build.one(IntGated(gate, x.elem.zero_point, store, notes), x),)


def gated(kind: GatedKind, x: FloatArray) -> FloatArray:
    """GELU by erf or tanh, or SiLU, in float64."""
    if kind == "silu":
        return x * np.asarray(FUNCTIONS["Sigmoid"](x))
    approximate = "tanh" if kind == "gelu-tanh" else "none"
    return np.asarray(FUNCTIONS["Gelu"](x, approximate=approximate))


def _gate(
    method: Method, kind: GatedKind, x: Value, fine: float, where: str
) -> tuple[Gate, Fraction]:
    """The gate and its unit."""
    scale = float(x.elem.scale)
    if method is Method.SHIFT:
        terms = ShiftExp.of(fine * scale, _COARSE_BITS, _ONE * 2, where)
        if terms.bits < _FINE_BITS:
            terms = ShiftExp.of(fine * scale, _COARSE_BITS, 2**31 - 1, where)
        return Logistic(terms), Fraction(1, _ONE)
    if kind == "silu":
        return Logistic(PolynomialExp.of(scale, where)), Fraction(1, _ONE)
    return Bend.of(x, where)


class Gate(ABC):
    """A gate as a whole number of units, of the distance of x from zero and its sign."""

    @property
    @abstractmethod
    def range(self) -> Interval:
        """Of all gates."""

    @abstractmethod
    def prove(self, reach: int) -> None:
        """Check every width, for distances of at most `reach`."""

    @abstractmethod
    def gates(self, x: IntArray) -> IntArray:
        """The definition; `x` without its zero point."""

    @abstractmethod
    def to_onnx(self, w: OnnxWriter, x: Tensor) -> Tensor:
        """The same in integer operators."""

    @abstractmethod
    def numbers(self) -> tuple[Number, ...]:
        """Arguments of the kernel."""

    @property
    @abstractmethod
    def traits(self) -> tuple[tuple[str, str], ...]:
        """Of the kernel."""


@dataclass(frozen=True, slots=True)
class Logistic(Gate):
    """sigmoid(x) in steps of 2^-15: h = ⌊(t·2^15 + ⌊(t + peak)/2⌋) / (t + peak)⌋, or 2^15 − h."""

    terms: Exponential

    @property
    def range(self) -> Interval:
        """From nothing to one."""
        return Interval(0, _ONE)

    def prove(self, reach: int) -> None:
        """The sum fits 32 bits."""
        assert 2 * self.terms.peak < _NARROW, "the sum leaves 32 bits"
        assert reach * _ONE < 2**31, "the product leaves 32 bits"

    def gates(self, x: IntArray) -> IntArray:
        """The definition."""
        term = self.terms.terms(np.abs(x))
        total = term + self.terms.peak
        half = (term * _ONE + total // 2) // total
        return np.where(x < 0, half, _ONE - half)

    def to_onnx(self, w: OnnxWriter, x: Tensor) -> Tensor:
        """Exponential, rounded division, selection."""
        term = self.terms.to_onnx(w, w.abs(x))
        total = w.add(term, w.const(self.terms.peak))
        top = w.add(w.mul(term, w.const(_ONE)), w.floor_shift(total, 1))
        half = w.floor_divide(top, total)
        half = Tensor(half.name, half.shape, Interval(0, _ONE))
        gate = w.select(x, "Less", w.const(0), half, w.sub(w.const(_ONE), half))
        return Tensor(gate.name, gate.shape, self.range)

    def numbers(self) -> tuple[Number, ...]:
        """Of the exponential, and its peak."""
        return (*self.terms.numbers(), Number("peak", self.terms.peak, "uint32_t"))

    @property
    def traits(self) -> tuple[tuple[str, str], ...]:
        """Exponential, and whether 32 bits hold what is divided."""
        narrow = self.terms.peak * (_ONE + 1) < _NARROW
        return (("terms", self.terms.name), ("width", "narrow" if narrow else "wide"))


@dataclass(frozen=True, slots=True)
class Bend(Gate):
    """1 + erf(x/√2) by a parabola, rounded up: g = one + ⌈sign(x)·(top − v) / 2^drop⌉.

    v is (knee − min(|x|, knee))².

    Args:
        knee: where erf is taken for one, in steps of x.
        top: one over the parabola's factor, in steps.
        drop: bits rounded off, so that x·g fits 32 bits.
        one: the one that is added, in what remains.
    """

    knee: int
    top: int
    drop: int
    one: int

    @classmethod
    def of(cls, x: Value, where: str) -> tuple[Bend, Fraction]:
        """The gate of an operand, and its unit.

        Raises:
            NoIntegerForm: its steps are too coarse for a parabola.
        """
        scale = float(x.elem.scale) / math.sqrt(2)
        knee, real = -math.floor(-_KNEE / scale), 1 / (_SHARP * scale**2)
        top = -math.floor(-real)
        if knee < 2 or knee >= 2**15:
            raise NoIntegerForm(
                "GELU by a parabola in steps of this size",
                at=where,
                have=f"a scale of {float(x.elem.scale):g}",
                want="a scale from 0.0001 to 1.6",
                hint="choose another method",
            )
        reach = _reach(x)
        drop = next(n for n in range(32) if reach * (2 * (top >> n) + 3) < 2**31)
        factor = Fraction(_SHARP) * x.elem.scale.as_fraction() ** 2 / 2
        return cls(knee, top, drop, -math.floor(-real / 2**drop)), factor * 2**drop / 2

    @property
    def range(self) -> Interval:
        """Nearly from none to twice the one."""
        most = -(-max(self.top, abs(self.top - self.knee**2)) >> self.drop)
        return Interval(self.one - most, self.one + most)

    def prove(self, reach: int) -> None:
        """Square and product fit 31 bits."""
        assert self.knee**2 < 2**31, "the square leaves 32 bits"
        assert self.top < 2**31, "the parabola leaves 32 bits"
        assert reach * max(abs(self.range.lo), self.range.hi) < 2**31, "the product leaves 32 bits"

    def gates(self, x: IntArray) -> IntArray:
        """The definition."""
        bent = self.top - np.square(self.knee - np.minimum(np.abs(x), self.knee))
        return self.one - (-np.sign(x) * bent >> self.drop)

    def to_onnx(self, w: OnnxWriter, x: Tensor) -> Tensor:
        """A minimum, a square, a sign."""
        apart = w.sub(w.const(self.knee), w.minimum(w.abs(x), w.const(self.knee)))
        apart = Tensor(apart.name, apart.shape, Interval(0, self.knee))
        bent = w.sub(w.const(self.top), w.mul(apart, apart))
        none = w.const(0)
        below = w.select(x, "Less", none, bent, none)
        above = w.select(x, "Greater", none, w.sub(none, bent), none)
        gate = w.sub(w.const(self.one), w.floor_shift(w.add(below, above), self.drop))
        return Tensor(gate.name, gate.shape, self.range)

    def numbers(self) -> tuple[Number, ...]:
        """The fields, in order."""
        return (
            Number("knee", self.knee),
            Number("top", self.top),
            Number("drop", self.drop, "uint32_t"),
            Number("one", self.one),
        )

    @property
    def traits(self) -> tuple[tuple[str, str], ...]:
        """No exponential."""
        return (("terms", "bend"),)


def _reach(x: Value) -> int:
    zero, bounds = x.elem.zero_point, Interval.of_type(x.elem.storage)
    return max(zero - bounds.lo, bounds.hi - zero)


@dataclass(frozen=True, slots=True)
class IntGated(IntegerOp):
    """y = clamp(⌊((x − zero)·gate(x − zero)·m + 2^(s−1)) / 2^s⌋ + zp).

    Args:
        gate: how g is computed.
        zero: the operand's zero point.
        store: m, s and the type of y.
        notes: why onnxruntime's bytes are others.
    """

    stem: ClassVar[str] = "gated"

    gate: Gate
    zero: int
    store: Product
    notes: tuple[str, ...] = ()

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's shape."""
        return (TensorType(inputs[0].shape, self.store.result),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """The function on all codes; proves every width."""
        x = inputs[0].interval
        reach = max(abs(x.lo - self.zero), abs(x.hi - self.zero))
        self.gate.prove(reach)
        self.store.prove()
        return (Interval.of(self.reference(np.arange(x.lo, x.hi + 1, dtype=np.int64))[0]),)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        x = inputs[0] - self.zero
        return (self.store.stored(x * self.gate.gates(x)),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Gate, two products, rounding."""
        x = w.sub(inputs[0], w.const(self.zero))
        return (self.store.to_onnx(w, w.mul(x, self.gate.to_onnx(w, x))),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """A loop over elements."""
        (x,), (y,) = inputs, outputs
        arguments = (
            Buffer("x", x.name, x.elem.storage),
            Buffer("y", y.name, y.elem.storage, written=True),
            Number("count", x.type.size),
            Number("zero", self.zero),
            *self.gate.numbers(),
            *self.store.numbers(),
        )
        return KernelCall(self.stem, arguments, self.gate.traits, formula="y = x * gate(x)")

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """Three products an element."""
        size = outputs[0].type.size
        return Work(macs=3 * size, loads=size, stores=size, notes=self.notes)

    def in_place(self) -> tuple[int, ...]:
        """Element by element."""
        return (0,)
