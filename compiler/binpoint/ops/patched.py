"""Patched: the first layers of a net, computed patch by patch of their result.

The maps of the stage never exist as a whole, only what one patch needs of them: MCUNetV2 (NeurIPS
2021). With one body the result is that of the body on the whole map, bit for bit; with several
(QuantMCU, DATE 2024) every patch has the integers of its own, which is fixed or, with a test, that
of the values that it reads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from binpoint.ir.evaluate import evaluate, written
from binpoint.ir.graph import Graph, Node, Value
from binpoint.ir.kernel import Buffer, KernelCall, Work
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import IntArray, IntegerOp
from binpoint.numeric.fixed import TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.banded import Banded
from binpoint.ops.copy import row_major
from binpoint.ops.halo import Region, cut, regions, sizes, slices, spatial, whole, work_of
from binpoint.ops.outliers import OutlierTest, marked


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
    """A patch: the region of the result that it is, and of the operand it reads.

    It is of the one of `bodies`, or of one of both.
    """

    bodies: tuple[int, ...]
    result: Region
    operand: Region


@dataclass(frozen=True, eq=False)
class Patched(IntegerOp):
    """A stage of one input and one output over a grid of patches.

    Attributes:
        bodies: integer graphs of the same input and output: the whole stage, in one precision each.
        extents: positions of the result in a patch along each spatial axis; the last has the rest.
        view: how the operand's elements are the input of the bodies.
        body_of: the body of each patch, row by row; empty where there is one body, or a test.
        test: which of two bodies computes a patch, by the region of the operand that it reads,
            clipped to the map, all channels.
        shares: of each body in how many parts along each spatial axis its patches are computed,
            one after the other, to need less memory; empty where all are computed at once, as they
            are where there is a test.
    """

    stem: ClassVar[str] = "patched"

    bodies: tuple[Graph, ...]
    extents: tuple[int, ...]
    view: View
    body_of: tuple[int, ...] = ()
    test: OutlierTest | None = None
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
            bodies = (0, 1) if self.test else (self.body_of[index] if self.body_of else 0,)
            graph = self.bodies[bodies[0]]
            shares = self.shares[bodies[0]] if self.shares else (1,) * len(patch)
            extents = [-(-n // k) for n, k in zip(sizes(patch), shares, strict=True)]
            for region in _divided(patch, extents):
                yield Patch(bodies, region, regions(graph, region)[graph.inputs[0]])

    @property
    def used(self) -> tuple[int, ...]:
        """The bodies that compute a patch."""
        return tuple(sorted({body for patch in self.patches for body in patch.bodies}))

    @cached_property
    def parts(self) -> tuple[tuple[Graph, ...], ...]:
        """The graph of each patch, in each of the bodies that it may be of."""
        return tuple(tuple(cut(self.bodies[b], p.result) for b in p.bodies) for p in self.patches)

    @property
    def mixed(self) -> bool:
        """Whether patches differ in precision, or from what whole maps compute."""
        return bool(self.body_of) or self.test is not None

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
        for patch, graphs in zip(self.patches, self.parts, strict=True):
            codes = source[slices(patch.operand)]
            graph = graphs[self.test.body(codes) if self.test else 0]
            found = evaluate(graph, {graph.inputs[0]: codes})
            result[slices(patch.result)] = found[graph.outputs[0]]
        return (result,)

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Every body on the whole map, and of each the patches that it computes.

        A test counts by products with rows of ones, as regions are rows by columns.
        """
        (x,) = inputs
        shape = self.source.shape
        flat = w.reshape(x, (int(np.prod(x.shape)),))
        indices = self.view.indices(shape[1:]).reshape(-1)
        source = w.reshape(w.take(flat, indices, 0), shape)
        if self.test is not None:
            first, second = (_output(w, body, source) for body in self.bodies)
            counts, limits = self._counted(w, source, self.test)
            return (w.select(counts, "Greater", limits, first, second),)
        first, *others = self.used
        joined = _output(w, self.bodies[first], source)
        for body in others:
            place = np.zeros((*self.target.shape[:-1], 1), np.int64)
            for patch in self.patches:
                place[slices(patch.result)] = patch.bodies == (body,)
            result = _output(w, self.bodies[body], source)
            joined = w.select(w.const(place), "Equal", w.const(1), result, joined)
        return (joined,)

    def _counted(self, w: OnnxWriter, whole: Tensor, test: OutlierTest) -> tuple[Tensor, Tensor]:
        """How many outliers each patch reads, and may read, at the positions of its result."""
        patches = np.arange(len(self.patches)).reshape(self.grid)
        place = np.zeros(spatial(self.target), np.int64)
        limits = np.zeros(len(self.patches), np.int64)
        for index, patch in enumerate(self.patches):
            place[slices(patch.result)[1:-1]] = index
            size = math.prod(sizes(patch.operand)) * self.source.shape[-1]
            limits[index] = test.limit(size)
        found = w.reduce_sum(marked(w, whole, test.lo, test.hi), len(whole.shape) - 1, keep=False)
        for axis, count in enumerate(spatial(self.source)):
            # The region of a patch along an axis is that of the first patch of its row or column.
            line = np.moveaxis(patches, axis, 0).reshape(self.grid[axis], -1)[:, 0]
            spans = [self.patches[int(index)].operand[axis] for index in line]
            ones = np.array([[a <= i <= b for i in range(count)] for a, b in spans], np.int64)
            order = [axis + 1, *(i for i in range(len(found.shape)) if i != axis + 1)]
            ahead = w.transpose(found, order)
            rows = w.reshape(ahead, (count, math.prod(ahead.shape[1:])))
            most = Interval(0, found.range.hi * count)
            sums = w.reshape(w.matmul(w.const(ones), rows, most), (len(line), *ahead.shape[1:]))
            found = w.transpose(sums, [order.index(i) for i in range(len(order))])
        flat = w.reshape(found, (len(self.patches),))
        where = place.reshape(*self.target.shape[:-1], 1)
        return w.take(flat, where, 0), w.const(limits[where])

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
        """The sum over patches: what their halos cost is in it, and what a test reads."""
        work = work_of([graphs[0] for graphs in self.parts])
        if self.test is None:
            return work
        read = sum(math.prod(sizes(patch.operand)) for patch in self.patches)
        return replace(work, loads=work.loads + read * self.source.shape[-1])

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
        extents = f"{list(self.extents)}{parts}"
        test = f", {self.test}" if self.test else ""
        return f"Patched({grid} of {extents}, {self.view}, [{bodies}]{test})"


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
