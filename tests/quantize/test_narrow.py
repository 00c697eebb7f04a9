"""Stages with maps of fewer bits: near the stage as it was, and the same in all witnesses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.ir.op import IntArray
from binpoint.ir.verify import verify
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, U8, FixedType
from binpoint.ops.halo import slices
from binpoint.ops.outliers import OutlierTest, outside
from binpoint.ops.patched import Patched
from binpoint.options import CompileOptions
from binpoint.plan.mixed import Seen
from binpoint.quantize.coarsen import Occurrences, entropy, recoded, steps_of
from binpoint.quantize.compensate import Rounded
from binpoint.quantize.narrow import linear_of, maps_of, narrowed
from binpoint.quantize.stage_samples import fitted, rows_of
from tests import laws
from tests.ops.test_patched import net, patched

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
randoms = st.randoms(use_true_random=False)
seeds = st.integers(0, 2**32 - 1)
OPTIONS = CompileOptions(name="mixed")


def coarse_types(body: Graph, random: Random) -> dict[str, FixedType]:
    """Fewer bits for some of the maps that may have them, by what noise gives."""
    sample = laws.samples(body, np.random.default_rng(random.getrandbits(32)))[0]
    values = evaluate(body, sample)
    types: dict[str, FixedType] = {}
    for maps in maps_of(body):
        bits = random.choice((8, 4, 4, 2))
        if maps.free and bits < 8:
            first = body.value(maps.names[0])
            codes = np.concatenate([values[n].reshape(-1, 1) for n in maps.names])
            seen = Occurrences.of(first.elem, codes)
            if maps.apart and seen.positive:
                seen = Occurrences.of(first.elem, values[first.name], apart=True)
            types |= dict.fromkeys(maps.names, seen.coarser(bits, len(first.shape) - 1))
    return types


def coarse_weights(body: Graph, random: Random) -> dict[str, Rounded]:
    """Weights of fewer bits for some layers, each rounded by itself."""
    found: dict[str, Rounded] = {}
    for node in linear_of(body):
        bits = random.choice((8, 6, 5, 4, 3, 2))
        if bits < 8:
            rows = rows_of(body, node)
            most = 2 ** (bits - 1) - 1
            steps = np.maximum(np.abs(rows).max(axis=1), 1).astype(np.float32) / np.float32(most)
            codes = np.rint(rows / steps[:, None]).astype(np.int64)
            none = np.zeros(len(rows))
            found[node.name] = Rounded(bits, codes, steps.astype(float), none, none, none)
    return found


def stage(random: Random) -> Patched | None:
    """The stage of a random net, if it can have one."""
    s, _ = net(random)
    graph = patched(s)
    ops = [] if graph is None else [n.op for n in graph.nodes()]
    return next((op for op in ops if isinstance(op, Patched)), None)


def mixed(graph: Graph, random: Random) -> Graph | None:
    """The graph with a second body for some patches of its stage; None where no map may change."""
    (node,) = [n for n in graph.nodes() if isinstance(n.op, Patched)]
    assert isinstance(node.op, Patched)
    body = node.op.bodies[0]
    types, weights = coarse_types(body, random), coarse_weights(body, random)
    if not types and not weights:
        return None
    classes = tuple(random.randrange(2) for _ in node.op.patches)
    bodies = (narrowed(body, {}, weights=weights), narrowed(body, types, weights=weights))
    op = replace(node.op, bodies=bodies, body_of=classes, shares=node.op.shares * len(bodies))
    graph.replace(replace(node, op=op))
    graph.set_value(replace(graph.value(node.outputs[0]), bounds=op.bounds()[0]))
    return graph


def by_values(
    graph: Graph, inputs: Sequence[Mapping[str, IntArray]], random: Random
) -> Graph | None:
    """The same with classes by the values of patches; None where all patches would have the same.

    Some patches of these inputs are of each class.
    """
    (node,) = [n for n in graph.nodes() if isinstance(n.op, Patched)]
    assert isinstance(node.op, Patched)
    op, ends = node.op, node.op.source.elem.storage
    lo, hi = sorted(random.randint(ends.min, ends.max) for _ in range(2))
    parts: set[Fraction] = set()
    for values in laws.evaluated(graph, inputs):
        whole = values[node.inputs[0]].reshape(-1)[op.view.indices(op.source.shape[1:])][None]
        for codes in (whole[slices(patch.operand)] for patch in op.patches):
            parts.add(Fraction(outside(codes, lo, hi), codes.size))
    if len(parts) < 2:
        return None
    allowed = random.choice(sorted(parts)[:-1])
    test = OutlierTest(lo, hi, allowed, 0, ())
    op = replace(op, body_of=(), test=test, shares=())
    graph = graph.copy()
    graph.replace(replace(node, op=op))
    graph.set_value(replace(graph.value(node.outputs[0]), bounds=op.bounds()[0]))
    return graph


def random_stage(random: Random, layers: int) -> Graph:
    """The first net of several with a stage of two bodies."""
    for _ in range(100):
        graph = patched(net(random, layers)[0])
        found = None if graph is None else mixed(graph, random)
        if found is not None and len(stage_of(found).patches) > 1:
            return found
    raise AssertionError("no net has a stage")


def stage_of(graph: Graph) -> Patched:
    (op,) = [n.op for n in graph.nodes() if isinstance(n.op, Patched)]
    return op


def classes(graph: Graph, values: laws.Values) -> set[int]:
    """Of which bodies patches of these values are."""
    (node,) = [n for n in graph.nodes() if isinstance(n.op, Patched)]
    op = stage_of(graph)
    assert op.test is not None
    found: set[int] = set()
    for sample in values:
        whole = sample[node.inputs[0]].reshape(-1)[op.view.indices(op.source.shape[1:])][None]
        found |= {op.test.body(whole[slices(patch.operand)]) for patch in op.patches}
    return found


@settings(max_examples=1, suppress_health_check=_SLOW, phases=[Phase.explicit, Phase.generate])
@given(seeds)
def test_witnesses_agree_on_mixed_patches(seed: int) -> None:
    """Of classes that are fixed, and of classes by the values of each input."""
    random = Random(seed)
    graph = random_stage(random, 3)
    inputs = laws.samples(graph, np.random.default_rng(1))
    for made in (graph, by_values(graph, inputs, random)):
        if made is None:
            continue
        verify(made, "integer")
        values = laws.evaluated(made, inputs)
        assert made is graph or classes(made, values) == {0, 1}
        laws.law_3_check_graph(made, inputs, values)
        laws.law_4_kernels(made, inputs, values, OPTIONS, "cortex-m4")


@settings(max_examples=30, suppress_health_check=_SLOW)
@given(seeds)
def test_each_patch_is_of_the_body_that_its_values_tell(seed: int) -> None:
    """Every element is what the body of its patch computes on the whole map."""
    random = Random(seed)
    graph = random_stage(random, 2)
    inputs = laws.samples(graph, np.random.default_rng(2))
    made = by_values(graph, inputs, random)
    if made is None:
        return
    (node,) = [n for n in made.nodes() if isinstance(n.op, Patched)]
    op = stage_of(made)
    assert op.test is not None
    for values in laws.evaluated(made, inputs):
        x = values[node.inputs[0]]
        whole = x.reshape(-1)[op.view.indices(op.source.shape[1:])][None]
        results = [evaluate(b, {b.inputs[0]: whole})[b.outputs[0]] for b in op.bodies]
        for patch in op.patches:
            codes = whole[slices(patch.operand)]
            many = int(np.count_nonzero((codes < op.test.lo) | (codes > op.test.hi)))
            body = 0 if Fraction(many, codes.size) > op.test.allowed else 1
            place = slices(patch.result)
            np.testing.assert_array_equal(values[node.outputs[0]][place], results[body][place])


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
def test_mixed_patches_on_the_emulated_core() -> None:
    random = Random(12)
    graph = random_stage(random, 4)
    inputs = laws.samples(graph, np.random.default_rng(4))
    graph = by_values(graph, inputs, random)
    assert graph is not None
    values = laws.evaluated(graph, inputs)
    assert classes(graph, values) == {0, 1}
    laws.law_8_instructions(graph, inputs, values, OPTIONS, "cortex-m4")


@settings(max_examples=40, suppress_health_check=_SLOW)
@given(randoms)
def test_a_narrowed_stage_is_legal_and_keeps_its_result_s_type(random: Random) -> None:
    op = stage(random)
    if op is None:
        return
    body = op.bodies[0]
    types = coarse_types(body, random)
    made = narrowed(body, types, weights=coarse_weights(body, random))
    verify(made, "integer")
    assert made.value(made.outputs[0]).type == body.value(made.outputs[0]).type
    for sample in laws.samples(body, np.random.default_rng(3)):
        _ = evaluate(made, sample)


@settings(max_examples=30, suppress_health_check=_SLOW)
@given(randoms)
def test_a_stage_rewritten_with_the_types_that_it_has_stays(random: Random) -> None:
    """All constants are made anew; sums have their multipliers at another shift."""
    op = stage(random)
    if op is None:
        return
    body = op.bodies[0]
    same = {
        name: body.value(name).elem for maps in maps_of(body) if maps.free for name in maps.names
    }
    made = narrowed(body, same)
    for sample in laws.samples(body, np.random.default_rng(5)):
        exact, found = evaluate(body, sample), evaluate(made, sample)
        for name in same:
            assert np.abs(exact[name] - found[name]).max() <= 1, name


def test_the_mean_error_of_coarser_maps_is_taken_away() -> None:
    """The sums of each layer have the mean that they had."""
    tried = 0
    for seed in range(12):
        op = stage(Random(seed))
        if op is None:
            continue
        body = op.bodies[0]
        types = coarse_types(body, Random(seed))
        seen = Seen(op)
        inputs = laws.samples(body, np.random.default_rng(seed))
        for sample in inputs:
            seen.add(evaluate(body, sample))
        masks = seen.masks(np.ones((len(inputs), len(op.patches)), bool))
        bits = {node.name: 4 for node in linear_of(body)[::2]}
        (made,) = fitted(body, [(types, masks)], bits, seen.maps).bodies
        for name, step in _sums(body, made).items():
            means = [
                np.mean(
                    [
                        evaluate(g, x)[name].reshape(-1, made.value(name).shape[-1]).mean(0)
                        for x in inputs
                    ],
                    0,
                )
                for g in (body, made)
            ]
            assert np.abs(means[1] - means[0] / step).max() < 2
            tried += 1
    assert tried > 3


def _sums(body: Graph, made: Graph) -> Mapping[str, NDArray[np.float64]]:
    """Of sums whose unit is another: how many of the old one of the new is, by channel."""
    found: dict[str, NDArray[np.float64]] = {}
    for node in made.nodes():
        for name in node.outputs:
            if body.has_value(name) and getattr(node.op, "accumulates", False):
                old, new = (
                    np.array([float(s) for s in g.value(name).elem.scales]) for g in (body, made)
                )
                if not np.array_equal(old, new):
                    found[name] = new / old
    return found


def test_a_coarser_type_has_the_least_error_of_its_bits() -> None:
    rng = np.random.default_rng(0)
    kind = FixedType.per_tensor(U8, Dyadic(1, -4), 128)
    codes = np.clip(np.rint(rng.normal(128, 20, 4000)), 0, 255).astype(np.int64)
    seen = Occurrences.of(kind, codes)
    errors: list[float] = []
    for bits in (2, 4):
        found = seen.coarser(bits)
        (step,) = steps_of(kind, found)
        back = found.dequantize(recoded(codes, kind, found, step))
        errors.append(float(((back - kind.dequantize(codes)) ** 2).mean()))
        assert found.storage.width == bits
        assert found.storage.min <= found.zero_point <= found.storage.max
        # Lloyd's quantizer, the best of all without zero as a code, has 0.118 and 0.0095 of the
        # variance; an even one on the whole range seen has twice that.
        variance = (20 / 16) ** 2
        assert errors[-1] < {2: 0.19, 4: 0.014}[bits] * variance
    assert errors[1] < errors[0] / 8


def test_entropy_is_in_bits() -> None:
    assert entropy(np.array([5, 5, 0, 5, 5])) == pytest.approx(2.0)
    kind = FixedType.per_tensor(I8, Dyadic(1, 0))
    seen = Occurrences.of(kind, np.arange(-128, 128))
    assert seen.entropy() == pytest.approx(8.0)
    assert seen.lost(seen.coarser(4)) == pytest.approx(0.5, abs=0.02)
