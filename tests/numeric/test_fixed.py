"""Integer and fixed-point types: limits, notation, quantizing."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binpoint.errors import BinpointError, InvariantBroken, RangeOverflow
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import (
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    FixedType,
    FloatType,
    IntType,
    TensorType,
)

INTEGERS = st.builds(IntType, st.integers(1, 64), signed=st.booleans())
SCALES = st.builds(Dyadic.of, st.integers(1, 2**24), st.integers(-60, 20))


@st.composite
def fixed_types(draw: st.DrawFn) -> FixedType:
    """Draw a type of up to 32 bits, per tensor or per channel."""
    storage = draw(st.builds(IntType, st.integers(1, 32), signed=st.booleans()))
    zero = st.integers(storage.min, storage.max)
    if draw(st.booleans()):
        return FixedType.per_tensor(storage, draw(SCALES), draw(zero))
    scales = draw(st.lists(SCALES, min_size=1, max_size=5))
    zeros = draw(
        st.one_of(st.lists(zero, min_size=len(scales), max_size=len(scales)), st.just([0]))
    )
    return FixedType(storage, tuple(scales), tuple(zeros), draw(st.integers(0, 3)))


@given(INTEGERS)
def test_limits_and_dtype_hold_exactly_the_values(storage: IntType) -> None:
    assert storage.max - storage.min + 1 == 2**storage.width
    assert (storage.min < 0) == storage.signed
    info = np.iinfo(storage.dtype)
    assert int(info.min) <= storage.min
    assert storage.max <= int(info.max)
    assert info.bits == 8 or info.bits // 2 < storage.width
    assert IntType.parse(str(storage)) == storage


def test_named_types() -> None:
    assert [str(t) for t in (I8, U8, I16, U16, I32, I64)] == [
        "i8",
        "u8",
        "i16",
        "u16",
        "i32",
        "i64",
    ]
    assert (I8.min, I8.max, U8.max, I64.max) == (-128, 127, 255, 2**63 - 1)


@pytest.mark.parametrize("text", ["i0", "i65", "8", "s8", "i08", "u", "I8"])
def test_no_other_text_is_an_integer_type(text: str) -> None:
    with pytest.raises(BinpointError):
        IntType.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "i8@2^-5",
        "u8@2^-7,zp=3",
        "i8@1447*2^-16",
        "i4@2^[-3,-4,-3,-5]:axis0",
        "i8@[3*2^-3,2^1],zp=[1,-2]:axis1",
        "i32@2^[-12]:axis0",
    ],
)
def test_notation_reads_back(text: str) -> None:
    assert str(FixedType.parse(text)) == text


@given(fixed_types())
def test_every_type_reads_back(kind: FixedType) -> None:
    assert FixedType.parse(str(kind)) == kind


@pytest.mark.parametrize(
    "text",
    [
        "i8",
        "i8@",
        "i8@2^[1,2]",
        "i8@2^[x]:axis0",
        "i8@2^[1,]:axis0",
        "i8@2^-5,zp=300",
        "i8@2^-5,zp=",
        "i8@[x]:axis0",
        "i8@2^0:axis",
    ],
)
def test_no_other_text_is_a_type(text: str) -> None:
    with pytest.raises(BinpointError):
        FixedType.parse(text)


def code(value: float, kind: FixedType) -> int:
    """Return the code of a value in exact arithmetic."""
    nearest = round(Fraction(value) / kind.scale.as_fraction()) + kind.zero_point
    return min(max(nearest, kind.storage.min), kind.storage.max)


@given(
    st.builds(IntType, st.integers(1, 32), signed=st.booleans()),
    st.integers(-40, 20),
    st.lists(st.floats(-1e6, 1e6, width=32), max_size=20),
    st.data(),
)
def test_quantizing_to_a_binary_point_is_exact(
    storage: IntType, exponent: int, values: list[float], data: st.DataObject
) -> None:
    zero = data.draw(st.integers(storage.min, storage.max))
    kind = FixedType.per_tensor(storage, Dyadic(1, exponent), zero)
    assert kind.quantize(values).tolist() == [code(value, kind) for value in values]


@given(fixed_types(), st.data())
def test_codes_survive_a_round_trip(kind: FixedType, data: st.DataObject) -> None:
    shape = [2] * 4
    if kind.axis is not None:
        shape[kind.axis] = kind.channels
    codes = np.random.default_rng(data.draw(st.integers(0, 99))).integers(
        kind.storage.min, kind.storage.max, shape, endpoint=True
    )
    real = kind.dequantize(codes)
    np.testing.assert_array_equal(kind.quantize(real), codes)


def test_quantizing_saturates_and_rounds_to_even() -> None:
    kind = FixedType.parse("i8@2^0")
    assert kind.quantize([np.inf, -np.inf, 0.5, 1.5, -2.5, 127.5, 1e300]).tolist() == [
        127, -128, 0, 2, -2, 127, 127,
    ]  # fmt: skip
    assert FixedType.parse("i64@2^0").quantize([1e30, -1e30, 5]).tolist() == [I64.max, I64.min, 5]


def test_what_cannot_be_quantized_is_refused() -> None:
    with pytest.raises(RangeOverflow):
        FixedType.parse("i8@2^0").quantize([np.nan])
    with pytest.raises(RangeOverflow):
        FixedType.parse("u64@2^0").quantize([1.0])
    with pytest.raises(RangeOverflow):
        FixedType.parse("i64@2^0,zp=1").quantize([1.0])
    with pytest.raises(InvariantBroken):
        FixedType.parse("i8@2^[1,2]:axis2").quantize([1.0])


def test_a_type_is_consistent() -> None:
    one, two = Dyadic(1, 0), Dyadic(1, 1)
    with pytest.raises(InvariantBroken):
        FixedType(I8, (one, two))
    with pytest.raises(InvariantBroken):
        FixedType(I8, (one, two), (1, 2, 3), 0)
    with pytest.raises(InvariantBroken):
        FixedType(I8, (), (0,), 0)
    with pytest.raises(InvariantBroken):
        FixedType(I8, (one,), (0,), -1)
    with pytest.raises(RangeOverflow):
        FixedType.per_tensor(I8, one, 128)
    per_channel = FixedType(I8, (one, two), (3, 3), 0)
    assert per_channel.zero_points == (3,)
    assert per_channel.channels == 2
    with pytest.raises(InvariantBroken):
        _ = per_channel.scale
    with pytest.raises(InvariantBroken):
        _ = per_channel.zero_point
    assert str(per_channel.with_storage(I32)) == "i32@2^[0,1],zp=3:axis0"


def test_tensor_types() -> None:
    assert TensorType((2, 3), FloatType()).size == 6
    assert TensorType((), FloatType()).size == 1
    kind = FixedType.parse("i8@2^[0,1]:axis1")
    assert str(TensorType((5, 2), kind)) == "[5,2] i8@2^[0,1]:axis1"
    assert str(TensorType((5, 2), FloatType())) == "[5,2] f32"
    for shape in ((2, 5), (2,), (-1, 2)):
        with pytest.raises(InvariantBroken):
            TensorType(shape, kind)
    with pytest.raises(InvariantBroken):
        FloatType(64)
