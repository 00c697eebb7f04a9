"""VDQS: value-driven quantization search (QuantMCU, DATE 2024).

For feature map i and b bits (of 8, 4 and 2) the score is S(i, b) = −λ·Ω(i, b) + (1 − λ)·Φ(i, b): Ω
the part of the map's entropy that is lost, Φ the part of the stage's BitOPs that is saved by it.
Maps take the bits of the highest score in the order of execution; where the maps of a layer do not
fit the memory, the largest of them takes fewer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from binpoint.numeric.fixed import FixedType
from binpoint.quantize.coarsen import Occurrences

WHOLE = 8
"""Bits of a map as it is."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A map, or maps of one type.

    Attributes:
        names: of the maps.
        seen: how often each code occurs in the patches that are narrowed.
        work: the part of the stage's multiply-accumulates that reads it.
        axis: of channels, where `seen` has them apart.
    """

    names: tuple[str, ...]
    seen: Occurrences
    work: float
    axis: int = 0


@dataclass(frozen=True, slots=True)
class Chosen:
    """The bits of a map, the type with them, and the score."""

    bits: int
    kind: FixedType
    score: float


def search(
    candidates: Sequence[Candidate],
    lam: float,
    bits: Sequence[int],
    layers: Sequence[Sequence[tuple[str, int]]] = (),
    memory: int | None = None,
) -> Mapping[str, Chosen]:
    """The bits of every map by name.

    Args:
        candidates: maps in the order of execution.
        lam: λ, from 0 (only work counts) to 1 (only entropy does).
        bits: fewer than 8 that a map may have, the most first.
        layers: for each layer the maps that are live with it, and their elements.
        memory: bytes that these may take, or None.
    """
    tied = {name: c.names for c in candidates for name in c.names}
    options = {c.names: _scored(c, lam, bits) for c in candidates}
    picked = {names: max(scored, key=lambda c: c.score) for names, scored in options.items()}
    for live in layers:
        sizes = dict(live)
        while memory is not None:
            taken = {n: _bytes(s, picked[tied[n]].bits if n in tied else WHOLE) for n, s in live}
            fewer = {n: _fewer(options[tied[n]], picked[tied[n]]) for n in sizes if n in tied}
            largest = [n for n, c in fewer.items() if c is not None]
            if sum(taken.values()) <= memory or not largest:
                break
            name = max(largest, key=lambda n: taken[n])
            lower = fewer[name]
            assert lower is not None
            picked[tied[name]] = lower
    return {name: picked[names] for name, names in tied.items()}


def _scored(candidate: Candidate, lam: float, fewer: Sequence[int]) -> list[Chosen]:
    """The choices of a map with their scores; at eight bits it stays as it is."""
    found = [Chosen(WHOLE, candidate.seen.kind, 0.0)]
    for bits in fewer:
        kind = candidate.seen.coarser(bits, candidate.axis)
        saved = candidate.work * (1 - bits / WHOLE)
        found.append(Chosen(bits, kind, (1 - lam) * saved - lam * candidate.seen.lost(kind)))
    return found


def _fewer(scored: Sequence[Chosen], now: Chosen) -> Chosen | None:
    """One step down, if there is one."""
    return next((c for c in scored if c.bits < now.bits), None)


def _bytes(size: int, bits: int) -> int:
    return -(-size * bits // 8)
