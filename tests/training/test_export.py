# pyright: basic, reportMissingImports=false
"""Integers of a prepared module are those of the interpreter, at every quantizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from binpoint.errors import Mismatch, NotTrainable
from binpoint.numeric.fixed import IntType
from binpoint.training import calibrate, export, prepare
from binpoint.training.check import compare, integers

SAMPLES = 200


class Sum(nn.Module):
    """A residual sum, and a rectifier as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.norm, self.last = nn.BatchNorm2d(4), nn.Linear(4 * 36, 3)

    def forward(self, x: Any) -> Any:
        y = torch.relu(self.norm(self.a(x)) + self.b(x))
        return self.last(y.flatten(1))


def image(*layers: nn.Module) -> nn.Module:
    """A convolution, these layers, and a convolution."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), *layers)


ROW, IMAGE, SERIES = (6,), (3, 6, 6), (3, 10)
NETS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "linear": (ROW, lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))),
    "norm-1d": (ROW, lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))),
    "conv-1d": (SERIES, lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU(), nn.Conv1d(4, 2, 3))),
    "conv-2d": (IMAGE, lambda: image(nn.ReLU(), nn.Conv2d(4, 2, 3, stride=2))),
    "depthwise": (IMAGE, lambda: image(nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4))),
    "transposed": (IMAGE, lambda: image(nn.ReLU(), nn.ConvTranspose2d(4, 2, 2, stride=2))),
    "hardtanh": (IMAGE, lambda: image(nn.Hardtanh(), nn.Conv2d(4, 2, 3))),
    "sigmoid": (IMAGE, lambda: image(nn.Sigmoid(), nn.Conv2d(4, 2, 3))),
    "tanh": (IMAGE, lambda: image(nn.Tanh(), nn.Conv2d(4, 2, 3))),
    "average": (IMAGE, lambda: image(nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))),
    "mean": (IMAGE, lambda: image(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))),
    "maximum": (IMAGE, lambda: image(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3))),
    "sum": (IMAGE, Sum),
}


def made(name: str, **formats: Any) -> tuple[nn.Module, Any]:
    """A calibrated net and samples for it."""
    torch.manual_seed(3)
    shape, make = NETS[name]
    net = make().train()
    for _ in range(3):
        net(torch.randn(32, *shape))
    formats.setdefault("output_bits", 8 if shape is not ROW else None)
    prepared = prepare(net, **formats)
    calibrate(prepared, [torch.randn(64, *shape)])
    return prepared.eval(), torch.randn(SAMPLES, *shape)


@pytest.mark.parametrize("name", NETS)
def test_every_layers_integers_are_the_interpreters(name: str, tmp_path: Path) -> None:
    net, x = made(name, bits=4)
    path = tmp_path / "net.onnx"
    export(net, x[:1], path)
    found = compare(net, path, x)
    assert (found.samples, found.quantizers >= 2) == (SAMPLES, True)
    assert found.outputs >= SAMPLES


@pytest.mark.parametrize("rounding", ["floor", "half-up", "half-even"])
@pytest.mark.parametrize("bits", [2, 6, 8])
def test_every_rule_and_width(rounding: str, bits: int, tmp_path: Path) -> None:
    net, x = made("sum", bits=bits, rounding=rounding, overflow="symmetric", per_channel=bits != 6)
    export(net, x[:1], tmp_path / "net.onnx")
    assert compare(net, tmp_path / "net.onnx", x[:40]).codes > 1000


def test_one_bit_is_zero_or_one(tmp_path: Path) -> None:
    net, x = made("linear", bits=1, weight_bits=3, input_bits=1, input_signed=False)
    export(net, x[:1], tmp_path / "net.onnx")
    graph = integers(tmp_path / "net.onnx")
    assert graph.value(graph.inputs[0]).elem.storage == IntType(1, signed=False)
    assert compare(net, tmp_path / "net.onnx", x).codes > SAMPLES


def test_one_bit_has_one_rule(tmp_path: Path) -> None:
    net, x = made(
        "linear", bits=1, weight_bits=3, input_bits=1, input_signed=False, rounding="floor"
    )
    with pytest.raises(NotTrainable, match="FLOOR and ROUND"):
        export(net, x[:1], tmp_path / "net.onnx")


def test_a_changed_binary_point_is_found(tmp_path: Path) -> None:
    net, x = made("linear", bits=4)
    export(net, x[:1], tmp_path / "net.onnx")
    with torch.no_grad():
        net.get_submodule("_1_cast.act_quant.fused_activation_quant_proxy.tensor_quant").point += 1
    with pytest.raises(Mismatch, match="differ"):
        compare(net, tmp_path / "net.onnx", x)


def test_what_wraps_is_not_written(tmp_path: Path) -> None:
    net, x = made("linear", bits=4, overflow="wrap")
    with pytest.raises(NotTrainable, match="wraps"):
        export(net, x[:1], tmp_path / "net.onnx")


def test_what_saw_no_data_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(NotTrainable, match="no data"):
        export(prepare(NETS["linear"][1]()), torch.zeros(1, 6), tmp_path / "net.onnx")
