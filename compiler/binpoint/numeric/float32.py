"""The quantized operators of onnxruntime's CPU kernels, as exact numpy float32 arithmetic.

These are definitions: whatever integer form the compiler emits is proved or tested equal to them,
and the tests compare them with onnxruntime itself (x86-64 with FMA). Every float operation below
is one IEEE float32 rounding, in the order in which the runtime does it. ``fl`` is rounding to
float32, ``rne`` rounding to an integer with ties to even. Codes are int64 arrays of the stored
values; scales are float32; ``lo`` and ``hi`` are the ends of the output type.
"""

# ruff: noqa: PLR0913  (the functions take what the operators take)

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from binpoint.errors import InvalidConstant, RangeOverflow

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_INT32_MIN = -(2**31)
_INT32_MAX = 2**31 - 1
_LARGEST_FACTOR = 2.0**27


def float32_scale(value: npt.ArrayLike) -> Floats:
    """Return scales as float32; InvalidConstant unless positive, finite and exact."""
    given = np.asarray(value)
    with np.errstate(over="ignore"):
        scale = given.astype(np.float32)
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise InvalidConstant("a scale must be a positive finite float32", have=str(given))
    if (scale != given).any():
        raise InvalidConstant(
            "a scale is no float32", have=str(given), hint="round it to float32 first"
        )
    return scale


def requantize_scale(
    sx: npt.ArrayLike, sw: npt.ArrayLike, sy: npt.ArrayLike, alpha: float = 1.0
) -> Floats:
    """Return ``fl(fl(fl(alpha * sx) * sw) / sy)``: the factor from an accumulator to output steps.

    Used by QLinearConv, QLinearMatMul and, with ``alpha``, QGemm.

    Args:
        sx: input scale.
        sw: weight scale, or one per channel.
        sy: output scale.
        alpha: the factor of QGemm.
    """
    x, w, y = float32_scale(sx), float32_scale(sw), float32_scale(sy)
    with np.errstate(over="ignore", under="ignore"):
        return float32_scale(float32_scale(alpha) * x * w / y)


def average_scale(sx: npt.ArrayLike, sy: npt.ArrayLike, count: int) -> Floats:
    """Return ``fl(sx / fl(sy * fl(count)))``: the factor of QLinearGlobalAveragePool."""
    with np.errstate(over="ignore", under="ignore"):
        return float32_scale(float32_scale(sx) / (float32_scale(sy) * np.float32(count)))


def requantize(acc: npt.ArrayLike, scale: npt.ArrayLike, zero_point: int, lo: int, hi: int) -> Ints:
    """Return ``rne(clamp(fl(fl(acc) * scale), lo - zp, hi - zp)) + zp``, broadcasting.

    Source: MlasRequantizeOutput of onnxruntime, used by QLinearConv, QLinearMatMul, QGemm and
    QLinearGlobalAveragePool. It is monotone in ``acc``.

    Raises:
        RangeOverflow: an accumulator lies outside int32, where the runtime would wrap.
    """
    codes = np.asarray(acc, dtype=np.int64)
    if codes.size and not (int(codes.min()) >= _INT32_MIN and int(codes.max()) <= _INT32_MAX):
        raise RangeOverflow(
            "an accumulator exceeds int32", have=f"{codes.min()} to {codes.max()}", want="int32"
        )
    with np.errstate(over="ignore", under="ignore"):
        real = codes.astype(np.float32) * np.asarray(scale, dtype=np.float32)
    clamped = np.clip(real, np.float32(lo - zero_point), np.float32(hi - zero_point))
    return np.rint(clamped).astype(np.int64) + zero_point


def quantize_linear(
    x: npt.ArrayLike, scale: npt.ArrayLike, zero_point: int, lo: int, hi: int
) -> Ints:
    """Return QuantizeLinear, ``clamp(rne(fl(x / scale)) + zp, lo, hi)``: a true division.

    Raises:
        RangeOverflow: ``x`` holds NaN.
    """
    values = np.asarray(x, dtype=np.float32)
    if np.isnan(values).any():
        raise RangeOverflow("NaN cannot be quantized", want="finite values or infinities")
    with np.errstate(over="ignore", under="ignore"):
        steps = np.rint(values / float32_scale(scale))
    return np.clip(steps, lo - zero_point, hi - zero_point).astype(np.int64) + zero_point


def dequantize_linear(q: npt.ArrayLike, scale: npt.ArrayLike, zero_point: int) -> Floats:
    """Return DequantizeLinear, ``fl(fl(q - zp) * scale)``."""
    codes = np.asarray(q, dtype=np.int64) - zero_point
    with np.errstate(under="ignore"):
        return codes.astype(np.float32) * float32_scale(scale)


def concat_table(
    codes: npt.ArrayLike, sx: float, zx: int, sy: float, zy: int, lo: int, hi: int
) -> Ints:
    """Return what QLinearConcat makes of each input code: dequantize, then quantize.

    The runtime copies where scale and zero point agree, which the formula gives as well.
    """
    return quantize_linear(dequantize_linear(codes, sx, zx), sy, zy, lo, hi)


def fma(a: npt.ArrayLike, b: npt.ArrayLike, c: npt.ArrayLike) -> Floats:
    """Return the float32 fused multiply-add ``fl(a * b + c)`` with a single rounding.

    The product of two float32 is exact in float64; the sum is rounded to odd there (its exact error
    comes from the two-sum of Knuth), after which rounding to float32 cannot round twice, because
    53 >= 24 + 2 (Boldo and Melquiond, 2008).
    """
    product = np.asarray(a, dtype=np.float32).astype(np.float64) * np.asarray(b, dtype=np.float32)
    addend = np.asarray(c, dtype=np.float32).astype(np.float64)
    total = product + addend
    back = total - product
    error = (product - (total - back)) + (addend - back)
    even = (total.view(np.int64) & 1) == 0
    odd = np.where(
        (error != 0) & even, np.nextafter(total, np.where(error > 0, np.inf, -np.inf)), total
    )
    with np.errstate(over="ignore", under="ignore"):
        return odd.astype(np.float32)


def add_ratios(
    sa: float, za: int, sb: float, zb: int, sc: float, zc: int
) -> tuple[np.float32, np.float32, np.float32]:
    """Return rA, rB and the constant f of QLinearAdd.

    ``rA = fl(sa / sc)``, ``rB = fl(sb / sc)``, ``f = fl(zc - fma(rA, za, fl(rB * zb)))``.
    """
    c = float32_scale(sc)
    with np.errstate(over="ignore", under="ignore"):
        ra, rb = float32_scale(float32_scale(sa) / c), float32_scale(float32_scale(sb) / c)
    offset = np.float32(zc) - fma(ra, za, rb * np.float32(zb))
    return np.float32(ra), np.float32(rb), np.float32(offset)


def qlinear_add(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    sa: float,
    za: int,
    sb: float,
    zb: int,
    sc: float,
    zc: int,
    lo: int,
    hi: int,
) -> Ints:
    """Return QLinearAdd, ``clamp(rne(fma(a, rA, fma(b, rB, f))), lo, hi)`` (see ``add_ratios``).

    Not symmetric: where the runtime broadcasts ``a`` within its innermost run of elements it swaps
    the operands (``add_swaps`` tells), and the caller must do the same.
    """
    ra, rb, offset = add_ratios(sa, za, sb, zb, sc, zc)
    return _saturate(fma(a, ra, fma(b, rb, offset)), lo, hi)


def add_swaps(shape_a: tuple[int, ...], shape_b: tuple[int, ...]) -> bool:
    """Whether QLinearAdd computes ``b + a``: its innermost run of elements broadcasts ``a``."""
    # The innermost axis that is not 1 in both shapes decides.
    rank = max(len(shape_a), len(shape_b))
    padded_a = (1,) * (rank - len(shape_a)) + shape_a
    padded_b = (1,) * (rank - len(shape_b)) + shape_b
    for dim_a, dim_b in zip(reversed(padded_a), reversed(padded_b), strict=True):
        if (dim_a, dim_b) != (1, 1):
            return dim_a == 1
    return False


def mul_ratio(sa: float, sb: float, sc: float) -> np.float32:
    """Return ``r = fl(fl(sa * sb) / sc)`` of QLinearMul."""
    with np.errstate(over="ignore", under="ignore"):
        return np.float32(float32_scale(float32_scale(sa) * float32_scale(sb) / float32_scale(sc)))


def qlinear_mul(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    sa: float,
    za: int,
    sb: float,
    zb: int,
    sc: float,
    zc: int,
    lo: int,
    hi: int,
) -> Ints:
    """Return QLinearMul, ``clamp(rne(fl(fl(p * r) + zc)), lo, hi)``, p = (a - za)(b - zb)."""
    left = np.asarray(a, dtype=np.int64) - za
    right = np.asarray(b, dtype=np.int64) - zb
    return mul_product(left * right, mul_ratio(sa, sb, sc), zc, lo, hi)


def mul_product(product: npt.ArrayLike, ratio: np.float32, zc: int, lo: int, hi: int) -> Ints:
    """Return QLinearMul as a function of the exact product of the centred codes; monotone."""
    with np.errstate(over="ignore", under="ignore"):
        scaled = np.asarray(product, dtype=np.int64).astype(np.float32) * ratio
    return _saturate(scaled + np.float32(zc), lo, hi)


def qlinear_average(
    windows: npt.ArrayLike,
    count: npt.ArrayLike,
    sx: float,
    zx: int,
    sy: float,
    zy: int,
    lo: int,
    hi: int,
) -> Ints:
    """Return QLinearAveragePool of windows: ``clamp(rne(fl(fl(mean / sy) + zy)), lo, hi)``.

    The mean is ``fl(sum / count)`` over a *sequential* float32 sum of ``fl(sx * (x - zx))``.

    Args:
        windows: codes, [..., K], each window in row-major order; padding is written as ``zx``,
            which adds an exact zero.
        count: the divisor, broadcast against [...]: the elements without padding, or with it if
            count_include_pad.
        sx: input scale.
        zx: input zero point.
        sy: output scale.
        zy: output zero point.
        lo: least output code.
        hi: largest output code.
    """
    real = dequantize_linear(windows, sx, zx)
    total = np.add.accumulate(real, axis=-1, dtype=np.float32)[..., -1]
    return quantize_average(total, count, sy, zy, lo, hi)


def quantize_average(
    total: Floats, count: npt.ArrayLike, sy: float, zy: int, lo: int, hi: int
) -> Ints:
    """Return the last steps of `qlinear_average`, from float32 sums."""
    mean = (total / np.asarray(count).astype(np.float32)).astype(np.float32)
    return _saturate(mean / float32_scale(sy) + np.float32(zy), lo, hi)


def softmax_table(sx: float, length: int) -> Floats:
    """Return the table of QLinearSoftmax: ``fl(exp((i - 255 + B) * sx))`` for i = 0..255.

    ``B = max(0, logf(fl(FLT_MAX / length)) - 5) / sx`` keeps the sum of ``length`` terms finite;
    the exponential and the arithmetic around it are double.
    """
    step = float(float32_scale(sx))
    largest = np.finfo(np.float32).max / np.float32(length)
    log = float(np.float32(np.log(np.float64(largest))))
    shift = max(0.0, log - 5.0) / step
    index = np.arange(256, dtype=np.float64)
    return np.exp((index - 255 + shift) * step).astype(np.float32)


def softmax_factor(sy: float) -> np.float32:
    """Return ``K = floor(fl(1 / sy))`` of QLinearSoftmax."""
    return np.floor(np.float32(1.0) / np.float32(float32_scale(sy)))


def qlinear_softmax(x: npt.ArrayLike, sx: float, sy: float, zy: int, lo: int, hi: int) -> Ints:
    """Return QLinearSoftmax over the last axis of 8-bit codes, as onnxruntime 1.32 computes it.

    ``t_j = table[x_j - max(x) + 255]``, ``S`` their sequential float32 sum,
    ``y_j = clamp(rne(t_j * K / S) + zy, lo, hi)``. The quotient is double, but as t and S have 24
    bits it lies further than a double rounding from every tie it does not hit: the rounding is
    that of the exact quotient, for every K below 2**27. (Versions before 1.32 rounded ``t_j * K``
    and the quotient to float32, which differs about once in a million.)
    """
    codes = np.asarray(x, dtype=np.int64)
    terms = softmax_table(sx, codes.shape[-1])[codes - codes.max(axis=-1, keepdims=True) + 255]
    total = np.add.accumulate(terms, axis=-1, dtype=np.float32)[..., -1:]
    factor = np.float64(softmax_factor(sy))
    if factor >= _LARGEST_FACTOR:
        raise RangeOverflow("a softmax output scale is too small", have=str(sy), want="over 2^-27")
    share = np.rint(terms.astype(np.float64) * factor / total.astype(np.float64))
    return np.clip(share.astype(np.int64) + zy, lo, hi)


def _saturate(real: Floats, lo: int, hi: int) -> Ints:
    return np.clip(np.rint(real), np.float32(lo), np.float32(hi)).astype(np.int64)
