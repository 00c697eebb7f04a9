"""recognise-layer-norm: the operators of older exporters become one op."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from binpoint import ort
from binpoint.frontend.load import load
from binpoint.frontend.patterns import RecogniseLayerNorm
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import constant_array, evaluate
from binpoint.ir.graph import Graph, Value
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, FixedType, FloatType, TensorType
from binpoint.ops.elementwise import Binary, Kind, Scalar
from binpoint.ops.groupnorm import GroupNorm
from binpoint.ops.layernorm import LayerNorm
from binpoint.ops.reduce import Reduce
from binpoint.ops.shape import Reshape
from binpoint.ops.unary import Clip, Unary

Apply = Callable[..., Graph]
SHAPE = (2, 5, 8)
GAMMA = np.linspace(0.5, 2, 8, dtype=np.float32)
BETA = np.linspace(-1, 1, 8, dtype=np.float32)


class Written:
    """A layer norm over `axis` as many ops; keeps the values in between by name."""

    def __init__(
        self,
        *,
        axis: int = 2,
        power: bool = True,
        inverse: str = "",
        swapped: bool = False,
        over: int | None = None,
        centred: bool = True,
    ) -> None:
        """Write the quotient."""
        self.build = GraphBuilder(Graph("g"))
        self.x = self.build.input("x", TensorType(SHAPE, FloatType()))
        one = self.build.one
        self.mean = one(Reduce((axis,), mean=True), self.x)
        self.apart = one(Binary(Kind.SUB), self.x, self.mean) if centred else self.x
        square = (
            one(Scalar(Kind.POW, 2.0), self.apart)
            if power
            else one(Binary(Kind.MUL), self.apart, self.apart)
        )
        self.variance = one(Reduce((axis if over is None else over,), mean=True), square)
        self.root = one(Unary("Sqrt"), one(Scalar(Kind.ADD, 1e-3), self.variance))
        if inverse:
            op = Unary("Reciprocal") if inverse == "Reciprocal" else Scalar(Kind.DIV, 1.0, True)
            pair = [self.apart, one(op, self.root)]
            self.y = one(Binary(Kind.MUL), *(pair[::-1] if swapped else pair))
        else:
            self.y = one(Binary(Kind.DIV), self.apart, self.root)

    def then(self, kind: Kind, array: np.ndarray, *, first: bool = False) -> Value:
        """One more op with a constant."""
        pair = [self.y, self.build.constant(array)]
        self.y = self.build.one(Binary(kind), *(pair[::-1] if first else pair))
        return self.y

    def graph(self, *more: Value) -> Graph:
        """The graph, with more outputs."""
        outputs = tuple(v.name for v in (self.y, *more))
        self.build.graph.outputs = self.build.graph.output_names = outputs
        return self.build.graph


def ops(graph: Graph) -> list[object]:
    return [node.op for node in graph.nodes()]


def parameters(graph: Graph) -> list[np.ndarray]:
    (node,) = graph.nodes()
    return [constant_array(v) for v in graph.arguments(node)[1:]]


@pytest.mark.parametrize("power", [True, False])
@pytest.mark.parametrize(
    ("inverse", "swapped"), [("", False), ("Reciprocal", False), ("Div", True)]
)
def test_all_spellings_become_one_op(
    apply: Apply, power: bool, inverse: str, swapped: bool
) -> None:
    written = Written(power=power, inverse=inverse, swapped=swapped)
    written.then(Kind.MUL, GAMMA, first=swapped)
    written.then(Kind.ADD, BETA.reshape(1, 1, 8), first=not swapped)
    done = apply(written.graph(), RecogniseLayerNorm())
    assert ops(done) == [LayerNorm(2, 1e-3)]
    for found, wanted in zip(parameters(done), (GAMMA, BETA), strict=True):
        np.testing.assert_array_equal(found, wanted)


def euclidean(tmp_path: Path, *, least: float = 1e-12, axis: int = -1) -> Path:
    """What torch writes for `normalize`."""
    make = helper.make_node
    nodes = [
        make("ReduceL2", ["x"], ["n"], axes=[axis], keepdims=1),
        make("Clip", ["n", "least"], ["m"]),
        make("Expand", ["m", "shape"], ["e"]),
        make("Div", ["x", "e"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, SHAPE) for n in ("x", "y")]
    constants = [
        numpy_helper.from_array(np.array(least, np.float32), "least"),
        numpy_helper.from_array(np.array(SHAPE, np.int64), "shape"),
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    opsets = [helper.make_opsetid("", 17)]
    path = tmp_path / "g.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    )
    return path


@pytest.mark.parametrize("axis", [-1, 1])
def test_over_its_euclidean_norm_is_one_op(
    apply: Apply, tmp_path: Path, axis: int, rng: np.random.Generator
) -> None:
    path = euclidean(tmp_path, axis=axis)
    done = apply(load(path), RecogniseLayerNorm())
    assert ops(done) == [LayerNorm(axis % 3, 0.0, centred=False)]
    x = rng.normal(size=SHAPE).astype(np.float32)
    (wanted,) = ort.reference(str(path)).run({"x": x}).values()
    found = evaluate(done, {done.inputs[0]: x})[done.outputs[0]]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_norm_that_is_kept_far_off_zero_stays(apply: Apply, tmp_path: Path) -> None:
    done = apply(load(euclidean(tmp_path, least=0.5)), RecogniseLayerNorm())
    assert Clip(0.5, None) in ops(done)


@pytest.mark.parametrize("affine", [True, False])
def test_channels_one_by_one_between_reshapes_are_groups(
    apply: Apply, rng: np.random.Generator, affine: bool
) -> None:
    """What torch's exporter writes for GroupNorm."""
    graph = Graph("g")
    build = GraphBuilder(graph)
    x = build.input("x", TensorType((2, 6, 4, 3), FloatType()))
    own = [build.constant(rng.normal(1, 1, 3).astype(np.float32)) for _ in range(2)]
    middle = build.one(Reshape((2, 3, 24)), x)
    y = build.one(Reshape((2, 6, 4, 3)), build.one(GroupNorm(3, 1e-5), middle, *own))
    for kind in (Kind.MUL, Kind.ADD) if affine else ():
        more = build.constant(rng.normal(1, 1, (6, 1, 1)).astype(np.float32))
        y = build.one(Binary(kind), y, more)
    graph.outputs = graph.output_names = (y.name,)
    done = apply(graph, RecogniseLayerNorm())
    assert ops(done) == [GroupNorm(3, 1e-5)]


def test_reshapes_that_mix_channels_stay(apply: Apply) -> None:
    graph = Graph("g")
    build = GraphBuilder(graph)
    x = build.input("x", TensorType((2, 6, 4, 3), FloatType()))
    own = [build.constant(np.ones(6, np.float32)) for _ in range(2)]
    middle = build.one(Reshape((4, 6, 6)), x)
    y = build.one(Reshape((2, 6, 4, 3)), build.one(GroupNorm(6, 1e-5), middle, *own))
    graph.outputs = graph.output_names = (y.name,)
    assert len(ops(apply(graph, RecogniseLayerNorm()))) == 3


@pytest.mark.parametrize("inverse", ["", "Reciprocal", "Div"])
def test_without_a_mean_it_is_the_root_mean_square(apply: Apply, inverse: str) -> None:
    written = Written(power=not inverse, inverse=inverse, centred=False)
    written.then(Kind.MUL, GAMMA)
    written.build.graph.remove(written.build.graph.nodes()[0].name)
    written.build.graph.drop_value(written.mean.name)
    done = apply(written.graph(), RecogniseLayerNorm())
    assert ops(done) == [LayerNorm(2, 1e-3, centred=False)]
    np.testing.assert_array_equal(parameters(done), [GAMMA, np.zeros(8)])


def test_a_mean_over_another_axis_is_not_that_of_the_norm(apply: Apply) -> None:
    """The root mean square of the difference is one all the same."""
    done = apply(Written(over=1).graph(), RecogniseLayerNorm())
    assert LayerNorm(1, 1e-3, centred=False) in ops(done)
    assert Binary(Kind.SUB) in ops(done)


def test_gamma_and_beta_may_be_missing_or_one_number(apply: Apply) -> None:
    plain = apply(Written().graph(), RecogniseLayerNorm())
    assert ops(plain) == [LayerNorm(2, 1e-3)]
    np.testing.assert_array_equal(parameters(plain), [np.ones(8), np.zeros(8)])
    written = Written()
    written.y = written.build.one(Scalar(Kind.MUL, 3.0), written.y)
    done = apply(written.graph(), RecogniseLayerNorm())
    np.testing.assert_array_equal(parameters(done), [np.full(8, 3.0), np.zeros(8)])


def test_another_axis_keeps_its_parameters_in_place(apply: Apply) -> None:
    written = Written(axis=1)
    written.then(Kind.MUL, np.arange(1, 6, dtype=np.float32).reshape(5, 1))
    done = apply(written.graph(), RecogniseLayerNorm())
    assert ops(done) == [LayerNorm(1, 1e-3)]


def test_factors_along_another_axis_stay(apply: Apply) -> None:
    written = Written(axis=1)
    written.then(Kind.MUL, GAMMA)
    done = apply(written.graph(), RecogniseLayerNorm())
    assert [type(op) for op in ops(done)] == [LayerNorm, Binary]


@pytest.mark.parametrize("name", ["mean", "apart", "variance", "root"])
def test_values_that_are_needed_stay(
    apply: Apply, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    written = Written()
    done = apply(written.graph(getattr(written, name)), RecogniseLayerNorm())
    assert LayerNorm(2, 1e-3) not in ops(done)
    assert "is an output" in caplog.text
    written = Written()
    other = written.build.one(Unary("Exp"), getattr(written, name))
    done = apply(written.graph(other), RecogniseLayerNorm())
    assert LayerNorm(2, 1e-3) not in ops(done)
    assert "is read elsewhere" in caplog.text


def test_values_with_a_type_stay(apply: Apply, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    written = Written()
    kind = FixedType.per_tensor(I8, Dyadic(1, -5), 3)
    written.build.graph.set_value(replace(written.apart, fixed=kind))
    done = apply(written.graph(), RecogniseLayerNorm())
    assert LayerNorm(2, 1e-3) not in ops(done)
    assert "has a type" in caplog.text


def test_a_variance_over_another_axis_is_none(apply: Apply) -> None:
    done = apply(Written(over=1).graph(), RecogniseLayerNorm())
    assert LayerNorm(2, 1e-3) not in ops(done)


def test_an_exported_layer_norm_is_imported_as_one(apply: Apply, tmp_path: Path) -> None:
    names = ["mean", "apart", "square", "variance", "raised", "root", "ratio", "scaled", "y"]
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[-1]),
        helper.make_node("Sub", ["x", "mean"], ["apart"]),
        helper.make_node("Pow", ["apart", "two"], ["square"]),
        helper.make_node("ReduceMean", ["square"], ["variance"], axes=[-1]),
        helper.make_node("Add", ["variance", "epsilon"], ["raised"]),
        helper.make_node("Sqrt", ["raised"], ["root"]),
        helper.make_node("Div", ["apart", "root"], ["ratio"]),
        helper.make_node("Mul", ["ratio", "gamma"], ["scaled"]),
        helper.make_node("Add", ["scaled", "beta"], ["y"]),
    ]
    assert [node.output[0] for node in nodes] == names
    constants = {"two": 2.0, "epsilon": 1e-3, "gamma": GAMMA, "beta": BETA}
    graph = helper.make_graph(
        nodes,
        "written",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)],
        [numpy_helper.from_array(np.array(v, np.float32), n) for n, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    (op,) = ops(apply(load(tmp_path / "m.onnx"), RecogniseLayerNorm()))
    assert isinstance(op, LayerNorm)
    assert (op.axis, op.epsilon) == (2, float(np.float32(1e-3)))
    x = np.random.default_rng(3).normal(size=SHAPE).astype(np.float32)
    wanted = ort.plain(model).run({"x": x})["y"]
    np.testing.assert_allclose(op.reference(x, GAMMA, BETA)[0], wanted, rtol=1e-4, atol=1e-5)
