"""OnnxWriter: the integer operators known to be exact in onnxruntime's CPU provider."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from binpoint.errors import InvariantBroken
from binpoint.ir.constant import Constant
from binpoint.numeric.fixed import IntType
from binpoint.numeric.interval import Interval

INT64 = Interval(-(2**63), 2**63 - 1)
INT32 = Interval(-(2**31), 2**31 - 1)
_MOST_SHIFT = 62


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the check graph: int64 throughout, with its shape and proven range."""

    name: str
    shape: tuple[int, ...]
    range: Interval


@dataclass(slots=True)
class OnnxWriter:
    """Writes integer arithmetic as ONNX operators, all on int64 tensors.

    Each method states the range in which it is exact and refuses outside of it: a witness is itself
    under oath. Not used because they are wrong for some operands on some machines: Clip, Min, Max,
    Sign, ReduceMax and ReduceMin on int64, BitShift on signed types.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list[onnx.NodeProto])
    initializers: dict[str, TensorProto] = field(default_factory=dict[str, TensorProto])
    _names: dict[str, str] = field(default_factory=dict[str, str])
    _count: int = 0

    def emit(
        self,
        op: str,
        inputs: Sequence[str],
        shape: Sequence[int],
        bounds: Interval,
        *,
        domain: str = "",
        **attributes: Any,
    ) -> Tensor:
        """Add one node of one output."""
        self._count += 1
        name = f"t{self._count}"
        self.nodes.append(
            helper.make_node(
                op, list(inputs), [name], name=f"n{self._count}", domain=domain, **attributes
            )
        )
        return Tensor(name, tuple(shape), bounds)

    def array(self, array: NDArray[Any]) -> str:
        """Add an initializer and return its name; equal arrays are stored once."""
        constant = Constant(array)
        name = self._names.setdefault(constant.digest, f"c{len(self._names) + 1}")
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(constant.array, name)
        return name

    def const(self, array: NDArray[Any] | int) -> Tensor:
        """An int64 constant."""
        stored = np.asarray(array, np.int64)
        return Tensor(
            self.array(stored), stored.shape, Interval(int(stored.min()), int(stored.max()))
        )

    def _binary(self, op: str, a: Tensor, b: Tensor, bounds: Interval) -> Tensor:
        if not INT64.contains(bounds):
            raise InvariantBroken(
                f"check graph: {op} leaves int64", have=f"{bounds.lo}..{bounds.hi}"
            )
        return self.emit(op, [a.name, b.name], np.broadcast_shapes(a.shape, b.shape), bounds)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """Return a + b."""
        return self._binary("Add", a, b, a.range + b.range)

    def sub(self, a: Tensor, b: Tensor) -> Tensor:
        """Return a − b."""
        return self._binary("Sub", a, b, a.range - b.range)

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        """Return a · b."""
        return self._binary("Mul", a, b, a.range * b.range)

    def abs(self, a: Tensor) -> Tensor:
        """|a|."""
        if a.range.lo <= INT64.lo:
            raise InvariantBroken("check graph: Abs leaves int64")
        top = max(abs(a.range.lo), abs(a.range.hi))
        return self.emit("Abs", [a.name], a.shape, Interval(0, top))

    def floor_shift(self, a: Tensor, bits: int) -> Tensor:
        """floor(a / 2^bits), as (a − Mod(a, 2^bits)) / 2^bits: ONNX has no arithmetic shift."""
        if bits == 0:
            return a
        if bits > _MOST_SHIFT:
            raise InvariantBroken("check graph: a shift leaves int64", have=str(bits))
        return self.floor_divide(a, self.const(2**bits))

    def floor_divide(self, a: Tensor, b: Tensor) -> Tensor:
        """Return floor(a / b) for b > 0.

        Mod takes the divisor's sign, so the difference divides exactly.
        """
        if b.range.lo <= 0:
            raise InvariantBroken("check graph: the divisor must be positive")
        shape = np.broadcast_shapes(a.shape, b.shape)
        rest = self.emit("Mod", [a.name, b.name], shape, Interval(0, b.range.hi - 1), fmod=0)
        whole = self.sub(a, rest)
        bounds = Interval(
            min(a.range.lo // b.range.lo, a.range.lo // b.range.hi),
            max(a.range.hi // b.range.lo, a.range.hi // b.range.hi),
        )
        return self.emit("Div", [whole.name, b.name], shape, bounds)

    def select(self, a: Tensor, relation: str, b: Tensor, yes: Tensor, no: Tensor) -> Tensor:
        """`yes` where a (Less | Greater | Equal) b, else `no`."""
        shape = np.broadcast_shapes(a.shape, b.shape)
        test = self.emit(relation, [a.name, b.name], shape, Interval(0, 1))
        whole = np.broadcast_shapes(shape, yes.shape, no.shape)
        return self.emit("Where", [test.name, yes.name, no.name], whole, yes.range.union(no.range))

    def maximum(self, a: Tensor, b: Tensor) -> Tensor:
        """Elementwise maximum."""
        chosen = self.select(a, "Less", b, b, a)
        bounds = Interval(max(a.range.lo, b.range.lo), max(a.range.hi, b.range.hi))
        return Tensor(chosen.name, chosen.shape, bounds)

    def minimum(self, a: Tensor, b: Tensor) -> Tensor:
        """Elementwise minimum."""
        chosen = self.select(a, "Less", b, a, b)
        bounds = Interval(min(a.range.lo, b.range.lo), min(a.range.hi, b.range.hi))
        return Tensor(chosen.name, chosen.shape, bounds)

    def clamp(self, a: Tensor, lo: int, hi: int) -> Tensor:
        """min(max(a, lo), hi); left out where the range is inside."""
        if a.range.lo < lo:
            a = self.maximum(a, self.const(lo))
        if a.range.hi > hi:
            a = self.minimum(a, self.const(hi))
        return a

    def matmul(self, a: Tensor, b: Tensor, bounds: Interval) -> Tensor:
        """Return a @ b, in int32 where operands and sums fit, else int64.

        `bounds` is the proven range of sums.
        """
        if not INT64.contains(bounds):
            raise InvariantBroken("check graph: a matrix product leaves int64")
        shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
        narrow = all(INT32.contains(r) for r in (a.range, b.range, bounds))
        # A partial sum may leave int32 although the whole does not; it wraps and comes back.
        if not narrow:
            return self.emit("MatMul", [a.name, b.name], shape, bounds)
        x, y = (self.emit("Cast", [t.name], t.shape, t.range, to=TensorProto.INT32) for t in (a, b))
        product = self.emit("MatMul", [x.name, y.name], shape, bounds)
        return self.emit("Cast", [product.name], shape, bounds, to=TensorProto.INT64)

    def reduce_sum(self, a: Tensor, axis: int, *, keep: bool) -> Tensor:
        """Sum over one axis, exact for partial sums below 2^53 (the provider adds in double)."""
        count = a.shape[axis]
        bounds = Interval(min(a.range.lo * count, 0), max(a.range.hi * count, 0))
        if not Interval(-(2**53), 2**53).contains(bounds):
            raise InvariantBroken("check graph: a sum leaves 2^53")
        shape = list(a.shape)
        shape[axis : axis + 1] = [1] if keep else []
        bounds = Interval(a.range.lo * count, a.range.hi * count)
        return self.emit(
            "ReduceSum",
            [a.name, self.array(np.array([axis], np.int64))],
            shape,
            bounds,
            keepdims=int(keep),
        )

    def reduce_max(self, a: Tensor, axis: int, *, keep: bool) -> Tensor:
        """Maximum over one axis, in int32."""
        if not INT32.contains(a.range):
            raise InvariantBroken("check graph: a maximum leaves int32")
        shape = list(a.shape)
        shape[axis : axis + 1] = [1] if keep else []
        narrow = self.emit("Cast", [a.name], a.shape, a.range, to=TensorProto.INT32)
        axes = self.array(np.array([axis], np.int64))
        top = self.emit("ReduceMax", [narrow.name, axes], shape, a.range, keepdims=int(keep))
        return self.emit("Cast", [top.name], shape, a.range, to=TensorProto.INT64)

    def lookup(self, table: NDArray[Any], index: Tensor) -> Tensor:
        """table[index] for a one-dimensional table; the index is proven inside."""
        if not Interval(0, len(table) - 1).contains(index.range):
            raise InvariantBroken("check graph: an index leaves its table")
        entries = self.const(table)
        return self.emit("Gather", [entries.name, index.name], index.shape, entries.range, axis=0)

    def take(self, a: Tensor, indices: NDArray[np.int64], axis: int) -> Tensor:
        """Elements of `a` at constant indices along an axis.

        The index's shape replaces the axis.
        """
        shape = a.shape[:axis] + indices.shape + a.shape[axis + 1 :]
        return self.emit("Gather", [a.name, self.array(indices)], shape, a.range, axis=axis)

    def reshape(self, a: Tensor, shape: Sequence[int]) -> Tensor:
        """The same elements in another shape."""
        if tuple(shape) == a.shape:
            return a
        return self.emit("Reshape", [a.name, self.array(np.array(shape, np.int64))], shape, a.range)

    def transpose(self, a: Tensor, order: Sequence[int]) -> Tensor:
        """Axes in another order."""
        shape = [a.shape[i] for i in order]
        return self.emit("Transpose", [a.name], shape, a.range, perm=list(order))

    def concat(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        """Parts joined along an axis."""
        bounds = parts[0].range
        for part in parts[1:]:
            bounds = bounds.union(part.range)
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        return self.emit("Concat", [part.name for part in parts], shape, bounds, axis=axis)

    def scan(
        self,
        step: Callable[[Sequence[Tensor], Tensor], tuple[list[Tensor], Tensor]],
        states: Sequence[Tensor],
        ranges: Sequence[Interval],
        rows: Tensor,
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Last states, and results of all steps, of `step(states, row)` over the rows' first axis.

        `ranges` are those that the states have at every step; constants from outside are read as
        they are.
        """
        outside, self.nodes = self.nodes, []
        held = [self._named(s.shape, r) for s, r in zip(states, ranges, strict=True)]
        row = self._named(rows.shape[1:], rows.range)
        found, result = step(held, row)
        if any(not r.contains(s.range) for s, r in zip(found, ranges, strict=True)):
            raise InvariantBroken("check graph: a state leaves its range")
        result = self.emit("Identity", [result.name], result.shape, result.range)
        taken, given = (
            [helper.make_tensor_value_info(t.name, TensorProto.INT64, t.shape) for t in group]
            for group in ([*held, row], [*found, result])
        )
        body = helper.make_graph(self.nodes, f"steps{self._count}", taken, given)
        self.nodes = outside
        final = tuple(self._named(t.shape, t.range) for t in found)
        stacked = self._named((rows.shape[0], *result.shape), result.range)
        self.nodes.append(
            helper.make_node(
                "Scan",
                [*(t.name for t in states), rows.name],
                [*(t.name for t in final), stacked.name],
                name=f"n{self._count}",
                body=body,
                num_scan_inputs=1,
            )
        )
        return final, stacked

    def _named(self, shape: Sequence[int], bounds: Interval) -> Tensor:
        self._count += 1
        return Tensor(f"t{self._count}", tuple(shape), bounds)

    def pad(self, a: Tensor, before: Sequence[int], after: Sequence[int], value: int) -> Tensor:
        """Constant padding; nothing where all widths are zero."""
        if not any(before) and not any(after):
            return a
        shape = [b + n + e for b, n, e in zip(before, a.shape, after, strict=True)]
        pads = self.array(np.array([*before, *after], np.int64))
        fill = self.array(np.array(value, np.int64))
        return self.emit(
            "Pad",
            [a.name, pads, fill],
            shape,
            a.range.union(Interval(value, value)),
            mode="constant",
        )

    def strided(
        self, a: Tensor, starts: Sequence[int], stops: Sequence[int], steps: Sequence[int]
    ) -> Tensor:
        """a[start:stop:step] on every axis, all counted from the front."""
        if min((*starts, *stops)) < 0 or min(steps) < 1:
            raise InvariantBroken("check graph: a slice is counted from the end")
        shape = [len(range(b, e, s)) for b, e, s in zip(starts, stops, steps, strict=True)]
        if tuple(shape) == a.shape:
            return a
        axes = range(len(shape))
        operands = [self.array(np.array(v, np.int64)) for v in (starts, stops, axes, steps)]
        return self.emit("Slice", [a.name, *operands], shape, a.range)

    def quantized(
        self,
        op: str,
        operands: Sequence[tuple[Tensor, IntType] | NDArray[Any]],
        shape: Sequence[int],
        result: IntType,
        *,
        domain: str = "com.microsoft",
        **attributes: Any,
    ) -> Tensor:
        """One of onnxruntime's own quantized operators on 8-bit operands.

        It defines ONNXRUNTIME semantics. Of a narrower `result` it gives all codes of eight bits.
        """
        names: list[str] = []
        for operand in operands:
            if isinstance(operand, np.ndarray):
                names.append(self.array(operand))
                continue
            tensor, kind = operand
            if not Interval.of_type(kind).contains(tensor.range):
                raise InvariantBroken(f"check graph: {tensor.range} leaves {kind}", at=op)
            code = helper.np_dtype_to_tensor_dtype(kind.dtype)
            names.append(self.emit("Cast", [tensor.name], tensor.shape, tensor.range, to=code).name)
        whole = Interval.of_type(replace(result, width=8 * result.dtype.itemsize))
        inner = self.emit(op, names, shape, whole, domain=domain, **attributes)
        return self.emit("Cast", [inner.name], shape, inner.range, to=TensorProto.INT64)
