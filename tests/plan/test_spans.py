"""Masks as part of the softmax that reads them."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray

from binpoint.ir.graph import Value
from binpoint.ir.kernel import KernelCall, Table
from binpoint.ir.op import Semantics
from binpoint.numeric.fixed import I8
from binpoint.ops.softmax import Softmax
from binpoint.options import CompileOptions
from binpoint.plan.arrange import arrange
from tests.ops.float_cases import real
from tests.ops.sketch import Sketch

OPTIONS = CompileOptions(planner="greedy")
CAUSAL = np.tri(4, dtype=bool)


def masked(s: Sketch, keep: NDArray[np.bool_], axis: int = 3) -> Value:
    """A softmax of scores of two heads, four rows of four."""
    x = s.input((1, 2, 4, 4), s.type(I8))
    mask = real(keep.astype(np.float32).reshape((1,) * (4 - keep.ndim) + keep.shape))
    return s.lower(Softmax(axis), [x, mask], None, Semantics.DYADIC)


def calls(s: Sketch) -> list[KernelCall]:
    return [step.call for step in arrange(s.graph, OPTIONS).steps]


def spans(call: KernelCall) -> list[int]:
    (table,) = (a for a in call.arguments if isinstance(a, Table) and a.name == "spans")
    return table.array.array.tolist()


def runs(text: str) -> NDArray[np.bool_]:
    return np.array([[c == "x" for c in row] for row in text.split()])


ROWS = {
    "causal": (CAUSAL, [0, 1, 0, 2, 0, 3, 0, 4], 2),
    "all rows alike": (runs("-xx-"), [1, 2], 8),
    "two in turn": (runs("x--- xxx- x--- xxx-"), [0, 1, 0, 3], 4),
    "several runs": (runs("x-xx -x-- xxxx -x-x"), [3, 2, 0, 1, 2, 2, 1, 1, 1, 1, 4, 1, 0, 4,
                                                   2, 2, 1, 1, 3, 1], 2),
    "by head": (np.stack([CAUSAL, CAUSAL.T]), [0, 1, 0, 2, 0, 3, 0, 4, 0, 4, 1, 3, 2, 2, 3, 1], 1),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_the_runs_that_a_mask_keeps(name: str) -> None:
    keep, listed, times = ROWS[name]
    s = Sketch(Random(1))
    s.output(masked(s, keep))
    (call,) = calls(s)
    assert spans(call) == listed
    assert call.numbers["outer"] == times


def test_masks_that_others_read_or_along_other_axes_stay() -> None:
    s = Sketch(Random(1))
    s.output(masked(s, CAUSAL, axis=2))
    s.output(masked(s, CAUSAL))
    (lowered,) = (n.inputs[0] for n in s.graph.nodes() if n.outputs[0] == s.graph.outputs[1])
    s.graph.outputs = (*s.graph.outputs, lowered)
    assert [c.stem for c in calls(s)] == ["minmax", "softmax"] * 2
