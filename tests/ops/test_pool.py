from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import helper

from binpoint import ort
from binpoint.errors import NoIntegerForm, UnsupportedOperator
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import FloatOp, Semantics
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, U8, FixedType, FloatType, TensorType
from binpoint.ops.pool import AveragePool, MaxPool
from binpoint.ops.pooling import OnnxruntimeAverage
from binpoint.ops.window import Window
from tests.ops.kernels import Bench, parameters, random_type

CLASSES: dict[str, type[FloatOp]] = {
    name.removeprefix("com.microsoft."): op for op in (MaxPool, AveragePool) for name in op.onnx
}
WINDOWS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((1, 3, 8, 8), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ((1, 3, 7, 9), {"kernel_shape": [3, 2], "strides": [2, 1]}),
    ((1, 4, 7, 7), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ((2, 4, 5, 6), {"kernel_shape": [3, 3], "pads": [0, 1, 2, 1]}),
    ((1, 2, 5, 5), {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    (
        (1, 2, 5, 5),
        {"kernel_shape": [3, 3], "strides": [3, 3], "pads": [0, 0, 1, 1], "ceil_mode": 1},
    ),
    ((1, 3, 6, 6), {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ((1, 3, 6, 6), {"kernel_shape": [4, 4], "strides": [1, 1], "auto_pad": "SAME_LOWER"}),
    ((1, 3, 20), {"kernel_shape": [4], "strides": [3], "pads": [2, 1]}),
    ((1, 3, 6, 5), {"kernel_shape": [6, 5]}),
]


def imported(
    op: str, shape: tuple[int, ...], opset: int = 21, **attributes: Any
) -> tuple[Graph, FloatOp]:
    graph = Graph("imported")
    build = GraphBuilder(graph, "op")
    x = build.input("x", TensorType(shape, FloatType()))
    domain = "com.microsoft" if op.startswith("QLinear") else ""
    proto = helper.make_node(op, ["x"], ["y"], domain=domain, **attributes)
    (value,) = CLASSES[op].from_onnx(OnnxNode(proto, (x,), opset, 0, ("y",)), build)
    graph.outputs = (value.name,)
    (found,) = [n.op for n in graph.nodes() if isinstance(n.op, MaxPool | AveragePool)]
    return graph, found


def run(graph: Graph, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return evaluate(graph, {"x": x})[graph.outputs[0]]


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(("shape", "attributes"), WINDOWS)
@pytest.mark.parametrize("include", [0, 1])
def test_import_means_what_onnxruntime_computes(
    op: str,
    shape: tuple[int, ...],
    attributes: dict[str, Any],
    include: int,
    rng: np.random.Generator,
) -> None:
    x = rng.normal(size=shape).astype(np.float32)
    if op == "AveragePool":
        attributes = {**attributes, "count_include_pad": include}
    graph, _ = imported(op, shape, **attributes)
    (wanted,) = ort.evaluate(op, [x], **attributes)
    np.testing.assert_allclose(run(graph, x), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("op", ["GlobalMaxPool", "GlobalAveragePool"])
@pytest.mark.parametrize("shape", [(1, 3, 5), (2, 3, 4, 5), (1, 2, 3, 4, 5)])
def test_global_pools_take_any_number_of_axes(
    op: str, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    x = rng.normal(size=shape).astype(np.float32)
    graph, _ = imported(op, shape)
    (wanted,) = ort.evaluate(op, [x])
    np.testing.assert_allclose(run(graph, x), wanted, rtol=1e-5, atol=1e-6)


def test_dilated_maxima_are_those_of_onnxruntime(rng: np.random.Generator) -> None:
    attributes: dict[str, Any] = {"kernel_shape": [3, 2], "dilations": [2, 3], "pads": [1, 1, 2, 1]}
    x = rng.normal(size=(1, 3, 9, 9)).astype(np.float32)
    graph, _ = imported("MaxPool", x.shape, **attributes)
    (wanted,) = ort.evaluate("MaxPool", [x], **attributes)
    np.testing.assert_array_equal(run(graph, x), wanted)


@pytest.mark.needs("gcc", "clang")
@pytest.mark.parametrize("semantics", list(Semantics))
def test_all_forms_agree(semantics: Semantics, rng: np.random.Generator, tmp_path: Path) -> None:
    bench = Bench()
    for index, (shape, attributes) in enumerate(WINDOWS):
        last = (shape[0], *shape[2:], shape[1])
        for include in (0, 1):
            storage = (U8, I8)[(index + include) % 2]
            _, op = imported("AveragePool", shape, **attributes, count_include_pad=include)
            x = bench.input(last, random_type(rng, storage))
            bench.lower(op, [x], random_type(rng, storage), semantics)
        kind = random_type(rng, (I8, U8)[index % 2])
        _, op = imported("MaxPool", shape, **attributes)
        bench.lower(op, [bench.input(last, kind)], kind, semantics)
    _, op = imported(
        "MaxPool", (1, 3, 9, 9), kernel_shape=[3, 2], dilations=[2, 3], pads=[1, 1, 2, 1]
    )
    kind = random_type(rng, U8)
    bench.lower(op, [bench.input((1, 9, 9, 3), kind)], random_type(rng, I8), semantics)
    arrays = bench.codes(rng)
    bench.agree(arrays)
    bench.prove()
    bench.agree(arrays)
    assert bench.warns("clang", tmp_path / "c") == ""


@pytest.mark.parametrize("storage", [U8, I8])
@pytest.mark.parametrize(("shape", "attributes"), WINDOWS)
@pytest.mark.parametrize("include", [0, 1])
def test_quantized_averages_are_those_of_onnxruntime(
    storage: Any,
    shape: tuple[int, ...],
    attributes: dict[str, Any],
    include: int,
    rng: np.random.Generator,
) -> None:
    last = (shape[0], *shape[2:], shape[1])
    attributes = {**attributes, "count_include_pad": include}
    for _ in range(6):
        bench = Bench()
        kind, target = random_type(rng, storage), random_type(rng, storage)
        _, op = imported("QLinearAveragePool", shape, **attributes)
        bench.lower(op, [bench.input(last, kind)], target, Semantics.ONNXRUNTIME)
        (codes,) = bench.codes(rng)
        (result,) = bench.reference([codes])
        first = np.moveaxis(codes, -1, 1).astype(storage.dtype)
        (wanted,) = ort.evaluate(
            "QLinearAveragePool",
            [first, *parameters(kind), *parameters(target)],
            domain="com.microsoft",
            **attributes,
        )
        np.testing.assert_array_equal(np.moveaxis(result, -1, 1), wanted)


@pytest.mark.parametrize("storage", [U8, I8])
def test_quantized_global_averages_are_those_of_onnxruntime(
    storage: Any, rng: np.random.Generator
) -> None:
    for shape in ((1, 64, 7, 7), (2, 300, 5, 3), (1, 16, 50)):
        bench = Bench()
        kind, target = random_type(rng, storage), random_type(rng, storage)
        _, op = imported("QLinearGlobalAveragePool", shape, channels_last=0)
        last = (shape[0], *shape[2:], shape[1])
        bench.lower(op, [bench.input(last, kind)], target, Semantics.ONNXRUNTIME)
        (codes,) = bench.codes(rng)
        (result,) = bench.reference([codes])
        (wanted,) = ort.evaluate(
            "QLinearGlobalAveragePool",
            [
                np.moveaxis(codes, -1, 1).astype(storage.dtype),
                *parameters(kind),
                *parameters(target),
            ],
            domain="com.microsoft",
            channels_last=0,
        )
        np.testing.assert_array_equal(np.moveaxis(result, -1, 1), wanted)


@pytest.mark.needs("gcc")
def test_ties_and_their_neighbours_are_followed_in_c(rng: np.random.Generator) -> None:
    """Ratios of scales that make ties, exact or nearly so, on every fourth value."""
    bench = Bench()
    window = Window((2, 2), (2, 2), (0, 0), (0, 0), (1, 1))
    wide = Window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    for ratio in (1.0, 0.5, 2.0, 0.1, 0.3, 1 / 3, 1 / 7, 0.9):
        for zero in (0, 3, 128, 255):
            kind = FixedType.per_tensor(U8, Dyadic.from_float(np.float32(0.1)), zero)
            scale = Dyadic.from_float(np.float32(np.float32(0.1) * np.float32(ratio)))
            for op in (AveragePool(window), AveragePool(wide)):
                target = FixedType.per_tensor(U8, scale, 255 - zero)
                x = bench.input((1, 64, 64, 2), kind)
                bench.lower(op, [x], target, Semantics.ONNXRUNTIME)
    assert all(isinstance(op, OnnxruntimeAverage) for op in bench.ops())
    bench.agree(bench.codes(rng))


@pytest.mark.parametrize("scales", ["any", "equal"])
def test_dyadic_averages_are_nearest(rng: np.random.Generator, scales: str) -> None:
    for shape, attributes in WINDOWS:
        for include in (0, 1):
            _, op = imported("AveragePool", shape, **attributes, count_include_pad=include)
            bench = Bench()
            kind, target = random_type(rng, U8), random_type(rng, I8)
            if scales == "equal":
                target = FixedType.per_tensor(I8, kind.scale, target.zero_point)
            x = bench.input((shape[0], *shape[2:], shape[1]), kind)
            bench.lower(op, [x], target, Semantics.DYADIC)
            (codes,) = bench.codes(rng)
            (result,) = bench.reference([codes])
            (real,) = op.reference(kind.dequantize(codes))
            wanted = np.clip(real / float(target.scale) + target.zero_point, -128, 127)
            assert np.abs(result - wanted).max() <= 0.5 + 2**-16


def test_places_of_maxima_are_refused() -> None:
    build = GraphBuilder(Graph("imported"), "op")
    x = build.input("x", TensorType((1, 2, 4, 4), FloatType()))
    proto = helper.make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2])
    with pytest.raises(UnsupportedOperator, match="second result"):
        MaxPool.from_onnx(OnnxNode(proto, (x,), 21, 0, ("y", "i")), build)


def test_averages_between_integer_types_are_refused(rng: np.random.Generator) -> None:
    bench = Bench()
    op = AveragePool(Window((2, 2), (2, 2), (0, 0), (0, 0), (1, 1)))
    x = bench.input((1, 4, 4, 2), random_type(rng, U8))
    with pytest.raises(NoIntegerForm, match="order of its own"):
        bench.lower(op, [x], random_type(rng, I8), Semantics.ONNXRUNTIME)
