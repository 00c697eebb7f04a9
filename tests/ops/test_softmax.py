from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from binpoint import ort
from binpoint.errors import NoIntegerForm, UnsupportedOperator
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import Semantics
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, I16, U8, FixedType, FloatType, IntType, TensorType
from binpoint.ops.softmax import Softmax, share_type
from tests.ops.kernels import Bench, parameters, random_codes, random_type


def kind_of(rng: np.random.Generator, storage: IntType, exponent: float) -> FixedType:
    scale = Dyadic.from_float(np.float32(2.0**exponent))
    return FixedType.per_tensor(storage, scale, int(rng.integers(storage.min, storage.max)))


@pytest.mark.needs("gcc", "clang")
@pytest.mark.parametrize("semantics", list(Semantics))
def test_all_forms_agree(semantics: Semantics, rng: np.random.Generator, tmp_path: Path) -> None:
    bench = Bench()
    for storage in (U8, I8):
        for shape, axis in (((4, 10), 1), ((3, 7, 5), 1), ((6, 2), 0), ((2, 300), 1), ((2, 1), 1)):
            for exponent in (-8.0, -4.3, -1.7, 1.0, 4.0):
                x = bench.input(shape, kind_of(rng, storage, exponent))
                bench.lower(Softmax(axis), [x], share_type(storage), semantics)
        if semantics is Semantics.ONNXRUNTIME:
            x = bench.input((5, 40), kind_of(rng, storage, -4.0))
            target = FixedType.per_tensor(storage, Dyadic.from_float(np.float32(1 / 255)), 3)
            bench.lower(Softmax(1), [x], target, semantics)
            x = bench.input((5, 40), kind_of(rng, storage, -4.0))
            target = FixedType.per_tensor(storage, Dyadic(1, -24), 3)
            bench.lower(Softmax(1), [x], target, semantics)
        for scale in (1 / 255, 0.0021852993, 0.3, 1.7):
            x = bench.input((5, 40), kind_of(rng, storage, -4.0))
            other = U8 if storage == I8 else I8
            target = FixedType.per_tensor(other, Dyadic.from_float(np.float32(scale)), 3)
            bench.lower(Softmax(1), [x], target, semantics)
    arrays = bench.codes(rng)
    bench.agree(arrays)
    bench.agree([a // 16 for a in arrays])
    assert bench.warns("clang", tmp_path / "c") == ""


@pytest.mark.parametrize("count", [1, 2, 10, 128])
def test_shares_are_within_the_stated_bound(count: int, rng: np.random.Generator) -> None:
    for exponent in (-8.0, -5.0, -3.2, 0.0):
        for storage in (U8, I8):
            bench = Bench()
            kind = kind_of(rng, storage, exponent)
            x = bench.input((500, count), kind)
            bench.lower(Softmax(1), [x], share_type(storage), Semantics.DYADIC)
            (codes,) = bench.codes(rng)
            (result,) = bench.reference([codes])
            (real,) = Softmax(1).reference(kind.dequantize(codes))
            wanted = np.minimum(real * 256, 255)
            assert np.abs(result - storage.min - wanted).max() <= 0.502


def test_shares_in_steps_of_any_size_are_rounded_once(rng: np.random.Generator) -> None:
    for scale in (1 / 255, 0.0021852993, 1 / 1000, 0.3, 1.7, 2.0**-16):
        for storage in (U8, I8, I16):
            bench = Bench()
            kind = kind_of(rng, U8 if storage == I8 else I8, -4.2)
            target = FixedType.per_tensor(storage, Dyadic.from_float(np.float32(scale)), 3)
            x = bench.input((500, 20), kind)
            bench.lower(Softmax(1), [x], target, Semantics.ONNXRUNTIME)
            (codes,) = bench.codes(rng)
            (real,) = Softmax(1).reference(kind.dequantize(codes))
            wanted = np.clip(real / float(target.scale) + 3, storage.min, storage.max)
            error = np.abs(bench.reference([codes])[0] - wanted).max()
            assert error <= 0.5 + 11 / scale / 2**23


@pytest.mark.parametrize("storage", [U8, I8])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_quantized_softmax_is_that_of_onnxruntime(
    storage: IntType, axis: int, rng: np.random.Generator
) -> None:
    for exponent in (-8.0, -5.5, -4.0, -2.5, -1.0, 2.0):
        for target in (share_type(storage), random_type(rng, storage)):
            bench = Bench()
            kind = kind_of(rng, storage, exponent)
            x = bench.input((37, 24, 19), kind)
            bench.lower(Softmax(axis), [x], target, Semantics.ONNXRUNTIME)
            codes = random_codes(rng, x.shape, storage)
            operands = [codes.astype(storage.dtype), *parameters(kind), *parameters(target)]
            names = [f"x{i}" for i in range(len(operands))]
            node = helper.make_node(
                "QLinearSoftmax", names, ["y"], domain="com.microsoft", axis=axis, opset=13
            )
            (wanted,) = ort.run_node(node, dict(zip(names, operands, strict=True)), 21)
            np.testing.assert_array_equal(bench.reference([codes])[0], wanted)


@pytest.mark.parametrize("storage", [U8, I8])
def test_softmax_between_quantizers_is_the_quantized_operator(
    storage: IntType, rng: np.random.Generator
) -> None:
    kind, target = kind_of(rng, storage, -4.4), share_type(storage)
    names = {"s": kind, "t": target}
    arrays = [
        numpy_helper.from_array(a, f"{name}{i}")
        for name, t in names.items()
        for i, a in enumerate(parameters(t))
    ]
    code = helper.np_dtype_to_tensor_dtype(storage.dtype)
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s0", "s1"], ["r"]),
        helper.make_node("Softmax", ["r"], ["p"], axis=-1),
        helper.make_node("QuantizeLinear", ["p", "t0", "t1"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "qdq",
        [helper.make_tensor_value_info("x", code, [400, 12])],
        [helper.make_tensor_value_info("y", code, [400, 12])],
        arrays,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    bench = Bench()
    x = bench.input((400, 12), kind)
    bench.lower(Softmax(1), [x], target, Semantics.ONNXRUNTIME)
    codes = random_codes(rng, x.shape, storage)
    wanted = ort.reference(model).run({"x": codes.astype(storage.dtype)})["y"]
    np.testing.assert_array_equal(bench.reference([codes])[0], wanted)


@pytest.mark.parametrize("opset", [9, 11, 13, 21])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1])
def test_import_means_what_onnxruntime_computes(
    opset: int, axis: int | None, rng: np.random.Generator
) -> None:
    x = rng.normal(size=(2, 3, 4)).astype(np.float32)
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    graph = Graph("imported")
    build = GraphBuilder(graph, "op")
    value = build.input("x", TensorType(x.shape, FloatType()))
    proto = helper.make_node("Softmax", ["x"], ["y"], **attributes)
    (y,) = Softmax.from_onnx(OnnxNode(proto, (value,), opset, 0, ("y",)), build)
    (wanted,) = ort.evaluate("Softmax", [x], opset=opset, **attributes)
    np.testing.assert_allclose(evaluate(graph, {"x": x})[y.name], wanted, rtol=1e-5)


def test_permuted_axes_give_the_same(rng: np.random.Generator) -> None:
    x = rng.normal(size=(2, 3, 4)).astype(np.float32)
    build = GraphBuilder(Graph("permuted"), "op")
    value = build.input("x", TensorType(x.shape, FloatType()))
    for axis in range(3):
        moved = Softmax(axis).permuted((0, 2, 1), value)
        assert moved is not None
        (result,) = moved.op.reference(np.transpose(x, (0, 2, 1)))
        (wanted,) = Softmax(axis).reference(x)
        np.testing.assert_allclose(result, np.transpose(wanted, moved.order), rtol=1e-6)


def test_axes_outside_the_rank_are_refused() -> None:
    build = GraphBuilder(Graph("imported"), "op")
    value = build.input("x", TensorType((2, 3), FloatType()))
    proto = helper.make_node("Softmax", ["x"], ["y"], axis=2)
    with pytest.raises(UnsupportedOperator, match="outside rank"):
        Softmax.from_onnx(OnnxNode(proto, (value,), 13, 0, ("y",)), build)


def test_mixed_types_are_computed_by_table_and_noted(rng: np.random.Generator) -> None:
    bench = Bench()
    kind = kind_of(rng, I8, -5.0)
    target = FixedType.per_tensor(U8, Dyadic.from_float(np.float32(0.003)), 0)
    x = bench.input((200, 30), kind)
    bench.lower(Softmax(1), [x], target, Semantics.ONNXRUNTIME)
    (codes,) = bench.codes(rng)
    (result,) = bench.agree([codes])
    (real,) = Softmax(1).reference(kind.dequantize(codes))
    # Steps of 2^-8, then those of the result.
    assert np.abs(result - np.minimum(real / 0.003, 255)).max() <= 0.51 * (1 + 2.0**-8 / 0.003)
    (node, *_) = bench.graph.nodes()
    notes = bench.ops()[0].work(bench.graph.arguments(node), bench.graph.results(node)).notes
    assert "in float" in notes[0]


def test_wide_operands_are_refused(rng: np.random.Generator) -> None:
    bench = Bench()
    wide = bench.input((2, 3), random_type(rng, I16))
    with pytest.raises(NoIntegerForm, match="16-bit"):
        bench.lower(Softmax(1), [wide], share_type(I8), Semantics.DYADIC)
    many = bench.input((70000,), random_type(rng, I8))
    with pytest.raises(NoIntegerForm, match="70000 elements"):
        bench.lower(Softmax(0), [many], share_type(I8), Semantics.DYADIC)


def test_types_are_those_of_the_elements() -> None:
    assert Softmax(0).result_type(share_type(I8)) == share_type(I8)
    assert str(share_type(I8)) == "i8@2^-8,zp=-128"
    assert helper.np_dtype_to_tensor_dtype(share_type(U8).storage.dtype) == TensorProto.UINT8
