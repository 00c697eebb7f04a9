from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import helper

from binpoint import ort
from binpoint.errors import AccumulatorOverflow, UnsupportedOperator
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import FloatOp, Semantics
from binpoint.numeric import float32
from binpoint.numeric.fixed import I8, U8, FloatType, TensorType
from binpoint.ops.reduce import ArgExtreme, Reduce, ReduceExtreme
from tests.ops.kernels import Bench, random_type

AXES = [(0,), (1,), (3,), (1, 2), (2, 3), (1, 3), (0, 2), (0, 1, 2, 3)]
SHAPE = (2, 3, 4, 5)
CLASSES: dict[str, type[FloatOp]] = {
    name: op for op in (Reduce, ReduceExtreme, ArgExtreme) for name in op.onnx
}


@pytest.mark.parametrize("semantics", list(Semantics))
@pytest.mark.needs("gcc", "clang")
def test_all_forms_agree(semantics: Semantics, rng: np.random.Generator, tmp_path: Any) -> None:
    bench = Bench()
    for index, axes in enumerate(AXES):
        for mean in (False, True):
            x = bench.input(SHAPE, random_type(rng, (U8, I8)[index % 2]))
            bench.lower(Reduce(axes, mean), [x], random_type(rng, U8), semantics)
        for largest in (False, True):
            kind = random_type(rng, (I8, U8)[index % 2])
            x = bench.input(SHAPE, kind)
            bench.lower(ReduceExtreme(axes, largest), [x], kind, semantics)
    for axis in range(4):
        for largest in (False, True):
            for last in (False, True):
                x = bench.input(SHAPE, random_type(rng, (U8, I8)[axis % 2]))
                bench.lower(ArgExtreme(axis, largest, last), [x], None, semantics)
    arrays = [a // 8 for a in bench.codes(rng)]
    results = bench.agree(arrays)
    for place, array in zip(results[-16:], arrays[-16:], strict=True):
        assert place.max() < 5
        assert array.shape == SHAPE
    bench.prove()
    bench.agree(arrays)
    assert bench.warns("clang", tmp_path / "c") == ""


def test_the_mean_is_rounded_once(rng: np.random.Generator) -> None:
    bench = Bench()
    kind, target = random_type(rng, U8), random_type(rng, U8)
    x = bench.input((64, 49, 8), kind)
    bench.lower(Reduce((1,), mean=True), [x], target, Semantics.DYADIC)
    (codes,) = bench.codes(rng)
    (result,) = bench.reference([codes])
    real = kind.dequantize(codes).mean(axis=1, keepdims=True) / float(target.scale)
    wanted = np.clip(real + target.zero_point, 0, 255)
    assert np.abs(result - wanted).max() <= 0.5 + 2**-20


def test_the_mean_of_floats_is_that_of_the_definition(rng: np.random.Generator) -> None:
    """The runtime adds in float32; on these values it never differs by more than one code."""
    different = 0
    for _ in range(20):
        bench = Bench()
        kind, target = random_type(rng, U8), random_type(rng, U8)
        x = bench.input((500, 49), kind)
        bench.lower(Reduce((1,), mean=True), [x], target, Semantics.ONNXRUNTIME)
        (codes,) = bench.codes(rng)
        (result,) = bench.reference([codes])
        real = float32.dequantize_linear(codes, float(kind.scale), kind.zero_point)
        (mean,) = ort.evaluate("ReduceMean", [real, np.array([1])], keepdims=1)
        wanted = float32.quantize_linear(mean, float(target.scale), target.zero_point, 0, 255)
        assert np.abs(result - wanted).max() <= 1
        different += int((result != wanted).sum())
    assert different <= 10


def test_sums_that_leave_32_bits_are_refused(rng: np.random.Generator) -> None:
    bench = Bench()
    x = bench.input((1, 2**24), random_type(rng, U8))
    with pytest.raises(AccumulatorOverflow):
        bench.lower(Reduce((1,), mean=True), [x], random_type(rng, U8), Semantics.DYADIC)


def imported(
    op: str, x: npt.NDArray[Any], opset: int, constant: npt.NDArray[Any] | None, **attributes: Any
) -> npt.NDArray[Any]:
    graph = Graph("imported")
    build = GraphBuilder(graph, "op")
    operands = [build.input("x", TensorType(x.shape, FloatType()))]
    operands += [build.constant(constant)] if constant is not None else []
    names = ["x", "axes"][: len(operands)]
    proto = helper.make_node(op, names, ["y"], **attributes)
    (value,) = CLASSES[op].from_onnx(OnnxNode(proto, tuple(operands), opset, 0, ("y",)), build)
    return evaluate(graph, {"x": x})[value.name]


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("axes", [None, (), (1,), (-1,), (0, 2), (-1, -2)])
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("noop", [0, 1])
def test_import_means_what_onnxruntime_computes(
    op: str, axes: tuple[int, ...] | None, keep: int, noop: int, rng: np.random.Generator
) -> None:
    x = rng.normal(size=(2, 3, 4)).astype(np.float32)
    constant = None if axes is None else np.array(axes, np.int64)
    attributes: dict[str, Any] = {"keepdims": keep, "noop_with_empty_axes": noop}
    result = imported(op, x, 18, constant, **attributes)
    operands = [x] if constant is None else [x, constant]
    (wanted,) = ort.evaluate(op, operands, opset=18, **attributes)
    np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-6)
    assert result.shape == wanted.shape


def test_axes_may_be_an_attribute(rng: np.random.Generator) -> None:
    x = rng.normal(size=(2, 3, 4)).astype(np.float32)
    result = imported("ReduceMean", x, 11, None, axes=[1, -1], keepdims=0)
    (wanted,) = ort.evaluate("ReduceMean", [x], opset=11, axes=[1, -1], keepdims=0)
    np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("keep", [0, 1])
def test_places_are_those_of_onnxruntime(
    op: str, axis: int, last: int, keep: int, rng: np.random.Generator
) -> None:
    x = rng.integers(0, 3, (3, 4, 5)).astype(np.float32)
    attributes: dict[str, Any] = {"axis": axis, "keepdims": keep, "select_last_index": last}
    result = imported(op, x, 13, None, **attributes)
    (wanted,) = ort.evaluate(op, [x], opset=13, **attributes)
    np.testing.assert_array_equal(result, wanted)


def test_axes_outside_the_rank_are_refused() -> None:
    with pytest.raises(UnsupportedOperator, match="outside rank"):
        imported("ReduceMean", np.zeros((2, 3), np.float32), 18, np.array([2]))
    with pytest.raises(UnsupportedOperator, match="outside rank"):
        imported("ArgMax", np.zeros((2, 3), np.float32), 18, None, axis=2)
