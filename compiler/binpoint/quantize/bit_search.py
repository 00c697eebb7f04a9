"""VDQS: value-driven quantization search (QuantMCU, DATE 2024), over maps and weights.

The score of an assignment of bits is S = −λ·Ω + (1 − λ)·Φ: Φ the part of the stage's BitOPs that is
saved, Ω the loss that is expected, of independent errors √Σ Ω(i, b)². Both bits of a layer multiply
in Φ, so they are not chosen one by one: from 8 bits everywhere the step that saves most for what it
adds to Ω² is taken again and again, and of all assignments on the way that of the highest score is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WHOLE = 8
"""Bits of a map or of weights as they are."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that multiplies.

    Attributes:
        macs: its part of the stage's multiply-accumulates.
        narrow: the part of those in patches whose maps may have fewer bits.
        operand, weights: names of their `Losses`; others have 8 bits.
    """

    macs: float
    narrow: float
    operand: str
    weights: str

    def bitops(self, bits: Mapping[str, int]) -> float:
        """Its part of the stage's BitOPs at 8 bits."""
        x = bits.get(self.operand, WHOLE)
        mean = self.narrow * x + (1 - self.narrow) * WHOLE
        return self.macs * mean * bits.get(self.weights, WHOLE) / WHOLE**2


Losses = Mapping[str, Mapping[int, float]]
"""Ω(i, b) of what may have fewer bits, by name and bits."""


@dataclass(frozen=True, slots=True)
class Point:
    """An assignment of bits by name; what is left out has 8. `saved` is Φ, `loss` Ω."""

    bits: Mapping[str, int]
    saved: float
    loss: float

    def score(self, lam: float) -> float:
        """S for λ = `lam`, from 0 (only work counts) to 1 (only the loss does)."""
        return (1 - lam) * self.saved - lam * self.loss


def path(layers: Sequence[Layer], losses: Losses) -> tuple[Point, ...]:
    """All assignments on the way from 8 bits everywhere to the fewest that there are."""
    readers = {n: [x for x in layers if n in (x.operand, x.weights)] for n in losses}
    bits: dict[str, int] = {}
    work, power = sum(layer.bitops(bits) for layer in layers), 0.0
    start = work
    found = [Point({}, 0.0, 0.0)]
    while True:
        best: tuple[float, str, int, float, float] | None = None
        for name, choices in losses.items():
            now = bits.get(name, WHOLE)
            was = choices.get(now, 0.0) ** 2
            old = sum(layer.bitops(bits) for layer in readers[name])
            for b, loss in choices.items():
                if b >= now:
                    continue
                less = old - sum(x.bitops({**bits, name: b}) for x in readers[name])
                more = loss**2 - was
                if less > 0:
                    rate = less / more if more > 0 else float("inf")
                    if best is None or rate > best[0]:
                        best = rate, name, b, less, more
        if best is None:
            return tuple(found)
        _, name, b, less, more = best
        bits[name] = b
        work, power = work - less, power + more
        found.append(Point(dict(bits), 1 - work / start, max(power, 0.0) ** 0.5))


def search(layers: Sequence[Layer], losses: Losses, lam: float) -> Point:
    """The assignment of the highest score on the way; of equal ones the first."""
    return max(path(layers, losses), key=lambda point: point.score(lam))
