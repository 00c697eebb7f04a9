# pyright: basic, reportMissingImports=false
"""Training: it learns, it can be cut and goes on, and the same seed gives the same numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from binpoint.errors import NotTrainable
from binpoint.training import calibrate, formats, prepare
from binpoint.training.learn import Epoch, Plan, accuracy, learn


def problem() -> tuple[Any, Any]:
    torch.manual_seed(11)
    x = torch.randn(400, 6)
    return x, (x[:, 0] * x[:, 1] > 0).long() + 2 * (x[:, 2] > 0.3).long()


def net(bits: int = 4) -> nn.Module:
    torch.manual_seed(12)
    plain = nn.Sequential(nn.Linear(6, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 4))
    prepared = prepare(plain, bits=bits)
    calibrate(prepared, [problem()[0]])
    return prepared


def test_weights_and_binary_points_are_learned() -> None:
    x, y = problem()
    module = net(bits=3)
    before, start = formats(module), accuracy(module, x, y)
    history = learn(module, x, y, Plan(epochs=12, rate=2e-2, point_rate=2e-2))
    assert history[-1].loss < 0.6 * history[0].loss
    assert accuracy(module, x, y) > max(0.75, start + 0.2)
    assert formats(module) != before


class Cut(Exception):
    pass


def test_a_training_that_was_cut_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    x, y = problem()
    whole, cut = net(), net()
    first = learn(whole, x, y, Plan(epochs=4, checkpoint=tmp_path / "whole.pt"))
    plan = Plan(epochs=4, checkpoint=tmp_path / "cut.pt")

    def stop(_: nn.Module, epoch: Epoch) -> None:
        if epoch.index == 2:
            raise Cut

    with pytest.raises(Cut):
        learn(cut, x, y, plan, callback=stop)
    resumed = net()
    second = learn(resumed, x, y, plan)
    assert [(e.index, e.loss, e.accuracy) for e in first] == [
        (e.index, e.loss, e.accuracy) for e in second
    ]
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    for other in (replace(plan, epochs=5), replace(plan, point_rate=1e-3)):
        with pytest.raises(NotTrainable, match="another training"):
            learn(net(), x, y, other)
    with pytest.raises(NotTrainable, match=r"(?s)samples 400.*samples 399"):
        learn(net(), x[1:], y[1:], plan)


def test_another_seed_gives_another_training() -> None:
    x, y = problem()
    found = [learn(net(), x, y, Plan(epochs=1, seed=seed))[0].loss for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


def test_a_loss_of_ones_own_trains_what_is_no_classifier(tmp_path: Path) -> None:
    x, _ = problem()
    wanted = torch.stack([x[:, 0] * x[:, 1], x[:, 2], x[:, 3], x[:, 4]], dim=1)
    plan = Plan(epochs=8, rate=2e-2, checkpoint=tmp_path / "own.pt")
    mean = torch.nn.functional.mse_loss
    history = learn(net(), x, wanted, plan, loss=mean)
    assert history[-1].loss < 0.5 * history[0].loss
    assert [e.accuracy for e in history] == [None] * 8
    assert learn(net(), x, wanted, plan, loss=mean) == history


def test_the_bar_shows_loss_and_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = problem()
    learn(net(), x, y, Plan(epochs=1, progress=True))
    shown = capsys.readouterr().out
    assert "epoch 1/1" in shown
    assert "loss" in shown
    assert "accuracy" in shown
