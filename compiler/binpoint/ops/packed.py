"""Packed maps: codes of less than eight bits, several to a byte, in the arena.

A pixel's channels lie in ``B = ceil(C / (8 / bits))`` bytes. Digit d of byte j, from the low bits
on, is channel ``d * B + j``: so that four neighbouring bytes hold, digit by digit, four
neighbouring channels, and a word is unpacked by a mask and a shift for every four codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from binpoint.ir.exchange import OnnxWriter, Tensor
from binpoint.ir.graph import Value
from binpoint.ir.kernel import Buffer, KernelCall, Number, Work
from binpoint.ir.op import IntArray, IntegerOp
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import U8, FixedType, TensorType
from binpoint.numeric.interval import Interval

_BYTE = 8
_WIDTHS = (1, 2, 4)
PACKED = FixedType.per_tensor(U8, Dyadic.one())
"""The type of a packed map's bytes."""


@dataclass(frozen=True, slots=True)
class Digits:
    """How the codes of a map lie in bytes.

    Attributes:
        bits: of a code: 1, 2 or 4.
        signed: whether the codes are in two's complement.
        channels: of a pixel.
    """

    bits: int
    signed: bool
    channels: int

    @classmethod
    def of(cls, value: Value) -> Digits | None:
        """The fewest bits that hold the range of a map, if its type holds all such digits."""
        kind = value.interval.int_type()
        width = next((w for w in _WIDTHS if w >= kind.width), None)
        if width is None or not value.shape:
            return None
        found = cls(width, kind.signed, value.shape[-1])
        # Digits of four bits may be no codes of a type of three.
        fits = Interval.of_type(value.elem.storage).contains(found.interval)
        return found if fits else None

    @property
    def per_byte(self) -> int:
        """Codes in a byte."""
        return _BYTE // self.bits

    @property
    def plane(self) -> int:
        """Bytes of a pixel, and channels of a digit."""
        return -(-self.channels // self.per_byte)

    @property
    def whole(self) -> bool:
        """Whether every byte is full."""
        return self.plane * self.per_byte == self.channels

    @property
    def mask(self) -> int:
        """The bits of a digit."""
        return (1 << self.bits) - 1

    @property
    def offset(self) -> int:
        """What is added to a code so that its digit's order is the code's."""
        return 1 << (self.bits - 1) if self.signed else 0

    @property
    def interval(self) -> Interval:
        """All codes."""
        return Interval(-self.offset, self.mask - self.offset)

    def packed(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the bytes of a map of this shape."""
        return (*shape[:-1], self.plane)

    def unpacked(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the map in bytes of this shape."""
        return (*shape[:-1], self.channels)

    def bytes(self, shape: Sequence[int]) -> int:
        """What a map of this shape takes."""
        return math.prod(self.packed(shape))

    def call(self, stem: str, x: Value, y: Value, formula: str) -> KernelCall:
        """A loop over pixels, then bytes, then digits."""
        arguments = (
            Buffer("x", x.name, x.elem.storage),
            Buffer("y", y.name, y.elem.storage, written=True),
            Number("pixels", math.prod(x.shape[:-1])),
            Number("channels", self.channels),
            Number("plane", self.plane),
        )
        traits = (("digits", self.name), ("whole", "whole" if self.whole else ""))
        return KernelCall(stem, arguments, traits, formula=formula)

    @property
    def name(self) -> str:
        """Sign and bits: ``u4``."""
        return f"{'s' if self.signed else 'u'}{self.bits}"


@dataclass(frozen=True, slots=True)
class IntPack(IntegerOp):
    """byte[j] = Σ_d (x[d·B + j] mod 2^bits) · 2^(bits·d), for each pixel."""

    stem: ClassVar[str] = "pack"

    digits: Digits

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The bytes of the operand's pixels."""
        (x,) = inputs
        assert x.shape[-1] == self.digits.channels, "a pixel has other channels"
        assert self.digits.interval.contains(x.interval), "codes do not fit their digits"
        return (TensorType(self.digits.packed(x.shape), PACKED),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """A byte."""
        return (Interval.of_type(U8),)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        d = self.digits
        (x,) = inputs
        full = np.zeros((*x.shape[:-1], d.per_byte * d.plane), np.int64)
        full[..., : d.channels] = x & d.mask
        digits = full.reshape(*x.shape[:-1], d.per_byte, d.plane)
        weights = 1 << (d.bits * np.arange(d.per_byte, dtype=np.int64))
        return ((digits * weights[:, None]).sum(axis=-2),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """A weighted sum of slices; negative codes are moved up by a digit's range."""
        d = self.digits
        (x,) = inputs
        if d.signed:
            above = w.add(x, w.const(1 << d.bits))
            x = w.select(x, "Less", w.const(0), above, x)
            x = Tensor(x.name, x.shape, Interval(0, d.mask))
        missing = d.per_byte * d.plane - d.channels
        none = (0,) * (len(x.shape) - 1)
        x = w.pad(x, (*none, 0), (*none, missing), 0)
        total = w.const(0)
        for digit in range(d.per_byte):
            places = np.arange(d.plane, dtype=np.int64) + digit * d.plane
            part = w.take(x, places, len(x.shape) - 1)
            total = w.add(total, w.mul(part, w.const(1 << (d.bits * digit))))
        return (total,)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Byte by byte."""
        text = f"codes of {self.digits.bits} bits into bytes"
        return self.digits.call(self.stem, inputs[0], outputs[0], text)

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """A load for each code, a store for each byte."""
        return Work(loads=inputs[0].type.size, stores=outputs[0].type.size)


@dataclass(frozen=True, slots=True)
class IntUnpack(IntegerOp):
    """x[d·B + j] = digit d of byte[j], for each pixel: the inverse of `IntPack`."""

    stem: ClassVar[str] = "unpack"

    digits: Digits
    result: FixedType

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The map of these bytes."""
        (x,) = inputs
        assert x.shape[-1] == self.digits.plane, "a pixel has other bytes"
        storage = Interval.of_type(self.result.storage)
        assert storage.contains(self.digits.interval), "digits do not fit the type of the codes"
        return (TensorType(self.digits.unpacked(x.shape), self.result),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """All codes of a digit."""
        return (self.digits.interval,)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        d = self.digits
        shifts = d.bits * np.arange(d.per_byte, dtype=np.int64)
        digits = (inputs[0][..., None, :] >> shifts[:, None]) & d.mask
        flat = digits.reshape(*inputs[0].shape[:-1], d.per_byte * d.plane)
        return (((flat[..., : d.channels] ^ d.offset) - d.offset),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Quotients by powers of two, what they have of higher digits taken away."""
        d = self.digits
        (x,) = inputs
        parts: list[Tensor] = []
        for digit in range(d.per_byte):
            upper = w.floor_shift(x, d.bits * (digit + 1))
            here = w.floor_shift(x, d.bits * digit)
            code = w.sub(here, w.mul(upper, w.const(1 << d.bits)))
            parts.append(Tensor(code.name, code.shape, Interval(0, d.mask)))
        axis = len(x.shape) - 1
        whole = w.take(w.concat(parts, axis), np.arange(d.channels, dtype=np.int64), axis)
        if d.signed:
            below = w.sub(whole, w.const(1 << d.bits))
            whole = w.select(whole, "Less", w.const(d.offset), whole, below)
        return (Tensor(whole.name, whole.shape, d.interval),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Byte by byte."""
        text = f"bytes into codes of {self.digits.bits} bits"
        return self.digits.call(self.stem, inputs[0], outputs[0], text)

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """A load for each byte, a store for each code."""
        return Work(loads=inputs[0].type.size, stores=outputs[0].type.size)
