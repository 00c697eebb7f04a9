"""Encoders of transformers as torch's two exporters write them, on all witnesses of all targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from binpoint import ort
from binpoint.driver import Result, compile_model
from binpoint.frontend.load import load
from binpoint.options import CompileOptions
from binpoint.quantize.simulate import Simulation
from binpoint.sim.witness import Answer
from binpoint.target import load_target
from tests.exported import NAMES, exported

STEPS, INPUTS = 16, 6
LINKED = ("host", "emulator")
TARGETS = {
    "cortex-m4": LINKED,
    "cortex-m55": LINKED,
    "zynq-7020": ("native integers",),
}


@pytest.mark.parametrize("name", NAMES)
def test_encoders_are_read_as_they_are_meant(
    name: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    model = exported(name, rng)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    graph = load(tmp_path / "net.onnx")
    x = rng.normal(size=(1, STEPS, INPUTS)).astype(np.float32)
    (wanted,) = ort.plain(model).run({"x": x}).values()
    found = Simulation(graph, rounded=False).run({"x": x})[graph.outputs[0]]
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.slow
@pytest.mark.needs("gcc", "g++", "arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NAMES)
def test_encoders_are_equal_on_all_witnesses(
    name: str, target: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    (tmp_path / "net.onnx").write_bytes(exported(name, rng).SerializeToString())
    result = compiled(tmp_path, target, rng)
    assert result.verdict.answer is Answer.EQUAL
    found = {w.name: w.verdict for w in result.verdict.witnesses}
    names = ("interpreter", "onnxruntime", *TARGETS[target])
    assert {found[n] for n in names} == {Answer.EQUAL}


@pytest.mark.slow
@pytest.mark.needs("gcc", "g++", "arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("name", "bits"), [("encoder_dynamo", 3), ("causal_dynamo", 2)])
def test_corrected_shares_are_equal_on_all_witnesses(
    name: str, bits: int, target: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    (tmp_path / "net.onnx").write_bytes(exported(name, rng).SerializeToString())
    options = CompileOptions(name="net", softmax_correction="head", activation_bits=bits)
    result = compiled(tmp_path, target, rng, options=options)
    assert result.report.passes["assign-types"]["corrected"] > 0
    assert result.verdict.answer is Answer.EQUAL
    found = {w.name: w.verdict for w in result.verdict.witnesses}
    assert {found[n] for n in TARGETS[target]} == {Answer.EQUAL}


def compiled(
    folder: Path,
    target: str,
    rng: np.random.Generator,
    verify: str = "all",
    options: CompileOptions | None = None,
) -> Result:
    """The ``net.onnx`` of a folder through the whole line."""
    x = rng.normal(size=(24, 1, STEPS, INPUTS)).astype(np.float32)
    np.savez(folder / "samples.npz", x=x)
    return compile_model(
        folder / "net.onnx",
        load_target(target),
        options or CompileOptions(name="net"),
        samples=folder / "samples.npz",
        verify=verify,
        verify_samples=6,
    )
