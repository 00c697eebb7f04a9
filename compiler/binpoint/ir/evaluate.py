"""Run a graph by its ops' reference methods, the interpreter; or write it by their operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.errors import InvariantBroken
from binpoint.ir.graph import Graph, Value
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import IntegerOp
from binpoint.numeric.interval import Interval

Arrays = dict[str, NDArray[Any]]


def evaluate(graph: Graph, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
    """Return every value of a graph by name.

    Integer graphs: arrays of stored integers as int64; every result is checked against the value's
    proven bounds. Float graphs: float32.
    """
    arrays: Arrays = {}
    for value in graph.values():
        if value.constant is not None:
            arrays[value.name] = constant_array(value)
    for name in graph.inputs:
        arrays[name] = np.asarray(inputs[name])
    for node in graph.nodes():
        operands = [arrays[name] for name in node.inputs]
        if isinstance(node.op, IntegerOp):
            results = node.op.reference(*(a.astype(np.int64, copy=False) for a in operands))
            for value, result in zip(graph.results(node), results, strict=True):
                _check_bounds(value, result)
        else:
            results = node.op.reference(*operands)
        arrays.update(zip(node.outputs, results, strict=True))
    return arrays


def constant_array(value: Value) -> NDArray[Any]:
    """The array of a constant: stored integers in an integer graph.

    Real numbers in a float graph.
    """
    assert value.constant is not None
    if value.fixed is None:
        return value.constant.array
    return value.fixed.dequantize(value.constant.array.astype(np.int64)).astype(np.float32)


def _check_bounds(value: Value, array: NDArray[Any]) -> None:
    bounds = value.interval
    if array.size and not (bounds.lo <= array.min() and array.max() <= bounds.hi):
        raise InvariantBroken(
            f"value `{value.name}` leaves its proven range",
            have=f"{array.min()}..{array.max()}",
            want=f"{bounds.lo}..{bounds.hi}",
        )


def written(w: OnnxWriter, graph: Graph, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every value of an integer graph by name, in the operators of the check graph."""
    tensors = dict(inputs)
    for value in graph.values():
        if value.constant is not None:
            tensors[value.name] = w.const(value.constant.array)
    for node in graph.nodes():
        assert isinstance(node.op, IntegerOp)
        results = node.op.to_onnx(w, *(tensors[name] for name in node.inputs))
        for value, tensor in zip(graph.results(node), results, strict=True):
            tensors[value.name] = replace(tensor, range=_narrower(tensor, value))
    return tensors


def _narrower(tensor: Tensor, value: Value) -> Interval:
    """What both the writer and the op prove of a result; ops may know more than operators tell."""
    lo, hi = max(tensor.range.lo, value.interval.lo), min(tensor.range.hi, value.interval.hi)
    return Interval(lo, hi)
