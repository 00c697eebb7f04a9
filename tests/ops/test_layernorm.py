from __future__ import annotations

import ctypes
import math
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import TensorProto, helper

from binpoint import ort
from binpoint.errors import NoIntegerForm, RangeOverflow, UnsupportedOperator
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph, Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import Semantics
from binpoint.numeric import float32
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, I16, I32, U8, FixedType, FloatType, IntType, TensorType
from binpoint.numeric.interval import Interval
from binpoint.ops import roots
from binpoint.ops.exactnorm import IntLayerNorm
from binpoint.ops.layernorm import LayerNorm
from tests.ops.kernels import Bench, random_codes, random_type

Codes = npt.NDArray[np.int64]
Real = npt.NDArray[np.float64]
U16 = IntType(16, signed=False)
EPSILON = float(np.float32(1e-5))


def result_type(storage: IntType, zero: int = 0) -> FixedType:
    """Steps that cover about four deviations."""
    return FixedType.per_tensor(storage, Dyadic.from_float(4.25 * 2.0 ** (1 - storage.width)), zero)


def norm(
    bench: Bench,
    shape: Sequence[int],
    axis: int,
    kinds: tuple[FixedType, FixedType],
    rng: np.random.Generator,
    semantics: Semantics = Semantics.DYADIC,
    epsilon: float = EPSILON,
) -> tuple[Real, Real]:
    """Add a layer norm with random parameters to a bench; returns gamma and beta."""
    count = shape[axis]
    gamma = rng.normal(1, 0.4, count).astype(np.float32)
    beta = rng.normal(0, 0.4, count).astype(np.float32)
    x = bench.input(shape, kinds[0])
    parameters = [bench.build.constant(p) for p in (gamma, beta)]
    bench.lower(LayerNorm(axis, epsilon), [x, *parameters], kinds[1], semantics)
    return gamma.astype(np.float64), beta.astype(np.float64)


def hard_rows(rng: np.random.Generator, rows: int, count: int, storage: IntType) -> Codes:
    """Rows of every spread: constant, one element off by one, the two ends, narrow and wide."""
    x = random_codes(rng, (rows, count), storage)
    width = 2.0 ** rng.uniform(0, storage.width, (rows, 1))
    centre = rng.integers(storage.min, storage.max, (rows, 1))
    x = np.where(rng.random((rows, 1)) < 0.7, centre + np.rint(x / 2.0**storage.width * width), x)
    x = np.clip(x, storage.min, storage.max).astype(np.int64)
    x[0], x[1], x[2], x[3] = storage.max, storage.min, 5, 0
    x[4], x[4, 0] = 7, 8
    x[5], x[5, : count // 2] = storage.min, storage.max
    x[6], x[6, -1] = storage.min, storage.max
    return x


@pytest.mark.needs("gcc", "clang")
@pytest.mark.parametrize("semantics", list(Semantics))
def test_all_forms_agree(semantics: Semantics, rng: np.random.Generator, tmp_path: Path) -> None:
    bench = Bench()
    for storage in (I8, U8, I16, U16):
        for shape, axis in (((9, 64), 1), ((2, 5, 7), 1), ((6, 8), 0), ((8, 1), 1), ((8, 2), 1)):
            kinds = random_type(rng, storage), result_type(I8, 3)
            norm(bench, shape, axis, kinds, rng, semantics)
        norm(bench, (8, 384), 1, (random_type(rng, storage), result_type(storage)), rng, semantics)
        norm(bench, (8, 65), 1, (random_type(rng, storage), result_type(I16)), rng, semantics, 0.0)
    arrays = bench.codes(rng)
    bench.agree(arrays)
    rows = [hard_rows(rng, 40, a.size, bench.graph.value(n).elem.storage) for n, a in
            zip(bench.graph.inputs, arrays, strict=True)]  # fmt: skip
    for index in (0, 4, 5, 6, 9):
        bench.agree([r[index].reshape(a.shape) for r, a in zip(rows, arrays, strict=True)])
    assert bench.warns("clang", tmp_path / "c") == ""


@pytest.mark.parametrize("count", [2, 3, 24, 64, 65, 384, 1024])
@pytest.mark.parametrize("storage", [I8, U8, I16])
@pytest.mark.parametrize("narrow", [True, False])
def test_results_are_within_the_stated_bound(
    count: int, storage: IntType, narrow: bool, rng: np.random.Generator
) -> None:
    for exponent in (-12.0, -6.3, 0.2):
        bench = Bench()
        kind = FixedType.per_tensor(storage, Dyadic.from_float(np.float32(2.0**exponent)), 3)
        target = result_type(I8 if narrow else I16, 5)
        gamma, beta = norm(bench, (200, count), 1, (kind, target), rng)
        (op,) = bench.ops()
        assert isinstance(op, IntLayerNorm)
        codes = hard_rows(rng, 200, count, storage)
        (result,) = bench.reference([codes])
        # E/2^e in units of n² codes², as the definition has it.
        whole = codes.astype(np.longdouble)
        apart = count * whole - whole.sum(axis=1, keepdims=True)
        spread = np.square(apart).sum(axis=1, keepdims=True) / count
        root = np.sqrt(spread + np.longdouble(op.epsilon) / 2**op.spare)
        real = (apart / root * gamma + beta) / float(target.scale) + target.zero_point
        bound = 0.5 + 3 * 2.0**-op.shift
        low, high = target.storage.min, target.storage.max
        assert np.abs(result - np.clip(real, low, high)).max() <= bound
        assert op.shift >= (12 if narrow else 8)
        wanted = EPSILON * count**2 / float(kind.scale) ** 2 * 2.0**op.spare
        assert abs(op.epsilon - wanted) <= max(0.5, wanted * 2.0**-50) or op.epsilon == 1


def test_eight_bits_are_the_real_result_rounded(rng: np.random.Generator) -> None:
    """Against the op's own float64 definition, epsilon included: within 2^-16 of half a step."""
    bench = Bench()
    kind, target = random_type(rng, I8), result_type(I8)
    gamma, beta = norm(bench, (2000, 64), 1, (kind, target), rng)
    codes = hard_rows(rng, 2000, 64, I8)
    (result,) = bench.reference([codes])
    (real,) = LayerNorm(1, EPSILON).reference(kind.dequantize(codes), gamma, beta)
    wanted = np.clip(real / float(target.scale), -128, 127)
    assert np.abs(result - wanted).max() <= 0.5 + 2.0**-16


@pytest.mark.parametrize("storage", [I8, U8])
def test_onnxruntime_differs_rarely_and_by_one(storage: IntType, rng: np.random.Generator) -> None:
    bench = Bench()
    kind, target = random_type(rng, storage), result_type(I8, -4)
    gamma, beta = norm(bench, (4000, 64), 1, (kind, target), rng, Semantics.ONNXRUNTIME)
    codes = random_codes(rng, (4000, 64), storage)
    (result,) = bench.reference([codes])
    real = float32.dequantize_linear(codes, float(kind.scale), kind.zero_point)
    parameters = (gamma.astype(np.float32), beta.astype(np.float32))
    (y,) = ort.evaluate("LayerNormalization", [real, *parameters], epsilon=EPSILON)
    wanted = float32.quantize_linear(y, float(target.scale), target.zero_point, -128, 127)
    apart = np.abs(result - wanted)
    assert apart.max() <= 1
    assert apart.mean() <= 1e-4
    (node,) = bench.graph.nodes()
    arguments, results = bench.graph.arguments(node), bench.graph.results(node)
    assert "may differ by one" in bench.ops()[0].work(arguments, results).notes[0]


def test_a_shifted_operand_gives_the_same(rng: np.random.Generator) -> None:
    bench = Bench()
    kinds = FixedType.per_tensor(I16, Dyadic(1, -4), 77), result_type(I8)
    norm(bench, (20, 32), 1, kinds, rng)
    codes = rng.integers(-3000, 3000, (20, 32))
    (first,), (second,) = bench.reference([codes]), bench.reference([codes + 20000])
    np.testing.assert_array_equal(first, second)


def _squares(rng: np.random.Generator) -> Codes:
    """Numbers of 61 and 62 bits about squares, and any."""
    roots = rng.integers(2**30, 2**31, 400, dtype=np.int64)
    roots[:3] = 2**30, 2**31 - 1, 2**30 + 1
    near = np.concatenate([roots**2 + d for d in (-1, 0, 1)] + [roots**2 + 2 * roots])
    any_ = rng.integers(2**60, 2**62, 400, dtype=np.int64)
    return np.clip(np.concatenate([near, any_]), 2**60, 2**62 - 1)


def test_roots_are_exact_everywhere(rng: np.random.Generator) -> None:
    x = _squares(rng)
    wanted = np.array([math.isqrt(int(v)) for v in x])
    np.testing.assert_array_equal(roots.floor_root(x), wanted)
    w = OnnxWriter()
    root = roots.newton_root(w, Tensor("x", x.shape, Interval(2**60, 2**62 - 1)))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.INT64, x.shape) for name in ("x", root.name)
    ]
    graph = helper.make_graph(w.nodes, "root", ends[:1], ends[1:], list(w.initializers.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    np.testing.assert_array_equal(ort.plain(model).run({"x": x})[root.name], wanted)


@pytest.mark.needs("gcc")
def test_the_root_in_c_is_exact(rng: np.random.Generator, tmp_path: Path) -> None:
    bench = Bench()
    norm(bench, (2, 8), 1, (random_type(rng, I8), result_type(I8)), rng)
    bench.project()[1].write(tmp_path / "c")
    (header,) = (tmp_path / "c").glob("*_kernels.h")
    text = f"""#include "c/{header.name}"
void roots(const uint64_t *x, uint32_t *y, size_t n);
void roots(const uint64_t *x, uint32_t *y, size_t n)
{{ for (size_t i = 0; i < n; ++i) {{ y[i] = bp_norm_sqrt(x[i]); }} }}
"""
    (tmp_path / "t.c").write_text(text, encoding="utf-8")
    words = ["gcc", "-std=c99", "-O2", "-w", "-shared", "-fPIC", "t.c", "-o", "t.so"]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    x = np.concatenate([_squares(rng), np.arange(1000)])
    y = np.zeros(x.size, np.uint32)
    pointer = ctypes.c_void_p
    ctypes.CDLL(str(tmp_path / "t.so")).roots(
        pointer(x.ctypes.data), pointer(y.ctypes.data), ctypes.c_size_t(x.size)
    )
    np.testing.assert_array_equal(y, [math.isqrt(int(v)) for v in x])


def test_the_normalizing_shift_is_exact(rng: np.random.Generator) -> None:
    powers = 2 ** np.arange(62, dtype=np.int64)
    x = np.concatenate([powers, powers[1:] - 1, 2 * (powers - 1) + 1, rng.integers(1, 2**62, 500)])
    scaled = [int(v) << 2 * int(h) for v, h in zip(x, roots.half_shift(x), strict=True)]
    assert all(2**60 <= v < 2**62 for v in scaled)


def imported(
    shapes: Sequence[Sequence[int]], rng: np.random.Generator, **attributes: Any
) -> tuple[Graph, Value, list[npt.NDArray[np.float32]]]:
    graph = Graph("imported")
    build = GraphBuilder(graph, "op")
    arrays = [rng.normal(1, 1, shape).astype(np.float32) for shape in shapes]
    x = build.input("x", TensorType(tuple(shapes[0]), FloatType()))
    operands = (x, *(build.constant(a) for a in arrays[1:]))
    names = [f"x{i}" for i in range(len(shapes))]
    proto = helper.make_node("LayerNormalization", names, ["y"], **attributes)
    (y,) = LayerNorm.from_onnx(OnnxNode(proto, operands, 17, 0, ("y",)), build)
    return graph, y, arrays


@pytest.mark.parametrize(
    ("shapes", "axis"),
    [
        ([(2, 5, 8), (8,), (8,)], -1),
        ([(2, 5, 8), (8,)], 2),
        ([(2, 5, 8), (5, 8), (5, 8)], 1),
        ([(2, 5, 8), (2, 5, 8), (1, 5, 1)], 0),
        ([(3, 8), (1,), (8,)], -1),
    ],
)
def test_import_means_what_onnxruntime_computes(
    shapes: list[tuple[int, ...]], axis: int, rng: np.random.Generator
) -> None:
    graph, y, arrays = imported(shapes, rng, axis=axis, epsilon=0.01)
    whole = [
        arrays[0],
        *(np.broadcast_to(a, arrays[0].shape[axis:]).copy() for a in arrays[1:]),
    ]
    (wanted,) = ort.evaluate("LayerNormalization", whole, axis=axis, epsilon=0.01, opset=17)
    found = evaluate(graph, {"x": arrays[0]})[y.name]
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)


def test_what_cannot_be_meant_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(UnsupportedOperator, match="outside rank"):
        imported([(2, 3), (3,)], rng, axis=2)
    with pytest.raises(UnsupportedOperator, match="parameters of shape"):
        imported([(2, 3), (4,)], rng)
    with pytest.raises(UnsupportedOperator, match="no element"):
        imported([(2, 0), (0,)], rng)
    build = GraphBuilder(Graph("g"), "op")
    x = build.input("x", TensorType((2, 3), FloatType()))
    proto = helper.make_node("LayerNormalization", ["x", "g"], ["y", "mean"])
    gamma = build.constant(np.ones(3, np.float32))
    node = OnnxNode(proto, (x, gamma), 17, 0, ("y", "mean"))
    with pytest.raises(UnsupportedOperator, match="mean or deviation"):
        LayerNorm.from_onnx(node, build)
    node = OnnxNode(proto, (x, x), 17, 0, ("y",))
    with pytest.raises(UnsupportedOperator, match="must be a constant"):
        LayerNorm.from_onnx(node, build)
    bad = build.constant(np.array([1, np.inf, 1], np.float32))
    with pytest.raises(UnsupportedOperator, match="not finite"):
        LayerNorm.from_onnx(OnnxNode(proto, (x, bad), 17, 0, ("y",)), build)


def test_types_that_do_not_fit_are_refused(rng: np.random.Generator) -> None:
    bench = Bench()
    with pytest.raises(NoIntegerForm, match="of this type"):
        norm(bench, (2, 8), 1, (random_type(rng, I32), result_type(I8)), rng)
    with pytest.raises(NoIntegerForm, match="16-bit values"):
        norm(bench, (1, 5000), 1, (random_type(rng, I16), result_type(I8)), rng)
    tiny = FixedType.per_tensor(I8, Dyadic(1, -40))
    with pytest.raises(NoIntegerForm, match="8-bit values"):
        norm(bench, (2, 8), 1, (tiny, result_type(I8)), rng)
    with pytest.raises(RangeOverflow, match="factor per channel"):
        norm(bench, (2, 8), 1, (random_type(rng, I8), tiny), rng)


def test_permuted_axes_give_the_same(rng: np.random.Generator) -> None:
    x = rng.normal(size=(2, 3, 4)).astype(np.float32)
    build = GraphBuilder(Graph("permuted"), "op")
    value = build.input("x", TensorType(x.shape, FloatType()))
    for axis in range(3):
        parameters = rng.normal(size=(2, x.shape[axis])).astype(np.float32)
        moved = LayerNorm(axis, EPSILON).permuted((2, 0, 1), value)
        assert moved is not None
        (result,) = moved.op.reference(np.transpose(x, (2, 0, 1)), *parameters)
        (wanted,) = LayerNorm(axis, EPSILON).reference(x, *parameters)
        np.testing.assert_allclose(result, np.transpose(wanted, moved.order), rtol=1e-6)


def test_a_clamp_moves_into_the_op(rng: np.random.Generator) -> None:
    bench = Bench()
    norm(bench, (30, 16), 1, (random_type(rng, I8), result_type(I8)), rng)
    (op,) = bench.ops()
    assert isinstance(op, IntLayerNorm)
    inputs = [random_codes(rng, (30, 16), I8)]
    inputs += [
        v.constant.array.astype(np.int64)
        for v in bench.graph.arguments(bench.graph.nodes()[0])[1:]
        if v.constant is not None
    ]
    (whole,), (cut,) = op.reference(*inputs), op.clamped(0, 40).reference(*inputs)
    np.testing.assert_array_equal(cut, np.clip(whole, 0, 40))
