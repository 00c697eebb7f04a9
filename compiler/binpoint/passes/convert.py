"""Between real numbers and stored integers at the model's border: one way, used everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.graph import Graph, Value
from binpoint.numeric import float32
from binpoint.passes.samples import Samples

_FLOAT_BITS = 24


def stored(value: Value, array: NDArray[Any]) -> NDArray[Any]:
    """The codes of an array in a value's type: QuantizeLinear of reals, integers as they are."""
    kind = value.elem
    if array.dtype.kind != "f":
        return array.astype(kind.storage.dtype).reshape(value.shape)
    low, high = kind.storage.min, kind.storage.max
    codes = float32.quantize_linear(array, float(kind.scale), kind.zero_points[0], low, high)
    return codes.astype(kind.storage.dtype).reshape(value.shape)


def real(value: Value, codes: NDArray[Any]) -> NDArray[np.float32]:
    """What codes stand for: by DequantizeLinear, or in float64 where the scale is no float32."""
    kind, reading = value.elem, value.reading
    if reading is not None:
        scales, offsets = (reading.spread(n, codes.ndim) for n in (reading.scales, reading.offsets))
        exact = (np.asarray(codes, np.int64) - kind.zero_points[0]) * scales
        return (exact + offsets).astype(np.float32)
    if kind.axis is not None or kind.scale.multiplier.bit_length() > _FLOAT_BITS:
        return kind.dequantize(codes).astype(np.float32)
    return float32.dequantize_linear(codes, float(kind.scale), kind.zero_points[0])


def stored_inputs(graph: Graph, samples: Samples) -> Iterator[dict[str, NDArray[Any]]]:
    """Inputs of an integer graph, as codes, for each sample."""
    for sample in samples.inputs():
        yield {name: stored(graph.value(name), sample[name]) for name in graph.inputs}
