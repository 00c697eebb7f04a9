"""Recurrent layers as hardware: every kind, however folded, returns the interpreter's integers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import compose, helper

from binpoint.emit.fpga_hls import render
from binpoint.ir.graph import Graph
from binpoint.options import CompileOptions
from binpoint.plan import estimate, fifo
from binpoint.plan.dataflow import design
from binpoint.plan.design import Folding
from binpoint.plan.folding import choose_folding
from binpoint.plan.units import Recurrent
from binpoint.sim.compare import first_difference
from binpoint.sim.host_hls import run_ap, run_bounded
from tests.hls.designs import Built, built, fpga, lowered, lowered_file
from tests.ops.test_recurrent import ALL, Layer

OPTIONS = CompileOptions(name="net")
LAYERS = (
    Layer("GRU", hidden=6, attributes=(("linear_before_reset", 1),)),
    Layer("GRU", hidden=6, steps=4, batch=2, starts="input"),
    Layer("LSTM", hidden=6, steps=5, outputs=ALL, starts="input"),
    Layer("LSTM", hidden=6, steps=3, batch=2, outputs=("Y_c",), starts="constant"),
    Layer("LSTM", hidden=6, outputs=("Y_h",), direction="reverse"),
    Layer("RNN", hidden=6, outputs=("Y",), direction="bidirectional"),
)
WAYS = ((1, 1), (2, 3), (3, 2), (1, 6), (6, 1), (6, 6), (2, 2))


def _side_by_side(layers: Sequence[Layer]) -> Graph:
    """The integer graph of some layers, each with inputs and outputs of its own."""
    rng = np.random.default_rng(7)
    parts = [compose.add_prefix(layer.model(rng), f"m{i}_") for i, layer in enumerate(layers)]
    graph = helper.make_graph(
        [node for part in parts for node in part.graph.node],
        "layers",
        [value for part in parts for value in part.graph.input],
        [value for part in parts for value in part.graph.output],
        [array for part in parts for array in part.graph.initializer],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    return lowered(onnx.shape_inference.infer_shapes(model), OPTIONS)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return _side_by_side(LAYERS)


def _folded(graph: Graph, turn: int) -> Built:
    """Every layer folded otherwise than its neighbours; other layers for another `turn`."""
    names = [la.name for la in design(graph, fpga(), OPTIONS).layers if la.unit.stem == "recurrent"]
    ways = {name: Folding(*WAYS[(i + turn) % len(WAYS)]) for i, name in enumerate(names)}
    made = built(graph, OPTIONS, ways, turn)
    found = {la.name: la.unit for la in made.design.layers if isinstance(la.unit, Recurrent)}
    assert {name: Folding(unit.pe, unit.simd) for name, unit in found.items()} == ways
    return made


def test_a_gru_and_an_lstm_are_equal_at_every_value() -> None:
    assert _folded(_side_by_side((LAYERS[0], LAYERS[2])), 1).difference() is None


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(len(WAYS)))
def test_every_kind_is_equal_at_every_value(graph: Graph, turn: int) -> None:
    made = _folded(graph, turn)
    kinds = {la.unit.kind for la in made.design.layers if isinstance(la.unit, Recurrent)}
    assert kinds == {"rnn", "gru", "gru_before", "lstm"}
    assert made.difference() is None


@pytest.mark.slow
def test_integers_of_the_exact_widths_agree(graph: Graph) -> None:
    made = _folded(graph, 1)
    found = run_ap(made.design, made.project, made.values, deep=True)
    assert first_difference(graph, made.values, found) is None


@pytest.mark.slow
def test_bounded_streams_give_the_same(graph: Graph) -> None:
    made = _folded(graph, 2)
    plan = made.design.with_depths(fifo.sized(made.design, estimate.latency).depths)
    found = run_bounded(plan, render(plan, fpga(), made.values), made.values)
    assert not isinstance(found, str), found
    assert first_difference(graph, made.values, found) is None


def test_units_read_and_write_what_their_streams_carry(graph: Graph) -> None:
    plan = _folded(graph, 3).design
    for layer in plan.layers:
        unit = layer.unit
        if not isinstance(unit, Recurrent):
            continue
        ends = (
            *zip(layer.reads, unit.reads(), strict=True),
            *zip(layer.writes, unit.writes(), strict=True),
        )
        for name, times in ends:
            assert len(times) == plan.streams[name].words
            assert (np.diff(times) > 0).all()
            assert 0 <= times[0] <= times[-1] < unit.iterations
        # The sums of a row are made after its operand has come and before its state leaves.
        work = unit.form.gates * unit.folds * unit.steps
        assert unit.row_cycles > work + unit.folds
        assert unit.iterations > unit.rows * (work + unit.folds)


@pytest.mark.slow
def test_a_real_network_is_equal_and_folded_to_a_pace(shared_models: Path) -> None:
    path = shared_models / "har_gru.onnx"
    graph = lowered_file(path, path.with_suffix(".npz"), OPTIONS)
    slow, fast = (choose_folding(graph, fpga(), OPTIONS, fps=fps) for fps in (500, 5000))
    assert slow.notice is None
    assert fast.notice is None
    assert fast.sizing.interval < slow.sizing.interval
    assert fast.estimate.total.dsp > slow.estimate.total.dsp
    made = built(graph, OPTIONS, fast.folding)
    assert made.difference() is None
