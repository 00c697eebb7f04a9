"""Matrix products: Gemm, MatMul and their quantized forms.

With a constant right-hand side, ``acc[r, n] = bias[n] + Σ_k x[r, k]·w[n, k]`` (`IntDense`, zero
point of x in the bias); of two computed operands, ``acc = Σ_k (a − za)·(b − zb)`` (`IntMatMul`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from binpoint.errors import AccumulatorOverflow
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.kernel import Argument, Buffer, KernelCall, Number, Work
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import FloatArray, FloatOp, IntArray, IntegerOp, Role, Semantics, Site
from binpoint.numeric.fixed import I32, FixedType, FloatType, TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.concat import Concat
from binpoint.ops.linear import Weights, channel_reach, finish, read_weights
from binpoint.ops.requantize import Ranges
from binpoint.ops.rescale import accumulator, linear_factors, requantize
from binpoint.ops.shape import reshape_value, transpose_value
from binpoint.ops.slices import expanded, take_value

_MOST_MATRICES = 64
"""Of a constant that has a scale for each, or for each column: every one is a layer."""


@dataclass(frozen=True, slots=True)
class Dense(FloatOp):
    """x ``[…, K]`` times constant weights ``[N, K]``, plus an optional bias ``[N]``."""

    onnx: ClassVar[tuple[str, ...]] = ("Gemm", "com.microsoft.QGemm")

    alpha: float = 1.0
    """Factor of the product; kept for the float32 scale of QGemm, else folded into the weights."""

    def roles(self, count: int) -> tuple[Role, ...]:
        """Data, weights, bias."""
        return (Role.ACTIVATION, Role.WEIGHT, Role.BIAS)[:count]

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """Gemm: y = alpha·A'·B' + beta·C."""
        a, b = node.operand(0), node.operand(1)
        if len(a.shape) != 2 or len(b.shape) != 2:
            node.refuse("operands must be matrices")
        if node.int("transA", 0):
            a = transpose_value(build, a, (1, 0))
        if b.constant is None:
            return cls._computed(node, build, a, b)
        weights = b if node.int("transB", 0) else transpose_value(build, b, (1, 0))
        alpha, beta = node.float("alpha", 1.0), node.float("beta", 1.0)
        if weights.fixed is None and alpha != 1.0:
            assert weights.constant is not None
            weights = build.constant(weights.constant.array * np.float32(alpha))
            alpha = 1.0
        if not node.has(2):
            return build.add(cls(alpha), a, weights)
        return build.add(cls(alpha), a, weights, cls._bias(node, build, weights.shape[0], beta))

    @classmethod
    def _bias(cls, node: OnnxNode, build: GraphBuilder, count: int, beta: float) -> Value:
        bias = node.operand(2)
        if bias.constant is None:
            node.refuse("the bias must be constant", hint="export a MatMul followed by Add")
        array = bias.constant.array
        if array.size not in (1, count) or (array.ndim == 2 and array.shape[0] != 1):
            node.refuse(f"a bias of shape {list(array.shape)}", want=f"[{count}]")
        if bias.fixed is not None and beta != 1.0:
            node.refuse("beta with a quantized bias")
        flat = np.broadcast_to(array.reshape(-1), (count,))
        if bias.fixed is None:
            return build.constant(flat * np.float32(beta))
        kind = (
            bias.fixed
            if bias.fixed.axis is None
            else FixedType(bias.fixed.storage, bias.fixed.scales, bias.fixed.zero_points, 0)
        )
        return build.constant(flat, fixed=kind)

    @classmethod
    def _computed(
        cls, node: OnnxNode, build: GraphBuilder, a: Value, b: Value
    ) -> tuple[Value, ...]:
        if node.has(2) or node.float("alpha", 1.0) != 1.0:
            node.refuse(
                "two computed operands with a bias or alpha", hint="export a MatMul followed by Add"
            )
        right = transpose_value(build, b, (1, 0)) if node.int("transB", 0) else b
        return build.add(MatMul(), a, right)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """``[…, N]``."""
        x, w = inputs[0].shape, inputs[1].shape
        assert x[-1] == w[1], f"{x} times {w}"
        return (TensorType((*x[:-1], w[0]), FloatType()),)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """x·wᵀ·alpha + bias."""
        y = inputs[0] @ inputs[1].T * np.float32(self.alpha)
        return (y + inputs[2] if len(inputs) > 2 else y,)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """Exact sums, then one rounding."""
        x = site.inputs[0]
        weights = read_weights(site, bias=2)
        reach = channel_reach(weights, x, padded=False)
        weights = weights.folded(x.elem.zero_point)
        op = IntDense(weights.scales(x.elem, len(x.shape)))
        acc = build.one(op, x, weights.constant(build, weights.codes), weights.bias_constant(build))
        return (finish(site, build, acc, weights, reach, self.alpha),)


@dataclass(frozen=True, slots=True)
class MatMul(FloatOp):
    """Matrix product of two computed operands, batched over equal leading axes."""

    onnx: ClassVar[tuple[str, ...]] = ("MatMul", "QLinearMatMul", "MatMulInteger")

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """See `matrix_product`."""
        return (matrix_product(node, build, node.operand(0), node.operand(1)),)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """``[…, M, N]``."""
        a, b = inputs[0].shape, inputs[1].shape
        assert a[-1] == b[-2], f"{a} times {b}"
        assert a[:-2] == b[:-2], f"{a} times {b}"
        return (TensorType((*a[:-1], b[-1]), FloatType()),)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """a·b."""
        return (inputs[0] @ inputs[1],)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """Exact sums, then one rounding."""
        a, b = (build.integer(v) for v in site.inputs)
        scale = a.elem.scale * b.elem.scale
        acc = build.one(
            IntMatMul(a.elem.zero_point, b.elem.zero_point, accumulator([scale], len(a.shape))),
            a,
            b,
        )
        factors = None
        if site.semantics is Semantics.ONNXRUNTIME and site.result.storage.width <= 8:
            factors = linear_factors(a.elem.scale, b.elem, site.result.scale)
        return (requantize(site, build, acc, scales32=factors),)


def matrix_product(node: OnnxNode, build: GraphBuilder, a: Value, b: Value) -> Value:
    """a·b as numpy.matmul defines it; a real constant matrix on either side makes it a `Dense`.

    Leading axes that differ are repeated; one-dimensional operands are a row and a column. Of
    several constant matrices with scales of their own each is a `Dense`.
    """
    if not a.shape or not b.shape:
        node.refuse("a scalar operand")
    if len(a.shape) == 1 or len(b.shape) == 1:
        return _with_vectors(node, build, a, b)
    if b.constant is not None and len(b.shape) == 2:
        return build.one(Dense(), a, transpose_value(build, b, (1, 0)))
    if a.constant is not None and len(a.shape) == 2 and a.fixed is None:
        order = (*range(len(b.shape) - 2), len(b.shape) - 1, len(b.shape) - 2)
        turned = build.one(Dense(), transpose_value(build, b, order), a)
        return transpose_value(build, turned, order)
    try:
        lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        node.refuse("leading axes that differ", have=f"{list(a.shape)}, {list(b.shape)}")
    a = expanded(build, a, (*lead, *a.shape[-2:]))
    if b.fixed is not None and b.fixed.axis is not None:
        return _by_matrices(node, build, a, b)
    return build.one(MatMul(), a, expanded(build, b, (*lead, *b.shape[-2:])))


def _by_matrices(node: OnnxNode, build: GraphBuilder, a: Value, b: Value) -> Value:
    """A product with a constant of several matrices and scales: a `Dense` for each, joined."""
    assert b.constant is not None
    assert b.fixed is not None
    assert b.fixed.axis is not None
    lead, (depth, columns) = a.shape[:-2], b.shape[-2:]
    count, axis = math.prod(lead), b.fixed.axis - len(b.shape)
    if count > _MOST_MATRICES or axis == -2:
        node.refuse(
            "a constant of many matrices with a scale per channel, or per element of a sum",
            have=f"{list(b.shape)} along axis {b.fixed.axis}",
            want=f"at most {_MOST_MATRICES} matrices, with scales of matrices or columns",
            hint="quantize it with one scale",
        )
    codes = np.broadcast_to(b.constant.array, (*lead, depth, columns))
    numbers = np.arange(len(b.fixed.scales)).reshape(-1, *(1,) * (-1 - axis))
    which = np.broadcast_to(numbers, codes.shape).reshape(count, depth, columns)
    zeros = np.broadcast_to(b.fixed.zero_points, len(b.fixed.scales))
    rows = reshape_value(build, a, (count, *a.shape[-2:]))
    parts: list[Value] = []
    for index, matrix in enumerate(codes.reshape(count, depth, columns)):
        own = [int(i) for i in which[index, 0, : columns if axis == -1 else 1]]
        kind = FixedType(
            b.fixed.storage,
            tuple(b.fixed.scales[i] for i in own),
            tuple(int(zeros[i]) for i in own),
            0 if axis == -1 else None,
        )
        weights = build.constant(np.ascontiguousarray(matrix.T), fixed=kind, hint=b.name)
        taken = take_value(build, rows, [range(index, index + 1), *map(range, rows.shape[1:])])
        parts.append(build.one(Dense(), taken, weights))
    joined = parts[0] if count == 1 else build.one(Concat(0), *parts)
    return reshape_value(build, joined, (*lead, a.shape[-2], columns))


def _with_vectors(node: OnnxNode, build: GraphBuilder, a: Value, b: Value) -> Value:
    """A product of which an operand has one axis, which the result lacks."""
    rows = reshape_value(build, a, (1, *a.shape)) if len(a.shape) == 1 else a
    columns = reshape_value(build, b, (*b.shape, 1)) if len(b.shape) == 1 else b
    y = matrix_product(node, build, rows, columns)
    shape = y.shape[:-2] if len(a.shape) == 1 else y.shape[:-1]
    return reshape_value(build, y, shape if len(b.shape) == 1 else (*shape, y.shape[-1]))


@dataclass(frozen=True, slots=True)
class IntDense(IntegerOp):
    """acc[r, n] = bias[n] + Σ_k x[r, k]·w[n, k]; weights ``[N, K]``, bias ``[N]`` int32."""

    stem: ClassVar[str] = "dense"
    accumulates: ClassVar[bool] = True

    result: FixedType

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """``[…, N]`` of the accumulator's type."""
        x, w, _ = inputs
        return (TensorType((*x.shape[:-1], w.shape[0]), self.result),)

    def rows(self, w: Value) -> IntArray:
        """Weights as ``[N, K]``."""
        assert w.constant is not None
        return w.constant.array.astype(np.int64)

    def unrowed(self, rows: IntArray, shape: Sequence[int]) -> IntArray:
        """The weights of this shape that have these `rows`."""
        return rows.reshape(shape)

    def reach(self, *inputs: Value) -> Ranges:
        """The exact range of each channel's sums."""
        x, w, bias = inputs
        assert bias.constant is not None
        weights = Weights(self.rows(w), bias.constant.array.astype(np.int64), w.elem)
        return channel_reach(weights, x, padded=False, zero=0)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """From the actual weights."""
        reach = self.reach(*inputs)
        return (Interval(min(lo for lo, _ in reach), max(hi for _, hi in reach)),)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition; products of float64 matrices are exact below 2^53."""
        x, w, bias = inputs
        rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
        sums = (rows @ w.T.astype(np.float64)).astype(np.int64) + bias
        return (sums.reshape(*x.shape[:-1], -1),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """MatMul and Add."""
        x, weights, bias = inputs
        count, depth = weights.shape
        rows = w.reshape(x, (math.prod(x.shape[:-1]), depth))
        bound = (x.range * weights.range * depth).union(Interval(0, 0))
        product = w.matmul(rows, w.transpose(weights, (1, 0)), bound)
        return (w.reshape(w.add(product, bias), (*x.shape[:-1], count)),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Rows by channels by depth."""
        x, w, bias = inputs
        (y,) = outputs
        arguments = (
            Buffer("x", x.name, x.elem.storage),
            Buffer("w", w.name, w.elem.storage),
            Buffer("bias", bias.name, bias.elem.storage),
            Buffer("y", y.name, y.elem.storage, written=True),
            Number("rows", math.prod(x.shape[:-1])),
            Number("depth", w.shape[1]),
            Number("channels", w.shape[0]),
        )
        return KernelCall(self.stem, arguments, formula="acc = bias + sum(x * w)")

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """One multiply-accumulate per element of depth."""
        size = outputs[0].type.size
        return Work(macs=size * inputs[0].shape[-1], stores=size)


@dataclass(frozen=True, slots=True)
class IntMatMul(IntegerOp):
    """acc[…, m, n] = Σ_k (a[…, m, k] − za)·(b[…, k, n] − zb)."""

    stem: ClassVar[str] = "matmul"
    accumulates: ClassVar[bool] = True

    zero_a: int
    zero_b: int
    result: FixedType

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """``[…, M, N]`` of the accumulator's type."""
        a, b = inputs
        return (TensorType((*a.shape[:-1], b.shape[-1]), self.result),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """Depth times the extreme product."""
        a, b = inputs
        bound = (a.interval - self.zero_a) * (b.interval - self.zero_b) * a.shape[-1]
        if not Interval.of_type(I32).contains(bound):
            raise AccumulatorOverflow("a sum may leave 32 bits", have=str(bound))
        return (bound,)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition; products of float64 matrices are exact below 2^53."""
        a, b = inputs
        return (
            ((a - self.zero_a).astype(np.float64) @ (b - self.zero_b).astype(np.float64)).astype(
                np.int64
            ),
        )

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """MatMul of the shifted operands."""
        a, b = inputs
        x, y = w.sub(a, w.const(self.zero_a)), w.sub(b, w.const(self.zero_b))
        return (w.matmul(x, y, (x.range * y.range * a.shape[-1]).union(Interval(0, 0))),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Batches by rows by columns by depth."""
        arguments = (
            *matmul_arguments(*inputs, *outputs),
            Number("zero_a", self.zero_a),
            Number("zero_b", self.zero_b),
        )
        formula = f"acc = sum((a - {self.zero_a}) * (b - {self.zero_b}))"
        return KernelCall(self.stem, arguments, (("b", ""),), formula=formula)

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """One multiply-accumulate per element of depth."""
        return matmul_work(*inputs, *outputs)


def matmul_arguments(a: Value, b: Value, y: Value) -> tuple[Argument, ...]:
    """What every kernel of a product ``[…, M, K]`` by ``[…, K, N]`` is told.

    There are ``outer`` times ``batches`` products. Their matrices lie ``_outer`` and ``_batch``
    elements apart, rows of one ``_row``, elements of a row side by side: here in row-major order.
    Where the trait ``b`` is ``turned``, rows are those of the transposed b. See `plan/strides.py`.
    """
    count, rows, depth, columns = math.prod(a.shape[:-2]), *a.shape[-2:], b.shape[-1]
    strides = (("a", rows, depth), ("b", depth, columns), ("y", rows, columns))
    return (
        Buffer("a", a.name, a.elem.storage),
        Buffer("b", b.name, b.elem.storage),
        Buffer("y", y.name, y.elem.storage, written=True),
        Number("outer", 1),
        Number("batches", count),
        Number("rows", rows),
        Number("depth", depth),
        Number("columns", columns),
        *(
            Number(f"{name}_{axis}", stride)
            for name, height, width in strides
            for axis, stride in (("outer", 0), ("batch", height * width), ("row", width))
        ),
    )


def matmul_work(a: Value, _: Value, y: Value) -> Work:
    """One addition per element of depth."""
    return Work(macs=y.type.size * a.shape[-1], stores=y.type.size)
