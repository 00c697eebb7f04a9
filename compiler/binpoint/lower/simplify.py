"""Passes on the integer graph.

Merge-clamps, prove-requantizers, remove-dead and merge-duplicates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from binpoint.errors import BadOption
from binpoint.ir.graph import Graph, Node, Value
from binpoint.ir.op import IntegerOp
from binpoint.ops.requantize import Clamp, OnnxruntimeRequantize
from binpoint.ops.runtime_pair import OnnxruntimePair
from binpoint.ops.thresholds import IntThresholds
from binpoint.passes.base import Context, Effect, Pass, Stage
from binpoint.passes.cleanup import merge_duplicates, remove_dead
from binpoint.target import McuTarget, Target


@dataclass(frozen=True, slots=True)
class MergeClamps(Pass):
    """Let the op before a Clamp clamp by itself.

    1. A Clamp whose operand nobody else reads goes into its producer, if that op can clamp.
    2. A Clamp that cannot change anything, by the proven range of its operand, is removed.
    """

    name: ClassVar[str] = "merge-clamps"
    before: ClassVar[Stage] = Stage.INTEGER
    after: ClassVar[Stage] = Stage.INTEGER
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        for node in graph.nodes():
            if isinstance(node.op, Clamp):
                self._merge(graph, node, node.op)
        return graph

    @staticmethod
    def _merge(graph: Graph, node: Node, clamp: Clamp) -> None:
        (operand,), (result,) = graph.arguments(node), graph.results(node)
        if (
            clamp.lo <= operand.interval.lo
            and operand.interval.hi <= clamp.hi
            and result.name not in graph.outputs
        ):
            _drop(graph, node, operand, result)
            return
        producer = graph.producer(operand.name)
        if (
            producer is None
            or graph.sole_consumer(operand.name) is None
            or len(producer.outputs) != 1
        ):
            return
        assert isinstance(producer.op, IntegerOp)
        op = producer.op.clamped(clamp.lo, clamp.hi)
        if op is None:
            return
        graph.remove(node.name)
        graph.remove(producer.name)
        graph.drop_value(operand.name)
        (bounds,) = op.bounds(*graph.arguments(producer))
        graph.set_value(replace(result, bounds=bounds))
        merged = Node(
            producer.name, op, producer.inputs, (result.name,), producer.origin + node.origin
        )
        graph.add(merged, ())


def _drop(graph: Graph, node: Node, operand: Value, result: Value) -> None:
    """Remove a Clamp that changes nothing; an operand that only it read stands for its result."""
    own = graph.sole_consumer(operand.name) is not None and operand.name not in graph.inputs
    graph.bypass(node, operand.name)
    if own and operand.constant is None:
        graph.rename_value(operand.name, result.name)
        graph.set_value(replace(graph.value(result.name), source=result.source))


@dataclass(frozen=True, slots=True)
class ProveRequantizers(Pass):
    """Give every op that rounds as onnxruntime does the cheapest form that is proved equal.

    1. `thresholds` for results of four bits or fewer; `mulshift` where multiplier, offset and shift
       exist that give every threshold of every channel over its reachable accumulators.
    2. What is not proved becomes `fpu`, if the option `fpu` allows it, else keeps the `exact` form.
    """

    name: ClassVar[str] = "prove-requantizers"
    before: ClassVar[Stage] = Stage.INTEGER
    after: ClassVar[Stage] = Stage.INTEGER
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        floats = context.options.fpu
        if floats and not _has_fpu(context.target):
            raise BadOption(
                "the option `fpu` needs a target with a floating-point unit",
                have=context.target.name,
                want='"fpu" among its features',
            )
        for node in graph.nodes():
            match node.op:
                case OnnxruntimeRequantize():
                    op = node.op.proved()
                    op = op.in_float() if floats and op.form.name in ("exact", "mixed") else op
                case OnnxruntimePair() | IntThresholds():
                    op = node.op.proved()
                case _:
                    continue
            graph.replace(replace(node, op=op))
        return graph


@dataclass(frozen=True, slots=True)
class SimplifyIntegers(Pass):
    """Compute equal things once, and nothing that no output needs.

    Ranges are made anew from the operands'.
    """

    name: ClassVar[str] = "simplify-integers"
    before: ClassVar[Stage] = Stage.INTEGER
    after: ClassVar[Stage] = Stage.INTEGER
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        graph = remove_dead(merge_duplicates(graph))
        for node in graph.nodes():
            assert isinstance(node.op, IntegerOp)
            bounds = node.op.bounds(*graph.arguments(node))
            for value, bound in zip(graph.results(node), bounds, strict=True):
                graph.set_value(replace(value, bounds=bound))
        return graph


def _has_fpu(target: Target) -> bool:
    return isinstance(target, McuTarget) and "fpu" in target.arithmetic.features
