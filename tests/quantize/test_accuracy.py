"""What quantization costs on real models: the integer graph against the float one, all samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from binpoint import pipelines
from binpoint.frontend.load import load
from binpoint.frontend.samples import read_samples
from binpoint.ir.evaluate import evaluate
from binpoint.passes.manager import run
from binpoint.passes.samples import Samples
from binpoint.quantize.simulate import Simulation
from tests.quantize.nets import context


@dataclass(frozen=True, slots=True)
class Outcome:
    """Samples, and the first output of the float and of the integer graph for each."""

    samples: Samples
    exact: NDArray[np.float64]
    found: NDArray[np.float64]

    def loss(self) -> float:
        """Points of accuracy lost."""
        return 100 * (self._accuracy(self.exact) - self._accuracy(self.found))

    def _accuracy(self, results: NDArray[np.float64]) -> float:
        assert self.samples.labels is not None
        right: NDArray[np.bool_] = results.argmax(axis=1) == self.samples.labels
        return np.count_nonzero(right) / right.size


def compare(folder: Path, name: str) -> Outcome:
    """Quantize with default options, calibrated on the same file, and run all its samples."""
    graph = load(folder / f"{name}.onnx")
    samples = read_samples(folder / f"{name}.npz", graph)
    assert samples is not None
    integer = run(pipelines.mcu(), graph, context(samples))
    simulation = Simulation(graph, rounded=False)
    x, y = integer.value(integer.inputs[0]), integer.value(integer.outputs[0])
    exact: list[NDArray[np.float64]] = []
    found: list[NDArray[np.float64]] = []
    for inputs in samples.inputs():
        exact.append(simulation.run(inputs)[graph.outputs[0]].astype(np.float64))
        codes = x.elem.quantize(inputs[x.name].reshape(x.shape))
        found.append(y.elem.dequantize(evaluate(integer, {x.name: codes})[y.name]))
    return Outcome(samples, np.concatenate(exact), np.concatenate(found))


def test_anomaly_detection_keeps_its_error(shared_models: Path) -> None:
    outcome = compare(shared_models, "ad_autoencoder_float")
    x = outcome.samples.arrays["input_1"]
    before, after = (float(np.mean((y - x) ** 2)) for y in (outcome.exact, outcome.found))
    assert abs(after - before) < 0.02 * before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ic_resnet8_float", "kws_dscnn_float"])
def test_classifiers_lose_half_a_point_at_most(shared_models: Path, name: str) -> None:
    assert compare(shared_models, name).loss() <= 0.5


@pytest.mark.parametrize("name", ["pendigits_mlp", "mnist_two_outputs", "ecg_cnn1d"])
def test_small_models_lose_half_a_point_at_most(shared_models: Path, name: str) -> None:
    assert compare(shared_models, name).loss() <= 0.5
