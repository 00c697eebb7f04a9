"""Weights of few bits without training: what rounding one puts wrong the others make good.

The sums of a channel are y = x·w over many positions. Of the moments H = Σ x'ᵀx' of the operands
x' as they will be, and of x'ᵀx of both, follow

* the real weights whose sums are nearest to y, w* = w + (H + δ)⁻¹·(Σ x'ᵀx − H)·w, where x' has
  fewer bits than x;
* codes with a small (q·s − w*)·H·(q·s − w*)ᵀ: column by column, the error of each spread over those
  that are still to be rounded (optimal brain surgeon; Frantar et al., GPTQ, ICLR 2023), for several
  steps s; then each code is moved while that helps, and s is the best for the codes.

Means are left out of the moments, as biases take them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from binpoint.ops.conv import IntConv
from binpoint.ops.dense import IntDense

Floats = NDArray[np.float64]

_DAMPING = 0.01
"""δ as a part of the mean diagonal of H."""
_STEPS = np.linspace(1.0, 0.4, 13)
"""Steps that are tried, as parts of that which holds the largest weight."""
_ROUNDS = 3
"""How often all codes of a channel are looked at again."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Of the operands of a linear op over positions, in groups of channels, ``[G, …]``.

    Attributes:
        count: of positions.
        old, new: sums of the operands as they were and as they are, ``[G, K]``.
        cross, gram: sums of x'ᵀx and x'ᵀx', ``[G, K, K]``.
    """

    count: int
    old: Floats
    new: Floats
    cross: Floats
    gram: Floats

    @classmethod
    def of(cls, old: Floats, new: Floats) -> Moments:
        """Of operands ``[positions, G, K]`` as they were and as they are."""
        columns, others = np.moveaxis(new, 0, -1), np.moveaxis(old, 0, 1)
        gram = columns @ np.moveaxis(new, 0, 1)
        cross = gram if new is old else columns @ others
        return cls(len(new), old.sum(axis=0), new.sum(axis=0), cross, gram)

    def __add__(self, other: Moments) -> Moments:
        """Those of both."""
        return Moments(
            self.count + other.count,
            self.old + other.old,
            self.new + other.new,
            self.cross + other.cross,
            self.gram + other.gram,
        )

    def centred(self) -> tuple[Floats, Floats]:
        """Covariances, of x' with x and with itself."""
        old, new = self.old / self.count, self.new / self.count
        cross = self.cross / self.count - new[:, :, None] * old[:, None, :]
        return cross, self.gram / self.count - new[:, :, None] * new[:, None, :]


def operands(op: IntConv | IntDense, x: Floats, mask: NDArray[np.bool_], most: int) -> Floats:
    """What each sum is of, ``[positions, G, K]`` in the order of `op.rows`.

    Args:
        op: a linear op.
        x: its operand ``[1, *spatial, C]`` less its zero point.
        mask: the positions of the result, ``[*outputs]``.
        most: more positions than this are thinned out evenly.
    """
    places = np.flatnonzero(mask)
    if len(places) > most:
        places = places[np.linspace(0, len(places) - 1, most).astype(np.int64)]
    if isinstance(op, IntDense):
        return x.reshape(-1, x.shape[-1])[places][:, None, :]
    views = op.window.patches(x, 0)[0]
    chosen = views[np.unravel_index(places, mask.shape)]
    channels = np.moveaxis(chosen, 1, -1).reshape(len(places), op.window.taps, op.groups, -1)
    return np.moveaxis(channels, 2, 1).reshape(len(places), op.groups, -1)


@dataclass(frozen=True, slots=True)
class Rounded:
    """Weights of `bits`: codes ``[O, K]``, and steps ``[O]`` that float32 holds.

    `shift` is what sums lack in the mean because of them; `error` what they are off besides, and
    `signal` what they vary: variances. All ``[O]``, in units of the old weights.
    """

    bits: int
    codes: NDArray[np.int64]
    steps: Floats
    shift: Floats
    error: Floats
    signal: Floats

    @property
    def loss(self) -> float:
        """Part of the deviation that is wrong, each channel relative to the largest of all."""
        total = float(self.signal.sum())
        return float(self.error.sum() / total) ** 0.5 if total else 0.0


def compensated(weights: Floats, moments: Moments, bits: int) -> Rounded:
    """Symmetric codes of `bits` for weights ``[O, K]`` of a linear op with such operands."""
    groups, depth = moments.new.shape
    rows = weights.reshape(groups, -1, depth)
    cross, gram = moments.centred()
    mean = np.trace(gram, axis1=1, axis2=2) / depth
    damped = gram + (_DAMPING * mean + 1e-9)[:, None, None] * np.eye(depth)
    lost = np.swapaxes(rows @ np.swapaxes(cross - gram, 1, 2), 1, 2)
    moved: Floats = np.asarray(np.linalg.solve(damped, lost), np.float64)
    wanted = rows + np.swapaxes(moved, 1, 2)
    codes, steps = _nearest(wanted, damped, 2 ** (bits - 1) - 1)
    steps = steps.astype(np.float32).astype(np.float64)
    exact, found = (
        np.einsum("gok,gk->go", w, m)
        for w, m in ((rows, moments.old), (codes * steps[..., None], moments.new))
    )
    lacking = (exact - found) / moments.count
    off = codes * steps[..., None] - wanted
    error = np.einsum("gok,gkl,gol->go", off, gram, off, optimize=True)
    signal = np.einsum("gok,gkl,gol->go", rows, gram, rows, optimize=True)
    return Rounded(
        bits,
        codes.reshape(weights.shape).astype(np.int64),
        steps.reshape(-1),
        lacking.reshape(-1),
        np.maximum(error, 0.0).reshape(-1),
        np.maximum(signal, 0.0).reshape(-1),
    )


def _nearest(rows: Floats, gram: Floats, most: int) -> tuple[Floats, Floats]:
    """Codes ``[G, O, K]`` and steps ``[G, O]`` of a small error."""
    whole = np.abs(rows).max(axis=2) / most
    whole = np.where(whole > 0, whole, 1.0)
    order = np.argsort(-np.diagonal(gram, axis1=1, axis2=2), axis=1, kind="stable")
    back = np.argsort(order, axis=1, kind="stable")
    columns = np.take_along_axis(rows, order[:, None, :], axis=2)
    square = np.take_along_axis(gram, order[:, :, None], axis=1)
    square = np.take_along_axis(square, order[:, None, :], axis=2)
    triangle: Floats = np.asarray(np.linalg.cholesky(np.linalg.inv(square)), np.float64)
    spread = np.swapaxes(triangle, 1, 2)
    best = np.full(whole.shape, np.inf)
    codes, steps = np.zeros_like(columns), whole.copy()
    for part in _STEPS:
        tried = _spread_errors(columns, spread, whole * part, most)
        error = _error(tried, whole * part, columns, square)
        better = error < best
        best = np.where(better, error, best)
        steps = np.where(better, whole * part, steps)
        codes = np.where(better[..., None], tried, codes)
    for _ in range(_ROUNDS):
        codes = _moved(codes, steps, columns, square, most)
        steps = _refitted(codes, steps, columns, square)
    return np.take_along_axis(codes, back[:, None, :], axis=2), steps


def _spread_errors(rows: Floats, spread: Floats, steps: Floats, most: int) -> Floats:
    """Codes, column by column; the rest of the row makes good what a column is off."""
    rest = rows.copy()
    codes = np.empty_like(rows)
    for column in range(rows.shape[2]):
        codes[..., column] = np.clip(np.rint(rest[..., column] / steps), -most, most)
        off = (rest[..., column] - codes[..., column] * steps) / spread[:, None, column, column]
        rest[..., column + 1 :] -= off[..., None] * spread[:, None, column, column + 1 :]
    return codes


def _error(codes: Floats, steps: Floats, rows: Floats, gram: Floats) -> Floats:
    off = codes * steps[..., None] - rows
    return ((off @ gram) * off).sum(axis=2)


def _moved(codes: Floats, steps: Floats, rows: Floats, gram: Floats, most: int) -> Floats:
    """Each code once, column by column, where the error is least with the others as they are."""
    codes = codes.copy()
    slope = (codes * steps[..., None] - rows) @ gram
    for column in range(rows.shape[2]):
        way = slope[..., column] / (gram[:, None, column, column] * steps)
        moved = np.clip(np.rint(codes[..., column] - way), -most, most)
        by = (moved - codes[..., column]) * steps
        codes[..., column] = moved
        slope += by[..., None] * gram[:, None, column, :]
    return codes


def _refitted(codes: Floats, steps: Floats, rows: Floats, gram: Floats) -> Floats:
    """The best step of each row for its codes."""
    image = codes @ gram
    square, product = (image * codes).sum(axis=2), (image * rows).sum(axis=2)
    found = np.where(square > 0, product / np.where(square > 0, square, 1.0), steps)
    return np.where(found > 0, found, steps)


def total(moments: Sequence[Moments]) -> Moments:
    """Those of all."""
    first, *others = moments
    for other in others:
        first = first + other
    return first
