"""The container: every verb keeps names, edges and payloads in step."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binpoint.errors import InvariantBroken
from binpoint.ir.build import GraphBuilder
from binpoint.ir.constant import Constant
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph, Node, Origin, Value
from binpoint.ir.text import dump
from binpoint.ir.verify import verify
from binpoint.numeric.fixed import FloatType, TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops.elementwise import Binary, Kind
from binpoint.ops.requantize import Clamp
from binpoint.ops.unary import Clip
from tests.plan.fakes import Fake, code_type, kind, random_graph

REAL = TensorType((1, 3), FloatType())
RELU = Clip(0.0, None)


def diamond() -> Graph:
    """x → a → (b, c) → y."""
    graph = Graph("diamond")
    build = GraphBuilder(graph)
    x = build.input("x", REAL)
    a = build.one(RELU, x, hint="na", outputs=("a",))
    b = build.one(Clip(0.0, 2.0), a, hint="nb", outputs=("b",))
    c = build.one(Clip(0.0, 3.0), a, hint="nc", outputs=("c",))
    y = build.one(Binary(Kind.ADD), b, c, hint="ny", outputs=("y",))
    graph.outputs = graph.output_names = (y.name,)
    return graph


def consistent(graph: Graph) -> None:
    """Edges say what the payloads say."""
    for node in graph.nodes():
        for name in node.inputs:
            assert node in graph.consumers(name)
        for name in node.outputs:
            assert graph.producer(name) == node
    for value in graph.values():
        assert all(value.name in reader.inputs for reader in graph.consumers(value.name))
        maker = graph.producer(value.name)
        assert maker is None or value.name in maker.outputs


def test_nodes_come_after_what_they_read() -> None:
    assert [n.name for n in diamond().nodes()] == ["na", "nb", "nc", "ny"]


@given(random=st.randoms(use_true_random=False))
def test_the_order_of_nodes_depends_on_names_alone(random: Random) -> None:
    graph = random_graph(random)
    nodes = {n.name: n for n in graph.nodes()}
    other = Graph(graph.name)
    for value in sorted(graph.values(), key=lambda v: v.name, reverse=True):
        other.add_value(value)
    for name in sorted(nodes, reverse=True):
        other.set_producer(nodes[name])
    consistent(other)
    assert [n.name for n in other.nodes()] == [n.name for n in graph.nodes()]
    seen = set(graph.inputs)
    for node in graph.nodes():
        assert seen.issuperset(node.inputs)
        seen.update(node.outputs)


def test_a_copy_is_edited_alone_and_lacks_nothing() -> None:
    graph = diamond()
    graph.quantized = graph.rational = True
    graph.digest, graph.coded = "d", {"x": code_type().storage}
    copy, text = graph.copy(), dump(graph)
    public = [name for name in vars(graph) if not name.startswith("_")]
    assert {n: getattr(copy, n) for n in public} == {n: getattr(graph, n) for n in public}
    copy.bypass(copy.node("nb"), "a")
    copy.rename_value("c", "renamed")
    copy.set_value(replace(copy.value("y"), source="changed"))
    consistent(copy)
    assert dump(graph) == text
    consistent(graph)


def test_readers_and_producers() -> None:
    graph = diamond()
    assert [n.name for n in graph.consumers("a")] == ["nb", "nc"]
    assert graph.sole_consumer("a") is None
    assert graph.sole_consumer("b") == graph.node("ny")
    assert graph.sole_consumer("y") is None
    assert graph.producer("x") is None
    graph.outputs = ("b", "y")
    assert graph.sole_consumer("b") is None


def test_rewiring_moves_readers_and_outputs() -> None:
    graph = diamond()
    graph.outputs = ("b", "y")
    graph.rewire("b", "c")
    consistent(graph)
    assert graph.node("ny").inputs == ("c", "c")
    assert graph.outputs == ("c", "y")
    assert graph.consumers("b") == ()


def test_a_bypassed_node_is_gone_with_its_result() -> None:
    graph = diamond()
    graph.bypass(graph.node("nb"), "a")
    consistent(graph)
    assert not graph.has_node("nb")
    assert not graph.has_value("b")
    assert graph.node("ny").inputs == ("a", "c")


def test_a_renamed_value_keeps_all_its_places() -> None:
    graph = diamond()
    for old, new in (("x", "in"), ("a", "middle"), ("y", "out")):
        graph.rename_value(old, new)
    consistent(graph)
    assert (graph.inputs, graph.outputs) == (("in",), ("out",))
    assert graph.node("na").inputs == ("in",)
    assert graph.node("nb").inputs == graph.node("nc").inputs == ("middle",)
    assert graph.value("middle").name == "middle"
    verify(graph, "float")


def test_no_verb_overwrites_or_leaves_loose_ends() -> None:
    graph = diamond()
    with pytest.raises(InvariantBroken, match="is there already"):
        graph.add_value(graph.value("a"))
    with pytest.raises(InvariantBroken, match="is there already"):
        graph.rename_value("a", "b")
    with pytest.raises(InvariantBroken, match="is there already"):
        graph.add(graph.node("na"), ())
    with pytest.raises(InvariantBroken, match="is there already"):
        graph.set_producer(graph.node("na"))
    with pytest.raises(InvariantBroken, match="still in use"):
        graph.drop_value("a")
    with pytest.raises(InvariantBroken, match="two producers"):
        graph.set_producer(Node("other", RELU, ("x",), ("a",)))
    with pytest.raises(InvariantBroken, match="not there"):
        graph.set_value(Value("absent", REAL))
    with pytest.raises(InvariantBroken, match="not there"):
        diamond().add(Node("n", RELU, ("absent",), ("r",)), (Value("r", REAL),))
    consistent(graph)


def test_fresh_names_avoid_values_and_nodes() -> None:
    graph = diamond()
    assert graph.fresh("a") == "a_2"
    assert graph.fresh("na") == "na_2"
    assert graph.fresh("other") == "other"


def test_origins_join_without_repeating() -> None:
    joined = Origin(("a", "b")) + Origin(("b", "c"))
    assert joined.names == ("a", "b", "c")


# ---- constants


def test_constants_compare_by_content_and_cannot_change() -> None:
    array = np.arange(4, dtype=np.int8)
    constant = Constant(array)
    array[0] = 9
    assert constant.array[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        constant.array[0] = 1
    assert constant == Constant(np.arange(4, dtype=np.int8))
    assert hash(constant) == hash(Constant(np.arange(4, dtype=np.int8)))
    different = [
        Constant(np.arange(4, dtype=np.uint8)),
        Constant(np.arange(4, dtype=np.int8).reshape(2, 2)),
        Constant(np.array([0, 1, 2, 4], np.int8)),
        Constant(np.arange(8, dtype=np.int8)[::2]),
    ]
    assert constant not in different
    assert Constant(np.arange(8, dtype=np.int8)[::2]) == Constant(np.array([0, 2, 4, 6], np.int8))
    assert Constant(np.array(2.5)).array.shape == ()


# ---- verify


def integers() -> tuple[Graph, GraphBuilder, Value]:
    graph = Graph("g")
    build = GraphBuilder(graph)
    x = build.input("x", kind(4))
    y = build.one(Clamp(-5, 5), x, outputs=("y",))
    graph.outputs = graph.output_names = (y.name,)
    return graph, build, y


def test_legal_graphs_are_legal() -> None:
    verify(diamond(), "float")
    verify(integers()[0], "integer")


def test_illegal_graphs_are_found() -> None:
    graph, _, y = integers()
    with pytest.raises(InvariantBroken, match="no place at stage"):
        verify(graph, "float")
    with pytest.raises(InvariantBroken, match="not of an integer type"):
        verify(diamond(), "integer")
    with pytest.raises(InvariantBroken, match="no integer type"):
        verify(diamond(), "typed")
    graph.set_value(replace(y, bounds=Interval(-5, 200)))
    with pytest.raises(InvariantBroken, match="does not fit its type"):
        verify(graph, "integer")
    graph.set_value(replace(y, type=kind(5)))
    with pytest.raises(InvariantBroken, match="another type than its op infers"):
        verify(graph, "integer")


def test_broken_structures_are_found() -> None:
    graph = diamond()
    graph.outputs = ("absent",)
    with pytest.raises(InvariantBroken, match="listed as input or output"):
        verify(graph, "float")
    graph = diamond()
    graph.remove("na")
    with pytest.raises(InvariantBroken, match="nothing computes the value `a`"):
        verify(graph, "float")
    graph = diamond()
    graph.replace(replace(graph.node("na"), inputs=("b",)))
    assert not graph.is_acyclic()
    with pytest.raises(InvariantBroken, match="cycle"):
        verify(graph, "float")


# ---- evaluate


def test_the_interpreter_gives_every_value() -> None:
    x = np.array([[-1, 1, 9]], np.float32)
    values = evaluate(diamond(), {"x": x})
    assert sorted(values) == ["a", "b", "c", "x", "y"]
    assert values["y"].tolist() == [[0, 2, 5]]


def test_the_interpreter_finds_values_outside_of_their_proven_range() -> None:
    graph, _, y = integers()
    codes = np.array([-9, 0, 3, 9])
    assert evaluate(graph, {"x": codes})["y"].tolist() == [-5, 0, 3, 5]
    graph.set_value(replace(y, bounds=Interval(-5, 4)))
    with pytest.raises(InvariantBroken, match="leaves its proven range"):
        evaluate(graph, {"x": codes})


# ---- build


def test_the_builder_makes_names_that_are_free_and_ranges() -> None:
    graph, build, y = integers()
    made = build.add(Fake((kind(1), kind(2))), y, hint="y", outputs=("x", "node"))
    assert [v.name for v in made] == ["x_2", "node_2"]
    assert [v.bounds for v in made] == [Interval(-1, 1)] * 2
    constant = build.constant(np.array([3, -7]), code_type())
    assert constant.bounds == Interval(-7, 3)
    consistent(graph)
    with pytest.raises(AssertionError, match="does not fit"):
        build.constant(np.array([300]), code_type())
