"""GraphBuilder: adds typed nodes to a graph; used by import, lowering and tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.constant import Constant
from binpoint.ir.graph import Graph, Node, Origin, Value
from binpoint.ir.op import FloatOp, IntegerOp
from binpoint.numeric.fixed import FixedType, FloatType, TensorType
from binpoint.numeric.interval import Interval


class GraphBuilder:
    """Adds nodes and constants to `graph`; names come from `hint`, origins from `origin`."""

    def __init__(self, graph: Graph, hint: str = "node", origin: Origin | None = None) -> None:
        """Build into `graph`."""
        self.graph = graph
        self.hint = hint
        self.origin = origin if origin is not None else Origin()

    def at(self, hint: str, origin: Origin) -> GraphBuilder:
        """A builder into the same graph with another hint and origin."""
        return GraphBuilder(self.graph, hint, origin)

    def input(
        self, name: str, kind: TensorType, *, fixed: FixedType | None = None, source: str = ""
    ) -> Value:
        """Add a graph input."""
        bounds = Interval.of_type(kind.elem.storage) if isinstance(kind.elem, FixedType) else None
        value = Value(
            self.graph.fresh(name), kind, fixed=fixed, bounds=bounds, source=source or name
        )
        self.graph.inputs += (value.name,)
        return self.graph.add_value(value)

    def constant(
        self,
        array: NDArray[Any],
        elem: FixedType | None = None,
        *,
        fixed: FixedType | None = None,
        hint: str = "",
    ) -> Value:
        """Add a constant, real or of the integer type `elem`.

        A real one holds stored integers if `fixed` gives their type.
        """
        name = self.graph.fresh(hint or f"{self.hint}_const")
        if elem is None:
            kind = TensorType(np.shape(array), FloatType())
            value = Value(name, kind, fixed=fixed, constant=Constant(np.asarray(array)))
            return self.graph.add_value(value)
        stored = np.asarray(array).astype(elem.storage.dtype)
        assert np.array_equal(stored.astype(np.int64), np.asarray(array)), (
            f"constant {name} does not fit {elem.storage}"
        )
        kind = TensorType(np.shape(array), elem)
        bounds = Interval.of(stored) if stored.size else Interval(0, 0)
        return self.graph.add_value(Value(name, kind, bounds=bounds, constant=Constant(stored)))

    def integer(self, value: Value) -> Value:
        """A value as operand of an integer op.

        A typed constant of a float graph becomes an integer constant.
        """
        if value.constant is None or value.fixed is None:
            return value
        return self.constant(value.constant.array, value.fixed)

    def add(
        self, op: FloatOp | IntegerOp, *inputs: Value, hint: str = "", outputs: Sequence[str] = ()
    ) -> tuple[Value, ...]:
        """Add a node; returns its results. `outputs` suggests names of the results."""
        kinds = op.infer(*inputs)
        name = self.graph.fresh(hint or self.hint)
        bounds: Sequence[Interval | None] = (
            op.bounds(*inputs) if isinstance(op, IntegerOp) else [None] * len(kinds)
        )
        results: list[Value] = []
        taken: set[str] = {name}
        for index, (kind, bound) in enumerate(zip(kinds, bounds, strict=True)):
            text = (
                outputs[index]
                if index < len(outputs)
                else f"{name}_out" + (str(index) if len(kinds) > 1 else "")
            )
            result = self._fresh(text, taken)
            taken.add(result)
            results.append(Value(result, kind, bounds=bound))
        node = Node(
            name, op, tuple(v.name for v in inputs), tuple(v.name for v in results), self.origin
        )
        self.graph.add(node, results)
        return tuple(results)

    def one(
        self, op: FloatOp | IntegerOp, *inputs: Value, hint: str = "", outputs: Sequence[str] = ()
    ) -> Value:
        """Add a node of one result and return it."""
        (result,) = self.add(op, *inputs, hint=hint, outputs=outputs)
        return result

    def _fresh(self, text: str, taken: set[str]) -> str:
        name = self.graph.fresh(text)
        while name in taken:
            name = self.graph.fresh(f"{name}_")
        return name
