"""Sum and Mean of any number of operands: read as the additions that they are made of."""

from __future__ import annotations

from typing import ClassVar

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import Reader
from binpoint.ops.elementwise import Kind, Scalar, arithmetic


class Several(Reader):
    """y = a + b + …, or their mean; read as the ops that this is made of."""

    onnx: ClassVar[tuple[str, ...]] = ("Sum", "Mean")

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """Operands are added in turn."""
        count = len(node.inputs)
        y = node.operand(0)
        for index in range(1, count):
            y = arithmetic(node, build, Kind.ADD, y, node.operand(index))
        if node.op == "Mean" and count > 1:
            y = build.one(Scalar(Kind.MUL, 1 / count), y)
        return (y,)
