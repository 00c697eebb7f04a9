"""What the channels of values take over the samples, and what rounding them would cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.graph import Graph
from binpoint.numeric.fixed import I8
from binpoint.passes.samples import Samples
from binpoint.quantize.simulate import Simulation

_Floats = NDArray[np.float64]
_NOISE = 1.0 / 12.0
"""Variance of rounding, in squared steps."""


@dataclass(frozen=True, slots=True)
class Channels:
    """Ends (zero among them) and mean square of each channel, the last axis of a value."""

    lo: _Floats
    hi: _Floats
    power: _Floats

    def divided(self, factors: _Floats) -> Channels:
        """What the channels take when each is divided by its factor."""
        return Channels(self.lo / factors, self.hi / factors, self.power / factors**2)

    @property
    def reach(self) -> _Floats:
        """The largest magnitude of each channel."""
        return np.maximum(-self.lo, self.hi)

    @property
    def step(self) -> float:
        """The step of an 8-bit type for all channels together."""
        return float(self.hi.max() - self.lo.min()) / (I8.max - I8.min)


def observe_channels(graph: Graph, names: Iterable[str], samples: Samples) -> dict[str, Channels]:
    """Run the samples and return the named values channel by channel."""
    wanted = frozenset(names)
    simulation = Simulation(graph, rounded=False)
    found: dict[str, Channels] = {}
    for inputs in samples.inputs():
        for name, array in simulation.outputs(inputs, wanted).items():
            new = _channels(array)
            old = found.get(name, new)
            lo, hi = np.minimum(old.lo, new.lo), np.maximum(old.hi, new.hi)
            power = new.power if name not in found else old.power + new.power
            found[name] = Channels(lo, hi, power)
    return {n: Channels(c.lo, c.hi, c.power / samples.count) for n, c in found.items()}


def _channels(array: NDArray[Any]) -> Channels:
    rows: _Floats = array.reshape(-1, array.shape[-1]).astype(np.float64)
    lo, hi = rows.min(axis=0, initial=0.0), rows.max(axis=0, initial=0.0)
    power = np.asarray(np.mean(np.square(rows), axis=0), np.float64)
    return Channels(lo, hi, power)


def rounding_cost(weights: NDArray[Any], x: Channels, y: Channels, *, depthwise: bool) -> float:
    """The error that 8-bit rounding of operand and weights leaves in the result of a linear op.

    Per output channel: step_x²/12 · Σw² from the operand, step_w²/12 · Σx² from the weights (one
    step per output channel), relative to the power of that channel and the mean one, in the mean.

    Args:
        weights: ``[O, …, I]``, or ``[O, …, 1]`` where each input channel has its own outputs.
        x: channels of the operand.
        y: channels of the result.
        depthwise: whether each output reads one input channel.
    """
    rows: _Floats = weights.reshape(weights.shape[0], -1, weights.shape[-1]).astype(np.float64)
    taps = rows.shape[1]
    each = rows.shape[0] // x.power.size if depthwise else rows.shape[0]
    power = np.repeat(x.power if depthwise else x.power.sum(), each)
    from_x: _Floats = x.step**2 * (rows**2).sum(axis=(1, 2))
    from_w: _Floats = (np.abs(rows).max(axis=(1, 2)) / I8.max) ** 2 * taps * power
    signal = y.power + y.power.mean()
    noise = _NOISE * (from_x + from_w) / np.where(signal > 0, signal, 1.0)
    return float(noise.mean())
