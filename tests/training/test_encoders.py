# pyright: basic, reportMissingImports=false
"""What the installed torch exports is read as meant, and its integers are onnxruntime's.

The texts of the same nets are compiled for all targets in tests/end_to_end/test_encoders.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from binpoint.frontend.load import load
from binpoint.quantize.simulate import Simulation
from binpoint.sim.witness import Answer
from tests.end_to_end.test_encoders import INPUTS, STEPS, compiled
from tests.exported import NAMES
from tests.training.encoders import write


@pytest.mark.parametrize("name", NAMES)
def test_an_exported_encoder_is_read_as_meant_and_compiled(name: str, tmp_path: Path) -> None:
    net = write(name, tmp_path / "net.onnx")
    rng = np.random.default_rng(5)
    x = rng.normal(size=(1, STEPS, INPUTS)).astype(np.float32)
    wanted = net(torch.from_numpy(x)).detach().numpy()
    graph = load(tmp_path / "net.onnx")
    found = Simulation(graph, rounded=False).run({"x": x})[graph.outputs[0]]
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())
    result = compiled(tmp_path, "host", rng, verify="ort")
    found = {w.name: w.verdict for w in result.verdict.witnesses}
    assert {found[n] for n in ("interpreter", "onnxruntime")} == {Answer.EQUAL}
