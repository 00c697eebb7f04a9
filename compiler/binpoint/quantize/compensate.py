"""Weights of few bits without training: what rounding one puts wrong the others make good.

The sums of a channel are y = x·w over many positions. Of the moments H = Σ x'ᵀx' of the operands
x' as they will be, and of x'ᵀx of both, follow

* the real weights whose sums are nearest to y, w* = w + (H + δ)⁻¹·(Σ x'ᵀx − H)·w, where x' has
  fewer bits than x;
* codes with a small (q·s − w*)·H·(q·s − w*)ᵀ: column by column, the error of each spread over those
  that are still to be rounded (optimal brain surgeon; Frantar et al., GPTQ, ICLR 2023), for several
  steps s; then each code is moved while that helps, and s is the best for the codes. The spreading
  is the nearest plane of a lattice (Chen et al., The Geometry of LLM Quantization, 2025), so that a
  Cholesky factor of H does, and no inverse.

Means are left out of the moments, as biases take them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from binpoint.ops.window import Window

Floats = NDArray[np.float64]

POSITIONS = 1024
"""Positions of a sample to which weights are fitted, at most."""
_DAMPING = 0.01
"""δ as a part of the mean diagonal of H."""
_LEAST = 1e-9
"""δ where H is nothing."""
STEPS = tuple(1.0 - index / 20 for index in range(13))
"""Steps that are tried, as parts of that which holds the largest weight."""
_ROUNDS = 3
"""How often all codes of a channel are looked at again."""
_BLOCK = 32
"""Columns that are rounded before the others learn of it."""


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
        gram = self.gram + other.gram
        same = self.unchanged and other.unchanged
        return Moments(
            self.count + other.count,
            self.old + other.old,
            self.new + other.new,
            gram if same else self.cross + other.cross,
            gram,
        )

    @property
    def unchanged(self) -> bool:
        """Whether the operands are as they were."""
        return self.cross is self.gram

    def scaled(self, steps: Floats) -> Moments:
        """With the operands as they are times ``[G, K]``."""
        rows = steps[:, :, None]
        gram = self.gram * rows * steps[:, None, :]
        return Moments(self.count, self.old, self.new * steps, self.cross * rows, gram)

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


def compensated(
    weights: Floats, moments: Moments, widths: Sequence[int], parts: Sequence[float] = STEPS
) -> Mapping[int, Rounded]:
    """Symmetric codes for weights ``[O, K]`` of a linear op with such operands, by their bits.

    Args:
        weights: as they are.
        moments: of what the op reads.
        widths: numbers of bits.
        parts: steps that are tried, as parts of that which holds the largest weight.
    """
    problem = _Problem.of(weights, moments)
    return {bits: _compensated(problem, moments, bits, parts) for bits in widths}


def _compensated(problem: _Problem, moments: Moments, bits: int, parts: Sequence[float]) -> Rounded:
    most = 2 ** (bits - 1) - 1
    whole = np.abs(problem.wanted).max(axis=2) / most
    whole = np.where(whole > 0, whole, 1.0)

    def nearest(real: Floats) -> Floats:
        return np.minimum(np.maximum(np.rint(real), -most), most)

    codes, steps = problem.nearest(np.stack([whole * part for part in parts], 1), nearest)
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
        codes.reshape(-1, codes.shape[2]).astype(np.int64),
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
    codes, _ = problem.nearest(fixed[:, None], nearest)
    for _ in range(_ROUNDS):
        codes = problem.moved(codes, fixed, nearest)
    return codes.reshape(weights.shape).astype(np.int64)


@dataclass(frozen=True, slots=True)
class _Problem:
    """To round the rows `wanted` so that (q·s − w*)·H·(q·s − w*)ᵀ is small, ``[G, O, K]``.

    Attributes:
        rows: the weights as they are.
        plain, gram: H, and with what is added to its diagonal, ``[G, K, K]``.
        order: in which columns are rounded, ``[G, K]``: that of the largest operands first.
        spread, scales: H = U·D·Uᵀ in that order, U upper triangular with ones on its diagonal.
    """

    rows: Floats
    wanted: Floats
    plain: Floats
    gram: Floats
    order: NDArray[np.int64]
    spread: Floats
    scales: Floats

    @classmethod
    def of(cls, weights: Floats, moments: Moments) -> _Problem:
        """From the weights of all groups."""
        groups, depth = moments.new.shape
        rows = weights.reshape(groups, -1, depth)
        cross, plain = moments.centred()
        mean = np.trace(plain, axis1=1, axis2=2) / depth
        gram = plain + (_DAMPING * mean + _LEAST)[:, None, None] * np.eye(depth)
        wanted = rows
        if not moments.unchanged:
            lost = np.swapaxes(rows @ np.swapaxes(cross - plain, 1, 2), 1, 2)
            moved: Floats = np.asarray(np.linalg.solve(gram, lost), np.float64)
            wanted = rows + np.swapaxes(moved, 1, 2)
        order = np.argsort(-np.diagonal(gram, axis1=1, axis2=2), axis=1, kind="stable")
        square = np.take_along_axis(gram, order[:, ::-1, None], axis=1)
        square = np.take_along_axis(square, order[:, None, ::-1], axis=2)
        root: Floats = np.asarray(np.linalg.cholesky(square), np.float64)[:, ::-1, ::-1]
        ends = np.diagonal(root, axis1=1, axis2=2)
        return cls(rows, wanted, plain, gram, order, root / ends[:, None, :], ends**2)

    def variance(self, rows: Floats) -> Floats:
        """Of the sums with these weights, ``[G, O]``."""
        return np.maximum(((rows @ self.plain) * rows).sum(axis=2), 0.0)

    def nearest(self, tried: Floats, nearest: Callable[[Floats], Floats]) -> tuple[Floats, Floats]:
        """Codes with the best of several steps ``[G, tried, O]`` of each row, and these ``[G, O]``.

        With e the errors of the columns, e·H·eᵀ is Σ D_k (e_k + Σ_{j<k} e_j U_jk)²: of each column
        in turn the brackets are made as small as there is a code for.
        """
        groups, count, outputs = tried.shape
        columns = np.take_along_axis(np.swapaxes(self.wanted, 1, 2), self.order[..., None], axis=1)
        wanted = np.tile(columns, (1, 1, count))
        steps = tried.reshape(groups, -1)
        codes, error = np.empty_like(wanted), np.zeros_like(steps)

        def rounded(column: int, target: Floats) -> Floats:
            found = codes[:, column] = nearest(target / steps)
            real = found * steps
            error[:] += self.scales[:, column, None] * (real - target) ** 2
            return real - wanted[:, column]

        _in_turn(wanted.copy(), self.spread, rounded)
        best = np.argmin(error.reshape(tried.shape), axis=1, keepdims=True)
        each = codes.reshape(groups, -1, count, outputs)
        chosen = np.take_along_axis(each, best[:, None], axis=2)[:, :, 0]
        found = np.empty_like(chosen)
        np.put_along_axis(found, self.order[..., None], chosen, axis=1)
        return np.swapaxes(found, 1, 2), np.take_along_axis(tried, best, axis=1)[:, 0]

    def moved(self, codes: Floats, steps: Floats, nearest: Callable[[Floats], Floats]) -> Floats:
        """Each code once, column by column, to where the error is least with the others."""
        found = np.swapaxes(codes, 1, 2).copy()
        slope = self.gram @ (found * steps[:, None] - np.swapaxes(self.wanted, 1, 2))
        down = np.diagonal(self.gram, axis1=1, axis2=2)

        def stepped(column: int, now: Floats) -> Floats:
            old = found[:, column].copy()
            found[:, column] = nearest(old - now / (down[:, column, None] * steps))
            return (old - found[:, column]) * steps

        _in_turn(slope, self.gram, stepped)
        return np.swapaxes(found, 1, 2)

    def refitted(self, codes: Floats, steps: Floats) -> Floats:
        """The best step of each row for its codes."""
        image = codes @ self.gram
        square, product = (image * codes).sum(axis=2), (image * self.wanted).sum(axis=2)
        found = np.where(square > 0, product / np.where(square > 0, square, 1.0), steps)
        return np.where(found > 0, found, steps)


def _in_turn(rest: Floats, matrix: Floats, decide: Callable[[int, Floats], Floats]) -> None:
    """Decide on columns of ``[G, K, rows]`` in turn, each with what the earlier ones left of it.

    Of the later ones the decision times the column's row of the matrix ``[G, K, K]`` is taken
    away: at once within a block, beyond it by one product of matrices a block.
    """
    depth = rest.shape[1]
    decided = np.empty_like(rest)
    for start in range(0, depth, _BLOCK):
        stop = min(start + _BLOCK, depth)
        for column in range(start, stop):
            one = decided[:, column] = decide(column, rest[:, column])
            after = matrix[:, column, column + 1 : stop, None]
            rest[:, column + 1 : stop] -= after * one[:, None]
        if stop < depth:
            later = np.swapaxes(matrix[:, start:stop, stop:], 1, 2)
            rest[:, stop:] -= later @ decided[:, start:stop]


def total(moments: Sequence[Moments]) -> Moments:
    """Those of all."""
    first, *others = moments
    for other in others:
        first = first + other
    return first
