# pyright: basic, reportMissingImports=false
"""Quantizers with a learned binary point, as injectors for the layers of `brevitas.nn`.

QuantLinear(10, 5, weight_quant=WeightFixedPoint, weight_bit_width=4)
QuantReLU(act_quant=UnsignedFixedPoint, bit_width=4)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from brevitas.inject import ExtendedInjector, value
from brevitas.proxy import (
    ActQuantProxyFromInjector,
    BiasQuantProxyFromInjector,
    WeightQuantProxyFromInjector,
)
from torch import nn

from binpoint.errors import NotTrainable
from binpoint.training.cast import Overflow, Rounding, cast, codes, ends, whole

QONNX_RULES = {Rounding.FLOOR: "FLOOR", Rounding.HALF_UP: "FLOOR", Rounding.HALF_EVEN: "ROUND"}
"""How QONNX names the rules; half up is the floor of what half a step was added to."""

_CANDIDATES = 6
_NOTHING = 2.0**-16
_WIDEST = 24


class FixedPoint(nn.Module):
    """A tensor quantizer of Brevitas: width given, binary point learned.

    The first binary point comes from `start` (weights), from the first batch seen while training,
    or from `calibrate`.

    Args:
        bit_width: of a code, 1 to 24, or 2 to 24 with sign.
        signed: whether codes are below zero, too.
        rounding: what becomes of the bits behind the last.
        overflow: what becomes of codes outside the range.
        point_shape: of the binary points: (), or one per channel, broadcasting with the tensor.
        start: a tensor to take the first binary point from.
        terms: signed powers of two that a code is the sum of, at most; any number by default.
    """

    def __init__(
        self,
        bit_width: int,
        signed: bool,
        rounding: str = Rounding.HALF_EVEN,
        overflow: str = Overflow.SATURATE,
        point_shape: tuple[int, ...] = (),
        start: Any = None,
        terms: int | None = None,
    ) -> None:
        super().__init__()
        if not 1 + signed <= bit_width <= _WIDEST:
            raise NotTrainable(
                "a width that no fixed-point quantizer has",
                have=f"{bit_width} bits, {'signed' if signed else 'unsigned'}",
                want=f"{1 + signed} to {_WIDEST}",
            )
        self.signed, self.rounding = signed, Rounding(rounding)
        self.overflow = Overflow(overflow)
        self.terms = terms
        if terms is not None and (terms < 1 or not signed or self.overflow is Overflow.WRAP):
            raise NotTrainable(
                "codes of few signed powers of two are signed, and do not wrap",
                have=f"{terms} powers, {'signed' if signed else 'unsigned'}, {self.overflow}",
            )
        self.point = nn.Parameter(torch.zeros(point_shape))
        self.register_buffer("width", torch.tensor(float(bit_width)))
        self.register_buffer("zero", torch.tensor(0.0))
        self.register_buffer("ready", torch.tensor(False))
        self.open = False
        self.seen: list[Any] | None = None
        self.ran: list[Any] | None = None
        if start is not None:
            self.fit(start)

    @property
    def bits(self) -> int:
        """The width."""
        return int(self.width)

    @property
    def ends(self) -> tuple[int, int]:
        """The least and the largest code."""
        return ends(self.bits, signed=self.signed, overflow=self.overflow)

    @property
    def points(self) -> Any:
        """The binary points as whole numbers."""
        return torch.round(self.point.detach())

    @property
    def _rules(self) -> dict[str, Any]:
        """What a cast needs to know beside point and width."""
        return {
            "signed": self.signed,
            "rounding": self.rounding,
            "overflow": self.overflow,
            "terms": self.terms,
        }

    def forward(self, x: Any) -> tuple[Any, Any, Any, Any]:
        """The tensor's value after the cast, and scale, zero point and width."""
        if self.seen is not None:
            self.seen.append(x.detach())
        if self.open or self.seen is not None:
            return x, torch.exp2(-self.points), self.zero, self.width
        if not self.ready:
            self._begin(x)
        point = whole(self.point, self._factor(x))
        y = cast(x, point, self.bits, **self._rules)
        if self.ran is not None:
            self.ran.append(torch.round(y.detach() / torch.exp2(-point.detach())))
        return y, torch.exp2(-point), self.zero, self.width

    def codes(self, x: Any) -> Any:
        """The integers that a tensor becomes."""
        return codes(x, self.points, self.bits, **self._rules).detach()

    def _begin(self, x: Any) -> None:
        if not self.training:
            raise NotTrainable(
                "a quantizer has seen no data yet",
                have=f"{self.bits} bits",
                hint="binpoint.training.calibrate(net, batches) comes first",
            )
        self.fit(x)

    def _factor(self, x: Any) -> float:
        """1 / sqrt(N · largest code), as for learned step sizes (Esser et al. 2020)."""
        count = x.numel() / max(self.point.numel(), 1)
        return float((max(count, 1.0) * max(self.ends[1], 1)) ** -0.5)

    @torch.no_grad()
    def fit(self, x: Any, *, method: str = "mse") -> None:
        """Take the binary point from a tensor.

        Args:
            x: what is to be quantized.
            method: `max`, the finest grid that holds all; `mse`, the grid of least squared error.
        """
        x = x.detach().to(self.point.dtype)
        reach = _over_rest(x.abs(), self.point.shape, torch.amax).clamp_min(_NOTHING)
        best = torch.floor(torch.log2(self.ends[1] / reach)) if self.ends[1] else -torch.log2(reach)
        if self.overflow is Overflow.WRAP or method == "max":
            self.set_points(best)
            return
        least, first = torch.full_like(best, torch.inf), best
        for step in range(_CANDIDATES):
            tried = first + step
            y = cast(x, tried, self.bits, **self._rules)
            error = _over_rest((y - x) ** 2, self.point.shape, torch.mean)
            better = error < least
            best, least = torch.where(better, tried, best), torch.where(better, error, least)
        self.set_points(best)

    @torch.no_grad()
    def set_points(self, points: Any) -> None:
        """Take these binary points."""
        self.point.copy_(points)
        self.ready.fill_(True)

    @torch.no_grad()
    def resize(self, bits: int) -> None:
        """Take another width; the binary points move along, so that the range stays."""
        self.point += bits - self.bits
        self.width.fill_(float(bits))

    def extra_repr(self) -> str:
        """The format: sign, width, range of binary points."""
        low, high = (int(v) for v in (self.points.min(), self.points.max()))
        sign = "i" if self.signed else "u"
        hot = f", {self.terms}-hot" if self.terms is not None else ""
        return f"{sign}{self.bits}{hot}, point {low}" + (f" to {high}" if low != high else "")


def _over_rest(x: Any, shape: Any, reduce: Any) -> Any:
    """Reduce over all axes along which a shape has one element."""
    if len(shape) == 0:
        return reduce(x.reshape(-1), 0)
    dims = [d for d in range(x.dim()) if shape[d] == 1]
    return reduce(x, dims, keepdim=True) if dims else x


class _FixedPointInjector(ExtendedInjector):
    """What all three share."""

    tensor_quant = FixedPoint
    signed = True
    bit_width = 8
    rounding = Rounding.HALF_EVEN
    overflow = Overflow.SATURATE
    point_shape = ()

    @value
    def narrow_range(overflow: Any, signed: Any) -> bool:
        return bool(signed) and overflow == Overflow.SYMMETRIC

    @value
    def float_to_int_impl_type(rounding: Any) -> str:
        return QONNX_RULES[Rounding(rounding)]


class WeightFixedPoint(_FixedPointInjector):
    """Weights with one binary point, or one per output channel (`weight_per_channel=True`).

    With `weight_terms=K` they are sums of at most K signed powers of two.
    """

    proxy_class = WeightQuantProxyFromInjector
    overflow = Overflow.SYMMETRIC
    terms = None
    per_channel = False

    @value
    def point_shape(module: Any, per_channel: bool) -> tuple[int, ...]:
        if not per_channel:
            return ()
        shape = [1] * module.weight.dim()
        axis = module.output_channel_dim
        shape[axis] = module.weight.shape[axis]
        return tuple(shape)

    @value
    def start(tracked_parameter_list: Any) -> Any:
        return tracked_parameter_list[0].detach()


class BiasFixedPoint(_FixedPointInjector):
    """Biases with a binary point of their own."""

    proxy_class = BiasQuantProxyFromInjector
    requires_input_scale = False
    requires_input_bit_width = False
    bit_width = 16

    @value
    def start(tracked_parameter_list: Any) -> Any:
        return tracked_parameter_list[0].detach()


class SignedFixedPoint(_FixedPointInjector):
    """Activations of either sign."""

    proxy_class = ActQuantProxyFromInjector


class UnsignedFixedPoint(_FixedPointInjector):
    """Activations that are never negative; what is, becomes zero."""

    proxy_class = ActQuantProxyFromInjector
    signed = False


def fixed_points(module: nn.Module) -> Iterator[tuple[str, FixedPoint]]:
    """All quantizers of a module by name, each once."""
    for name, part in module.named_modules():
        if isinstance(part, FixedPoint):
            yield name, part


def weight_point(layer: Any) -> FixedPoint | None:
    """The quantizer of a layer's weights, if it has one of these."""
    part = getattr(getattr(layer, "weight_quant", None), "tensor_quant", None)
    return part if isinstance(part, FixedPoint) else None


def formats(module: nn.Module) -> dict[str, str]:
    """The format of every quantizer by its name, as `i4, point 3`."""
    return {name: part.extra_repr() for name, part in fixed_points(module)}
