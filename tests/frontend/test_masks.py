"""fuse-masks: masks as exporters write them become the softmax's; masked places get nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from binpoint import ort
from binpoint.errors import BinpointError, InvalidConstant
from binpoint.frontend.load import load
from binpoint.frontend.masks import FuseMasks
from binpoint.frontend.samples import read_samples
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.numeric.fixed import FixedType
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.passes.manager import run
from binpoint.pipelines import mcu
from binpoint.target import load_target
from tests.build import info, model, node, save

Apply = Callable[..., Graph]
Array = NDArray[Any]
SHAPE = (2, 3, 5, 5)
CAUSAL = np.tri(5, dtype=bool)
LOWEST = float(np.finfo(np.float32).min)
RNG = np.random.default_rng(4)


def added(addend: Array, *, reshaped: bool = False) -> onnx.ModelProto:
    """Softmax of x plus a constant, perhaps with a Reshape between them."""
    nodes = [node("Add", "x m", "a")]
    arrays: dict[str, Array] = {"m": addend.astype(np.float32)}
    if reshaped:
        nodes.append(node("Reshape", "a s", "b"))
        arrays["s"] = np.array([6, 5, 5], np.int64)
    nodes.append(node("Softmax", f"{'b' if reshaped else 'a'}", "y", axis=-1))
    return model(nodes, [info("x", SHAPE)], [info("y", None)], arrays)


def chosen(words: str, fill: float, keep: Array) -> onnx.ModelProto:
    """Softmax of a selection."""
    nodes = [node("Where", words, "a"), node("Softmax", "a", "y", axis=-1)]
    arrays = {"c": keep, "f": np.array(fill, np.float32)}
    return model(nodes, [info("x", SHAPE)], [info("y", None)], arrays)


BIAS = RNG.normal(size=(1, 3, 5, 5))
MASKED = {
    "infinite": added(np.where(CAUSAL, 0, -np.inf)),
    "lowest": added(np.where(CAUSAL, 0, LOWEST)),
    "ten thousand": added(np.where(CAUSAL, 0, -1e4)),
    "with a bias": added(np.where(CAUSAL, BIAS, -np.inf)),
    "reshaped": added(np.where(CAUSAL, BIAS, -1e9), reshaped=True),
    "reshaped, one row": added(np.where(CAUSAL[2], 0, -np.inf), reshaped=True),
    "where": chosen("c x f", -np.inf, CAUSAL),
    "where not": chosen("c f x", -1e9, ~CAUSAL),
}


@pytest.mark.parametrize("name", MASKED)
def test_a_mask_goes_into_the_softmax(name: str, apply: Apply, tmp_path: Path) -> None:
    path = save(MASKED[name], tmp_path / "m.onnx")
    graph = apply(load(path), FuseMasks())
    kinds = [type(n.op).__name__ for n in graph.nodes()]
    assert "Mask" not in kinds
    assert ("Binary" in kinds) == ("bias" in name or name == "reshaped")
    (softmax,) = (n for n in graph.nodes() if type(n.op).__name__ == "Softmax")
    assert len(softmax.inputs) == 2
    x = RNG.normal(size=SHAPE).astype(np.float32)
    want = ort.plain(str(path)).run({"x": x})["y"]
    np.testing.assert_allclose(evaluate(graph, {"x": x})[graph.outputs[0]], want, atol=1e-6)


@pytest.mark.parametrize("name", MASKED)
def test_masked_codes_are_zero_exactly(name: str, tmp_path: Path) -> None:
    """However large the masked scores are: nothing of them is left, nor of their range."""
    path = save(MASKED[name], tmp_path / "m.onnx")
    graph = load(path)
    samples = read_samples({"x": RNG.normal(0, 3, (4, *SHAPE)).astype(np.float32)}, graph, 0)
    done = run(mcu(), graph, Context(load_target("host"), CompileOptions(), samples))
    kind = done.value(done.outputs[0]).elem
    assert isinstance(kind, FixedType)
    codes = RNG.integers(-128, 128, done.value(done.inputs[0]).shape)
    y = evaluate(done, {done.inputs[0]: codes})[done.outputs[0]]
    keep = CAUSAL[2] if "one row" in name else CAUSAL
    assert (np.where(keep, kind.zero_point, y) == kind.zero_point).all()
    assert (y != kind.zero_point).any()


def test_what_has_no_mask_stays(apply: Apply, tmp_path: Path) -> None:
    small = added(np.where(CAUSAL, 0, -999.0))
    graph = apply(load(save(small, tmp_path / "m.onnx")), FuseMasks())
    assert [type(n.op).__name__ for n in graph.nodes()] == ["Binary", "Softmax"]


def test_a_selection_between_numbers_is_arithmetic(tmp_path: Path) -> None:
    made = model(
        [node("Where", "c x z", "y")],
        [info("x", SHAPE), info("z", (5, 5))],
        [info("y", None)],
        {"c": CAUSAL},
    )
    graph = load(save(made, tmp_path / "m.onnx"))
    x, z = (RNG.normal(size=s).astype(np.float32) for s in (SHAPE, (5, 5)))
    y = evaluate(graph, {"x": x, "z": z})[graph.outputs[0]]
    np.testing.assert_array_equal(y, np.where(CAUSAL, x, z))


def test_infinity_is_refused_where_it_means_nothing(tmp_path: Path) -> None:
    infinite = np.array([1, -np.inf], np.float32)
    nodes = [node("Mul", "x m", "y")]
    path = save(
        model(nodes, [info("x", (3, 2))], [info("y", None)], {"m": infinite}), tmp_path / "m"
    )
    with pytest.raises(InvalidConstant, match="`m` holds NaN or infinity"):
        load(path)
    for wrong in (np.inf, np.nan):
        with pytest.raises(InvalidConstant, match="`m` holds NaN or infinity"):
            load(save(added(np.array([0, wrong])), tmp_path / "m"))


def test_a_mask_that_no_softmax_reads_is_refused(tmp_path: Path) -> None:
    nodes = [node("Add", "x m", "a"), node("Relu", "a", "y")]
    made = model(
        nodes,
        [info("x", SHAPE)],
        [info("y", None)],
        {"m": np.array([0, 0, 0, 0, -np.inf], np.float32)},
    )
    graph = load(save(made, tmp_path / "m.onnx"))
    samples = read_samples("random", graph, 0)
    with pytest.raises(BinpointError, match=r"masked|finite"):
        run(mcu(), graph, Context(load_target("host"), CompileOptions(), samples))


def test_a_computed_condition_chooses(tmp_path: Path) -> None:
    nodes = [node("Where", "c x three", "y")]
    made = model(
        nodes,
        [info("c", [1, 3], onnx.TensorProto.BOOL), info("x", [1, 3])],
        [info("y", [1, 3])],
        {"three": np.array(3, np.float32)},
    )
    graph = load(save(made, tmp_path / "m.onnx"))
    given = {"c": np.array([[1, 0, 1]], np.float32), "x": np.array([[1, 2, -1]], np.float32)}
    assert evaluate(graph, given)[graph.outputs[0]].tolist() == [[1, 3, -1]]
