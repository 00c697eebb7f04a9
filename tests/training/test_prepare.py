# pyright: basic, reportMissingImports=false
"""prepare() swaps the layers of any module, and says what it cannot swap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from brevitas import nn as qnn
from torch import nn

from binpoint.errors import NotTrainable
from binpoint.training import FixedPoint, calibrate, export, formats, prepare
from binpoint.training.check import compare
from binpoint.training.quantizers import fixed_points


class Net(nn.Module):
    """Functions and methods in place of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.line = nn.Conv2d(1, 4, 3), nn.Linear(16, 3)

    def forward(self, x: Any) -> Any:
        y = nn.functional.max_pool2d(nn.functional.relu(self.conv(x)), 2)
        y = torch.cat((y[:, :2], 0.5 * y[:, 2:]), 1)
        return self.line(y.flatten(1))


def test_the_original_stays_as_it_is() -> None:
    net = Net()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    prepared = prepare(net, bits=4)
    calibrate(prepared, [torch.randn(8, 1, 6, 6)])
    prepared.train()(torch.randn(8, 1, 6, 6)).sum().backward()
    assert type(net.conv) is nn.Conv2d
    assert net.conv.weight.grad is None
    assert all((v == net.state_dict()[k]).all() for k, v in before.items())


def test_every_value_between_layers_is_cast_once() -> None:
    prepared = prepare(Net(), bits=3, weight_bits=5)
    calibrate(prepared, [torch.randn(8, 1, 6, 6)])
    found = {k: v for k, v in formats(prepared).items() if "act_quant" in k}
    assert [v.partition(",")[0] for v in found.values()].count("i8") == 1
    assert [v.partition(",")[0] for v in found.values()].count("u3") == 1
    assert [v.partition(",")[0] for v in found.values()].count("i3") == 1
    weights = [v for k, v in formats(prepared).items() if "weight_quant" in k]
    assert [v.partition(",")[0] for v in weights] == ["i5", "i5"]


def test_binary_points_start_where_the_error_is_least() -> None:
    part = FixedPoint(4, signed=True)
    x = torch.cat((torch.randn(2000), torch.tensor([40.0])))
    part.fit(x, method="max")
    assert float(part.points) == -3
    part.fit(x)
    assert float(part.points) > -3
    errors = []
    for point in range(-3, 3):
        part.point.data.fill_(point)
        errors.append(float(((part(x)[0] - x) ** 2).mean()))
    part.fit(x)
    assert int(part.points) == range(-3, 3)[errors.index(min(errors))]


def test_the_gradient_reaches_every_binary_point() -> None:
    prepared = prepare(Net(), bits=3)
    calibrate(prepared, [torch.randn(8, 1, 6, 6)])
    prepared.train()(torch.randn(8, 1, 6, 6)).square().sum().backward()
    for name, part in fixed_points(prepared):
        assert part.point.grad is not None, name
        assert (part.point.grad != 0).any(), name


class Softmaxed(nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.erf(x)


@pytest.mark.parametrize(
    ("net", "named"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4)), "LSTM"),
        (Softmaxed(), "erf"),
        (nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")), "reflect"),
    ],
)
def test_what_has_no_fixed_point_form_is_named(net: nn.Module, named: str) -> None:
    with pytest.raises(NotTrainable) as error:
        prepare(net)
    assert named in str(error.value)


@pytest.mark.parametrize(("bits", "signed"), [(1, True), (0, False), (25, True)])
def test_widths_that_do_not_exist(bits: int, signed: bool) -> None:
    with pytest.raises(NotTrainable, match="width"):
        FixedPoint(bits, signed)


def test_brevitas_models_keep_their_widths(tmp_path: Path) -> None:
    torch.manual_seed(5)
    net = nn.Sequential(
        qnn.QuantIdentity(bit_width=7),
        qnn.QuantConv2d(1, 4, 3, weight_bit_width=3),
        nn.BatchNorm2d(4),
        qnn.QuantReLU(bit_width=5),
        nn.Flatten(),
        qnn.QuantLinear(64, 3, bias=True, weight_bit_width=6),
    )
    for _ in range(3):
        net(torch.randn(16, 1, 6, 6))
    prepared = prepare(net, bits=4)
    calibrate(prepared, [torch.randn(32, 1, 6, 6)])
    widths = sorted(v.partition(",")[0] for v in formats(prepared).values())
    assert widths == sorted(["i7", "i3", "i16", "i8", "i16", "u5", "i6", "i16"])
    prepared.eval()
    export(prepared, torch.zeros(1, 1, 6, 6), tmp_path / "net.onnx")
    assert compare(prepared, tmp_path / "net.onnx", torch.randn(50, 1, 6, 6)).quantizers == 2
