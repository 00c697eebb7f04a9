"""Layer normalization with an exact mean, in integers.

Of a row of n codes x (the zero point cancels out; sx is their scale):

    S = Σ x,  Q = n·Σ x² − S²              exact: n² times the variance, in 64 bits where needed
    D = Q·2^e + E                          E = epsilon·n²/sx²·2^e, nearest integer, at least 1
    4^h·D in [2^60, 2^62),  r = ⌊√(4^h·D)⌋ the root is exact
    i = ⌊(2^61 − 1) / r⌋                   31 bits: nearly 2^61 / r
    d = n·x − S                            n times the distance from the mean, exact
    t = ⌊d·2^u·i / 2^32⌋                   normalized, in steps of 2^-f; u = e/2 + h + f − 29
    y = clamp((⌊t·m / 2^32⌋ + k) >> s)     m = gamma/sy·2^(s+32−f), k = (beta/sy + zp + 1/2)·2^s,
                                           nearest integers for each channel

Every product is of two 31-bit factors, of which the high word is taken. Widths: Σd² = n·Q and
Σd = 0 give |d| ≤ √(n−1)·√Q, so |d|·2^u < √(n−1)·2^(f+2) ≤ 2^31 with n − 1 ≤ 4^(29−f).

Error: i·√(4^h·D)/2^61 is 1 within 2^-29, t is rounded down by less than 2^-f, m by 1/2, the last
high word by less than 1, k by 1/2. As |gamma|/sy < 2^(f−1−s), y is within 1/2 + 3·2^-s steps of the
real result with E/2^e for epsilon·n²/sx²; E itself is off by at most half a unit of D, which is at
least (n − 1)·2^e wherever a row is not constant. Half a step rounds up.

Both semantics use this definition. onnxruntime itself adds and divides in float32, in an order of
its own; about two codes in a million differ by one from the real result rounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import numpy as np

from binpoint.errors import NoIntegerForm, RangeOverflow
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import constant_array
from binpoint.ir.exchange import OnnxNode, OnnxWriter, Tensor
from binpoint.ir.graph import Value
from binpoint.ir.kernel import Buffer, KernelCall, Number, Work
from binpoint.ir.op import FloatArray, FloatOp, IntArray, IntegerOp, Permuted, Role, Semantics, Site
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I32, FixedType, FloatType, TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.blocks import Block
from binpoint.ops.methods import Method
from binpoint.ops.roots import floor_root, half_shift, newton_root, normalized
from binpoint.ops.shape import reshape_value
from binpoint.ops.shiftnorm import FRACTION, REACH, IntShiftNorm, fits

_NOTE = "layer norm in float: onnxruntime adds in float32 and may differ by one in rare cases"
_OTHER = "layer norm by {}: an approximation, which onnxruntime does not compute"
_WORD = 32
_TOP = 62
_WIDEST = 16
_MOST_FRACTION = 29
_MOST_SHIFT = 30
_LEAST_SHIFT = 8
_PLAIN = FixedType.per_tensor(I32, Dyadic.one())


@dataclass(frozen=True, slots=True)
class LayerNorm(FloatOp):
    """y = (x − mean) / √(variance + epsilon)·gamma + beta over `axis`; parameters are constants."""

    onnx: ClassVar[tuple[str, ...]] = ("LayerNormalization",)

    axis: int
    epsilon: float
    method: Method = Method.TABLE

    def roles(self, count: int) -> tuple[Role, ...]:
        """Data and two parameters."""
        return (Role.ACTIVATION, Role.PARAMETER, Role.PARAMETER)[:count]

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """All axes from `axis` on are one; mean and deviation as results are refused."""
        x = node.operand(0)
        rank, axis = len(x.shape), node.int("axis", -1)
        if not -rank <= axis < rank:
            node.refuse(f"axis {axis} is outside rank {rank}")
        if any(node.outputs[1:]):
            node.refuse("mean or deviation as a result", hint="export the model for inference")
        first = axis % rank
        shape = x.shape[first:]
        if math.prod(shape) == 0:
            node.refuse("no element to normalize")
        gamma = _parameter(node, build, 1, shape)
        beta = _parameter(node, build, 2, shape)
        flat = reshape_value(build, x, (*x.shape[:first], math.prod(shape)))
        op = cls(first, float(np.float32(node.float("epsilon", 1e-5))))
        return (reshape_value(build, build.one(op, flat, gamma, beta), x.shape),)

    def permuted(self, order: tuple[int, ...], *inputs: Value) -> Permuted | None:
        """The same over the axis where it is then."""
        return Permuted(replace(self, axis=order.index(self.axis)), order)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's shape."""
        x, gamma, beta = inputs
        count = (x.shape[self.axis],)
        assert gamma.shape == beta.shape == count, f"{gamma.shape} and {beta.shape} for {count}"
        return (TensorType(x.shape, FloatType()),)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """In float64."""
        x = inputs[0].astype(np.float64)
        shape = [1] * x.ndim
        shape[self.axis] = -1
        gamma, beta = (p.astype(np.float64).reshape(shape) for p in inputs[1:])
        apart = x - x.mean(axis=self.axis, keepdims=True)
        variance = np.square(apart).mean(axis=self.axis, keepdims=True)
        y = apart / np.sqrt(variance + self.epsilon) * gamma + beta
        return (y.astype(inputs[0].dtype),)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """One op with multipliers and offsets per channel."""
        x = build.integer(site.inputs[0])
        _check_types(x.elem, site)
        gamma, beta = (constant_array(v).astype(np.float64) for v in site.inputs[1:])
        block = replace(Block.of(x.shape, (self.axis,)), shape=x.shape)
        runtime, storage = site.semantics is Semantics.ONNXRUNTIME, site.result.storage
        ends = storage.min, storage.max
        if self.method is Method.TABLE:
            spare, epsilon = _epsilon(self.epsilon, x, block.n, site.name)
            fraction, reach = _fraction(block.n), _reach(block.n)
            shift, multipliers, offsets = _parameters(gamma, beta, site, fraction, reach)
            notes = (_NOTE,) if runtime else ()
            op: IntegerOp = IntLayerNorm(block, spare, epsilon, shift, site.result, *ends, notes)
        else:
            root = gamma * math.sqrt(block.n)
            shift, multipliers, offsets = _parameters(root, beta, site, FRACTION, REACH)
            notes = (_OTHER.format(self.method),) if runtime else ()
            op = IntShiftNorm(block, self.method, shift, site.result, *ends, notes)
        m = build.constant(multipliers, _PLAIN, hint=f"{site.name}_multipliers")
        k = build.constant(offsets, _PLAIN, hint=f"{site.name}_offsets")
        return (build.one(op, x, m, k),)


def _check_types(x: FixedType, site: Site) -> None:
    kinds = x, site.result
    if any(t.storage.width > _WIDEST or t.axis is not None for t in kinds):
        raise NoIntegerForm(
            "a layer norm of this type",
            at=site.name,
            have=f"{x} to {site.result}",
            want=f"per-tensor types of at most {_WIDEST} bits",
            hint="quantize its operand and its result to 8 or 16 bits",
        )


def _parameter(node: OnnxNode, build: GraphBuilder, index: int, shape: tuple[int, ...]) -> Value:
    """Gamma or beta as real numbers in one axis; beta that is not given is zero."""
    name = ("gamma", "beta")[index - 1]
    if index == 2 and not node.has(index):
        return build.constant(np.zeros(math.prod(shape), np.float32), hint=f"{build.hint}_{name}")
    node.array(index)
    array = constant_array(node.operand(index)).astype(np.float32)
    try:
        whole = np.broadcast_to(array, shape)
    except ValueError:
        node.refuse(f"parameters of shape {list(array.shape)}", want=f"{list(shape)}")
    if not np.isfinite(whole).all():
        node.refuse("a parameter is not finite")
    return build.constant(whole.reshape(-1), hint=f"{build.hint}_{name}")


def _fraction(count: int) -> int:
    """The largest f ≤ 29 with count − 1 ≤ 4^(29−f)."""
    return _MOST_FRACTION - ((count - 2).bit_length() + 1) // 2 if count > 2 else _MOST_FRACTION


def _largest(x: Interval, count: int) -> int:
    """The largest n²·variance of n codes in a range: half of them at either end."""
    return (count * (x.hi - x.lo)) ** 2 // 4


def _epsilon(epsilon: float, x: Value, count: int, where: str) -> tuple[int, int]:
    """Return e and E: the largest even e for which every D stays below 2^62, and epsilon."""
    real = Fraction(epsilon) * count**2 / x.elem.scale.as_fraction() ** 2
    for spare in range(2 * (_MOST_FRACTION - _fraction(count)), _TOP, 2)[::-1]:
        whole = max(1, round(real * 2**spare))
        if (_largest(x.interval, count) << spare) + whole < 2**_TOP:
            return spare, whole
    raise NoIntegerForm(
        f"a layer norm over {count} values of {x.elem.storage.width} bits",
        at=where,
        have=f"range {x.interval}, epsilon {epsilon:g} at a scale of {float(x.elem.scale):g}",
        want="epsilon and the variances together within 62 bits",
        hint="quantize its operand to 8 bits",
    )


def _parameters(
    gamma: FloatArray, beta: FloatArray, site: Site, fraction: int, reach: int
) -> tuple[int, IntArray, IntArray]:
    """Return s, m and k: the largest s for which all of them fit their 32 bits."""
    target = site.result
    step = target.scale.as_fraction()
    factors = [Fraction(float(v)) / step for v in gamma]
    starts = [Fraction(float(v)) / step + target.zero_point + Fraction(1, 2) for v in beta]
    for shift in range(_MOST_SHIFT, _LEAST_SHIFT - 1, -1):
        multipliers = [round(v * 2 ** (shift + _WORD - fraction)) for v in factors]
        offsets = [round(v * 2**shift) for v in starts]
        if fits(multipliers, offsets, reach):
            return shift, np.array(multipliers, np.int64), np.array(offsets, np.int64)
    raise RangeOverflow(
        "a factor per channel is too large for the scale of the result",
        at=site.name,
        have=f"{float(max(map(abs, factors))):g} steps of the result in one deviation",
        hint="quantize this result with a larger range",
    )


def _reach(count: int) -> int:
    """A bound of |t|: √(n−1)·2^f, the relative error of i, and the rounding down."""
    fraction = _fraction(count)
    root = math.isqrt(max(count - 1, 1) << 2 * fraction) + 1
    return root + (root >> 29) + 2


@dataclass(frozen=True, slots=True)
class IntLayerNorm(IntegerOp):
    """The algorithm at the head of this file; operands x, m and k, the last two ``[n]`` int32."""

    stem: ClassVar[str] = "layernorm"

    block: Block
    spare: int
    epsilon: int
    shift: int
    result: FixedType
    lo: int
    hi: int
    notes: tuple[str, ...] = ()

    @property
    def least_up(self) -> int:
        """The exponent u without h."""
        return self.spare // 2 + _fraction(self.block.n) - _MOST_FRACTION

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's shape."""
        x, m, k = inputs
        assert m.shape == k.shape == (self.block.n,), f"{m.shape} and {k.shape} for {self.block.n}"
        return (TensorType(x.shape, self.result),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """From the constants, t at its ends; proves every width."""
        x, n = inputs[0].interval, self.block.n
        peak = max(abs(x.lo), abs(x.hi))
        assert n * max(peak, x.hi - x.lo) < 2**31, "a sum of codes leaves 32 bits"
        assert (n * peak) ** 2 < 2**63, "n times the sum of squares leaves 64 bits"
        assert (_largest(x, n) << self.spare) + self.epsilon < 2**_TOP, "D leaves 62 bits"
        assert self.epsilon >= 1, "D may be zero"
        assert self.least_up >= 0, "u is negative"
        m, k = (constant_array(v).astype(np.int64) for v in inputs[1:])
        assert fits(m.tolist(), k.tolist(), _reach(n)), "a result leaves 32 bits"
        ends = self.totals(m, k)
        whole = Interval(ends.lo >> self.shift, ends.hi >> self.shift)
        return (whole.clamp(self.lo, self.hi),)

    def totals(self, m: IntArray, k: IntArray) -> Interval:
        """The range of what is shifted at last, for multipliers and offsets of all channels."""
        reach = _reach(self.block.n)
        return Interval.of((np.array([[-reach], [reach]]) * m >> _WORD) + k)

    def clamped(self, lo: int, hi: int) -> IntLayerNorm:
        """The same op with its result clamped further."""
        both = Interval(self.lo, self.hi).clamp(lo, hi)
        return replace(self, lo=both.lo, hi=both.hi)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        x, m, k = self.block.view(inputs[0]), inputs[1][:, None], inputs[2][:, None]
        n = self.block.n
        total = x.sum(axis=1, keepdims=True)
        spread = n * np.square(x).sum(axis=1, keepdims=True) - total**2
        whole = (spread << self.spare) + self.epsilon
        half = half_shift(whole)
        inverse = (2**61 - 1) // floor_root(whole << 2 * half)
        up = np.minimum(half + self.least_up, 30)
        t = ((n * x - total) << up) * inverse >> _WORD
        y = ((t * m >> _WORD) + k) >> self.shift
        return (np.clip(y, self.lo, self.hi).reshape(self.block.shape),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Sums, then selections for h, Newton steps for the root, and two high words."""
        x, n = self.block.flat(w, inputs[0]), w.const(self.block.n)
        m, k = (w.reshape(v, (self.block.n, 1)) for v in inputs[1:])
        total = w.reduce_sum(x, 1, keep=True)
        squares = w.reduce_sum(w.mul(x, x), 1, keep=True)
        spread = w.sub(w.mul(squares, n), w.mul(total, total))
        # Proved by `bounds`; intervals cannot see that both terms come from the same numbers.
        spread = Tensor(spread.name, spread.shape, Interval(0, _largest(x.range, self.block.n)))
        whole = w.add(w.mul(spread, w.const(1 << self.spare)), w.const(self.epsilon))
        whole, power = normalized(w, whole)
        inverse = w.floor_divide(w.const(2**61 - 1), newton_root(w, whole))
        factor = w.minimum(w.mul(power, w.const(1 << self.least_up)), w.const(1 << 30))
        apart = w.sub(w.mul(x, n), total)
        bounds = Interval(-(2**31), 2**31)
        shape = apart.shape
        high = w.emit("Mul", [apart.name, factor.name], shape, bounds)
        t = w.floor_shift(w.mul(high, inverse), _WORD)
        y = w.add(w.floor_shift(w.mul(t, m), _WORD), k)
        y = w.clamp(w.floor_shift(y, self.shift), self.lo, self.hi)
        return (w.reshape(y, self.block.shape),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Two passes over each row."""
        x, m, k = inputs
        wide = self.block.n * max(abs(x.interval.lo), abs(x.interval.hi)) ** 2 >= 2**32
        arguments = (
            *self.block.arguments(x, outputs[0]),
            Buffer("m", m.name, m.elem.storage),
            Buffer("k", k.name, k.elem.storage),
            Number("spare", self.spare, "uint32_t"),
            Number("epsilon", self.epsilon, "uint64_t"),
            Number("up", self.least_up, "uint32_t"),
            Number("shift", self.shift),
            Number("lo", self.lo),
            Number("hi", self.hi),
        )
        formula = "y = (x - mean) / sqrt(variance + epsilon) * m + k"
        return KernelCall(
            self.stem, arguments, (("sums", "wide" if wide else "narrow"),), formula=formula
        )

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """A square, and three products for the result, an element."""
        size = outputs[0].type.size
        return Work(macs=4 * size, loads=4 * size, stores=size, notes=self.notes)

    def in_place(self) -> tuple[int, ...]:
        """A row is summed before its first result is stored."""
        return (0,)
