"""Banded: layers that read or write packed maps, some rows of their result at a time.

What a kernel works on are codes of a byte each; so only the rows that it reads and writes are ever
unpacked. The maps themselves stay packed in memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from binpoint.ir.evaluate import evaluate, written
from binpoint.ir.graph import Graph, Node, Value
from binpoint.ir.kernel import Buffer, KernelCall, Work
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import IntArray
from binpoint.numeric.fixed import TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.halo import Layers, Region, cut, regions, slices, spatial, windowed, work_of
from binpoint.ops.packed import IntPack, IntUnpack


@dataclass(frozen=True, slots=True)
class Band:
    """Rows of the result, and the region of each operand that they need."""

    result: Region
    operands: tuple[Region, ...]


@dataclass(frozen=True, eq=False)
class Banded(Layers):
    """A graph of one output over bands of its rows.

    Attributes:
        body: integer graph; its inputs are the operands in order.
        rows: positions of the result along its first spatial axis in a band; the last has the rest.
    """

    stem: ClassVar[str] = "banded"

    body: Graph
    rows: int

    @property
    def target(self) -> Value:
        """The output of the body."""
        return self.body.value(self.body.outputs[0])

    @property
    def layer(self) -> tuple[Node, ...]:
        """The nodes that do more than pack and unpack."""
        return tuple(n for n in self.body.nodes() if not isinstance(n.op, IntPack | IntUnpack))

    @cached_property
    def bands(self) -> tuple[Band, ...]:
        """All of them, from the first row on."""
        return tuple(self._bands())

    def _bands(self) -> Iterator[Band]:
        height, *others = spatial(self.target)
        rest = tuple((0, n - 1) for n in others)
        for first in range(0, height, self.rows):
            region = ((first, min(first + self.rows, height) - 1), *rest)
            needed = regions(self.body, region, rows=True)
            yield Band(region, tuple(needed[name] for name in self.body.inputs))

    @cached_property
    def parts(self) -> tuple[Graph, ...]:
        """The graph of each band."""
        return tuple(cut(self.body, band.result, rows=True) for band in self.bands)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """Type of the body's output."""
        for x, name in itertools.zip_longest(inputs, self.body.inputs):
            assert x.type == self.body.value(name).type, "an operand has another type"
        return (self.target.type,)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """What the body proves."""
        return (self.target.interval,)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition: band by band."""
        found: list[IntArray] = []
        for band, part in zip(self.bands, self.parts, strict=True):
            named = zip(self.body.inputs, inputs, band.operands, strict=True)
            values = evaluate(part, {name: x[slices(r)] for name, x, r in named})
            found.append(values[self.body.outputs[0]])
        return (np.concatenate(found, axis=1),)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The body on whole maps."""
        named = dict(zip(self.body.inputs, inputs, strict=True))
        return (written(w, self.body, named)[self.body.outputs[0]],)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Operands and result; `plan/stage.py` has the loop and the calls in it."""
        (y,) = outputs
        names = ["x"] if len(inputs) == 1 else [f"x{i}" for i in range(len(inputs))]
        pairs = zip(names, inputs, strict=True)
        return KernelCall(
            self.stem,
            (
                *(Buffer(name, x.name, x.elem.storage) for name, x in pairs),
                Buffer("y", y.name, y.elem.storage, written=True),
            ),
            formula="all rows at once"
            if len(self.bands) == 1
            else f"{len(self.bands)} bands of {self.rows} rows",
        )

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """The sum over bands: rows that two of them read are unpacked twice."""
        return work_of(self.parts)

    def in_place(self) -> tuple[int, ...]:
        """All operands, where each element of the result depends on elements of its own place."""
        if any(windowed(node.op) for node in self.body.nodes()):
            return ()
        return tuple(range(len(self.body.inputs)))

    def __str__(self) -> str:
        """Rows, and the body's text."""
        inner = ", ".join(type(n.op).__name__ for n in self.body.nodes())
        return f"Banded({self.rows} rows, [{inner}])"
