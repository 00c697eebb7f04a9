"""Two operands of different shapes, element by element: the axes over which a kernel runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from binpoint.errors import NoIntegerForm
from binpoint.ir.graph import Value
from binpoint.ir.kernel import Argument, Buffer, Number
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import IntArray
from binpoint.ops.copy import row_major

MOST_AXES = 4


@dataclass(frozen=True, slots=True)
class Broadcast:
    """numpy's broadcasting over as few axes as possible: sizes, and a stride per operand and axis.

    Axes of size one are dropped and axes that run on in both operands are joined; a stride is 0
    where an operand is repeated. The innermost stride is 1 in one operand at least.
    """

    shape: tuple[int, ...]
    sizes: tuple[int, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]

    @classmethod
    def of(cls, a: Sequence[int], b: Sequence[int], where: str | None = None) -> Broadcast:
        """The joined axes of two shapes that broadcast.

        Raises:
            NoIntegerForm: more than four axes are left.
        """
        shape = np.broadcast_shapes(tuple(a), tuple(b))
        merged: list[tuple[int, int, int]] = []
        for size, left, right in zip(shape, _strides(a, shape), _strides(b, shape), strict=True):
            if size == 1:
                continue
            if merged and merged[-1][1] == left * size and merged[-1][2] == right * size:
                merged[-1] = (merged[-1][0] * size, left, right)
            else:
                merged.append((size, left, right))
        merged = merged or [(1, 1, 1)]
        if len(merged) > MOST_AXES:
            raise NoIntegerForm(
                f"operands that alternate over {len(merged)} axes",
                at=where,
                have=f"{list(a)} and {list(b)}",
                hint="expand one operand before export",
            )
        sizes, lefts, rights = zip(*merged, strict=True)
        return cls(tuple(shape), sizes, lefts, rights)

    @property
    def traits(self) -> tuple[tuple[str, str], ...]:
        """Number of loops, and which operands move in the innermost one."""
        inner = "ab"
        if not self.left[-1] or not self.right[-1]:
            inner = "a" if self.left[-1] else "b"
        return (("rank", f"{len(self.sizes)}d"), ("inner", inner))

    def numbers(self) -> tuple[Number, ...]:
        """Sizes of all axes, and strides of all but the innermost, for the kernel."""
        outer = range(len(self.sizes) - 1)
        return (
            *(Number(f"n{i}", size) for i, size in enumerate(self.sizes)),
            *(Number(f"a{i}", self.left[i]) for i in outer),
            *(Number(f"b{i}", self.right[i]) for i in outer),
        )

    def in_place(self) -> tuple[int, ...]:
        """The operands that have the result's shape."""
        dense = row_major(self.sizes)
        return tuple(i for i, strides in enumerate((self.left, self.right)) if strides == dense)

    def pair(self, a: IntArray, b: IntArray) -> tuple[IntArray, IntArray]:
        """Both operands in the result's shape."""
        return np.broadcast_to(a, self.shape), np.broadcast_to(b, self.shape)

    def expand(self, w: OnnxWriter, x: Tensor) -> Tensor:
        """An operand in the result's shape, in the check graph."""
        if x.shape == self.shape:
            return x
        shape = w.array(np.array(self.shape, np.int64))
        return w.emit("Expand", [x.name, shape], self.shape, x.range)


def pair_buffers(a: Value, b: Value, y: Value) -> tuple[Argument, ...]:
    """The three buffers of a kernel on pairs."""
    return (
        Buffer("a", a.name, a.elem.storage),
        Buffer("b", b.name, b.elem.storage),
        Buffer("y", y.name, y.elem.storage, written=True),
    )


def _strides(shape: Sequence[int], whole: Sequence[int]) -> tuple[int, ...]:
    dense = [0 if n == 1 else s for n, s in zip(shape, row_major(shape), strict=True)]
    return (0,) * (len(whole) - len(dense)) + tuple(dense)
