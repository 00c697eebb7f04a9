"""How rows of weights share words on cores with the DSP extension.

A halfword is a number whose digits are the weights of some rows for one element of the depth; a
word has the halfwords of two elements. Multiplied with activations widened to 16 bits, the whole
halfword gives the weighted sum of all rows; what is left without its top digit, that of all rows
but the first; and so on. The difference of two such sums is one row's own, times the weight of its
digit, all modulo 2^32.

========  ====================================================  =================================
packing   halfword                                              rows in it
========  ====================================================  =================================
(none)    256 a + b                                             two, both signed
bytes     a, b as bytes of their own                            two
n4        4096 a + 256 b + 16 c + d                             four
n2        64 a + 16 b + 4 c + d, two of these in a halfword     four by four elements of the depth
n2, tall  2^14 a + 2^12 b + … + h                               eight
========  ====================================================  =================================

Digits of four and two bits are unsigned but for the first: 8 or 2 more than the weight. Times the
sum of a patch's activations, which the kernel takes once a patch, that is what a row's sum has too
much.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.op import IntArray

_HALF = 1 << 15
_FEW, _SOME = 9, 17
_WORD = 31


@dataclass(frozen=True, slots=True)
class Packing:
    """One of the ways: `rows` of a block, and which powers of two `lifts` multiply rows in turn.

    `bits` are those of a digit below a byte, else 0. With less than `least` channels, the sum of a
    patch costs more than the weights are worth.
    """

    name: str
    rows: int
    bits: int
    lifts: tuple[int, ...]
    least: int = 0

    @property
    def limit(self) -> int:
        """Sums must be below this, so that they can be told apart modulo 2^32."""
        return 1 << (_WORD - max(self.lifts))

    def pack(self, weights: IntArray) -> NDArray[np.uint32] | None:
        """Words ``[groups, …]`` of ``[C, runs, run]`` weights; None where they do not fit.

        Channels are filled up to a multiple of `rows` by zeros.
        """
        flat = weights.reshape(weights.shape[0], -1)
        flat = np.pad(flat, ((0, -flat.shape[0] % self.rows), (0, 0)))
        return self._digits(flat, weights.shape[2]) if self.bits else self._pairs(flat)

    def first(self, bias: IntArray) -> IntArray:
        """First values of the sums, ``[groups, rows]``, for biases ``[groups · rows]``."""
        if self.name == "bytes":
            return bias.reshape(-1, self.rows)
        lifted = (bias.reshape(-1, len(self.lifts)) << np.array(self.lifts))[:, ::-1]
        return lifted.cumsum(axis=1)[:, ::-1].reshape(-1, self.rows)

    def _pairs(self, flat: IntArray) -> NDArray[np.uint32] | None:
        """Halfwords of 256 times one row plus the other, or of a byte of each."""
        if flat.min() < -128 or flat.max() > 127:
            return None
        lanes = 256 * flat[0::2] + (flat[1::2] & 0xFF if self.name else flat[1::2])
        if lanes.min() < -_HALF or lanes.max() >= _HALF:
            return None
        return self._words(lanes, 2)

    def _digits(self, flat: IntArray, run: int) -> NDArray[np.uint32] | None:
        """Halfwords of digits; steps of two elements share words where digits leave room."""
        digits, half = len(self.lifts), 1 << (self.bits - 1)
        share = 16 // (self.bits * digits)
        if flat.min() < -half or flat.max() >= half or run % (2 * share):
            return None
        groups = flat.reshape(-1, digits, flat.shape[1])
        groups = np.concatenate([groups[:, :1], groups[:, 1:] + half], axis=1)
        lanes = (groups << np.array(self.lifts)[:, None]).sum(axis=1)
        if share == 1:
            return self._words(lanes, digits)
        bytes_ = lanes.reshape(lanes.shape[0], -1, share, 2) & 0xFF
        return self._words((bytes_[:, :, 0] | bytes_[:, :, 1] << 8).reshape(lanes.shape[0], -1), 4)

    def _words(self, lanes: IntArray, rows: int) -> NDArray[np.uint32]:
        """Halfwords ``[C / rows, K]`` two to a word, those of one group of channels in turn."""
        halves = lanes & 0xFFFF
        words = halves[:, 0::2] | halves[:, 1::2] << 16
        shaped = words.reshape(-1, self.rows // rows, words.shape[1]).swapaxes(1, 2)
        return np.ascontiguousarray(shaped).astype(np.uint32)


def packings(shape: str) -> tuple[Packing, ...]:
    """The ways for a shape of block, those that need the least memory first."""
    rows = 8 if shape == "tall" else 4
    few, some = (0, 0) if shape == "tall" else (_FEW, _SOME)
    crumbs = tuple(range(2 * rows - 2, -1, -2))
    return (
        Packing("n2", rows, 2, crumbs, some),
        Packing("n4", rows, 4, (12, 8, 4, 0), few),
        Packing("", rows, 0, (8, 0)),
        Packing("bytes", rows, 0, (0,)),
    )
