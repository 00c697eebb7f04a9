"""Pipelines as values, and what the manager promises about every pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from binpoint.errors import BinpointError, Exit, InvalidConstant, PassFailed, UnknownPass
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph
from binpoint.ir.text import dump
from binpoint.ops.requantize import Clamp
from binpoint.ops.unary import Clip
from binpoint.options import CompileOptions
from binpoint.passes.base import Context, Effect, Pass, Stage
from binpoint.passes.cleanup import MergeDuplicates, RemoveDead, remove_dead
from binpoint.passes.manager import Pipeline, run
from binpoint.target import load_target
from tests.ir.test_graph import RELU, diamond, integers
from tests.plan.fakes import Fake, code_type, kind

HOST = load_target("host")


@dataclass(frozen=True, slots=True)
class Edit(Pass):
    """Whatever a test wants of it."""

    name: ClassVar[str] = "edit"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    edit: Callable[[Graph], Graph | None]

    def run(self, graph: Graph, context: Context) -> Graph:
        return self.edit(graph) or graph


@dataclass(frozen=True, slots=True)
class EditIntegers(Edit):
    name: ClassVar[str] = "edit-integers"
    before: ClassVar[Stage] = Stage.INTEGER
    after: ClassVar[Stage] = Stage.INTEGER


@dataclass(frozen=True, slots=True)
class EditFreely(Edit):
    name: ClassVar[str] = "edit-freely"
    effect: ClassVar[Effect] = Effect.CHANGES_VALUES


def context(**options: object) -> Context:
    return Context(HOST, CompileOptions(**options))  # pyright: ignore[reportArgumentType]


def nothing(_: Graph) -> None:
    """Change nothing."""


# ---- pipelines


def test_stages_must_join() -> None:
    with pytest.raises(UnknownPass, match="`edit` cannot follow `edit-integers`") as caught:
        Pipeline(EditIntegers(nothing), Edit(nothing))
    assert caught.value.exit is Exit.USAGE
    with pytest.raises(UnknownPass):
        _ = Pipeline(RemoveDead()) + Pipeline(EditIntegers(nothing))


def names(pipeline: Pipeline) -> list[str]:
    return [p.name for p in pipeline]


def test_pipelines_are_edited_by_name_into_new_ones() -> None:
    dead, merge, edit = RemoveDead(), MergeDuplicates(), Edit(nothing)
    start = Pipeline(dead, merge, dead)
    a, b = "remove-dead", "merge-duplicates"
    assert names(start.insert_before(a, edit)) == ["edit", a, b, a]
    assert names(start.insert_after(a, edit)) == [a, b, a, "edit"]
    assert names(start.insert_after(b, edit)) == [a, b, "edit", a]
    assert names(start.replace(a, edit)) == ["edit", b, "edit"]
    assert names(start.without(a)) == [b]
    assert names(start.until(b)) == [a, b]
    assert names(start.until(a)) == [a]
    assert names(start + Pipeline(edit)) == [a, b, a, "edit"]
    assert names(start) == [a, b, a]
    assert str(start) == f"{a},{b},{a}"
    assert start == Pipeline(dead, merge, dead)


@pytest.mark.parametrize("verb", ["insert_before", "insert_after", "replace", "without", "until"])
def test_a_name_that_is_not_there_is_a_mistake_that_says_which_are(verb: str) -> None:
    start = Pipeline(RemoveDead(), MergeDuplicates())
    more = (Edit(nothing),) if verb in ("insert_before", "insert_after", "replace") else ()
    with pytest.raises(UnknownPass, match="there is no pass `absent`") as caught:
        getattr(start, verb)("absent", *more)
    assert caught.value.want == "remove-dead, merge-duplicates"


def test_an_edit_that_breaks_the_stages_is_refused() -> None:
    with pytest.raises(UnknownPass):
        Pipeline(RemoveDead(), MergeDuplicates()).insert_after("remove-dead", EditIntegers(nothing))


# ---- run


def test_a_pass_works_on_its_own_copy() -> None:
    graph = diamond()
    text = dump(graph)

    def drop(given: Graph) -> None:
        given.bypass(given.node("nb"), "a")

    done = run(Pipeline(Edit(drop)), graph, context())
    assert dump(graph) == text
    assert not done.has_node("nb")


def test_passes_add_floats_with_one_thread_whatever_the_caller_has() -> None:
    def threads(_: Graph | None = None) -> None:
        libraries = cast("list[dict[str, Any]]", threadpool_info())
        seen.append({i["num_threads"] for i in libraries if i["user_api"] == "blas"})

    seen: list[set[int]] = []
    with threadpool_limits(2, user_api="blas"):
        run(Pipeline(Edit(threads)), diamond(), context())
        threads()
    assert seen == [{1}, {2}]


def test_a_broken_graph_is_the_fault_of_the_pass_that_left_it() -> None:
    def cut(graph: Graph) -> None:
        graph.remove("na")

    with pytest.raises(PassFailed, match="after `edit`: nothing computes") as caught:
        run(Pipeline(RemoveDead(), Edit(cut)), diamond(), context())
    assert caught.value.exit is Exit.DEFECT


def test_an_unexpected_exception_names_the_pass_and_what_ran_before() -> None:
    def fail(_: Graph) -> None:
        raise KeyError("lost")

    with pytest.raises(PassFailed, match="`edit` failed: KeyError: 'lost'") as caught:
        run(Pipeline(RemoveDead(), MergeDuplicates(), Edit(fail)), diamond(), context())
    assert caught.value.at == "after remove-dead, merge-duplicates"
    with pytest.raises(PassFailed) as caught:
        run(Pipeline(Edit(fail)), diamond(), context())
    assert caught.value.at == "after import"


def test_errors_of_the_model_pass_unchanged() -> None:
    error = InvalidConstant("the model's own fault")

    def refuse(_: Graph) -> None:
        raise error

    with pytest.raises(BinpointError) as caught:
        run(Pipeline(Edit(refuse)), diamond(), context())
    assert caught.value is error


def test_the_text_after_each_pass_is_written(tmp_path: Path) -> None:
    run(Pipeline(RemoveDead(), Edit(nothing)), diamond(), context(), trace=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00-remove-dead.txt", "01-edit.txt"]
    assert (tmp_path / "01-edit.txt").read_text() == dump(diamond())


# ---- promises


def lie(graph: Graph) -> None:
    graph.replace(replace(graph.node("nb"), op=Clip(1.0, 2.0)))


def lie_in_integers(graph: Graph) -> None:
    (node,) = graph.nodes()
    graph.replace(replace(node, op=Clamp(-5, 4)))


def test_a_pass_that_changes_what_it_promised_to_keep_is_found() -> None:
    with pytest.raises(PassFailed, match="`edit` changed the output `y`"):
        run(Pipeline(Edit(lie)), diamond(), context(check=True))
    with pytest.raises(PassFailed, match="`edit-integers` changed the output `y`"):
        run(Pipeline(EditIntegers(lie_in_integers)), integers()[0], context(check=True))


def test_one_code_too_few_is_found_in_integers() -> None:
    def off_by_one(graph: Graph) -> None:
        (node,) = graph.nodes()
        graph.replace(replace(node, op=Clamp(-4, 5)))

    with pytest.raises(PassFailed):
        run(Pipeline(EditIntegers(off_by_one)), integers()[0], context(check=True))


def test_promises_are_not_tried_without_the_option_or_where_none_was_made() -> None:
    run(Pipeline(Edit(lie)), diamond(), context())
    run(Pipeline(EditFreely(lie)), diamond(), context(check=True))


def test_honest_passes_keep_their_promise() -> None:
    run(Pipeline(RemoveDead(), MergeDuplicates()), diamond(), context(check=True))


# ---- clean-up


def test_what_no_output_needs_is_removed_but_inputs_stay() -> None:
    graph = diamond()
    build = GraphBuilder(graph)
    unread = build.input("unread", graph.value("x").type)
    build.one(RELU, build.one(RELU, unread))
    build.constant(np.ones(3, np.float32), hint="loose")
    done = run(Pipeline(RemoveDead()), graph, context())
    assert [n.name for n in done.nodes()] == ["na", "nb", "nc", "ny"]
    assert done.inputs == ("x", "unread")
    assert not done.has_value("loose")


def test_a_node_stays_while_one_of_its_results_is_read() -> None:
    graph = Graph("g")
    build = GraphBuilder(graph)
    first, _ = build.add(Fake((kind(2), kind(3))), build.input("x", kind(2)))
    graph.outputs = graph.output_names = (first.name,)
    assert len(remove_dead(graph).nodes()) == 1


def test_equal_things_are_computed_once_all_the_way_down() -> None:
    graph = Graph("g")
    build = GraphBuilder(graph)
    x = build.input("x", diamond().value("x").type)
    ends = [build.one(RELU, build.one(RELU, x)) for _ in range(3)]
    y = ends[0]
    for end in ends[1:]:
        y = build.one(diamond().node("ny").op, y, end)
    graph.outputs = graph.output_names = (y.name,)
    done = run(Pipeline(MergeDuplicates()), graph, context(check=True))
    assert len(done.nodes()) == 4


def test_outputs_stay_apart_and_types_keep_values_apart() -> None:
    graph = Graph("g")
    build = GraphBuilder(graph)
    x = build.input("x", diamond().value("x").type)
    a, b, c = (build.one(RELU, x) for _ in range(3))
    typed = code_type()
    graph.set_value(replace(c, fixed=typed))
    y = build.one(diamond().node("ny").op, b, c)
    graph.outputs = graph.output_names = (a.name, b.name, y.name)
    done = run(Pipeline(MergeDuplicates()), graph, context())
    assert len(done.nodes()) == 4
    assert len(set(done.outputs)) == 3


def test_constants_of_equal_content_become_one() -> None:
    graph = Graph("g")
    build = GraphBuilder(graph)
    x = build.input("x", diamond().value("x").type)
    add = diamond().node("ny").op
    for _ in range(2):
        x = build.one(add, x, build.constant(np.ones((1, 3), np.float32)))
    x = build.one(add, x, build.constant(np.ones((1, 3), np.float64)))
    graph.outputs = graph.output_names = (x.name,)
    done = run(Pipeline(MergeDuplicates()), graph, context(check=True))
    held = [v for v in done.values() if v.constant is not None]
    assert sorted(str(v.constant.array.dtype) for v in held if v.constant) == ["float32", "float64"]
