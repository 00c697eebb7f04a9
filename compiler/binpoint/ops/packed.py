"""Packed maps: codes of less than eight bits, several to a byte, in the arena.

A pixel's channels lie in ``B = ceil(C / (8 / bits))`` bytes. Digit d of byte j, from the low bits
on, is channel ``d * B + j``: so that four neighbouring bytes hold, digit by digit, four
neighbouring channels, and a word is unpacked by a mask and a shift for every four codes.

Codes of three, five and six bits have two such fields one after the other: their low bits, two or
four, and the one or two bits above.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from binpoint.ir.graph import Value
from binpoint.ir.kernel import Buffer, KernelCall, Number, Work
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import IntArray, IntegerOp
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import U8, FixedType, TensorType
from binpoint.numeric.interval import Interval

_BYTE = 8
_FIELDS = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2)}
"""Bits of the fields of codes, the low ones first; of seven bits a byte is as good."""
PACKED = FixedType.per_tensor(U8, Dyadic.one())
"""The type of a packed map's bytes."""


@dataclass(frozen=True, slots=True)
class Bits:
    """Some bits of all codes of a pixel, as digits of bytes.

    Attributes:
        bits: of a digit: 1, 2 or 4.
        shift: the lowest of them in a code.
        start: the first of the pixel's bytes that has such digits.
        plane: how many bytes have them.
    """

    bits: int
    shift: int
    start: int
    plane: int

    @property
    def per_byte(self) -> int:
        """Digits in a byte."""
        return _BYTE // self.bits

    @property
    def mask(self) -> int:
        """The bits of a digit."""
        return (1 << self.bits) - 1


@dataclass(frozen=True, slots=True)
class Digits:
    """How the codes of a map lie in bytes.

    Attributes:
        bits: of a code: 1 to 6.
        signed: whether the codes are in two's complement.
        channels: of a pixel.
    """

    bits: int
    signed: bool
    channels: int

    @classmethod
    def of(cls, value: Value) -> Digits | None:
        """The fewest bits that hold the range of a map, if its type holds all such digits."""
        if not value.shape:
            return None
        for kind in (value.interval.int_type(), value.elem.storage):
            found = cls(kind.width, kind.signed, value.shape[-1])
            # Two's complement of as many bits may be no codes of a type without a sign.
            if kind.width in _FIELDS and Interval.of_type(value.elem.storage).contains(
                found.interval
            ):
                return found
        return None

    @property
    def fields(self) -> tuple[Bits, ...]:
        """The low bits, and what is above them."""
        found: list[Bits] = []
        shift, start = 0, 0
        for bits in _FIELDS[self.bits]:
            plane = -(-self.channels // (_BYTE // bits))
            found.append(Bits(bits, shift, start, plane))
            shift, start = shift + bits, start + plane
        return tuple(found)

    @property
    def single(self) -> bool:
        """Whether a code is one digit."""
        return len(self.fields) == 1

    @property
    def per_byte(self) -> int:
        """Digits in a byte of the low bits."""
        return self.fields[0].per_byte

    @property
    def plane(self) -> int:
        """Bytes of a pixel that have the low bits, and channels of a digit."""
        return self.fields[0].plane

    @property
    def pixel(self) -> int:
        """Bytes of a pixel."""
        return sum(field.plane for field in self.fields)

    @property
    def whole(self) -> bool:
        """Whether every byte is full."""
        return all(f.plane * f.per_byte == self.channels for f in self.fields)

    @property
    def words(self) -> bool:
        """Whether a code is one digit, and every word of four bytes of a pixel is full."""
        return self.single and self.whole and self.plane % 4 == 0

    @property
    def least(self) -> int:
        """The fewest channels that are a digit of the same place in bytes."""
        return min((self.channels - 1) % f.plane + 1 for f in self.fields)

    @property
    def offset(self) -> int:
        """What is added to a code so that its digits' order is the code's."""
        return 1 << (self.bits - 1) if self.signed else 0

    @property
    def interval(self) -> Interval:
        """All codes."""
        return Interval(-self.offset, (1 << self.bits) - 1 - self.offset)

    def packed(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the bytes of a map of this shape."""
        return (*shape[:-1], self.pixel)

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
            *(Number(n, f.plane) for n, f in zip(("plane", "above"), self.fields, strict=False)),
        )
        traits = (("digits", self.name), ("whole", "whole" if self.whole and self.single else ""))
        return KernelCall(stem, arguments, traits, formula=formula)

    @property
    def name(self) -> str:
        """Sign and bits: ``u4``."""
        return f"{'s' if self.signed else 'u'}{self.bits}"


def fields_of(name: str) -> tuple[int, ...]:
    """Bits of the fields of codes by their `Digits.name`."""
    return _FIELDS[int(name[1:])]


def map_bytes(shape: Sequence[int], bits: int) -> int:
    """What a map ``[…, C]`` of codes of so many bits takes in memory where it is packed."""
    return Digits(bits, False, shape[-1]).bytes(shape) if bits in _FIELDS else math.prod(shape)


@dataclass(frozen=True, slots=True)
class IntPack(IntegerOp):
    """byte[j] = Σ_d (x[d·B + j] mod 2^bits) · 2^(bits·d), for each pixel and field of its codes."""

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
        (x,) = inputs
        return (np.concatenate([_packed(x, f) for f in self.digits.fields], axis=-1),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """A weighted sum of slices; negative codes are moved up by a digit's range."""
        d = self.digits
        (x,) = inputs
        if d.signed:
            above = w.add(x, w.const(1 << d.bits))
            x = w.select(x, "Less", w.const(0), above, x)
            x = Tensor(x.name, x.shape, Interval(0, (1 << d.bits) - 1))
        axis = len(x.shape) - 1
        fields: list[Tensor] = []
        for field in d.fields:
            digits = x if d.single else _bits(w, x, field.shift, field.bits)
            missing = field.per_byte * field.plane - d.channels
            digits = w.pad(digits, (0,) * (axis + 1), (*(0,) * axis, missing), 0)
            total = w.const(0)
            for digit in range(field.per_byte):
                places = np.arange(field.plane, dtype=np.int64) + digit * field.plane
                part = w.take(digits, places, axis)
                total = w.add(total, w.mul(part, w.const(1 << (field.bits * digit))))
            fields.append(total)
        return (fields[0] if d.single else w.concat(fields, axis),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Byte by byte."""
        text = f"codes of {self.digits.bits} bits into bytes"
        return self.digits.call(self.stem, inputs[0], outputs[0], text)

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """A load for each code, a store for each byte."""
        return Work(loads=inputs[0].type.size, stores=outputs[0].type.size)


def _packed(x: IntArray, field: Bits) -> IntArray:
    """The bytes ``[…, plane]`` of some bits of codes ``[…, channels]``."""
    full = np.zeros((*x.shape[:-1], field.per_byte * field.plane), np.int64)
    full[..., : x.shape[-1]] = (x >> field.shift) & field.mask
    digits = full.reshape(*x.shape[:-1], field.per_byte, field.plane)
    weights = 1 << (field.bits * np.arange(field.per_byte, dtype=np.int64))
    return (digits * weights[:, None]).sum(axis=-2)


def _bits(w: OnnxWriter, x: Tensor, shift: int, bits: int) -> Tensor:
    """Bits of numbers of no less than zero: a quotient, less what it has of higher bits."""
    upper, here = w.floor_shift(x, shift + bits), w.floor_shift(x, shift)
    found = w.sub(here, w.mul(upper, w.const(1 << bits)))
    return Tensor(found.name, found.shape, Interval(0, (1 << bits) - 1))


@dataclass(frozen=True, slots=True)
class IntUnpack(IntegerOp):
    """x[d·B + j] = digit d of byte[j], for each pixel: the inverse of `IntPack`."""

    stem: ClassVar[str] = "unpack"

    digits: Digits
    result: FixedType

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The map of these bytes."""
        (x,) = inputs
        assert x.shape[-1] == self.digits.pixel, "a pixel has other bytes"
        storage = Interval.of_type(self.result.storage)
        assert storage.contains(self.digits.interval), "digits do not fit the type of the codes"
        return (TensorType(self.digits.unpacked(x.shape), self.result),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """All codes of a digit."""
        return (self.digits.interval,)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        d = self.digits
        (x,) = inputs
        code = np.zeros(d.unpacked(x.shape), np.int64)
        for field in d.fields:
            bytes_ = x[..., None, field.start : field.start + field.plane]
            shifts = field.bits * np.arange(field.per_byte, dtype=np.int64)
            digits = ((bytes_ >> shifts[:, None]) & field.mask).reshape(*x.shape[:-1], -1)
            code |= digits[..., : d.channels] << field.shift
        return ((code ^ d.offset) - d.offset,)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Sums of the bits of each field."""
        d = self.digits
        (x,) = inputs
        axis = len(x.shape) - 1
        channels = np.arange(d.channels, dtype=np.int64)
        whole = w.const(0)
        for field in d.fields:
            places = np.arange(field.start, field.start + field.plane, dtype=np.int64)
            bytes_ = x if d.single else w.take(x, places, axis)
            parts = [_bits(w, bytes_, n * field.bits, field.bits) for n in range(field.per_byte)]
            digits = w.take(w.concat(parts, axis), channels, axis)
            whole = w.add(whole, w.mul(digits, w.const(1 << field.shift)))
        whole = Tensor(whole.name, whole.shape, Interval(0, (1 << d.bits) - 1))
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
