"""Codes of a few bits as planes of words, which masks and shifts bring back four at a time.

A block has 8 units of codes, a unit `unit` codes, in byte order. Its planes hold four, two or one
of the bits of each code, as many as add up to the width, lowest bits first; a unit of a plane of p
bits has bytes of 8 / p units, the first in the lowest bits. So a block of codes of b bits has b
units.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 8
"""Units of codes in a block."""
_PLANES = (4, 2, 1)


def planes(bits: int) -> tuple[tuple[int, int], ...]:
    """Of each plane its bits, and which bit of the codes is its lowest."""
    found: list[tuple[int, int]] = []
    for width in _PLANES:
        if bits & width:
            found.append((width, sum(w for w, _ in found)))
    return tuple(found)


def pack(codes: NDArray[np.integer], bits: int, unit: int) -> NDArray[np.uint32]:
    """Words of the planes of codes ``[n]``, none of which is negative or has more than `bits` bits.

    The last block is filled up with zeros.
    """
    blocks = np.pad(codes.astype(np.int64), (0, -codes.size % (BLOCK * unit)))
    blocks = blocks.reshape(-1, BLOCK, unit)
    units: list[NDArray[np.int64]] = []
    for width, lowest in planes(bits):
        part = (blocks >> lowest) & ((1 << width) - 1)
        shares = part.reshape(len(blocks), width, BLOCK // width, unit)
        shifts = width * np.arange(BLOCK // width)[:, None]
        units.append((shares << shifts).sum(axis=2))
    packed = np.concatenate(units, axis=1).astype(np.uint8)
    return packed.reshape(-1).view("<u4").astype(np.uint32)


def unpack(words: NDArray[np.uint32], bits: int, unit: int) -> NDArray[np.uint8]:
    """The codes of all blocks, in order."""
    units = words.astype("<u4").view(np.uint8).astype(np.int64).reshape(-1, bits, unit)
    codes = np.zeros((len(units), BLOCK, unit), np.int64)
    first = 0
    for width, lowest in planes(bits):
        shifts = width * np.arange(BLOCK // width)[:, None]
        shares = units[:, first : first + width, None] >> shifts & ((1 << width) - 1)
        codes |= shares.reshape(codes.shape) << lowest
        first += width
    return codes.reshape(-1).astype(np.uint8)
