"""Quantizer nodes become annotations.

QuantizeLinear, DequantizeLinear and onnxruntime's QLinear family.

A tensor between QuantizeLinear and DequantizeLinear holds codes; the graph has one value for the
real number and its code, with the type as annotation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.errors import InvalidConstant
from binpoint.ir.onnx_node import OnnxNode
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import FixedType, IntType


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a quantized operator has its operands.

    Triples (data, scale, zero point), then the rest.

    `result` is (scale, zero point), or None where the result is real or an exact integer. `bias`
    is an int32 operand on the scale of the first two operands' product.
    """

    data: tuple[tuple[int, int, int], ...]
    result: tuple[int, int] | None
    bias: int | None = None


QUANTIZED: Mapping[str, Layout] = MappingProxyType(
    {
        "QLinearConv": Layout(((0, 1, 2), (3, 4, 5)), (6, 7), 8),
        "QLinearMatMul": Layout(((0, 1, 2), (3, 4, 5)), (6, 7)),
        "com.microsoft.QGemm": Layout(((0, 1, 2), (3, 4, 5)), (7, 8), 6),
        "com.microsoft.QLinearAdd": Layout(((0, 1, 2), (3, 4, 5)), (6, 7)),
        "com.microsoft.QLinearMul": Layout(((0, 1, 2), (3, 4, 5)), (6, 7)),
        "com.microsoft.QLinearAveragePool": Layout(((0, 1, 2),), (3, 4)),
        "com.microsoft.QLinearGlobalAveragePool": Layout(((0, 1, 2),), (3, 4)),
        "com.microsoft.QLinearSigmoid": Layout(((0, 1, 2),), (3, 4)),
        "com.microsoft.QLinearLeakyRelu": Layout(((0, 1, 2),), (3, 4)),
        "com.microsoft.QLinearSoftmax": Layout(((0, 1, 2),), (3, 4)),
        "com.microsoft.QLinearReduceMean": Layout(((0, 1, 2),), (3, 4)),
    }
)


def storage_of(dtype: np.dtype[Any], node: OnnxNode) -> IntType:
    """The integer type of codes; refuses others than 8, 16 and 32 bits."""
    if dtype.kind not in "iu" or dtype.itemsize not in (1, 2, 4):
        node.refuse(f"codes of type {dtype}", want="int8, uint8, int16, uint16 or int32")
    return IntType(8 * dtype.itemsize, dtype.kind == "i")


def make_type(
    storage: IntType,
    scale: NDArray[Any],
    zero: NDArray[Any] | None,
    axis: int | None,
    node: OnnxNode,
) -> FixedType:
    """The type of codes with these scales and zero points.

    Raises:
        InvalidConstant: a scale is not a positive finite number, or a zero point leaves the type.
    """
    scales = np.atleast_1d(np.asarray(scale, np.float32)).reshape(-1)
    zeros = (
        np.zeros(1, np.int64) if zero is None else np.atleast_1d(zero).astype(np.int64).reshape(-1)
    )
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        bad = scales[~(np.isfinite(scales) & (scales > 0))][0]
        raise InvalidConstant(
            f"`{node.op}` has a scale that is not positive and finite", at=node.place, have=str(bad)
        )
    if np.ndim(scale) > 1:
        node.refuse(f"scales of shape {list(np.shape(scale))}", want="a scalar or a vector")
    if len(zeros) not in (1, len(scales)):
        node.refuse(f"{len(scales)} scales and {len(zeros)} zero points")
    if zeros.min() < storage.min or zeros.max() > storage.max:
        raise InvalidConstant(
            f"`{node.op}` has a zero point outside its type",
            at=node.place,
            have=str(zeros),
            want=str(storage),
        )
    dyadics = tuple(Dyadic.from_float(float(s)) for s in scales)
    if len(dyadics) == 1:
        return FixedType.per_tensor(storage, dyadics[0], int(zeros[0]))
    if axis is None or axis < 0:
        node.refuse(f"{len(dyadics)} scales", want="one, or one for each channel of an axis")
    return FixedType(storage, dyadics, tuple(int(z) for z in zeros), axis)


def check_channels(kind: FixedType, shape: tuple[int, ...], node: OnnxNode) -> None:
    """Refuse a scale per channel where the tensor has another number of channels."""
    if kind.axis is None or shape[kind.axis : kind.axis + 1] == (kind.channels,):
        return
    node.refuse(f"{kind.channels} scales along axis {kind.axis} of a tensor of shape {list(shape)}")
