"""Random operands for integer ops under test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Value
from binpoint.ir.op import FloatOp, IntegerOp, Limits, Semantics, Site
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, I16, I32, U8, FixedType, IntType, TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.copy import IntCopy
from binpoint.ops.window import Window

Choice = TypeVar("Choice")
ONE = Dyadic.one()


class Sketch:
    """An integer graph to which cases add ops; every result of a case becomes an output."""

    def __init__(self, random: Random, name: str = "laws") -> None:
        """Start with an empty graph."""
        self.graph = Graph(name)
        self.build = GraphBuilder(self.graph, "op")
        self.random = random
        self.rng = np.random.default_rng(random.getrandbits(32))

    def pick(self, *options: Choice) -> Choice:
        """One of the options."""
        return options[self.random.randrange(len(options))]

    def number(self, low: int, high: int) -> int:
        """An integer from `low` to `high`."""
        return self.random.randint(low, high)

    def storage(self, *options: IntType) -> IntType:
        """An integer type, by default one of 8 bits or int16."""
        return self.pick(*(options or (I8, I8, U8, U8, I16)))

    def zero(self, storage: IntType) -> int:
        """A zero point: often at an end of the range."""
        inner = self.number(storage.min, storage.max)
        return self.pick(storage.min, storage.max, 0, inner, inner)

    def type(self, storage: IntType | None = None, size: float = 1.0) -> FixedType:
        """A per-tensor type with a float32 scale near 2^-6 times `size`."""
        storage = storage if storage is not None else self.storage()
        scale = np.float32(2.0 ** self.random.uniform(-8, -4) * size)
        return FixedType.per_tensor(storage, Dyadic.from_float(scale), self.zero(storage))

    def input(
        self, shape: Sequence[int], kind: FixedType | None = None, bounds: Interval | None = None
    ) -> Value:
        """A graph input; now and then it is known to use a part of its range only."""
        kind = kind if kind is not None else self.type()
        value = self.build.input("x", TensorType(tuple(shape), kind))
        if bounds is None and self.random.random() < 0.2:
            low, high = sorted(self.number(kind.storage.min, kind.storage.max) for _ in range(2))
            bounds = Interval(low, high)
        if bounds is not None:
            value = replace(value, bounds=bounds)
            self.graph.set_value(value)
        return value

    def sums(self, shape: Sequence[int], reach: int = 2**20) -> Value:
        """A graph input of int32 sums within ±`reach`, no zero point."""
        bounds = Interval(-self.number(0, reach), self.number(0, reach))
        return self.input(shape, FixedType.per_tensor(I32, Dyadic(1, -12)), bounds)

    def codes(self, shape: Sequence[int], low: int, high: int) -> NDArray[np.int64]:
        """Uniform integers."""
        return self.rng.integers(low, high + 1, tuple(shape))

    def constant(self, array: NDArray[np.int64], storage: IntType = I8) -> Value:
        """An integer constant of scale one."""
        return self.build.constant(array, FixedType.per_tensor(storage, ONE))

    def weights(self, x: Value, *shape: int) -> Value:
        """int8 weights; int16 now and then where `x` is of 8 bits, so that sums fit."""
        storage = self.pick(I8, I8, I8, I16) if x.elem.storage.width == 8 else I8
        top = 127 if storage == I8 else 255
        return self.constant(self.codes(shape, -top, top), storage)

    def bias(self, count: int) -> Value:
        """An int32 bias."""
        return self.constant(self.codes((count,), -(2**15), 2**15), I32)

    def window(
        self, spatial: Sequence[int], *, dilated: bool = True, padded: bool = True
    ) -> Window:
        """A window that fits, with paddings of its own on every side."""
        kernel = tuple(self.number(1, min(3, n)) for n in spatial)
        room = [
            2 if dilated and 2 * (k - 1) < n else 1 for k, n in zip(kernel, spatial, strict=True)
        ]
        most = [k - 1 if padded else 0 for k in kernel]
        before, after = (tuple(self.number(0, m) for m in most) for _ in range(2))
        strides = tuple(self.number(1, 3) for _ in kernel)
        return Window(kernel, strides, before, after, tuple(self.number(1, r) for r in room))

    def spatial(self) -> tuple[int, ...]:
        """One or two spatial axes."""
        return tuple(self.number(2, 6) for _ in range(self.number(1, 2)))

    def shape(self, rank: int | None = None) -> tuple[int, ...]:
        """A small shape."""
        return tuple(
            self.number(1, 4) for _ in range(rank if rank is not None else self.number(1, 4))
        )

    def add(self, op: IntegerOp, *inputs: Value) -> Value:
        """Add a node."""
        (value,) = self.build.add(op, *inputs)
        return value

    def lower(
        self, op: FloatOp, inputs: Sequence[Value], result: FixedType | None, semantics: Semantics
    ) -> Value:
        """Add the integer form of a float op."""
        shapes = tuple(kind.shape for kind in op.infer(*inputs))
        name = self.graph.fresh("site")
        site = Site(name, tuple(inputs), (result,), shapes, semantics, Limits(), self.build.origin)
        (value,) = op.lower(site, self.build.at(name, self.build.origin))
        assert value.shape == shapes[0]
        assert result is None or value.elem == result
        return value

    def output(self, value: Value) -> None:
        """Let a value be an output; an op that adds nothing gets a copy."""
        if value.name in self.graph.inputs:
            value = self.add(
                IntCopy.of(value.shape, (value.type.size,), (1,), 0, value.elem), value
            )
        if value.name not in self.graph.outputs:
            self.graph.outputs += (value.name,)

    def prove(self) -> None:
        """Give ops of onnxruntime's semantics their proved forms; some stay exact."""
        for node in self.graph.nodes():
            proved = getattr(node.op, "proved", None)
            if proved is not None and self.random.random() < 0.7:
                self.graph.replace(replace(node, op=proved()))
