"""Rational: an exact monotone function per channel, between an integer value and its quantizer.

What QONNX computes between two quantizers beside sums of products: normalisation, bias, clipping,
and the quantizer itself, with its clamp and its rounding. It is kept as a chain of exact steps and
lowered as one `IntThresholds`; no float is computed on the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from binpoint.errors import NoIntegerForm
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.op import FloatArray, FloatOp, Permuted, Site
from binpoint.numeric import monotone
from binpoint.numeric.fixed import FixedType, FloatType, TensorType
from binpoint.numeric.monotone import Clip, Round, Rule, Shift, Step, Steps
from binpoint.ops.copy import IntReshape
from binpoint.ops.lookup import codes_of, lookup
from binpoint.ops.requantize import Clamp
from binpoint.ops.thresholds import IntThresholds, thresholds

QUANTIZERS = ("BipolarQuant", "IntQuant", "MultiThreshold", "Quant", "Trunc")
"""The quantizers of QONNX; `frontend.qonnx` reads them, from every domain they are found in."""

_NARROW = 8
_COMPARED = 4
_WIDEST = 16


@dataclass(frozen=True, slots=True)
class Quantizer:
    """Codes ``lo..hi`` of a type: the last step of a chain gives them as integers."""

    type: FixedType
    lo: int
    hi: int


@dataclass(frozen=True, slots=True)
class Rational(FloatOp):
    """y = the chain of x, channels on the last axis; if it quantizes, what its codes stand for."""

    steps: Steps
    quantizer: Quantizer | None = None

    onnx: ClassVar[tuple[str, ...]] = tuple(
        f"qonnx.custom_op.general.{name}" for name in (*QUANTIZERS, "QuantLSTMCell")
    )

    @property
    def channels(self) -> int:
        """Number of channels with constants of their own; 1 if all share theirs."""
        return monotone.channels_of(self.steps)

    def after(self, first: Steps) -> Rational:
        """The op with other steps before its own."""
        return Rational((*first, *self.steps), self.quantizer)

    def rising(self) -> bool:
        """Whether it falls in no channel."""
        return min(monotone.signs_of(self.steps, self.channels)) >= 0

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's shape."""
        (x,) = inputs
        assert self.channels in (1, x.shape[-1] if x.shape else 1), f"{self.channels} for {x.type}"
        return (TensorType(x.shape, FloatType()),)

    def result_type(self, *inputs: FixedType | None) -> FixedType | None:
        """The quantizer's."""
        return self.quantizer.type if self.quantizer is not None else None

    def permuted(self, order: tuple[int, ...], *inputs: Value) -> Permuted | None:
        """The same; where channels differ, they must stay last."""
        last = len(order) - 1
        return Permuted(self, order) if self.channels == 1 or order[last] == last else None

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """The chain in float64."""
        x = inputs[0]
        y = monotone.evaluate(self.steps, x.astype(np.float64))
        if self.quantizer is not None:
            y = self.quantizer.type.dequantize(y.astype(np.int64))
        return (y.astype(x.dtype),)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """A clamp where codes stay; a table for a narrow operand; else thresholds."""
        x = build.integer(site.inputs[0])
        quantizer = self.quantizer or whole(site.result)
        steps = (*self.steps, *(rounding(quantizer) if self.quantizer is None else ()))
        channels = max(monotone.channels_of(steps), x.elem.channels)
        _check(site, x, quantizer.type, channels)
        chain = (*meaning(x.elem), *steps)
        op = thresholds(
            build, x, chain, quantizer.type, quantizer.lo, quantizer.hi, channels=channels
        )
        if channels > 1 or x.elem.storage.width > _NARROW:
            return (build.one(op, x, hint=f"{site.name}_thresholds"),)
        kept = _kept(build, x, op)
        if kept is not None:
            return (kept,)
        if quantizer.type.storage.width <= _COMPARED:
            return (build.one(op, x, hint=f"{site.name}_thresholds"),)
        (entries,) = op.reference(codes_of(x.elem.storage))
        return (lookup(build, x, entries, quantizer.type),)


def _check(site: Site, x: Value, target: FixedType, channels: int) -> None:
    last = len(x.shape) - 1
    if target.storage.width > _WIDEST or x.elem.axis not in (None, last):
        raise NoIntegerForm(
            "a rounding of this type", at=site.name, have=f"{x.elem} to {target}", want="16 bits"
        )
    if channels not in (1, x.shape[-1]):
        raise NoIntegerForm("scales per channel along another axis", at=site.name, have=str(x.type))


def meaning(kind: FixedType) -> Steps:
    """The steps from stored integers to real numbers."""
    shift = Shift(tuple(Fraction(-z) for z in kind.zero_points))
    scale = monotone.scale(*(s.as_fraction() for s in kind.scales))
    return (shift, scale) if any(kind.zero_points) else (scale,)


def whole(kind: FixedType) -> Quantizer:
    """All codes of a type."""
    return Quantizer(kind, kind.storage.min, kind.storage.max)


def rounding(quantizer: Quantizer, rule: Rule = Rule.HALF_EVEN) -> tuple[Step, ...]:
    """The steps from real numbers to codes: divide, move the zero point, clamp, round."""
    kind = quantizer.type
    return (
        monotone.scale(*(1 / s.as_fraction() for s in kind.scales)),
        Shift(tuple(Fraction(z) for z in kind.zero_points)),
        Clip(Fraction(quantizer.lo), Fraction(quantizer.hi)),
        Round(rule),
    )


def _kept(build: GraphBuilder, x: Value, op: IntThresholds) -> Value | None:
    """The operand's own codes, clamped, if that is what the op gives."""
    codes = np.arange(x.interval.lo, x.interval.hi + 1, dtype=np.int64)
    (results,) = op.reference(codes)
    if x.elem.storage != op.result.storage or (results != np.clip(codes, op.lo, op.hi)).any():
        return None
    if not (op.lo <= x.interval.lo and x.interval.hi <= op.hi):
        x = build.one(Clamp(op.lo, op.hi), x)
    return x if x.elem == op.result else build.one(IntReshape(x.shape, op.result), x)


@dataclass(frozen=True, slots=True)
class Reread(FloatOp):
    """A straight line of an output's integers: the same integers, read with another scale.

    `clipped` leaves out those below the zero point, as Relu does.
    """

    steps: Steps
    type: FixedType
    clipped: bool = False

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's shape."""
        return (TensorType(inputs[0].shape, FloatType()),)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """The line in float64."""
        return (monotone.evaluate(self.steps, inputs[0].astype(np.float64)).astype(np.float32),)

    def result_type(self, *inputs: FixedType | None) -> FixedType | None:
        """The type stated."""
        return self.type

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """No code but the clamp."""
        x = build.integer(site.inputs[0])
        low = self.type.zero_points[0]
        if self.clipped and x.interval.lo < low:
            x = build.one(Clamp(low, max(low, x.interval.hi)), x)
        return (build.one(IntReshape(x.shape, self.type), x),)
