"""Parts of values in place: no copy is made, and every integer stays the same."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray

from binpoint.ir.graph import Value
from binpoint.numeric.fixed import I8
from binpoint.ops.concat import IntConcat
from binpoint.ops.copy import IntCopy, IntReshape
from binpoint.ops.lookup import IntLookup
from binpoint.options import CompileOptions
from binpoint.plan.arrange import arrange
from binpoint.plan.fuse import Step
from binpoint.plan.program import Place, Program
from tests import laws
from tests.ops.sketch import Sketch


def table(s: Sketch, x: Value) -> Value:
    """A map of bytes, which may also run in place."""
    kind, storage = x.elem, x.elem.storage
    entries = s.constant(s.codes((256,), storage.min, storage.max), storage)
    return s.add(IntLookup(kind, storage.min), x, entries)


def step_of(program: Program, kind: type) -> Step:
    return next(s for s in program.steps if isinstance(s.nodes[0].op, kind))


def joined(*sizes: int, outer: int = 1, axis: int = 1) -> tuple[Sketch, Value]:
    """Maps of maps of an input, side by side."""
    s = Sketch(Random(3))
    kind = s.type(I8)
    parts = [table(s, table(s, s.input((outer, n, 2), kind))) for n in sizes]
    return s, s.add(IntConcat(axis, kind), *parts)


def test_operands_are_written_where_the_result_is() -> None:
    s, y = joined(4, 6, 3)
    s.output(table(s, y))
    program = arrange(s.graph, CompileOptions())
    concat = step_of(program, IntConcat)
    assert concat.alias
    start = program.storage[y.name]
    places = [program.storage[name] for name in concat.reads]
    assert [p.index - start.index for p in places] == [0, 8, 20]


def test_operands_lie_in_an_output_of_the_caller() -> None:
    s, y = joined(4, 6)
    s.output(y)
    program = arrange(s.graph, CompileOptions())
    concat = step_of(program, IntConcat)
    assert [program.storage[n].place for n in concat.reads] == [Place.OUTPUT] * 2
    assert [program.storage[n].within for n in concat.reads] == [0, 8]


@pytest.mark.parametrize(
    ("sizes", "outer", "axis", "reason"),
    [
        ((4, 6), 2, 1, "rows of its operands alternate"),
        ((4, 4), 1, 2, "rows of its operands alternate"),
        ((3, 4), 1, 1, "an operand would lie at byte 6, off words"),
    ],
)
def test_a_concat_that_copies_says_why(
    sizes: tuple[int, ...], outer: int, axis: int, reason: str
) -> None:
    s, y = joined(*sizes, outer=outer, axis=axis)
    s.output(table(s, y))
    concat = step_of(arrange(s.graph, CompileOptions()), IntConcat)
    assert not concat.alias
    assert concat.call.note == f"copied, as {reason}"


def test_an_operand_of_the_caller_is_copied() -> None:
    s = Sketch(Random(3))
    kind = s.type(I8)
    x = s.input((1, 8), kind)
    y = table(s, x)
    s.output(s.add(IntConcat(1, kind), x, y))
    concat = step_of(arrange(s.graph, CompileOptions()), IntConcat)
    assert not concat.alias
    assert "input or output" in concat.call.note


def test_a_slice_is_a_part_of_its_operand() -> None:
    s = Sketch(Random(3))
    x = s.input((1, 32), s.type(I8))
    made = table(s, x)
    part = s.add(IntCopy.of((1, 8), (8,), (1,), 12, x.elem), made)
    off = s.add(IntCopy.of((1, 8), (8,), (1,), 13, x.elem), made)
    apart = s.add(IntCopy.of((1, 8), (8,), (2,), 0, x.elem), made)
    for value in (part, off, apart):
        s.output(table(s, value))
    program = arrange(s.graph, CompileOptions())
    taken = {s.writes[0]: s.alias for s in program.steps if isinstance(s.nodes[0].op, IntCopy)}
    assert taken == {part.name: True, off.name: False, apart.name: False}
    assert program.storage[part.name].index == program.storage[made.name].index + 12


def random_parts(seed: int) -> Sketch:
    """Maps, slices, reshapes and concats of them, in any order; some values are outputs as well."""
    s = Sketch(Random(seed))
    kind = s.type(I8)
    values = [s.input((1, s.pick(4, 8, 12, 5), 4), kind) for _ in range(2)]
    for _ in range(14):
        x = s.pick(*values[-5:])
        match s.number(0, 4):
            case 0 | 1:
                values.append(table(s, x))
            case 2:
                values.append(s.add(IntReshape((1, x.type.size // 2, 2), kind), x))
            case 3:
                count = s.number(1, x.type.size // 4)
                start = s.number(0, x.type.size - 4 * count)
                copy = IntCopy.of((1, count, 4), (4 * count,), (1,), start, kind)
                values.append(s.add(copy, x))
            case _:
                parts = [v for v in (x, *values[-4:]) if v.shape[-1] == x.shape[-1]]
                values.append(s.add(IntConcat(1, kind), *parts[: s.number(1, 4)]))
    made = [v for v in values if s.graph.producer(v.name) is not None]
    for value in made:
        if not s.graph.consumers(value.name) or s.number(0, 6) == 0:
            s.output(value)
    return s


@pytest.mark.parametrize("seed", range(5))
def test_the_program_computes_the_reference(seed: int) -> None:
    s = random_parts(seed)
    inputs = laws.samples(s.graph, s.rng)
    values = laws.evaluated(s.graph, inputs)
    options = CompileOptions(io="arena" if seed % 2 else "caller")
    laws.law_4_kernels(s.graph, inputs, values, options)


def test_no_two_values_that_are_needed_overlap() -> None:
    """Every value's bytes are still there when they are read, by a machine that only moves them."""
    for seed in range(40):
        s = random_parts(seed)
        inputs = laws.samples(s.graph, s.rng)
        values = laws.evaluated(s.graph, inputs)
        for io in ("caller", "arena"):
            program = arrange(s.graph, CompileOptions(io=io, planner="greedy"))
            _run(program, {**inputs[0], **values[0]})


def _run(program: Program, sample: Mapping[str, NDArray[np.int64]]) -> None:
    memories: dict[object, NDArray[np.int64]] = {}

    def at(name: str) -> NDArray[np.int64]:
        storage, size = program.storage[name], program.graph.value(name).type.size
        arena = storage.place is Place.ARENA
        key = "arena" if arena else (storage.place, storage.index)
        start = storage.index if arena else storage.within
        return memories.setdefault(key, np.zeros(1 << 12, np.int64))[start : start + size]

    def content(name: str) -> NDArray[np.int64]:
        return sample[name].reshape(-1)

    for name in program.graph.inputs:
        at(name)[:] = content(name)
    for step in program.steps:
        for name in step.reads:
            np.testing.assert_array_equal(at(name), content(name), err_msg=name)
        if not step.alias:
            at(step.writes[0])[:] = content(step.writes[0])
    for name in program.graph.outputs:
        np.testing.assert_array_equal(at(name), content(name), err_msg=name)
