"""Norms of groups, about zero, and Euclidean: as onnxruntime means them, in all integer forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import helper

from binpoint import ort
from binpoint.errors import UnsupportedOperator
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph, Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import FloatOp, Semantics
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, I16, U8, FixedType, FloatType, IntType, TensorType
from binpoint.ops.exactnorm import IntLayerNorm
from binpoint.ops.groupnorm import GroupNorm
from binpoint.ops.layernorm import LayerNorm
from binpoint.ops.methods import Method
from tests.ops.kernels import Bench, random_codes, random_type
from tests.ops.test_layernorm import hard_rows, result_type

Reals = npt.NDArray[np.float32]
EPSILON = float(np.float32(1e-5))
ABOUT_ZERO = LayerNorm(1, EPSILON, centred=False)


def add(
    bench: Bench,
    op: LayerNorm | GroupNorm,
    shape: tuple[int, ...],
    kinds: tuple[FixedType, FixedType],
    rng: np.random.Generator,
    semantics: Semantics = Semantics.DYADIC,
) -> tuple[Reals, Reals]:
    """Add a norm with random parameters to a bench; returns gamma and beta."""
    count = shape[1] if isinstance(op, GroupNorm) else shape[op.axis]
    gamma = rng.normal(1, 0.4, count).astype(np.float32)
    beta = rng.normal(0, 0.4, count).astype(np.float32)
    parameters = [bench.build.constant(p) for p in (gamma, beta)]
    bench.lower(op, [bench.input(shape, kinds[0]), *parameters], kinds[1], semantics)
    return gamma, beta


@pytest.mark.needs("gcc", "clang")
@pytest.mark.parametrize("semantics", list(Semantics))
def test_all_forms_agree(semantics: Semantics, rng: np.random.Generator, tmp_path: Path) -> None:
    bench = Bench()
    rows = [(ABOUT_ZERO, (9, 64)), (ABOUT_ZERO, (8, 1)), (ABOUT_ZERO, (2, 5, 7))]
    groups = [
        (GroupNorm(2, EPSILON), (2, 6, 3, 2)),
        (GroupNorm(6, EPSILON), (1, 6, 12)),
        (GroupNorm(1, 0.0), (3, 4, 5)),
        (GroupNorm(3, EPSILON, Method.SHIFT), (2, 6, 4)),
        (GroupNorm(3, EPSILON, Method.SHIFT_RELEASED), (2, 6, 4)),
    ]
    for storage in (I8, U8, I16):
        for op, shape in (*rows, (LayerNorm(0, 0.0, centred=False), (6, 8)), *groups):
            kinds = random_type(rng, storage), result_type(I8, 3)
            add(bench, op, shape, kinds, rng, semantics)
    for _ in range(3):
        bench.agree(bench.codes(rng))
    quiet = [np.full_like(a, bench.graph.value(n).elem.zero_point) for a, n in
             zip(bench.codes(rng), bench.graph.inputs, strict=True)]  # fmt: skip
    bench.agree(quiet)
    assert bench.warns("clang", tmp_path / "c") == ""


@pytest.mark.parametrize("count", [1, 2, 3, 24, 64, 384])
@pytest.mark.parametrize("storage", [I8, U8, I16])
def test_about_zero_results_are_within_the_stated_bound(
    count: int, storage: IntType, rng: np.random.Generator
) -> None:
    for exponent in (-12.0, -6.3, 0.2):
        bench = Bench()
        kind = FixedType.per_tensor(storage, Dyadic.from_float(np.float32(2.0**exponent)), 3)
        target = result_type(I8, 5)
        gamma, beta = add(bench, ABOUT_ZERO, (200, count), (kind, target), rng)
        (op,) = bench.ops()
        assert isinstance(op, IntLayerNorm)
        codes = hard_rows(rng, 200, count, storage)
        (result,) = bench.reference([codes])
        apart = (codes - 3).astype(np.longdouble)
        power = count * np.square(apart).sum(axis=1, keepdims=True)
        root = np.sqrt(power + np.longdouble(op.epsilon) / 2**op.spare)
        real = (count * apart / root * gamma + beta) / float(target.scale) + target.zero_point
        low, high = target.storage.min, target.storage.max
        assert np.abs(result - np.clip(real, low, high)).max() <= 0.5 + 3 * 2.0**-op.shift
        wanted = EPSILON * count**2 / float(kind.scale) ** 2 * 2.0**op.spare
        assert abs(op.epsilon - wanted) <= max(0.5, wanted * 2.0**-50) or op.epsilon == 1


def test_groups_are_the_real_result_rounded(rng: np.random.Generator) -> None:
    for groups in (1, 2, 4, 8):
        bench, op = Bench(), GroupNorm(groups, EPSILON)
        kind, target = random_type(rng, I8), result_type(I8)
        gamma, beta = add(bench, op, (20, 8, 3, 5), (kind, target), rng)
        codes = random_codes(rng, (20, 8, 3, 5), I8)
        (result,) = bench.reference([codes])
        (real,) = op.reference(kind.dequantize(codes), gamma, beta)
        wanted = np.clip(real / float(target.scale), -128, 127)
        assert np.abs(result - wanted).max() <= 0.5 + 2.0**-16


def imported(
    owner: type[FloatOp], name: str, arrays: list[Reals], opset: int, **attributes: Any
) -> tuple[Graph, Value]:
    graph = Graph("imported")
    build = GraphBuilder(graph, "op")
    x = build.input("x", TensorType(arrays[0].shape, FloatType()))
    operands = (x, *(build.constant(a) for a in arrays[1:]))
    proto = helper.make_node(name, [f"x{i}" for i in range(len(arrays))], ["y"], **attributes)
    (y,) = owner.from_onnx(OnnxNode(proto, operands, opset, 0, ("y",)), build)
    return graph, y


@pytest.mark.parametrize(
    ("name", "shapes", "attributes", "opset"),
    [
        ("InstanceNormalization", [(2, 3, 4, 5), (3,), (3,)], {"epsilon": 0.01}, 21),
        ("InstanceNormalization", [(2, 3, 7), (3,), (3,)], {}, 9),
        ("GroupNormalization", [(2, 6, 4, 5), (6,), (6,)], {"num_groups": 2}, 21),
        ("GroupNormalization", [(2, 6, 4), (3,), (3,)], {"num_groups": 3}, 18),
        ("RMSNormalization", [(2, 5, 8), (8,)], {"epsilon": 0.1}, 23),
        ("RMSNormalization", [(2, 5, 8), (5, 8)], {"axis": 1}, 23),
        ("LpNormalization", [(2, 5, 8)], {}, 21),
        ("LpNormalization", [(2, 5, 8)], {"axis": 1, "p": 2}, 21),
    ],
)
def test_import_means_what_onnxruntime_computes(
    name: str,
    shapes: list[tuple[int, ...]],
    attributes: dict[str, Any],
    opset: int,
    rng: np.random.Generator,
) -> None:
    arrays = [rng.normal(1, 1, shape).astype(np.float32) for shape in shapes]
    owner = LayerNorm if name[0] in "RL" else GroupNorm
    graph, y = imported(owner, name, arrays, opset, **attributes)
    (wanted,) = ort.evaluate(name, list(arrays), opset=opset, **attributes)
    found = evaluate(graph, {"x": arrays[0]})[y.name]
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=4e-6)


@pytest.mark.parametrize(
    ("name", "shapes", "attributes", "says"),
    [
        ("LpNormalization", [(2, 5)], {"p": 1}, "p = 1"),
        ("LpNormalization", [(2, 0)], {}, "no element"),
        ("RMSNormalization", [(2, 5), (4,)], {}, "parameters of shape"),
        ("GroupNormalization", [(2, 6, 4), (6,), (6,)], {"num_groups": 4}, "6 channels in 4"),
        ("GroupNormalization", [(2, 6, 4), (6,), (6,)], {}, "6 channels in 0"),
        ("GroupNormalization", [(2, 6, 4), (2,), (2,)], {"num_groups": 2}, "2 parameters"),
        ("InstanceNormalization", [(2, 6, 0), (6,), (6,)], {}, "no element"),
        ("InstanceNormalization", [(6,), (6,), (6,)], {}, "an operand of shape"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    name: str, shapes: list[tuple[int, ...]], attributes: dict[str, Any], says: str
) -> None:
    owner = LayerNorm if name[0] in "RL" else GroupNorm
    with pytest.raises(UnsupportedOperator, match=says):
        imported(owner, name, [np.ones(s, np.float32) for s in shapes], 21, **attributes)


def test_nothing_but_zeros_stay_zeros(rng: np.random.Generator) -> None:
    """Where onnxruntime gives zeros too, for the Euclidean norm; the sum of squares is zero."""
    arrays = [np.zeros((2, 8), np.float32)]
    graph, y = imported(LayerNorm, "LpNormalization", arrays, 21)
    np.testing.assert_array_equal(evaluate(graph, {"x": arrays[0]})[y.name], 0)
    bench, kind = Bench(), random_type(rng, I16)
    gamma, beta = (np.full(8, v, np.float32) for v in (1 / np.sqrt(8), 0))
    x = bench.input((2, 8), kind)
    parameters = [bench.build.constant(p) for p in (gamma, beta)]
    op = LayerNorm(1, 0.0, centred=False)
    bench.lower(op, [x, *parameters], result_type(I8, 7), Semantics.DYADIC)
    (found,) = bench.reference([np.full((2, 8), kind.zero_point)])
    np.testing.assert_array_equal(found, 7)
