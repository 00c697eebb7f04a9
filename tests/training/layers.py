# pyright: basic, reportMissingImports=false
"""Brevitas layers as users build them, each between quantizers, in every format Brevitas has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import brevitas.nn as qnn
import brevitas.quant as quant
import torch
from brevitas.quant import fixed_point
from torch import nn


@dataclass(frozen=True)
class Format:
    """Quantizers of weights, of signed and of unsigned activations; None where bits are free."""

    weight: Any
    signed: Any
    unsigned: Any
    bits: int | None = None


FORMATS = {
    "free": Format(
        quant.Int8WeightPerTensorFloat, quant.Int8ActPerTensorFloat, quant.Uint8ActPerTensorFloat
    ),
    "channel": Format(
        quant.Int8WeightPerChannelFloat, quant.Int8ActPerTensorFloat, quant.Uint8ActPerTensorFloat
    ),
    "point": Format(
        quant.Int8WeightPerTensorFixedPoint, quant.Int8ActPerTensorFixedPoint,
        quant.Uint8ActPerTensorFixedPoint,
    ),
    "channel-point": Format(
        fixed_point.Int8WeightPerChannelFixedPoint, quant.Int8ActPerTensorFixedPoint,
        quant.Uint8ActPerTensorFixedPoint,
    ),
    "shifted": Format(
        quant.ShiftedUint8WeightPerTensorFloat, quant.ShiftedUint8ActPerTensorFloat,
        quant.ShiftedUint8ActPerTensorFloat,
    ),
    "shifted-point": Format(
        quant.Int8WeightPerTensorFixedPoint, quant.ShiftedUint8ActPerTensorFixedPoint,
        quant.ShiftedUint8ActPerTensorFixedPoint,
    ),
    "binary": Format(
        quant.SignedBinaryWeightPerTensorConst, quant.SignedBinaryActPerTensorConst,
        quant.SignedBinaryActPerTensorConst, 1,
    ),
    "ternary": Format(
        quant.SignedTernaryWeightPerTensorConst, quant.SignedTernaryActPerTensorConst,
        quant.SignedTernaryActPerTensorConst, 2,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Kit:
    """Makes layers of one format and width."""

    format: Format
    bits: int
    bias: Any = None
    weight_bits: int | None = None

    def weights(self) -> dict[str, Any]:
        given = {"weight_quant": self.format.weight, "bias_quant": self.bias}
        if self.format.bits:
            return given
        return given | {"weight_bit_width": self.weight_bits or self.bits}

    def act(self, kind: Any, quantizer: Any | None = None, **more: Any) -> Any:
        quantizer = self.format.signed if quantizer is None else quantizer
        given = {"act_quant": quantizer, "return_quant_tensor": True, **more}
        if self.format.bits is None:
            return kind(**given, bit_width=self.bits)
        return kind(**{"min_val": -1.0, "max_val": 1.0} | given)

    def start(self) -> Any:
        return self.act(qnn.QuantIdentity)

    def first(self) -> Any:
        """The quantizer of an input: eight bits where the others are binary."""
        if self.bits > 1:
            return self.start()
        return qnn.QuantIdentity(quant.Int8ActPerTensorFixedPoint, return_quant_tensor=True)

    def relu(self) -> Any:
        return self.act(qnn.QuantReLU, self.format.unsigned)

    def linear(self, a: int, b: int) -> Any:
        return qnn.QuantLinear(a, b, bias=True, **self.weights())

    def conv(self, a: int, b: int, k: int, **more: Any) -> Any:
        return qnn.QuantConv2d(a, b, k, bias=True, **self.weights(), **more)


class Sum(nn.Module):
    """A residual sum whose operands share a quantizer."""

    def __init__(self, kit: Kit) -> None:
        super().__init__()
        self.start, self.a, self.b = kit.first(), kit.conv(3, 4, 1), kit.conv(3, 4, 3, padding=1)
        self.shared, self.end = kit.start(), kit.relu()

    def forward(self, x: Any) -> Any:
        x = self.start(x)
        return self.end(self.shared(self.a(x)) + self.shared(self.b(x)))


class Added(nn.Module):
    """QuantEltwiseAdd."""

    def __init__(self, kit: Kit) -> None:
        super().__init__()
        self.start, self.a, self.b = kit.first(), kit.conv(3, 4, 1), kit.conv(3, 4, 3, padding=1)
        bits = (
            {} if kit.format.bits else {"input_bit_width": kit.bits, "output_bit_width": kit.bits}
        )
        self.add = qnn.QuantEltwiseAdd(
            input_quant=kit.format.signed, output_quant=kit.format.signed, **bits
        )

    def forward(self, x: Any) -> Any:
        x = self.start(x)
        return self.add(self.a(x), self.b(x))


class Attention(nn.Module):
    """Self-attention of two heads."""

    def __init__(self, kit: Kit) -> None:
        super().__init__()
        signed, unsigned, weight = kit.format.signed, kit.format.unsigned, kit.format.weight
        parts = ("in_proj_input", "in_proj_weight", "softmax_input", "attn_output_weights",
                 "q_scaled", "k_transposed", "v", "out_proj_input", "out_proj_weight",
                 "out_proj_output")  # fmt: skip
        quants: dict[str, Any] = {f"{p}_quant": weight if "weight" in p else signed for p in parts}
        quants["attn_output_weights_quant"] = unsigned
        widths = {} if kit.format.bits else {f"{p}_bit_width": kit.bits for p in parts}
        self.start = kit.first()
        self.attention = qnn.QuantMultiheadAttention(8, 2, batch_first=True, **quants, **widths)

    def forward(self, x: Any) -> Any:
        x = self.start(x)
        return self.attention(x, x, x, need_weights=False)[0]


class Lstm(nn.Module):
    """A recurrent layer."""

    def __init__(self, kit: Kit) -> None:
        super().__init__()
        signed, unsigned = kit.format.signed, kit.format.unsigned
        names = {"io": signed, "gate_acc": signed, "sigmoid": unsigned, "tanh": signed,
                 "cell_state": signed}  # fmt: skip
        quants = {f"{n}_quant": q for n, q in names.items()}
        widths = {} if kit.format.bits else {f"{n}_bit_width": kit.bits for n in names}
        self.inner = qnn.QuantLSTM(3, 4, batch_first=True, **quants, **kit.weights(), **widths)

    def forward(self, x: Any) -> Any:
        return self.inner(x)[0]


SAMPLES = 200
ROW, IMAGE, SERIES = (6,), (3, 6, 6), (3, 10)
Make = Callable[[Kit], nn.Module]


def _seq(*layers: Any) -> nn.Module:
    return nn.Sequential(*layers)


def _pool(kit: Kit, pool: Any) -> nn.Module:
    return _seq(kit.first(), kit.conv(3, 4, 3), kit.relu(), pool)


LAYERS: dict[str, tuple[tuple[int, ...], Make]] = {
    "linear": (ROW, lambda k: _seq(k.first(), k.linear(6, 5), k.relu(), k.linear(5, 3), k.start())),
    "conv1d": (
        SERIES,
        lambda k: _seq(
            k.first(),
            qnn.QuantConv1d(3, 4, 3, bias=True, **k.weights()),
            k.relu(),
            qnn.QuantConv1d(4, 2, 3, bias=True, stride=2, **k.weights()),
            k.start(),
        ),
    ),
    "conv2d": (
        IMAGE,
        lambda k: _seq(
            k.first(), k.conv(3, 4, 3, padding=1), k.relu(), k.conv(4, 2, 3, stride=2), k.start()
        ),
    ),
    "depthwise": (
        IMAGE,
        lambda k: _seq(k.first(), k.conv(3, 4, 1), k.relu(), k.conv(4, 4, 3, groups=4), k.start()),
    ),
    "transposed": (
        IMAGE,
        lambda k: _seq(
            k.first(),
            k.conv(3, 4, 3),
            k.relu(),
            qnn.QuantConvTranspose2d(4, 2, 2, stride=2, bias=True, **k.weights()),
            k.start(),
        ),
    ),
    "transposed1d": (
        SERIES,
        lambda k: _seq(
            k.first(),
            qnn.QuantConvTranspose1d(3, 4, 3, stride=2, bias=True, **k.weights()),
            k.start(),
        ),
    ),
    "relu": (IMAGE, lambda k: _seq(k.first(), k.relu())),
    "hardtanh": (
        IMAGE,
        lambda k: _seq(
            k.first(), k.conv(3, 4, 3), k.act(qnn.QuantHardTanh, min_val=-1.0, max_val=1.0)
        ),
    ),
    "sum": (IMAGE, Sum),
    "eltwise": (IMAGE, Added),
    "output": (IMAGE, lambda k: _seq(k.first(), k.conv(3, 4, 3))),
    "average": (
        IMAGE,
        lambda k: _seq(k.first(), k.conv(3, 4, 3), k.relu(), nn.AvgPool2d(2), k.start()),
    ),
    "trunc": (IMAGE, lambda k: _pool(k, qnn.TruncAvgPool2d(2, bit_width=k.bits))),
    "trunc-floor": (
        IMAGE,
        lambda k: _pool(k, qnn.TruncAvgPool2d(2, bit_width=k.bits, trunc_quant=quant.TruncTo8bit)),
    ),
    "adaptive": (IMAGE, lambda k: _pool(k, qnn.TruncAdaptiveAvgPool2d(1, bit_width=k.bits))),
    "sigmoid": (
        IMAGE,
        lambda k: _seq(
            k.first(), k.conv(3, 4, 3), k.start(), k.act(qnn.QuantSigmoid, k.format.unsigned)
        ),
    ),
    "tanh": (IMAGE, lambda k: _seq(k.first(), k.conv(3, 4, 3), k.start(), k.act(qnn.QuantTanh))),
    "attention": ((5, 8), Attention),
    "lstm": ((5, 3), Lstm),
}


class Plain(nn.Module):
    """A module whose result is the plain tensor, as exports want it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Any) -> Any:
        y = self.inner(x)
        return y if torch.is_tensor(y) else y.value


def made(
    name: str, form: str, bits: int, *, bias: Any = None, weight_bits: int | None = None
) -> tuple[nn.Module, Any]:
    """A module whose ranges came from a few batches, in evaluation mode, and 200 samples."""
    torch.manual_seed(3)
    shape, make = LAYERS[name]
    kit = Kit(FORMATS[form], FORMATS[form].bits or bits, bias, weight_bits)
    net = Plain(make(kit)).train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(64, *shape))
    return net.eval(), torch.randn(SAMPLES, *shape)
