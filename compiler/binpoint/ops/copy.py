"""IntCopy: any rearrangement of elements that is affine in the indices; IntReshape: none at all.

Transpose, Slice, Split, nearest-neighbour Resize, Expand, DepthToSpace and more are one `IntCopy`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from binpoint.ir.graph import Value
from binpoint.ir.kernel import Buffer, KernelCall, Number, Work
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import IntArray, IntegerOp
from binpoint.numeric.fixed import FixedType, TensorType
from binpoint.numeric.interval import Interval

MOST_AXES = 6


def run_on(sizes: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Size and stride of axes: those of size one dropped, those that run on joined."""
    merged: list[tuple[int, int]] = []
    for size, stride in zip(sizes, strides, strict=True):
        if size == 1:
            continue
        if merged and merged[-1][1] == stride * size:
            merged[-1] = (merged[-1][0] * size, stride)
        else:
            merged.append((size, stride))
    return merged or [(1, 1)]


def places(offset: int, sizes: Sequence[int], strides: Sequence[int]) -> IntArray:
    """Where the elements of such axes are, in order."""
    index = np.array([offset], np.int64)
    for size, stride in zip(sizes, strides, strict=True):
        index = (index[:, None] + np.arange(size) * stride).reshape(-1)
    return index


@dataclass(frozen=True, slots=True)
class IntCopy(IntegerOp):
    """y[i] = x.flat[offset + Σ i_j·strides_j], over the axes `sizes`; then seen in `shape`."""

    stem: ClassVar[str] = "copy"

    shape: tuple[int, ...]
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    result: FixedType

    @classmethod
    def of(
        cls,
        shape: Sequence[int],
        sizes: Sequence[int],
        strides: Sequence[int],
        offset: int,
        result: FixedType,
    ) -> IntCopy:
        """The op with axes of size one dropped and axes that run on joined."""
        merged = run_on(sizes, strides)
        assert len(merged) <= MOST_AXES, f"a copy over {len(merged)} axes"
        return cls(
            tuple(shape), tuple(n for n, _ in merged), tuple(s for _, s in merged), offset, result
        )

    @property
    def indices(self) -> IntArray:
        """Which element of the flat operand each element of the flat result is."""
        return places(self.offset, self.sizes, self.strides)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The shape given; the same scale and zero point."""
        index = self.indices
        assert index.size == math.prod(self.shape), "the axes do not fit the shape"
        assert index.min() >= 0, "a copy reads outside its operand"
        assert index.max() < inputs[0].type.size, "a copy reads outside its operand"
        return (TensorType(self.shape, self.result),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """The operand's."""
        return (inputs[0].interval,)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        return (inputs[0].reshape(-1)[self.indices].reshape(self.shape),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Gather from the flat operand."""
        (x,) = inputs
        flat = w.reshape(x, (math.prod(x.shape),))
        return (w.reshape(w.take(flat, self.indices, 0), self.shape),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Nested loops over the axes, at most six."""
        (x,), (y,) = inputs, outputs
        missing = MOST_AXES - len(self.sizes)
        sizes, strides = (1,) * missing + self.sizes, (0,) * missing + self.strides
        rank = max(1, len(self.sizes))
        arguments = (
            Buffer("x", x.name, x.elem.storage),
            Buffer("y", y.name, y.elem.storage, written=True),
            Number("offset", self.offset),
            *(Number(f"n{i}", sizes[MOST_AXES - rank + i]) for i in range(rank)),
            *(Number(f"s{i}", strides[MOST_AXES - rank + i]) for i in range(rank)),
        )
        traits = (("rank", f"{rank}d"),)
        return KernelCall(
            self.stem, arguments, traits, formula="y[i] = x[offset + sum(i * stride)]"
        )

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """One load and one store an element."""
        size = outputs[0].type.size
        return Work(loads=size, stores=size)

    def alias(self) -> bool:
        """Whether it copies everything in order."""
        return False


@dataclass(frozen=True, slots=True)
class IntReshape(IntegerOp):
    """The same elements in another shape; or the same integers read with another scale."""

    stem: ClassVar[str] = "reshape"

    shape: tuple[int, ...]
    result: FixedType

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The shape given."""
        assert inputs[0].type.size == math.prod(self.shape), (
            "a reshape keeps the number of elements"
        )
        assert inputs[0].elem.storage == self.result.storage, "a reshape keeps the stored integers"
        return (TensorType(self.shape, self.result),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """The operand's."""
        return (inputs[0].interval,)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        return (inputs[0].reshape(self.shape),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Reshape."""
        return (w.reshape(inputs[0], self.shape),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """A plain copy, for where the result cannot share the operand's memory."""
        (x,), (y,) = inputs, outputs
        size = x.type.size
        return IntCopy((size,), (size,), (1,), 0, self.result).kernel((x,), (y,))

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """None."""
        return Work()

    def alias(self) -> bool:
        """No code is needed."""
        return True


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides, in elements, of a dense array of this shape."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= size
    return tuple(strides)


def transposed(x: Value, order: Sequence[int]) -> IntCopy | IntReshape:
    """The op that brings the axes of `x` into another order."""
    shape = tuple(x.shape[i] for i in order)
    kind = x.elem
    if kind.axis is not None:
        kind = FixedType(kind.storage, kind.scales, kind.zero_points, tuple(order).index(kind.axis))
    if moves_nothing(x.shape, order):
        return IntReshape(shape, kind)
    strides = row_major(x.shape)
    return IntCopy.of(shape, shape, [strides[i] for i in order], 0, kind)


def moves_nothing(shape: Sequence[int], order: Sequence[int]) -> bool:
    """Whether a transposition moves only axes of size one, and so no element."""
    wide = [i for i in order if shape[i] != 1]
    return wide == sorted(wide)
