"""Graphs whose ops have sizes, aliases, scratch and operands to take over, and no meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Value
from binpoint.ir.kernel import Buffer, KernelCall, Work
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import IntArray, IntegerOp
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import FixedType, IntType, TensorType
from binpoint.numeric.interval import Interval


def code_type(width: int = 8) -> FixedType:
    return FixedType.per_tensor(IntType(width, signed=True), Dyadic.one())


def kind(size: int, width: int = 8) -> TensorType:
    return TensorType((size,), code_type(width))


@dataclass(frozen=True, slots=True)
class Fake(IntegerOp):
    """Results of these types; what it computes is never asked."""

    stem: ClassVar[str] = "fake"
    results: tuple[TensorType, ...]
    takes: tuple[int, ...] = ()
    shares: bool = False
    scratch: int = 0

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        return self.results

    def bounds(self, *inputs: Value) -> tuple[Interval, ...]:
        return (Interval(-1, 1),) * len(self.results)

    def reference(self, *inputs: IntArray) -> tuple[IntArray, ...]:
        raise NotImplementedError

    def to_onnx(self, w: OnnxWriter, *inputs: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def kernel(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> KernelCall:
        reads = [Buffer(f"x{i}", v.name, v.elem.storage) for i, v in enumerate(inputs)]
        writes = [
            Buffer(f"y{i}", v.name, v.elem.storage, written=True) for i, v in enumerate(outputs)
        ]
        return KernelCall("fake", (*reads, *writes), scratch=self.scratch)

    def work(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Work:
        return Work()

    def alias(self) -> bool:
        return self.shares

    def in_place(self) -> tuple[int, ...]:
        return self.takes


def random_graph(random: Random, *, steps: int = 9) -> Graph:
    """A graph of at most this many fake ops, as to-integers leaves it: outputs are computed."""
    graph = Graph("fake")
    build = GraphBuilder(graph)
    values = [
        build.input(f"in{i}", kind(random.randint(1, 40))) for i in range(random.randint(1, 3))
    ]
    for _ in range(random.randint(1, steps)):
        values += _step(build, values, random)
    made = [v for v in values if graph.producer(v.name) is not None]
    outputs = [v.name for v in made if not graph.consumers(v.name) or random.random() < 0.1]
    random.shuffle(outputs)
    graph.outputs = graph.output_names = tuple(outputs)
    return graph


def _step(build: GraphBuilder, values: Sequence[Value], random: Random) -> tuple[Value, ...]:
    operands = [random.choice(values[-5:]) for _ in range(random.randint(1, 3))]
    first = operands[0]
    match random.randrange(6):
        case 0:
            return build.add(Fake((first.type,), shares=True), first)
        case 1 | 2:
            takes = tuple(random.sample(range(len(operands)), random.randint(1, len(operands))))
            return build.add(Fake((first.type,), takes), *operands)
        case 3:
            scratch = random.randint(1, 60)
            return build.add(Fake((kind(random.randint(1, 40)),), scratch=scratch), *operands)
        case 4:
            sizes = [random.randint(1, 40) for _ in range(random.randint(2, 3))]
            return build.add(Fake(tuple(map(kind, sizes))), *operands)
        case _:
            width = random.choice((8, 16, 32))
            return build.add(Fake((kind(random.randint(1, 40), width),)), *operands)
