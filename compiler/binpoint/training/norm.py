# pyright: basic, reportMissingImports=false
"""Batch normalisation as the fixed-point line a · x + b."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from binpoint.training.quantizers import FixedPoint


class FixedBatchNorm(nn.Module):
    """Normalises, then scales and moves: y = a · x + b, a and b cast to formats of their own.

    a = gamma / sqrt(var + eps) and b = beta − a · mean, by the batch's moments while training and
    by the running ones afterwards. The result is not cast: that is for the next quantizer.

    Args:
        norm: the normalisation to replace; its parameters and moments are taken over.
        scale_bits: width of a.
        shift_bits: width of b.
        rounding: of both.
    """

    def __init__(
        self, norm: _BatchNorm, *, scale_bits: int, shift_bits: int, rounding: str
    ) -> None:
        super().__init__()
        self.norm = norm
        kind = {"signed": True, "rounding": rounding}
        self.scale_quant = FixedPoint(scale_bits, **kind)
        self.shift_quant = FixedPoint(shift_bits, **kind)
        for quantizer, start in zip((self.scale_quant, self.shift_quant), self.line(), strict=True):
            quantizer.fit(start)

    def line(self) -> tuple[Any, Any]:
        """A and b by the running moments, before their casts; [C] each."""
        return self._line(self.norm.running_mean, self.norm.running_var)

    def casted(self) -> tuple[Any, Any]:
        """A and b after their casts."""
        a, b = self.line()
        return self.scale_quant(a)[0], self.shift_quant(b)[0]

    def _line(self, mean: Any, variance: Any) -> tuple[Any, Any]:
        a = torch.rsqrt(variance + self.norm.eps)
        if self.norm.weight is not None:
            a = a * self.norm.weight
        b = -a * mean
        return a, b if self.norm.bias is None else b + self.norm.bias

    def forward(self, x: Any) -> Any:
        """[N, C, …] to the same shape."""
        if self.training:
            a, b = self._line(*self._moments(x))
            a, b = self.scale_quant(a)[0], self.shift_quant(b)[0]
        else:
            a, b = self.casted()
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return x * a.reshape(shape) + b.reshape(shape)

    def _moments(self, x: Any) -> tuple[Any, Any]:
        dims = [d for d in range(x.dim()) if d != 1]
        variance, mean = torch.var_mean(x, dims, unbiased=False)
        count = x.numel() / x.shape[1]
        with torch.no_grad():
            self.norm.num_batches_tracked += 1
            momentum = self.norm.momentum
            if momentum is None:
                momentum = 1.0 / float(self.norm.num_batches_tracked)
            self.norm.running_mean.lerp_(mean.detach(), momentum)
            unbiased = variance.detach() * (count / max(count - 1, 1))
            self.norm.running_var.lerp_(unbiased, momentum)
        return mean, variance


class Line(nn.Module):
    """y = a · x + b with constants, channels on the second axis: a normalisation exported."""

    def __init__(self, a: Any, b: Any, rank: int) -> None:
        super().__init__()
        shape = (1, -1) + (1,) * (rank - 2)
        self.register_buffer("a", a.detach().reshape(shape).clone())
        self.register_buffer("b", b.detach().reshape(shape).clone())

    def forward(self, x: Any) -> Any:
        """[N, C, …] to the same shape."""
        return x * self.a + self.b
