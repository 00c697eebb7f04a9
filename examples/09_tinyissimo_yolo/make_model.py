"""Train TinyissimoYOLO on small scenes, and write yolo.onnx.

The network is that of the paper (arXiv 2306.00001): 88 by 88 pixels, ten 3 by 3 convolutions, one
linear layer, a grid of 4 by 4 cells with two boxes each. For three classes its last convolution has
120 filters instead of 128, so that it keeps the size of the published one, 422 thousand parameters.
Weights are written as eight bits by channel, biases and all else as real numbers.
Training needs PyTorch; compiling the result does not:

    python examples/09_tinyissimo_yolo/make_model.py [FOLDER] [EPOCHS]

Training again gives a network as good, not the same bytes, as sums of floats depend on the machine.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scenes import MOST, SIZE, scenes
from torch import Tensor, nn

GRID, BOXES, KINDS = 4, 2, 3
CELL = 5 * BOXES + KINDS
FILTERS = (16, "pool", 16, 16, "pool", 32, 32, "pool", 64, 64, "pool", 64, 128, "pool", 120)
TRAIN = 8000
EPOCHS, BATCH, RATE = 12, 64, 3e-3
COORDINATES, EMPTY = 5.0, 0.5


def network() -> nn.Sequential:
    """The network, with batch normalization behind each convolution."""
    layers: list[nn.Module] = []
    channels = 3
    for item in FILTERS:
        if item == "pool":
            layers.append(nn.MaxPool2d(2))
            continue
        assert isinstance(item, int)
        layers += [
            nn.Conv2d(channels, item, 3, padding=1, bias=False), nn.BatchNorm2d(item), nn.ReLU(),
        ]  # fmt: skip
        channels = item
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * channels, GRID * GRID * CELL))


def targets(objects: NDArray[np.float32]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Which cells have an object ``[N, 4, 4]``, and x, y in the cell, w, h, class of it."""
    owned = np.zeros((len(objects), GRID, GRID), np.bool_)
    found = np.zeros((len(objects), GRID, GRID, 5), np.float32)
    for i in range(MOST):
        kind, x0, y0, x1, y1 = objects[:, i].T
        x, y = (x0 + x1) / 2 * GRID, (y0 + y1) / 2 * GRID
        (rows,) = np.nonzero(kind >= 0)
        cx, cy = x[rows].astype(int), y[rows].astype(int)
        owned[rows, cy, cx] = True
        values = (x[rows] - cx, y[rows] - cy, (x1 - x0)[rows], (y1 - y0)[rows], kind[rows])
        found[rows, cy, cx] = np.stack(values, axis=1)
    return owned, found


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes given by centre in the cell and size in the image."""
    low = torch.maximum(a[..., :2] / GRID - a[..., 2:4] / 2, b[..., :2] / GRID - b[..., 2:4] / 2)
    high = torch.minimum(a[..., :2] / GRID + a[..., 2:4] / 2, b[..., :2] / GRID + b[..., 2:4] / 2)
    shared = (high - low).clamp(min=0).prod(dim=-1)
    total = a[..., 2:4].prod(dim=-1) + b[..., 2:4].prod(dim=-1) - shared
    return shared / total.clamp(min=1e-6)


def loss(output: Tensor, owned: Tensor, found: Tensor) -> Tensor:
    """The loss of YOLO (arXiv 1506.02640): sizes are predicted by their square roots."""
    cells = output.reshape(-1, GRID, GRID, CELL)
    boxes = cells[..., : 5 * BOXES].reshape(*cells.shape[:-1], BOXES, 5)
    real = torch.cat([boxes[..., :2], boxes[..., 2:4] ** 2], dim=-1).detach()
    match = overlap(real, found[..., None, :4])
    best = torch.nn.functional.one_hot(match.argmax(dim=-1), BOXES) * owned[..., None]
    wanted = torch.cat([found[..., :2], found[..., 2:4].sqrt()], dim=-1)[..., None, :]
    place = ((boxes[..., :4] - wanted) ** 2).sum(dim=-1)
    sure = (boxes[..., 4] - match) ** 2
    empty = boxes[..., 4] ** 2
    kinds = torch.nn.functional.one_hot(found[..., 4].long(), KINDS).float()
    wrong = ((cells[..., 5 * BOXES :] - kinds) ** 2).sum(dim=-1) * owned
    total = (COORDINATES * place + sure) * best + EMPTY * empty * (1 - best)
    return (total.sum() + wrong.sum()) / len(output)


def train(model: nn.Sequential, epochs: int) -> None:
    """AdamW with one cycle of the rate, images mirrored at random."""
    images, objects = scenes(1, TRAIN)
    pixels = torch.from_numpy(images)
    steps = TRAIN // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=1e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * steps)
    generator = np.random.default_rng(2)
    for epoch in range(epochs):
        begin, total = time.monotonic(), 0.0
        order = generator.permutation(TRAIN)
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            x, some = pixels[chosen].float() / 255, objects[chosen].copy()
            if generator.random() < 0.5:
                x = x.flip(3)
                some[..., [1, 3]] = 1 - some[..., [3, 1]]
            owned, found = (torch.from_numpy(a) for a in targets(some))
            optimizer.zero_grad()
            value = loss(model(x), owned, found)
            value.backward()
            optimizer.step()
            rate.step()
            total += float(value.detach())
        print(
            f"epoch {epoch}: loss {total / steps:.3f}, {time.monotonic() - begin:.0f} s", flush=True
        )


def export(model: nn.Sequential) -> onnx.ModelProto:  # noqa: PLR0915 - one case a layer
    """The network with batch normalization folded into its convolutions."""
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []
    now, name, layers = "image", "", list(model)

    def keep(title: str, array: NDArray[Any]) -> str:
        tensors.append(numpy_helper.from_array(array, title))
        return title

    def hold(title: str, weights: NDArray[Any]) -> str:
        rows = np.abs(weights).reshape(len(weights), -1).max(axis=1)
        scales = (rows / 127).astype(np.float32)
        shaped = scales.reshape(-1, *[1] * (weights.ndim - 1))
        codes = np.rint(weights / shaped).astype(np.int8)
        parts = {"codes": codes, "scales": scales, "zeros": np.zeros(len(scales), np.int8)}
        names = [keep(f"{title}_{part}", array) for part, array in parts.items()]
        nodes.append(helper.make_node("DequantizeLinear", names, [f"{title}_weights"], axis=0))
        return f"{title}_weights"

    def node(kind: str, *operands: NDArray[Any], **attributes: Any) -> None:
        nonlocal now
        held = [hold(name, a) if a.ndim > 1 else keep(f"{name}_bias", a) for a in operands]
        nodes.append(helper.make_node(kind, [now, *held], [name], name, **attributes))
        now = name

    for i, layer in enumerate(layers):
        name = f"layer{i}"
        match layer:
            case nn.Conv2d():
                norm = layers[i + 1]
                factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
                weights = (layer.weight * factor[:, None, None, None]).detach().numpy()
                bias = (norm.bias - norm.running_mean * factor).detach().numpy()
                node("Conv", weights, bias, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
            case nn.ReLU():
                node("Relu")
            case nn.MaxPool2d():
                node("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
            case nn.Flatten():
                node("Flatten")
            case nn.Linear():
                name = "cells"
                node("Gemm", layer.weight.detach().numpy(), layer.bias.detach().numpy(), transB=1)
            case _:
                pass
    shape = [1, GRID * GRID * CELL]
    graph = helper.make_graph(
        nodes,
        "yolo",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("cells", TensorProto.FLOAT, shape)],
        tensors,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return made


def main() -> None:
    """Train and write."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    torch.manual_seed(0)
    model = network()
    train(model, int(sys.argv[2]) if len(sys.argv) > 2 else EPOCHS)
    model.eval()
    onnx.save(export(model), folder / "yolo.onnx")


if __name__ == "__main__":
    main()
