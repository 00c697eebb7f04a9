"""Which patches keep 8 bits, and how many bits the maps of the others have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import mobilenet_v2
from binpoint import CompileOptions, compile_model, load_target
from binpoint.errors import BadPassOption, MissingSamples
from binpoint.frontend.load import load
from binpoint.frontend.samples import RANDOM, read_samples
from binpoint.ir.graph import Graph
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import U8, FixedType
from binpoint.ops.conv import IntDepthwise
from binpoint.ops.patched import Patched
from binpoint.passes.base import Context
from binpoint.passes.manager import run
from binpoint.passes.spec import parse
from binpoint.pipelines import PASSES, choose
from binpoint.plan.mixed import MixedPatches
from binpoint.plan.patches import undivided
from binpoint.quantize.bit_search import Candidate, search
from binpoint.quantize.coarsen import Occurrences
from binpoint.quantize.patch_values import Outliers, with_outliers
from binpoint.target import microcontroller

HOST = microcontroller(load_target("host"))
MIXED = CompileOptions(optimize="ram", patches="mixed")
KIND = FixedType.per_tensor(U8, Dyadic(1, -4))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nets") / "small.onnx"
    path.write_bytes(mobilenet_v2.build(24, 0.25, blocks=2).SerializeToString())
    return path


@pytest.fixture(scope="module")
def context(model: Path) -> Context:
    return Context(HOST, MIXED, read_samples(RANDOM, load(model)))


@pytest.fixture(scope="module")
def uniform(model: Path, context: Context) -> Graph:
    """In patches of 8 bits."""
    return run(choose(None, HOST).without(MixedPatches.name), load(model), context)


def stages(graph: Graph) -> list[Patched]:
    return [n.op for n in graph.nodes() if isinstance(n.op, Patched)]


def bits(op: Patched) -> list[int]:
    body = op.bodies[-1]
    names = [name for node in body.nodes() for name in node.outputs]
    return [w for w in (body.value(n).elem.storage.width for n in names) if w <= 8]


def test_a_patch_with_values_far_from_the_others_has_outliers() -> None:
    rng = np.random.default_rng(0)
    maps = [rng.integers(90, 110, (1, 8, 8, 3)) for _ in range(4)]
    regions = [((i, i + 3), (j, j + 3)) for i in (0, 4) for j in (0, 4)]
    assert with_outliers(maps, regions, 0.96) == (False, False, False, False)
    for array in maps:
        array[0, 5:7, 1:3] = 250
    assert with_outliers(maps, regions, 0.96) == (False, False, True, False)


def test_outliers_are_counted_from_normal_values() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(0, 1000, (1, 100, 100, 10)).astype(np.int64)
    for phi in (0.5, 0.9, 0.99):
        assert Outliers.of([values], phi).share(values) == pytest.approx(1 - phi, rel=0.05)


def _candidates() -> list[Candidate]:
    rng = np.random.default_rng(2)
    wide = Occurrences.of(KIND, np.clip(np.rint(rng.exponential(12, 4000)), 0, 255).astype(int))
    few = Occurrences.of(KIND, rng.choice([0, 85, 170, 255], 4000))
    return [Candidate(("wide",), wide, 1.0), Candidate(("few", "same"), few, 1.0)]


def test_entropy_is_weighed_against_work() -> None:
    found = [search(_candidates(), lam, (4, 2)) for lam in (0.01, 0.55, 0.99)]
    assert [(f["wide"].bits, f["few"].bits) for f in found] == [(2, 2), (4, 2), (8, 2)]
    assert found[0]["same"] == found[0]["few"]


def test_the_largest_maps_have_fewer_bits_where_memory_is_short() -> None:
    layers = [[("wide", 1000), ("other", 100)]]
    for memory, wanted in ((1100, 8), (1000, 4), (400, 2), (10, 2)):
        assert search(_candidates(), 0.99, (4, 2), layers, memory)["wide"].bits == wanted


def test_less_weight_of_entropy_is_less_work(uniform: Graph, context: Context) -> None:
    means: list[float] = []
    for lam in (0.01, 0.1, 0.99):
        made = MixedPatches(0.5, lam, samples=2).run(uniform.copy(), context)
        assert any(any(op.body_of) for op in stages(made)) == (lam < 0.9)
        means.append(float(np.mean([b for op in stages(made) for b in bits(op)])))
    assert means == sorted(means)
    assert means[0] < means[2] == 8


def test_the_first_body_is_the_uniform_one(uniform: Graph, context: Context) -> None:
    made = MixedPatches(0.5, 0.01, samples=2).run(uniform.copy(), context)
    assert [op.bodies[0] for op in stages(made)] == [op.bodies[0] for op in stages(uniform)]
    kinds = [sorted(type(n.op).__name__ for n in undivided(g).nodes()) for g in (made, uniform)]
    assert kinds[0] == kinds[1]


def test_samples_are_needed_and_knobs_have_ranges(uniform: Graph) -> None:
    with pytest.raises(MissingSamples):
        MixedPatches().run(uniform.copy(), Context(HOST, MIXED, None))
    for wrong in (
        MixedPatches(phi=1.0),
        MixedPatches(lambda_=0.0),
        MixedPatches(samples=0),
        MixedPatches(bits=(16,)),
    ):
        with pytest.raises(BadPassOption):
            wrong.run(uniform.copy(), Context(HOST, MIXED, None))


def test_the_knobs_have_the_paper_s_names() -> None:
    pipeline = parse("mixed-patches{phi=0.9 lambda=0.2 bits=8,4,2}", PASSES)
    assert pipeline.passes == (MixedPatches(phi=0.9, lambda_=0.2, bits=(8, 4, 2)),)
    assert str(pipeline) == "mixed-patches{phi=0.9 lambda=0.2 bits=8,4,2}"


def test_what_only_depthwise_convolutions_read_has_a_scale_for_each_channel(
    uniform: Graph, context: Context
) -> None:
    made = MixedPatches(0.5, 0.01, samples=2).run(uniform.copy(), context)
    bodies = [op.bodies[1] for op in stages(made) if len(op.bodies) > 1]
    apart = [(b, v) for b in bodies for v in b.values() if v.elem.storage.width < 8 and v.elem.axis]
    assert apart
    for body, value in apart:
        assert {type(n.op) for n in body.consumers(value.name)} == {IntDepthwise}


@pytest.mark.slow
@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
def test_mixed_patches_are_verified_and_reported(model: Path) -> None:
    pipeline = choose(None, HOST).replace(MixedPatches.name, MixedPatches(0.5, 0.05))
    report = compile_model(
        model,
        load_target("cortex-m4"),
        MIXED,
        samples=RANDOM,
        verify="all",
        verify_samples=1,
        pipeline=pipeline,
    ).report
    assert report.verdict == "equal"
    found = report.patches
    assert found is not None
    assert found.bitops_mixed < found.bitops_uniform8
    assert found.net_bitops_uniform8 - found.net_bitops_mixed == (
        found.bitops_uniform8 - found.bitops_mixed
    )
    for stage in found.stages:
        assert sum(c.share for c in stage.classes) == pytest.approx(1)
        assert all(len(c.bits) == len(stage.maps) for c in stage.classes)
    assert any(min(c.bits) < 8 for stage in found.stages for c in stage.classes)
