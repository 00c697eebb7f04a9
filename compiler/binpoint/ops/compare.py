"""Comparisons and logic, read as arithmetic on zeros and ones.

a > b is the sign of a − b without what is below zero. Where both are functions of one value all of
it becomes one table; else a − b is rounded first, so operands that differ by less than half a step
of the difference are equal.
"""

from __future__ import annotations

from typing import ClassVar

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import Reader
from binpoint.ops.elementwise import Kind, Scalar, arithmetic
from binpoint.ops.unary import Clip, Unary


class Compare(Reader):
    """1 where the comparison or the logical operator holds, else 0; read as arithmetic."""

    onnx: ClassVar[tuple[str, ...]] = (
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Equal",
        "And",
        "Or",
        "Xor",
        "Not",
    )

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """Each by signs, products and differences."""
        a = node.operand(0)
        if node.op == "Not":
            return (_negated(build, a),)
        b = node.operand(1)

        def two(kind: Kind, left: Value, right: Value) -> Value:
            return arithmetic(node, build, kind, left, right)

        match node.op:
            case "Greater":
                return (_positive(build, two(Kind.SUB, a, b)),)
            case "Less":
                return (_positive(build, two(Kind.SUB, b, a)),)
            case "GreaterOrEqual":
                return (_negated(build, _positive(build, two(Kind.SUB, b, a))),)
            case "LessOrEqual":
                return (_negated(build, _positive(build, two(Kind.SUB, a, b))),)
            case "And":
                return (two(Kind.MUL, a, b),)
            case "Or":
                return (build.one(Clip(None, 1.0), two(Kind.ADD, a, b)),)
            case _:
                apart = _differs(build, two(Kind.SUB, a, b))
                return (apart if node.op == "Xor" else _negated(build, apart),)


def _positive(build: GraphBuilder, x: Value) -> Value:
    return build.one(Clip(0.0, None), build.one(Unary("Sign"), x))


def _differs(build: GraphBuilder, x: Value) -> Value:
    return build.one(Unary("Abs"), build.one(Unary("Sign"), x))


def _negated(build: GraphBuilder, x: Value) -> Value:
    return build.one(Scalar(Kind.SUB, 1.0, first=True), x)
