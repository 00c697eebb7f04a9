# pyright: basic, reportMissingImports=false
"""Widths that fall and rise between epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from binpoint.errors import NotTrainable
from binpoint.training import AdaptWidths, FixedPoint, Plan, calibrate, export, learn, prepare
from binpoint.training.adapt import divergence
from binpoint.training.check import compare


def problem() -> tuple[Any, Any]:
    torch.manual_seed(11)
    x = torch.randn(256, 8)
    return x, (x[:, 0] * x[:, 1] > 0).long() + 2 * (x[:, 2] > 0.3).long()


def net(bits: int) -> tuple[Any, Any, Any]:
    torch.manual_seed(12)
    plain = nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4))
    x, y = problem()
    module = prepare(plain, bits=6, weight_bits=bits)
    calibrate(module, [x])
    return module, x, y


def widths(module: Any) -> list[int]:
    return [module.get_submodule(n).weight_quant.tensor_quant.bits for n in ("0", "3")]


def quantizer(bits: int, x: Any) -> FixedPoint:
    return FixedPoint(bits, signed=True, overflow="symmetric", start=x)


def test_the_divergence_is_zero_where_codes_tell_all_and_falls_with_every_bit() -> None:
    torch.manual_seed(1)
    x = torch.randn(40_000)
    found = [divergence(x, quantizer(bits, x)) for bits in range(2, 9)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.05 > 0.01 > found[3] > found[-1] >= 0.0
    assert divergence(torch.full((9,), 0.25), quantizer(4, torch.ones(3))) == 0.0
    # Two values, each with a code: nothing is lost, but for empty bins that share a code.
    two = torch.tensor([-1.0, 1.0]).repeat(400)
    assert divergence(two, quantizer(8, two)) < divergence(two, quantizer(2, two))


def test_the_divergence_is_that_of_the_formula() -> None:
    """16 bins over −2..2 with steps of one: middles −1.875 to 1.875, codes of 4, 4, … bins."""
    x = torch.cat((torch.full((30,), -2.0), torch.full((10,), 2.0), torch.full((24,), 0.1)))
    part = FixedPoint(3, signed=True, overflow="symmetric")
    part.set_points(torch.tensor(0.0))
    expected = 30 / 64 * torch.log(torch.tensor(2.0)) + 10 / 64 * torch.log(torch.tensor(2.0))
    expected += 24 / 64 * torch.log(torch.tensor(4.0))
    assert divergence(x, part) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(("start", "bound", "last"), [(8, 9.0, 2), (2, 1e-9, 5), (4, 9.0, 3)])
def test_widths_move_by_a_bit_in_an_epoch_within_their_ends(
    start: int, bound: float, last: int
) -> None:
    module, x, y = net(start)
    adapt = AdaptWidths(bound, least=min(last, 5), most=max(last, 3) if last > start else 8)
    history = learn(module, x, y, Plan(epochs=8, point_rate=0.0), callback=adapt)
    assert widths(module) == [last, last]
    changed = [h.notes for h in history if "=" in h.notes]
    assert len(changed) == abs(last - start)
    sign = "-" if last < start else "+"
    assert f"0 {start}{sign}1=" in changed[0]
    assert history[-1].notes == ""
    assert all(h.notes.startswith(f"bits after epoch {h.index + 1}: 0 ") for h in history[:-1])


def test_the_range_stays_and_integers_of_changed_widths_are_the_interpreters(
    tmp_path: Path,
) -> None:
    module, x, _ = net(6)
    part = module.get_submodule("0").weight_quant.tensor_quant
    reach = (part.ends[1] + 1) * torch.exp2(-part.points)
    part.resize(3)
    assert torch.equal((part.ends[1] + 1) * torch.exp2(-part.points), reach)
    module.get_submodule("3").weight_quant.tensor_quant.resize(7)
    export(module.eval(), x[:1], tmp_path / "net.onnx")
    assert compare(module, tmp_path / "net.onnx", x[:20]).outputs == 80


def test_a_cut_training_goes_on_with_its_widths(tmp_path: Path) -> None:
    module, x, y = net(8)
    plan = Plan(epochs=4, checkpoint=tmp_path / "net.pt")
    whole = learn(module, x, y, plan, callback=AdaptWidths(9.0, least=2))
    again, _, _ = net(8)
    assert learn(again, x, y, plan, callback=AdaptWidths(9.0, least=2)) == whole
    assert widths(again) == widths(module) == [5, 5]


@pytest.mark.parametrize("wrong", [{"bound": 0.0}, {"least": 1}, {"least": 6, "most": 5}])
def test_bounds_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(NotTrainable, match="widths cannot be adapted"):
        AdaptWidths(**wrong)
