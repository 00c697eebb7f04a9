# pyright: basic, reportMissingImports=false
"""First binary points for the quantizers of activations, from data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from binpoint.errors import NotTrainable
from binpoint.training.quantizers import FixedPoint, fixed_points

_KEPT = 1 << 16
"""Elements of a value that are looked at, evenly spread over each batch."""


@torch.no_grad()
def calibrate(module: nn.Module, batches: Iterable[Any], *, method: str = "mse") -> None:
    """Run batches through with activations uncast, and choose their binary points.

    Args:
        module: what `prepare` made.
        batches: inputs, [N, …] each.
        method: `mse`, least squared error over the batches; `max`, all that was seen fits.

    Raises:
        NotTrainable: no batch, or a quantizer that none of them reaches.
    """
    parts = list(activations(module))
    training = module.training
    module.eval()
    for _, part in parts:
        part.seen = []
    try:
        kept: dict[str, list[Any]] = {name: [] for name, _ in parts}
        for batch in batches:
            module(batch)
            for name, part in parts:
                kept[name] += [_some(x, method) for x in part.seen or ()]
                part.seen = []
    finally:
        for _, part in parts:
            part.seen = None
        module.train(training)
    for name, part in parts:
        if not kept[name]:
            raise NotTrainable("a quantizer that no batch reaches", at=name)
        part.fit(torch.cat(kept[name]), method=method)


def activations(module: nn.Module) -> Iterator[tuple[str, FixedPoint]]:
    """The quantizers of activations by name, each once, in the order of the module's parts."""
    return ((n, p) for n, p in fixed_points(module) if _is_activation(n))


def _is_activation(name: str) -> bool:
    return (
        ".weight_quant." not in name
        and ".bias_quant." not in name
        and "_quant" in name
        and (not name.endswith(("scale_quant", "shift_quant")))
    )


def _some(x: Any, method: str) -> Any:
    flat = x.reshape(-1)
    if method == "max":
        return torch.stack((flat.min(), flat.max()))
    step = max(1, flat.numel() // _KEPT)
    return flat[::step]
