"""Kernels are chosen by what the target's prices make of them."""

from __future__ import annotations

from random import Random

import msgspec
import numpy as np
import pytest

from binpoint.emit.mcu_c import render
from binpoint.ir.graph import Graph
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, I32, FixedType
from binpoint.ops.conv import IntConv
from binpoint.ops.window import Window
from binpoint.options import CompileOptions
from binpoint.plan.arrange import arrange
from binpoint.plan.bill import bill
from binpoint.plan.fuse import Modelled, Step
from binpoint.plan.kernels import offers
from binpoint.target import McuTarget, Price, list_targets, load_target, microcontroller
from tests import laws
from tests.ops.sketch import Sketch

SUM = FixedType.per_tensor(I32, Dyadic(1, -12))
OPTIONS = CompileOptions(name="net", planner="greedy")


def conv(size: int = 12, depth: int = 16, channels: int = 16) -> Graph:
    s = Sketch(Random(2))
    x = s.input((1, size, size, depth), s.type(I8))
    window = Window((3, 3), (1, 1), (0, 0), (0, 0), (1, 1))
    w = s.constant(s.codes((channels, 3, 3, depth), -90, 90))
    s.output(s.add(IntConv(window, 1, 0, SUM), x, w, s.bias(channels)))
    s.prove()
    return s.graph


def prices_of(target: McuTarget) -> Price:
    assert target.price is not None
    return target.price


def priced(target: McuTarget, name: str, cycles: float) -> McuTarget:
    """The target, where a call of this kernel takes so many cycles."""
    old = prices_of(target)
    kernels = {**old.kernels, name: {"call": cycles}}
    price = msgspec.structs.replace(old, kernels=kernels)
    return msgspec.structs.replace(target, price=price)


def chosen(graph: Graph, target: McuTarget) -> Step:
    (step,) = arrange(graph, OPTIONS, target).steps
    return step


def test_the_lowest_cost_wins() -> None:
    graph, target = conv(), microcontroller(load_target("cortex-m4"))
    step = chosen(graph, target)
    assert step.modelled is not None
    assert step.modelled.kernel == "dsp conv rows"
    assert step.modelled == bill(step, graph).modelled(prices_of(target))
    for name in ("portable conv", "block conv 2x2"):
        found = chosen(graph, priced(target, name, 7)).modelled
        assert found == Modelled(name, 7)


def test_every_offer_computes_the_same() -> None:
    graph, rng = conv(size=6), np.random.default_rng(1)
    target = microcontroller(load_target("cortex-m55"))
    names = {bill(s, graph).kernel for s in offers_of(graph, target)}
    assert names >= {"portable conv", "block conv 2x2", "dsp conv rows", "mve conv"}
    inputs = laws.samples(graph, rng)
    values = laws.evaluated(graph, inputs)
    for name in sorted(names):
        device = priced(target, name, 0)
        laws.law_4_kernels(graph, inputs, values, OPTIONS, device)


def offers_of(graph: Graph, target: McuTarget) -> list[Step]:
    portable = chosen(graph, microcontroller(load_target("host")))
    return offers(portable, graph, target, OPTIONS)


def test_a_small_map_takes_another_kernel_than_a_large_one() -> None:
    """Where windows are few, what a block of sums costs beside its steps decides."""
    target = microcontroller(load_target("rv32imc"))
    kernels = {
        step.modelled.kernel
        for size in (3, 4, 20)
        for step in (chosen(conv(size), target),)
        if step.modelled is not None
    }
    assert len(kernels) > 1


def test_the_comment_names_kernel_and_cost() -> None:
    graph, target = conv(), microcontroller(load_target("cortex-m4"))
    program = arrange(graph, OPTIONS, target)
    (step,) = program.steps
    assert step.modelled is not None
    text = render(program, target, OPTIONS).files["net.c"].decode()
    assert f"chosen as dsp conv rows: {step.modelled.cycles} modelled cycles" in text


@pytest.mark.parametrize("name", list_targets())
def test_cores_with_prices_have_them_for_kernels(name: str) -> None:
    target = load_target(name)
    if not isinstance(target, McuTarget) or target.price is None:
        return
    assert {"portable conv", "portable dense", "portable depthwise"} <= set(target.price.kernels)
    made = {k.split()[0] for k in target.price.kernels}
    assert made <= {"portable", "block", *target.arithmetic.features}
