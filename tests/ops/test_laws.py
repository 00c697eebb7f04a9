from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import binpoint.ops
from binpoint.ir.op import IntegerOp
from binpoint.options import CompileOptions
from binpoint.plan.arrange import arrange
from tests import laws
from tests.ops.float_cases import FLOAT_CASES
from tests.ops.integer_cases import CASES, OF_STAGES, Case, in_place
from tests.ops.sketch import Sketch

_EVERYTHING: tuple[Case, ...] = (*CASES, *(c.add for c in FLOAT_CASES), *OF_STAGES)


def sketched(case: Case, random: Random) -> Sketch:
    sketch = Sketch(random)
    sketch.output(case(sketch))
    sketch.prove()
    return sketch


def project(seed: int) -> Sketch:
    """All cases side by side in one graph."""
    sketch = Sketch(Random(seed))
    for case in _EVERYTHING:
        sketch.output(case(sketch))
    sketch.prove()
    return sketch


def concrete(base: type[IntegerOp]) -> Iterator[str]:
    """Names of all ops that can be instantiated; a class with slots is there twice."""
    for kind in base.__subclasses__():
        if not inspect.isabstract(kind) and kind.__module__.startswith("binpoint.ops."):
            yield kind.__name__
        yield from concrete(kind)


@pytest.mark.parametrize("case", _EVERYTHING, ids=lambda case: case.__name__)
@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(random=st.randoms(use_true_random=False))
def test_laws_without_a_compiler(case: Case, random: Random) -> None:
    sketch = sketched(case, random)
    inputs = laws.samples(sketch.graph, sketch.rng)
    values = laws.evaluated(sketch.graph, inputs)
    laws.law_1_shapes(sketch.graph, values)
    laws.law_2_bounds(sketch.graph, sketch.rng)
    laws.law_3_check_graph(sketch.graph, inputs, values)
    laws.law_clamped(sketch.graph, values, sketch.rng)


@pytest.mark.parametrize(
    ("seed", "options"),
    [
        (1, CompileOptions(optimize="size", planner="greedy")),
        (2, CompileOptions(optimize="speed", planner="greedy", io="arena", arena="caller")),
    ],
)
def test_kernels_equal_their_reference(seed: int, options: CompileOptions) -> None:
    sketch = project(seed)
    inputs = laws.samples(sketch.graph, sketch.rng)
    laws.law_4_kernels(sketch.graph, inputs, laws.evaluated(sketch.graph, inputs), options)


def test_symbols_determine_texts() -> None:
    texts: dict[str, str] = {}
    for seed in range(15):
        laws.law_7_symbols(project(seed).graph, texts)


def test_every_op_has_a_case() -> None:
    for module in pkgutil.iter_modules(binpoint.ops.__path__, "binpoint.ops."):
        importlib.import_module(module.name)
    seen = {type(node.op).__name__ for seed in range(12) for node in project(seed).graph.nodes()}
    # These hold graphs of the others: tests/ops/test_patched.py, tests/plan/test_packing.py.
    assert set(concrete(IntegerOp)) - {"Patched", "Banded"} == seen


def test_every_form_of_requantizer_has_a_case() -> None:
    forms: set[str] = set()
    for seed in range(20):
        for node in project(seed).graph.nodes():
            epilogue = getattr(node.op, "epilogue", None)
            if epilogue is not None:
                forms.add(epilogue().form)
    assert forms >= {
        "thresholds", "thresholds_signed", "mulshift", "mulhi", "mulshift_offset", "mulhi_offset",
        "exact", "exacthi", "mixed", "even",
    }  # fmt: skip


def test_results_take_over_the_memory_of_operands() -> None:
    """The cases do exercise the in-place rule, and only where the operand is not read again."""
    sketch = sketched(in_place, Random(0))
    options = CompileOptions(planner="greedy", io="arena")
    program = arrange(sketch.graph, options)
    places = program.storage
    shared = [s.name for s in program.steps for n in s.in_place if places[n] == places[s.writes[0]]]
    assert len(shared) >= 2
    inputs = laws.samples(sketch.graph, sketch.rng)
    laws.law_4_kernels(sketch.graph, inputs, laws.evaluated(sketch.graph, inputs), options)
