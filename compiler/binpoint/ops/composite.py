"""Several functions of one value as one: a table, however long the formula.

Made by `fuse-functions` of elementwise ops with nothing rounded in between: x·sigmoid(x), GELU and
hard swish as exporters write them out, activation after scaling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, assert_never

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from binpoint import ort
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.op import FloatArray, FloatOp, Semantics, Site
from binpoint.numeric.fixed import FloatType, TensorType
from binpoint.ops.elementwise import Binary, MinMax, Scalar
from binpoint.ops.lookup import tabulate
from binpoint.ops.select import HOLDS, Select
from binpoint.ops.unary import Clip, Unary

_OPSET = 21
_IR_VERSION = 10


@dataclass(frozen=True, slots=True)
class Step:
    """An op of the formula; operand 0 is x, operand i the result of step i − 1."""

    op: Unary | Clip | Scalar | Binary | MinMax | Select
    operands: tuple[int, ...]

    def to_onnx(
        self, inputs: Sequence[str], output: str
    ) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
        """The operators, and constants for them."""
        if isinstance(self.op, Select):
            return _selection(self.op, inputs, output)
        node, held = self._operator(inputs, output)
        return [node], held

    def _operator(
        self, inputs: Sequence[str], output: str
    ) -> tuple[onnx.NodeProto, list[TensorProto]]:
        match self.op:
            case Unary(kind, attributes):
                node = helper.make_node(kind, inputs, [output])
                node.attribute.extend(helper.make_attribute(*pair) for pair in attributes)
                return node, []
            case Clip(low, high):
                bounds = [(f"{output}_{n}", b) for n, b in (("low", low), ("high", high))]
                names = [name if bound is not None else "" for name, bound in bounds]
                held = [_number(name, bound) for name, bound in bounds if bound is not None]
                return helper.make_node("Clip", [*inputs, *names], [output]), held
            case Scalar(kind, number, first):
                name = f"{output}_number"
                operands = [name, *inputs] if first else [*inputs, name]
                return helper.make_node(kind, operands, [output]), [_number(name, number)]
            case Binary(kind):
                return helper.make_node(kind, inputs, [output]), []
            case MinMax(largest):
                return helper.make_node("Max" if largest else "Min", inputs, [output]), []
            case Select():
                raise AssertionError("a selection is two operators")
            case _:
                assert_never(self.op)


def _selection(
    op: Select, inputs: Sequence[str], output: str
) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    """A comparison with what a condition must exceed, and Where."""
    numbers = (HOLDS, op.yes, op.no)
    names = [f"{output}_{text}" for text in ("holds", "yes", "no")]
    held = [_number(n, v) for n, v in zip(names, numbers, strict=True) if v is not None]
    rest = iter(inputs[1:])
    branches = [
        next(rest) if number is None else name
        for name, number in zip(names[1:], numbers[1:], strict=True)
    ]
    test = f"{output}_test"
    return [
        helper.make_node("Greater", [inputs[0], names[0]], [test]),
        helper.make_node("Where", [test, *branches], [output]),
    ], held


def _number(name: str, number: float) -> TensorProto:
    return numpy_helper.from_array(np.array(number, np.float32), name)


@dataclass(frozen=True, slots=True)
class Composite(FloatOp):
    """y = the result of the last of `steps`, element by element."""

    elementwise: ClassVar[bool] = True

    steps: tuple[Step, ...]

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's shape."""
        return (TensorType(inputs[0].shape, FloatType()),)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """The steps in order."""
        values = [inputs[0]]
        for step in self.steps:
            values += step.op.reference(*(values[i] for i in step.operands))
        return (values[-1],)

    def runtime(self, x: FloatArray) -> FloatArray:
        """The formula as onnxruntime computes it, in float32, with what it fuses on its own."""
        nodes: list[onnx.NodeProto] = []
        constants: list[TensorProto] = []
        for index, step in enumerate(self.steps, start=1):
            made, held = step.to_onnx([f"v{i}" for i in step.operands], f"v{index}")
            nodes += made
            constants += held
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, list(x.shape))
            for name in ("v0", f"v{len(self.steps)}")
        ]
        graph = helper.make_graph(nodes, "formula", ends[:1], ends[1:], constants)
        opsets = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        return ort.reference(model).run({"v0": x.astype(np.float32)})[ends[1].name]

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """A table of all codes."""
        x = build.integer(site.inputs[0])
        function = self.runtime
        if site.semantics is Semantics.DYADIC:
            function = self._wide
        return (tabulate(build, x, site.result, site.semantics, function, site.name),)

    def _wide(self, x: FloatArray) -> FloatArray:
        return self.reference(x.astype(np.float64))[0]
