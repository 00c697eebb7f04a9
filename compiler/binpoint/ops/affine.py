"""Per-channel functions: `Affine`, y = x·a[c] + b[c], what BatchNormalization is at inference.

DYADIC        y = clamp((x·m[c] + k[c]) >> s[c], lo, hi), zero points and one half inside of k
ONNXRUNTIME   a table of all codes for each channel, filled with the runtime's float32 chain
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import numpy as np

from binpoint.errors import NoIntegerForm, RangeOverflow
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Value
from binpoint.ir.kernel import Buffer, KernelCall, Number, Work
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import FloatArray, FloatOp, IntArray, IntegerOp, Permuted, Role, Semantics, Site
from binpoint.numeric import float32
from binpoint.numeric.fixed import FixedType, FloatType, IntType, TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.lookup import codes_of
from binpoint.ops.requantize import Form, Requantize
from binpoint.ops.shape import to_channel_first, to_channel_last

_MAX_SHIFT = 40
_OFFSET_BITS = 60
_WIDEST_TABLE = 8
_WIDEST = 16


def normalized(node: OnnxNode) -> Value:
    """The operand of a BatchNormalization for inference, whose parameters are constants."""
    x = node.operand(0)
    if node.int("training_mode", 0) or len(node.outputs) > 1 or not node.int("spatial", 1):
        node.refuse("a form for training", hint="export the model for inference")
    if len(x.shape) < 2:
        node.refuse(f"input of shape {list(x.shape)}", want="a channel axis")
    for index in range(1, 5):
        node.array(index)
    return x


@dataclass(frozen=True, slots=True)
class Affine(FloatOp):
    """y = x·a[c] + b[c] of ``[…, C]``; a and b are constants ``[C]``.

    With `divides` y = x / a[c] + b[c], which float32 rounds otherwise than a product.
    """

    onnx: ClassVar[tuple[str, ...]] = ("BatchNormalization",)

    divides: bool = False

    def roles(self, count: int) -> tuple[Role, ...]:
        """Data and two parameters."""
        return (Role.ACTIVATION, Role.PARAMETER, Role.PARAMETER)[:count]

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """Scale over deviation and the rest, in float32 as the runtime makes them."""
        x = normalized(node)
        parameters = (constant_array(node.operand(i)).astype(np.float32) for i in range(1, 5))
        scale, bias, mean, variance = parameters
        if {scale.shape, bias.shape, mean.shape, variance.shape} != {(x.shape[1],)}:
            node.refuse(f"parameters do not fit {x.shape[1]} channels")
        with np.errstate(all="ignore"):
            inverse = np.float32(1) / np.sqrt(variance + np.float32(node.float("epsilon", 1e-5)))
            a = scale * inverse
            b = bias - mean * a
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            node.refuse("a variance is not positive, or a parameter not finite")
        operands = to_channel_last(build, x), build.constant(a), build.constant(b)
        return (to_channel_first(build, build.one(cls(), *operands)),)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's shape."""
        x, a, b = inputs
        assert a.shape == b.shape == x.shape[-1:], f"{a.shape} and {b.shape} for {x.shape}"
        return (TensorType(x.shape, FloatType()),)

    def permuted(self, order: tuple[int, ...], *inputs: Value) -> Permuted | None:
        """The same, where channels stay last."""
        return Permuted(self, order) if order[-1] == len(order) - 1 else None

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """x·a + b, or x / a + b."""
        return (self._of(*inputs),)

    def _of(self, x: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
        return (x / a if self.divides else x * a) + b

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """One Requantize with multipliers and offsets per channel, or tables."""
        x = per_tensor(site, build)
        a, b = (constant_array(v) for v in site.inputs[1:])
        if in_tables(site, x):
            return (tabulate_channels(build, x, site.result, lambda real: self._of(real, a, b)),)
        sx, sy = x.elem.scale.as_fraction(), site.result.scale.as_fraction()
        factors = [Fraction(float(v)) for v in a]
        ratios = [(1 / f if self.divides else f) * sx / sy for f in factors]
        offsets = [
            Fraction(float(v)) / sy - r * x.elem.zero_point for v, r in zip(b, ratios, strict=True)
        ]
        op = affine(site, ratios, offsets)
        return (build.one(op, x),)


def per_tensor(site: Site, build: GraphBuilder) -> Value:
    """The first operand, as it must be for a function per channel."""
    x = build.integer(site.inputs[0])
    if x.elem.axis is not None or site.result.axis is not None or x.elem.storage.width > _WIDEST:
        raise NoIntegerForm(
            "a function per channel of this type",
            at=site.name,
            have=f"{x.elem} to {site.result}",
            want=f"per-tensor types, the operand's of at most {_WIDEST} bits",
        )
    return x


def in_tables(site: Site, x: Value) -> bool:
    """Whether the result is defined by the runtime's float32 chain."""
    narrow = max(x.elem.storage.width, site.result.storage.width) <= _WIDEST_TABLE
    return site.semantics is Semantics.ONNXRUNTIME and narrow


def affine(site: Site, ratios: Sequence[Fraction], offsets: Sequence[Fraction]) -> AffineRequantize:
    """The op for y = x·ratio + offset, offset in steps of the result, zero point not included."""
    target = site.result
    bits = site.limits.multiplier_bits - 1
    shifts = [common_shift(site, [r], o, bits) for r, o in zip(ratios, offsets, strict=True)]
    multipliers = tuple(round(r * 2**s) for r, s in zip(ratios, shifts, strict=True))
    whole = tuple(
        round((o + target.zero_point + Fraction(1, 2)) * 2**s)
        for o, s in zip(offsets, shifts, strict=True)
    )
    storage = target.storage
    return AffineRequantize(multipliers, tuple(shifts), whole, target, storage.min, storage.max)


def common_shift(site: Site, ratios: Sequence[Fraction], offset: Fraction, bits: int) -> int:
    """The largest shift with which all multipliers of a channel have at most `bits` bits.

    The error of a result is then below 2^(16 − shift) steps for 16-bit operands.
    """
    largest = max(abs(r) for r in ratios)
    for shift in range(_MAX_SHIFT, 0, -1):
        fits = round(largest * 2**shift).bit_length() <= bits
        if fits and abs(offset) * 2**shift < 2**_OFFSET_BITS:
            return shift
    raise RangeOverflow(
        "a factor per channel is too large for the scale of the result",
        at=site.name,
        have=f"{float(largest):g} steps of the result in a step of the operand",
        hint="quantize this result with a larger range",
    )


@dataclass(frozen=True, slots=True)
class AffineRequantize(Requantize):
    """y = clamp((x·m + k) >> s, lo, hi); per channel; k holds zero points and one half."""

    multipliers: tuple[int, ...]
    shifts: tuple[int, ...]
    offsets: tuple[int, ...]
    result: FixedType
    lo: int
    hi: int

    @property
    def channels(self) -> int:
        """Number of multipliers."""
        return len(self.multipliers)

    @property
    def form(self) -> Form:
        """Multiply, add, shift."""
        return Form("mulshift", self.multipliers, self.shifts, self.offsets)

    @property
    def formula(self) -> str:
        """The definition."""
        return f"y = clamp((x * m + k) >> s, {self.lo}, {self.hi})"

    def clamped(self, lo: int, hi: int) -> AffineRequantize:
        """The same op with its result clamped further."""
        both = Interval(self.lo, self.hi).clamp(lo, hi)
        return replace(self, lo=both.lo, hi=both.hi)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        multipliers, offsets = (
            np.array(self.multipliers, np.int64),
            np.array(self.offsets, np.int64),
        )
        scaled = (inputs[0] * multipliers + offsets) >> np.array(self.shifts, np.int64)
        return (np.clip(scaled, self.lo, self.hi),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Multiply, add, divide down, clamp."""
        product = w.mul(inputs[0], w.const(np.array(self.multipliers)))
        divisor = w.const(np.array([1 << s for s in self.shifts]))
        scaled = w.floor_divide(w.add(product, w.const(np.array(self.offsets))), divisor)
        return (w.clamp(scaled, self.lo, self.hi),)


def tabulate_channels(
    build: GraphBuilder, x: Value, target: FixedType, function: Callable[[FloatArray], FloatArray]
) -> Value:
    """QuantizeLinear(function(DequantizeLinear(x))) by a table per channel.

    `function` takes all codes as float32 ``[codes, 1]`` and returns float32 ``[codes, C]``.
    """
    storage = x.elem.storage
    real = float32.dequantize_linear(codes_of(storage), float(x.elem.scale), x.elem.zero_point)
    result = np.asarray(function(real[:, None]), np.float32).T
    lo, hi = target.storage.min, target.storage.max
    entries = float32.quantize_linear(result, float(target.scale), target.zero_point, lo, hi)
    table = build.constant(entries, target, hint=f"{build.hint}_tables")
    return build.one(IntChannelLookup(target, storage), x, table)


@dataclass(frozen=True, slots=True)
class IntChannelLookup(IntegerOp):
    """y[…, c] = table[c, x − min(x's type)]; the table is a constant ``[C, codes]``."""

    stem: ClassVar[str] = "channel_lookup"

    result: FixedType
    operand: IntType

    @property
    def codes(self) -> int:
        """Entries for each channel."""
        return self.operand.max - self.operand.min + 1

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's shape."""
        x, table = inputs
        assert x.elem.storage == self.operand, "the table does not fit the operand's type"
        assert table.shape == (x.shape[-1], self.codes), "the table does not fit"
        return (TensorType(x.shape, self.result),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """Of the entries that the operand can reach."""
        x, table = inputs
        assert table.constant is not None
        low, high = x.interval.lo - self.operand.min, x.interval.hi - self.operand.min
        return (Interval.of(table.constant.array[:, low : high + 1]),)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        x, table = inputs
        return (table[np.arange(x.shape[-1]), x - self.operand.min],)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Gather from the tables end to end."""
        x, table = inputs
        count = x.shape[-1]
        starts = np.arange(count, dtype=np.int64) * self.codes - self.operand.min
        index = w.add(x, w.const(starts))
        flat = w.reshape(table, (count * self.codes,))
        return (w.emit("Gather", [flat.name, index.name], x.shape, table.range, axis=0),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Channels within rows."""
        (x, table), (y,) = inputs, outputs
        arguments = (
            Buffer("x", x.name, x.elem.storage),
            Buffer("table", table.name, table.elem.storage),
            Buffer("y", y.name, y.elem.storage, written=True),
            Number("rows", x.type.size // x.shape[-1]),
            Number("channels", x.shape[-1]),
            Number("codes", self.codes),
            Number("low", self.operand.min),
        )
        return KernelCall(self.stem, arguments, formula="y[c] = table[c][x]")

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """One lookup an element."""
        size = inputs[0].type.size
        return Work(loads=size, lookups=size, stores=size)

    def in_place(self) -> tuple[int, ...]:
        """Element by element."""
        return (0,)
