"""The guide on transformers: its commands run, and give what it says."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto

from binpoint import cli

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "guides" / "transformer-on-cortex-m4.md"


def _commands(word: str) -> list[list[str]]:
    blocks = PAGE.read_text(encoding="utf-8").split("```")[1::2]
    lines = [shlex.split(line) for block in blocks for line in block.splitlines() if line]
    return [line[1:] for line in lines if line[0] == word]


def _run(
    target: str, folder: Path, capsys: pytest.CaptureFixture[str], *options: str
) -> dict[str, Any]:
    """The report of the guide's command for a target."""
    (words,) = (words for words in _commands("binpoint") if target in words)
    moved = [
        re.sub("^build/", f"{folder}/", re.sub("^examples/", f"{ROOT}/examples/", w)) for w in words
    ]
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main([*moved, *options, "--json"])
    printed = capsys.readouterr()
    assert stop.value.code == 0, printed.err
    report: dict[str, Any] = json.loads(printed.out)
    assert report["verdict"] == "equal"
    assert f"{report['arena_bytes']:,} bytes of arena" in PAGE.read_text("utf-8")
    return report


@pytest.mark.needs("gcc")
def test_the_command_of_the_guide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = _run("cortex-m4", tmp_path, capsys, "--verify", "host", "--samples-verify", "8")
    assert f"{report['accuracy']['integer']:.1%}".replace("%", " %") in PAGE.read_text("utf-8")
    lowered = onnx.ModelProto.FromString(next(tmp_path.rglob("lowered.onnx")).read_bytes())
    kinds = {t.data_type for t in lowered.graph.initializer}
    assert not kinds & {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16}


@pytest.mark.needs("gcc", "arm-none-eabi-gcc", "qemu-system-arm")
def test_the_command_for_helium(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Attention, softmax and layer norm in vectors, on the emulated core."""
    report = _run("cortex-m55", tmp_path, capsys, "--verify", "all", "--samples-verify", "2")
    assert "emulator" in [w["name"] for w in report["witnesses"] if w["verdict"] == "equal"]
    assert {"mve matmul", "mve layernorm mean"} <= {layer["kernel"] for layer in report["layers"]}


def test_the_model_can_be_made_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    ((script, _),) = _commands("python")
    monkeypatch.setattr(sys, "argv", [script, str(tmp_path)])
    runpy.run_path(str(ROOT / script), run_name="__main__")
    found = re.search(r"([\d.]+)% of", capsys.readouterr().out)
    assert found is not None
    assert float(found[1]) > 95
    assert (tmp_path / "transformer.onnx").is_file()
