"""Law 5: the HLS kernel equals `reference`, for every op that has a form as a unit."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from binpoint.errors import NoIntegerForm
from binpoint.options import CompileOptions
from binpoint.plan.dataflow import design
from binpoint.plan.fuse import fuse
from tests import laws
from tests.hls.designs import fpga
from tests.ops.float_cases import FLOAT_CASES
from tests.ops.integer_cases import CASES, Case
from tests.ops.sketch import Sketch

_EVERYTHING: tuple[Case, ...] = (*CASES, *(case.add for case in FLOAT_CASES))
_WITHOUT = frozenset({"interpolate", "layernorm", "matmul", "resize_linear"})
"""Kernels that no unit computes."""


def _add(sketch: Sketch, case: Case, seed: int) -> None:
    """Add a case that depends on `seed` alone, not on what was added before."""
    sketch.random = Random(seed)
    sketch.rng = np.random.default_rng(seed)
    sketch.output(case(sketch))


def _accepted(case: Case, seed: int) -> bool:
    sketch = Sketch(Random(seed))
    _add(sketch, case, seed)
    sketch.prove()
    try:
        design(sketch.graph, fpga(), CompileOptions(name="laws"))
    except NoIntegerForm:
        return False
    return True


def _together(first: int) -> tuple[Sketch, list[str]]:
    """All cases that are accepted side by side in one graph, and the names of those refused."""
    sketch = Sketch(Random(first))
    refused: list[str] = []
    for number, case in enumerate(_EVERYTHING):
        seed = 1000 * first + number
        if _accepted(case, seed):
            _add(sketch, case, seed)
        else:
            refused.append(case.__name__)
    sketch.prove()
    return sketch, refused


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_kernels_equal_their_reference(seed: int) -> None:
    sketch, _ = _together(seed)
    inputs = laws.samples(sketch.graph, np.random.default_rng(seed))
    laws.law_5_hardware(sketch.graph, inputs, laws.evaluated(sketch.graph, inputs))


def test_only_ops_without_a_unit_are_always_refused() -> None:
    runs = [set(_together(seed)[1]) for seed in range(1, 5)]
    always = set[str].intersection(*runs)
    stems: set[str] = set()
    for case in _EVERYTHING:
        if case.__name__ in always:
            sketch = Sketch(Random(1))
            _add(sketch, case, 1)
            stems |= {step.call.stem for step in fuse(sketch.graph)}
    assert stems & _WITHOUT
    assert len(always) <= 14, sorted(always)
