"""The check graph's operators in the installed onnxruntime, at the ends of their ranges.

Expected values are computed in Python's integers, which have no end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from binpoint import ort
from binpoint.errors import InvariantBroken
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.numeric.fixed import I8, U8
from binpoint.numeric.interval import Interval

TOP = 2**63 - 1
LOW = -(2**63)
Ints = NDArray[Any]
Operand = tuple[Ints, int, int]
"""An array, and the ends of its range."""
One = Callable[[OnnxWriter, Tensor], Tensor]
Two = Callable[[OnnxWriter, Tensor, Tensor], Tensor]


def spread(rng: np.random.Generator, lo: int, hi: int, shape: Sequence[int]) -> Ints:
    """Both ends and their neighbours, zero, powers of two, and anything between, in int64."""
    count = int(np.prod(shape))
    marks = [lo, hi, lo + 1, hi - 1, 0, 1, -1, *(s * 2**k for k in range(63) for s in (1, -1))]
    near = [m for m in marks if lo <= m <= hi]
    # The generator draws int64; a whole range of it is drawn by its end points.
    free = rng.integers(lo, hi, count, dtype=np.int64, endpoint=True)
    chosen = np.array([near[i % len(near)] for i in range(count)], np.int64)
    mixed = np.where(rng.random(count) < 0.6, rng.permutation(chosen), free)
    mixed[: min(count, 2)] = [lo, hi][: min(count, 2)]
    return mixed.reshape(shape)


def check(build: One, expected: Callable[[Ints], Ints], operand: Operand) -> Tensor:
    """Run what `build` writes on an operand; every element must be as expected."""
    return _check(lambda w, given: build(w, *given), lambda given: expected(*given), (operand,))


def check_pair(
    build: Two, expected: Callable[[Ints, Ints], Ints], first: Operand, second: Operand
) -> Tensor:
    """The same of two operands."""
    return _check(
        lambda w, given: build(w, *given), lambda given: expected(*given), (first, second)
    )


def _check(
    build: Callable[[OnnxWriter, list[Tensor]], Tensor],
    expected: Callable[[list[Ints]], Ints],
    operands: tuple[Operand, ...],
) -> Tensor:
    writer = OnnxWriter()
    given = [
        Tensor(f"in{i}", array.shape, Interval(lo, hi))
        for i, (array, lo, hi) in enumerate(operands)
    ]
    result = build(writer, given)
    graph = helper.make_graph(
        writer.nodes,
        "probe",
        [helper.make_tensor_value_info(t.name, TensorProto.INT64, t.shape) for t in given],
        [helper.make_tensor_value_info(result.name, TensorProto.INT64, result.shape)],
        list(writer.initializers.values()),
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    feeds = {t.name: array for t, (array, _, _) in zip(given, operands, strict=True)}
    found = ort.plain(model).run(feeds)[result.name]
    wanted = np.asarray(expected([a.astype(object) for a, _, _ in operands]))
    assert found.dtype == np.int64
    assert found.shape == result.shape == wanted.shape
    assert found.astype(object).tolist() == wanted.tolist()
    assert result.range.lo <= int(found.min())
    assert int(found.max()) <= result.range.hi
    return result


def refused(build: One, ends: tuple[int, int], *, shape: Sequence[int] = (4,)) -> None:
    """Assert that `build` refuses an operand of this range."""
    operand = Tensor("in", tuple(shape), Interval(*ends))
    with pytest.raises(InvariantBroken, match="check graph"):
        build(OnnxWriter(), operand)


def refused_pair(
    build: Two, first: tuple[int, int], second: tuple[int, int], *, shape: Sequence[int] = (4,)
) -> None:
    """The same of two operands."""
    a, b = (Tensor(n, tuple(shape), Interval(*e)) for n, e in (("a", first), ("b", second)))
    with pytest.raises(InvariantBroken, match="check graph"):
        build(OnnxWriter(), a, b)


# ---- arithmetic


@pytest.mark.parametrize("op", ["add", "sub"])
@pytest.mark.parametrize("scalar", [False, True])
def test_sums_are_exact_to_the_end_of_int64(
    op: str, scalar: bool, rng: np.random.Generator
) -> None:
    half = 2**62
    a = spread(rng, -half, half - 1, (6, 50))
    b = spread(rng, -half, half - 1, (1,) if scalar else (50,))

    def build(w: OnnxWriter, x: Tensor, y: Tensor) -> Tensor:
        return w.add(x, y) if op == "add" else w.sub(x, y)

    check_pair(
        build,
        lambda x, y: x + y if op == "add" else x - y,
        (a, -half, half - 1),
        (b, -half, half - 1),
    )
    refused_pair(build, (LOW, TOP), (-1, 1))
    refused_pair(build, (-half, half), (-half, half))


def test_products_are_exact_to_the_end_of_int64(rng: np.random.Generator) -> None:
    for low, high, factor in ((-(2**31), 2**31 - 1, 2**32 - 1), (-(2**62), 2**62 - 1, 2)):
        a, b = spread(rng, low, high, (300,)), spread(rng, -factor + 1, factor - 1, (300,))
        check_pair(
            lambda w, x, y: w.mul(x, y),
            lambda x, y: x * y,
            (a, low, high),
            (b, -factor + 1, factor - 1),
        )
    refused_pair(lambda w, x, y: w.mul(x, y), (-(2**32), 2**32), (-(2**31), 2**31))


def test_absolute_values(rng: np.random.Generator) -> None:
    a = spread(rng, LOW + 1, TOP, (300,))
    check(lambda w, x: w.abs(x), np.abs, (a, LOW + 1, TOP))
    refused(lambda w, x: w.abs(x), (LOW, 0))


@pytest.mark.parametrize("bits", [0, 1, 2, 7, 8, 31, 32, 33, 61, 62])
def test_shifts_round_down(bits: int, rng: np.random.Generator) -> None:
    low = LOW + 2**bits
    a = spread(rng, low, TOP, (400,))
    check(lambda w, x: w.floor_shift(x, bits), lambda x: x >> bits, (a, low, TOP))


def test_shifts_beyond_int64_are_refused() -> None:
    refused(lambda w, x: w.floor_shift(x, 63), (0, 1))
    refused(lambda w, x: w.floor_shift(x, 62), (LOW, TOP))


def test_quotients_round_down(rng: np.random.Generator) -> None:
    a, b = spread(rng, -(2**62), TOP, (400,)), spread(rng, 1, 2**61, (400,))
    check_pair(
        lambda w, x, y: w.floor_divide(x, y),
        lambda x, y: x // y,
        (a, -(2**62), TOP),
        (b, 1, 2**61),
    )
    refused_pair(lambda w, x, y: w.floor_divide(x, y), (0, 9), (0, 3))
    refused_pair(lambda w, x, y: w.floor_divide(x, y), (0, 9), (-3, 3))


# ---- choices


@pytest.mark.parametrize("relation", ["Less", "Greater", "Equal"])
def test_choices_see_every_bit(relation: str, rng: np.random.Generator) -> None:
    a = spread(rng, LOW, TOP, (500,))
    b = np.where(rng.random(500) < 0.3, a, np.clip(a, LOW + 1, None) - 1)
    tests = {"Less": np.less, "Greater": np.greater, "Equal": np.equal}
    check_pair(
        lambda w, x, y: w.select(x, relation, y, w.const(1), w.const(0)),
        lambda x, y: tests[relation](x, y).astype(int),
        (a, LOW, TOP),
        (b, LOW, TOP),
    )


def test_maxima_minima_and_clamps(rng: np.random.Generator) -> None:
    a, b = spread(rng, LOW, TOP, (5, 100)), spread(rng, LOW, TOP, (100,))
    whole = ((a, LOW, TOP), (b, LOW, TOP))
    check_pair(lambda w, x, y: w.maximum(x, y), np.maximum, *whole)
    check_pair(lambda w, x, y: w.minimum(x, y), np.minimum, *whole)
    for lo, hi in ((-128, 127), (LOW, 0), (0, TOP), (TOP - 1, TOP), (5, 5)):
        made = _clamped(a, lo, hi)
        assert (made.range.lo, made.range.hi) == (lo, hi)


def _clamped(a: Ints, lo: int, hi: int) -> Tensor:
    return check(lambda w, x: w.clamp(x, lo, hi), lambda x: np.clip(x, lo, hi), (a, LOW, TOP))


def test_a_clamp_that_changes_nothing_writes_nothing() -> None:
    writer = OnnxWriter()
    x = Tensor("x", (3,), Interval(-5, 5))
    assert writer.clamp(x, -5, 5) is x
    assert writer.nodes == []


# ---- sums of many


@pytest.mark.parametrize("top", [127, 2**15, 2**20])
def test_matrix_products_in_int32(top: int, rng: np.random.Generator) -> None:
    # Ends of one sign first, of the other then: partial sums leave int32, whole sums do not.
    depth = 64
    a = np.full((3, depth), top)
    a[:, depth // 2 :] = -top
    b = np.full((depth, 5), 2**31 // top // 8)
    b[:, 1:] = rng.integers(-3, 4, (depth, 4))
    bound = 2**31 - 1
    made = check_pair(
        lambda w, x, y: w.matmul(x, y, Interval(-bound, bound)),
        lambda x, y: x @ y,
        (a, -top, top),
        (b, -(2**31), 2**31 - 1),
    )
    assert made.shape == (3, 5)


def test_matrix_products_in_int64(rng: np.random.Generator) -> None:
    a = spread(rng, -(2**31), 2**31 - 1, (2, 4, 33))
    b = spread(rng, -(2**26), 2**26, (33, 6))
    reach = 33 * 2**57
    check_pair(
        lambda w, x, y: w.matmul(x, y, Interval(-reach, reach)),
        lambda x, y: x @ y,
        (a, -(2**31), 2**31 - 1),
        (b, -(2**26), 2**26),
    )
    wide = Interval(-(2**64), 2**64)
    refused_pair(lambda w, x, y: w.matmul(x, y, wide), (-1, 1), (-1, 1), shape=(4, 4))


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("count", [1, 2, 7, 64, 1000])
def test_sums_over_an_axis_are_exact_up_to_53_bits(
    count: int, keep: bool, rng: np.random.Generator
) -> None:
    top = 2**53 // count
    a = spread(rng, -top, top, (3, count, 2))
    a[0] = top
    a[1] = -top
    a[2, :, 0] = top - 1
    check(
        lambda w, x: w.reduce_sum(x, 1, keep=keep),
        lambda x: x.sum(axis=1, keepdims=keep),
        (a, -top, top),
    )
    refused(lambda w, x: w.reduce_sum(x, 1, keep=keep), (0, top + 1), shape=(3, count, 2))


@pytest.mark.parametrize("keep", [True, False])
def test_maxima_over_an_axis_in_int32(keep: bool, rng: np.random.Generator) -> None:
    low, top = -(2**31), 2**31 - 1
    a = spread(rng, low, top, (4, 70, 3))
    a[0], a[1] = low, low + 1
    check(
        lambda w, x: w.reduce_max(x, 1, keep=keep),
        lambda x: x.max(axis=1, keepdims=keep),
        (a, low, top),
    )
    refused(lambda w, x: w.reduce_max(x, 0, keep=keep), (0, 2**31))


# ---- moves


def test_lookups_and_their_ends(rng: np.random.Generator) -> None:
    table = spread(rng, LOW, TOP, (256,))
    index = np.concatenate([np.arange(256), [0, 255]]).reshape(2, 129)
    check(lambda w, x: w.lookup(table, x), lambda x: table[x.astype(int)], (index, 0, 255))
    refused(lambda w, x: w.lookup(table, x), (0, 256))
    refused(lambda w, x: w.lookup(table, x), (-1, 255))


def test_elements_are_moved_with_all_their_bits(rng: np.random.Generator) -> None:
    a, b = spread(rng, LOW, TOP, (2, 3, 8)), spread(rng, LOW, TOP, (2, 5, 8))
    whole = (a, LOW, TOP)
    places = np.array([[2, 0], [1, 1]], np.int64)
    check(lambda w, x: w.take(x, places, 1), lambda x: np.take(x, places, 1), whole)
    check(lambda w, x: w.reshape(x, (4, 12)), lambda x: x.reshape(4, 12), whole)
    check(lambda w, x: w.transpose(x, (2, 0, 1)), lambda x: x.transpose(2, 0, 1), whole)
    check_pair(
        lambda w, x, y: w.concat([x, y, x], 1),
        lambda x, y: np.concatenate([x, y, x], 1),
        whole,
        (b, LOW, TOP),
    )
    check(
        lambda w, x: w.strided(x, (0, 1, 1), (2, 3, 8), (1, 2, 3)),
        lambda x: x[0:2, 1:3:2, 1:8:3],
        whole,
    )


@pytest.mark.parametrize("value", [0, LOW, TOP, -128])
def test_borders_have_their_value(value: int, rng: np.random.Generator) -> None:
    a = spread(rng, -7, 7, (3, 4))
    made = check(
        lambda w, x: w.pad(x, (1, 0), (0, 2), value),
        lambda x: np.pad(x, ((1, 0), (0, 2)), constant_values=value),
        (a, -7, 7),
    )
    assert made.range == Interval(min(-7, value), max(7, value))


def test_moves_that_move_nothing_write_nothing() -> None:
    writer = OnnxWriter()
    x = Tensor("x", (3, 4), Interval(-5, 5))
    assert writer.reshape(x, (3, 4)) is x
    assert writer.pad(x, (0, 0), (0, 0), 9) is x
    assert writer.strided(x, (0, 0), (3, 4), (1, 1)) is x
    assert writer.floor_shift(x, 0) is x
    assert writer.nodes == []


def test_slices_from_the_end_are_refused() -> None:
    refused(lambda w, x: w.strided(x, (3,), (-5,), (-1,)), (0, 1))
    refused(lambda w, x: w.strided(x, (0,), (-1,), (1,)), (0, 1))


def test_operators_on_bytes_get_bytes() -> None:
    a = np.arange(-128, 128)
    one, zero = np.array(1, np.float32), np.array(0, np.int8)

    def double(w: OnnxWriter, x: Tensor) -> Tensor:
        operands = [(x, I8), one, zero, (x, I8), one, zero, one, zero]
        return w.quantized("QLinearAdd", operands, x.shape, I8)

    check(double, lambda x: np.clip(2 * x, -128, 127), (a, -128, 127))
    kinds = [np.array(0, np.uint8)]

    def widened(w: OnnxWriter, x: Tensor) -> Tensor:
        return w.quantized("DequantizeLinear", [(x, U8), one, *kinds], x.shape, U8, domain="")

    check(widened, lambda x: x, (np.arange(256), 0, 255))


# ---- constants


def test_equal_constants_are_stored_once() -> None:
    writer = OnnxWriter()
    names = [
        writer.array(np.array(v, k)) for v, k in (([1], np.int64), ([1], np.int64), ([1], np.int8))
    ]
    assert names[0] == names[1] != names[2]
    assert len(writer.initializers) == 2


def test_constants_have_their_range() -> None:
    made = OnnxWriter().const(np.array([[LOW, TOP]]))
    assert (made.shape, made.range) == ((1, 2), Interval(LOW, TOP))
