from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import helper

from binpoint import ort
from binpoint.errors import NoIntegerForm, UnsupportedOperator
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import Semantics
from binpoint.numeric import float32
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, I16, U8, FixedType, FloatType, IntType, TensorType
from binpoint.ops.broadcast import Broadcast
from binpoint.ops.elementwise import Binary, Kind, MinMax, Scalar
from binpoint.ops.lookup import IntLookup, codes_of
from binpoint.ops.pairwise import IntAdd
from binpoint.ops.runtime_pair import OnnxruntimeAdd, OnnxruntimeChain, OnnxruntimeMul
from binpoint.ops.unary import Clip
from tests.ops.kernels import Bench, parameters, random_codes, random_type

SHAPES = [
    ((2, 3, 4), (2, 3, 4)),
    ((1, 5, 6, 8), (8,)),
    ((1, 5, 6, 8), (1, 1, 1, 8)),
    ((2, 5, 6, 8), (2, 1, 1, 8)),
    ((3, 1), (1, 4)),
    ((4,), (2, 3, 4)),
    ((2, 3, 1), (2, 3, 4)),
    ((2, 1, 3, 1), (1, 4, 3, 5)),
    ((2, 1, 3, 1), (1, 4, 1, 5)),
    ((), (3,)),
    ((1, 1), (1, 1)),
]


def chosen(rng: np.random.Generator) -> list[IntType]:
    return [(U8, I8, I16)[i] for i in rng.integers(0, 3, 3)]


def all_pairs(a: IntType, b: IntType) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    x, y = np.meshgrid(codes_of(a), codes_of(b), indexing="ij")
    return x, y


@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_axes_are_those_of_numpy(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    axes = Broadcast.of(a, b)
    x, y = np.arange(np.prod(a)), 1000 + np.arange(np.prod(b))
    left = right = np.zeros(1, np.int64)
    for size, s, t in zip(axes.sizes, axes.left, axes.right, strict=True):
        left = (left[:, None] + np.arange(size) * s).reshape(-1)
        right = (right[:, None] + np.arange(size) * t).reshape(-1)
    expected = np.broadcast_arrays(x.reshape(a), y.reshape(b))
    np.testing.assert_array_equal(x[left].reshape(axes.shape), expected[0])
    np.testing.assert_array_equal(y[right].reshape(axes.shape), expected[1])
    for index in axes.in_place():
        assert (a, b)[index] == axes.shape or np.prod((a, b)[index]) == np.prod(axes.shape)


def test_axes_that_alternate_too_often_are_refused() -> None:
    with pytest.raises(NoIntegerForm, match="alternate over 5 axes"):
        Broadcast.of((2, 1, 2, 1, 2), (1, 2, 1, 2, 1))


@pytest.mark.needs("gcc", "clang")
def test_all_forms_agree_on_every_way_to_broadcast(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    bench = Bench()
    for index, (a, b) in enumerate(SHAPES):
        for kind in (Kind.ADD, Kind.SUB, Kind.MUL):
            for semantics in Semantics:
                other = I8 if semantics is Semantics.DYADIC else U8
                types = [random_type(rng, s) for s in (U8, other, (U8, I8)[index % 2])]
                x, z = bench.input(a, types[0]), bench.input(b, types[1])
                bench.lower(Binary(kind), [x, z], types[2], semantics)
    forms = bench.prove()
    assert set(forms) == {"mulshift", "exact"}
    results = bench.agree(bench.codes(rng))
    assert results[0].shape == (2, 3, 4)
    assert bench.warns("clang", tmp_path / "c") == ""


@pytest.mark.parametrize("kind", [Kind.ADD, Kind.SUB])
def test_dyadic_sum_is_within_its_bound(kind: Kind, rng: np.random.Generator) -> None:
    for _ in range(40):
        bench = Bench()
        types = [random_type(rng, s) for s in chosen(rng)]
        x, z = bench.input((256, 256), types[0]), bench.input((256, 256), types[1])
        bench.lower(Binary(kind), [x, z], types[2], Semantics.DYADIC)
        codes = [random_codes(rng, v.shape, v.elem.storage) for v in (x, z)]
        (result,) = bench.reference(codes)
        scales = [t.scale.as_fraction() / types[2].scale.as_fraction() for t in types[:2]]
        real = [
            (c - t.zero_point) * float(r) for c, t, r in zip(codes, types, scales, strict=False)
        ]
        exact = real[0] - real[1] if kind is Kind.SUB else real[0] + real[1]
        storage = types[2].storage
        wanted = np.clip(exact + types[2].zero_point, storage.min, storage.max)
        assert np.abs(result - wanted).max() <= 0.5 + 2**-10 + 1e-9


def test_dyadic_product_is_nearest(rng: np.random.Generator) -> None:
    for _ in range(40):
        bench = Bench()
        types = [random_type(rng, s) for s in chosen(rng)]
        x, z = bench.input((128, 256), types[0]), bench.input((128, 256), types[1])
        bench.lower(Binary(Kind.MUL), [x, z], types[2], Semantics.DYADIC)
        codes = [random_codes(rng, v.shape, v.elem.storage) for v in (x, z)]
        (result,) = bench.reference(codes)
        ratio = float(types[0].scale) * float(types[1].scale) / float(types[2].scale)
        exact = (codes[0] - types[0].zero_point) * (codes[1] - types[1].zero_point) * ratio
        storage = types[2].storage
        wanted = np.clip(exact + types[2].zero_point, storage.min, storage.max)
        assert np.abs(result - wanted).max() <= 0.5 + 2**-10


def test_sums_of_power_of_two_scales_are_exact() -> None:
    one = FixedType.per_tensor(I8, Dyadic(1, -4))
    half = FixedType.per_tensor(I8, Dyadic(1, -5))
    bench = Bench()
    x, z = bench.input((1,), one), bench.input((1,), half)
    bench.lower(Binary(Kind.ADD), [x, z], half, Semantics.DYADIC)
    (op,) = bench.ops()
    assert isinstance(op, IntAdd)
    assert Fraction(op.ma, 2**op.shift) == 2
    assert Fraction(op.mb, 2**op.shift) == 1


@pytest.mark.parametrize("storage", [U8, I8])
@pytest.mark.parametrize("name", ["QLinearAdd", "QLinearMul"])
def test_quantized_operators_are_followed_on_every_pair(
    name: str, storage: IntType, rng: np.random.Generator
) -> None:
    a, b = all_pairs(storage, storage)
    kind = Kind(name.removeprefix("QLinear"))
    dtype = storage.dtype
    for count in range(12):
        size = 1.0 if kind is Kind.ADD else 2.0**-5
        types = [
            random_type(rng, storage),
            random_type(rng, storage),
            random_type(rng, storage, size),
        ]
        bench = Bench()
        x, z = bench.input(a.shape, types[0]), bench.input(b.shape, types[1])
        bench.lower(Binary(kind), [x, z], types[2], Semantics.ONNXRUNTIME)
        (op,) = bench.ops()
        assert isinstance(op, OnnxruntimeAdd | OnnxruntimeMul)
        (wanted,) = ort.evaluate(
            name,
            [
                a.astype(dtype),
                *parameters(types[0]),
                b.astype(dtype),
                *parameters(types[1]),
                *parameters(types[2]),
            ],
            domain="com.microsoft",
        )
        np.testing.assert_array_equal(bench.reference([a, b])[0], wanted)
        if count < 2:
            np.testing.assert_array_equal(bench.agree([a, b])[0], wanted)


@pytest.mark.parametrize("kind", [Kind.ADD, Kind.SUB, Kind.MUL])
def test_proved_forms_equal_the_definition_in_c(kind: Kind, rng: np.random.Generator) -> None:
    a, b = all_pairs(U8, U8)
    proved = 0
    for _ in range(5):
        size = 2.0**-5 if kind is Kind.MUL else 1.0
        types = [random_type(rng, U8), random_type(rng, U8), random_type(rng, U8, size)]
        bench = Bench()
        x, z = bench.input(a.shape, types[0]), bench.input(b.shape, types[1])
        bench.lower(Binary(kind), [x, z], types[2], Semantics.ONNXRUNTIME)
        proved += bench.prove() == ["mulshift"]
        np.testing.assert_array_equal(bench.run_c([a, b]), bench.reference([a, b]))
    assert proved


def test_a_proof_survives_a_narrower_clamp(rng: np.random.Generator) -> None:
    a, b = all_pairs(U8, U8)
    types = [random_type(rng, U8) for _ in range(3)]
    bench = Bench()
    x, z = bench.input(a.shape, types[0]), bench.input(b.shape, types[1])
    bench.lower(Binary(Kind.ADD), [x, z], types[2], Semantics.ONNXRUNTIME)
    (node,) = bench.graph.nodes()
    assert isinstance(node.op, OnnxruntimeAdd)
    (whole,) = bench.reference([a, b])
    narrow = node.op.clamped(30, 180)
    assert narrow.proof is None
    np.testing.assert_array_equal(narrow.codes(a, b), np.clip(whole, 30, 180))


@pytest.mark.parametrize("kind", [Kind.SUB, Kind.ADD, Kind.MUL])
def test_float_chains_are_followed_on_every_pair(kind: Kind, rng: np.random.Generator) -> None:
    for count in range(6):
        storages = (U8, U8, U8) if kind is Kind.SUB and count % 2 else (U8, I8, U8)
        size = 2.0**-5 if kind is Kind.MUL else 1.0
        types = [random_type(rng, s) for s in storages[:2]] + [random_type(rng, storages[2], size)]
        a, b = all_pairs(*storages[:2])
        bench = Bench()
        x, z = bench.input(a.shape, types[0]), bench.input(b.shape, types[1])
        bench.lower(Binary(kind), [x, z], types[2], Semantics.ONNXRUNTIME)
        (op,) = bench.ops()
        assert isinstance(op, OnnxruntimeChain)
        real = [
            ort.evaluate("DequantizeLinear", [c.astype(t.storage.dtype), *parameters(t)])[0]
            for c, t in zip((a, b), types, strict=False)
        ]
        (y,) = ort.evaluate(kind, real)
        (wanted,) = ort.evaluate("QuantizeLinear", [y, *parameters(types[2])])
        np.testing.assert_array_equal(bench.reference([a, b])[0], wanted)
        if count < 2:
            np.testing.assert_array_equal(bench.agree([a, b])[0], wanted)


@pytest.mark.parametrize("largest", [False, True])
def test_extremes_agree_and_bring_operands_to_one_type(
    largest: bool, rng: np.random.Generator
) -> None:
    for semantics in Semantics:
        types = [random_type(rng, U8), random_type(rng, I8), random_type(rng, U8)]
        bench = Bench()
        x, z = bench.input((2, 3, 8), types[0]), bench.input((8,), types[1])
        bench.lower(MinMax(largest), [x, z], types[2], semantics)
        codes = [random_codes(rng, v.shape, v.elem.storage) for v in (x, z)]
        (result,) = bench.agree(codes)
        real = [t.dequantize(c) for t, c in zip(types, codes, strict=False)]
        extreme = np.maximum(*real) if largest else np.minimum(*real)
        np.testing.assert_array_equal(result, types[2].quantize(extreme))


# ---- import


def node_of(op: str, operands: list[Value], domain: str = "", **attributes: Any) -> OnnxNode:
    names = [f"x{i}" for i in range(len(operands))]
    proto = helper.make_node(op, names, ["y"], domain=domain, **attributes)
    return OnnxNode(proto, tuple(operands), 21, 0, ("y",))


def imported(
    op: str, shapes: list[tuple[int, ...]], constants: dict[int, npt.NDArray[Any]]
) -> tuple[Graph, Callable[[list[npt.NDArray[Any]]], npt.NDArray[Any]]]:
    graph = Graph("imported")
    build = GraphBuilder(graph, "op")
    operands = [
        build.constant(constants[i])
        if i in constants
        else build.input(f"x{i}", TensorType(shape, FloatType()))
        for i, shape in enumerate(shapes)
    ]
    cls = MinMax if op in MinMax.onnx else Binary
    (value,) = cls.from_onnx(node_of(op, operands), build)
    graph.outputs = (value.name,)

    def run(arrays: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        from binpoint.ir.evaluate import evaluate

        return evaluate(graph, dict(zip(graph.inputs, arrays, strict=True)))[value.name]

    return graph, run


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Min", "Max"])
@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_import_means_what_onnxruntime_computes(
    op: str, a: tuple[int, ...], b: tuple[int, ...], rng: np.random.Generator
) -> None:
    arrays = [rng.normal(size=s).astype(np.float32) for s in (a, b)]
    _, run = imported(op, [a, b], {})
    (wanted,) = ort.evaluate(op, arrays)
    np.testing.assert_array_equal(run(list(arrays)), wanted)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Pow", "Min", "Max"])
@pytest.mark.parametrize("first", [False, True])
def test_a_number_makes_a_function_of_the_other_operand(
    op: str, first: bool, rng: np.random.Generator
) -> None:
    number = np.array([[[1.75]]], np.float32)
    x = rng.uniform(0.5, 4, size=(3, 4)).astype(np.float32)
    shapes = [(1, 1, 1), (3, 4)] if first else [(3, 4), (1, 1, 1)]
    graph, run = imported(op, shapes, {0 if first else 1: number})
    (wanted,) = ort.evaluate(op, [number, x] if first else [x, number])
    np.testing.assert_allclose(run([x]), wanted, rtol=1e-6)
    ops = [node.op for node in graph.nodes() if isinstance(node.op, Scalar | Clip)]
    assert len(ops) == 1


@pytest.mark.parametrize("semantics", list(Semantics))
@pytest.mark.parametrize(
    "op", [Scalar(Kind.DIV, 3.0), Scalar(Kind.SUB, 1.0, first=True), Scalar(Kind.POW, 2.0)]
)
def test_functions_are_tables(op: Scalar, semantics: Semantics, rng: np.random.Generator) -> None:
    kind, target = random_type(rng, I8), random_type(rng, U8)
    bench = Bench()
    x = bench.input((256,), kind)
    bench.lower(op, [x], target, semantics)
    codes = np.arange(-128, 128)
    (result,) = bench.agree([codes])
    real = float32.dequantize_linear(codes, float(kind.scale), kind.zero_point)
    wide = op.reference(real.astype(np.float64))[0]
    assert np.abs(result - target.quantize(wide)).max() <= (semantics is Semantics.ONNXRUNTIME)


@pytest.mark.parametrize("semantics", list(Semantics))
def test_one_quantized_number_makes_a_table(semantics: Semantics, rng: np.random.Generator) -> None:
    types = [random_type(rng, U8) for _ in range(3)]
    bench = Bench()
    x = bench.input((256,), types[0])
    number = bench.build.constant(np.array([77], np.uint8), fixed=types[1])
    for kind in (Kind.ADD, Kind.MUL, Kind.SUB):
        bench.lower(Binary(kind), [x, number], types[2], semantics)
        codes = np.arange(256)
        result = bench.agree([codes])[-1]
        assert [type(op).__name__ for op in bench.ops()][-1] == "IntLookup"
        if semantics is Semantics.ONNXRUNTIME and kind is Kind.ADD:
            a, b, y = ((float(t.scale), t.zero_point) for t in types)
            wanted = float32.qlinear_add(codes, 77, *a, *b, *y, 0, 255)
            np.testing.assert_array_equal(result, wanted)


@pytest.mark.parametrize("semantics", list(Semantics))
def test_a_value_with_itself_makes_a_table(semantics: Semantics, rng: np.random.Generator) -> None:
    codes = np.arange(256)
    for kind, size in ((Kind.ADD, 1.0), (Kind.MUL, 2.0**-5), (Kind.SUB, 1.0)):
        types = [random_type(rng, U8), random_type(rng, U8, size)]
        twice, once = Bench(), Bench()
        pair = [twice.input((256,), types[0]), twice.input((256,), types[0])]
        twice.lower(Binary(kind), pair, types[1], semantics)
        x = once.input((256,), types[0])
        once.lower(Binary(kind), [x, x], types[1], semantics)
        (op,) = once.ops()
        assert isinstance(op, IntLookup)
        np.testing.assert_array_equal(once.agree([codes]), twice.reference([codes, codes]))


def test_real_constants_get_sixteen_bits(rng: np.random.Generator) -> None:
    kind, target = random_type(rng, I8), FixedType.per_tensor(I8, Dyadic(1, -6))
    bench = Bench()
    x = bench.input((5, 8), kind)
    factors = rng.normal(size=8).astype(np.float32)
    bench.lower(Binary(Kind.MUL), [x, bench.build.constant(factors)], target, Semantics.DYADIC)
    codes = random_codes(rng, (5, 8), I8)
    (result,) = bench.agree([codes])
    real = kind.dequantize(codes) * factors / float(target.scale)
    assert np.abs(result - np.clip(real, -128, 127)).max() <= 0.51


def test_powers_and_quotients_of_computed_values_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(UnsupportedOperator, match="computed"):
        imported("Pow", [(2,), (2,)], {})
    bench = Bench()
    pair = [bench.input((2,), random_type(rng, I8)) for _ in range(2)]
    with pytest.raises(NoIntegerForm, match="quotient of two computed values"):
        bench.lower(Binary(Kind.DIV), pair, random_type(rng, I8), Semantics.DYADIC)


def test_division_by_constants_is_a_product(rng: np.random.Generator) -> None:
    divisor = rng.uniform(1, 2, 4).astype(np.float32)
    _, run = imported("Div", [(3, 4), (4,)], {1: divisor})
    x = rng.normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_allclose(run([x]), x / divisor, rtol=1e-6)


def test_division_by_zero_is_refused() -> None:
    with pytest.raises(UnsupportedOperator, match="zero"):
        imported("Div", [(3, 4), (4,)], {1: np.array([1, 0, 2, 3], np.float32)})


def test_shapes_that_do_not_broadcast_are_refused() -> None:
    with pytest.raises(UnsupportedOperator, match="broadcast"):
        imported("Add", [(3, 4), (5,)], {})
