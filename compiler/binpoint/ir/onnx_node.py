"""OnnxNode: one ONNX node as ops see it on import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import onnx
from numpy.typing import NDArray
from onnx import helper

from binpoint.errors import UnsupportedOperator
from binpoint.ir.graph import Value


@dataclass(frozen=True, slots=True)
class OnnxNode:
    """One ONNX node: attributes by type, operands as values of the graph, constants as arrays."""

    proto: onnx.NodeProto
    inputs: tuple[Value | None, ...]
    opset: int
    index: int
    outputs: tuple[str, ...]
    codes: tuple[bool, ...] = ()
    """Which operands are stored integers (between QuantizeLinear and DequantizeLinear)."""
    read: tuple[bool, ...] = ()
    """Which results anything reads."""

    @property
    def op(self) -> str:
        """Operator with its domain, if it is not the default one."""
        domain = self.proto.domain
        return self.proto.op_type if domain in ("", "ai.onnx") else f"{domain}.{self.proto.op_type}"

    @property
    def place(self) -> str:
        """Where the node is, for messages."""
        name = (*filter(None, (self.proto.name, *self.proto.output)), self.proto.op_type)[0]
        return f"{name} (node {self.index})"

    def attribute(self, name: str) -> Any:
        """The value of an attribute, or None."""
        for attribute in self.proto.attribute:
            if attribute.name == name:
                return helper.get_attribute_value(attribute)
        return None

    def int(self, name: str, default: int) -> int:
        """An integer attribute."""
        value = self.attribute(name)
        return default if value is None else int(value)

    def float(self, name: str, default: float) -> float:
        """A float attribute."""
        value = self.attribute(name)
        return default if value is None else float(value)

    def string(self, name: str, default: str) -> str:
        """A string attribute."""
        value = self.attribute(name)
        return default if value is None else bytes(value).decode("utf-8", "replace")

    def ints(self, name: str, default: Sequence[int] = ()) -> tuple[int, ...]:
        """A list of integers."""
        value = self.attribute(name)
        return tuple(default) if value is None else tuple(int(v) for v in value)

    def has(self, index: int) -> bool:
        """Whether the operand of this index is given."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def operand(self, index: int) -> Value:
        """The operand of this index; refuses if it is missing."""
        value = self.inputs[index] if index < len(self.inputs) else None
        if value is None:
            self.refuse(f"operand {index} is missing", hint="the file is not valid ONNX")
        return value

    def array(self, index: int) -> NDArray[Any]:
        """A constant operand as it is stored; refuses if it is computed at run time."""
        value = self.operand(index)
        if value.constant is None:
            self.refuse(
                f"operand {index} (`{value.source or value.name}`) must be a constant",
                hint="export the model with fixed shapes and parameters, or simplify it first",
            )
        return value.constant.array

    def optional_array(self, index: int) -> NDArray[Any] | None:
        """A constant operand, or None where it is not given."""
        return self.array(index) if self.has(index) else None

    def refuse(
        self, why: str, *, hint: str | None = None, have: str | None = None, want: str | None = None
    ) -> NoReturn:
        """Raise UnsupportedOperator for this node."""
        raise UnsupportedOperator(
            f"`{self.op}`: {why}", at=self.place, have=have, want=want, hint=hint
        )
