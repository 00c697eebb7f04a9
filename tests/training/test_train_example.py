# pyright: basic, reportMissingImports=false
"""The command of the guide and of the example's page, at a small size."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from binpoint.ir.evaluate import evaluate
from binpoint.options import CompileOptions
from binpoint.passes.convert import real, stored
from binpoint.training import export
from binpoint.training.check import compare, integers

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "guides" / "from-torch-to-firmware.md"
FOLDER = ROOT / "examples" / "07_learned_binary_points"
DETECTOR = ROOT / "examples" / "09_tinyissimo_yolo"


def command(page: Path) -> str:
    lines = page.read_text(encoding="utf-8").splitlines()
    return next(line.strip() for line in lines if "train.py --data" in line)


def said_by(line: str, folder: Path) -> dict[str, Any]:
    """What a page's command prints, at a small size."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *line.split()[1:], "--quick", "--folder", str(folder)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def equal_witnesses(found: dict[str, Any]) -> set[str]:
    assert found["verdict"] == "equal"
    return {name for name, said in found["witnesses"].items() if said.startswith("equal")}


@pytest.mark.needs("gcc", "g++")
def test_the_pages_command_trains_and_every_witness_agrees(tmp_path: Path) -> None:
    line = command(GUIDE)
    assert line == command(FOLDER / "README.md")
    found = said_by(line, tmp_path)
    assert (found["bits"], found["method"]) == (4, "qat")
    assert found["accuracy"] > 0.8 < found["float"]
    wanted = {"brevitas", "interpreter", "onnxruntime", "host", "native integers"}
    assert wanted <= equal_witnesses(found)
    assert set(found["targets"]) == {"host", "zu7ev"}
    assert (tmp_path / "digits-mlp-qat4.pt").is_file()


@pytest.mark.slow
@pytest.mark.needs("gcc", "g++", "arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize(
    ("example", "bits", "part", "least"),
    [("03_can_intrusion_fpga", 2, "zynq-7020", 0.93), ("04_jet_tagger_fpga", 6, "zu7ev", 0.78)],
)
def test_rows_of_other_examples_are_trained_for_a_core_and_a_part(
    example: str, bits: int, part: str, least: float, tmp_path: Path
) -> None:
    found = said_by(command(ROOT / "examples" / example / "README.md"), tmp_path)
    assert (found["bits"], set(found["targets"])) == (bits, {"cortex-m4", part})
    assert found["float"] > least
    assert found["accuracy"] > found["float"] - 0.03
    wanted = {"brevitas", "interpreter", "onnxruntime", "host", "emulator", "native integers"}
    assert wanted <= equal_witnesses(found)
    assert found["targets"]["cortex-m4"]["instructions"] < 30_000
    assert found["targets"][part]["inferences_per_second"] > 1e6


@pytest.mark.parametrize("method", ["ptq", "pass", "tune"])
def test_what_needs_no_classes_keeps_what_the_float_network_knows(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = importlib.import_module("examples.07_learned_binary_points.train")
    monkeypatch.setattr(train, "CALIBRATION", 120)
    monkeypatch.setattr(train, "PLACED", 40)
    data = train.data_of.read("digits")
    job = train.Job(data, "mlp", 5, None, method, 0, 6, tmp_path, 1, 5, (), CompileOptions(), False)
    net = train.float_net(job)
    plain = train.accuracy(net, data.test_x, data.test_y)
    fixed = train.fixed_net(job, net.cpu())
    assert train.accuracy(fixed, data.test_x, data.test_y) > plain - 0.03
    assert plain > 0.85
    export(fixed.cpu(), data.test_x[:1], tmp_path / "net.onnx")
    assert compare(fixed, tmp_path / "net.onnx", data.test_x[:5]).quantizers == 3


def test_a_few_steps_bring_the_detector_nearer_to_its_float_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(DETECTOR))
    train = importlib.import_module("train_quantized")
    monkeypatch.setattr(train, "CALIBRATION", 32)
    words = [str(tmp_path), "--scenes", "64", "--epochs", "2", "--rate", "5e-5"]
    CliRunner().invoke(train.main, words, catch_exceptions=False)
    images = train.scenes(8, 4)[0].astype(np.float32) / np.float32(255)
    net = train.floating(DETECTOR / "yolo.onnx")
    wanted = train.taught(net, torch.from_numpy(images)).numpy()
    wrong: dict[str, float] = {}
    for name in ("ptq4", "qat4"):
        graph = integers(tmp_path / f"{name}.onnx")
        (source,), (result,) = graph.inputs, graph.outputs
        given = [{source: stored(graph.value(source), image[None])} for image in images]
        found = [real(graph.value(result), evaluate(graph, one)[result])[0] for one in given]
        wrong[name] = float(np.square(np.array(found) - wanted).mean())
    assert 0 < wrong["qat4"] < 0.9 * wrong["ptq4"], wrong
