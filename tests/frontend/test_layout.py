"""sink-transposes: transpositions move down and cancel; values are kept."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binpoint.frontend.blocks import flattened, swapped
from binpoint.frontend.layout import SinkTransposes
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Value
from binpoint.ir.op import FloatOp
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, FixedType, FloatType, TensorType
from binpoint.ops.concat import Concat
from binpoint.ops.conv import Conv
from binpoint.ops.dense import Dense
from binpoint.ops.elementwise import Binary, Kind, MinMax
from binpoint.ops.pad import Pad
from binpoint.ops.reduce import ArgExtreme, Reduce, ReduceExtreme
from binpoint.ops.rescaled import Quantize
from binpoint.ops.shape import Reshape, Transpose, to_channel_first, to_channel_last
from binpoint.ops.slices import Take
from binpoint.ops.unary import Clip, Unary
from binpoint.ops.window import Window

Apply = Callable[..., Graph]
T1 = FixedType.per_tensor(I8, Dyadic(1, -4), 3)
T2 = FixedType.per_tensor(I8, Dyadic(1, -3), 3)


def start(*shape: int, fixed: FixedType | None = None) -> tuple[GraphBuilder, Value]:
    build = GraphBuilder(Graph("g"))
    return build, build.input("x", TensorType(shape, FloatType()), fixed=fixed)


def finish(build: GraphBuilder, *outputs: Value) -> Graph:
    build.graph.outputs = tuple(v.name for v in outputs)
    build.graph.output_names = build.graph.outputs
    return build.graph


def conv(build: GraphBuilder, x: Value, channels: int) -> Value:
    """A convolution as the importer makes it: channel-first outside, channel-last inside."""
    rng = np.random.default_rng(channels)
    weights = rng.normal(size=(channels, x.shape[1], 3, 3)).astype(np.float32)
    window = Window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    kernel = to_channel_last(build, build.constant(weights))
    bias = build.constant(rng.normal(size=channels).astype(np.float32))
    y = build.one(Conv(window), to_channel_last(build, x), kernel, bias)
    return to_channel_first(build, y)


def dense(build: GraphBuilder, x: Value, fixed: FixedType | None = None) -> Value:
    rng = np.random.default_rng(5)
    weights = rng.integers(-100, 100, (6, x.shape[-1])).astype(np.int8 if fixed else np.float32)
    return build.one(Dense(), x, build.constant(weights, fixed=fixed))


def kinds(graph: Graph) -> list[str]:
    return [type(node.op).__name__ for node in graph.nodes()]


def test_transpositions_between_convolutions_cancel(apply: Apply) -> None:
    build, x = start(1, 3, 6, 5)
    y = build.one(Clip(0.0, None), conv(build, x, 4))
    y = build.one(Unary("Sigmoid"), conv(build, y, 7))
    done = apply(finish(build, y), SinkTransposes())
    assert kinds(done) == ["Transpose", "Conv", "Clip", "Conv", "Unary", "Transpose"]


def test_one_channel_is_reshaped_not_transposed(apply: Apply) -> None:
    build, x = start(1, 1, 6, 5)
    done = apply(finish(build, conv(build, x, 4)), SinkTransposes())
    assert kinds(done) == ["Reshape", "Conv", "Transpose"]


@pytest.mark.parametrize("per_channel", [False, True])
def test_flatten_permutes_the_columns_of_weights(apply: Apply, per_channel: bool) -> None:
    build, x = start(1, 3, 6, 5)
    y = build.one(Reshape((1, 120)), conv(build, x, 4))
    y = build.one(Clip(-1.0, 1.0), y)
    scales = tuple(Dyadic(3, -7 - i) for i in range(6))
    kind = FixedType(I8, scales, (0,), 0) if per_channel else None
    done = apply(finish(build, dense(build, y, kind)), SinkTransposes())
    assert kinds(done) == ["Transpose", "Conv", "Reshape", "Clip", "Dense"]


def test_flatten_before_another_reader_stays(
    apply: Apply, caplog: pytest.LogCaptureFixture
) -> None:
    build, x = start(1, 3, 6, 5)
    y = build.one(Reshape((1, 120)), conv(build, x, 4))
    with caplog.at_level(logging.DEBUG):
        done = apply(finish(build, dense(build, y), y), SinkTransposes())
    assert kinds(done) == ["Transpose", "Conv", "Transpose", "Reshape", "Dense"]
    assert "not only matrix products" in caplog.text


def test_global_features_need_no_transposition(apply: Apply) -> None:
    build, x = start(1, 1, 1, 8)
    first = build.one(Reshape((1, 8)), to_channel_first(build, x))
    done = apply(finish(build, build.one(Unary("Tanh"), first)), SinkTransposes())
    assert kinds(done) == ["Reshape", "Unary"]


def test_tokens_of_patches_need_no_transposition(apply: Apply) -> None:
    build, x = start(1, 3, 4, 4)
    y = build.one(Reshape((1, 8, 16)), conv(build, x, 8))
    y = build.one(Transpose((0, 2, 1)), y)
    done = apply(finish(build, y), SinkTransposes())
    assert kinds(done) == ["Transpose", "Conv", "Reshape"]


def test_types_go_along(apply: Apply) -> None:
    build, x = start(1, 2, 3, 4, fixed=T1)
    moved = build.one(Transpose((0, 2, 3, 1)), x)
    y = replace(build.one(Clip(0.0, None), moved), fixed=T2)
    build.graph.set_value(y)
    z = build.one(Unary("Tanh"), y)
    done = apply(finish(build, z), SinkTransposes())
    clip = next(n for n in done.nodes() if isinstance(n.op, Clip))
    assert done.results(clip)[0].fixed == T2
    assert clip.inputs == ("x",)
    assert kinds(done) == ["Clip", "Unary", "Transpose"]


def test_a_rounding_of_its_own_keeps_a_transposition(
    apply: Apply, caplog: pytest.LogCaptureFixture
) -> None:
    build, x = start(1, 2, 3, 4, fixed=T1)
    moved = replace(build.one(Transpose((0, 2, 3, 1)), x), fixed=T2)
    build.graph.set_value(moved)
    again = replace(build.one(Transpose((0, 3, 1, 2)), moved), fixed=T1)
    build.graph.set_value(again)
    y = build.one(Clip(0.0, None), moved)
    with caplog.at_level(logging.DEBUG):
        done = apply(finish(build, y, again), SinkTransposes())
    assert kinds(done).count("Transpose") == 2
    assert "rounded to a type of its own" in caplog.text


def test_a_quantizer_is_passed(apply: Apply) -> None:
    build, x = start(1, 2, 3, 4)
    moved = build.one(Transpose((0, 2, 3, 1)), x)
    y = replace(build.one(Quantize(T1), moved), fixed=T1)
    build.graph.set_value(y)
    back = build.one(Transpose((0, 3, 1, 2)), y)
    done = apply(finish(build, replace(back, fixed=None)), SinkTransposes())
    assert kinds(done) == ["Quantize"]


def test_a_border_is_not_bypassed(apply: Apply) -> None:
    build, x = start(2, 3)
    y = build.one(Transpose((1, 0)), build.one(Transpose((1, 0)), x))
    done = apply(finish(build, y), SinkTransposes())
    assert len(done.nodes()) == 1
    assert done.outputs != done.inputs


@given(st.data())
def test_reshape_and_transposition_change_places(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4)))
    order = tuple(data.draw(st.permutations(range(len(shape)))))
    factors = [f for axis in order for f in ([2, 2] if shape[axis] == 4 else [shape[axis]])]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(factors)), max_size=4)))
    parts = itertools.pairwise([0, *cuts, len(factors)])
    target = tuple(int(np.prod(factors[a:b])) for a, b in parts)
    x = np.arange(int(np.prod(shape))).reshape(shape)
    wanted = x.transpose(order).reshape(target)
    found = swapped(shape, order, target)
    if found is not None:
        np.testing.assert_array_equal(x.reshape(found[0]).transpose(found[1]), wanted)
    columns = flattened(shape, order, target)
    if columns is not None:
        np.testing.assert_array_equal(x.reshape(target)[..., columns], wanted)


def test_a_split_of_one_axis_is_found() -> None:
    assert swapped((1, 5, 6, 8), (0, 3, 1, 2), (1, 2, 4, 5, 6)) == (
        (1, 5, 6, 2, 4),
        (0, 3, 4, 1, 2),
    )


def test_a_residual_sum_is_passed(apply: Apply) -> None:
    build, x = start(1, 3, 6, 5)
    a = conv(build, x, 4)
    b = conv(build, build.one(Clip(0.0, None), a), 4)
    y = conv(build, build.one(Binary(Kind.ADD), a, b), 5)
    done = apply(finish(build, y), SinkTransposes())
    assert kinds(done) == ["Transpose", "Conv", "Clip", "Conv", "Binary", "Conv", "Transpose"]


def test_factors_per_channel_are_passed(apply: Apply) -> None:
    build, x = start(1, 3, 6, 5)
    a = conv(build, x, 4)
    gate = build.input("gate", TensorType((1, 4), FloatType()), fixed=T1)
    gate = build.one(Reshape((1, 4, 1, 1)), build.one(Clip(0.0, None), gate))
    y = build.one(Binary(Kind.MUL), a, gate)
    constant = build.constant(np.arange(1, 5, dtype=np.float32).reshape(1, 4, 1, 1))
    y = conv(build, build.one(Binary(Kind.MUL), y, constant), 5)
    done = apply(finish(build, y), SinkTransposes())
    assert kinds(done).count("Transpose") == 2
    assert kinds(done).count("Reshape") == 1


def test_an_operand_that_lies_otherwise_keeps_the_transposition(
    apply: Apply, caplog: pytest.LogCaptureFixture
) -> None:
    build, x = start(1, 4, 6, 5)
    y = build.one(Binary(Kind.ADD), conv(build, x, 4), x)
    with caplog.at_level(logging.DEBUG):
        done = apply(finish(build, y), SinkTransposes())
    assert kinds(done)[-1] == "Binary"
    assert "not transposed alike" in caplog.text


@pytest.mark.parametrize(
    "op",
    [
        Pad((0, 1, 0, 2), (0, 0, 1, 3), 0.5),
        Take((range(1), range(3, 0, -1), (0, 2, 1), range(0, 5, 2))),
        Concat(1),
        Reduce((2, 3), mean=True),
        ReduceExtreme((1, 3), largest=False),
        ArgExtreme(1, largest=True, last=False),
        MinMax(largest=True),
    ],
    ids=lambda op: type(op).__name__,
)
def test_ops_with_axes_are_passed(apply: Apply, op: FloatOp) -> None:
    build, x = start(1, 3, 6, 5)
    operands = [conv(build, x, 4)]
    if isinstance(op, Concat | MinMax):
        operands.append(build.one(Unary("Tanh"), operands[0]))
    done = apply(finish(build, build.one(op, *operands)), SinkTransposes())
    assert kinds(done)[-1] in ("Transpose", "Reshape")
    assert kinds(done)[-2] == type(op).__name__
