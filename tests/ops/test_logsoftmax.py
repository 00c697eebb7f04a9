"""LogSoftmax: read as onnxruntime means it, and within a few steps of it in integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from binpoint import ort
from binpoint.driver import compile_model
from binpoint.frontend.load import load
from binpoint.ir.evaluate import evaluate
from binpoint.options import CompileOptions
from binpoint.quantize.simulate import Simulation
from binpoint.sim.witness import Answer
from binpoint.target import load_target
from tests.build import info, model, node, save
from tests.hls.designs import built, lowered

CLASSES, SAMPLES = 10, 200
OPTIONS = CompileOptions(name="net")


@pytest.mark.parametrize(
    ("shape", "axis", "opset"),
    [
        ((3, 5), -1, 17),
        ((2, 4, 3), 1, 13),
        ((2, 4, 3), 1, 11),
        ((2, 4, 3), 0, 9),
        ((2, 4, 3), 2, 12),
    ],
)
def test_axes_are_those_of_the_operator_set(
    shape: tuple[int, ...], axis: int, opset: int, rng: np.random.Generator, tmp_path: Path
) -> None:
    nodes = [node("LogSoftmax", "x", "y", axis=axis)]
    given = model(nodes, [info("x", shape)], [info("y", shape)], opset=opset)
    graph = load(save(given, tmp_path / "net.onnx"))
    x = rng.normal(0, 4, shape).astype(np.float32)
    (wanted,) = ort.plain(given).run({"x": x}).values()
    found = Simulation(graph, rounded=False).run({"x": x})[graph.outputs[0]]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("spread", [0.5, 3.0, 10.0])
def test_integers_are_close_to_the_function(
    spread: float, rng: np.random.Generator, tmp_path: Path
) -> None:
    nodes = [node("LogSoftmax", "x", "y", axis=-1)]
    given = model(nodes, [info("x", (1, CLASSES))], [info("y", (1, CLASSES))])
    x = rng.normal(0, spread, (SAMPLES, 1, CLASSES)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", x=x)
    result = compile_model(
        save(given, tmp_path / "net.onnx"),
        load_target("host"),
        OPTIONS,
        samples=tmp_path / "samples.npz",
        verify="ort",
    )
    assert result.verdict.answer is Answer.EQUAL
    graph = result.graph
    (first,), (last,) = graph.inputs, graph.outputs
    kinds = graph.value(first).elem, graph.value(last).elem
    steps: list[float] = []
    for sample in x:
        codes = evaluate(graph, {first: kinds[0].quantize(sample)})[last]
        real = (codes.astype(np.float64) - kinds[1].zero_point) * float(kinds[1].scale)
        wide = sample.astype(np.float64)
        wanted = wide - np.log(np.exp(wide).sum())
        steps.append(float(np.abs(real - wanted).max() / float(kinds[1].scale)))
        assert codes.max() == codes.reshape(-1)[sample.argmax()]
    assert max(steps) < 4
    assert np.mean(steps) < 1.25


@pytest.mark.slow
def test_hardware_is_equal() -> None:
    nodes = [node("LogSoftmax", "x", "y", axis=-1)]
    given = model(nodes, [info("x", (3, CLASSES))], [info("y", (3, CLASSES))])
    assert built(lowered(given, OPTIONS), OPTIONS).difference() is None
