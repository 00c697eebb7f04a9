"""Functions of bytes by tables of what their ops compute."""

from __future__ import annotations

from random import Random
from typing import Literal

import pytest

from binpoint.ir.op import FloatOp, Semantics
from binpoint.numeric.fixed import I8, I16, IntType
from binpoint.ops.gate import Gated
from binpoint.ops.methods import Method
from binpoint.ops.softmax import Softmax
from binpoint.options import CompileOptions
from binpoint.plan.arrange import arrange
from tests.ops.sketch import Sketch

GATE = Gated("gelu", Method.SHIFT)
SHARES = Softmax(1, Method.POLYNOMIAL)


@pytest.mark.parametrize(
    ("op", "storage", "optimize", "stem"),
    [
        (GATE, I8, "speed", "lookup"),
        (GATE, I8, "size", "gated"),
        (GATE, I16, "speed", "gated"),
        (SHARES, I8, "speed", "softmax"),
        (SHARES, I8, "size", "shares"),
        (SHARES, I16, "speed", "shares"),
        (Softmax(1, Method.SHIFT_RELEASED), I8, "speed", "shares"),
        (Gated("silu", Method.SHIFT_RELEASED), I8, "speed", "shiftgelu"),
    ],
)
def test_bytes_have_tables_unless_size_counts(
    op: FloatOp, storage: IntType, optimize: Literal["speed", "size"], stem: str
) -> None:
    s = Sketch(Random(1))
    s.output(s.lower(op, [s.input((4, 9), s.type(storage))], s.type(I8), Semantics.DYADIC))
    options = CompileOptions(planner="greedy", optimize=optimize)
    call = arrange(s.graph, options).steps[0].call
    assert call.stem == stem
    assert ("table" in {a.name for a in call.arguments}) == (storage == I8 and optimize != "size")
