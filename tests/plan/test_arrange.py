"""The plan as a whole: a machine of bytes runs it, and every read must see what was written."""

from __future__ import annotations

from random import Random
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Value
from binpoint.ir.kernel import Buffer
from binpoint.options import CompileOptions
from binpoint.plan.arrange import arrange
from binpoint.plan.fuse import fuse
from binpoint.plan.memory import ALIGNMENT, aligned
from binpoint.plan.program import Place, Program
from tests.plan.fakes import Fake, code_type, kind, random_graph
from tests.plan.test_schedule import orders, peak

Io = Literal["arena", "caller"]


def bytes_of(value: Value) -> int:
    return value.type.size * value.elem.storage.dtype.itemsize


class Machine:
    """Memory whose every byte knows which value it belongs to."""

    def __init__(self, program: Program) -> None:
        graph = self.graph = program.graph
        self.program = program
        self.arena: list[tuple[str, int] | None] = [None] * program.arena_bytes
        self.ports = {
            (place, i): [None] * bytes_of(p.value)
            for place, ports in ((Place.INPUT, program.inputs), (Place.OUTPUT, program.outputs))
            for i, p in enumerate(ports)
        }  # fmt: skip
        self.content = {name: name for name in graph.inputs}
        for name in graph.inputs:
            self.write(name)

    def region(self, name: str) -> tuple[list[tuple[str, int] | None], int]:
        storage = self.program.storage[name]
        if storage.place is Place.ARENA:
            assert storage.index % ALIGNMENT == 0
            return self.arena, storage.index
        return self.ports[storage.place, storage.index], 0  # pyright: ignore[reportReturnType]

    def write(self, name: str) -> None:
        memory, offset = self.region(name)
        size = bytes_of(self.graph.value(name))
        assert offset + size <= len(memory), name
        memory[offset : offset + size] = [(self.content[name], i) for i in range(size)]

    def check(self, name: str) -> None:
        memory, offset = self.region(name)
        size = bytes_of(self.graph.value(name))
        want = [(self.content[name], i) for i in range(size)]
        assert memory[offset : offset + size] == want, f"{name} was overwritten"

    def overlaps(self, a: str, b: str) -> bool:
        (one, i), (two, j) = self.region(a), self.region(b)
        sizes = bytes_of(self.graph.value(a)), bytes_of(self.graph.value(b))
        return one is two and i < j + sizes[1] and j < i + sizes[0]

    def run(self) -> None:
        for step in self.program.steps:
            for name in step.reads:
                self.check(name)
            if step.alias:
                (result,), operand = step.writes, step.reads[0]
                assert self.program.storage[result] == self.program.storage[operand]
                self.content[result] = self.content[operand]
                continue
            self._clobber(step.name, step.call.scratch, (*step.reads, *step.writes))
            for result in step.writes:
                assert self.program.storage[result].place is not Place.INPUT
                for operand in step.reads:
                    same = self.program.storage[result] == self.program.storage[operand]
                    taken = operand in step.in_place and result == step.writes[0] and same
                    assert taken or not self.overlaps(result, operand), (result, operand)
            for result in step.writes:
                self.content[result] = result
                self.write(result)
        for name in self.graph.outputs:
            self.check(name)

    def _clobber(self, name: str, size: int, others: tuple[str, ...]) -> None:
        if not size:
            assert name not in self.program.scratch
            return
        start = self.program.scratch[name]
        assert start % ALIGNMENT == 0
        assert start + size <= len(self.arena)
        for other in others:
            memory, offset = self.region(other)
            end = offset + bytes_of(self.graph.value(other))
            assert memory is not self.arena or end <= start or start + size <= offset
        self.arena[start : start + size] = [("scratch", i) for i in range(size)]


def check(graph: Graph, io: Io, planner: Literal["auto", "greedy"] = "auto") -> Program:
    program = arrange(graph, CompileOptions(io=io, planner=planner))
    for value in graph.values():
        if io == "arena":
            assert program.storage[value.name].place is Place.ARENA
    Machine(program).run()
    assert program.arena_bound <= program.arena_bytes
    return program


@settings(max_examples=150)
@given(
    random=st.randoms(use_true_random=False),
    io=st.sampled_from(["arena", "caller"]),
    planner=st.sampled_from(["auto", "greedy"]),
)
def test_every_read_sees_what_was_written(
    random: Random, io: Io, planner: Literal["auto", "greedy"]
) -> None:
    check(random_graph(random, steps=14), io, planner)


@settings(max_examples=60)
@given(random=st.randoms(use_true_random=False), io=st.sampled_from(["arena", "caller"]))
def test_no_order_has_fewer_bytes_live_than_the_bound(random: Random, io: Io) -> None:
    graph = random_graph(random, steps=6)
    program = check(graph, io)
    steps = fuse(graph)
    owner: dict[str, str] = {name: name for name in graph.inputs}
    for step in steps:
        for name in step.writes:
            owner[name] = owner[step.reads[0]] if step.alias else name
    outside = {owner[n] for n in (*graph.inputs, *graph.outputs)} if io == "caller" else set[str]()
    sizes = {b: aligned(bytes_of(graph.value(b))) for b in owner.values() if b not in outside}
    if any(step.call.scratch for step in steps):
        return
    net = (steps, sizes, owner, graph.inputs, graph.outputs)
    least = min(peak(order, net) for order in orders(steps, frozenset(graph.inputs)))
    assert program.arena_bound == least


# ---- chosen cases


def chain(*ops: Fake, inputs: int = 8) -> Graph:
    """Ops one after the other; the last result is the output."""
    graph = Graph("chain")
    build = GraphBuilder(graph)
    value = build.input("x", kind(inputs))
    for op in ops:
        value = build.one(op, value)
    graph.outputs = graph.output_names = (value.name,)
    return graph


def test_results_take_over_operands_that_die() -> None:
    eight = (kind(8),)
    graph = chain(Fake(eight), Fake(eight, (0,)), Fake(eight, (0,)), Fake((kind(4),)))
    program = check(graph, "caller")
    assert program.arena_bytes == program.arena_bound == 8
    program = check(graph, "arena")
    assert program.arena_bytes == program.arena_bound == 16


def test_an_operand_that_lives_on_is_not_taken_over() -> None:
    graph = Graph("g")
    build = GraphBuilder(graph)
    x = build.input("x", kind(8))
    a = build.one(Fake((kind(8),)), x)
    b = build.one(Fake((kind(8),), (0,)), a)
    c = build.one(Fake((kind(8),)), a, b)
    graph.outputs = graph.output_names = (c.name,)
    program = check(graph, "caller")
    assert program.arena_bytes == 16


def test_what_another_width_takes_is_not_taken_over() -> None:
    graph = chain(Fake((kind(8),)), Fake((kind(2, 32),), (0,)), Fake((kind(1),)))
    program = check(graph, "caller")
    # As many bytes, but elements of other size: element by element would overwrite.
    assert program.arena_bytes == 16


def test_a_result_of_the_caller_saves_nothing_in_the_arena() -> None:
    graph = chain(Fake((kind(8),)), Fake((kind(8),), (0,)))
    program = check(graph, "caller")
    assert program.arena_bytes == program.arena_bound == 8


def test_aliases_reach_the_callers_buffers() -> None:
    eight = (kind(8),)
    graph = chain(Fake(eight, shares=True), Fake(eight), Fake(eight, shares=True))
    program = check(graph, "caller")
    assert program.arena_bytes == 0
    places = [program.storage[s.writes[0]].place for s in program.steps]
    assert places == [Place.INPUT, Place.OUTPUT, Place.OUTPUT]


def test_an_alias_between_input_and_output_becomes_a_copy() -> None:
    graph = chain(Fake((kind(8),), shares=True))
    program = check(graph, "caller")
    assert [s.alias for s in program.steps] == [False]
    graph = Graph("g")
    build = GraphBuilder(graph)
    x = build.one(Fake((kind(8),)), build.input("x", kind(8)))
    results = [build.one(Fake((kind(8),), shares=True), x) for _ in range(2)]
    graph.outputs = graph.output_names = tuple(v.name for v in results)
    program = check(graph, "caller")
    assert sorted(s.alias for s in program.steps) == [False, False, True]


def test_a_net_without_intermediate_values_needs_no_arena() -> None:
    program = check(chain(Fake((kind(8),))), "caller")
    assert program.arena_bytes == program.arena_bound == 0
    program = check(chain(Fake((kind(8),))), "arena")
    assert program.arena_bytes == program.arena_bound == 16


def test_inputs_that_nobody_reads_have_their_place() -> None:
    graph = chain(Fake((kind(8),)))
    GraphBuilder(graph).input("unread", kind(100))
    program = check(graph, "arena")
    assert program.arena_bytes == program.arena_bound == 108
    assert check(graph, "caller").arena_bytes == 0


def test_scratch_lies_apart_from_operands_and_results() -> None:
    graph = chain(Fake((kind(8),)), Fake((kind(12),), scratch=30), Fake((kind(4),)))
    program = check(graph, "caller")
    assert program.arena_bytes == program.arena_bound == 8 + 32 + 12


def test_all_inputs_are_there_at_the_start() -> None:
    graph = Graph("g")
    build = GraphBuilder(graph)
    a, b = build.input("a", kind(16)), build.input("b", kind(16))
    first = build.one(Fake((kind(4),)), a)
    second = build.one(Fake((kind(4),)), first, b)
    graph.outputs = graph.output_names = (second.name,)
    program = check(graph, "arena")
    offsets = [program.storage[n].index for n in graph.inputs]
    assert sorted(offsets) == [0, 16]
    assert program.arena_bytes == program.arena_bound == 36


# ---- constants and ports


def test_equal_constants_are_stored_once_in_order_of_use() -> None:
    graph = Graph("g")
    build = GraphBuilder(graph)
    x = build.input("x", kind(4))
    elem = code_type()
    one, two, same = (
        build.constant(np.array(v, np.int8), elem, hint=n)
        for v, n in (([1, 2, 3], "one"), ([9, 9, 9], "two"), ([1, 2, 3], "same"))
    )
    y = build.one(Fake((kind(4),)), x, two)
    y = build.one(Fake((kind(4),)), y, one)
    y = build.one(Fake((kind(4),)), y, same)
    graph.outputs = graph.output_names = (y.name,)
    program = arrange(graph, CompileOptions())
    assert [c.name for c in program.constants] == ["two", "one"]
    assert program.constant_bytes == 6
    calls = [a for s in program.steps for a in s.call.arguments if isinstance(a, Buffer)]
    held = {
        a.value: program.constant_of(a).name for a in calls if a.value in ("one", "two", "same")
    }
    assert held == {"one": "one", "two": "two", "same": "one"}


def test_ports_have_names_that_differ_in_any_case() -> None:
    graph = Graph("g")
    build = GraphBuilder(graph)
    names = ("x", "X", "x", "run", "int")
    values = [build.input(f"v{i}", kind(4), source=n) for i, n in enumerate(names)]
    y = build.one(Fake((kind(4),)), *values)
    graph.outputs, graph.output_names = (y.name,), ("x",)
    program = arrange(graph, CompileOptions())
    found = [p.name for p in (*program.inputs, *program.outputs)]
    assert len({n.lower() for n in found}) == len(found)
    assert "run" not in found
    assert [p.source for p in program.inputs] == list(names)


@pytest.mark.parametrize("io", ["arena", "caller"])
def test_the_plan_depends_on_nothing_but_the_graph(io: Io) -> None:
    graph = random_graph(Random(5), steps=14)
    first, second = (arrange(graph.copy(), CompileOptions(io=io)) for _ in range(2))
    assert first.storage == second.storage
    assert [s.name for s in first.steps] == [s.name for s in second.steps]
