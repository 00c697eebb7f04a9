"""Quantize: a change of type that a model states itself, by QuantizeLinear between two readers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.op import FloatArray, FloatOp, Site
from binpoint.numeric.fixed import FixedType, FloatType, TensorType
from binpoint.ops.lookup import convert


@dataclass(frozen=True, slots=True)
class Quantize(FloatOp):
    """The same real numbers, rounded to `type`; made by the importer of QuantizeLinear."""

    elementwise: ClassVar[bool] = True

    type: FixedType

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's shape."""
        return (TensorType(inputs[0].shape, FloatType()),)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """Round, saturate, and read back."""
        return (self.type.dequantize(self.type.quantize(inputs[0])).astype(inputs[0].dtype),)

    def result_type(self, *inputs: FixedType | None) -> FixedType | None:
        """The type stated."""
        return self.type

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """A table, or a Requantize."""
        return (convert(build, build.integer(site.inputs[0]), site.result, site.semantics),)
