"""What the linear ops share: weights and bias as integers, zero points folded.

Exact ranges of sums.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from binpoint.errors import AccumulatorOverflow, NoIntegerForm
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import IntArray, Semantics, Site
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I16, I32, FixedType
from binpoint.numeric.interval import Interval
from binpoint.ops.requantize import Ranges
from binpoint.ops.rescale import accumulator, linear_factors, requantize

_INT32 = Interval.of_type(I32)


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights ``[O, …]`` with their zero point taken off.

    Bias ``[O]`` on the accumulator's scale.
    """

    codes: IntArray
    bias: IntArray
    type: FixedType

    def folded(self, zero: int) -> Weights:
        """The same with the input's zero point moved into the bias: for windows without padding."""
        sums = self.codes.reshape(self.codes.shape[0], -1).sum(axis=1)
        return replace(self, bias=self.bias - zero * sums)

    def scales(self, x: FixedType, rank: int) -> FixedType:
        """The accumulator's type."""
        return accumulator([x.scale * s for s in self.type.scales], rank)

    def constant(self, build: GraphBuilder, codes: IntArray) -> Value:
        """The weights as an integer constant of the smallest type."""
        storage = self.type.storage
        if not storage.signed or not Interval.of_type(storage).contains(Interval.of(codes)):
            storage = (
                Interval.of(codes)
                .union(Interval(-128, 127))
                .width_in((replace(storage, width=8, signed=True), I16))
            )
        one = FixedType.per_tensor(storage, Dyadic.one())
        return build.constant(codes, one, hint=f"{build.hint}_weights")

    def bias_constant(self, build: GraphBuilder) -> Value:
        """The bias as an int32 constant."""
        bounds = Interval.of(self.bias)
        if not _INT32.contains(bounds):
            raise AccumulatorOverflow("a bias leaves 32 bits", at=build.hint, have=str(bounds))
        return build.constant(
            self.bias, FixedType.per_tensor(I32, Dyadic.one()), hint=f"{build.hint}_bias"
        )


def read_weights(site: Site, *, bias: int) -> Weights:
    """Weights from operand 1 and, if given, the bias from operand `bias` of a lowered op."""
    x, w = site.inputs[0], site.inputs[1]
    if w.constant is None or w.fixed is None:
        raise NoIntegerForm("weights without an integer type", at=site.name)
    kind = w.fixed
    if kind.axis not in (None, 0):
        raise NoIntegerForm(
            "weights with scales along another axis than output channels", at=site.name
        )
    zeros = np.array(kind.zero_points, np.int64)
    codes = w.constant.array.astype(np.int64) - zeros.reshape(
        -1, *[1] * (w.constant.array.ndim - 1)
    )
    count = codes.shape[0]
    given = site.inputs[bias] if bias < len(site.inputs) else None
    scales = [x.elem.scale * s for s in kind.scales]
    return Weights(codes, bias_codes(site, given, scales, count), kind)


def imported_kernel(node: OnnxNode) -> tuple[Value, Value, tuple[int, ...]]:
    """Data, constant weights, and the sizes of the kernel of a convolution; others are refused."""
    x, w = node.operand(0), node.operand(1)
    if w.constant is None:
        node.refuse(
            "the weights must be constant", hint="fold the weights into the model before export"
        )
    if len(x.shape) not in (3, 4) or len(w.shape) != len(x.shape):
        node.refuse(f"input of shape {list(x.shape)}", want="one or two spatial axes")
    kernel = node.ints("kernel_shape", w.shape[2:])
    if kernel != w.shape[2:]:
        node.refuse(f"kernel_shape {list(kernel)} does not fit weights {list(w.shape)}")
    return x, w, kernel


def imported_bias(node: OnnxNode, count: int) -> Value:
    """Operand 2 of a convolution: one constant for each of `count` output channels, or refused."""
    bias = node.operand(2)
    if bias.shape != (count,):
        node.refuse(f"a bias of shape {list(bias.shape)}", want=f"[{count}]")
    if bias.constant is None:
        node.refuse("the bias must be constant", hint="add it by an Add after the convolution")
    return bias


def bias_codes(site: Site, given: Value | None, scales: list[Dyadic], count: int) -> IntArray:
    """The bias in units of the accumulator.

    Int32 codes as they are, real numbers rounded to even.
    """
    if given is None:
        return np.zeros(count, np.int64)
    if given.constant is None:
        raise NoIntegerForm("the bias must be constant", at=site.name)
    units = np.array([float(s) for s in scales] * (count if len(scales) == 1 else 1))
    array = np.broadcast_to(given.constant.array.reshape(-1), (count,))
    if given.fixed is not None and given.fixed.zero_points == (0,):
        stated = np.array(
            [float(s) for s in given.fixed.scales] * (count if given.fixed.channels == 1 else 1)
        )
        if site.semantics is Semantics.ONNXRUNTIME or np.array_equal(stated, units):
            return array.astype(np.int64)
    real = array.astype(np.float64)
    if given.fixed is not None:
        real = given.fixed.dequantize(given.constant.array.astype(np.int64)).reshape(-1)
    if site.semantics is Semantics.ONNXRUNTIME:
        return np.rint(real.astype(np.float32) / units.astype(np.float32)).astype(np.int64)
    return np.rint(real / units).astype(np.int64)


def channel_reach(weights: Weights, x: Value, *, padded: bool, zero: int | None = None) -> Ranges:
    """The exact range of each channel's sum over all operands in `x`'s range.

    Padding may add zero.
    """
    offset = x.elem.zero_point if zero is None else zero
    lo, hi = x.interval.lo - offset, x.interval.hi - offset
    if padded:
        lo, hi = min(lo, 0), max(hi, 0)
    rows = weights.codes.reshape(weights.codes.shape[0], -1)
    positive, negative = np.maximum(rows, 0).sum(axis=1), np.minimum(rows, 0).sum(axis=1)
    low = weights.bias + positive * lo + negative * hi
    high = weights.bias + positive * hi + negative * lo
    if low.size and not _INT32.contains(Interval(int(low.min()), int(high.max()))):
        raise AccumulatorOverflow(
            "a sum may leave 32 bits",
            have=f"{low.min()}..{high.max()}",
            hint="the weights or bias are too large for this input range",
        )
    return tuple(zip(low.tolist(), high.tolist(), strict=True))


def finish(
    site: Site, build: GraphBuilder, acc: Value, weights: Weights, reach: Ranges, alpha: float = 1.0
) -> Value:
    """Round the sums to the result's type."""
    target = site.result
    factors = None
    if site.semantics is Semantics.ONNXRUNTIME and target.storage.width <= 8:
        factors = linear_factors(site.inputs[0].elem.scale, weights.type, target.scale, alpha)
    return requantize(site, build, acc, reach=reach, scales32=factors)
