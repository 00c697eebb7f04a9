"""Packed maps: the integers of maps in bytes, in all witnesses, and less memory."""

from __future__ import annotations

from random import Random
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.ir.text import dump
from binpoint.ir.verify import verify
from binpoint.numeric.fixed import I8, U8, IntType
from binpoint.ops.banded import Banded
from binpoint.ops.halo import spatial
from binpoint.ops.packed import IntUnpack
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.plan.arrange import arrange
from binpoint.plan.pack_maps import PackMaps
from binpoint.plan.packing import Packing, unpacked
from binpoint.target import load_target
from tests import laws
from tests.ops.test_patched import Maps, net

_OPTIONS = CompileOptions(name="packed")
_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
_NARROW = tuple(IntType(width, signed) for width in (2, 4) for signed in (False, True))


class NarrowMaps(Maps):
    """Maps of two and four bits, of which some fill words and some leave bytes half empty."""

    storages: ClassVar[tuple[IntType, ...]] = (*_NARROW, IntType(1, signed=False))
    few: ClassVar[tuple[int, ...]] = (1, 3, 5, 8, 12, 16)


def banded(graph: Graph) -> list[Banded]:
    return [n.op for n in graph.nodes() if isinstance(n.op, Banded)]


def packed(random: Random, layers: int = 4) -> tuple[Graph, Graph]:
    """A random net, and the same with some of its maps packed and bands of any height."""
    s, _ = net(random, layers, NarrowMaps, random.choice((I8, U8)))
    s.prove()
    packing = Packing(s.graph, arrange(s.graph, _OPTIONS))
    names = frozenset(n for n in packing.digits if random.random() < 0.8)
    made = packing.graph_of(names)
    if random.random() < 0.7:
        heights = {n: spatial(s.graph.value(v))[0] for n, v in results(packing).items()}
        rows = {name: random.randint(1, heights[name]) for name in packing.rows(names)}
        made = packing.graph_of(names, rows)
    return s.graph, made


def results(packing: Packing) -> dict[str, str]:
    return {step.name: step.writes[0] for step in packing.program.steps if packing.divides(step)}


@settings(max_examples=50, suppress_health_check=_SLOW)
@given(st.randoms(use_true_random=False))
def test_packed_maps_hold_what_bytes_do(random: Random) -> None:
    plain, graph = packed(random)
    verify(graph, "integer")
    again = unpacked(graph)
    assert dump(again) == dump(plain)
    for sample in laws.samples(plain, np.random.default_rng(random.getrandbits(32))):
        expected, found = evaluate(plain, sample), evaluate(graph, sample)
        for name in plain.outputs:
            np.testing.assert_array_equal(found[name], expected[name])


def witnesses(seed: int, target: str, *, emulated: bool) -> None:
    _, graph = packed(Random(seed))
    assert banded(graph)
    inputs = laws.samples(graph, np.random.default_rng(seed))
    values = laws.evaluated(graph, inputs)
    if emulated:
        laws.law_8_instructions(graph, inputs, values, _OPTIONS, target)
        return
    laws.law_1_shapes(graph, values)
    laws.law_3_check_graph(graph, inputs, values)
    laws.law_4_kernels(graph, inputs, values, _OPTIONS)
    laws.law_4_kernels(graph, inputs, values, _OPTIONS, target)


def test_witnesses_agree_on_packed_maps() -> None:
    witnesses(3, "cortex-m4", emulated=False)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20, 32))
def test_witnesses_agree_on_many_packed_maps(seed: int) -> None:
    witnesses(seed, ("cortex-m4", "cortex-m55")[seed % 2], emulated=False)


@pytest.mark.slow
@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("core", ["cortex-m3", "cortex-m4", "cortex-m55"])
@pytest.mark.parametrize("seed", [1, 5])
def test_packed_maps_on_emulated_cores(seed: int, core: str) -> None:
    witnesses(seed, core, emulated=True)
