"""keep-states: recurrent layers whose state outlasts a call."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from binpoint.errors import BadOption
from binpoint.ir.graph import Graph, Node, Value
from binpoint.numeric.fixed import TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.cell import IntRecurrent
from binpoint.passes.base import Context, Effect, Pass, Stage


@dataclass(frozen=True, slots=True)
class KeepStates(Pass):
    """With the option `streaming`, make ready what a call leaves to the next one.

    1. The cell of an LSTM becomes a result; states are results already.
    2. A layer whose initial state is an input begins as the caller says, in every call.
    3. A layer that runs backwards, or a model without an initial state to keep, is an error.
    """

    name: ClassVar[str] = "keep-states"
    before: ClassVar[Stage] = Stage.INTEGER
    after: ClassVar[Stage] = Stage.INTEGER
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        if not context.options.streaming:
            return graph
        layers = [(node, node.op) for node in graph.nodes() if isinstance(node.op, IntRecurrent)]
        if not any(kept_states(graph, node) for node, _ in layers):
            raise BadOption(
                "the option `streaming` means nothing for this model",
                want="a recurrent layer whose initial state is no input of the model",
            )
        for node, op in layers:
            if op.backwards:
                raise BadOption(
                    "a layer that runs backwards cannot go on where the call before ended",
                    at=", ".join(node.origin.names) or node.name,
                    hint="train the model with layers that run forwards only",
                )
            if "memory" in kept_states(graph, node) and not op.keeps:
                _keep(graph, node, op)
        return graph


def kept_states(graph: Graph, node: Node) -> dict[str, Value]:
    """Initial states that are constants, by the kernel's name for them; none of other ops."""
    if not isinstance(node.op, IntRecurrent):
        return {}
    starts = node.op.starts(graph.arguments(node))
    return {name: value for name, value in starts.items() if value.constant is not None}


def _keep(graph: Graph, node: Node, op: IntRecurrent) -> None:
    """The node with the last state of its cell as a second result."""
    shape = graph.arguments(node)[4].shape
    cell = Value(
        graph.fresh(f"{node.name}_cell"),
        TensorType(shape, op.memory),
        bounds=Interval.of_type(op.memory.storage),
    )
    graph.add_value(cell)
    outputs = (*node.outputs, cell.name)
    graph.replace(replace(node, op=replace(op, keeps=True), outputs=outputs))
