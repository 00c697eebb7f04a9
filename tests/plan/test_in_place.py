"""Softmax of every kind in the memory of its operand."""

from __future__ import annotations

from random import Random

import pytest

from binpoint.ir.op import Semantics
from binpoint.numeric.fixed import I8, U8
from binpoint.ops.lookup import IntLookup
from binpoint.ops.methods import Method
from binpoint.ops.softmax import Softmax
from binpoint.options import CompileOptions
from binpoint.plan.arrange import arrange
from tests import laws
from tests.ops.sketch import Sketch

OPTIONS = CompileOptions(planner="greedy")


@pytest.mark.parametrize("core", ["host", "cortex-m4", "cortex-m55"])
def test_softmax_overwrites_its_operand(core: str) -> None:
    s = Sketch(Random(3))
    for semantics in Semantics:
        for method in Method:
            for axis in (1, 2):
                kind = s.type(s.storage(I8, U8))
                x = s.input((2, 33, 34), kind)
                table = s.build.constant(s.codes((256,), kind.storage.min, kind.storage.max), kind)
                moved = s.add(IntLookup(kind, kind.storage.min), x, table)
                s.output(s.lower(Softmax(axis, method), [moved], None, semantics))
    last = [
        s.graph.value(name) for name in s.graph.outputs if s.graph.value(name).elem.storage == U8
    ]
    s.graph.outputs = ()
    for y in last:
        table = s.build.constant(s.codes((256,), 0, 255), y.elem)
        s.output(s.add(IntLookup(y.elem, 0), y, table))
    steps = arrange(s.graph, OPTIONS, laws.unpriced(core)).steps
    assert sum(bool(p.in_place) for p in steps if p.call.stem in ("softmax", "shares")) > 2
    inputs = laws.samples(s.graph, s.rng)
    laws.law_4_kernels(s.graph, inputs, laws.evaluated(s.graph, inputs), OPTIONS, core)
