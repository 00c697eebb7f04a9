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

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from binpoint.ops.window import Window

Floats = NDArray[np.float64]

POSITIONS = 2048
"""Positions of a sample to which weights are fitted, at most."""
_DAMPING = 0.01
"""δ as a part of the mean diagonal of H."""
_LEAST = 1e-9
"""δ where H is nothing."""
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


def operands(
    x: Floats, mask: NDArray[np.bool_], most: int, window: Window | None = None, groups: int = 1
) -> Floats:
    """What each sum is of, ``[positions, G, K]``, K taps by inputs as in the rows of the weights.

    Args:
        x: the operand ``[1, *spatial, C]`` of a convolution, or ``[…, K]`` of a matrix product,
            less its zero point.
        mask: the positions of the result, ``[*outputs]`` or ``[…]``.
        most: more positions than this are thinned out evenly.
        window: of the convolution.
        groups: of channels.
    """
    places = np.flatnonzero(mask)
    if len(places) > most:
        places = places[np.linspace(0, len(places) - 1, most).astype(np.int64)]
    if window is None:
        return x.reshape(-1, x.shape[-1])[places][:, None, :]
    chosen = window.patches(x, 0)[0][np.unravel_index(places, mask.shape)]
    channels = np.moveaxis(chosen, 1, -1).reshape(len(places), window.taps, groups, -1)
    return np.moveaxis(channels, 2, 1).reshape(len(places), groups, -1)


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
    most = 2 ** (bits - 1) - 1
    problem = _Problem.of(weights, moments)
    whole = np.abs(problem.wanted).max(axis=2) / most
    whole = np.where(whole > 0, whole, 1.0)

    def nearest(real: Floats) -> Floats:
        return np.clip(np.rint(real), -most, most)

    codes, steps = problem.nearest([whole * part for part in _STEPS], nearest)
    for _ in range(_ROUNDS):
        steps = problem.refitted(codes, steps)
        codes = problem.moved(codes, steps, nearest)
    steps = problem.refitted(codes, steps).astype(np.float32).astype(np.float64)
    exact, found = (
        np.einsum("gok,gk->go", w, m)
        for w, m in ((problem.rows, moments.old), (codes * steps[..., None], moments.new))
    )
    off = codes * steps[..., None] - problem.wanted
    return Rounded(
        bits,
        codes.reshape(weights.shape).astype(np.int64),
        steps.reshape(-1),
        ((exact - found) / moments.count).reshape(-1),
        problem.variance(off).reshape(-1),
        problem.variance(problem.rows).reshape(-1),
    )


def compensated_codes(
    weights: Floats, moments: Moments, steps: Floats, nearest: Callable[[Floats], Floats]
) -> NDArray[np.int64]:
    """Codes ``[O, K]`` of weights whose steps ``[O]`` stay; `nearest` tells what there are."""
    problem = _Problem.of(weights, moments)
    fixed = steps.reshape(problem.rows.shape[:2])
    codes, _ = problem.nearest([fixed], nearest)
    for _ in range(_ROUNDS):
        codes = problem.moved(codes, fixed, nearest)
    return codes.reshape(weights.shape).astype(np.int64)


@dataclass(frozen=True, slots=True)
class _Problem:
    """To round the rows `wanted` so that (q·s − w*)·H·(q·s − w*)ᵀ is small, ``[G, O, K]``.

    Attributes:
        rows: the weights as they are.
        plain, gram: H, and with what is added to its diagonal, ``[G, K, K]``.
    """

    rows: Floats
    wanted: Floats
    plain: Floats
    gram: Floats

    @classmethod
    def of(cls, weights: Floats, moments: Moments) -> _Problem:
        """From the weights of all groups."""
        groups, depth = moments.new.shape
        rows = weights.reshape(groups, -1, depth)
        cross, plain = moments.centred()
        mean = np.trace(plain, axis1=1, axis2=2) / depth
        gram = plain + (_DAMPING * mean + _LEAST)[:, None, None] * np.eye(depth)
        lost = np.swapaxes(rows @ np.swapaxes(cross - plain, 1, 2), 1, 2)
        moved: Floats = np.asarray(np.linalg.solve(gram, lost), np.float64)
        return cls(rows, rows + np.swapaxes(moved, 1, 2), plain, gram)

    def variance(self, rows: Floats) -> Floats:
        """Of the sums with these weights, ``[G, O]``."""
        return np.maximum(((rows @ self.plain) * rows).sum(axis=2), 0.0)

    def nearest(
        self, tried: Sequence[Floats], nearest: Callable[[Floats], Floats]
    ) -> tuple[Floats, Floats]:
        """Codes with the best of several steps ``[G, O]`` of each row, and these."""
        order = np.argsort(-np.diagonal(self.gram, axis1=1, axis2=2), axis=1, kind="stable")
        back = np.argsort(order, axis=1, kind="stable")
        columns = np.take_along_axis(self.wanted, order[:, None, :], axis=2)
        square = np.take_along_axis(self.gram, order[:, :, None], axis=1)
        square = np.take_along_axis(square, order[:, None, :], axis=2)
        triangle: Floats = np.asarray(np.linalg.cholesky(np.linalg.inv(square)), np.float64)
        spread = np.swapaxes(triangle, 1, 2)
        best = np.full(columns.shape[:2], np.inf)
        codes, steps = np.zeros_like(columns), tried[0]
        for step in tried:
            found = _spread_errors(columns, spread, step, nearest)
            off = found * step[..., None] - columns
            error = ((off @ square) * off).sum(axis=2)
            better = error < best
            best = np.where(better, error, best)
            steps = np.where(better, step, steps)
            codes = np.where(better[..., None], found, codes)
        return np.take_along_axis(codes, back[:, None, :], axis=2), steps

    def moved(self, codes: Floats, steps: Floats, nearest: Callable[[Floats], Floats]) -> Floats:
        """Each code once, column by column, to where the error is least with the others."""
        codes = codes.copy()
        slope = (codes * steps[..., None] - self.wanted) @ self.gram
        for column in range(codes.shape[2]):
            way = slope[..., column] / (self.gram[:, None, column, column] * steps)
            now = nearest(codes[..., column] - way)
            by = (now - codes[..., column]) * steps
            codes[..., column] = now
            slope += by[..., None] * self.gram[:, None, column, :]
        return codes

    def refitted(self, codes: Floats, steps: Floats) -> Floats:
        """The best step of each row for its codes."""
        image = codes @ self.gram
        square, product = (image * codes).sum(axis=2), (image * self.wanted).sum(axis=2)
        found = np.where(square > 0, product / np.where(square > 0, square, 1.0), steps)
        return np.where(found > 0, found, steps)


def _spread_errors(
    rows: Floats, spread: Floats, steps: Floats, nearest: Callable[[Floats], Floats]
) -> Floats:
    """Codes, column by column; the rest of the row makes good what a column is off."""
    rest = rows.copy()
    codes = np.empty_like(rows)
    for column in range(rows.shape[2]):
        codes[..., column] = nearest(rest[..., column] / steps)
        off = (rest[..., column] - codes[..., column] * steps) / spread[:, None, column, column]
        rest[..., column + 1 :] -= off[..., None] * spread[:, None, column, column + 1 :]
    return codes


def total(moments: Sequence[Moments]) -> Moments:
    """Those of all."""
    first, *others = moments
    for other in others:
        first = first + other
    return first
