"""Layer normalization, root mean square and Euclidean norm: rows brought to one size.

Exactly, by `exactnorm`, or by another method, by `shiftnorm`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar, TypedDict

import numpy as np

from binpoint.errors import NoIntegerForm, RangeOverflow
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import FloatArray, FloatOp, IntArray, Permuted, Role, Semantics, Site
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I32, FixedType, FloatType, TensorType
from binpoint.ops.blocks import Block
from binpoint.ops.exactnorm import IntLayerNorm, epsilon_of, fraction_of, freedom_of, reach_of
from binpoint.ops.methods import Method
from binpoint.ops.rownorm import WORD, fits
from binpoint.ops.shape import reshape_value
from binpoint.ops.shiftnorm import FRACTION, REACH, IntShiftNorm

_NOTE = "a norm in float: onnxruntime adds in float32 and may differ by one in rare cases"
_OTHER = "a norm by {}: an approximation, which onnxruntime does not compute"
_TOP = 62
_WIDEST = 16
_MOST_FRACTION = 29
_MOST_SHIFT = 30
_LEAST_SHIFT = 8
_PLAIN = FixedType.per_tensor(I32, Dyadic.one())


@dataclass(frozen=True, slots=True)
class LayerNorm(FloatOp):
    """y = d / √(mean of d² + epsilon)·gamma + beta over `axis`, d from the mean, or from zero.

    Parameters are constants. From zero, not `centred`, it has no method but the exact one.
    """

    reads_wide: ClassVar[bool] = True
    onnx: ClassVar[tuple[str, ...]] = (
        "LayerNormalization", "RMSNormalization", "LpNormalization",
    )  # fmt: skip

    axis: int
    epsilon: float
    method: Method = Method.TABLE
    centred: bool = True

    def roles(self, count: int) -> tuple[Role, ...]:
        """Data and two parameters."""
        return (Role.ACTIVATION, Role.PARAMETER, Role.PARAMETER)[:count]

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """All axes from `axis` on are one; mean and deviation as results are refused.

        LpNormalization, with p = 2, is over one axis: gamma is 1/√n there.
        """
        x = node.operand(0)
        rank, axis = len(x.shape), node.int("axis", -1)
        if not -rank <= axis < rank:
            node.refuse(f"axis {axis} is outside rank {rank}")
        if any(node.outputs[1:]):
            node.refuse("mean or deviation as a result", hint="export the model for inference")
        first = axis % rank
        if node.op == "LpNormalization":
            return (_euclidean(node, build, x, first),)
        shape = x.shape[first:]
        if math.prod(shape) == 0:
            node.refuse("no element to normalize")
        gamma = _parameter(node, build, 1, shape)
        beta = _parameter(node, build, 2, shape)
        flat = reshape_value(build, x, (*x.shape[:first], math.prod(shape)))
        epsilon = float(np.float32(node.float("epsilon", 1e-5)))
        op = cls(first, epsilon, centred=node.op == "LayerNormalization")
        return (reshape_value(build, build.one(op, flat, gamma, beta), x.shape),)

    def row_length(self, x: Value) -> int:
        """Elements that are normalized together."""
        return x.shape[self.axis]

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
        y = normalized_real(x, self.axis, self.epsilon, centred=self.centred) * gamma + beta
        return (y.astype(inputs[0].dtype),)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """One op with multipliers and offsets per channel."""
        x = build.integer(site.inputs[0])
        block = replace(Block.of(x.shape, (self.axis,)), shape=x.shape)
        rows = Rows(block, self.epsilon, self.method, self.centred)
        return (rows.lower(site, build, x),)


def normalized_real(x: FloatArray, axis: int, epsilon: float, *, centred: bool) -> FloatArray:
    """X, less its mean if `centred`, over the root of its mean square; zeros stay zeros."""
    apart = x - x.mean(axis=axis, keepdims=True) if centred else x
    root = np.sqrt(np.square(apart).mean(axis=axis, keepdims=True) + epsilon)
    return np.divide(apart, root, out=np.zeros_like(apart), where=root > 0)


@dataclass(frozen=True, slots=True)
class Rows:
    """A norm of rows, to be lowered.

    Args:
        block: rows.
        epsilon, method, centred: as of a layer norm.
        groups, each: as of a `RowNorm`; the parameters have ``groups·n/each`` numbers.
    """

    block: Block
    epsilon: float
    method: Method = Method.TABLE
    centred: bool = True
    groups: int = 1
    each: int = 1

    def lower(self, site: Site, build: GraphBuilder, x: Value) -> Value:
        """One op with multipliers and offsets per channel."""
        _check_types(x.elem, site)
        gamma, beta = (constant_array(v).astype(np.float64) for v in site.inputs[1:])
        count, storage, exact = self.block.n, site.result.storage, self.method is Method.TABLE
        centre = None if self.centred else x.elem.zero_point
        if exact:
            freedom = freedom_of(count, centre)
            fraction, reach = fraction_of(freedom), reach_of(freedom)
        else:
            gamma, fraction, reach = gamma * math.sqrt(count), FRACTION, REACH
        shift, multipliers, offsets = _parameters(gamma, beta, site, fraction, reach)
        m = build.constant(multipliers, _PLAIN, hint=f"{site.name}_multipliers")
        k = build.constant(offsets, _PLAIN, hint=f"{site.name}_offsets")
        note = _NOTE if exact else _OTHER.format(self.method)
        common = _Common(
            block=self.block, shift=shift, result=site.result, lo=storage.min, hi=storage.max,
            groups=self.groups, each=self.each,
            notes=(note,) if site.semantics is Semantics.ONNXRUNTIME else (),
        )  # fmt: skip
        if not exact:
            assert self.centred, "norms about zero have no other method"
            return build.one(IntShiftNorm(method=self.method, **common), x, m, k)
        spare, epsilon = epsilon_of(self.epsilon, x, count, centre, site.name)
        op = IntLayerNorm(spare=spare, epsilon=epsilon, centre=centre, **common)
        return build.one(op, x, m, k)


class _Common(TypedDict):
    """What ops of both kinds have."""

    block: Block
    shift: int
    result: FixedType
    lo: int
    hi: int
    groups: int
    each: int
    notes: tuple[str, ...]


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


def _euclidean(node: OnnxNode, build: GraphBuilder, x: Value, axis: int) -> Value:
    """Over the Euclidean norm along one axis."""
    count = x.shape[axis]
    if node.int("p", 2) != 2:
        node.refuse(f"p = {node.int('p', 2)}", want="2")
    if count == 0:
        node.refuse("no element to normalize")
    gamma = np.full(count, 1 / math.sqrt(count), np.float32)
    gamma, beta = (
        build.constant(array, hint=f"{build.hint}_{name}")
        for array, name in ((gamma, "gamma"), (np.zeros_like(gamma), "beta"))
    )
    return build.one(LayerNorm(axis, 0.0, centred=False), x, gamma, beta)


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


def _parameters(
    gamma: FloatArray, beta: FloatArray, site: Site, fraction: int, reach: int
) -> tuple[int, IntArray, IntArray]:
    """Return s, m and k: the largest s for which all of them fit their 32 bits."""
    target = site.result
    step = target.scale.as_fraction()
    factors = [Fraction(float(v)) / step for v in gamma]
    starts = [Fraction(float(v)) / step + target.zero_point + Fraction(1, 2) for v in beta]
    for shift in range(_MOST_SHIFT, _LEAST_SHIFT - 1, -1):
        multipliers = [round(v * 2 ** (shift + WORD - fraction)) for v in factors]
        offsets = [round(v * 2**shift) for v in starts]
        if fits(multipliers, offsets, reach):
            return shift, np.array(multipliers, np.int64), np.array(offsets, np.int64)
    raise RangeOverflow(
        "a factor per channel is too large for the scale of the result",
        at=site.name,
        have=f"{float(max(map(abs, factors))):g} steps of the result in one deviation",
        hint="quantize this result with a larger range",
    )
