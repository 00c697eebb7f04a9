"""Designs without multipliers: the same integers by shifts and additions, in every form."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Literal

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from binpoint.emit.fpga_hls import render
from binpoint.ir.constant import Constant
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.numeric.digits import terms
from binpoint.options import CompileOptions
from binpoint.plan import units
from binpoint.plan.accelerate import accelerate
from binpoint.plan.dataflow import design
from binpoint.plan.design import Folding, Style
from binpoint.plan.shifts import fields, graph_of, ranges, shift_bits
from binpoint.sim.compare import first_difference
from binpoint.sim.host_hls import run_ap, run_native
from tests.hls.designs import built, codes, fpga, lowered, residual_net

SIZES = (6, 10, 8, 4)


def mlp() -> onnx.ModelProto:
    """Three layers with biases."""
    random = np.random.default_rng(5)
    nodes: list[onnx.NodeProto] = []
    parameters: list[onnx.TensorProto] = []
    last = "x"
    for index, (inputs, outputs) in enumerate(itertools.pairwise(SIZES)):
        arrays = random.normal(0, 0.5, (inputs, outputs)), random.normal(0, 0.3, outputs)
        names = [f"w{index}", f"b{index}"]
        parameters += [
            numpy_helper.from_array(a.astype(np.float32), n)
            for n, a in zip(names, arrays, strict=True)
        ]
        end = "y" if outputs == SIZES[-1] else f"h{index}"
        nodes.append(helper.make_node("Gemm", [last, *names], [end], f"layer{index}"))
        if end != "y":
            nodes.append(helper.make_node("Relu", [end], [f"r{index}"], f"relu{index}"))
        last = f"r{index}"
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, SIZES[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, SIZES[-1]])],
        parameters,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def options(terms: int | None = None, bits: int = 8) -> CompileOptions:
    """Without multipliers."""
    return CompileOptions(name="net", multipliers="none", weight_terms=terms, weight_bits=bits)


def sums(
    graph: Graph, chosen: CompileOptions, folding: Mapping[str, Folding] | None = None
) -> list[units.Dense | units.Sums]:
    """The units with sums of products."""
    layers = design(graph, fpga(), chosen, folding).layers
    return [u.unit for u in layers if isinstance(u.unit, units.Dense | units.Sums)]


@pytest.mark.parametrize(
    "count",
    [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(None, marks=pytest.mark.slow)],
)
def test_every_form_gives_the_interpreters_values(count: int | None) -> None:
    chosen = options(count, 8 if count is None else 5)
    graph = lowered(mlp(), chosen)
    (first, second, third) = (n.name for n in design(graph, fpga(), chosen).layers if n.nodes)
    folding = {first: Folding(10, 6), second: Folding(4, 5), third: Folding(1, 8)}
    found = [type(u) for u in sums(graph, chosen, folding)]
    assert found == [units.Sums, units.Dense, units.Dense]
    assert built(graph, chosen, folding).difference() is None


@pytest.mark.parametrize(("terms", "bits", "arithmetic"), [(1, 4, "shifts"), (None, 5, "rows")])
def test_a_weight_of_one_power_is_a_field_and_others_are_bits(
    terms: int | None, bits: int, arithmetic: str
) -> None:
    chosen = options(terms, bits)
    found = sums(lowered(mlp(), chosen), chosen)
    assert {u.arithmetic for u in found if isinstance(u, units.Dense)} == {arithmetic}


@pytest.mark.parametrize("integers", ["native", pytest.param("ap", marks=pytest.mark.slow)])
def test_a_parallel_top_is_a_graph_of_adders(integers: str) -> None:
    chosen = options()
    graph = lowered(mlp(), chosen)
    plan = design(graph, fpga(), chosen, style=Style.PARALLEL)
    assert all(isinstance(layer.unit, units.Sums) for layer in plan.layers)
    values = [evaluate(graph, sample) for sample in codes(graph, 3, 12)]
    project = render(plan, fpga(), values[:2])
    assert b"bp_mul<" not in project.files["src/layers.hpp"]
    simulate = run_native if integers == "native" else run_ap
    assert first_difference(graph, values, simulate(plan, project, values)) is None


def test_convolutions_sums_and_pools_need_no_multiplier() -> None:
    chosen = options()
    graph = lowered(residual_net(), chosen)
    made = built(graph, chosen)
    assert b"bp_mul<" not in made.project.files["src/layers.hpp"]
    assert made.difference() is None


@pytest.mark.parametrize("top", ["stream", "parallel"])
def test_the_estimate_has_no_slice_and_more_tables(top: Literal["stream", "parallel"]) -> None:
    graph = lowered(mlp(), options())
    bare = accelerate(graph, fpga(), CompileOptions(top=top, multipliers="none")).estimate.total
    usual = accelerate(graph, fpga(), CompileOptions(top=top)).estimate.total
    assert bare.dsp == 0 < usual.dsp
    assert bare.lut > usual.lut


def test_numbers_of_a_graph_stay_in_their_ranges() -> None:
    graph = lowered(mlp(), options())
    plan = design(graph, fpga(), options(), style=Style.PARALLEL)
    unit = plan.layers[0].unit
    assert isinstance(unit, units.Sums)
    numbers = graph_of(unit.weights).numbers()
    x = np.random.default_rng(0).choice([unit.x.min, unit.x.max], (200, unit.simd))
    for interval, values in zip(ranges(unit), numbers @ x.T, strict=True):
        assert interval.lo <= values.min()
        assert values.max() <= interval.hi


def test_fields_are_weights() -> None:
    weights = np.arange(-127, 128)
    bits = shift_bits(Constant(weights))
    assert len(bits) == terms(weights).max() == 4
    found = np.zeros_like(weights)
    rest = fields(weights, bits)
    for width in bits:
        used, minus, shift = rest & 1, rest >> 1 & 1, rest >> 2 & ((1 << width) - 1)
        found += used * (1 - 2 * minus) * (1 << shift)
        rest = rest >> (width + 2)
    assert (found == weights).all()
    assert not rest.any()
