"""Transposed convolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from binpoint.errors import UnsupportedOperator
from binpoint.ir.graph import Graph
from binpoint.numeric import float32
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, I32, FixedType
from binpoint.ops.conv_transpose import ConvTranspose, IntConvTranspose
from tests.ops.moves import Case, agreed, codes_for, kind, lowered, ops, results

X, Y = kind(I8, 0.05, 3), kind(I8, 0.4, -7)
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "strides": {"strides": [2, 3]},
    "pads": {"strides": [2, 2], "pads": [1, 0, 2, 1], "output_padding": [1, 0]},
    "dilations": {"strides": [2, 2], "dilations": [2, 3], "pads": [1, 2, 3, 4]},
    "even-dilations": {"strides": [2, 4], "dilations": [2, 2]},
    "shape": {"strides": [3, 2], "output_shape": [14, 9]},
    "shape-upper": {"strides": [3, 2], "output_shape": [14, 7], "auto_pad": "SAME_UPPER"},
    "upper": {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    "lower": {"strides": [3, 2], "auto_pad": "SAME_LOWER"},
    "sparse": {"strides": [4, 4], "auto_pad": "SAME_LOWER"},
    "valid": {"strides": [2, 2], "auto_pad": "VALID"},
    "cropped": {"strides": [1, 1], "pads": [2, 2, 2, 2]},
}
_RNG = np.random.default_rng(3)
WEIGHTS = _RNG.integers(-127, 128, (4, 3, 3, 2)).astype(np.int8)
BIASES = {1: _RNG.integers(-3000, 3000, 3), 2: _RNG.integers(-3000, 3000, 6)}


def case(form: str, groups: int, *, real: bool) -> Case:
    weights = WEIGHTS.astype(np.float32) if real else WEIGHTS
    bias = BIASES[groups].astype(np.float32 if real else np.int32)
    attributes = {"group": groups, **FORMS[form]}
    return Case(
        "ConvTranspose", ConvTranspose, ((2, 4, 5, 4), weights, bias), attributes=attributes
    )


def weight_type(per_channel: bool) -> FixedType:
    if not per_channel:
        return kind(I8, 0.02)
    scales = tuple(Dyadic.from_float(float(np.float32(s))) for s in (0.02, 0.013, 0.031))
    return FixedType(I8, scales, (0,), 1)


def quantized(form: str, groups: int, *, per_channel: bool) -> Graph:
    kinds = weight_type(per_channel)
    scales = tuple(X.scale * s for s in kinds.scales) * (groups if per_channel else 1)
    bias = FixedType(I32, scales, (0,), 0 if per_channel else None)
    return case(form, groups, real=False).graph({0: X, 1: kinds, 2: bias}, Y)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("groups", [1, 2])
def test_float_results_are_those_of_onnxruntime(
    form: str, groups: int, rng: np.random.Generator
) -> None:
    """On integers, whose float32 sums are exact in any order."""
    each = case(form, groups, real=True)
    inputs = [rng.integers(-128, 128, (2, 4, 5, 4)).astype(np.float32)]
    np.testing.assert_array_equal(each.run_float(inputs)[0], each.runtime(inputs)[0])


def test_one_spatial_axis_is_read(rng: np.random.Generator) -> None:
    operands = ((2, 4, 5), WEIGHTS[..., 0].astype(np.float32))
    each = Case("ConvTranspose", ConvTranspose, operands, attributes={"strides": [2]})
    inputs = [rng.integers(-128, 128, (2, 4, 5)).astype(np.float32)]
    np.testing.assert_array_equal(each.run_float(inputs)[0], each.runtime(inputs)[0])
    types = {0: X, 1: kind(I8, 0.02)}
    each = Case(
        "ConvTranspose", ConvTranspose, ((2, 4, 5), WEIGHTS[..., 0]), attributes={"strides": [2]}
    )
    agreed(lowered(each.graph(types, Y), "dyadic"), rng, count=1)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_codes_are_the_exact_sums_of_the_runtime_rounded_as_qlinearconv_does(
    per_channel: bool, groups: int, rng: np.random.Generator
) -> None:
    graph = lowered(quantized("pads", groups, per_channel=per_channel), "onnxruntime")
    codes = codes_for(graph, rng)
    sums = case("pads", groups, real=True).runtime(
        [(codes["x0"] - X.zero_point).astype(np.float32)]
    )[0]
    scales = [float(s) for s in weight_type(per_channel).scales]
    factors = float32.requantize_scale(float(X.scale), scales, float(Y.scale))
    each = np.tile(factors, groups if per_channel else 3 * groups)[:, None, None]
    want = float32.requantize(sums.astype(np.int64), each, Y.zero_point, -128, 127)
    np.testing.assert_array_equal(results(graph, codes)[0], want)


@pytest.mark.parametrize("form", FORMS)
def test_all_witnesses_agree(form: str, rng: np.random.Generator) -> None:
    agreed(lowered(quantized(form, 2, per_channel=True), "onnxruntime"), rng, count=1)


def test_bounds_hold_for_the_worst_operands() -> None:
    graph = lowered(quantized("plain", 1, per_channel=False), "dyadic")
    (op,) = (op for op in ops(graph) if isinstance(op, IntConvTranspose))
    (node,) = (node for node in graph.nodes() if node.op is op)
    _, w, bias = graph.arguments(node)
    assert w.constant is not None
    assert bias.constant is not None
    (bounds,) = op.bounds(*graph.arguments(node))
    weights, offsets = w.constant.array.astype(np.int64), bias.constant.array.astype(np.int64)
    highest = lowest = 0
    for channel in range(weights.shape[0]):
        # At the middle of a position that all taps reach, x chosen by the sign of each weight.
        x = np.zeros((1, 5, 4, 4), np.int64)
        x[0, 1:4, 1:3] = np.where(weights[channel, ::-1, ::-1] > 0, 127, -128)
        top = op.reference(x, weights, offsets)[0][..., channel].max()
        x[0, 1:4, 1:3] = np.where(weights[channel, ::-1, ::-1] > 0, -128, 127)
        highest = max(highest, int(top))
        lowest = min(lowest, int(op.reference(x, weights, offsets)[0][..., channel].min()))
    assert (bounds.lo, bounds.hi) == (lowest, highest)


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({"output_shape": [40, 40]}, "output_shape"),
        ({"pads": [9, 9, 9, 9]}, "a result of"),
        ({"strides": [0, 1]}, "positive"),
        ({"auto_pad": "SAME"}, "auto_pad"),
        ({"kernel_shape": [2, 2]}, "kernel_shape"),
        ({"group": 3}, "3 groups"),
    ],
)
def test_what_does_not_fit_is_refused(attributes: dict[str, Any], text: str) -> None:
    bad = Case("ConvTranspose", ConvTranspose, ((2, 4, 5, 4), WEIGHTS), attributes=attributes)
    with pytest.raises(UnsupportedOperator, match=text):
        bad.graph()


def test_scales_per_input_channel_are_refused() -> None:
    scales = tuple(Dyadic.from_float(float(np.float32(s))) for s in (0.02, 0.013, 0.031, 0.01))
    types = {0: X, 1: FixedType(I8, scales, (0,), 0)}
    with pytest.raises(UnsupportedOperator, match="per input channel"):
        Case("ConvTranspose", ConvTranspose, ((2, 4, 5, 4), WEIGHTS)).graph(types, Y)
