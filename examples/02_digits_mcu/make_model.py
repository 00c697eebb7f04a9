"""Train the small convolutional network of this example, and write digits.onnx and digits.npz.

Data: the handwritten digits that come with scikit-learn (UCI, 1797 images of 8 by 8 pixels). The
network is written in NumPy, so that nothing but NumPy, scikit-learn and onnx is needed:

    python examples/02_digits_mcu/make_model.py [FOLDER]

The files in this folder are the result of one run. Training again gives a network as good, not the
same bytes, as sums of floats depend on the machine.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
CALIBRATION, TEST = 200, 597
EPOCHS, BATCH, RATE, NOISE = 120, 32, 5e-3, 0.08


def windows(x: Floats) -> Floats:
    """Return the 3 by 3 neighbourhoods of ``x`` [N, C, H, W], as rows [N, H, W, 9 C]."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    view = sliding_window_view(padded, (3, 3), axis=(2, 3))
    n, c, h, w = x.shape
    return view.transpose(0, 2, 3, 1, 4, 5).reshape(n, h, w, c * 9)


class Convolution:
    """3 by 3 convolution, rectifier and 2 by 2 maximum pooling."""

    def __init__(self, rng: np.random.Generator, channels: int, filters: int) -> None:
        deviation = np.sqrt(2 / (9 * channels))
        self.weights = rng.normal(0, deviation, (9 * channels, filters)).astype(np.float32)
        self.bias = np.zeros(filters, np.float32)

    def forward(self, x: Floats) -> Floats:
        """Return pooled activations [N, filters, H / 2, W / 2]."""
        self.rows = windows(x)
        n, h, w, _ = self.rows.shape
        active = np.maximum(self.rows @ self.weights + self.bias, 0)
        cells = active.reshape(n, h // 2, 2, w // 2, 2, -1)
        pooled = cells.max(axis=(2, 4))
        # Where a cell has its maximum twice, both take the gradient: rare, and harmless.
        self.chosen = (cells == pooled[:, :, None, :, None, :]) & (cells > 0)
        return pooled.transpose(0, 3, 1, 2)

    def backward(self, gradient: Floats) -> tuple[Floats, list[Floats]]:
        """Return the gradients of the input and of weights and bias."""
        spread = gradient.transpose(0, 2, 3, 1)[:, :, None, :, None, :] * self.chosen
        n, h, w, _ = self.rows.shape
        flat = spread.reshape(n * h * w, -1)
        weights = self.rows.reshape(n * h * w, -1).T @ flat
        back = (flat @ self.weights.T).reshape(n, h, w, -1, 3, 3)
        x = np.zeros((n, back.shape[3], h + 2, w + 2), np.float32)
        for i in range(3):
            for j in range(3):
                x[:, :, i : i + h, j : j + w] += back[..., i, j].transpose(0, 3, 1, 2)
        return x[:, :, 1:-1, 1:-1], [weights, flat.sum(0)]


class Network:
    """Two convolutions and a linear layer, trained with Adam on the cross entropy."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.first, self.second = Convolution(rng, 1, 8), Convolution(rng, 8, 16)
        self.weights = rng.normal(0, 0.1, (64, 10)).astype(np.float32)
        self.bias = np.zeros(10, np.float32)
        self.parameters = [
            self.first.weights, self.first.bias, self.second.weights, self.second.bias,
            self.weights, self.bias,
        ]  # fmt: skip
        self.moments = [(np.zeros_like(p), np.zeros_like(p)) for p in self.parameters]
        self.steps = 0

    def forward(self, x: Floats) -> Floats:
        """Return the scores [N, 10]."""
        self.features = self.second.forward(self.first.forward(x)).reshape(len(x), -1)
        return self.features @ self.weights + self.bias

    def train(self, x: Floats, y: Labels, rate: float) -> None:
        """Take one step against the gradient of the mean cross entropy."""
        scores = self.forward(x)
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        gradient = odds / odds.sum(axis=1, keepdims=True)
        gradient[np.arange(len(y)), y] -= 1
        gradient /= len(y)
        linear = [self.features.T @ gradient, gradient.sum(0)]
        back, second = self.second.backward((gradient @ self.weights.T).reshape(-1, 16, 2, 2))
        _, first = self.first.backward(back)
        self.steps += 1
        groups = zip(self.parameters, [*first, *second, *linear], self.moments, strict=True)
        for parameter, slope, (mean, square) in groups:
            mean += 0.1 * (slope - mean)
            square += 0.001 * (slope * slope - square)
            step = mean / (1 - 0.9**self.steps)
            parameter -= rate * step / (np.sqrt(square / (1 - 0.999**self.steps)) + 1e-8)


def to_onnx(network: Network) -> onnx.ModelProto:
    """Return the trained network as an ONNX model of one image [1, 1, 8, 8] in 0..1."""
    kernels = [
        layer.weights.T.reshape(-1, channels, 3, 3)
        for layer, channels in ((network.first, 1), (network.second, 8))
    ]
    arrays = {
        "w1": kernels[0], "b1": network.first.bias, "w2": kernels[1], "b2": network.second.bias,
        "w3": network.weights, "b3": network.bias,
    }  # fmt: skip
    pool: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], name="conv1", pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("MaxPool", ["r1"], ["p1"], name="pool1", **pool),
        helper.make_node("Conv", ["p1", "w2", "b2"], ["c2"], name="conv2", pads=[1] * 4),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
        helper.make_node("MaxPool", ["r2"], ["p2"], name="pool2", **pool),
        helper.make_node("Flatten", ["p2"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["scores"], name="scores"),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(np.ascontiguousarray(a), k) for k, a in arrays.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8, producer_name="binpoint")
    onnx.checker.check_model(model, full_check=True)  # pyright: ignore[reportUnknownMemberType]
    return model


def main(folder: Path) -> None:
    """Train, write both files, print the accuracy on the images held out."""
    rng = np.random.default_rng(1)
    pixels, labels = cast("tuple[Floats, Labels]", load_digits(return_X_y=True))
    order = rng.permutation(len(labels))
    x = (pixels[order] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    y = labels[order].astype(np.int64)
    split = len(x) - TEST
    network = Network(rng)
    for epoch in range(EPOCHS):
        rate = RATE * (1 - epoch / EPOCHS)
        mixed = rng.permutation(split)
        for start in range(0, split, BATCH):
            batch = mixed[start : start + BATCH]
            noise = rng.normal(0, NOISE, x[batch].shape).astype(np.float32)
            network.train(x[batch] + noise, y[batch], rate)
    correct = np.count_nonzero(network.forward(x[split:]).argmax(axis=1) == y[split:])
    (folder / "digits.onnx").write_bytes(to_onnx(network).SerializeToString())
    # The first CALIBRATION samples were trained on; all others were not.
    chosen = np.r_[0:CALIBRATION, split : len(x)]
    np.savez_compressed(folder / "digits.npz", x=x[chosen], y=y[chosen])
    print(f"accuracy on {TEST} images held out: {correct / TEST:.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
