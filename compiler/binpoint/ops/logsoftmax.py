"""LogSoftmax: the end of many classifiers, read as the operators that it is made of.

y = (x − max x) − log Σ exp(x − max x) over one axis. The exponentials lie within 1, the largest is
1, and their sum between 1 and the number of elements: all of them have a type of eight bits in
which nothing that matters is lost. So no kernel knows of it.
"""

from __future__ import annotations

import math
from typing import ClassVar

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import Reader
from binpoint.ops.elementwise import Binary, Kind
from binpoint.ops.reduce import Reduce, ReduceExtreme
from binpoint.ops.shape import reshape_value
from binpoint.ops.unary import Unary

_EACH_AXIS = 13
"""The opset since which one axis is meant, and not all from it on."""


class LogSoftmax(Reader):
    """y = x − log Σ exp(x) over an axis; read as the ops that this is made of."""

    onnx: ClassVar[tuple[str, ...]] = ("LogSoftmax",)

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """Before opset 13 over all axes from `axis` on, as one."""
        x = node.operand(0)
        rank, flat = len(x.shape), node.opset < _EACH_AXIS
        axis = node.int("axis", 1 if flat else -1) % rank
        if not flat:
            return (_over(build, x, axis),)
        rows = math.prod(x.shape[:axis]), math.prod(x.shape[axis:])
        y = _over(build, reshape_value(build, x, rows), 1)
        return (reshape_value(build, y, x.shape),)


def _over(build: GraphBuilder, x: Value, axis: int) -> Value:
    largest = build.one(ReduceExtreme((axis,), largest=True), x)
    apart = build.one(Binary(Kind.SUB), x, largest)
    total = build.one(Reduce((axis,), mean=False), build.one(Unary("Exp"), apart))
    return build.one(Binary(Kind.SUB), apart, build.one(Unary("Log"), total))
