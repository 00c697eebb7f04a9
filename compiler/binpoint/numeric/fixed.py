"""Types of numbers: integers of any width, fixed point over them, tensors of either."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from binpoint.errors import InvalidConstant, InvariantBroken, RangeOverflow
from binpoint.numeric.dyadic import Dyadic

_INT_TEXT = re.compile(r"([iu])([1-9][0-9]?)")
_FIXED_TEXT = re.compile(
    r"(?P<storage>[iu][0-9]+)@(?P<scale>2\^\[[^\]]*\]|\[[^\]]*\]|[^,:\[]+)"
    r"(?:,zp=(?P<zero>-?[0-9]+|\[[^\]]*\]))?(?::axis(?P<axis>[0-9]+))?"
)
_FLOAT64_BITS: Final = 53


@dataclass(frozen=True, slots=True)
class IntType:
    """An integer of 1 to 64 bits, two's complement if signed."""

    width: int
    signed: bool

    def __post_init__(self) -> None:
        if not 1 <= self.width <= 64:
            raise RangeOverflow("an integer type has 1 to 64 bits", have=str(self.width))

    @property
    def min(self) -> int:
        """The smallest value."""
        return -(1 << (self.width - 1)) if self.signed else 0

    @property
    def max(self) -> int:
        """The largest value."""
        return (1 << (self.width - int(self.signed))) - 1

    @property
    def dtype(self) -> np.dtype[np.integer]:
        """The smallest numpy type that holds every value."""
        bits = max(8, 1 << (self.width - 1).bit_length())
        return np.dtype(f"{'int' if self.signed else 'uint'}{bits}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form, ``i8`` or ``u4``."""
        match = _INT_TEXT.fullmatch(text)
        if match is None:
            raise InvalidConstant("not an integer type", have=text, want="i1 to i64 or u1 to u64")
        return cls(int(match[2]), match[1] == "i")

    def __str__(self) -> str:
        """Return the text form, ``i8`` or ``u4``."""
        return f"{'i' if self.signed else 'u'}{self.width}"


I8: Final = IntType(8, signed=True)
U8: Final = IntType(8, signed=False)
I16: Final = IntType(16, signed=True)
U16: Final = IntType(16, signed=False)
I32: Final = IntType(32, signed=True)
I64: Final = IntType(64, signed=True)


@dataclass(frozen=True, slots=True)
class FixedType:
    """Fixed point: ``real = (stored - zero_point) * scale``, per tensor or along one axis.

    Args:
        storage: the stored integer.
        scales: one, or with ``axis`` one per channel.
        zero_points: one for all, or with ``axis`` one per channel (equal ones are kept as one).
        axis: the channel axis, counted from the front; None for one scale per tensor.
    """

    storage: IntType
    scales: tuple[Dyadic, ...]
    zero_points: tuple[int, ...] = (0,)
    axis: int | None = None

    def __post_init__(self) -> None:
        if len(set(self.zero_points)) == 1:
            object.__setattr__(self, "zero_points", self.zero_points[:1])
        if self.axis is None and (len(self.scales), len(self.zero_points)) != (1, 1):
            raise InvariantBroken(
                "a per-tensor type has one scale and one zero point", have=str(self)
            )
        if self.axis is not None and self.axis < 0:
            raise InvariantBroken("the channel axis is counted from the front", have=str(self.axis))
        if not self.scales or len(self.zero_points) not in (1, len(self.scales)):
            raise InvariantBroken(
                "a per-channel type has per channel one scale, and one zero point in all or each",
                have=f"{len(self.scales)} scales, {len(self.zero_points)} zero points",
            )
        outside = [z for z in self.zero_points if not self.storage.min <= z <= self.storage.max]
        if outside:
            raise RangeOverflow(
                "a zero point lies outside its integer type",
                have=str(outside[0]),
                want=f"{self.storage.min} to {self.storage.max} ({self.storage})",
            )

    @classmethod
    def per_tensor(cls, storage: IntType, scale: Dyadic, zero_point: int = 0) -> Self:
        """Return a type with one scale."""
        return cls(storage, (scale,), (zero_point,))

    @property
    def scale(self) -> Dyadic:
        """The scale of a per-tensor type."""
        self._require_per_tensor()
        return self.scales[0]

    @property
    def zero_point(self) -> int:
        """The zero point of a per-tensor type."""
        self._require_per_tensor()
        return self.zero_points[0]

    @property
    def channels(self) -> int:
        """The number of scales: 1 per tensor."""
        return len(self.scales)

    def with_storage(self, storage: IntType) -> FixedType:
        """Return the same scales and zero points over another integer type."""
        return replace(self, storage=storage)

    def quantize(self, x: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return ``saturate(rint(x / scale) + zero_point)`` as int64, in the shape of ``x``.

        The division is float64 (correctly rounded), ties go to even, infinities saturate.

        Raises:
            RangeOverflow: ``x`` holds NaN, or the storage has more than 53 bits and either a zero
                point or values that int64 cannot hold.
        """
        values = np.asarray(x, dtype=np.float64)
        if np.isnan(values).any():
            raise RangeOverflow("NaN cannot be quantized", want="finite values or infinities")
        if self.storage.width > _FLOAT64_BITS and (
            any(self.zero_points) or self.storage.max > I64.max
        ):
            raise RangeOverflow("the type is too wide to quantize floats into", have=str(self))
        scales, zeros = self._broadcast(values.ndim)
        with np.errstate(over="ignore"):
            codes = np.rint(values / scales)
        low, high = self.storage.min - zeros, self.storage.max - zeros
        below, above = codes <= low.astype(np.float64), codes >= high.astype(np.float64)
        inside = np.where(below | above, 0.0, codes).astype(np.int64)
        return np.where(below, low, np.where(above, high, inside)) + zeros

    def dequantize(self, q: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return ``(q - zero_point) * scale`` as float64, in the shape of ``q``."""
        codes = np.asarray(q).astype(np.int64)
        scales, zeros = self._broadcast(codes.ndim)
        return (codes - zeros).astype(np.float64) * scales

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form: ``i8@2^-5``, ``u8@1447*2^-16,zp=3``, ``i4@2^[-3,-4]:axis0``."""
        match = _FIXED_TEXT.fullmatch(text)
        if match is None:
            raise InvalidConstant("not a fixed-point type", have=text, want="such as u8@2^-7,zp=3")
        axis = None if match["axis"] is None else int(match["axis"])
        zeros = tuple(_parse_int(part) for part in (match["zero"] or "0").strip("[]").split(","))
        return cls(IntType.parse(match["storage"]), _parse_scales(match["scale"]), zeros, axis)

    def __str__(self) -> str:
        """Return the notation that ``parse`` reads: ``i8@2^-5``, ``i4@2^[-3,-4]:axis0``."""
        text = f"{self.storage}@{self._scales_text()}"
        if any(self.zero_points):
            zeros = ",".join(map(str, self.zero_points))
            text += f",zp={zeros}" if len(self.zero_points) == 1 else f",zp=[{zeros}]"
        return text if self.axis is None else f"{text}:axis{self.axis}"

    def _scales_text(self) -> str:
        if self.axis is None and len(self.scales) == 1:
            return str(self.scales[0])
        if all(scale.is_power_of_two for scale in self.scales):
            return f"2^[{','.join(str(scale.exponent) for scale in self.scales)}]"
        return f"[{','.join(map(str, self.scales))}]"

    def _require_per_tensor(self) -> None:
        if self.axis is not None:
            raise InvariantBroken(
                "a per-channel type has no single scale or zero point", have=str(self)
            )

    def _broadcast(self, rank: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        scales = np.array([float(scale) for scale in self.scales], dtype=np.float64)
        zeros = np.array(self.zero_points, dtype=np.int64)
        if self.axis is None:
            return scales.reshape(()), zeros.reshape(())
        if self.axis >= rank:
            raise InvariantBroken(
                "the channel axis lies outside the tensor", have=f"{self}, rank {rank}"
            )
        shape = tuple(-1 if i == self.axis else 1 for i in range(rank))
        return scales.reshape(shape), zeros.reshape(shape)


@dataclass(frozen=True, slots=True)
class FloatType:
    """IEEE float32, the type of values that have no integer type yet."""

    width: int = 32

    def __post_init__(self) -> None:
        if self.width != 32:
            raise InvariantBroken("the only float type is float32", have=f"f{self.width}")

    def __str__(self) -> str:
        """Return ``f32``."""
        return f"f{self.width}"


@dataclass(frozen=True, slots=True)
class TensorType:
    """A static shape and the type of its elements."""

    shape: tuple[int, ...]
    elem: FloatType | FixedType

    def __post_init__(self) -> None:
        if any(dim < 0 for dim in self.shape):
            raise InvariantBroken("a dimension is negative", have=str(self.shape))
        elem = self.elem
        if isinstance(elem, FloatType) or elem.axis is None:
            return
        if elem.axis >= len(self.shape) or self.shape[elem.axis] != elem.channels:
            raise InvariantBroken(
                "the channel axis does not fit the shape",
                have=f"{elem} of shape {list(self.shape)}",
                want=f"{elem.channels} elements along axis {elem.axis}",
            )

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        """Return shape and element, ``[1,3,8,8] i8@2^-5``."""
        return f"[{','.join(map(str, self.shape))}] {self.elem}"


def _parse_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidConstant("not an integer", have=text) from None


def _parse_scales(text: str) -> tuple[Dyadic, ...]:
    if text.startswith("2^["):
        return tuple(Dyadic(1, _parse_int(part)) for part in text[3:-1].split(","))
    return tuple(Dyadic.parse(part) for part in text.strip("[]").split(","))
