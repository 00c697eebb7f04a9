"""Which axes a reshape joins and splits: what `sink-transposes` needs to know of shapes alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """Axes of the operand of a transposition, and the axes of the reshaped result they become."""

    source: Shape
    target: Shape


def blocks(shape: Shape, order: Shape, target: Shape) -> list[Block] | None:
    """The smallest blocks of axes that a transposition and a reshape map onto each other.

    `shape` is transposed by `order`, then reshaped to `target`; axes of size one are in no block.
    `source` axes are in the transposed order. None if no axes fit before the end.
    """
    left = [axis for axis in order if shape[axis] != 1]
    right = [axis for axis, size in enumerate(target) if size != 1]
    found: list[Block] = []
    while left and right:
        source, into = [left.pop(0)], [right.pop(0)]
        a, b = shape[source[0]], target[into[0]]
        while a != b:
            pool = left if a < b else right
            if not pool:
                return None
            axis = pool.pop(0)
            if pool is left:
                source.append(axis)
                a *= shape[axis]
            else:
                into.append(axis)
                b *= target[axis]
        found.append(Block(tuple(source), tuple(into)))
    return None if left or right else found


def swapped(shape: Shape, order: Shape, target: Shape) -> tuple[Shape, Shape] | None:
    """A shape and an order that reshape first and transpose then, with the same result.

    transpose(reshape(x, shape), order) = reshape(transpose(x, order), target). None if the reshape
    joins axes that are not neighbours, in their order, before the transposition.
    """
    found = blocks(shape, order, target)
    if found is None:
        return None
    wide = [axis for axis, size in enumerate(shape) if size != 1]
    for block in found:
        places = [wide.index(axis) for axis in block.source]
        if places != list(range(places[0], places[0] + len(places))):
            return None
    places = [axis for block in sorted(found, key=lambda b: b.source) for axis in block.target]
    for axis, size in enumerate(target):
        if size == 1:
            places.insert(places.index(axis - 1) + 1 if axis else 0, axis)
    reshaped = tuple(target[axis] for axis in places)
    return reshaped, tuple(places.index(axis) for axis in range(len(target)))


def flattened(shape: Shape, order: Shape, target: Shape) -> NDArray[np.int64] | None:
    """Where elements of a transposed, reshaped tensor lie on its last axis without transposing.

    reshape(transpose(x, order), target) = reshape(x, target)[..., result]. None if there is no such
    permutation of the last axis.
    """
    if not target or 0 in target:
        return None
    size = target[-1]
    index = np.arange(int(np.prod(shape))).reshape(shape)
    rows = index.transpose(order).reshape(-1, size)
    places = rows[0] % size
    straight = np.arange(rows.size).reshape(-1, size)
    return places if np.array_equal(straight[:, places], rows) else None
