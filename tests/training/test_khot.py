# pyright: basic, reportMissingImports=false
"""K-hot weights: trained, exported, and seen by the compiler to be sums of few powers of two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from binpoint.errors import NotTrainable
from binpoint.numeric.digits import grid, nearest, terms
from binpoint.training import Plan, calibrate, export, learn, prepare
from binpoint.training.cast import Overflow, codes
from binpoint.training.check import compare, integers
from binpoint.training.quantizers import FixedPoint
from binpoint.training.tune import tune


@pytest.mark.parametrize("count", [1, 2, 3])
def test_codes_are_the_nearest_sums_of_few_powers(count: int) -> None:
    x = torch.arange(-140 * 4, 140 * 4 + 1, dtype=torch.float64) / 4 / 8
    point = torch.tensor(3.0, dtype=torch.float64)
    found = codes(x, point, 8, overflow=Overflow.SYMMETRIC, terms=count).numpy()
    wanted = nearest(np.clip(x.numpy() * 8, -127, 127), grid(count, 127))
    assert (found == wanted).all()


def test_the_gradient_is_that_of_rounding() -> None:
    x = torch.tensor([0.3, -0.7, 5.0, -9.0], requires_grad=True)
    point = torch.tensor(1.0, requires_grad=True)
    y = codes(x, point, 3, overflow=Overflow.SYMMETRIC, terms=1) * torch.exp2(-point)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1, 1, 0, 0]
    assert point.grad is not None
    half, log2 = 0.5, float(np.log(2))
    inside = -log2 * half * ((1 - 0.6) + (-1 - -1.4))
    outside = -log2 * half * (2 - 2)
    assert float(point.grad) == pytest.approx(inside + outside, abs=1e-5)


def test_unsigned_codes_and_those_that_wrap_have_no_few_powers() -> None:
    for signed, overflow in ((False, "saturate"), (True, "wrap")):
        with pytest.raises(NotTrainable, match="few signed powers"):
            FixedPoint(4, signed, overflow=overflow, terms=2)


@pytest.mark.parametrize("count", [1, 2])
def test_a_trained_net_has_such_weights_in_the_compiler_too(count: int, tmp_path: Path) -> None:
    torch.manual_seed(1)
    x = torch.randn(300, 6)
    y = (x[:, :3].sum(1) > x[:, 3:].sum(1)).long()
    net = nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 2))
    prepared = prepare(net, bits=5, weight_terms=count)
    calibrate(prepared, [x])
    learn(prepared, x, y, Plan(epochs=3, batch=32, rate=1e-2))
    path = tmp_path / "net.onnx"
    export(prepared, x[:1], path)
    assert compare(prepared, path, x[:50]).outputs == 100
    graph = integers(path)
    weights = [v.constant.array for n in graph.nodes() for v in graph.arguments(n)
               if v.constant is not None and v.constant.array.ndim == 2]  # fmt: skip
    assert len(weights) >= 2
    assert max(int(terms(w.astype(np.int64)).max()) for w in weights) == count


def test_rounding_is_not_tuned_where_codes_are_few() -> None:
    x = torch.randn(20, 6)
    prepared = prepare(nn.Sequential(nn.Linear(6, 4)), weight_terms=1)
    calibrate(prepared, [x])
    with pytest.raises(NotTrainable, match="no rounding"):
        tune(prepared, x)
