# pyright: basic, reportMissingImports=false
"""The cast of ap_fixed, exact in float32 and float64, with straight-through gradients.

    cast(x) = overflow(round(x · 2^f), w) · 2^-f

Source: the ap_fixed modes of the Vitis HLS guide (UG1399); the gradient is that of QFX (Zhang et
al. 2024), as reconstructed from the straight-through estimator: with D = 2^-f, dy/dx is 1 inside
the range and 0 outside; dy/df is −ln2 · D · (round(x/D) − x/D) inside, −ln2 · D · bound outside.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, assert_never

import torch
from brevitas.function.ops_ste import floor_ste, round_ste

from binpoint.numeric.digits import grid


class Rounding(StrEnum):
    """What becomes of the bits behind the last."""

    FLOOR = "floor"
    """Towards minus infinity: AP_TRN."""
    HALF_UP = "half-up"
    """To nearest, ties towards plus infinity: AP_RND."""
    HALF_EVEN = "half-even"
    """To nearest, ties to the even result: AP_RND_CONV."""


class Overflow(StrEnum):
    """What becomes of codes outside the range."""

    WRAP = "wrap"
    """The bits before the first are dropped: AP_WRAP."""
    SATURATE = "saturate"
    """The nearest code: AP_SAT."""
    SYMMETRIC = "symmetric"
    """The nearest code, the least one left out where there is a sign: AP_SAT_SYM."""


def ends(width: int, *, signed: bool, overflow: Overflow) -> tuple[int, int]:
    """The least and the largest code."""
    if not signed:
        return 0, (1 << width) - 1
    top = (1 << (width - 1)) - 1
    return -top if overflow is Overflow.SYMMETRIC else -top - 1, top


class _HalfUp(torch.autograd.Function):
    """floor(x + 1/2), without the rounding of that sum; the gradient is one."""

    @staticmethod
    def forward(_: Any, x: Any) -> Any:
        low = torch.floor(x)
        return low + (x - low >= 0.5).to(x.dtype)

    @staticmethod
    def backward(_: Any, *slopes: Any) -> Any:
        return slopes[0]


class _Nearest(torch.autograd.Function):
    """The nearest of some ascending codes, of two as near the one nearer to 0; gradient one."""

    @staticmethod
    def forward(_: Any, x: Any, codes: Any) -> Any:
        few = torch.from_numpy(codes).to(x)
        above = torch.searchsorted(few, x.detach().contiguous()).clamp(1, len(few) - 1)
        low, high = few[above - 1], few[above]
        down, up = x - low, high - x
        nearer = (down < up) | ((down == up) & (low.abs() < high.abs()))
        return torch.where(nearer, low, high)

    @staticmethod
    def backward(_: Any, *slopes: Any) -> Any:
        return slopes[0], None


def rounded(x: Any, rounding: Rounding) -> Any:
    """Integers, as floats of the operand's type; the gradient is one."""
    match rounding:
        case Rounding.FLOOR:
            return floor_ste(x)
        case Rounding.HALF_UP:
            return _HalfUp.apply(x)
        case Rounding.HALF_EVEN:
            return round_ste(x)
        case _:
            assert_never(rounding)


def codes(
    x: Any,
    point: Any,
    width: int,
    *,
    signed: bool = True,
    rounding: Rounding = Rounding.HALF_EVEN,
    overflow: Overflow = Overflow.SATURATE,
    terms: int | None = None,
) -> Any:
    """overflow(round(x · 2^point), width), integers as floats.

    With `terms` the nearest code that is a sum of at most so many signed powers of two.

    Args:
        x: any shape.
        point: fraction bits, whole numbers that broadcast with `x`.
        width: of a code, in bits.
        signed: whether codes are below zero, too.
        rounding: the rule.
        overflow: the rule.
        terms: signed powers of two in a code, at most; for signed codes that do not wrap.
    """
    low, high = ends(width, signed=signed, overflow=overflow)
    if terms is not None:
        return _Nearest.apply(torch.clamp(x / torch.exp2(-point), low, high), grid(terms, high))
    steps = rounded(x / torch.exp2(-point), rounding)
    if overflow is Overflow.WRAP:
        turns = torch.floor((steps.detach() - low) / (1 << width))
        return steps - turns * (1 << width)
    return torch.clamp(steps, low, high)


def cast(
    x: Any,
    point: Any,
    width: int,
    *,
    signed: bool = True,
    rounding: Rounding = Rounding.HALF_EVEN,
    overflow: Overflow = Overflow.SATURATE,
    terms: int | None = None,
) -> Any:
    """The value of the codes, ``codes(…) · 2^-point``; arguments as for `codes`.

    Exact, but for wrapping beyond the digits of the float type.
    """
    found = codes(x, point, width, signed=signed, rounding=rounding, overflow=overflow, terms=terms)
    return found * torch.exp2(-point)


class _Scaled(torch.autograd.Function):
    """The identity, its gradient multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, x: Any, factor: float) -> Any:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        return slopes[0] * ctx.factor, None


def whole(point: Any, factor: float) -> Any:
    """A learned binary point as the whole number next to it; its gradient times `factor`."""
    return round_ste(_Scaled.apply(point, factor))
