"""Weights and biases that make up for what quantized weights and inputs put wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Graph, Node
from binpoint.ir.op import FloatOp, Role
from binpoint.passes.samples import Samples
from binpoint.quantize.simulate import last_readers, own_rounding, real_input, rounded

_Array = NDArray[Any]
_Arrays = dict[str, list[_Array]]


Refit = Callable[[Node, tuple[list[_Array], list[_Array]]], None]
"""Chooses the weights of a node anew from what it reads in each sample, real and rounded."""


def correct(
    graph: Graph, typed: Graph, samples: Samples, *, refit: Refit | None = None, biases: bool = True
) -> None:
    """Correct the weights and real biases of `typed`, made from `graph` and of the same nodes.

    Layer by layer, on all samples: each output channel of a linear op is computed with rounded
    weights from rounded inputs, as the corrected layers before give them; what it is too large, in
    the mean over samples and positions, is subtracted from its bias (Nagel et al. 2019, section
    4.2, measured). An op without bias gets one. Only ops with real weights and bias in `graph` are
    touched.
    """
    if refit is None and not any(_correctable(graph, node) for node in graph.nodes()):
        return
    inputs = list(samples.inputs())
    real = _start(graph, inputs, quantized=False)
    coded = _start(typed, inputs, quantized=True)
    last = last_readers(graph, graph.nodes())
    for node in graph.nodes():
        first = next(iter(node.inputs), "")
        if refit is not None and first in real:
            refit(node, (real[first], coded[first]))
        twin = typed.node(node.name)
        exact = _results(graph, node, real, len(inputs))
        found = _results(typed, twin, coded, len(inputs))
        if biases and _correctable(graph, node):
            error = _mean(found) - _mean(exact)
            _subtract(typed, twin, error)
            found = [[array - error.astype(np.float32) for array in column] for column in found]
        for name, column in zip(node.outputs, exact, strict=True):
            real[name] = column
        found = _own(twin, found)
        for name, column in zip(twin.outputs, found, strict=True):
            kind = typed.value(name).fixed
            coded[name] = column if kind is None else [rounded(array, kind) for array in column]
        for name in last.get(node.name, ()):
            del real[name], coded[name]


def _start(graph: Graph, inputs: list[dict[str, _Array]], *, quantized: bool) -> _Arrays:
    arrays: _Arrays = {}
    for name in graph.inputs:
        value = graph.value(name)
        column = [real_input(graph, value, sample[name]) for sample in inputs]
        kind = value.fixed if quantized else None
        arrays[name] = column if kind is None else [rounded(array, kind) for array in column]
    return arrays


def _results(
    graph: Graph, node: Node, arrays: Mapping[str, list[_Array]], count: int
) -> list[list[_Array]]:
    """Per result, one array a sample."""
    constants = {v.name: constant_array(v) for v in graph.arguments(node) if v.constant is not None}
    rows: list[tuple[_Array, ...]] = []
    for index in range(count):
        operands = (constants[n] if n in constants else arrays[n][index] for n in node.inputs)
        rows.append(node.op.reference(*operands))
    return [list(column) for column in zip(*rows, strict=True)]


def _own(node: Node, columns: list[list[_Array]]) -> list[list[_Array]]:
    """Results as their op rounds them by itself."""
    rows = [own_rounding(node, results) for results in zip(*columns, strict=True)]
    return [list(column) for column in zip(*rows, strict=True)]


def _mean(columns: list[list[_Array]]) -> NDArray[np.float64]:
    """Mean of each channel, the last axis, of an only result."""
    (column,) = columns
    rows = [array.reshape(-1, array.shape[-1]).mean(axis=0, dtype=np.float64) for array in column]
    return np.mean(rows, axis=0)


def _correctable(graph: Graph, node: Node) -> bool:
    assert isinstance(node.op, FloatOp)
    roles = node.op.roles(3)
    if roles[1:] != (Role.WEIGHT, Role.BIAS) or len(node.inputs) not in (2, 3):
        return False
    constants = graph.arguments(node)[1:]
    return all(value.constant is not None and value.fixed is None for value in constants)


def _subtract(graph: Graph, node: Node, error: NDArray[np.float64]) -> None:
    old: _Array = np.zeros(error.size)
    if len(node.inputs) == 3:
        constant = graph.value(node.inputs[2]).constant
        assert constant is not None
        old = constant.array
    build = GraphBuilder(graph, node.name, node.origin)
    bias = build.constant((old - error).astype(np.float32), hint=f"{node.name}_bias")
    graph.replace(replace(node, inputs=(*node.inputs[:2], bias.name)))
