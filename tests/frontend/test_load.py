"""What a model means: the import against onnxruntime's run of the same file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from binpoint import ort, pipelines
from binpoint.driver import compile_model
from binpoint.errors import InvalidConstant, UnsupportedOperator
from binpoint.frontend.load import load
from binpoint.frontend.samples import read_samples
from binpoint.ir.evaluate import evaluate
from binpoint.ir.text import dump
from binpoint.ir.verify import verify
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.passes.convert import stored_inputs
from binpoint.passes.manager import run
from binpoint.target import load_target
from tests.build import FLOAT, INT8, UINT8, info, model, node, refused, save, tiny
from tests.nets_qdq import RNG, Net, lowered

NEWEST = onnx.defs.onnx_opset_version()


# ---- float models


def float_outputs(made: onnx.ModelProto, folder: Path) -> tuple[list[Any], list[Any]]:
    """Outputs of the imported float graph, and onnxruntime's, for noise."""
    path = folder / "model.onnx"
    graph = load(save(made, path))
    verify(graph, "float")
    (name,) = graph.inputs
    x = RNG.normal(size=graph.value(name).shape)
    session = ort.plain(str(path))
    kind = made.graph.input[0].type.tensor_type.elem_type
    theirs = session.run({"x": x.astype(helper.tensor_dtype_to_np_dtype(kind))})
    ours = evaluate(graph, {name: x.astype(np.float32)})
    return [ours[n] for n in graph.outputs], [theirs[n] for n in graph.output_names]


def test_a_float_model_means_what_onnxruntime_computes(tmp_path: Path) -> None:
    ours, theirs = float_outputs(tiny(), tmp_path)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_initializers_may_be_of_half_or_double_precision(
    dtype: type[np.floating[Any]], tmp_path: Path
) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    arrays = {"w": RNG.normal(size=(6, 5)).astype(dtype), "b": RNG.normal(size=5).astype(dtype)}
    nodes = [node("MatMul", "x w", "h"), node("Add", "h b", "y")]
    made = model(nodes, [info("x", [1, 6], kind)], [info("y", [1, 5], kind)], arrays)
    ours, theirs = float_outputs(made, tmp_path)
    np.testing.assert_allclose(
        ours[0], theirs[0], rtol=2e-2 if dtype is np.float16 else 1e-5, atol=1e-2
    )


def _of_opset(version: int) -> onnx.ModelProto:
    """The same network as each operator set writes it."""
    old = version < 13
    arrays: dict[str, NDArray[Any]] = {
        "w": np.linspace(-1, 1, 54, dtype=np.float32).reshape(3, 2, 3, 3),
        "lo": np.array(0, np.float32),
        "hi": np.array(6, np.float32),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        "axes": np.array([2, 3], np.int64),
        "one": np.array([1], np.int64),
    }
    pad = (
        node("Pad", "x", "p", pads=arrays["pads"].tolist())
        if version < 11
        else node("Pad", "x pads", "p")
    )
    clip = (
        node("Clip", "h", "c", min=0.0, max=6.0) if version < 11 else node("Clip", "h lo hi", "c")
    )
    mean = (
        node("ReduceMean", "c", "m", axes=[2, 3], keepdims=1)
        if version < 18
        else node("ReduceMean", "c axes", "m", keepdims=1)
    )
    squeeze = node("Squeeze", "m", "s", axes=[2, 3]) if old else node("Squeeze", "m axes", "s")
    softmax = node("Softmax", "s", "y", axis=1)
    nodes = [pad, node("Conv", "p w", "h"), clip, mean, squeeze, softmax]
    used = {name for n in nodes for name in n.input}
    constants = {name: array for name, array in arrays.items() if name in used}
    return model(
        nodes, [info("x", ["N", 2, 5, 5])], [info("y", ["N", 3])], constants, opset=version
    )


def test_all_operator_sets_mean_the_same(tmp_path: Path) -> None:
    texts: set[str] = set()
    for version in range(9, NEWEST + 1):
        graph = load(save(_of_opset(version), tmp_path / "model.onnx"))
        context = Context(load_target("host"), CompileOptions())
        folded = run(pipelines.mcu().until("merge-duplicates"), graph, context)
        texts.add(dump(folded))
    assert len(texts) == 1, "\n".join(sorted(texts))
    ours, theirs = float_outputs(_of_opset(9), tmp_path)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("version", [9, 13, 21, NEWEST])
def test_constants_are_computed_in_every_operator_set(version: int, tmp_path: Path) -> None:
    value = helper.make_tensor("v", FLOAT, [1, 2], [1.5, -2])
    nodes = [
        node("Constant", "", "c", value=value),
        node("Mul", "c c", "d"),
        node("Add", "x d", "y"),
    ]
    made = model(nodes, [info("x", [1, 2])], [info("y", [1, 2])], opset=version)
    graph = load(save(made, tmp_path / "model.onnx"))
    (name,) = graph.outputs
    zero = np.zeros((1, 2), np.float32)
    assert evaluate(graph, {graph.inputs[0]: zero})[name].tolist() == [[2.25, 4.0]]


# ---- borders


def test_an_output_may_be_an_input_a_constant_or_another_output(tmp_path: Path) -> None:
    net = Net()
    net.arrays["w"] = np.array([[1, 2, 3]], np.float32)
    net.op("Relu", "x", "y")
    graph = lowered(net.model([1, 3], "y", "x", "w", "y"), tmp_path / "model.onnx")
    assert graph.output_names == ("y", "x", "w", "y")
    assert len(set(graph.outputs)) == 4
    kinds = [graph.value(n).elem for n in graph.outputs]
    (x,) = graph.inputs
    codes = np.array([[-100, 7, 90]])
    values = evaluate(graph, {x: codes})
    real = [k.dequantize(values[n]) for k, n in zip(kinds, graph.outputs, strict=True)]
    given = graph.value(x).elem.dequantize(codes)
    steps = [float(k.scale) / 2 + 1e-6 for k in kinds]
    expected = [np.maximum(given, 0), given, net.arrays["w"], np.maximum(given, 0)]
    for have, want, step in zip(real, expected, steps, strict=True):
        assert np.abs(have - want).max() <= step


def test_an_input_that_nobody_reads_stays_in_the_interface(tmp_path: Path) -> None:
    made = model(
        [node("Relu", "x", "y")],
        [info("x", [1, 3]), info("unread", [1, 2])],
        [info("y", [1, 3])],
    )
    graph = lowered(made, tmp_path / "model.onnx")
    assert [graph.value(n).source for n in graph.inputs] == ["x", "unread"]


@pytest.mark.parametrize(
    "kind",
    [
        TensorProto.INT16,
        TensorProto.STRING,
        TensorProto.COMPLEX64,
        0,
        77,
    ],
)
def test_inputs_of_other_types_are_refused_by_name(kind: int, tmp_path: Path) -> None:
    error = refused(
        model([node("Identity", "x", "y")], [info("x", [1], kind)], [info("y", [1])]), tmp_path
    )
    assert isinstance(error, UnsupportedOperator)
    assert "`x`" in error.message


@pytest.mark.parametrize("table", [5, 300])
@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32])
def test_rows_of_a_table_are_chosen_by_integers(
    table: int, kind: int, rng: np.random.Generator, tmp_path: Path
) -> None:
    nodes = [
        node("Cast", "x", "places", to=TensorProto.INT64),
        node("Slice", "places one four axis", "some"),
        node("Gather", "rows some", "y"),
    ]
    arrays = {
        "rows": rng.normal(size=(table, 6)).astype(np.float32),
        **{n: np.array([v], np.int64) for n, v in (("one", 1), ("four", 4), ("axis", 1))},
    }
    made = model(nodes, [info("x", [1, 7], kind)], [info("y", [1, 3, 6])], arrays)
    path = save(made, tmp_path / "m.onnx")
    x = rng.integers(0, table, (20, 1, 7))
    np.savez(tmp_path / "x.npz", x=x)
    result = compile_model(
        path, load_target("host"), CompileOptions(), samples=tmp_path / "x.npz", verify="ort"
    )
    (out,) = (result.graph.value(name) for name in result.graph.outputs)
    samples = read_samples(tmp_path / "x.npz", result.graph)
    assert samples is not None
    for codes, places in zip(stored_inputs(result.graph, samples), x, strict=True):
        (found,) = (evaluate(result.graph, codes)[n] for n in result.graph.outputs)
        wanted = arrays["rows"][places[0, 1:4]]
        error = np.abs(out.elem.dequantize(found)[0] - wanted)
        assert error.max() <= 1.1 * float(out.elem.scale)


def test_integers_that_are_computed_with_are_refused(tmp_path: Path) -> None:
    made = model([node("Div", "x x", "y")], [info("x", [1], TensorProto.INT64)], [info("y", [1])])
    assert "`x`" in refused(made, tmp_path).message


def test_what_a_constant_condition_takes_is_read(tmp_path: Path) -> None:
    def branch(op: str) -> onnx.GraphProto:
        held = [numpy_helper.from_array(np.array([2.0], np.float32), "two")]
        return helper.make_graph([node(op, "h two", "z")], op, [], [info("z", [1, 3])], held)

    nodes = [
        node("Relu", "x", "h"),
        node("Size", "h", "size"),
        node("Equal", "size three", "is"),
        node("If", "is", "y", then_branch=branch("Mul"), else_branch=branch("Add")),
    ]
    arrays = {"three": np.array(3, np.int64)}
    made = model(nodes, [info("x", [1, 3])], [info("y", [1, 3])], arrays)
    graph = load(save(made, tmp_path / "m.onnx"))
    x = np.array([[-1.0, 2.0, 0.5]], np.float32)
    np.testing.assert_array_equal(evaluate(graph, {"x": x})[graph.outputs[0]], [[0.0, 4.0, 1.0]])


def test_operators_that_stand_for_others_are_written_out(tmp_path: Path) -> None:
    nodes = [
        node("Swish", "x", "h", alpha=2.0),
        node("CastLike", "h one", "z"),
        node("CenterCropPad", "z shape", "y", axes=[1]),
    ]
    arrays = {"one": np.ones(1, np.float32), "shape": np.array([3], np.int64)}
    made = model(nodes, [info("x", [1, 3])], [info("y", [1, 3])], arrays, opset=24)
    graph = load(save(made, tmp_path / "m.onnx"))
    x = np.array([[-1.0, 2.0, 0.5]], np.float32)
    wanted = x / (1 + np.exp(-2 * x))
    np.testing.assert_allclose(evaluate(graph, {"x": x})[graph.outputs[0]], wanted, rtol=1e-6)


def test_inputs_that_are_no_tensors_are_refused(tmp_path: Path) -> None:
    made = tiny()
    made.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = FLOAT
    assert "`x`" in refused(made, tmp_path).message


# ---- operators


def test_an_unknown_operator_is_refused_by_name_with_its_place(tmp_path: Path) -> None:
    made = model(
        [node("Relu", "x", "h"), node("Wobble", "h", "y", "odd")],
        [info("x", [1])],
        [info("y", [1])],
    )
    error = refused(made, tmp_path)
    assert "`Wobble`" in error.message
    assert error.at == "odd (node 1)"
    assert error.hint


@pytest.mark.parametrize(
    "bad",
    [
        node("Relu", "x", "y", slope=0.5),
        node("LeakyRelu", "x", "y", alpha="steep"),
        node("Concat", "x x", "y"),
        node("Relu", "x x", "y"),
        node("Transpose", "x", "y", perm=[0, 0]),
        node("Transpose", "x", "y", perm=[0]),
        node("Softmax", "x", "y", axis=5),
        node("Concat", "x x", "y", axis=-9),
        node("Flatten", "x", "y", axis=7),
        node("Upsample", "x", "y", scales=[1.0, 1.0]),
    ],
    ids=lambda n: f"{n.op_type}-{'-'.join(a.name for a in n.attribute)}-{len(n.input)}",
)
def test_nodes_that_do_not_follow_their_definition_are_refused(
    bad: onnx.NodeProto, tmp_path: Path
) -> None:
    error = refused(model([bad], [info("x", [1, 4])], [info("y", None)]), tmp_path)
    assert error.at == "y (node 0)"


@pytest.mark.parametrize("to", [TensorProto.INT8, TensorProto.BOOL, TensorProto.INT64])
def test_a_cast_of_real_numbers_to_integers_is_refused(to: int, tmp_path: Path) -> None:
    made = model([node("Cast", "x", "y", to=to)], [info("x", [1, 4])], [info("y", [1, 4], to)])
    assert "Cast" in refused(made, tmp_path).message


def test_a_cast_that_would_wrap_codes_is_refused(tmp_path: Path) -> None:
    made = model(
        [node("Cast", "x", "y", to=INT8)], [info("x", [1, 4], UINT8)], [info("y", [1, 4], INT8)]
    )
    assert "Cast" in refused(made, tmp_path).message
    nodes = [node("ArgMax", "x", "i", axis=1), node("Cast", "i", "y", to=TensorProto.BOOL)]
    made = model(nodes, [info("x", [1, 4])], [info("y", [1, 1], TensorProto.BOOL)])
    assert "Cast" in refused(made, tmp_path).message


@pytest.mark.parametrize("name", ["RandomNormal", "RandomUniform"])
def test_random_numbers_are_no_constants(name: str, tmp_path: Path) -> None:
    nodes = [node(name, "", "r", shape=[1, 4]), node("Add", "x r", "y")]
    assert name in refused(model(nodes, [info("x", [1, 4])], [info("y", [1, 4])]), tmp_path).message


def test_a_constant_computed_to_infinity_is_refused(tmp_path: Path) -> None:
    nodes = [node("Div", "a b", "c", "by_zero"), node("Add", "x c", "y")]
    arrays = {"a": np.ones(4, np.float32), "b": np.zeros(4, np.float32)}
    error = refused(model(nodes, [info("x", [1, 4])], [info("y", [1, 4])], arrays), tmp_path)
    assert isinstance(error, InvalidConstant)
    assert "by_zero" in (error.at or "")


# ---- names


NAMES = (
    'say "hi"', "*/ int x; /*", "a\nb", "a\r\n#error", "int", "return", "a??/", "*\\", "ünï/çødé",
    "日本", "%s%n", "'", "\\", "\t", "0", "x" * 300, "../../etc",
    "\x7f", "é", "main", "exp", "NULL",
)  # fmt: skip


def test_any_name_makes_identifiers_of_its_own(tmp_path: Path) -> None:
    nodes = [node("Relu", "h", "h") for _ in NAMES]
    for made, (source, result) in zip(nodes, zip(("x", *NAMES), NAMES, strict=False), strict=True):
        made.name, made.input[0], made.output[0] = result, source, result
    outputs = [info(name, [1, 3]) for name in NAMES]
    graph = load(save(model(nodes, [info("x", [1, 3])], outputs), tmp_path / "model.onnx"))
    assert graph.output_names == NAMES
    names = [v.name for v in graph.values()]
    assert all(n.isascii() and n.isidentifier() and len(n) <= 64 for n in names)
    assert len({n.lower() for n in names}) <= len(set(names))
