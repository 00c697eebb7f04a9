"""Fixtures for passes on float graphs: run one, check what it promises."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Graph, Value
from binpoint.ir.op import FloatOp
from binpoint.ir.text import dump
from binpoint.ir.verify import verify
from binpoint.options import CompileOptions
from binpoint.passes.base import Context, Pass
from binpoint.target import load_target

Apply = Callable[..., Graph]


@pytest.fixture
def context() -> Context:
    return Context(load_target("host"), CompileOptions())


@pytest.fixture
def apply(context: Context) -> Apply:
    """Run passes in order: the graph stays valid, values are kept, once more changes nothing."""

    def run(graph: Graph, *passes: Pass) -> Graph:
        done = graph
        for item in passes:
            done = item.run(done.copy(), context)
            verify(done, "float")
        for item in passes:
            assert dump(item.run(done.copy(), context)) == dump(done), item.name
        same_values(graph, done)
        return done

    return run


def rounded(graph: Graph, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every value in float64, rounded to its integer type where it has one."""
    arrays: dict[str, np.ndarray] = {}

    def put(value: Value, array: np.ndarray) -> None:
        if value.fixed is not None and value.constant is None:
            array = value.fixed.dequantize(value.fixed.quantize(array))
        arrays[value.name] = array

    for value in graph.values():
        if value.constant is not None:
            arrays[value.name] = constant_array(value).astype(np.float64)
    for name in graph.inputs:
        put(graph.value(name), inputs[name])
    for node in graph.nodes():
        assert isinstance(node.op, FloatOp)
        results = node.op.reference(*(arrays[name] for name in node.inputs))
        for value, array in zip(graph.results(node), results, strict=True):
            put(value, array)
    return arrays


def same_values(first: Graph, second: Graph) -> None:
    """Assert that two float graphs give the same outputs, with the types they state.

    Computed in float64, so that another order of summation does not move a value over a tie.
    """
    rng = np.random.default_rng(7)
    assert first.inputs == second.inputs
    assert first.output_names == second.output_names
    inputs = {name: rng.normal(size=first.value(name).shape) for name in first.inputs}
    a, b = rounded(first, inputs), rounded(second, inputs)
    for old, new in zip(first.outputs, second.outputs, strict=True):
        assert a[old].shape == b[new].shape
        assert first.value(old).fixed in (None, second.value(new).fixed)
        np.testing.assert_allclose(b[new], a[old], rtol=1e-5, atol=1e-6)
