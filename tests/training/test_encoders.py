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


def read_as_meant(name: str, path: Path) -> None:
    """What is imported from an export computes what the net computes."""
    net = write(name, path)
    x = np.random.default_rng(4).normal(size=(1, STEPS, INPUTS)).astype(np.float32)
    wanted = net(torch.from_numpy(x)).detach().numpy()
    graph = load(path)
    found = Simulation(graph, rounded=False).run({"x": x})[graph.outputs[0]]
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("name", NAMES)
def test_an_exported_encoder_is_read_as_meant_and_compiled(name: str, tmp_path: Path) -> None:
    read_as_meant(name, tmp_path / "net.onnx")
    result = compiled(tmp_path, "host", np.random.default_rng(5), verify="ort")
    found = {w.name: w.verdict for w in result.verdict.witnesses}
    assert {found[n] for n in ("interpreter", "onnxruntime")} == {Answer.EQUAL}


@pytest.mark.parametrize("name", ["gru_legacy", "lstm_legacy", "lstm_dynamo"])
def test_an_exported_recurrent_net_is_read_as_meant(name: str, tmp_path: Path) -> None:
    read_as_meant(name, tmp_path / "net.onnx")
