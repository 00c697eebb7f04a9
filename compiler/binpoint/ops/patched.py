"""Patched: the first layers of a net, computed patch by patch of their result.

The maps of the stage never exist as a whole, only what one patch needs of them: MCUNetV2 (NeurIPS
2021). With one body the result is that of the body on the whole map, bit for bit; with several
(QuantMCU, DATE 2024) every patch has the integers of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from binpoint.ir.evaluate import evaluate, written
from binpoint.ir.exchange import OnnxWriter, Tensor
from binpoint.ir.graph import Graph, Node, Value
from binpoint.ir.kernel import Buffer, KernelCall, Work
from binpoint.ir.op import IntArray, IntegerOp
from binpoint.numeric.fixed import TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.banded import Banded
from binpoint.ops.copy import row_major
from binpoint.ops.halo import Region, cut, regions, sizes, slices, spatial, whole, work_of


@dataclass(frozen=True, slots=True)
class View:
    """How a stage sees its operand: element (i, c) of the map is ``x.flat[offset + Σ i·stride]``.

    `strides` are those of the spatial axes and of the channels.
    """

    offset: int
    strides: tuple[int, ...]

    @classmethod
    def dense(cls, shape: Sequence[int]) -> View:
        """The operand as it is, ``[1, *spatial, C]``."""
        return cls(0, row_major(shape)[1:])

    @classmethod
    def of(cls, indices: IntArray) -> View | None:
        """The view in which element [i, c] is at ``indices[i, c]``, if there is one."""
        grid = indices.reshape(indices.shape)
        offset = int(grid.reshape(-1)[0])
        steps: list[int] = []
        for axis, size in enumerate(grid.shape):
            second = tuple(int(axis == i and size > 1) for i in range(grid.ndim))
            steps.append(int(grid[second]) - offset)
        found = cls(offset, tuple(steps))
        return found if np.array_equal(found.indices(grid.shape), grid) else None

    def indices(self, shape: Sequence[int]) -> IntArray:
        """Where each element ``[*spatial, C]`` is in the flat operand."""
        axes = [np.arange(n, dtype=np.int64) * s for n, s in zip(shape, self.strides, strict=True)]
        total = np.array(self.offset, np.int64)
        for axis in axes:
            total = total[..., None] + axis
        return total


@dataclass(frozen=True, slots=True)
class Patch:
    """A patch: of which body, the region of the result that it is, and of the operand it reads."""

    body: int
    result: Region
    operand: Region


@dataclass(frozen=True, eq=False)
class Patched(IntegerOp):
    """A stage of one input and one output over a grid of patches.

    Attributes:
        bodies: integer graphs of the same input and output: the whole stage, in one precision each.
        extents: positions of the result in a patch along each spatial axis; the last has the rest.
        view: how the operand's elements are the input of the bodies.
        body_of: the body of each patch, row by row; empty where there is one body.
        shares: of each body in how many parts along each spatial axis its patches are computed,
            one after the other, to need less memory; empty where all are computed at once.
    """

    stem: ClassVar[str] = "patched"

    bodies: tuple[Graph, ...]
    extents: tuple[int, ...]
    view: View
    body_of: tuple[int, ...] = ()
    shares: tuple[tuple[int, ...], ...] = ()

    @property
    def source(self) -> Value:
        """The input of the bodies: the whole map."""
        return self.bodies[0].value(self.bodies[0].inputs[0])

    @property
    def target(self) -> Value:
        """The output of the bodies: the whole map."""
        return self.bodies[0].value(self.bodies[0].outputs[0])

    @property
    def grid(self) -> tuple[int, ...]:
        """Patches along each spatial axis."""
        return tuple(-(-n // e) for n, e in zip(spatial(self.target), self.extents, strict=True))

    @cached_property
    def patches(self) -> tuple[Patch, ...]:
        """All patches, row by row; of one that is computed in parts the parts."""
        return tuple(self._patches())

    def _patches(self) -> Iterator[Patch]:
        for index, patch in enumerate(_divided(whole(self.target), self.extents)):
            body = self.body_of[index] if self.body_of else 0
            graph = self.bodies[body]
            shares = self.shares[body] if self.shares else (1,) * len(patch)
            extents = [-(-n // k) for n, k in zip(sizes(patch), shares, strict=True)]
            for region in _divided(patch, extents):
                yield Patch(body, region, regions(graph, region)[graph.inputs[0]])

    @property
    def used(self) -> tuple[int, ...]:
        """The bodies that compute a patch."""
        return tuple(sorted({patch.body for patch in self.patches}))

    @cached_property
    def parts(self) -> tuple[Graph, ...]:
        """The graph of each patch."""
        return tuple(cut(self.bodies[p.body], p.result) for p in self.patches)

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """Type of the bodies' output."""
        (x,) = inputs
        assert x.elem.storage == self.source.elem.storage, "the operand has another type"
        indices = self.view.indices(self.source.shape[1:])
        assert indices.min() >= 0, "the stage reads outside its operand"
        assert indices.max() < x.type.size, "the stage reads outside its operand"
        return (self.target.type,)

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        """The union of what the bodies prove of their outputs."""
        bodies = [self.bodies[i] for i in self.used]
        found = [body.value(body.outputs[0]).interval for body in bodies]
        return (Interval(min(b.lo for b in found), max(b.hi for b in found)),)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        """The definition: patch by patch."""
        source = inputs[0].reshape(-1)[self.view.indices(self.source.shape[1:])][None]
        result = np.empty(self.target.shape, np.int64)
        for patch, graph in zip(self.patches, self.parts, strict=True):
            found = evaluate(graph, {graph.inputs[0]: source[slices(patch.operand)]})
            result[slices(patch.result)] = found[graph.outputs[0]]
        return (result,)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Every body on the whole map, and of each the patches that it computes."""
        (x,) = inputs
        shape = self.source.shape
        flat = w.reshape(x, (int(np.prod(x.shape)),))
        indices = self.view.indices(shape[1:]).reshape(-1)
        source = w.reshape(w.take(flat, indices, 0), shape)
        first, *others = self.used
        joined = _output(w, self.bodies[first], source)
        for body in others:
            place = np.zeros((*self.target.shape[:-1], 1), np.int64)
            for patch in self.patches:
                place[slices(patch.result)] = patch.body == body
            result = _output(w, self.bodies[body], source)
            joined = w.select(w.const(place), "Equal", w.const(1), result, joined)
        return (joined,)

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        """Operand and result; `plan/stage.py` has the loop and the calls in it."""
        (x,), (y,) = inputs, outputs
        grid = " x ".join(map(str, self.grid))
        return KernelCall(
            self.stem,
            (
                Buffer("x", x.name, x.elem.storage),
                Buffer("y", y.name, y.elem.storage, written=True),
            ),
            formula=f"{grid} patches",
        )

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        """The sum over patches: what their halos cost is in it."""
        return work_of(self.parts)

    def extra_macs(self) -> tuple[int, int]:
        """Multiply-accumulates of all patches, and of the stage without patches."""
        once = work_of(self.bodies[:1]).macs
        return self.work((), ()).macs, once

    def __str__(self) -> str:
        """Grid, extents, and each body's text."""
        bodies = "; ".join(
            ", ".join(type(n.op).__name__ for n in body.nodes()) for body in self.bodies
        )
        grid = "x".join(map(str, self.grid))
        parts = f" in parts {list(self.shares)}" if self.shares else ""
        return f"Patched({grid} of {list(self.extents)}{parts}, {self.view}, [{bodies}])"


def _divided(region: Region, extents: Sequence[int]) -> Iterator[Region]:
    """The region in parts, row by row."""
    axes = [
        [(i, min(i + e - 1, last)) for i in range(first, last + 1, e)]
        for (first, last), e in zip(region, extents, strict=True)
    ]
    return itertools.product(*axes)


def _output(w: OnnxWriter, graph: Graph, x: Tensor) -> Tensor:
    """The output of a graph of one input, in the operators of the check graph."""
    return written(w, graph, {graph.inputs[0]: x})[graph.outputs[0]]


def nodes_within(graph: Graph) -> Iterator[tuple[Graph, Node]]:
    """All nodes, those of stages and bands with the graph that they are in."""
    for node in graph.nodes():
        if isinstance(node.op, Patched):
            for body in node.op.bodies:
                yield from nodes_within(body)
        elif isinstance(node.op, Banded):
            yield from nodes_within(node.op.body)
        else:
            yield graph, node
