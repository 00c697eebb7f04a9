"""RationalTable: a function without exact steps, between quantized values, as a table.

Sigmoid, hyperbolic tangent and their kin are computed in float64 on every code of their operand;
the chain after them and its quantizer round once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from binpoint.errors import NoIntegerForm
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.op import FloatArray, FloatOp, Site
from binpoint.numeric import monotone
from binpoint.numeric.fixed import FixedType, TensorType
from binpoint.ops.lookup import codes_of, lookup
from binpoint.ops.rational import Rational

_WIDEST = 16


@dataclass(frozen=True, slots=True)
class RationalTable(FloatOp):
    """y = last(first(x)), element by element; `last` quantizes, and alike in all channels."""

    first: FloatOp
    last: Rational

    onnx: ClassVar[tuple[str, ...]] = ()
    elementwise: ClassVar[bool] = True

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's shape."""
        return self.last.infer(*inputs)

    def result_type(self, *inputs: FixedType | None) -> FixedType | None:
        """The quantizer's."""
        return self.last.result_type(*inputs)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """Both in float64."""
        (y,) = self.first.reference(inputs[0].astype(np.float64))
        (z,) = self.last.reference(y)
        return (z.astype(inputs[0].dtype),)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """A table of all codes."""
        x = build.integer(site.inputs[0])
        if x.elem.storage.width > _WIDEST or x.elem.axis is not None:
            raise NoIntegerForm(
                f"a function of values of type {x.elem}",
                at=site.name,
                want="16 bits at most, one scale",
                hint="quantize its operand (Quant before it)",
            )
        (y,) = self.first.reference(x.elem.dequantize(codes_of(x.elem.storage)))
        if np.isnan(y).any():
            raise NoIntegerForm("a function that is not defined on all its codes", at=site.name)
        entries = monotone.evaluate(self.last.steps, y.astype(np.float64)).astype(np.int64)
        return (lookup(build, x, entries, site.result),)
