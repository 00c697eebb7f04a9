"""Lookup: any function of one 8-bit operand, as a table of its 256 codes.

And change of type by it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from binpoint.errors import NoIntegerForm
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.kernel import Buffer, KernelCall, Number, Table, Work
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import FloatArray, IntArray, IntegerOp, Semantics
from binpoint.numeric import float32
from binpoint.numeric.fixed import FixedType, IntType, TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.requantize import Clamp
from binpoint.ops.rescale import dyadic

_WIDEST = 8


@dataclass(frozen=True, slots=True)
class IntLookup(IntegerOp):
    """y = table[x − min(x's type)]; the table is a constant of the graph, of the result's type."""

    stem: ClassVar[str] = "lookup"

    result: FixedType
    low: int

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's shape."""
        x, table = inputs
        assert self.low == x.elem.storage.min, "the table does not fit the operand's type"
        assert table.shape == (x.elem.storage.max - x.elem.storage.min + 1,), (
            "the table does not fit"
        )
        return (TensorType(x.shape, self.result),)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """Of the entries that the operand can reach."""
        x, table = inputs
        assert table.constant is not None
        return (
            Interval.of(
                table.constant.array[x.interval.lo - self.low : x.interval.hi - self.low + 1]
            ),
        )

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition."""
        x, table = inputs
        return (table[x - self.low],)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Gather."""
        x, table = inputs
        index = w.sub(x, w.const(self.low))
        return (w.emit("Gather", [table.name, index.name], x.shape, table.range, axis=0),)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """A loop over elements."""
        (x, table), (y,) = inputs, outputs
        held = Buffer("table", table.name, table.elem.storage)
        return lookup_call(x, held, y, self.low, "y = table[x]")

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """One lookup an element."""
        size = inputs[0].type.size
        return Work(loads=size, lookups=size, stores=size)

    def in_place(self) -> tuple[int, ...]:
        """Element by element."""
        return (0,)


def lookup_call(x: Value, table: Buffer | Table, y: Value, low: int, formula: str) -> KernelCall:
    """The kernel of a lookup; `low` is the operand's smallest code, the table's first."""
    arguments = (
        Buffer("x", x.name, x.elem.storage),
        table,
        Buffer("y", y.name, y.elem.storage, written=True),
        Number("count", x.type.size),
        Number("low", low),
    )
    return KernelCall(IntLookup.stem, arguments, formula=formula)


def codes_of(storage: IntType) -> IntArray:
    """All codes of a narrow type, ascending."""
    return np.arange(storage.min, storage.max + 1, dtype=np.int64)


def tabulate(
    build: GraphBuilder,
    x: Value,
    target: FixedType,
    semantics: Semantics,
    function: Callable[[FloatArray], FloatArray],
    where: str,
) -> Value:
    """`target.quantize(function(dequantized x))` by a table of all codes of `x`.

    ONNXRUNTIME: `function` takes and returns float32, between DequantizeLinear and QuantizeLinear.
    DYADIC: the same chain with the division in float64. Both rounded to even.
    """
    storage = x.elem.storage
    if storage.width > _WIDEST:
        raise NoIntegerForm(
            f"a function of {storage.width}-bit values by table",
            at=where,
            hint="quantize its operand to 8 bits",
        )
    real = float32.dequantize_linear(codes_of(storage), float(x.elem.scale), x.elem.zero_point)
    result = np.asarray(function(real))
    if not np.isfinite(result).all():
        result = (
            np.nan_to_num(result, nan=0.0) if not np.isnan(result).any() else _refuse_nan(where)
        )
    if semantics is Semantics.ONNXRUNTIME:
        low, high = target.storage.min, target.storage.max
        entries = float32.quantize_linear(
            result.astype(np.float32), float(target.scale), target.zero_point, low, high
        )
    else:
        entries = target.quantize(result)
    return lookup(build, x, entries, target)


def _refuse_nan(where: str) -> FloatArray:
    raise NoIntegerForm(
        "the function is not defined on all values its operand can take",
        at=where,
        hint="give samples of the operand's true range, or keep it positive by a Relu or Clip",
    )


def lookup(build: GraphBuilder, x: Value, entries: IntArray, target: FixedType) -> Value:
    """Look `x` up in `entries`, one for each code of its type."""
    table = build.constant(entries, target, hint=f"{build.hint}_table")
    return build.one(IntLookup(target, x.elem.storage.min), x, table)


def convert(build: GraphBuilder, x: Value, target: FixedType, semantics: Semantics) -> Value:
    """`x` in another type: as it is, by table, or by a Requantize where it is wider than 8 bits."""
    if x.elem == target:
        return x
    if x.elem.axis is None and x.elem.storage.width <= _WIDEST and target.axis is None:
        return tabulate(build, x, target, semantics, lambda real: real, build.hint)
    ratios = [s.as_fraction() / target.scale.as_fraction() for s in x.elem.scales]
    if any(x.elem.zero_points):
        raise NoIntegerForm(
            "a wide value with a zero point cannot be rescaled", at=build.hint, have=str(x.elem)
        )
    return build.one(dyadic(ratios, target, 31), x, hint=f"{build.hint}_requantize")


def clamp_real(build: GraphBuilder, x: Value, low: float | None, high: float | None) -> Value:
    """min(max(x, low), high) for real bounds: each is rounded to a code of `x`'s own type."""
    storage = x.elem.storage
    lo = storage.min if low is None else int(x.elem.quantize(np.array(low)))
    hi = storage.max if high is None else int(x.elem.quantize(np.array(high)))
    lo, hi = max(lo, storage.min), min(hi, storage.max)
    if x.interval.lo >= lo and x.interval.hi <= hi:
        return x
    return build.one(Clamp(lo, max(lo, hi)), x)
