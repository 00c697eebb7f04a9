"""Random models: interpreter, check graph in onnxruntime and sanitized C agree at every value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from binpoint.ops import OPS
from tests.end_to_end.soak import soak
from tests.end_to_end.trials import Tally, attempt, compare
from tests.end_to_end.witnesses import witness_difference
from tests.strategies import weave

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
_ELSEWHERE = frozenset({"Upsample", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"})
_ALONE = frozenset({"Attention", "GRU", "LSTM", "OneHot", "RMSNormalization", "RNN"})
"""Operators that random models cannot hold: of other opsets, or on integers; or that have random
models of their own (tests/ops/test_attention.py, test_norms.py, test_onehot.py,
test_recurrent.py)."""

randoms = st.randoms(use_true_random=False)


@settings(max_examples=40, suppress_health_check=_SLOW)
@given(randoms)
def test_check_graph_equals_interpreter(random: Random) -> None:
    trial = attempt(random, "random", Tally())
    assert trial is None or witness_difference(trial) is None


# Not shrunk: every attempt runs the host compiler. The test above shrinks what is wrong before C.
@settings(max_examples=4, suppress_health_check=_SLOW, phases=[Phase.explicit, Phase.generate])
@given(st.lists(randoms, min_size=10, max_size=10))
def test_all_witnesses_agree(many: list[Random]) -> None:
    tally = Tally()
    tried = (attempt(random, f"g{index}", tally) for index, random in enumerate(many))
    trials = [trial for trial in tried if trial is not None]
    if trials:
        compare(trials, tally)
    assert not tally.failures, "\n".join(tally.failures)
    assert tally.equal == len(trials)


@pytest.mark.slow
def test_all_witnesses_agree_on_many_models(record_property: Callable[[str, object], None]) -> None:
    tally = soak(300, 10_000)
    record_property("soak", str(tally))
    assert not tally.failures, "\n".join(tally.failures)
    assert tally.refused.total() * 3 <= tally.tried, str(tally)


def test_every_imported_operator_is_in_random_models() -> None:
    found: Counter[str] = Counter()
    for seed in range(600):
        found.update(node.op_type for node in weave(Random(seed)).nodes)
    imported = {name for op in OPS for name in op.onnx if "." not in name}
    assert imported - _ELSEWHERE - _ALONE <= set(found)
