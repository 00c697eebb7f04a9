"""Packed maps: the integers of maps in bytes, in all witnesses, and less memory."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from binpoint.driver import compile_model
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph, Value
from binpoint.ir.text import dump
from binpoint.ir.verify import verify
from binpoint.numeric.fixed import I8, U8, FixedType, IntType
from binpoint.ops.banded import Banded
from binpoint.ops.blocks import Block, IntSum
from binpoint.ops.broadcast import Broadcast
from binpoint.ops.conv import IntConv, IntDepthwise
from binpoint.ops.dense import IntDense
from binpoint.ops.pairwise import IntAdd
from binpoint.ops.patched import Patched
from binpoint.ops.pooling import IntMaxPool
from binpoint.ops.requantize import DyadicRequantize
from binpoint.ops.window import Window
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.plan.arrange import arrange
from binpoint.plan.pack_maps import PackMaps
from binpoint.plan.pack_stages import PackedStages
from binpoint.plan.packed_graph import unpacked, with_packed
from binpoint.plan.packing import Packing
from binpoint.plan.stages import body_of, joined, put, spans
from binpoint.sim.witness import Answer
from binpoint.target import Memory, load_target, microcontroller
from tests import laws
from tests.ops.integer_cases import SUM
from tests.ops.test_patched import Maps, net, patched

_OPTIONS = CompileOptions(name="packed")
_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
_NARROW = tuple(IntType(width, signed) for width in range(2, 7) for signed in (False, True))


class NarrowMaps(Maps):
    """Maps of two to six bits, of which some fill words and some leave bytes half empty."""

    storages: ClassVar[tuple[IntType, ...]] = (*_NARROW, IntType(1, signed=False))
    few: ClassVar[tuple[int, ...]] = (1, 3, 5, 8, 12, 16)


def banded(graph: Graph) -> list[Banded]:
    return [n.op for n in graph.nodes() if isinstance(n.op, Banded)]


def within(graph: Graph) -> list[Banded]:
    """Those in stages of patches."""
    ops = [n.op for n in graph.nodes() if isinstance(n.op, Patched)]
    return [found for op in ops for body in op.bodies for found in banded(body)]


def packed(random: Random, layers: int = 4) -> tuple[Graph, Graph]:
    """A random net, and the same with some of its maps packed and bands of any height.

    Of stages of patches all maps are.
    """
    s, _ = net(random, layers, NarrowMaps, random.choice((I8, U8)))
    s.prove()
    plain = s.graph
    if random.random() < 0.5:
        plain = patched(s, random.choice((0, 0, 1)), random.choice((2, None))) or plain
    graph = PackedStages(plain, arrange(plain, _OPTIONS), _OPTIONS, None).everything()
    packing = Packing(graph, arrange(graph, _OPTIONS))
    names = frozenset(n for n in packing.digits if random.random() < 0.8)
    rows = packing.rows(names, random.choice(packing.peaks(names)))
    if random.random() < 0.5:
        rows = {name: random.randint(1, most) for name, most in packing.rows(names, 10**9).items()}
    return plain, with_packed(packing, names, rows)


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


def _bands(graph: Graph, inside: bool) -> bool:
    """Whether there are some, of several rows, in stages or not."""
    found = within(graph) if inside else banded(graph)
    return len(found) > 1 and any(len(op.bands) > 1 for op in found)


def witnesses(seed: int, target: str, *, emulated: bool) -> None:
    random = Random(seed)
    graph = next(g for _, g in (packed(random) for _ in range(40)) if _bands(g, seed % 2 == 0))
    inputs = laws.samples(graph, np.random.default_rng(seed))
    values = laws.evaluated(graph, inputs)
    if emulated:
        laws.law_8_instructions(graph, inputs, values, _OPTIONS, target)
        return
    laws.law_1_shapes(graph, values)
    laws.law_3_check_graph(graph, inputs, values)
    laws.law_4_kernels(graph, inputs, values, _OPTIONS)
    laws.law_4_kernels(graph, inputs, values, _OPTIONS, target)


def every_layer(channels: int, widths: tuple[int, int]) -> Graph:
    """A layer of each kind after the other, of maps of so many bits, signed or not."""
    s = NarrowMaps(Random(5), "layers")
    kinds = [s.type(IntType(width, signed)) for width in widths for signed in (True, False)]
    plain = Window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    x = s.input((1, 7, 8, 3), s.type(U8))

    def rounded(acc: Value, kind: FixedType) -> Value:
        low, high = kind.storage.min, kind.storage.max
        return s.build.one(DyadicRequantize((9,), (13,), kind, low, high), acc)

    def conv(x: Value, window: Window, kind: FixedType) -> Value:
        w = s.weights(x, channels, *window.kernel, x.shape[-1])
        zero = x.elem.zero_point if window.padded else 0
        return rounded(s.build.one(IntConv(window, 1, zero, SUM), x, w, s.bias(channels)), kind)

    def depthwise(x: Value, window: Window, kind: FixedType) -> Value:
        w = s.weights(x, *window.kernel, channels)
        op = IntDepthwise(window, channels, x.elem.zero_point, SUM)
        return rounded(s.build.one(op, x, w, s.bias(channels)), kind)

    # Of the last the last column is read by no window.
    first = conv(x, plain, kinds[0])
    x = depthwise(conv(first, plain, kinds[1]), plain, kinds[0])
    x = conv(x, Window((1, 1), (1, 1), (0, 0), (0, 0), (1, 1)), kinds[0])
    axes, zeros = Broadcast.of(x.shape, x.shape), (x.elem.zero_point, first.elem.zero_point)
    x = s.build.one(
        IntAdd(axes, 700, 500, 11, *zeros, kinds[0], kinds[0].storage.min, kinds[0].storage.max),
        x,
        first,
    )
    x = conv(x, Window((1, 1), (2, 2), (0, 0), (0, 0), (1, 1)), kinds[2])
    acc = s.build.one(IntDense(SUM), x, s.weights(x, channels, channels), s.bias(channels))
    x = depthwise(rounded(acc, kinds[3]), plain, kinds[2])
    x = s.build.one(IntMaxPool(Window((2, 2), (1, 1), (0, 0), (0, 0), (1, 1))), x)
    total = s.build.one(IntSum(Block.of(x.shape, (1, 2)), 0, SUM), x)
    s.graph.outputs = (total.name,)
    s.prove()
    return s.graph


_WORDS = {(s, t) for s in ("conv", "dense", "depthwise") for t in ("source", "into")}
_ODD = {("conv", "into"), ("dense", "into"), ("depthwise", "into"), ("depthwise", "source")}


@pytest.mark.parametrize(
    ("channels", "widths", "kernels"),
    [(16, (4, 2), _WORDS | {("sum_digits", "source")}), (45, (5, 6), _ODD), (39, (4, 3), _ODD)],
)
def test_witnesses_agree_on_packed_maps(
    channels: int, widths: tuple[int, int], kernels: set[tuple[str, str]]
) -> None:
    plain = every_layer(channels, widths)
    packing = Packing(plain, arrange(plain, _OPTIONS))
    names = frozenset(packing.digits)
    assert len(names) == 9
    # Half of the layers as a whole, for kernels that take packed maps themselves.
    rows = {s: 2 + 5 * (i % 2) for i, s in enumerate(packing.rows(names, 10**9))}
    graph = with_packed(packing, names, rows)
    taken = {
        (step.call.stem, trait)
        for _, step in arrange(graph, _OPTIONS, laws.unpriced("cortex-m4")).calls()
        for trait, _ in step.call.traits
        if trait in ("source", "into")
    }
    assert taken == kernels
    inputs = laws.samples(graph, np.random.default_rng(3))
    values = laws.evaluated(graph, inputs)
    for sample, expected in zip(values, laws.evaluated(plain, inputs), strict=True):
        for name in plain.outputs:
            np.testing.assert_array_equal(sample[name], expected[name])
    laws.law_3_check_graph(graph, inputs, values)
    laws.law_4_kernels(graph, inputs, values, _OPTIONS)
    laws.law_4_kernels(graph, inputs, values, _OPTIONS, "cortex-m4")


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


# ---- the choice


def deep_net(width: int = 4, last: int | None = None) -> Graph:
    """Two wide maps after each other, then a small one, and a map of bytes."""
    s = NarrowMaps(Random(1), "choice")
    x = s.input((1, 24, 20, 3), s.type(U8))
    for channels, bits in ((16, width), (16, width), (8, last or width)):
        kind = s.type(IntType(bits, signed=False))
        window = Window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
        w = s.weights(x, channels, 3, 3, x.shape[-1])
        acc = s.build.one(IntConv(window, 1, x.elem.zero_point, SUM), x, w, s.bias(channels))
        top = kind.storage.max
        x = s.build.one(DyadicRequantize((1,), (9,), kind, 0, top), acc)
    s.graph.outputs = (x.name,)
    s.prove()
    return s.graph


def test_the_estimate_is_what_the_plan_takes() -> None:
    target = microcontroller(load_target("cortex-m4"))
    packing = Packing(deep_net(), arrange(deep_net(), _OPTIONS, target))
    names = packing.best()
    assert len(names) == 2
    rows = packing.rows(names, packing.peaks(names)[0])
    plan = arrange(with_packed(packing, names, rows), _OPTIONS, target)
    assert plan.arena_bytes <= max(packing.live(names, rows)) < packing.program.arena_bytes / 1.5


def made(width: int, target: str = "cortex-m4", **options: Any) -> Graph:
    wanted = CompileOptions(name="packed", **options)
    return PackMaps().run(deep_net(width), Context(load_target(target), wanted))


def test_maps_are_packed_where_that_pays() -> None:
    assert banded(made(4))
    assert banded(made(2, optimize="ram"))
    assert not banded(made(4, packed_maps="never"))
    assert not banded(made(8))
    assert not banded(made(8, packed_maps="always"))
    # Of kernels that are modelled to take longer than is allowed.
    context = Context(load_target("cortex-m4"), CompileOptions(name="packed"))
    assert not banded(PackMaps(extra=0.001).run(deep_net(), context))


def mixed_net() -> Graph:
    """The net in patches, most of them of four bits, one in eight bits."""
    graphs = [deep_net(width, 8) for width in (8, 4)]
    parts = [joined(spans(graph)[0]) for graph in graphs]
    bodies = tuple(body_of(g, span) for g, span in zip(graphs, parts, strict=True))
    graph = graphs[0].copy()
    node = put(graph, parts[0], bodies, (12, 10))
    assert isinstance(node.op, Patched)
    graph.replace(replace(node, op=replace(node.op, body_of=(1, 1, 0, 1))))
    return graph


def test_a_stage_needs_less_memory_for_patches_of_both_precisions() -> None:
    target = microcontroller(load_target("cortex-m4"))
    plain = mixed_net()
    plan = arrange(plain, _OPTIONS, target)
    assert plan.arena_bytes == Packing(plain, plan).plain
    sample = laws.samples(plain, np.random.default_rng(0))[0]
    expected = evaluate(plain, sample)
    arenas = [plan.arena_bytes]
    ways = (CompileOptions(optimize="ram"), CompileOptions(packed_maps="always"))
    for wanted in ways:
        graph = PackMaps().run(plain, Context(target, wanted))
        (op,) = (n.op for n in graph.nodes() if isinstance(n.op, Patched))
        assert [len(banded(body)) > 0 for body in op.bodies] == [False, True]
        shares = op.shares[0] if op.shares else (1, 1)
        assert (math.prod(shares) > 1) == (wanted is ways[0])
        found = evaluate(graph, sample)
        for name in plain.outputs:
            np.testing.assert_array_equal(found[name], expected[name])
        arenas.append(arrange(graph, wanted, target).arena_bytes)
    # What is packed in one body alone saves nothing.
    assert arenas[1] < 0.9 * arenas[0]
    assert arenas[2] == arenas[0]


def test_a_plan_that_does_not_fit_is_packed_at_any_price() -> None:
    target = microcontroller(load_target("cortex-m4"))
    plain = arrange(deep_net(), _OPTIONS, target).arena_bytes
    small = Memory(bytes=plain - 1, holds=("arena",), reserve=0)
    context = Context(msgspec.structs.replace(target, memory={"ram": small}), _OPTIONS)
    packed_ = PackMaps(extra=0.0).run(deep_net(), context)
    assert arrange(packed_, _OPTIONS, target).arena_bytes < plain


def test_a_reader_of_whole_maps_gets_the_map_unpacked() -> None:
    s = NarrowMaps(Random(2), "whole")
    x = s.input((1, 6, 6, 8), s.type(U8))
    w = s.weights(x, 8, 8)
    acc = s.build.one(IntDense(SUM), x, w, s.bias(8))
    kind = s.type(IntType(4, signed=True))
    y = s.build.one(DyadicRequantize((1,), (9,), kind, -8, 7), acc)
    total = s.build.one(IntSum(Block.of(y.shape, (1, 2)), 0, SUM), y)
    s.graph.outputs = (total.name,)
    s.prove()
    packing = Packing(s.graph, arrange(s.graph, _OPTIONS))
    graph = with_packed(packing, frozenset(packing.digits), dict.fromkeys(("op",), 2))
    assert [type(n.op).__name__ for n in graph.nodes()] == ["Banded", "IntUnpack", "IntSum"]
    sample = laws.samples(s.graph, np.random.default_rng(0))[0]
    expected = evaluate(s.graph, sample)[total.name]
    np.testing.assert_array_equal(evaluate(graph, sample)[total.name], expected)


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
def test_the_report_tells_what_packing_saves(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(narrow_model().SerializeToString())
    options = CompileOptions(activation_bits=4, weight_bits=4, packed_maps="always")
    result = compile_model(path, load_target("cortex-m4"), options, samples="random")
    found = result.report.packed_maps
    assert result.verdict.answer is Answer.EQUAL
    assert found is not None
    assert found.arena_packed_bytes == result.report.arena_bytes
    assert found.arena_packed_bytes < found.arena_plain_bytes
    assert all(2 * row.bytes == row.codes for row in found.maps)
    convs = [row for row in result.report.layers if row.op.startswith("IntConv")]
    assert [row.macs for row in convs] == [9 * 3 * 16 * 24 * 20, 9 * 16 * 16 * 24 * 20]
    assert all(row.snr_db for row in convs)


def narrow_model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []
    name = "x"
    for index, (depth, channels) in enumerate(((3, 16), (16, 16))):
        weights = rng.normal(0, 0.2, (channels, depth, 3, 3)).astype(np.float32)
        tensors.append(numpy_helper.from_array(weights, f"w{index}"))
        nodes.append(helper.make_node("Conv", [name, f"w{index}"], [f"a{index}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"a{index}"], [f"r{index}"]))
        name = f"r{index}"
    twos = [2, 2]
    nodes.append(helper.make_node("MaxPool", [name], ["p"], kernel_shape=twos, strides=twos))
    nodes.append(helper.make_node("GlobalAveragePool", ["p"], ["y"]))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "net", [value("x", 1, (1, 3, 24, 20))], [value("y", 1, (1, 16, 1, 1))], tensors
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
