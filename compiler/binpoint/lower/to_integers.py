"""to-integers: ask each float op for its integer form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from binpoint.errors import BadOption, BinpointError, InvariantBroken
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Node, Value
from binpoint.ir.op import FloatOp, Semantics, Site
from binpoint.numeric.fixed import TensorType
from binpoint.ops.copy import IntCopy
from binpoint.passes.base import Context, Effect, Pass, Stage


@dataclass(frozen=True, slots=True)
class ToIntegers(Pass):
    """Replace every float op by integer ops.

    1. Each op lowers itself, in topological order, knowing its operands' integer types and ranges
       and the types assigned to its results.
    2. Requantization is RATIONAL for a model with QONNX's quantizers, ONNXRUNTIME's for one that
       came with others, else DYADIC; the option `semantics` decides otherwise.
    3. Values keep their names. An output that is also an input, a constant or another output is
       copied.
    """

    name: ClassVar[str] = "to-integers"
    before: ClassVar[Stage] = Stage.TYPED
    after: ClassVar[Stage] = Stage.INTEGER
    effect: ClassVar[Effect] = Effect.CHANGES_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        result = Graph(graph.name)
        result.quantized, result.digest, result.output_names = (
            graph.quantized,
            graph.digest,
            graph.output_names,
        )
        result.rational, result.filled, result.figures = graph.rational, graph.filled, graph.figures
        build = GraphBuilder(result)
        values: dict[str, Value] = {}
        for name in graph.inputs:
            value = graph.value(name)
            assert value.fixed is not None
            values[name] = build.input(
                name, TensorType(value.shape, value.fixed), source=value.source
            )
        for node in graph.nodes():
            self._lower(graph, node, build, values, context)
        for name in graph.outputs:
            output = self._output(build, values, graph.value(name))
            result.set_value(replace(output, reading=graph.value(name).reading))
            result.outputs += (output.name,)
        return result

    def _lower(
        self,
        graph: Graph,
        node: Node,
        build: GraphBuilder,
        values: dict[str, Value],
        context: Context,
    ) -> None:
        assert isinstance(node.op, FloatOp)
        operands = graph.arguments(node)
        inputs = tuple(
            v if v.constant is not None else build.graph.value(values[v.name].name)
            for v in operands
        )
        results = graph.results(node)
        site = Site(
            node.name,
            inputs,
            tuple(v.fixed for v in results),
            tuple(v.shape for v in results),
            semantics_of(graph, context),
            context.target.limits,
            node.origin,
        )
        try:
            lowered = node.op.lower(site, build.at(node.name, node.origin))
        except BinpointError as error:
            error.at = (
                error.at
                if error.at and error.at != node.name
                else f"{', '.join(node.origin.names) or node.name}"
            )
            raise
        for old, new in zip(results, lowered, strict=True):
            if old.fixed is not None and new.elem != old.fixed:
                raise InvariantBroken(
                    f"`{node.name}` lowered to another type",
                    have=str(new.elem),
                    want=str(old.fixed),
                )
            values[old.name] = self._named(build, old, new, values)

    @staticmethod
    def _named(build: GraphBuilder, old: Value, new: Value, values: Mapping[str, Value]) -> Value:
        """The lowered value under the name of the typed one, unless it has the name of another."""
        graph = build.graph
        if graph.producer(new.name) is None or new.source:
            return new
        if new.name != old.name:
            if graph.has_value(old.name) and any(v.name == old.name for v in values.values()):
                return new
            if graph.has_value(old.name):
                graph.rename_value(old.name, graph.fresh(f"{old.name}_sum"))
            if graph.has_node(old.name):
                return new
            graph.rename_value(new.name, old.name)
        named = replace(graph.value(old.name), source=old.source or old.name)
        graph.set_value(named)
        return named

    @staticmethod
    def _output(build: GraphBuilder, values: dict[str, Value], old: Value) -> Value:
        value = values[old.name] if old.constant is None else build.integer(old)
        value = build.graph.value(value.name)
        if build.graph.producer(value.name) is not None and value.name not in build.graph.outputs:
            return value
        size = value.type.size
        copy = IntCopy.of(value.shape, (size,), (1,), 0, value.elem)
        return build.one(copy, value, hint=f"{value.name}_copy")


def semantics_of(graph: Graph, context: Context) -> Semantics:
    """How rounding between ops is defined for this model.

    Raises:
        BadOption: other than exact semantics for a model whose quantizers are exact.
    """
    if graph.rational and context.options.semantics not in ("auto", "rational"):
        raise BadOption(
            "a model with quantizers of any width is exact between them",
            at="semantics",
            have=context.options.semantics,
            want="auto or rational",
        )
    if graph.rational:
        return Semantics.RATIONAL
    match context.options.semantics:
        case "auto":
            return Semantics.ONNXRUNTIME if graph.quantized else Semantics.DYADIC
        case "onnxruntime":
            return Semantics.ONNXRUNTIME
        case "dyadic":
            return Semantics.DYADIC
        case "rational":
            return Semantics.RATIONAL
