"""Constant: a read-only array that compares by content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A read-only array; equal to another of the same type, shape and bytes."""

    array: NDArray[Any]
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        """Freeze the array and take its digest."""
        array = np.ascontiguousarray(self.array).reshape(np.shape(self.array))
        if array is self.array or np.shares_memory(array, self.array):
            array = array.copy()
        array.flags.writeable = False
        content = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
        content.update(array.tobytes())
        object.__setattr__(self, "array", array)
        object.__setattr__(self, "digest", content.hexdigest())

    def __eq__(self, other: object) -> bool:
        """Compare contents by digest."""
        return isinstance(other, Constant) and self.digest == other.digest

    def __hash__(self) -> int:
        """Hash of the digest."""
        return hash(self.digest)

    def __repr__(self) -> str:
        """Type, shape and the first digits of the digest."""
        return f"Constant({self.array.dtype}{list(self.array.shape)} {self.digest[:8]})"
