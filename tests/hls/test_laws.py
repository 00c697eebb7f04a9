"""Law 5: the HLS kernel equals `reference`, for every op that has a form as a unit."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from binpoint.errors import NoIntegerForm
from binpoint.options import CompileOptions
from binpoint.plan.dataflow import design
from binpoint.plan.design import Folding
from binpoint.plan.estimate import estimate
from binpoint.plan.ways import ways
from tests import laws
from tests.hls.designs import fpga
from tests.ops.float_cases import FLOAT_CASES
from tests.ops.integer_cases import CASES, Case
from tests.ops.sketch import Sketch

_MOST = 8
_EVERYTHING: tuple[Case, ...] = (*CASES, *(case.add for case in FLOAT_CASES))


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


def _together(first: int) -> tuple[Sketch, set[int]]:
    """All cases that are accepted side by side in one graph, and the numbers of those refused."""
    sketch = Sketch(Random(first))
    refused = set[int]()
    for number, case in enumerate(_EVERYTHING):
        seed = 1000 * first + number
        if _accepted(case, seed):
            _add(sketch, case, seed)
        else:
            refused.add(number)
    sketch.prove()
    return sketch, refused


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_kernels_equal_their_reference(seed: int) -> None:
    sketch, _ = _together(seed)
    inputs = laws.samples(sketch.graph, np.random.default_rng(seed))
    laws.law_5_hardware(sketch.graph, inputs, laws.evaluated(sketch.graph, inputs))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 4])
def test_folded_kernels_equal_their_reference(seed: int) -> None:
    sketch, _ = _together(seed)
    inputs = laws.samples(sketch.graph, np.random.default_rng(seed))
    options, random = CompileOptions(name="laws"), Random(seed)
    plain = design(sketch.graph, fpga(), options)
    folding = {
        layer.name: random.choice(
            [w for w in ways(plain, layer) if w.pe * w.simd <= _MOST][1:] or [Folding()]
        )
        for layer in plain.layers
        if layer.nodes
    }
    plan = design(sketch.graph, fpga(), options, folding)
    stems = {layer.unit.stem for layer in plain.layers if layer.nodes}
    wide = {layer.stem for layer in estimate(plan).layers if layer.pe * layer.simd > 1}
    assert wide >= {"product", "float_sum", "dense", "map", "pair", "recurrent"}
    assert len(wide) > len(stems) // 2
    laws.law_5_hardware(sketch.graph, inputs, laws.evaluated(sketch.graph, inputs), plan)


def test_every_op_has_a_unit() -> None:
    never = set[int].intersection(*(_together(seed)[1] for seed in range(1, 9)))
    assert [_EVERYTHING[n] for n in sorted(never)] == []
