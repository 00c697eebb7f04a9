"""The float32 definitions equal onnxruntime, code for code."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binpoint.errors import InvalidConstant, RangeOverflow
from binpoint.numeric import float32

Runner = Callable[..., npt.NDArray[np.int64]]
Rng = np.random.Generator
TYPES = pytest.mark.parametrize(("kind", "lo", "hi"), [("int8", -128, 127), ("uint8", 0, 255)])
FINITE = st.floats(
    width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**50), max_value=2.0**50
)


def scale(rng: Rng, low: float, high: float, *, binary: bool = False) -> np.float32:
    """Return a random scale between exp(low) and exp(high), or a power of two."""
    if binary:
        return np.float32(2.0 ** rng.integers(-7, -2))
    return np.float32(np.exp(rng.uniform(low, high)))


def operands(rng: Rng, lo: int, hi: int, *, binary: bool) -> list[tuple[np.float32, int]]:
    """Return scale and zero point of a, b and the output."""
    return [(scale(rng, -5, -1, binary=binary), int(rng.integers(lo, hi + 1))) for _ in range(3)]


def arguments(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    kind: str,
    quantization: list[tuple[np.float32, int]],
) -> list[tuple[npt.ArrayLike, str]]:
    """Return the inputs of a QLinear operator with two operands."""
    (sa, za), (sb, zb), (sc, zc) = quantization
    float_type = "float32"
    return [
        (a, kind), (sa, float_type), (za, kind), (b, kind),
        (sb, float_type), (zb, kind), (sc, float_type), (zc, kind),
    ]  # fmt: skip


def all_pairs(lo: int, hi: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return every pair of codes, flat."""
    codes = np.arange(lo, hi + 1)
    return np.repeat(codes, len(codes)), np.tile(codes, len(codes))


@TYPES
@pytest.mark.parametrize("operator", ["QLinearAdd", "QLinearMul"])
def test_add_and_mul_equal_onnxruntime_on_all_pairs(
    operator: str, kind: str, lo: int, hi: int, run_onnxruntime: Runner, generator: Rng
) -> None:
    a, b = all_pairs(lo, hi)
    define = {"QLinearAdd": float32.qlinear_add, "QLinearMul": float32.qlinear_mul}[operator]
    for index in range(20):
        quantization = operands(generator, lo, hi, binary=index % 4 == 0)
        (sa, za), (sb, zb), (sc, zc) = quantization
        want = run_onnxruntime(operator, arguments(a, b, kind, quantization), data=(0, 3))
        have = define(a, b, float(sa), za, float(sb), zb, float(sc), zc, lo, hi)
        np.testing.assert_array_equal(have, want)


@TYPES
@pytest.mark.parametrize(
    ("shape_a", "shape_b"),
    [
        ((256, 1), (1, 256)),
        ((1, 256), (256, 1)),
        ((2, 16, 1, 1), (2, 16, 8, 8)),
        ((2, 16, 8, 8), (2, 16, 1, 1)),
        ((1,), (512,)),
        ((512,), (1,)),
        ((64,), (8, 64)),
        ((8, 64), (64,)),
        ((1,), (1,)),
        ((8, 64, 1), (1, 64, 1)),
        ((1, 64, 1), (8, 64, 1)),
    ],
)
def test_add_broadcasts_as_onnxruntime(
    shape_a: tuple[int, ...],
    shape_b: tuple[int, ...],
    kind: str,
    lo: int,
    hi: int,
    run_onnxruntime: Runner,
    generator: Rng,
) -> None:
    for index in range(8):
        a = generator.integers(lo, hi + 1, shape_a)
        b = generator.integers(lo, hi + 1, shape_b)
        quantization = operands(generator, lo, hi, binary=index % 4 == 0)
        (sa, za), (sb, zb), (sc, zc) = quantization
        want = run_onnxruntime("QLinearAdd", arguments(a, b, kind, quantization), data=(0, 3))
        left, right = (a, float(sa), za), (b, float(sb), zb)
        if float32.add_swaps(shape_a, shape_b):
            left, right = right, left
        have = float32.qlinear_add(left[0], right[0], *left[1:], *right[1:], float(sc), zc, lo, hi)
        np.testing.assert_array_equal(have, want)


def test_swapping_the_operands_of_an_add_matters() -> None:
    a, b = all_pairs(0, 255)
    rng = np.random.default_rng(3)
    different = 0
    for _ in range(60):
        (sa, za), (sb, zb), (sc, zc) = operands(rng, 0, 255, binary=False)
        one = (float(sa), za, float(sb), zb, float(sc), zc, 0, 255)
        two = (float(sb), zb, float(sa), za, float(sc), zc, 0, 255)
        straight, swapped = float32.qlinear_add(a, b, *one), float32.qlinear_add(b, a, *two)
        different += int((straight != swapped).sum())
    assert 0 < different < 1000


@TYPES
def test_concat_table_equals_onnxruntime(
    kind: str, lo: int, hi: int, run_onnxruntime: Runner, generator: Rng
) -> None:
    codes = np.arange(lo, hi + 1)
    for _ in range(20):
        (sa, za), (sb, zb), (sc, zc) = operands(generator, lo, hi, binary=False)
        inputs = [
            (sc, "float32"), (zc, kind), (codes, kind), (sa, "float32"), (za, kind),
            (codes, kind), (sb, "float32"), (zb, kind),
        ]  # fmt: skip
        want = run_onnxruntime("QLinearConcat", inputs, {"axis": 0}, data=(2, 5))
        first = float32.concat_table(codes, float(sa), za, float(sc), zc, lo, hi)
        second = float32.concat_table(codes, float(sb), zb, float(sc), zc, lo, hi)
        np.testing.assert_array_equal(np.concatenate([first, second]), want)


@TYPES
def test_softmax_equals_onnxruntime(
    kind: str, lo: int, hi: int, run_onnxruntime: Runner, generator: Rng
) -> None:
    for index, length in enumerate((1, 2, 3, 4, 10, 17, 64, 199, 1000, 1500) * 3):
        codes = generator.integers(lo, hi + 1, (40_000 // length, length))
        sx = scale(generator, -7, 0)
        sy = np.float32((1 / 256, 1 / 255, 1 / 128, 0.0123, 1 / 1000)[index % 5])
        zy = (lo, int(generator.integers(lo, hi + 1)))[index % 2]
        inputs = [(codes, kind), (sx, "float32"), (0, kind), (sy, "float32"), (zy, kind)]
        want = run_onnxruntime("QLinearSoftmax", inputs, {"axis": -1, "opset": 13})
        have = float32.qlinear_softmax(codes, float(sx), float(sy), zy, lo, hi)
        np.testing.assert_array_equal(have, want)


def test_softmax_table_uses_the_logarithm_of_the_system() -> None:
    library = ctypes.CDLL(ctypes.util.find_library("m"))
    library.logf.restype, library.logf.argtypes = ctypes.c_float, [ctypes.c_float]
    largest = np.finfo(np.float32).max / np.arange(1, 5000, dtype=np.float32)
    theirs = [library.logf(float(value)) for value in largest]
    ours = np.log(largest.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(ours, np.array(theirs, dtype=np.float32))


@TYPES
def test_average_equals_onnxruntime(
    kind: str, lo: int, hi: int, run_onnxruntime: Runner, generator: Rng
) -> None:
    view = np.lib.stride_tricks.sliding_window_view
    for index in range(60):
        height, width = (int(v) for v in generator.integers(5, 14, 2))
        kh, kw = (int(v) for v in generator.integers(1, 5, 2))
        stride, include = int(generator.integers(1, 3)), index % 2
        pads = [int(v) for v in generator.integers(0, [kh, kw, kh, kw])]
        (sx, zx), (sy, zy), _ = operands(generator, lo, hi, binary=index % 5 == 0)
        x = generator.integers(lo, hi + 1, (1, 4, height, width))
        inputs = [(x, kind), (sx, "float32"), (zx, kind), (sy, "float32"), (zy, kind)]
        attributes = {
            "kernel_shape": [kh, kw],
            "strides": [stride, stride],
            "pads": pads,
            "count_include_pad": include,
        }
        want = run_onnxruntime("QLinearAveragePool", inputs, attributes)
        around = ((pads[0], pads[2]), (pads[1], pads[3]))
        padded = np.pad(x, ((0, 0), (0, 0), *around), constant_values=zx)
        ones = np.pad(np.ones((height, width), int), around, constant_values=include)
        windows = view(padded, (kh, kw), (2, 3))[:, :, ::stride, ::stride]
        count = view(ones, (kh, kw))[::stride, ::stride].sum((-1, -2))
        have = float32.qlinear_average(
            windows.reshape(*want.shape, kh * kw), count, float(sx), zx, float(sy), zy, lo, hi
        )
        np.testing.assert_array_equal(have, want)


@TYPES
def test_global_average_equals_onnxruntime(
    kind: str, lo: int, hi: int, run_onnxruntime: Runner, generator: Rng
) -> None:
    for index in range(30):
        height, width = (int(v) for v in generator.integers(1, 20, 2))
        (sx, zx), (sy, zy), _ = operands(generator, lo, hi, binary=False)
        sy = sx if index % 2 else sy
        x = generator.integers(lo, hi + 1, (2, 64, height, width))
        inputs = [(x, kind), (sx, "float32"), (zx, kind), (sy, "float32"), (zy, kind)]
        want = run_onnxruntime("QLinearGlobalAveragePool", inputs, {"channels_last": 0})
        factor = float32.average_scale(sx, sy, height * width)
        total = (x - zx).sum((2, 3), keepdims=True)
        np.testing.assert_array_equal(float32.requantize(total, factor, zy, lo, hi), want)


@TYPES
def test_requantize_equals_onnxruntime_matmul(
    kind: str, lo: int, hi: int, run_onnxruntime: Runner, generator: Rng
) -> None:
    for _ in range(20):
        depth, columns = int(generator.integers(1, 600)), 50
        (sx, zx), _, (_, zy) = operands(generator, lo, hi, binary=False)
        a = generator.integers(lo, hi + 1, (200, depth))
        b = generator.integers(lo, hi + 1, (depth, columns))
        sw = np.exp(generator.uniform(-6, -3, columns)).astype(np.float32)
        sy = scale(generator, -3, 1)
        zero = np.zeros(columns, dtype=np.int64)
        inputs = [
            (a, kind), (sx, "float32"), (zx, kind), (b, kind), (sw, "float32"), (zero, kind),
            (sy, "float32"), (zy, kind),
        ]  # fmt: skip
        want = run_onnxruntime("QLinearMatMul", inputs, domain="")
        factor = float32.requantize_scale(sx, sw, sy)
        have = float32.requantize((a - zx) @ b, factor, zy, lo, hi)
        np.testing.assert_array_equal(have, want)


@TYPES
def test_quantize_and_dequantize_equal_onnxruntime(
    kind: str, lo: int, hi: int, run_onnxruntime: Runner, generator: Rng
) -> None:
    codes = np.arange(lo, hi + 1)
    for _ in range(20):
        step, zero = scale(generator, -8, 2), int(generator.integers(lo, hi + 1))
        ties = (generator.integers(-300, 300, 4000) + 0.5) * step
        x = np.concatenate([generator.normal(0, 100 * step, 4000), ties]).astype(np.float32)
        x = np.concatenate([x, np.nextafter(x, np.float32(np.inf)), -x, [np.inf, -np.inf, 0.0]])
        inputs = [(x, "float32"), (step, "float32"), (zero, kind)]
        want = run_onnxruntime("QuantizeLinear", inputs, domain="")
        have = float32.quantize_linear(x.astype(np.float32), step, zero, lo, hi)
        np.testing.assert_array_equal(have, want)
        inputs = [(codes, kind), (step, "float32"), (zero, kind)]
        want = run_onnxruntime("DequantizeLinear", inputs, domain="")
        np.testing.assert_array_equal(float32.dequantize_linear(codes, step, zero), want)


def nearest_float32(value: Fraction) -> np.float32:
    """Return the float32 nearest to an exact value, ties to even, by comparing neighbours."""
    guess = np.float32(float(value))
    candidates = [
        guess,
        np.nextafter(guess, np.float32(-3e38)),
        np.nextafter(guess, np.float32(3e38)),
    ]
    return min(
        candidates,
        key=lambda c: (abs(Fraction(float(c)) - value), int(np.array(c).view(np.int32)) & 1),
    )


@given(FINITE, FINITE, FINITE)
def test_fma_rounds_once(a: float, b: float, c: float) -> None:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    have = np.float32(float32.fma(a, b, c))
    assert have == nearest_float32(exact)


@given(st.integers(-128, 255), st.integers(2**23, 2**24 - 1), st.integers(-40, 8), st.data())
def test_fma_rounds_once_next_to_ties(a: int, m: int, e: int, data: st.DataObject) -> None:
    ratio = np.ldexp(np.float32(m), e - 23)
    product = Fraction(a) * Fraction(float(ratio))
    goal = Fraction(data.draw(st.integers(2**23, 2**24 - 1)) * 2 + 1, 2) * Fraction(2) ** (e - 16)
    addend = nearest_float32(goal - product)
    have = np.float32(float32.fma(a, ratio, addend))
    assert have == nearest_float32(product + Fraction(float(addend)))


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.inf, np.nan, 1e-60, 1e60, 0.1])
def test_a_scale_must_be_a_positive_float32(wrong: float) -> None:
    with pytest.raises(InvalidConstant):
        float32.float32_scale(wrong)


def test_what_the_runtime_would_wrap_is_refused() -> None:
    with pytest.raises(RangeOverflow):
        float32.requantize([2**31], np.float32(0.5), 0, -128, 127)
    with pytest.raises(RangeOverflow):
        float32.quantize_linear([np.nan], 0.5, 0, -128, 127)
    with pytest.raises(RangeOverflow):
        float32.qlinear_softmax([[1, 2]], 0.5, float(np.float32(2.0**-30)), 0, 0, 255)
    with pytest.raises(InvalidConstant):
        float32.requantize_scale(np.float32(1e-30), np.float32(1e-30), np.float32(1e30))
