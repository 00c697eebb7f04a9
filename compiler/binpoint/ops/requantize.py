"""Requantize: the only rounding between ops, in two semantics, and Clamp.

``DYADIC``       y = clamp(floor((x·m + 2^(s−1)) / 2^s) + zp, lo, hi)
``ONNXRUNTIME``  y = rne(clamp(fl(fl(x)·scale), lo − zp, hi − zp)) + zp, in float32: what
                 onnxruntime's MlasRequantizeOutput computes, emitted in integers only.

The second is emitted in the cheapest form that is proved equal over every reachable accumulator:
`mulshift` (one long multiply), `thresholds` (results of four bits or fewer), `fpu` where the user
allows float instructions and the target has them, else `exact`, which computes the same long
multiply and resolves the neighbourhood of ties by an integer emulation of both float32 roundings.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from binpoint.ir.graph import Value
from binpoint.ir.kernel import Buffer, Epilogue, KernelCall, Number, Work
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import IntArray, IntegerOp
from binpoint.numeric import float32
from binpoint.numeric.exact import ExactScale
from binpoint.numeric.fixed import FixedType, TensorType
from binpoint.numeric.interval import Interval
from binpoint.numeric.mulshift import prove_mulshift, thresholds
from binpoint.ops.forms import Form, epilogue, mixed

Ranges = tuple[tuple[int, int], ...]
_THRESHOLD_BITS = 4


class Requantize(IntegerOp):
    """What both semantics share. Channels lie on the last axis."""

    stem: ClassVar[str] = "requantize"

    result: FixedType
    lo: int
    hi: int

    @property
    @abstractmethod
    def form(self) -> Form:
        """The form to emit."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """Number of channels with constants of their own; 1 per tensor."""

    @abstractmethod
    def clamped(self, lo: int, hi: int) -> Requantize:
        """The same op with its result clamped further."""

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """Shape of the operand, type of the result."""
        (x,) = inputs
        assert self.channels in (1, x.shape[-1] if x.shape else 1), (
            f"{self.channels} channels for {x.type}"
        )
        return (TensorType(x.shape, self.result),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """Exact: the op is monotone, so the ends of the operand's range give the result's."""
        (x,) = inputs
        ends = np.array(
            [[x.interval.lo] * self.channels, [x.interval.hi] * self.channels], np.int64
        )
        (results,) = self.reference(ends)
        return (Interval.of(results),)

    def epilogue(self) -> Epilogue:
        """The op as the last step of another kernel."""
        zero, storage = self.result.zero_points[0], self.result.storage
        return epilogue(self.form, zero, storage, self.lo, self.hi)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """A loop over elements; channels on the last axis."""
        (x,), (y,) = inputs, outputs
        channels = x.shape[-1] if self.channels > 1 else 1
        arguments = (
            Buffer("x", x.name, x.elem.storage),
            Buffer("y", y.name, y.elem.storage, written=True),
            Number("rows", x.type.size // channels),
            Number("channels", channels),
        )
        return KernelCall(self.stem, arguments, epilogue=self.epilogue(), formula=self.formula)

    @property
    @abstractmethod
    def formula(self) -> str:
        """One line for the comment in generated code."""

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """One load, one multiply and one store an element."""
        size = inputs[0].type.size
        return Work(loads=size, stores=size)


@dataclass(frozen=True, slots=True)
class DyadicRequantize(Requantize):
    """y = clamp(floor((x·m + 2^(s−1)) / 2^s) + zp, lo, hi); m and s per tensor or per channel."""

    multipliers: tuple[int, ...]
    shifts: tuple[int, ...]
    result: FixedType
    lo: int
    hi: int

    @property
    def channels(self) -> int:
        """Number of multipliers."""
        return len(self.multipliers)

    @property
    def form(self) -> Form:
        """Always mulshift, with shifts of at least one and as many multiplier bits as there are."""
        multipliers: list[int] = []
        shifts: list[int] = []
        for multiplier, shift in zip(self.multipliers, self.shifts, strict=True):
            spare = min(31 - multiplier.bit_length(), 62 - shift) if multiplier else 0
            multipliers.append(multiplier << spare)
            shifts.append(shift + spare)
        return Form("mulshift", tuple(multipliers), tuple(shifts))

    @property
    def formula(self) -> str:
        """The definition."""
        zero = self.result.zero_points[0]
        return f"y = clamp(((x * m + 2^(s-1)) >> s) + {zero}, {self.lo}, {self.hi})"

    def clamped(self, lo: int, hi: int) -> DyadicRequantize:
        """The same op with its result clamped further."""
        both = Interval(self.lo, self.hi).clamp(lo, hi)
        return replace(self, lo=both.lo, hi=both.hi)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        (x,) = inputs
        multipliers, shifts = np.array(self.multipliers, np.int64), np.array(self.shifts, np.int64)
        half = np.where(shifts > 0, np.int64(1) << np.maximum(shifts - 1, 0), 0)
        scaled = (x * multipliers + half) >> shifts
        return (np.clip(scaled + self.result.zero_points[0], self.lo, self.hi),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Multiply, add half, divide down, move the zero point, clamp."""
        (x,) = inputs
        one = len(self.multipliers) == 1
        multipliers = w.const(self.multipliers[0] if one else np.array(self.multipliers))
        halves = [1 << (s - 1) if s else 0 for s in self.shifts]
        half = w.const(halves[0] if one else np.array(halves))
        divisor = w.const(1 << self.shifts[0] if one else np.array([1 << s for s in self.shifts]))
        scaled = w.floor_divide(w.add(w.mul(x, multipliers), half), divisor)
        moved = w.add(scaled, w.const(self.result.zero_points[0]))
        return (w.clamp(moved, self.lo, self.hi),)


@dataclass(frozen=True, slots=True)
class OnnxruntimeRequantize(Requantize):
    """y = rne(clamp(fl(fl(x)·scale), lo − zp, hi − zp)) + zp in float32.

    Scale per tensor or channel.

    `reach` is the range of accumulators per channel, from the actual weights; the proof covers it.
    """

    scales: tuple[float, ...]
    reach: Ranges
    result: FixedType
    lo: int
    hi: int
    proof: Form | None = None

    @property
    def channels(self) -> int:
        """Number of scales."""
        return len(self.scales)

    @property
    def form(self) -> Form:
        """The proved form, else `exact`."""
        if self.proof is not None:
            return self.proof
        scales = self.exact_scales()
        window = min(e.window for e in scales)
        return Form(
            "exact",
            tuple(e.mantissa for e in scales),
            tuple(e.shift for e in scales),
            window=window,
        )

    def exact_scales(self) -> list[ExactScale]:
        """The constants of the exact form, per channel."""
        zero = self.result.zero_points[0]
        ranges = zip(self.scales, self.reach, strict=True)
        return [
            ExactScale.of(np.float32(s), zero, self.lo, self.hi, Interval(*ends))
            for s, ends in ranges
        ]

    @property
    def formula(self) -> str:
        """The definition, and the form it takes."""
        zero = self.result.zero_points[0]
        return (
            f"y = clamp(rne(float32(x * scale)) + {zero}, {self.lo}, {self.hi}), {self.form.name}"
        )

    def clamped(self, lo: int, hi: int) -> OnnxruntimeRequantize:
        """The same op with its result clamped further; the proof is to be made anew."""
        both = Interval(self.lo, self.hi).clamp(lo, hi)
        return replace(self, lo=both.lo, hi=both.hi, proof=None)

    def thresholds(self) -> IntArray:
        """``[channels, hi − lo]``: the smallest reachable accumulator with y ≥ lo + 1 + k."""
        low, high = (np.array(ends, np.int64) for ends in zip(*self.reach, strict=True))
        scales = np.array(self.scales, np.float32)
        return thresholds(scales, self.result.zero_points[0], self.lo, self.hi, low, high)

    def proved(self) -> OnnxruntimeRequantize:
        """The op with the cheapest form that is proved equal, channel by channel."""
        steps = self.thresholds()
        if self.result.storage.width <= _THRESHOLD_BITS:
            return replace(
                self, proof=Form("thresholds", thresholds=tuple(map(tuple, steps.tolist())))
            )
        low, high = (np.array(ends, np.int64) for ends in zip(*self.reach, strict=True))
        found = prove_mulshift(steps, np.array(self.scales, np.float32), self.lo, low, high)
        proofs = [p for p in found if p is not None]
        if not proofs:
            return replace(self, proof=None)
        if len(proofs) < len(found):
            zero = self.result.zero_points[0]
            return replace(self, proof=mixed(found, self.exact_scales(), zero))
        columns = zip(*((p.multiplier, p.shift, p.offset) for p in proofs), strict=True)
        multipliers, shifts, offsets = (tuple(c) for c in columns)
        return replace(self, proof=Form("mulshift", multipliers, shifts, offsets))

    def in_float(self) -> OnnxruntimeRequantize:
        """The op as three float instructions: IEEE single precision gives the definition itself."""
        bits = np.array(self.scales, np.float32).view(np.uint32)
        return replace(self, proof=Form("fpu", tuple(int(b) for b in bits)))

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition, in float32."""
        (x,) = inputs
        scales = np.array(self.scales, np.float32)
        return (float32.requantize(x, scales, self.result.zero_points[0], self.lo, self.hi),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """A real-number estimate, within one of the result.

        Moved by comparing with its thresholds.
        """
        (x,) = inputs
        pairs = self.exact_scales()
        shift = w.const(np.array([1 << p.shift for p in pairs]))
        half = w.const(np.array([1 << (p.shift - 1) for p in pairs]))
        scaled = w.floor_divide(
            w.add(w.mul(x, w.const(np.array([p.mantissa for p in pairs]))), half), shift
        )
        estimate = w.clamp(w.add(scaled, w.const(self.result.zero_points[0])), self.lo, self.hi)
        if self.lo == self.hi:
            return (estimate,)
        steps = self.thresholds()
        far = np.int64(2**40)
        ends = np.full((len(pairs), 1), far)
        table = np.concatenate([-ends, steps, ends], axis=1)
        base = np.arange(len(pairs)) * table.shape[1] - self.lo
        index = w.add(estimate, w.const(base))
        down = w.lookup(table.reshape(-1), index)
        up = w.lookup(table.reshape(-1), w.add(index, w.const(1)))
        less = w.select(x, "Less", down, w.const(1), w.const(0))
        more = w.select(x, "Less", up, w.const(0), w.const(1))
        moved = w.sub(w.add(estimate, more), less)
        return (Tensor(moved.name, moved.shape, Interval(self.lo, self.hi)),)


@dataclass(frozen=True, slots=True)
class Clamp(IntegerOp):
    """y = min(max(x, lo), hi); the type stays."""

    stem: ClassVar[str] = "clamp"

    lo: int
    hi: int

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's type."""
        return (inputs[0].type,)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """The operand's range, clamped."""
        return (inputs[0].interval.clamp(self.lo, self.hi),)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        return (np.clip(inputs[0], self.lo, self.hi),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Two selections."""
        return (w.clamp(inputs[0], self.lo, self.hi),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """A loop over elements."""
        (x,), (y,) = inputs, outputs
        arguments = (
            Buffer("x", x.name, x.elem.storage),
            Buffer("y", y.name, y.elem.storage, written=True),
            Number("count", x.type.size),
            Number("lo", self.lo),
            Number("hi", self.hi),
        )
        return KernelCall(self.stem, arguments, formula=f"y = clamp(x, {self.lo}, {self.hi})")

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """One load and one store an element."""
        return Work(loads=inputs[0].type.size, stores=inputs[0].type.size)

    def in_place(self) -> tuple[int, ...]:
        """Element by element."""
        return (0,)
