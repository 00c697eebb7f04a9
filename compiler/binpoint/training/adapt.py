# pyright: basic, reportMissingImports=false
"""Widths of weights that fall or rise between epochs, by what rounding hides of their distribution.

Source: AdaPT (Kummer et al. 2021), whose *push down* finds the narrowest format with a divergence
below a bound; here it rises by the same bound. By one bit in an epoch, so that training follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from binpoint.errors import NotTrainable
from binpoint.training.cast import rounded
from binpoint.training.learn import Epoch
from binpoint.training.quantizers import FixedPoint, weight_point

_EACH, _FEWEST, _MOST = 32, 16, 512
_WIDEST = 16


@dataclass(frozen=True, slots=True)
class AdaptWidths:
    """A callback of `learn`: `learn(net, x, y, plan, callback=AdaptWidths(0.05))`.

    A layer's weights lose a bit where, with one less, their divergence would be below the bound;
    they gain one where it is above. The binary point moves along, so that the range stays.

    Args:
        bound: of the divergence, in nats; see `divergence`.
        least: no layer gets fewer bits.
        most: no layer gets more.

    Raises:
        NotTrainable: the bound is not positive, or the widths are not 2 ≤ least ≤ most ≤ 16.
    """

    bound: float = 0.05
    least: int = 2
    most: int = 8

    def __post_init__(self) -> None:
        """Check the fields."""
        if not (self.bound > 0 and 2 <= self.least <= self.most <= _WIDEST):
            raise NotTrainable(
                "widths cannot be adapted so",
                have=f"a bound of {self.bound}, {self.least} to {self.most} bits",
                want=f"a positive bound, and 2 to {_WIDEST} bits",
            )

    def __call__(self, module: nn.Module, epoch: Epoch) -> str:
        """Change the widths; returns those of all layers, and which changed, as `conv1 4-1=3`."""
        said: list[str] = []
        for name, layer in module.named_modules():
            part = weight_point(layer)
            if part is not None:
                said.append(f"{name} {self._adapted(layer.weight.detach(), part)}")
        return f"bits after epoch {epoch.index + 1}: {', '.join(said)}"

    def _adapted(self, weight: Any, part: FixedPoint) -> str:
        bits = part.bits
        if bits < self.least or (bits < self.most and _moved(weight, part, 0) > self.bound):
            part.resize(bits + 1)
            return f"{bits}+1={bits + 1}"
        if bits > self.most or (bits > self.least and _moved(weight, part, -1) < self.bound):
            part.resize(bits - 1)
            return f"{bits}-1={bits - 1}"
        return str(bits)


def _moved(weight: Any, part: FixedPoint, by: int) -> float:
    """The divergence with that many bits more."""
    bits, points = part.bits, part.point.detach().clone()
    try:
        part.resize(bits + by)
        return divergence(weight, part)
    finally:
        part.resize(bits)
        part.set_points(points)


@torch.no_grad()
def divergence(x: Any, part: FixedPoint) -> float:
    """Σ p · log(p / q) in nats: of a tensor's histogram, against what its codes still tell of it.

    The histogram is of the tensor in steps of its quantizer, over its range, in as many bins as
    leave 32 elements to each, 16 to 512. q spreads the elements of each code evenly over the bins
    whose middles have that code. It is zero where they are equally full, or each has its own code.
    """
    steps = (x / torch.exp2(-part.points)).reshape(-1).double()
    low, high = float(steps.min()), float(steps.max())
    if high == low:
        return 0.0
    count = min(max(len(steps) // _EACH, _FEWEST), _MOST)
    bins = ((steps - low) / (high - low) * count).long().clamp(0, count - 1)
    middles = low + (torch.arange(count, device=x.device).double() + 0.5) * (high - low) / count
    codes = rounded(middles, part.rounding).clamp(*part.ends)
    index = (codes - codes.min()).long()
    p = torch.bincount(bins, minlength=count).double() / len(steps)
    q = (torch.bincount(index, weights=p) / torch.bincount(index).clamp_min(1))[index]
    used = p > 0
    return float((p[used] * torch.log(p[used] / q[used])).sum())
