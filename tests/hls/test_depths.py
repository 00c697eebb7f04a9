"""The depths found run in the emitted C++ with streams that block, and half of one does not."""

from __future__ import annotations

import pytest

from binpoint.emit.fpga_hls import render
from binpoint.options import CompileOptions
from binpoint.plan import fifo, units
from binpoint.plan.design import Design
from binpoint.plan.folding import choose_folding
from binpoint.sim.compare import first_difference
from binpoint.sim.host_hls import run_bounded
from tests.hls.designs import Built, built, fpga, lowered, residual_net

OPTIONS = CompileOptions()
pytestmark = pytest.mark.needs("g++")


@pytest.fixture(scope="module")
def residual() -> Built:
    made = built(lowered(residual_net(), OPTIONS), OPTIONS)
    choice = choose_folding(made.graph, fpga(), OPTIONS, fps=3000)
    assert choice.notice is None
    plan = choice.design
    return Built(made.graph, plan, render(plan, fpga(), made.values), made.values)


def short_branch(plan: Design) -> str:
    """The stream from a fork straight to a sum."""
    forks = [layer for layer in plan.layers if isinstance(layer.unit, units.Fork)]
    for stream in (s for fork in forks for s in fork.writes):
        reader = plan.consumer(stream)
        while reader is not None and isinstance(reader.unit, units.Lanes):
            reader = plan.consumer(reader.writes[0])
        if reader is not None and isinstance(reader.unit, units.Pair):
            return stream
    raise AssertionError("no short branch")


def test_the_emitted_design_runs_at_the_depths_found(residual: Built) -> None:
    found = run_bounded(residual.design, residual.project, residual.values)
    assert not isinstance(found, str), found
    assert first_difference(residual.graph, residual.values, found) is None


def test_the_emitted_design_deadlocks_at_half_of_the_critical_depth(residual: Built) -> None:
    plan = residual.design
    stream = short_branch(plan)
    half = plan.with_depths({stream: plan.streams[stream].depth // 2})
    depths = {s.name: s.depth for s in half.streams.values()}
    assert fifo.simulate(fifo.processes(half), depths)
    told = run_bounded(half, render(half, fpga()), residual.values)
    assert isinstance(told, str)
    assert f"writing to full {stream}" in told
