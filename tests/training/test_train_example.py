# pyright: basic, reportMissingImports=false
"""The command of the guide and of the example's page, at a small size."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from binpoint.training import export
from binpoint.training.check import compare

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "guides" / "from-torch-to-firmware.md"
FOLDER = ROOT / "examples" / "07_learned_binary_points"


@pytest.mark.needs("gcc", "g++")
def test_the_pages_command_trains_and_every_witness_agrees(tmp_path: Path) -> None:
    lines = GUIDE.read_text(encoding="utf-8").splitlines()
    line = next(line for line in lines if "train.py --data" in line)
    assert line in (FOLDER / "README.md").read_text(encoding="utf-8")
    words = line.split()
    small = ["--epochs", "2", "--float-epochs", "6", "--folder", str(tmp_path), "--verify", "20"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *words[1:], *small],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["bits"], found["method"], found["verdict"]) == (4, "qat", "equal")
    assert found["accuracy"] > 0.8 < found["float"]
    equal = {name for name, said in found["witnesses"].items() if said.startswith("equal")}
    assert {"brevitas", "interpreter", "onnxruntime", "host", "native integers"} <= equal
    assert (tmp_path / "digits-mlp-qat4.pt").is_file()


@pytest.mark.parametrize("method", ["ptq", "pass", "tune"])
def test_what_needs_no_classes_keeps_what_the_float_network_knows(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = importlib.import_module("examples.07_learned_binary_points.train")
    monkeypatch.setattr(train, "CALIBRATION", 120)
    monkeypatch.setattr(train, "PLACED", 40)
    data = train.data_of.read("digits")
    job = train.Job(data, "mlp", 5, None, method, 0, 6, tmp_path, 1, 5, False)
    net = train.float_net(job)
    plain = train.accuracy(net, data.test_x, data.test_y)
    fixed = train.fixed_net(job, net.cpu())
    assert train.accuracy(fixed, data.test_x, data.test_y) > plain - 0.03
    assert plain > 0.85
    export(fixed.cpu(), data.test_x[:1], tmp_path / "net.onnx")
    assert compare(fixed, tmp_path / "net.onnx", data.test_x[:5]).quantizers == 3
