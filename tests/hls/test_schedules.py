"""When units read and write: consistent with the words of their streams, and causal."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from binpoint.errors import LoweringError, ModelError, QuantizationError
from binpoint.options import CompileOptions
from binpoint.plan.dataflow import design
from binpoint.plan.design import Design
from tests.end_to_end.trials import random_model
from tests.hls.designs import fpga, lowered, random_folding, residual_net

_STEP = 1000
OPTIONS = CompileOptions(name="net")


def _check(plan: Design) -> None:
    for layer in plan.layers:
        unit = layer.unit
        ends = (
            *zip(layer.reads, unit.reads(), strict=True),
            *zip(layer.writes, unit.writes(), strict=True),
        )
        for name, times in ends:
            assert len(times) == plan.streams[name].words, f"{layer.name}, {name}"
            assert (np.diff(times) > 0).all(), f"{layer.name}, {name}"
            assert times[0] >= 0, f"{layer.name}, {name}"
            assert times[-1] < unit.iterations, f"{layer.name}, {name}"
        assert max(unit.iterations, 1) >= max(len(times) for _, times in ends)


def test_every_layer_of_a_residual_net() -> None:
    graph = lowered(residual_net(), OPTIONS)
    plan = design(graph, fpga(), OPTIONS)
    _check(plan)
    for seed in range(5):
        _check(design(graph, fpga(), OPTIONS, random_folding(plan, Random(seed))))


@pytest.mark.parametrize("seed", range(30))
def test_every_layer_of_a_random_model(seed: int) -> None:
    for tried in range(seed, seed + 8 * _STEP, _STEP):
        try:
            plan = design(lowered(random_model(Random(tried)), OPTIONS, tried), fpga(), OPTIONS)
        except (ModelError, QuantizationError, LoweringError):
            continue
        _check(plan)
        return
    pytest.fail("eight models in a row were refused")


def test_streams_join_exactly_one_writer_and_one_reader() -> None:
    plan = design(lowered(residual_net(), OPTIONS), fpga(), OPTIONS)
    written = [s for layer in plan.layers for s in layer.writes] + [p.stream for p in plan.inputs]
    read = [s for layer in plan.layers for s in layer.reads] + [p.stream for p in plan.outputs]
    assert sorted(written) == sorted(plan.streams)
    assert sorted(read) == sorted(plan.streams)
    seen: set[str] = {p.stream for p in plan.inputs}
    for layer in plan.layers:
        assert seen.issuperset(layer.reads)
        seen.update(layer.writes)
