# pyright: basic, reportMissingImports=false
"""Bring yolo.onnx to fixed point: activations and weights of few bits, binary points learned.

    python examples/09_tinyissimo_yolo/train_quantized.py FOLDER [--bits 4] …

writes two files of QONNX, which `evaluate.py` scores: `ptq4.onnx`, with binary points of least
squared error over 256 scenes, and `qat4.onnx`, where weights and binary points were trained from
there on, to give what the float network gives; `--learn-from objects` trains on the objects
drawn instead. Needs PyTorch and the extra `training`.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import torch
from make_model import loss, targets
from onnx import numpy_helper
from scenes import scenes
from torch import nn

from binpoint.training import Plan, calibrate, export, formats, learn, prepare

FOLDER = Path(__file__).resolve().parent
SEED, CALIBRATION = 5, 256
BATCH, POINT_RATE = 16, 1e-3


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


def distance(output: Any, wanted: Any) -> Any:
    """The squared error of an image's cells."""
    return (output - wanted).square().sum() / len(output)


@torch.no_grad()
def taught(net: nn.Module, x: Any) -> Any:
    """What the float network gives."""
    return torch.cat([net.eval()(batch) for batch in x.split(64)])


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--bits", default=4, show_default=True, help="Of weights and of maps.")
@click.option("--epochs", default=2, show_default=True)
@click.option("--count", "--scenes", default=4800, show_default=True, help="To train on.")
@click.option("--rate", default=3e-4, show_default=True, help="Of weights, at the most.")
@click.option(
    "--learn-from", type=click.Choice(["float", "objects"]), default="float", show_default=True,
    help="The float network's cells, or the objects drawn.",
)  # fmt: skip
def main(folder: Path, bits: int, epochs: int, count: int, rate: float, learn_from: str) -> None:
    """Calibrate and write, train and write."""
    folder.mkdir(parents=True, exist_ok=True)
    images, objects = scenes(SEED, max(count, CALIBRATION))
    x = torch.from_numpy(images.astype(np.float32) / np.float32(255))
    plain = floating(FOLDER / "yolo.onnx")
    net = prepare(plain, bits=bits, input_signed=False, output_bits=8)
    calibrate(net, x[:CALIBRATION].split(64))
    export(net, x[:1], folder / f"ptq{bits}.onnx")
    x = x[:count]
    y = taught(plain, x) if learn_from == "float" else torch.from_numpy(objects[:count])
    plan = Plan(epochs=epochs, batch=BATCH, rate=rate, point_rate=POINT_RATE, progress=True)
    learn(net, x, y, plan, loss=distance if learn_from == "float" else criterion)
    export(net, x[:1], folder / f"qat{bits}.onnx")
    for name, form in formats(net).items():
        click.echo(f"{name}: {form}")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="brevitas")
    main()
