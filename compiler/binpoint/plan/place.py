"""A step of the integer graph on its way to hardware units: where it stands, what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from binpoint.errors import BadOption, NoIntegerForm
from binpoint.ir.graph import Graph, Value
from binpoint.ir.op import IntArray, IntegerOp
from binpoint.numeric.interval import Interval
from binpoint.plan.design import Folding
from binpoint.plan.fuse import Step
from binpoint.plan.units import Unit


@dataclass(frozen=True, slots=True)
class End:
    """One end of a stream as a unit wants it: the value, elements of a word, and their range.

    `between` names a stream inside of one step that is no value of the graph.
    """

    value: str
    lanes: int
    bounds: Interval
    elements: int
    between: bool = False


@dataclass(frozen=True, slots=True)
class Draft:
    """A unit before it is connected."""

    name: str
    unit: Unit
    reads: tuple[End, ...]
    writes: tuple[End, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A step to be turned into units: where it stands and how it is folded.

    `lanes` are those of the operands as their producers write them; `folding` is None unless given;
    values in `bipolar` are carried as one bit, which is 1 for 1 and 0 for -1.
    """

    graph: Graph
    step: Step
    lanes: tuple[int, ...]
    folding: Folding | None
    bipolar: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """Name of the step and of its own unit."""
        return self.step.name

    @property
    def op(self) -> IntegerOp:
        """The first node's op."""
        return cast("IntegerOp", self.step.nodes[0].op)

    @property
    def inputs(self) -> tuple[Value, ...]:
        """All operands, constants too."""
        return self.graph.arguments(self.step.nodes[0])

    @property
    def result(self) -> Value:
        """What the step computes."""
        return self.graph.value(self.step.writes[0])

    def numbers(self) -> dict[str, int]:
        """Literal arguments of the kernel by name."""
        arguments = self.step.call.arguments
        return {a.name: int(getattr(a, "value", 0)) for a in arguments if hasattr(a, "kind")}

    def refuse(self, what: str, hint: str) -> NoIntegerForm:
        """An error that names the step."""
        at = ", ".join(self.step.origin.names) or self.name
        return NoIntegerForm(f"{what} on an FPGA", at=at, hint=hint)

    def fold(self, *, pe: int, simd: int = 1, rows: int = 1, default: int = 1) -> Folding:
        """The folding given, if it divides; else `default` elements a word.

        SIMD must divide `simd`, or be such a number for all `rows` of a window.
        """
        if self.folding is None:
            return Folding(default if pe % default == 0 else 1)
        allowed = {"pe": divisors(pe), "simd": simds(simd, rows)}
        for key, have in (("pe", self.folding.pe), ("simd", self.folding.simd)):
            if have not in allowed[key]:
                raise BadOption(
                    f"a folding does not divide the layer `{self.name}`",
                    at=f"folding, {self.name}.{key}",
                    have=str(have),
                    want=", ".join(map(str, allowed[key])),
                )
        return self.folding

    def end(self, value: Value, lanes: int) -> End:
        """A value of the graph as an end."""
        return End(value.name, lanes, self.range(value), value.type.size)

    def range(self, value: Value) -> Interval:
        """The range of a value's elements as a stream carries them."""
        return Interval(0, 1) if value.name in self.bipolar else value.interval


def divisors(number: int) -> list[int]:
    """All of them, ascending."""
    return [n for n in range(1, number + 1) if number % n == 0]


def simds(depth: int, rows: int) -> list[int]:
    """Products side by side behind a window: of one tap, or of all its rows."""
    return sorted({n * r for n in divisors(depth) for r in (1, rows)})


def together(simd: int, depth: int, rows: int) -> int:
    """How many rows of a window are sent at once for so many products side by side."""
    return 1 if depth % simd == 0 else rows


def array_of(value: Value) -> IntArray:
    """The stored integers of a constant."""
    assert value.constant is not None
    return value.constant.array.astype(np.int64)
