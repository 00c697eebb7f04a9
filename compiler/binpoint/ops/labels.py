"""Label: the class at a computed place, as classifiers exported by skl2onnx end."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from binpoint.errors import NoIntegerForm
from binpoint.ir.build import GraphBuilder
from binpoint.ir.constant import Constant
from binpoint.ir.graph import Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import FloatArray, FloatOp, Site
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, I32, FixedType, FloatType, TensorType
from binpoint.ops.copy import IntReshape
from binpoint.ops.lookup import codes_of, lookup
from binpoint.ops.rescale import dyadic

_WHOLE = FixedType.per_tensor(I32, Dyadic.one())
_PLACE = FixedType.per_tensor(I8, Dyadic.one())
_BITS = 31


@dataclass(frozen=True, slots=True)
class Label(FloatOp):
    """y = classes[x] for whole numbers x, at most 128 whole-numbered classes; shape ``[1, n]``."""

    onnx: ClassVar[tuple[str, ...]] = ("ai.onnx.ml.ArrayFeatureExtractor",)

    classes: Constant

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """The classes must be constant whole numbers."""
        array = node.array(0)
        if array.dtype.kind not in "iu" or array.size != array.shape[-1]:
            node.refuse(
                f"classes of type {array.dtype} and shape {list(array.shape)}",
                want="one row of whole numbers",
                hint="train the classifier with numbered classes",
            )
        if array.size > I8.max + 1:
            node.refuse(f"{array.size} classes", want=f"at most {I8.max + 1}")
        return build.add(cls(Constant(array.reshape(-1).astype(np.int64))), node.operand(1))

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """One row."""
        return (TensorType((1, inputs[0].type.size), FloatType()),)

    def result_type(self, *inputs: FixedType | None) -> FixedType | None:
        """Whole numbers in 32 bits."""
        return _WHOLE

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """The classes, as real numbers."""
        places = np.rint(inputs[0]).astype(np.int64).reshape(1, -1)
        return (self.classes.array[places].astype(np.float32),)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """Nothing where classes count from zero, else a table."""
        x = build.integer(site.inputs[0])
        if x.elem != _WHOLE:
            raise NoIntegerForm("a place that is no whole number", at=site.name, have=str(x.elem))
        row = build.one(IntReshape((1, x.type.size), _WHOLE), x)
        count = self.classes.array.size
        if np.array_equal(self.classes.array, np.arange(count)):
            return (row,)
        narrow = build.one(dyadic([Fraction(1)], _PLACE, _BITS), row)
        entries = np.zeros(len(codes_of(I8)), np.int64)
        entries[-I8.min : count - I8.min] = self.classes.array
        return (lookup(build, narrow, entries, _WHOLE),)
