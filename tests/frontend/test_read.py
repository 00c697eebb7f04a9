from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from binpoint.errors import (
    BinpointError,
    DynamicShape,
    Exit,
    InputNotFound,
    InvalidModel,
    UnsupportedOperator,
)
from binpoint.frontend.load import load
from binpoint.frontend.read import read_model
from tests.build import info, model, node, refused, save, tiny

# ---- the file


def test_a_file_that_is_not_there_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.onnx", tmp_path):
        with pytest.raises(InputNotFound) as caught:
            load(path)
        assert (caught.value.code, caught.value.exit) == ("BP8004", Exit.USAGE)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 64, b"PK\3\4 a zip", b"import torch\n", bytes(range(256)), b"\x08\x08" * 500],
)
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    assert isinstance(refused(content, tmp_path), InvalidModel)


def test_a_file_cut_anywhere_is_one_error_or_a_smaller_model(tmp_path: Path) -> None:
    whole = tiny().SerializeToString()
    found: list[Exit] = []
    for end in range(0, len(whole), 7):
        path = tmp_path / "cut.onnx"
        path.write_bytes(whole[:end])
        try:
            load(path)
        except BinpointError as error:
            found.append(error.exit)
    assert set(found) == {Exit.MODEL}
    assert len(found) > len(whole) / 7 * 0.9


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300))
def test_random_bytes_are_refused(content: bytes, tmp_path: Path) -> None:
    refused(content, tmp_path)


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    inner = onnx.GraphProto(name="leaf")
    for _ in range(20):
        outer = onnx.GraphProto(name="g")
        outer.node.add(op_type="If").attribute.add(
            name="then_branch", type=onnx.AttributeProto.GRAPH
        ).g.CopyFrom(inner)
        inner = outer
    inner.output.append(info("y", [1]))
    made = onnx.ModelProto(ir_version=8, graph=inner)
    made.opset_import.append(helper.make_opsetid("", 17))
    assert isinstance(refused(made, tmp_path), InvalidModel | UnsupportedOperator)
    # Bytes that say "length-delimited field 7 within field 7 within ..." nest without an end.
    nested = b""
    for _ in range(5000):
        size, length = len(nested), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        nested = b"\x3a" + length + bytes([size]) + nested
    assert isinstance(refused(nested, tmp_path), InvalidModel)


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    import hashlib

    path = save(tiny(), tmp_path / "m.onnx")
    assert read_model(path)[1] == hashlib.sha256(path.read_bytes()).hexdigest()


# ---- the graph


def test_a_cycle_is_refused(tmp_path: Path) -> None:
    nodes = [node("Add", "x b", "a", "first"), node("Relu", "a", "b", "second")]
    error = refused(model(nodes, [info("x", [1, 4])], [info("a", [1, 4])]), tmp_path)
    assert isinstance(error, InvalidModel)
    assert "cycle" in error.message
    assert "first" in (error.at or "")


def test_a_missing_initializer_is_named(tmp_path: Path) -> None:
    made = tiny()
    del made.graph.initializer[0]
    error = refused(made, tmp_path)
    assert "`w`" in error.message
    assert error.at == "conv"


def test_a_value_computed_twice_is_refused(tmp_path: Path) -> None:
    nodes = [node("Relu", "x", "y"), node("Abs", "x", "y")]
    error = refused(model(nodes, [info("x", [1, 4])], [info("y", [1, 4])]), tmp_path)
    assert "`y` is computed twice" in error.message
    nodes = [node("Relu", "x", "x")]
    assert "twice" in refused(model(nodes, [info("x", [1])], [info("x", [1])]), tmp_path).message
    nodes = [node("Relu", "x", "w")]
    made = model(nodes, [info("x", [1])], [info("w", [1])], {"w": np.zeros(1, np.float32)})
    assert "twice" in refused(made, tmp_path).message


@pytest.mark.parametrize("what", ["input", "initializer"])
def test_inputs_and_initializers_have_names_of_their_own(what: str, tmp_path: Path) -> None:
    items = tiny().graph.input if what == "input" else tiny().graph.initializer
    for name, words in (("", "has no name"), (items[0].name, "is there twice")):
        made = tiny()
        copy = getattr(made.graph, what).add()
        copy.CopyFrom(items[0])
        copy.name = name
        error = refused(made, tmp_path)
        assert isinstance(error, InvalidModel)
        assert words in error.message


def test_an_initializer_may_be_listed_as_an_input_as_old_files_do(tmp_path: Path) -> None:
    made = tiny()
    made.graph.input.append(info("w", [3, 2, 3, 3]))
    assert load(save(made, tmp_path / "m.onnx")).inputs == ("x",)


def test_nodes_may_come_in_any_order(tmp_path: Path) -> None:
    made = tiny()
    nodes = list(made.graph.node)
    del made.graph.node[:]
    made.graph.node.extend(reversed(nodes))
    first = load(save(tiny(), tmp_path / "m.onnx"))
    second = load(save(made, tmp_path / "m.onnx"))
    assert [n.op for n in first.nodes()] == [n.op for n in second.nodes()]


@pytest.mark.parametrize("op", ["If", "Loop", "Scan", "SequenceMap"])
def test_control_flow_is_refused_by_name(op: str, tmp_path: Path) -> None:
    made = model([node(op, "x", "y", "branch")], [info("x", [1])], [info("y", [1])])
    error = refused(made, tmp_path)
    assert isinstance(error, UnsupportedOperator)
    assert f"`{op}`" in error.message
    assert error.at == "branch"


def test_no_outputs_are_refused(tmp_path: Path) -> None:
    made = tiny()
    del made.graph.output[:]
    assert "no outputs" in refused(made, tmp_path).message


def test_an_output_that_nothing_computes_is_named(tmp_path: Path) -> None:
    made = tiny()
    made.graph.output[0].name = "other"
    assert "`other` is never computed" in refused(made, tmp_path).message


def test_a_result_that_this_compiler_does_not_compute_is_refused_where_it_is_read(
    tmp_path: Path,
) -> None:
    drop = node("Dropout", "x", "y mask")
    x, y = info("x", [1, 4]), info("y", [1, 4])
    assert load(save(model([drop], [x], [y]), tmp_path / "m.onnx")).output_names == ("y",)
    made = model([drop], [x], [y, info("mask", [1, 4], TensorProto.BOOL)])
    assert "`mask`" in refused(made, tmp_path).message


def test_a_node_without_results_or_operator_is_one_error(tmp_path: Path) -> None:
    for odd in (
        onnx.NodeProto(),
        onnx.NodeProto(op_type="Relu"),
        onnx.NodeProto(op_type="Nothing"),
    ):
        made = tiny()
        made.graph.node.append(odd)
        refused(made, tmp_path)


# ---- shapes


def test_a_symbolic_batch_is_one(tmp_path: Path) -> None:
    for batch in ("N", None, -1, 1):
        made = model([node("Relu", "x", "y")], [info("x", [batch, 3])], [info("y", [batch, 3])])
        graph = load(save(made, tmp_path / "m.onnx"))
        assert graph.value("x").shape == (1, 3)


@pytest.mark.parametrize(("axis", "have"), [("width", "width"), (None, "unknown"), (-5, "-5")])
def test_any_other_dynamic_axis_is_refused_with_its_name(
    axis: str | int | None, have: str, tmp_path: Path
) -> None:
    made = model([node("Relu", "x", "y")], [info("x", ["N", 3, axis])], [info("y", None)])
    error = refused(made, tmp_path)
    assert isinstance(error, DynamicShape)
    assert (error.code, error.have) == ("BP1002", have)
    assert "axis 2 of the input `x`" in error.message


def test_an_input_of_unknown_rank_is_refused(tmp_path: Path) -> None:
    made = model([node("Relu", "x", "y")], [info("x", None)], [info("y", None)])
    assert isinstance(refused(made, tmp_path), DynamicShape)


@pytest.mark.parametrize("shape", [[0, 3], [1, 0], [1, 3, 0, 2]])
def test_an_empty_input_is_refused(shape: list[int], tmp_path: Path) -> None:
    made = model([node("Relu", "x", "y")], [info("x", shape)], [info("y", shape)])
    assert "is empty" in refused(made, tmp_path).message


@pytest.mark.parametrize("shape", [[1, 1 << 40], [1 << 62, 1 << 62], [1, 1 << 16, 1 << 16]])
def test_a_tensor_too_large_to_count_is_refused(shape: list[int], tmp_path: Path) -> None:
    made = model([node("Relu", "x", "y")], [info("x", shape)], [info("y", shape)])
    assert "too large" in refused(made, tmp_path).message


@pytest.mark.parametrize("op", ["ConstantOfShape", "Expand", "Tile", "Range"])
def test_constants_are_not_computed_where_they_would_fill_the_memory(
    op: str, tmp_path: Path
) -> None:
    many = np.array([1 << 20, 1 << 20], np.int64)
    match op:
        case "ConstantOfShape":
            nodes, arrays = [node(op, "n", "c")], {"n": many}
        case "Range":
            ends = {"a": np.array(0.0), "b": np.array(1e12), "d": np.array(1.0)}
            nodes, arrays = [node(op, "a b d", "c")], ends
        case _:
            nodes, arrays = (
                [node(op, "one n", "c")],
                {"one": np.ones((1, 1), np.float32), "n": many},
            )
    made = model([*nodes, node("Add", "x c", "y")], [info("x", [1])], [info("y", None)], arrays)
    assert "too large" in refused(made, tmp_path).message


def test_a_result_too_large_to_count_is_refused(tmp_path: Path) -> None:
    arrays = {"n": np.array([1, 1 << 31], np.int64)}
    made = model([node("Expand", "x n", "y")], [info("x", [1, 1])], [info("y", None)], arrays)
    assert "too large" in refused(made, tmp_path).message


# ---- versions


@pytest.mark.parametrize("version", [-1, 0, 1, 6, onnx.defs.onnx_opset_version() + 1, 1 << 60])
def test_operator_sets_outside_of_the_range_are_refused(version: int, tmp_path: Path) -> None:
    made = tiny()
    made.opset_import[0].version = version
    error = refused(made, tmp_path)
    assert isinstance(error, UnsupportedOperator)
    assert str(version) in error.message
    assert f"to {onnx.defs.onnx_opset_version()}" in (error.want or "")


def test_a_file_that_states_no_operator_set_is_refused(tmp_path: Path) -> None:
    made = tiny()
    del made.opset_import[:]
    assert isinstance(refused(made, tmp_path), UnsupportedOperator)


# ---- functions


def _with_function(body: list[onnx.NodeProto]) -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "Twice", ["a"], ["b"], body, opsets)
    graph = helper.make_graph(
        [helper.make_node("Twice", ["x"], ["y"], domain="own")],
        "net",
        [info("x", [1, 4])],
        [info("y", [1, 4])],
    )
    return helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=8)


def test_local_functions_are_put_in_place_of_their_calls(tmp_path: Path) -> None:
    body = [node("Add", "a a", "s"), node("Relu", "s", "b")]
    graph = load(save(_with_function(body), tmp_path / "m.onnx"))
    assert len(graph.nodes()) == 2
    assert graph.output_names == ("y",)


def test_a_function_that_calls_itself_is_refused(tmp_path: Path) -> None:
    body = [helper.make_node("Twice", ["a"], ["b"], domain="own")]
    refused(_with_function(body), tmp_path)
