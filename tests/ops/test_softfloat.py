from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from binpoint.ir.op import Semantics
from binpoint.numeric.fixed import U8
from binpoint.ops.softmax import Softmax, share_type
from binpoint.sim.host_c import WARNINGS
from tests.ops.kernels import Bench

Bits = npt.NDArray[np.uint32]
_COUNT = 400_000
_WRAPPER = """
#define TWO(name) \\
    void apply_##name(const uint32_t *a, const uint32_t *b, uint32_t *y, size_t n); \\
    void apply_##name(const uint32_t *a, const uint32_t *b, uint32_t *y, size_t n) \\
    { for (size_t i = 0; i < n; ++i) { y[i] = bp_f32_##name(a[i], b[i]); } }
TWO(add) TWO(sub) TWO(mul) TWO(div)
void apply_from_int(const int32_t *a, uint32_t *y, size_t n);
void apply_from_int(const int32_t *a, uint32_t *y, size_t n)
{ for (size_t i = 0; i < n; ++i) { y[i] = bp_f32_from_int(a[i]); } }
void apply_to_int(const uint32_t *a, int32_t *y, size_t n);
void apply_to_int(const uint32_t *a, int32_t *y, size_t n)
{ for (size_t i = 0; i < n; ++i) { y[i] = bp_f32_to_int(a[i]); } }
void apply_round24(const int64_t *a, int64_t *y, size_t n);
void apply_round24(const int64_t *a, int64_t *y, size_t n)
{ for (size_t i = 0; i < n; ++i) { y[i] = bp_round24(a[i]); } }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("softfloat")
    bench = Bench()
    kind = share_type(U8)
    bench.lower(Softmax(0), [bench.input((4,), kind)], kind, Semantics.ONNXRUNTIME)
    bench.project()[1].write(folder / "c")
    (header,) = (folder / "c").glob("*_kernels.h")
    text = f'#include "c/{header.name}"\n{_WRAPPER}'
    (folder / "t.c").write_text(text, encoding="utf-8")
    flags = [
        "-std=c99",
        "-O1",
        "-shared",
        "-fPIC",
        "-fsanitize=undefined",
        *WARNINGS,
        "-Wno-unused-function",
    ]
    words = ["gcc", *flags, "-fno-sanitize-recover=all", "t.c", "-o", "t.so"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(folder / "t.so"))


def call(library: ctypes.CDLL, name: str, *arrays: npt.NDArray[np.generic]) -> None:
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in arrays]
    getattr(library, f"apply_{name}")(*pointers, ctypes.c_size_t(arrays[0].size))


def operands(rng: np.random.Generator, count: int) -> Bits:
    """Every exponent, subnormals, zeros, few-bit and all-ones mantissas; no infinities."""
    exponent = rng.integers(0, 255, count)
    near = rng.integers(100, 155, count)
    exponent = np.where(rng.random(count) < 0.5, exponent, near)
    mantissa = rng.integers(0, 2**23, count)
    mantissa = np.where(
        rng.random(count) < 0.2, mantissa & (-1 << rng.integers(1, 23, count)), mantissa
    )
    mantissa = np.where(rng.random(count) < 0.05, 2**23 - 1, mantissa)
    mantissa = np.where(rng.random(count) < 0.05, 0, mantissa)
    sign = rng.integers(0, 2, count)
    return (sign << 31 | exponent << 23 | mantissa).astype(np.uint32)


OPERATORS: dict[str, Callable[[npt.NDArray[np.float32], npt.NDArray[np.float32]], object]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
}


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("name", list(OPERATORS))
def test_arithmetic_is_that_of_ieee(
    name: str, library: ctypes.CDLL, rng: np.random.Generator
) -> None:
    a, b = operands(rng, _COUNT), operands(rng, _COUNT)
    close = rng.random(_COUNT) < 0.3
    steps = rng.integers(-3, 4, _COUNT)
    b = np.where(close, (a.astype(np.int64) ^ (rng.integers(0, 2, _COUNT) << 31)) + steps, b)
    b = b.astype(np.uint32)
    b[(b >> 23 & 255) == 255] = 0x3F800000
    if name == "div":
        b[b << 1 == 0] = 0x3F800000
    found = np.zeros(_COUNT, np.uint32)
    call(library, name, a, b, found)
    with np.errstate(all="ignore"):
        wanted = np.asarray(OPERATORS[name](a.view(np.float32), b.view(np.float32)), np.float32)
    np.testing.assert_array_equal(found, wanted.view(np.uint32))


@pytest.mark.needs("gcc")
def test_integers_become_floats_and_back(library: ctypes.CDLL, rng: np.random.Generator) -> None:
    whole = rng.integers(-(2**31), 2**31, _COUNT).astype(np.int32) >> rng.integers(0, 31, _COUNT)
    whole = whole.astype(np.int32)
    found = np.zeros(_COUNT, np.uint32)
    call(library, "from_int", whole, found)
    np.testing.assert_array_equal(found, whole.astype(np.float32).view(np.uint32))
    bits = operands(rng, _COUNT)
    bits[:4] = [0x7F800000, 0xFF800000, 0x4F000000, 0xCF000000]
    halves = (rng.integers(-(2**20), 2**20, _COUNT // 2) + 0.5).astype(np.float32)
    bits[_COUNT // 2 :] = halves.view(np.uint32)
    back = np.zeros(_COUNT, np.int32)
    call(library, "to_int", bits, back)
    real = np.rint(bits.view(np.float32).astype(np.float64))
    np.testing.assert_array_equal(back, np.clip(real, -(2**31), 2**31 - 1).astype(np.int64))


@pytest.mark.needs("gcc")
def test_wide_integers_are_rounded_to_24_bits(
    library: ctypes.CDLL, rng: np.random.Generator
) -> None:
    values = rng.integers(-(2**62), 2**62, _COUNT) >> rng.integers(0, 62, _COUNT)
    ties = (rng.integers(2**23, 2**24, 1000) * 2 + 1) << rng.integers(0, 36, 1000)
    values[:1000] = ties
    found = np.zeros(_COUNT, np.int64)
    call(library, "round24", values, found)
    np.testing.assert_array_equal(found, values.astype(np.float32).astype(np.int64))
