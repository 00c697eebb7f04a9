"""Evaluate a float graph, as it is or with every typed value rounded to its type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.evaluate import Arrays, constant_array
from binpoint.ir.graph import Graph, Node, Value
from binpoint.ir.op import FloatOp
from binpoint.numeric.fixed import FixedType


class Simulation:
    """A float graph made ready to run many times.

    With `rounded`, a value that has an integer type is rounded to it, saturating, after it is
    computed: the error of quantization without the integer form. Without, only constants that are
    stored as integers are rounded, as they are in the graph.
    """

    def __init__(self, graph: Graph, *, rounded: bool) -> None:
        """Read the constants once and put the nodes in order."""
        self._graph = graph
        self._nodes = graph.nodes()
        self._last = last_readers(graph, self._nodes)
        self._constants = {
            v.name: constant_array(v) for v in graph.values() if v.constant is not None
        }
        self._rounded = rounded

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Return all values by name, float32; `inputs` are shaped as the inputs are, or codes."""
        arrays: Arrays = {}
        self._walk(inputs, arrays, keep=None)
        return arrays

    def outputs(self, inputs: Mapping[str, NDArray[Any]], wanted: frozenset[str]) -> Arrays:
        """Return the `wanted` values by name; others are dropped after their last reader."""
        arrays: Arrays = {}
        self._walk(inputs, arrays, keep=wanted)
        return {name: arrays[name] for name in sorted(wanted)}

    def _walk(
        self, inputs: Mapping[str, NDArray[Any]], arrays: Arrays, keep: frozenset[str] | None
    ) -> None:
        arrays.update(self._constants)
        for name in self._graph.inputs:
            value = self._graph.value(name)
            arrays[name] = self._round(value, real_input(self._graph, value, inputs[name]))
        for node in self._nodes:
            # What overflows becomes infinite, and whoever looks for a range finds that.
            with np.errstate(all="ignore"):
                results = node.op.reference(*(arrays[name] for name in node.inputs))
                if self._rounded:
                    results = own_rounding(node, results)
                for value, result in zip(self._graph.results(node), results, strict=True):
                    arrays[value.name] = self._round(value, result)
            if keep is not None:
                for name in self._last.get(node.name, ()):
                    if name not in keep:
                        del arrays[name]

    def _round(self, value: Value, array: NDArray[Any]) -> NDArray[Any]:
        if not self._rounded or value.fixed is None:
            return array
        return rounded(array, value.fixed)


def own_rounding(node: Node, results: tuple[NDArray[Any], ...]) -> tuple[NDArray[Any], ...]:
    """What an op makes of its exact results before they take their types."""
    assert isinstance(node.op, FloatOp)
    return node.op.rounded(*results)


def rounded(array: NDArray[Any], kind: FixedType) -> NDArray[np.float32]:
    """The nearest real numbers that a per-tensor type holds, saturating."""
    scale, zero = float(kind.scale), kind.zero_point
    codes = np.rint(array / scale)
    np.clip(codes, kind.storage.min - zero, kind.storage.max - zero, out=codes)
    return (codes * scale).astype(np.float32, copy=False)


def real_input(graph: Graph, value: Value, array: NDArray[Any]) -> NDArray[np.float32]:
    """An input as real numbers in its own shape; stored integers are read by their type."""
    shaped = np.asarray(array).reshape(value.shape)
    if value.name in graph.coded and value.fixed is not None:
        return value.fixed.dequantize(shaped).astype(np.float32)
    return shaped.astype(np.float32, copy=False)


def last_readers(graph: Graph, nodes: tuple[Node, ...]) -> Mapping[str, tuple[str, ...]]:
    """Which values each node is the last to read; constants stay."""
    last: dict[str, str] = {}
    for node in nodes:
        for name in (*node.outputs, *node.inputs):
            if graph.value(name).constant is None:
                last[name] = node.name
    result: dict[str, tuple[str, ...]] = {}
    for name, node in last.items():
        result[node] = (*result.get(node, ()), name)
    return result
