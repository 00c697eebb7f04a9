# pyright: basic, reportMissingImports=false
"""Without classes: rounding learned layer by layer, and points taken from the pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from binpoint.errors import NotTrainable
from binpoint.training import (
    Fit,
    calibrate,
    export,
    fold_norms,
    formats,
    place_points,
    prepare,
    tune,
)
from binpoint.training.calibrate import activations
from binpoint.training.check import compare
from binpoint.training.quantizers import FixedPoint

QUICK = Fit(steps=50, batch=32, rate=5e-2)


class Net(nn.Module):
    """A shortcut around a normalised convolution, a mean, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6))
        self.last = nn.Linear(6, 4)

    def forward(self, x: Any) -> Any:
        y = self.first(x)
        y = torch.relu(y + self.inner(y))
        return self.last(y.mean((2, 3)))


def net() -> tuple[nn.Module, Any]:
    """A float network whose moments are those of its data, and 64 samples."""
    torch.manual_seed(5)
    made, x = Net(), torch.randn(64, 2, 6, 6)
    for _ in range(40):
        made(x)
    return made.eval(), x


def calibrated(bits: int = 3, **formats_: Any) -> tuple[Any, Any, nn.Module]:
    made, x = net()
    prepared = prepare(made, bits=bits, **formats_)
    calibrate(prepared, x.split(16))
    return prepared.eval(), x, made


def distance(module: nn.Module, other: nn.Module, x: Any) -> float:
    with torch.no_grad():
        wanted = other(x)
        return float((module(x) - wanted).square().mean() / wanted.square().mean())


def grids(module: nn.Module) -> list[tuple[Any, FixedPoint]]:
    pairs = ((m, getattr(getattr(m, "weight_quant", None), "tensor_quant", None))
             for m in module.modules())  # fmt: skip
    return [(m, q) for m, q in pairs if isinstance(q, FixedPoint)]


@pytest.mark.parametrize("per_channel", [False, True])
def test_every_layer_and_the_outputs_come_closer_to_the_float_module(per_channel: bool) -> None:
    module, x, plain = calibrated(per_channel=per_channel)
    before = distance(module, plain, x)
    found = tune(module, x, QUICK)
    assert [f.layer for f in found] == ["first.0", "inner.0", "last"]
    assert all(f.after <= f.before for f in found)
    assert sum(f.after < 0.95 * f.before for f in found) >= 2
    assert sum(f.moved for f in found) > 5
    assert distance(module, plain, x) < 0.7 * before


@pytest.mark.parametrize("rounding", ["half-even", "floor"])
def test_afterwards_weights_lie_on_their_grids(rounding: str) -> None:
    module, x, _ = calibrated(rounding=rounding)
    tune(module, x, QUICK)
    assert len(grids(module)) == 3
    for layer, quantizer in grids(module):
        assert not quantizer.open
        codes = layer.weight / torch.exp2(-quantizer.points)
        assert torch.equal(codes, torch.round(codes))
        assert codes.abs().max() <= quantizer.ends[1]
        assert torch.equal(layer.weight, quantizer(layer.weight)[0])


def test_rounding_is_learned_where_points_may_not_move() -> None:
    """Of two weights half a step off, the nearest codes add up to one step too many."""
    line = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        line.weight.copy_(torch.tensor([[2.5, 1.5]]))
    module = prepare(nn.Sequential(line), bits=4, output_bits=8)
    x = torch.randn(64, 1).expand(64, 2) * 3
    calibrate(module, [x])
    tune(module, x, Fit(steps=200, rate=5e-2))
    ((layer, quantizer),) = grids(module)
    assert float(layer.weight.sum()) == 4.0
    assert float(quantizer.points.max()) <= 1


def test_the_same_seed_gives_the_same_weights_and_teaches_nothing_to_the_original() -> None:
    states = []
    for _ in range(2):
        module, x, plain = calibrated()
        kept = {k: v.clone() for k, v in plain.state_dict().items()}
        tune(module, x, QUICK)
        assert all(torch.equal(v, plain.state_dict()[k]) for k, v in kept.items())
        states.append(module.state_dict())
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


def test_a_tuned_modules_integers_are_the_interpreters(tmp_path: Path) -> None:
    module, x, _ = calibrated()
    tune(module, x, QUICK)
    export(module, x[:1], tmp_path / "net.onnx")
    assert compare(module, tmp_path / "net.onnx", x[:8]).quantizers == 5


def test_what_is_not_calibrated_is_refused() -> None:
    made, x = net()
    with pytest.raises(NotTrainable, match="seen no data"):
        tune(prepare(made, bits=4), x)
    module, x, _ = calibrated()
    with pytest.raises(NotTrainable, match="no samples"):
        tune(module, x[:0])


# ---- points of the pass


def test_normalisations_become_part_of_the_layers() -> None:
    made, x = net()
    folded = fold_norms(made)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    assert torch.allclose(folded(x), made(x), atol=1e-5)
    flat = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.BatchNorm1d(5)).eval()
    found = [type(m) for m in fold_norms(flat).modules()]
    assert found.count(nn.BatchNorm1d) == 1
    assert torch.allclose(fold_norms(flat)(x[:, 0, 0, :3]), flat(x[:, 0, 0, :3]), atol=1e-6)


@pytest.mark.parametrize("joint", [False, True])
def test_points_of_the_pass_are_closer_to_float_than_those_of_the_largest_values(
    joint: bool, tmp_path: Path
) -> None:
    made, x = net()
    folded = fold_norms(made)
    ranged, placed = prepare(folded, bits=3), prepare(folded, bits=3)
    calibrate(ranged, x.split(16), method="max")
    place_points(placed, x, joint=joint)
    assert all(part.ready for _, part in activations(placed))
    assert distance(placed, made, x) < 0.6 * distance(ranged.eval(), made, x)
    export(placed, x[:1], tmp_path / "net.onnx")
    assert compare(placed, tmp_path / "net.onnx", x[:8]).quantizers == 5


def test_points_are_the_same_every_time_and_widths_stay() -> None:
    made, x = net()
    found = []
    for _ in range(2):
        module = prepare(fold_norms(made), bits=5, weight_bits=3, input_bits=6)
        place_points(module, x[:20])
        found.append(formats(module))
    assert found[0] == found[1]
    kinds = sorted({v.partition(",")[0] for k, v in found[0].items() if "bias" not in k})
    assert kinds == ["i3", "i5", "i6", "u5"]


def test_a_module_with_normalisations_left_is_refused() -> None:
    made, x = net()
    with pytest.raises(NotTrainable, match="counterpart") as caught:
        place_points(prepare(made, bits=4), x[:4])
    assert "fold_norms" in str(caught.value.hint)
    with pytest.raises(NotTrainable, match="per channel"):
        place_points(prepare(fold_norms(made), bits=4, per_channel=False), x[:4])
