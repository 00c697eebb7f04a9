"""Which patches keep 8 bits, and how many bits the maps of the others have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from msgspec.structs import replace

from benchmarks import mobilenet_v2
from binpoint import CompileOptions, compile_model, load_target
from binpoint.errors import BadPassOption, MissingSamples
from binpoint.frontend.load import load
from binpoint.frontend.samples import RANDOM, read_samples
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph, Value
from binpoint.ir.op import IntArray
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import U8, FixedType
from binpoint.ops.conv import IntDepthwise
from binpoint.ops.halo import slices
from binpoint.ops.outliers import OutlierTest
from binpoint.ops.packed import map_bytes
from binpoint.ops.patched import Patched
from binpoint.passes.base import Context
from binpoint.passes.convert import stored_inputs
from binpoint.passes.manager import run
from binpoint.passes.spec import parse
from binpoint.pipelines import PASSES, choose
from binpoint.plan.arrange import arrange
from binpoint.plan.mixed import MixedPatches, Seen, Sought
from binpoint.plan.mixed_memory import Option, lowered
from binpoint.plan.pack_maps import PackMaps
from binpoint.plan.patches import undivided
from binpoint.quantize.bit_search import Layer, path, search
from binpoint.quantize.coarsen import Occurrences
from binpoint.quantize.narrow import linear_of, maps_of, narrowed
from binpoint.quantize.patch_values import Outliers, with_outliers
from binpoint.quantize.stage_samples import error
from binpoint.sim.departures import departures
from binpoint.target import Memory, microcontroller

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
    names = [name for node in body.nodes() for name in (*node.outputs, *node.inputs[1:2])]
    return [w for w in (body.value(n).elem.storage.width for n in names) if w <= 8]


def test_a_patch_with_values_far_from_the_others_has_outliers() -> None:
    rng = np.random.default_rng(0)
    maps = [rng.integers(90, 110, (1, 8, 8, 3)) for _ in range(4)]
    regions = [((i, i + 3), (j, j + 3)) for i in (0, 4) for j in (0, 4)]
    assert with_outliers(maps, regions, 0.96, Fraction(4, 100)) == (False, False, False, False)
    for array in maps:
        array[0, 5:7, 1:3] = 250
    assert with_outliers(maps, regions, 0.96, Fraction(4, 100)) == (False, False, True, False)


def test_outliers_are_counted_from_normal_values() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(0, 1000, (1, 100, 100, 10)).astype(np.int64)
    for phi in (0.5, 0.9, 0.99):
        assert Outliers.of([values], phi).share(values) == pytest.approx(1 - phi, rel=0.05)


def test_a_map_of_few_values_loses_little_entropy() -> None:
    rng = np.random.default_rng(2)
    wide = np.clip(np.rint(rng.exponential(12, 4000)), 0, 255).astype(int)
    lost: list[list[float]] = []
    for codes in (wide, 85 * rng.integers(0, 4, 4000)):
        seen = Occurrences.of(KIND, codes)
        lost.append([seen.lost(seen.coarser(b)) for b in (4, 2)])
    assert lost[0][0] > 0.2
    assert lost[1] == [0.0, 0.0]


_LAYERS = (
    Layer(0.25, 0.5, "x", "v"),
    Layer(0.75, 0.5, "y", "w"),
)
_LOSSES = {
    "x": {4: 0.2, 2: 0.8},
    "y": {4: 0.02, 2: 0.1},
    "v": {6: 0.01, 4: 0.1},
    "w": {6: 0.03, 4: 0.2},
}


def test_the_search_takes_what_saves_most_for_its_loss() -> None:
    points = path(_LAYERS, _LOSSES)
    assert [p.bits for p in points[:3]] == [{}, {"v": 6}, {"v": 6, "y": 4}]
    assert points[-1].bits == {"x": 2, "y": 2, "v": 4, "w": 4}
    assert [p.saved for p in points] == sorted(p.saved for p in points)
    for point in points:
        left = sum(layer.bitops(point.bits) for layer in _LAYERS)
        assert point.saved == pytest.approx(1 - left)
        square = sum(_LOSSES[name][b] ** 2 for name, b in point.bits.items())
        assert point.loss == pytest.approx(square**0.5)


def test_no_assignment_of_the_way_has_a_higher_score() -> None:
    for lam in (0.01, 0.4, 0.8, 0.99):
        found = search(_LAYERS, _LOSSES, lam)
        assert found.score(lam) == max(p.score(lam) for p in path(_LAYERS, _LOSSES))
    assert search(_LAYERS, _LOSSES, 0.99).bits == {}
    assert search(_LAYERS, _LOSSES, 0.01).bits == {"x": 2, "y": 2, "v": 4, "w": 4}


@pytest.mark.parametrize("omega", ["error", "entropy"])
def test_less_weight_of_the_loss_is_less_work(
    uniform: Graph, context: Context, omega: Literal["error", "entropy"]
) -> None:
    means: list[float] = []
    for lam in (0.01, 0.1, 0.99):
        made = MixedPatches(0.5, lam, (8, 4, 2), (8, 4), omega, 2).run(uniform.copy(), context)
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
    masks = seen.masks(np.ones((2, len(op.patches)), bool))
    (end,), tried = body.outputs, 0
    for maps in maps_of(body):
        if not maps.free:
            continue
        kind = body.value(maps.names[0]).elem
        codes = np.concatenate([a.reshape(-1) for n in maps.names for a in seen.maps[n]])
        found: list[float] = []
        for width in (6, 4, 2):
            types = dict.fromkeys(maps.names, Occurrences.of(kind, codes).coarser(width))
            found.append(error(body, seen.maps, masks, types, {}))
            made = narrowed(body, types)
            starts = seen.maps[body.inputs[0]]
            results = [evaluate(made, {body.inputs[0]: start})[end] for start in starts]
            exact = np.stack(seen.maps[end]).astype(np.float64)
            off = np.linalg.norm(np.stack(results) - exact) / np.linalg.norm(exact - exact.mean())
            assert found[-1] == pytest.approx(off, rel=0.1, abs=0.02)
        assert found == sorted(found)
        tried += 1
    assert tried


def test_the_first_body_has_the_maps_of_the_uniform_one(uniform: Graph, context: Context) -> None:
    """And its weights too, where none may have fewer bits; both bodies have the same ones."""
    made = MixedPatches(0.5, 0.01, weights=(8,), samples=2).run(uniform.copy(), context)
    assert [op.bodies[0] for op in stages(made)] == [op.bodies[0] for op in stages(uniform)]
    kinds = [sorted(type(n.op).__name__ for n in undivided(g).nodes()) for g in (made, uniform)]
    assert kinds[0] == kinds[1]
    made = MixedPatches(0.5, 0.01, samples=2).run(uniform.copy(), context)
    for op, was in zip(stages(made), stages(uniform), strict=True):
        for node in linear_of(was.bodies[0]):
            used = [op.bodies[index] for index in op.used]
            found = [b.arguments(b.node(node.name))[1] for b in used]
            arrays = [v.constant.array for v in found if v.constant is not None]
            assert len({a.tobytes() for a in arrays}) == 1
            assert {v.elem.storage.width for v in found} <= {3, 4, 5, 6}
        maps = [v for v in op.bodies[0].values() if v.constant is None]
        assert all(v.elem.storage == was.bodies[0].value(v.name).elem.storage for v in maps)


def test_results_are_no_longer_those_of_the_file(
    uniform: Graph, context: Context, model: Path
) -> None:
    made = MixedPatches(0.5, 0.01, samples=2).run(uniform.copy(), context)
    mixed = {n.outputs[0] for n in made.nodes() if isinstance(n.op, Patched) and n.op.body_of}
    assert mixed
    assert {d.value for d in departures(made, model) if "fewer bits" in d.reason} == mixed
    assert not [d for d in departures(uniform, model) if "fewer bits" in d.reason]


def test_maps_have_fewer_bits_until_the_net_fits(uniform: Graph, context: Context) -> None:
    """The largest map where most is needed first, one step at a time; none if nothing helps."""
    knobs = MixedPatches(0.999, 0.99, (8, 5, 4), samples=2)
    assert context.samples is not None
    seen = knobs.seen(uniform, context.samples)
    found = {node.name: Sought.of(stage, knobs, context) for node, stage in seen}
    options = {name: Option(stage.losses, stage.draft) for name, stage in found.items()}
    now: Mapping[str, Mapping[str, int]] | None = {
        name: stage.found(knobs.lambda_).bits for name, stage in found.items()
    }
    assert not any(now.values())
    way: list[tuple[str, str, int]] = []
    sizes: list[int] = []
    while now is not None:
        made = {name: options[name].made(bits) for name, bits in now.items()}
        sizes.append(sum(map_bytes(v.shape, v.elem.storage.width) for v in maps_in(made.values())))
        before, now = now, lowered(made, options, now)
        steps = [(s, n, b) for s, bits in (now or {}).items() for n, b in bits.items()]
        way += [(s, n, b) for s, n, b in steps if before[s].get(n) != b]
    assert sizes == sorted(set(sizes), reverse=True)
    maps = [(name, m) for name, stage in found.items() for m in stage.losses if "weights" not in m]
    assert sorted(way) == sorted((s, m, b) for s, m in maps for b in (5, 4))
    first, largest, _ = way[0]
    whole = {v.name: v.type.size for v in maps_in([found[first].seen.op])}
    assert whole[largest] == max(whole[m] for s, m in maps if s == first)


def maps_in(ops: Iterable[Patched]) -> list[Value]:
    return [v for op in ops for part, *_ in op.parts for v in part.values() if v.constant is None]


@pytest.mark.parametrize("less", [0, 1, 10**6])
def test_bits_are_lowered_only_where_that_makes_it_fit(
    uniform: Graph, context: Context, less: int
) -> None:
    limit = max(1, arrange(uniform, MIXED, HOST).arena_bytes - less)
    target = replace(HOST, memory={"sram": Memory(limit, ("arena",))})
    small = Context(target, MIXED, context.samples)
    made = MixedPatches(0.999, 0.99, (8, 3), (8,), samples=2).run(uniform.copy(), small)
    fewer = min(b for op in stages(made) for b in bits(op)) < 8
    fits = arrange(PackMaps().run(made, small), MIXED, target).arena_bytes <= limit
    assert fewer is (fits and less > 0)
    assert fits or less > 0


def test_samples_are_needed_and_knobs_have_ranges(uniform: Graph) -> None:
    with pytest.raises(MissingSamples):
        MixedPatches().run(uniform.copy(), Context(HOST, MIXED, None))
    for wrong in (
        MixedPatches(phi=1.0),
        MixedPatches(lambda_=0.0),
        MixedPatches(samples=0),
        MixedPatches(bits=(16,)),
        MixedPatches(weights=(1,)),
        MixedPatches(allowed=1.0),
    ):
        with pytest.raises(BadPassOption):
            wrong.run(uniform.copy(), Context(HOST, MIXED, None))


def test_the_knobs_have_the_paper_s_names() -> None:
    pipeline = parse("mixed-patches{phi=0.7 lambda=0.2 bits=8,4,2}", PASSES)
    assert pipeline.passes == (MixedPatches(phi=0.7, lambda_=0.2, bits=(8, 4, 2)),)
    assert str(pipeline) == "mixed-patches{phi=0.7 lambda=0.2 bits=8,4,2}"


def test_what_only_depthwise_convolutions_read_has_a_scale_for_each_channel(
    uniform: Graph, context: Context
) -> None:
    made = MixedPatches(0.5, 0.01, samples=2).run(uniform.copy(), context)
    bodies = [op.bodies[1] for op in stages(made) if len(op.bodies) > 1]
    apart = [(b, v) for b in bodies for v in b.values() if v.elem.storage.width < 8 and v.elem.axis]
    assert apart
    for body, value in apart:
        assert {type(n.op) for n in body.consumers(value.name)} == {IntDepthwise}


def dynamic(
    uniform: Graph, context: Context, allowed: float, weights: tuple[int, ...] = (8,)
) -> list[Patched]:
    """The stages with classes that the device tells."""
    options = replace(MIXED, patch_classes="dynamic")
    knobs = MixedPatches(0.9, 0.01, (8, 4), weights, samples=4, allowed=allowed)
    return stages(knobs.run(uniform.copy(), Context(HOST, options, context.samples)))


def share(codes: IntArray, test: OutlierTest) -> float:
    """Which part a clamp to the range of the test changes."""
    return np.count_nonzero(np.clip(codes, test.lo, test.hi) != codes) / codes.size


def test_the_test_tells_the_classes_that_values_have(uniform: Graph, context: Context) -> None:
    """As often as the stage is told, and with the codes next to the ends of the range inside."""
    (op, *_) = dynamic(uniform, context, 0.06)
    assert op.test is not None
    assert not op.body_of
    whole = undivided(uniform)
    assert context.samples is not None
    (start,) = op.bodies[0].inputs
    maps = [evaluate(whole, x)[start] for x in stored_inputs(whole, context.samples.spread(4))]
    found = Outliers.of(maps, 0.9)
    ends = op.source.elem.storage
    assert (op.test.lo, op.test.hi) == (max(found.lo, ends.min), min(found.hi, ends.max))
    counts = np.array([
        [share(m[slices(patch.operand)], op.test) for patch in op.patches] for m in maps
    ])  # fmt: skip
    assert op.test.samples == 4
    first = np.mean(counts > 0.06, axis=0)
    assert [float(s) for s in op.test.shares] == first.tolist()
    assert 0 < first.mean() < 1


def test_without_any_allowed_a_patch_that_contains_an_outlier_has_eight_bits(
    uniform: Graph, context: Context
) -> None:
    """The rule of the paper, of which these patches leave none narrow; static and dynamic."""
    assert all(op.test is None and not any(op.body_of) for op in dynamic(uniform, context, 0.0))
    test = OutlierTest(3, 9, Fraction(0), 0, ())
    assert [test.body(np.array(codes)) for codes in ([3, 9], [3, 10], [2, 3])] == [1, 0, 0]
    assert Outliers(3, 9).share(np.array([2, 3, 9, 10])) == 0.5


def test_a_limit_is_exact() -> None:
    """1 - 0.9 in binary is less than a tenth."""
    knobs = MixedPatches(phi=0.9)
    assert OutlierTest(0, 1, knobs.part, 0, ()).limit(1000) == 100
    assert MixedPatches(allowed=0.25).part == Fraction(1, 4)


@pytest.mark.slow
@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("by", ["static", "dynamic"])
def test_mixed_patches_are_verified_and_reported(
    model: Path, by: Literal["static", "dynamic"]
) -> None:
    knobs = MixedPatches(0.9, 0.01, allowed=0.052 if by == "dynamic" else None)
    pipeline = choose(None, HOST).replace(MixedPatches.name, knobs)
    report = compile_model(
        model,
        load_target("cortex-m4"),
        replace(MIXED, patch_classes=by),
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
        assert (stage.test is not None) == (by == "dynamic")
    assert any(min(c.bits) < 8 for stage in found.stages for c in stage.classes)
    if by == "static":
        assert found.bitops_worst == found.bitops_mixed
    else:
        assert found.bitops_mixed < found.bitops_worst < found.bitops_uniform8
        assert found.net_bitops_worst - found.net_bitops_mixed == (
            found.bitops_worst - found.bitops_mixed
        )
        assert any(0 < c.share < 1 for stage in found.stages for c in stage.classes)
