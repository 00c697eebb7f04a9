# pyright: basic, reportMissingImports=false
"""Bring yolo.onnx to fixed point: activations and weights of few bits, binary points learned.

    python examples/09_tinyissimo_yolo/train_quantized.py FOLDER [BITS] [EPOCHS] [SCENES]

writes two files of QONNX, which `evaluate.py` scores: `ptq8.onnx`, with binary points of least
squared error over 256 scenes, and `qat8.onnx`, where weights and binary points were trained from
there on, for 3 epochs of 3,000 scenes. Needs PyTorch and the extra `training`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from make_model import loss, targets
from onnx import numpy_helper
from scenes import scenes
from torch import nn

from binpoint.training import Plan, calibrate, export, formats, learn, prepare
from binpoint.training.learn import Epoch

FOLDER = Path(__file__).resolve().parent
SEED, CALIBRATION = 5, 256
EPOCHS, SCENES, BATCH = 3, 3000, 32
RATES = {8: 2e-4, 4: 1e-3}


def floating(path: Path) -> nn.Sequential:
    """The network of a file that make_model.py wrote, its weights as real numbers."""
    graph = onnx.load(path).graph
    held = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    layers: list[nn.Module] = []
    for node in graph.node:
        match node.op_type:
            case "Conv" | "Gemm":
                layers.append(_layer(held, node.output[0]))
            case "Relu":
                layers.append(nn.ReLU())
            case "MaxPool":
                layers.append(nn.MaxPool2d(2))
            case "Flatten":
                layers.append(nn.Flatten())
            case _:
                assert node.op_type == "DequantizeLinear"
    return nn.Sequential(*layers)


def _layer(held: dict[str, Any], name: str) -> nn.Module:
    codes, scales = held[f"{name}_codes"], held[f"{name}_scales"]
    made: nn.Module = (
        nn.Conv2d(codes.shape[1], len(codes), 3, padding=1)
        if codes.dim() > 2
        else nn.Linear(codes.shape[1], len(codes))
    )
    shaped = scales.reshape(-1, *[1] * (codes.dim() - 1))
    made.load_state_dict({"weight": codes * shaped, "bias": held[f"{name}_bias"]})
    return made


def criterion(output: Any, objects: Any) -> Any:
    """The loss of YOLO for rows of `scenes`."""
    owned, found = (torch.from_numpy(a) for a in targets(objects.numpy()))
    return loss(output, owned, found)


def told(_: Any, epoch: Epoch) -> None:
    """Print how an epoch went."""
    print(f"epoch {epoch.index}: loss {epoch.loss:.3f}, {epoch.seconds:.0f} s", flush=True)


def main() -> None:
    """Calibrate and write, train and write."""
    folder = Path(sys.argv[1])
    bits, epochs, count = (
        int(given or default)
        for given, default in zip((*sys.argv[2:5], *[None] * 3), (8, EPOCHS, SCENES), strict=False)
    )
    folder.mkdir(parents=True, exist_ok=True)
    images, objects = scenes(SEED, count)
    x = torch.from_numpy(images.astype(np.float32) / np.float32(255))
    net = prepare(floating(FOLDER / "yolo.onnx"), bits=bits, input_signed=False, output_bits=8)
    calibrate(net, x[:CALIBRATION].split(64))
    export(net, x[:1], folder / f"ptq{bits}.onnx")
    plan = Plan(epochs=epochs, batch=BATCH, rate=RATES[bits], checkpoint=folder / f"qat{bits}.pt")
    learn(net, x, torch.from_numpy(objects), plan, loss=criterion, callback=told)
    export(net, x[:1], folder / f"qat{bits}.onnx")
    print(formats(net))


if __name__ == "__main__":
    main()
