"""The node tests of onnx.backend.test, through import and interpreter."""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from binpoint import ort
from binpoint.errors import BinpointError
from binpoint.ops import OPS
from tests.end_to_end.backend import INTEGER, NodeTest, imported, node_tests, run_float, run_integer

_REFUSALS = (
    (r"the input `.*` is of type .*", "types of tensors other than float, int8 and uint8"),
    (r"operator set 1 is not read", "operator sets before 7"),
    (r"axis \d of the input `.*` is empty", "an axis of no elements"),
    (
        r"the tensor `.*` is of a type that is not read",
        "types of tensors other than float, int8 and uint8",
    ),
    (r"`Cast`: from real numbers to integers", "integers come from quantizers only"),
    (r"`\w+`: computes on stored integers", "integer arithmetic that wraps"),
    (r"`(Div|Pow)`: the second operand is computed, or not one number", "no integer form"),
    (r"`\w+`: 3 spatial axes", "one or two spatial axes"),
    (r"`ConvTranspose`: input of shape \[1, 1, 3, 4, 5\]", "one or two spatial axes"),
    (r"`Resize`: no integer form", "cubic"),
    (r"`Resize`: (antialias|keep_aspect_ratio_policy .*)", "options of Resize"),
    (r"`Resize`: coordinate_transformation_mode `tf_crop_and_resize`", "options of Resize"),
    (r"`(Dropout|BatchNormalization)`: (in training mode|a form for training)", "training"),
    (r"the operands of `BatchNormalization` do not fit", "training"),
    (r"`(Split|Slice)`: (.* do not split into .*|the result is empty)", "an empty result"),
    (r"`(De|Q)\w+Linear`: blocked quantization", "blocks"),
    (r"`(De|Q)\w+Linear`: activations with a scale per channel", "activations per tensor only"),
    (r"`Attention`: past or present keys", "a cache of keys and values"),
    (r"`Attention`: sequences that are padded at run time", "masks known at run time"),
    (r"`Attention`: a query that sees no key", "a query that sees no key"),
    (r"`Attention`: `\w+window\w*`", "windows of attention"),
    (r"`Scatter\w+`: updates that are added, multiplied or compared", "scattered and reduced"),
    (r"`(GRU|LSTM|RNN)`: (layout 1|peepholes)", "forms of recurrent layers that no framework has"),
    (r"`Gemm`: a bias of shape \[3, 4\]", "a bias for each element"),
    (r"`LpNormalization`: p = 1", "norms of magnitudes"),
    (r"`PRelu`: slopes of shape \[3, 4, 5\] for .*", "a slope for each element"),
)
"""What may be refused, and the reason; each is met by some test."""

_AS_ONNXRUNTIME = frozenset({"test_resize_downsample_scales_linear_align_corners"})
"""Tests whose expectation onnxruntime does not meet either: its result is what counts."""


@dataclass(slots=True)
class Count:
    """What became of the node tests."""

    passed: Counter[str] = field(default_factory=Counter[str])
    refused: Counter[str] = field(default_factory=Counter[str])
    reasons: set[str] = field(default_factory=set[str])
    wrong: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        """Figures, then what is wrong."""
        run = self.passed.total() + self.refused.total() + len(self.wrong)
        lines = [f"{run} run, {self.passed.total()} passed, {self.refused.total()} refused"]
        lines += [f"{count:5d} {why}" for why, count in sorted(self.refused.items())]
        return "\n".join([*lines, *self.wrong])


def attempt(test: NodeTest, *, integer: bool, count: Count) -> None:
    try:
        found, expected = run_integer(test) if integer else run_float(test)
    except BinpointError as error:
        matches = [(p, why) for p, why in _REFUSALS if re.fullmatch(p, error.message)]
        if not matches:
            count.wrong.append(f"{test.name}: {error}")
            return
        pattern, why = matches[0]
        count.reasons.add(pattern)
        count.refused[why] += 1
        return
    if test.name in _AS_ONNXRUNTIME:
        expected = by_onnxruntime(test)
    if all(equal(a, np.asarray(b), exact=integer) for a, b in zip(found, expected, strict=True)):
        count.passed.update(test.operators)
    else:
        count.wrong.append(f"{test.name}: another result")


def equal(found: NDArray[np.generic], wanted: NDArray[np.generic], *, exact: bool) -> bool:
    """Integers exactly, float32 within 1e-3, shorter types within their last bit or two."""
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    if exact or wanted.dtype.kind in "iub":
        return a.shape == b.shape and np.array_equal(a, b)
    rough = wanted.dtype.itemsize < np.dtype(np.float32).itemsize
    return a.shape == b.shape and np.allclose(
        a, b, rtol=1e-2 if rough else 1e-3, atol=1e-5, equal_nan=True
    )


def by_onnxruntime(test: NodeTest) -> list[NDArray[np.generic]]:
    found = ort.plain(test.model).run({n: np.asarray(a) for n, a in test.inputs.items()})
    return [found[o.name] for o in test.model.graph.output]


def tried(*, integer: bool) -> Count:
    count = Count()
    for test in node_tests():
        if bool(test.operators & INTEGER) is integer:
            attempt(test, integer=integer, count=count)
    return count


def test_node_tests(capsys: pytest.CaptureFixture[str]) -> None:
    """Float operators against their expected output; integer operators exactly."""
    counts = {"float": tried(integer=False), "integer": tried(integer=True)}
    with capsys.disabled():
        for kind, count in counts.items():
            sys.stdout.write(f"\nnode tests of {kind} operators: {count}\n")
    for count in counts.values():
        assert not count.wrong
    assert {p for c in counts.values() for p in c.reasons} == {p for p, _ in _REFUSALS}
    passed = counts["float"].passed + counts["integer"].passed
    tested = {name for test in node_tests() for name in test.operators}
    imported_names = {name for op in OPS for name in op.onnx} | INTEGER
    # Those of Not are of operator set 1.
    assert tested & imported_names - {"Not"} <= set(passed)


def test_constants_of_node_tests_become_initializers() -> None:
    (test,) = (t for t in node_tests() if t.name == "test_basic_conv_with_padding")
    variant, graph = imported(test)
    assert [i.name for i in variant.model.graph.input] == ["x"]
    assert len(graph.inputs) == 1
    assert onnx.numpy_helper.to_array(variant.model.graph.initializer[0]).shape == (1, 1, 3, 3)
