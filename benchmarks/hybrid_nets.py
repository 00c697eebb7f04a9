# pyright: basic, reportMissingImports=false
"""Small transformers to quantize, trained on MNIST: ``python -m benchmarks.hybrid_nets FOLDER``.

Hybrids in the shapes of MobileViT and EfficientFormer, and one whose attention is causal. Each
takes minutes on a processor and needs torch; `benchmarks.corrections` measures on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as f

from benchmarks.__main__ import SHARED

SIDE = 32
_MEAN, _DEVIATION = 0.1, 0.275
_BATCH = 100


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Module:
    """A convolution and a batch norm."""
    pad = size // 2
    layer = nn.Conv2d(inputs, outputs, size, stride, pad, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


class Attention(nn.Module):
    """Of all tokens, or causal; with `bias` a learned number for every pair of places."""

    def __init__(self, size: int, heads: int, tokens: int, *, causal: bool, bias: bool) -> None:
        """One projection to queries, keys and values."""
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(size, 3 * size)
        self.out = nn.Linear(size, size)
        self.bias = nn.Parameter(torch.zeros(heads, tokens, tokens)) if bias else None
        mask = torch.full((tokens, tokens), -math.inf).triu(1) if causal else None
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``[N, T, C]``."""
        count, tokens, size = x.shape
        parts = self.qkv(x).reshape(count, tokens, 3, self.heads, size // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-1, -2) * (size // self.heads) ** -0.5
        if self.bias is not None:
            scores = scores + self.bias
        if self.mask is not None:
            scores = scores + self.mask
        seen = (scores.softmax(-1) @ v).transpose(1, 2).reshape(count, tokens, size)
        return self.out(seen)


class Block(nn.Module):
    """Attention and two layers, each behind a norm and beside the residual stream."""

    def __init__(
        self, size: int, heads: int, tokens: int, act: nn.Module, *, causal: bool = False,
        bias: bool = False,
    ) -> None:  # fmt: skip
        """Twice the width inside."""
        super().__init__()
        self.attention = Attention(size, heads, tokens, causal=causal, bias=bias)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(size, 2 * size), act, nn.Linear(2 * size, size))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``[N, T, C]``."""
        first, second = self.norms
        x = x + self.attention(first(x))
        return x + self.mlp(second(x))


class Inverted(nn.Module):
    """MobileNetV2's block."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """Twice the width inside."""
        super().__init__()
        wide = 2 * inputs
        self.layers = nn.Sequential(
            conv(inputs, wide, 1), nn.SiLU(),
            conv(wide, wide, 3, stride, wide), nn.SiLU(), conv(wide, outputs, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Maps."""
        return self.layers(x)


class MobileVit(nn.Module):
    """Maps to patches of tokens by a convolution, and back to maps by another (Mehta et al.)."""

    def __init__(self, channels: int = 24, size: int = 32) -> None:
        """Maps of 8 by 8, patches of 2 by 2."""
        super().__init__()
        self.stem = nn.Sequential(conv(1, 16, 3, 2), nn.SiLU(), Inverted(16, channels, 2))
        self.inside = nn.Sequential(
            conv(channels, channels), nn.SiLU(), nn.Conv2d(channels, size, 1, bias=False)
        )
        blocks = (Block(size, 4, 16, nn.SiLU()) for _ in range(2))
        self.tokens = nn.Sequential(*blocks, nn.LayerNorm(size))
        self.outside = nn.Sequential(conv(size, channels, 1), nn.SiLU())
        self.joined = nn.Sequential(conv(2 * channels, channels), nn.SiLU())
        self.last = nn.Sequential(conv(channels, 64, 1), nn.SiLU())
        self.classes = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images."""
        x = self.stem(x)
        y = self.inside(x)
        count, size, side, _ = y.shape
        half = side // 2
        y = y.reshape(count, size, half, 2, half, 2).permute(0, 3, 5, 2, 4, 1)
        y = self.tokens(y.reshape(4 * count, half * half, size))
        y = y.reshape(count, 2, 2, half, half, size).permute(0, 5, 3, 1, 4, 2)
        y = self.outside(y.reshape(count, size, side, side))
        x = self.last(self.joined(torch.cat((x, y), 1)))
        return self.classes(x.mean((2, 3)))


class Pooling(nn.Module):
    """EfficientFormer's block of maps: a pool beside the stream, then two convolutions."""

    def __init__(self, size: int) -> None:
        """Twice the width inside; scales per channel begin at a tenth."""
        super().__init__()
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.mlp = nn.Sequential(conv(size, 2 * size, 1), nn.GELU(), conv(2 * size, size, 1))
        self.scales = nn.Parameter(torch.full((2, size, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        """Maps."""
        x = x + self.scales[0] * (self.pool(x) - x)
        return x + self.scales[1] * self.mlp(x)


class EfficientFormer(nn.Module):
    """Blocks of maps, then of tokens, without a layer between (Li et al.)."""

    def __init__(self, size: int = 48) -> None:
        """Maps of 8 by 8."""
        super().__init__()
        self.maps = nn.Sequential(
            conv(1, 12, 3, 2), nn.ReLU(), conv(12, 24, 3, 1), nn.ReLU(), Pooling(24),
            conv(24, size, 3, 2), Pooling(size),
        )  # fmt: skip
        blocks = (Block(size, 4, 64, nn.GELU(), bias=True) for _ in range(2))
        self.tokens = nn.Sequential(*blocks, nn.LayerNorm(size))
        self.classes = nn.Linear(size, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images."""
        tokens = self.maps(x).flatten(2).transpose(1, 2)
        return self.classes(self.tokens(tokens).mean(1))


class Causal(nn.Module):
    """Patches of 4 by 4 row by row; each token sees those before it, and the last one answers."""

    def __init__(self, size: int = 48) -> None:
        """64 tokens."""
        super().__init__()
        self.patches = nn.Conv2d(1, size, 4, 4)
        self.places = nn.Parameter(torch.randn(1, 64, size) * 0.1)
        blocks = (Block(size, 4, 64, nn.GELU(), causal=True) for _ in range(3))
        self.tokens = nn.Sequential(*blocks, nn.LayerNorm(size))
        self.classes = nn.Linear(size, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.classes(self.tokens(tokens)[:, -1])


NETS: Mapping[str, type[nn.Module]] = {
    "mobilevit_mnist": MobileVit,
    "efficientformer_mnist": EfficientFormer,
    "causal_mnist": Causal,
}


def images(part: str) -> tuple[Tensor, Tensor]:
    """Images ``[N, 1, 32, 32]`` with their labels."""
    with np.load(SHARED / "data_mnist.npz") as arrays:
        pixels, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
    edge = (SIDE - pixels.shape[1]) // 2
    pixels = np.pad(pixels, ((0, 0), (edge, edge), (edge, edge)))[:, None] / 255
    reals = ((pixels - _MEAN) / _DEVIATION).astype(np.float32)
    return torch.from_numpy(reals), torch.from_numpy(labels.astype(np.int64))


def learn(net: nn.Module, epochs: int) -> None:
    """Adam, its rate falling to nothing."""
    x, labels = images("train")
    adam = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.01)
    steps = epochs * (len(x) // _BATCH)
    rate = torch.optim.lr_scheduler.OneCycleLR(adam, 2e-3, total_steps=steps)
    net.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(x)).split(_BATCH):
            loss = f.cross_entropy(net(x[chosen]), labels[chosen])
            adam.zero_grad()
            loss.backward()
            adam.step()
            rate.step()


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--epochs", default=5, show_default=True)
@click.option("--only", type=click.Choice(tuple(NETS)))
def main(folder: Path, epochs: int, only: str | None) -> None:
    """Write each net as NAME.onnx, and NAME.npz with other images, into FOLDER."""
    folder.mkdir(parents=True, exist_ok=True)
    x, labels = images("test")
    for name in NETS if only is None else (only,):
        torch.manual_seed(0)
        net = NETS[name]()
        learn(net, epochs)
        net.eval()
        with torch.no_grad():
            right = (net(x).argmax(1) == labels).float().mean().item()
        click.echo(f"{name}: {right:.2%} of {len(x)} images")
        path = folder / f"{name}.onnx"
        torch.onnx.export(
            net, (x[:1],), path, input_names=["x"], output_names=["y"], opset_version=17,
            dynamo=False,
        )  # fmt: skip
        np.savez_compressed(path.with_suffix(".npz"), x=x.numpy(), y=labels.numpy())


if __name__ == "__main__":
    main()
