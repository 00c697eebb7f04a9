"""Ops that move elements and compute nothing: Transpose, Reshape and its kin.

All keep their operand's type; where another type was assigned to the result (as QDQ models may),
the change of type follows as a table or a Requantize.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import FloatArray, FloatOp, Site
from binpoint.numeric.fixed import FixedType, FloatType, TensorType
from binpoint.ops.copy import IntReshape, transposed
from binpoint.ops.lookup import convert


def finish_moved(site: Site, build: GraphBuilder, moved: Value) -> Value:
    """Bring moved elements to the type assigned to the result, if one was."""
    (target,) = site.results
    if moved.elem.axis is not None:
        # Scales per channel may lie along another axis now.
        same = moved.elem == site.result
        return moved if same else build.one(IntReshape(moved.shape, site.result), moved)
    return moved if target is None else convert(build, moved, target, site.semantics)


@dataclass(frozen=True, slots=True)
class Transpose(FloatOp):
    """Axes in another order."""

    onnx: ClassVar[tuple[str, ...]] = ("Transpose",)
    keeps_type: ClassVar[bool] = True

    order: tuple[int, ...]

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """Default order: reversed."""
        x = node.operand(0)
        order = node.ints("perm", tuple(reversed(range(len(x.shape)))))
        if sorted(order) != list(range(len(x.shape))):
            node.refuse(f"perm {list(order)} is no order of {len(x.shape)} axes")
        return (transpose_value(build, x, order),)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """Shape with axes in the new order."""
        return (TensorType(tuple(inputs[0].shape[i] for i in self.order), FloatType()),)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """numpy.transpose."""
        return (np.transpose(inputs[0], self.order),)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """A copy, or nothing if only axes of size one move."""
        x = build.integer(site.inputs[0])
        return (finish_moved(site, build, build.one(transposed(x, self.order), x)),)


@dataclass(frozen=True, slots=True)
class Reshape(FloatOp):
    """The same elements in another shape: Reshape, Flatten, Squeeze, Unsqueeze, Identity."""

    onnx: ClassVar[tuple[str, ...]] = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
    keeps_type: ClassVar[bool] = True

    shape: tuple[int, ...]

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """The target shape is resolved: 0 copies an axis, −1 takes what is left."""
        x = node.operand(0)
        shape = _target_shape(node, x.shape)
        if math.prod(shape) != math.prod(x.shape):
            node.refuse(f"{list(x.shape)} does not fit {list(shape)}")
        return (reshape_value(build, x, shape),)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The shape."""
        assert math.prod(self.shape) == inputs[0].type.size, f"{inputs[0].shape} to {self.shape}"
        return (TensorType(self.shape, FloatType()),)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """numpy.reshape."""
        return (inputs[0].reshape(self.shape),)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """No code."""
        x = build.integer(site.inputs[0])
        return (finish_moved(site, build, build.one(IntReshape(self.shape, x.elem), x)),)


def _target_shape(node: OnnxNode, shape: tuple[int, ...]) -> tuple[int, ...]:
    rank = len(shape)
    match node.proto.op_type:
        case "Flatten":
            axis = node.int("axis", 1)
            axis += rank if axis < 0 else 0
            return (math.prod(shape[:axis]), math.prod(shape[axis:]))
        case "Squeeze":
            axes = axes_of(node, 1, rank)
            drop = axes if axes is not None else tuple(i for i, n in enumerate(shape) if n == 1)
            if any(shape[i] != 1 for i in drop):
                node.refuse(f"axes {list(drop)} of {list(shape)} are not all of size one")
            return tuple(n for i, n in enumerate(shape) if i not in drop)
        case "Unsqueeze":
            given = node.ints("axes") or tuple(int(v) for v in np.atleast_1d(node.array(1)))
            total = rank + len(given)
            places = {i + total if i < 0 else i for i in given}
            rest = iter(shape)
            return tuple(1 if i in places else next(rest) for i in range(total))
        case _:
            return _resolved(node, shape)


def _resolved(node: OnnxNode, shape: tuple[int, ...]) -> tuple[int, ...]:
    given = node.ints("shape") or tuple(int(v) for v in np.atleast_1d(node.array(1)))
    copies = not node.int("allowzero", 0)
    target = [shape[i] if n == 0 and copies and i < len(shape) else n for i, n in enumerate(given)]
    if target.count(-1) > 1 or min(target, default=1) < -1:
        node.refuse(f"the shape {list(given)} is not valid")
    if -1 in target:
        rest = -math.prod(target)
        if rest == 0 or math.prod(shape) % rest:
            node.refuse(f"{list(shape)} does not fit {list(given)}")
        target[target.index(-1)] = math.prod(shape) // rest
    return tuple(target)


def axes_of(node: OnnxNode, operand: int, rank: int) -> tuple[int, ...] | None:
    """Axes given as attribute (older opsets) or as constant operand, counted from the front.

    None if not given.
    """
    given = node.ints("axes") if node.attribute("axes") is not None else None
    if given is None and node.has(operand):
        given = tuple(int(v) for v in np.atleast_1d(node.array(operand)))
    if given is None:
        return None
    if any(not -rank <= axis < rank for axis in given):
        node.refuse(f"axes {list(given)} are outside rank {rank}")
    return tuple(sorted(axis % rank for axis in given))


def transpose_value(build: GraphBuilder, x: Value, order: Sequence[int]) -> Value:
    """`x` with its axes in another order; a constant is reordered at once."""
    if tuple(order) == tuple(range(len(order))):
        return x
    if x.constant is not None:
        kind = x.fixed
        if kind is not None and kind.axis is not None:
            kind = FixedType(
                kind.storage, kind.scales, kind.zero_points, tuple(order).index(kind.axis)
            )
        return build.constant(np.transpose(x.constant.array, order), fixed=kind, hint=x.name)
    return build.one(Transpose(tuple(order)), x)


def reshape_value(build: GraphBuilder, x: Value, shape: Sequence[int]) -> Value:
    """`x` in another shape; a constant is reshaped at once."""
    if tuple(shape) == x.shape:
        return x
    if x.constant is not None and (x.fixed is None or x.fixed.axis is None):
        return build.constant(x.constant.array.reshape(shape), fixed=x.fixed, hint=x.name)
    return build.one(Reshape(tuple(shape)), x)


def to_channel_last(build: GraphBuilder, x: Value) -> Value:
    """``[N, C, *spatial]`` as ``[N, *spatial, C]``."""
    return transpose_value(build, x, (0, *range(2, len(x.shape)), 1))


def to_channel_first(build: GraphBuilder, x: Value) -> Value:
    """``[N, *spatial, C]`` as ``[N, C, *spatial]``."""
    return transpose_value(build, x, (0, len(x.shape) - 1, *range(1, len(x.shape) - 1)))
