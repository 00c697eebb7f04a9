"""Foldings meet what is asked where they can, say how far they get where not, and always divide."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from binpoint import pipelines
from binpoint.errors import BadOption, DoesNotFit
from binpoint.frontend.load import load
from binpoint.frontend.samples import read_samples
from binpoint.ir.graph import Graph
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.passes.manager import run
from binpoint.plan import estimate, fifo
from binpoint.plan.dataflow import design
from binpoint.plan.design import Design, Folding
from binpoint.plan.folding import FILL, choose_folding
from binpoint.plan.units import Dense, Lanes, Pair
from binpoint.target import FpgaTarget, load_target
from tests.models import save_quantized, save_samples
from tests.nets_qonnx import Net, lowered

OPTIONS = CompileOptions()
ASKED = {"kws_dscnn_qdq": 1000.0, "ic_resnet8_qdq": 300.0, "pendigits_mlp_qdq": 100_000.0}


def part(name: str = "zynq-7020") -> FpgaTarget:
    """An FPGA by name."""
    target = load_target(name)
    assert isinstance(target, FpgaTarget)
    return target


def integers(model: Path, samples: Path) -> Graph:
    """The integer graph of a model."""
    graph = load(model)
    read = read_samples(samples, graph, 0)
    assert read is not None
    return run(pipelines.mcu(), graph, Context(load_target("host"), OPTIONS, read.part(0, 8)))


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """Two dense layers: 8 to 12 to 4."""
    folder = tmp_path_factory.mktemp("net")
    return integers(save_quantized(folder / "net.onnx"), save_samples(folder / "net.npz"))


def names(graph: Graph) -> list[str]:
    """Layers of sums of products."""
    found = design(graph, part(), OPTIONS).layers
    return [layer.name for layer in found if isinstance(layer.unit, Dense)]


def test_a_layer_that_no_port_feeds_is_folded_alone(tmp_path: Path) -> None:
    model = Net((1, 3, 8))
    weights = model.quant(model.parameter(np.ones((3, 4, 3), np.float32)), 1, bits=4)
    spread = model.add("ConvTranspose", model.quant("x", 1, bits=4), weights, strides=[2])
    graph = lowered(model.model(model.quant(spread, 8, bits=4)), tmp_path)
    choice = choose_folding(graph, part(), OPTIONS)
    assert choice.notice is None
    assert choice.fps > 0


@pytest.mark.parametrize("fps", [1.0, 9e5, 2e6, 4e6])
def test_an_asked_throughput_is_met(net: Graph, fps: float) -> None:
    choice = choose_folding(net, part(), OPTIONS, fps=fps)
    assert choice.notice is None
    assert choice.fps >= fps
    assert choice.estimate.total.dsp <= part().fabric.dsp


def test_the_slowest_pace_takes_the_least(net: Graph) -> None:
    slow = choose_folding(net, part(), OPTIONS, fps=1.0)
    fast = choose_folding(net, part(), OPTIONS, fps=4e6)
    assert {f.simd * f.pe for f in slow.folding.values()} == {1}
    assert slow.estimate.total.dsp < fast.estimate.total.dsp
    assert slow.estimate.total.lut < fast.estimate.total.lut


def test_more_than_any_folding_gives_is_told(net: Graph) -> None:
    choice = choose_folding(net, part(), OPTIONS, fps=5e7)
    assert choice.notice is not None
    assert choice.notice.startswith("asked for 50000000 inferences/s, found ")
    assert "DSP" in choice.notice
    assert choice.fps < 5e7


def test_no_asked_pace_is_quicker_than_the_fastest(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    layers = Net((1, 100))
    last = layers.quant("x", 0.05, 8)
    for depth, channels in ((100, 48), (48, 20), (20, 10)):
        weights = layers.quant(rng.normal(0, 1, (channels, depth)), 0.5, 2)
        last = layers.quant(layers.add("Gemm", last, weights, transB=1), 1.0, 2)
    graph = lowered(layers.model(last), tmp_path)
    fastest = choose_folding(graph, part(), OPTIONS)
    hertz = fastest.clock_hz
    for cycles in (20, 30, 50, 80):
        asked = choose_folding(graph, part(), OPTIONS, fps=hertz / cycles)
        assert asked.sizing.interval >= fastest.sizing.interval


def test_a_smaller_part_is_slower(net: Graph) -> None:
    small = with_slices(part(), 8)
    choice = choose_folding(net, small, OPTIONS, fps=5e7)
    assert choice.estimate.total.dsp <= 8
    assert choice.fps < choose_folding(net, part(), OPTIONS, fps=5e7).fps
    assert choice.notice is not None
    assert "no faster one fits" in choice.notice


def with_slices(target: FpgaTarget, count: int) -> FpgaTarget:
    """The same part with another number of multiply-add slices."""
    return structs.replace(target, fabric=structs.replace(target.fabric, dsp=count))


def test_a_part_too_small_is_an_error(net: Graph) -> None:
    with pytest.raises(DoesNotFit, match=r"does not fit the part") as caught:
        choose_folding(net, with_slices(part(), 1), OPTIONS)
    assert caught.value.have is not None
    assert "DSP" in caught.value.have


def test_with_nothing_asked_the_part_is_used(net: Graph) -> None:
    choice = choose_folding(net, part(), OPTIONS)
    assert choice.notice is None
    assert choice.fps > 5e6


def test_a_latency_is_met(net: Graph) -> None:
    relaxed = choose_folding(net, part(), OPTIONS, fps=1.0)
    asked = relaxed.latency / 2
    choice = choose_folding(net, part(), OPTIONS, latency=asked)
    assert choice.notice is None
    assert choice.latency <= asked
    impossible = choose_folding(net, part(), OPTIONS, latency=1e-8)
    assert impossible.notice is not None


def test_a_folding_of_the_users_own_stays(net: Graph) -> None:
    first, second = names(net)
    given = {first: Folding(3, 2)}
    choice = choose_folding(net, part(), OPTIONS, fps=2e6, given=given)
    assert choice.folding[first] == Folding(3, 2)
    assert choice.folding[second].pe * choice.folding[second].simd > 1


def test_a_folding_that_does_not_divide_is_an_error(net: Graph) -> None:
    with pytest.raises(BadOption, match="does not divide") as caught:
        choose_folding(net, part(), OPTIONS, given={names(net)[0]: Folding(5, 1)})
    assert caught.value.have == "5"
    assert caught.value.want == "1, 2, 3, 4, 6, 12"


def test_a_folding_of_no_layer_is_an_error(net: Graph) -> None:
    with pytest.raises(BadOption, match="names the layer"):
        choose_folding(net, part(), OPTIONS, given={"nowhere": Folding(1, 1)})


@pytest.mark.parametrize("fps", [0.0, -1.0, math.nan, math.inf])
def test_a_pace_that_is_none_is_an_error(net: Graph, fps: float) -> None:
    with pytest.raises(BadOption, match="not positive"):
        choose_folding(net, part(), OPTIONS, fps=fps)


def test_two_goals_are_an_error(net: Graph) -> None:
    with pytest.raises(BadOption, match="both"):
        choose_folding(net, part(), OPTIONS, fps=1.0, latency=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ASKED))
def test_real_networks_meet_what_is_asked(shared_models: Path, name: str) -> None:
    graph = integers(shared_models / f"{name}.onnx", shared_models / f"{name}.npz")
    target = part()
    choice = choose_folding(graph, target, OPTIONS, fps=ASKED[name])
    assert choice.notice is None
    assert choice.fps >= ASKED[name]
    total, have = choice.estimate.total, target.fabric
    assert total.dsp <= have.dsp
    assert total.bram18 <= have.bram18
    assert total.lut <= have.lut * FILL
    for network in (fifo.processes(choice.design), fifo.processes(choice.design, estimate.latency)):
        depths = {s.name: s.depth for s in choice.design.streams.values()}
        assert fifo.simulate(network, depths) == ()


@pytest.mark.slow
def test_a_real_residual_net_deadlocks_at_half_the_depth(shared_models: Path) -> None:
    name = "ic_resnet8_qdq"
    graph = integers(shared_models / f"{name}.onnx", shared_models / f"{name}.npz")
    made = choose_folding(graph, part(), OPTIONS, fps=ASKED[name]).design
    network = fifo.processes(made)
    depths = {s.name: s.depth for s in made.streams.values()}
    forks = [layer for layer in made.layers if layer.unit.stem == "fork"]
    short = [s for f in forks for s in f.writes if reaches_sum(made, s)]
    assert short
    for stream in short:
        assert fifo.simulate(network, {**depths, stream: depths[stream] // 2})


def reaches_sum(made: Design, stream: str) -> bool:
    """Whether a stream goes straight to a sum, behind changes of lanes at most."""
    reader = made.consumer(stream)
    while reader is not None and isinstance(reader.unit, Lanes):
        reader = made.consumer(reader.writes[0])
    return reader is not None and isinstance(reader.unit, Pair)
