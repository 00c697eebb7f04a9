# pyright: basic, reportMissingImports=false
"""What an operation of a traced module is, for fixed point."""

from __future__ import annotations

import operator
from enum import Enum, auto
from typing import Any

import torch
from brevitas import nn as qnn
from brevitas.nn.quant_layer import QuantNonLinearActLayer, QuantWeightBiasInputOutputLayer
from torch import fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm


class Kind(Enum):
    """What an operation needs and gives."""

    LINEAR = auto()
    """A layer with weights: takes narrow, gives wide."""
    NORM = auto()
    """A normalisation: a line per channel of a wide value."""
    LINE = auto()
    """A sum or product with a number, of a wide value."""
    RECTIFIER = auto()
    """Monotone, in straight pieces, never negative."""
    BENT = auto()
    """Monotone, in straight pieces."""
    CURVE = auto()
    """A function of one narrow value."""
    POSITIVE_CURVE = auto()
    """The same, never negative."""
    SUM = auto()
    """A sum, difference or product of narrow values."""
    MEAN = auto()
    """Average pooling of a narrow value."""
    MAX = auto()
    """Maximum pooling of a narrow value, which stays narrow."""
    CONCAT = auto()
    """Values side by side, which need one format."""
    PASS = auto()
    """Elements merely moved, or left out while training."""
    QUANTIZER = auto()
    """A quantizing layer of Brevitas."""


_LAYERS: tuple[tuple[tuple[type, ...], Kind], ...] = (
    (
        (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d),
        Kind.LINEAR,
    ),
    ((_BatchNorm,), Kind.NORM),
    ((nn.ReLU, nn.ReLU6, nn.Hardsigmoid), Kind.RECTIFIER),
    ((nn.LeakyReLU, nn.Hardtanh), Kind.BENT),
    ((nn.Sigmoid,), Kind.POSITIVE_CURVE),
    ((nn.Tanh,), Kind.CURVE),
    ((nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d), Kind.MEAN),
    ((nn.MaxPool1d, nn.MaxPool2d), Kind.MAX),
    ((nn.Flatten, nn.Unflatten, nn.Identity, nn.modules.dropout._DropoutNd), Kind.PASS),
)
_F = functional
_CALLS: tuple[tuple[tuple[Any, ...], Kind], ...] = (
    ((_F.relu, torch.relu, torch.relu_, "relu", "relu_", _F.relu6, _F.hardsigmoid), Kind.RECTIFIER),
    ((_F.leaky_relu, _F.hardtanh, torch.clamp, "clamp"), Kind.BENT),
    ((torch.sigmoid, _F.sigmoid, "sigmoid"), Kind.POSITIVE_CURVE),
    ((torch.tanh, _F.tanh, "tanh"), Kind.CURVE),
    (
        (
            operator.add, operator.iadd, torch.add, "add", "add_", operator.sub, torch.sub, "sub",
            operator.mul, torch.mul, "mul",
        ),
        Kind.SUM,
    ),
    ((_F.avg_pool1d, _F.avg_pool2d, _F.adaptive_avg_pool1d, _F.adaptive_avg_pool2d), Kind.MEAN),
    ((torch.mean, "mean"), Kind.MEAN),
    ((_F.max_pool1d, _F.max_pool2d), Kind.MAX),
    ((torch.cat, torch.concat), Kind.CONCAT),
    (
        (
            torch.flatten, "flatten", "view", "reshape", torch.reshape, "permute", torch.permute,
            "transpose", torch.transpose, "squeeze", torch.squeeze, "unsqueeze", torch.unsqueeze,
            "contiguous", _F.dropout, operator.getitem,
        ),
        Kind.PASS,
    ),
)  # fmt: skip
_WHOLE = ("size", "dim", getattr)


def kind_of(node: fx.Node, layer: nn.Module | None) -> Kind | None:
    """What a node is; None where it has no fixed-point form."""
    if layer is not None:
        return _kind_of_layer(layer)
    for targets, kind in _CALLS:
        if any(node.target is t or node.target == t for t in targets):
            single = len([a for a in node.args[:2] if isinstance(a, fx.Node)]) == 1
            return Kind.LINE if kind is Kind.SUM and single else kind
    return Kind.PASS if node.target in _WHOLE else None


def _kind_of_layer(layer: nn.Module) -> Kind | None:
    if isinstance(layer, QuantWeightBiasInputOutputLayer):
        return Kind.LINEAR
    if isinstance(layer, QuantNonLinearActLayer | qnn.QuantIdentity):
        return Kind.QUANTIZER
    for types, kind in _LAYERS:
        if isinstance(layer, types):
            return kind
    return None
