"""VDQS: value-driven quantization search (QuantMCU, DATE 2024).

For feature map i and b bits (of 8, 4 and 2) the score is S(i, b) = −λ·Ω(i, b) + (1 − λ)·Φ(i, b): Ω
the loss that a coarser map is expected to cause, Φ the part of the stage's BitOPs that is saved by
it. Every map takes the bits of its highest score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from binpoint.numeric.fixed import FixedType

WHOLE = 8
"""Bits of a map as it is."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A map, or maps of one type.

    Attributes:
        names: of the maps.
        work: the part of the stage's multiply-accumulates that reads it.
        choices: coarser types, and the loss Ω with each.
    """

    names: tuple[str, ...]
    work: float
    choices: tuple[tuple[FixedType, float], ...]


def search(candidates: Sequence[Candidate], lam: float) -> Mapping[str, FixedType]:
    """The types of the maps that get fewer bits, by name.

    `lam` is λ, from 0 (only work counts) to 1 (only the loss does).
    """
    types: dict[str, FixedType] = {}
    for candidate in candidates:
        best = 0.0
        for kind, loss in candidate.choices:
            saved = candidate.work * (1 - kind.storage.width / WHOLE)
            score = (1 - lam) * saved - lam * loss
            if score > best:
                best = score
                types |= dict.fromkeys(candidate.names, kind)
    return types
