# pyright: basic, reportMissingImports=false
"""Small encoders of transformers, and recurrent nets, and what torch's two exporters make of them.

``python -m tests.training.encoders`` writes the texts of ``tests/frontend/exported``.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn
from torch.nn import functional

from tests.exported import FOLDER, NAMES, text_of

STEPS, INPUTS, WIDTH, HEADS, CLASSES = 16, 6, 32, 2, 5


class Encoder(nn.Module):
    """torch's own layers: one that normalizes after its halves, one that does before."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.place = nn.Parameter(torch.randn(1, STEPS, WIDTH) * 0.3)
        sizes = {"d_model": WIDTH, "nhead": HEADS, "dim_feedforward": 2 * WIDTH}
        self.after = nn.TransformerEncoderLayer(**sizes, batch_first=True)
        self.before = nn.TransformerEncoderLayer(
            **sizes, batch_first=True, norm_first=True, activation="gelu"
        )

    def forward(self, x: Any) -> Any:
        x = self.embed(x) + self.place
        return self.head(self.before(self.after(x)).mean(1))


class Causal(nn.Module):
    """Written by hand around scaled_dot_product_attention, with a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Any) -> Any:
        x = self.embed(x)
        batch, steps, width = x.shape
        parts = self.qkv(self.first(x)).chunk(3, -1)
        q, k, v = (p.view(batch, steps, HEADS, width // HEADS).transpose(1, 2) for p in parts)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, steps, width))
        x = x + self.down(functional.gelu(self.up(self.second(x))))
        return self.head(x[:, -1])


class Recurrent(nn.Module):
    """Both directions of a recurrent layer, and a classifier of the last step."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        make = {"gru": nn.GRU, "lstm": nn.LSTM}[kind]
        self.layer = make(INPUTS, 8, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Any) -> Any:
        return self.head(self.layer(x)[0][:, -1])


def write(name: str, path: Path) -> nn.Module:
    """Export a net by one of the exporters, with all its parameters drawn at random."""
    kind, exporter = name.split("_")
    torch.manual_seed(3)
    encoders = {"encoder": Encoder, "causal": Causal}
    net = (encoders[kind]() if kind in encoders else Recurrent(kind)).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.2 * torch.randn_like(parameter)  # none is zero or one, none are equal
    words = {"input_names": ["x"], "output_names": ["y"], "dynamo": exporter == "dynamo"}
    if words["dynamo"]:
        words |= {"verbose": False, "external_data": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (torch.randn(1, STEPS, INPUTS),), path, **words)
    return net


def main() -> None:
    """Write all texts."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name in NAMES:
            path = Path(scratch) / f"{name}.onnx"
            write(name, path)
            text = text_of(onnx.load(path))
            (FOLDER / f"{name}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
