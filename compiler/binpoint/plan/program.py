"""Program: calls in order, where every value lives, constants. The only input of emission."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from binpoint.ir.constant import Constant
from binpoint.ir.graph import Graph, Value
from binpoint.ir.kernel import Buffer, Table
from binpoint.numeric.fixed import IntType
from binpoint.plan.fuse import Step


class Place(StrEnum):
    """Where a value lives."""

    ARENA = "arena"
    INPUT = "input"
    OUTPUT = "output"
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class Storage:
    """Place, and offset in the arena, or index of the input, output or constant.

    `within` is how many bytes behind the start of an input or output it lies.
    """

    place: Place
    index: int
    within: int = 0


@dataclass(frozen=True, slots=True)
class ConstantArray:
    """One array of constants, used by any number of calls."""

    name: str
    array: Constant
    elem: IntType

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return self.array.array.size * self.elem.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of the model: C name, the model's own name, its value."""

    name: str
    source: str
    value: Value

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return self.value.type.size * self.value.elem.storage.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Program:
    """All that emission needs: order, offsets, types, arguments are decided."""

    name: str
    graph: Graph
    steps: tuple[Step, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    storage: Mapping[str, Storage]
    constants: tuple[ConstantArray, ...]
    arena_bytes: int
    arena_bound: int
    order_optimal: bool
    scratch: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def constant_bytes(self) -> int:
        """Weights and tables."""
        return sum(c.bytes for c in self.constants)

    def constant_of(self, argument: Buffer | Table) -> ConstantArray:
        """The array that an argument points to."""
        if isinstance(argument, Table):
            return next(
                c for c in self.constants if c.array == argument.array and c.elem == argument.elem
            )
        return self.constants[self.storage[argument.value].index]
