"""Which patches keep 8 bits, and how many bits the maps of the others have."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from benchmarks import mobilenet_v2
from binpoint import CompileOptions, compile_model, load_target
from binpoint.errors import BadPassOption, MissingSamples
from binpoint.frontend.load import load
from binpoint.frontend.samples import RANDOM, read_samples
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import U8, FixedType
from binpoint.ops.conv import IntDepthwise
from binpoint.ops.patched import Patched
from binpoint.passes.base import Context
from binpoint.passes.convert import stored_inputs
from binpoint.passes.manager import run
from binpoint.passes.spec import parse
from binpoint.pipelines import PASSES, choose
from binpoint.plan.mixed import MixedPatches, Seen
from binpoint.plan.patches import undivided
from binpoint.quantize.bit_search import Candidate, search
from binpoint.quantize.coarsen import Occurrences
from binpoint.quantize.narrow import maps_of, narrowed
from binpoint.quantize.patch_values import Outliers, with_outliers
from binpoint.quantize.stage_samples import error
from binpoint.sim.departures import departures
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
    codes = np.clip(np.rint(rng.exponential(12, 4000)), 0, 255).astype(int)
    found: list[Candidate] = []
    for names, values in ((("wide",), codes), (("few", "same"), 85 * rng.integers(0, 4, 4000))):
        seen = Occurrences.of(KIND, values)
        kinds = [seen.coarser(bits) for bits in (4, 2)]
        found.append(Candidate(names, 1.0, tuple((kind, seen.lost(kind)) for kind in kinds)))
    return found


def test_entropy_is_weighed_against_work() -> None:
    found = [search(_candidates(), lam) for lam in (0.01, 0.55, 0.99)]
    widths = [{name: kind.storage.width for name, kind in types.items()} for types in found]
    few = {"few": 2, "same": 2}
    assert widths == [{"wide": 2, **few}, {"wide": 4, **few}, few]
    assert found[0]["same"] == found[0]["few"]


@pytest.mark.parametrize("omega", ["error", "entropy"])
def test_less_weight_of_the_loss_is_less_work(
    uniform: Graph, context: Context, omega: Literal["error", "entropy"]
) -> None:
    means: list[float] = []
    for lam in (0.01, 0.1, 0.99):
        made = MixedPatches(0.5, lam, (8, 4, 2), omega, 2).run(uniform.copy(), context)
        means.append(float(np.mean([b for op in stages(made) for b in bits(op)])))
    assert means == sorted(means)
    assert means[0] < means[2] == 8


def test_the_error_of_a_map_is_that_at_the_end_of_its_stage(
    uniform: Graph, context: Context
) -> None:
    """It falls with more bits, and is near what the whole stage with this map alone is off."""
    op = max(stages(uniform), key=lambda op: len(op.bodies[0].nodes()))
    body = op.bodies[0]
    seen = Seen(op)
    whole = undivided(uniform)
    assert context.samples is not None
    for inputs in stored_inputs(whole, context.samples.spread(2)):
        seen.add(evaluate(whole, inputs))
    masks = seen.masks([p.result for p in op.patches])
    (end,), tried = body.outputs, 0
    for maps in maps_of(body):
        if not maps.free or maps.names[0] in body.inputs:
            continue
        kind = body.value(maps.names[0]).elem
        codes = np.concatenate([a.reshape(-1) for n in maps.names for a in seen.maps[n]])
        found: list[float] = []
        for width in (6, 4, 2):
            types = dict.fromkeys(maps.names, Occurrences.of(kind, codes).coarser(width))
            found.append(error(body, types, seen.maps, masks))
            made = narrowed(body, types)
            starts = seen.maps[body.inputs[0]]
            results = [evaluate(made, {body.inputs[0]: start})[end] for start in starts]
            exact = np.stack(seen.maps[end]).astype(np.float64)
            off = np.linalg.norm(np.stack(results) - exact) / np.linalg.norm(exact - exact.mean())
            assert found[-1] == pytest.approx(off, rel=0.1, abs=0.02)
        assert found == sorted(found)
        tried += 1
    assert tried


def test_the_first_body_is_the_uniform_one(uniform: Graph, context: Context) -> None:
    made = MixedPatches(0.5, 0.01, samples=2).run(uniform.copy(), context)
    assert [op.bodies[0] for op in stages(made)] == [op.bodies[0] for op in stages(uniform)]
    kinds = [sorted(type(n.op).__name__ for n in undivided(g).nodes()) for g in (made, uniform)]
    assert kinds[0] == kinds[1]


def test_results_are_no_longer_those_of_the_file(
    uniform: Graph, context: Context, model: Path
) -> None:
    made = MixedPatches(0.5, 0.01, samples=2).run(uniform.copy(), context)
    mixed = {n.outputs[0] for n in made.nodes() if isinstance(n.op, Patched) and n.op.body_of}
    assert mixed
    assert {d.value for d in departures(made, model) if "fewer bits" in d.reason} == mixed
    assert not [d for d in departures(uniform, model) if "fewer bits" in d.reason]


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
    pipeline = choose(None, HOST).replace(MixedPatches.name, MixedPatches(0.9, 0.01))
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
