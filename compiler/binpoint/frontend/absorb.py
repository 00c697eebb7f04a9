"""A linear op without some of its input channels, whose constant part goes into the bias."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from binpoint.frontend.known import Numbers, real_array
from binpoint.frontend.linear import Linear
from binpoint.frontend.ties import Index
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Value
from binpoint.numeric.fixed import I32, FixedType

_SAME_SCALE = 1e-6


@dataclass(frozen=True, slots=True)
class Codes:
    """A bias as stored integers ``[O]`` in steps of the sums, and its type."""

    array: NDArray[np.int64]
    type: FixedType


def can_absorb(linear: Linear, numbers: Numbers) -> NDArray[np.bool_]:
    """Which input channels ``[C]``, constant where `numbers` are not NaN, the op can do without."""
    columns = linear.matrix.reshape(-1, linear.matrix.shape[-1])
    free = ~columns.any(axis=0) | (numbers == 0)
    if linear.padded or (not _is_real(linear) and _codes(linear, numbers) is None):
        return free
    return free | ~np.isnan(numbers)


def _is_real(linear: Linear) -> bool:
    """Whether sums are of real numbers, as far as is known now."""
    stored = linear.x.fixed is not None and linear.weights.fixed is not None
    return not stored and (linear.bias is None or linear.bias.fixed is None)


def _codes(linear: Linear, numbers: Numbers) -> Codes | None:
    """The bias as integers with all constant channels in it, if both semantics agree on it."""
    x, w = linear.x.fixed, linear.weights.fixed
    if x is None or w is None or x.axis is not None:
        return None
    scales = tuple(x.scale * s for s in w.scales)
    own = (
        FixedType.per_tensor(I32, scales[0]) if w.axis is None else FixedType(I32, scales, (0,), 0)
    )
    given = _own_codes(linear, own)
    if given is None:
        return None
    parts = _parts(linear, numbers)
    # What holds for the largest sum of all parts holds for the sum of any of them.
    reach = np.abs(given.array) + np.abs(parts).sum(axis=1)
    if reach.max(initial=0) > I32.max or not _stable(reach, given.type, own):
        return None
    return Codes(given.array + parts.sum(axis=1), given.type)


def _own_codes(linear: Linear, own: FixedType) -> Codes | None:
    """The bias of an op, as integers."""
    bias, count = linear.bias, linear.channels
    if bias is None or bias.constant is None:
        return Codes(np.zeros(count, np.int64), own)
    if bias.fixed is None:
        units = np.array([float(s) for s in own.scales])
        real = bias.constant.array.reshape(-1).astype(np.float64)
        wide = np.rint(real / units)
        narrow = np.rint(real.astype(np.float32) / units.astype(np.float32))
        fits = np.array_equal(wide, narrow) and np.abs(wide).max(initial=0) <= I32.max
        return Codes(wide.astype(np.int64), own) if fits else None
    codes = bias.constant.array.reshape(-1).astype(np.int64)
    kind = bias.fixed
    if kind.zero_points != (0,) or kind.storage.width > I32.width:
        return None
    return Codes(codes, kind.with_storage(I32)) if _stable(codes, kind, own) else None


def _stable(codes: NDArray[np.int64], kind: FixedType, own: FixedType) -> bool:
    """Whether codes mean themselves, read as they are or by their stated scale."""
    stated, units = (np.array([float(s) for s in k.scales]) for k in (kind, own))
    if not np.allclose(stated, units, rtol=_SAME_SCALE, atol=0):
        return False
    return bool(np.array_equal(np.rint(codes * stated / units), codes))


def _parts(linear: Linear, numbers: Numbers) -> NDArray[np.int64]:
    """What each constant channel adds to the sums, ``[O, C]``, in their steps."""
    x, w = linear.x.fixed, linear.weights.fixed
    assert x is not None
    assert w is not None
    assert linear.weights.constant is not None
    stored = linear.weights.constant.array.astype(np.int64)
    zeros = np.array(w.zero_points, np.int64).reshape(-1, *[1] * (stored.ndim - 1))
    columns = (stored - zeros).reshape(linear.channels, -1, stored.shape[-1]).sum(axis=1)
    known = np.nan_to_num(numbers)
    return columns * np.where(np.isnan(numbers), 0, x.quantize(known) - x.zero_point)


def narrowed(
    graph: Graph, linear: Linear, rows: Index, kept: Index, numbers: Numbers
) -> tuple[str, ...]:
    """New constants with `rows` and the columns `kept`; constant channels that go stay as bias."""
    weights, build = linear.weights, GraphBuilder(graph, linear.node.name)
    assert weights.constant is not None
    array = weights.constant.array[rows]
    if len(kept) < weights.shape[-1]:
        array = array[..., kept]
    kind = None if weights.fixed is None else taken(weights.fixed, 0, rows)
    new = [build.constant(array, fixed=kind, hint=weights.name)]
    bias = _bias_without(build, linear, rows, kept, numbers)
    return (new[0].name,) if bias is None else (new[0].name, bias.name)


def _bias_without(
    build: GraphBuilder, linear: Linear, rows: Index, kept: Index, numbers: Numbers
) -> Value | None:
    gone = np.setdiff1d(np.arange(len(numbers)), kept)
    columns = linear.matrix.reshape(linear.channels, -1, linear.matrix.shape[-1]).sum(axis=1)
    part = np.full(len(numbers), np.nan)
    part[gone] = numbers[gone]
    real = (columns * np.nan_to_num(part)).sum(axis=1)
    bias, hint = linear.bias, f"{linear.node.name}_bias"
    if not real.any() or not len(gone):
        if bias is None or bias.constant is None:
            return None
        kind = None if bias.fixed is None else taken(bias.fixed, 0, rows)
        return build.constant(bias.constant.array[rows], fixed=kind, hint=bias.name)
    if _is_real(linear):
        given = 0.0 if bias is None else real_array(bias)
        return build.constant((given + real)[rows].astype(np.float32), hint=hint)
    codes = _codes(linear, part)
    assert codes is not None, "no exact bias"
    kind = taken(codes.type, 0, rows)
    return build.constant(codes.array[rows].astype(np.int32), fixed=kind, hint=hint)


def taken(kind: FixedType, axis: int, kept: Index) -> FixedType:
    """A type with the scales of the elements kept along `axis`."""
    if kind.axis != axis:
        return kind
    zeros, places = kind.zero_points, [int(i) for i in kept]
    if len(zeros) > 1:
        zeros = tuple(zeros[i] for i in places)
    return replace(kind, scales=tuple(kind.scales[i] for i in places), zero_points=zeros)
