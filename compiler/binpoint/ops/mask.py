"""Where: selection by a condition.

A place that is filled with −∞, or with a number so low that its share in a softmax is zero, is
*masked*: `Mask` says so, and `fuse-masks` gives it to the softmax that reads it. Other constant
conditions are arithmetic: y = a·c + b·(1 − c) with c of zeros and ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from binpoint.errors import NoIntegerForm
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import FloatArray, FloatOp, Role, Site
from binpoint.numeric.fixed import FloatType, TensorType
from binpoint.ops.elementwise import Binary, Kind, is_number
from binpoint.ops.select import Select
from binpoint.ops.shape import reshape_value

LOWEST = -1000.0
"""A score that is lower than another one by this much has the share zero in float32 already."""


@dataclass(frozen=True, slots=True)
class Mask(FloatOp):
    """y = x where `keep` is 1, −∞ where it is 0; for a softmax alone."""

    onnx: ClassVar[tuple[str, ...]] = ("Where",)

    def roles(self, count: int) -> tuple[Role, ...]:
        """Data, and what is kept."""
        return (Role.ACTIVATION, Role.PARAMETER)[:count]

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """Where; with a constant condition, one result all over is that result."""
        if node.operand(0).constant is None:
            return (_chosen(build, *(node.operand(i) for i in range(3))),)
        keep = node.array(0).astype(bool)
        a, b = node.operand(1), node.operand(2)
        for x, other, mask in ((a, b, keep), (b, a, ~keep)):
            if x.constant is None and _is_low(other, mask):
                return (mask_value(build, x, mask),)
        return (_selected(node, build, keep, (a, b)),)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The broadcast shape."""
        return (TensorType(np.broadcast_shapes(*(v.shape for v in inputs)), FloatType()),)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """The definition."""
        x, keep = inputs
        return (np.where(keep != 0, x, np.asarray(-np.inf, x.dtype)),)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """There is none: no integer stands for −∞."""
        raise NoIntegerForm(
            "a value that is masked with infinity and that other ops than a softmax read",
            at=site.name,
            hint="mask with a finite number, or let a Softmax follow",
        )


def _chosen(build: GraphBuilder, condition: Value, yes: Value, no: Value) -> Value:
    """Selection by a computed condition; operands get the rank of the result."""
    rank = max(len(v.shape) for v in (condition, yes, no))
    numbers = [float(constant_array(v).reshape(())) if is_number(v) else None for v in (yes, no)]
    operands = [condition]
    operands += [v for v, number in zip((yes, no), numbers, strict=True) if number is None]
    padded = (reshape_value(build, v, (1,) * (rank - len(v.shape)) + v.shape) for v in operands)
    return build.one(Select(*numbers), *padded)


def mask_value(build: GraphBuilder, x: Value, keep: NDArray[np.bool_]) -> Value:
    """`x` with −∞ where `keep` is false; `x` itself if it is true all over."""
    shape = np.broadcast_shapes(x.shape, keep.shape)
    if keep.all() and shape == x.shape:
        return x
    places = keep.reshape((1,) * (len(shape) - keep.ndim) + keep.shape)
    x = reshape_value(build, x, (1,) * (len(shape) - len(x.shape)) + x.shape)
    return build.one(
        Mask(), x, build.constant(places.astype(np.float32), hint=f"{build.hint}_keep")
    )


def _is_low(value: Value, keep: NDArray[Any]) -> bool:
    """Whether a constant is as low as −∞ wherever it is taken."""
    if value.constant is None or value.fixed is not None or keep.all():
        return False
    array, mask = np.broadcast_arrays(constant_array(value), keep)
    return bool((array[~mask] <= LOWEST).all())


def _selected(
    node: OnnxNode, build: GraphBuilder, keep: NDArray[np.bool_], branches: tuple[Value, Value]
) -> Value:
    """a·c + b·(1 − c), without what is zero all over."""
    shape = np.broadcast_shapes(keep.shape, *(v.shape for v in branches))
    parts: list[Value] = []
    for x, places in zip(branches, (keep, ~keep), strict=True):
        if x.fixed is not None:
            node.refuse("a selection of quantized constants", hint="leave the constants real")
        chosen = np.broadcast_to(places, shape).astype(np.float32)
        if x.constant is not None:
            array = np.where(chosen != 0, constant_array(x), np.float32(0)).astype(np.float32)
            if array.any():
                parts.append(build.constant(array))
            continue
        whole = reshape_value(build, x, (1,) * (len(shape) - len(x.shape)) + x.shape)
        if places.all() and whole.shape == shape:
            parts.append(whole)
        elif places.any():
            parts.append(build.one(Binary(Kind.MUL), whole, build.constant(chosen)))
    if not parts:
        return build.constant(np.zeros(shape, np.float32))
    return parts[0] if len(parts) == 1 else build.one(Binary(Kind.ADD), *parts)
