"""Law 6: the integer form of a float op stays within its stated error of the exact real value."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from binpoint.ir.op import FloatOp, Semantics
from binpoint.ops import OPS
from binpoint.ops.mask import Mask
from binpoint.ops.select import Select
from tests import laws
from tests.ops.float_cases import FLOAT_CASES, FloatCase, reals
from tests.ops.sketch import Sketch


@pytest.mark.parametrize("semantics", list(Semantics))
@pytest.mark.parametrize("case", FLOAT_CASES, ids=lambda case: case.kind.__name__)
@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
@given(random=st.randoms(use_true_random=False))
def test_lowering_is_within_its_error(
    case: FloatCase, semantics: Semantics, random: Random
) -> None:
    s = Sketch(random)
    op, inputs, target = case.make(s, semantics)
    result = s.lower(op, inputs, target, semantics)
    s.output(result)
    for sample in laws.samples(s.graph, s.rng):
        (values,) = laws.evaluated(s.graph, [sample])
        codes = [sample[v.name] if v.constant is None else None for v in inputs]
        (exact,) = op.reference(*reals(inputs, codes))
        kind = result.elem
        wanted = exact.astype(np.float64) / float(kind.scale) + kind.zero_point
        inside = np.clip(wanted, kind.storage.min, kind.storage.max)
        assert np.abs(values[result.name] - inside).max() <= case.bound(semantics, inputs, kind)


def test_every_float_op_has_a_case() -> None:
    without = {op for op in OPS if not issubclass(op, FloatOp)} | {Mask}  # A softmax takes it in.
    assert {case.kind for case in FLOAT_CASES} == set(OPS) - without | {Select}  # Where makes it.
