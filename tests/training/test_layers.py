# pyright: basic, reportMissingImports=false
"""Brevitas's own exports of its layers: integers of the module and of the interpreter, all equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import brevitas.quant as quant
import pytest
import torch
from brevitas.export import export_onnx_qcdq, export_qonnx

from tests.training.layers import FORMATS, LAYERS, made
from tests.training.reference import Trace, compare, traced

EXPORTS = {"qonnx": export_qonnx, "qcdq": export_onnx_qcdq}
SAMPLES = 200


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def exported(net: Any, x: Any, path: Path, kind: str) -> Path:
    """The export of a whole batch: its integers are those of each sample."""
    EXPORTS[kind](net, args=x, export_path=str(path), dynamo=False)
    return path


@pytest.mark.parametrize("kind", EXPORTS)
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    ("form", "bits"),
    [("free", 4), ("point", 8), ("channel", 3), ("shifted", 8), ("binary", 1), ("ternary", 2)],
)
def test_layer(name: str, form: str, bits: int, kind: str, tmp_path: Path) -> None:
    net, x = made(name, form, bits)
    trace = traced(net, x)
    path = exported(net, x, tmp_path / "net.onnx", kind)
    compare(path, trace, x)
