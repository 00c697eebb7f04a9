"""Networks of few bits, trained in NumPy and written as QONNX: what the examples for FPGAs share.

A layer is a linear map with quantized weights, and, but for the last one, batch normalisation,
rectifier and a quantizer of the result. Rounding has no slope; training takes that of the identity
in its place, inside the range (the straight-through estimator).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
DOMAIN = "qonnx.custom_op.general"
EPSILON = 1e-5
TERNARY, TERNARY_SCALE = 2, 1.4
MOMENTUM = 0.1


@dataclass(frozen=True, slots=True)
class Grid:
    """The numbers that a quantizer knows: codes of some bits times a scale.

    Args:
        bits: of a code.
        scale: one, or one for each output channel.
        signed: whether codes are below zero, too.
        narrow: whether the least code is the largest one's negative.
    """

    bits: int
    scale: Any
    signed: bool = False
    narrow: bool = False

    @property
    def ends(self) -> tuple[int, int]:
        """The least and the largest code."""
        top = (1 << (self.bits - self.signed)) - 1
        return (-top - (not self.narrow) if self.signed else 0), top

    def round(self, x: Floats) -> Floats:
        """The nearest of these numbers, as QONNX's Quant has them."""
        codes = np.rint(np.clip(x / self.scale, *self.ends))
        return (codes * self.scale).astype(np.float32)

    def inside(self, x: Floats) -> NDArray[np.bool_]:
        """Where the slope is taken as one."""
        low, high = self.ends
        return (x > low * self.scale) & (x < high * self.scale)


def weight_grid(weights: Floats, bits: int, *, shared: bool = False) -> Grid:
    """A scale for each output channel: from the mean size for -1, 0 and 1, else the largest.

    Scores share one scale, so that the largest integer is the largest score.
    """
    sizes = np.abs(weights).reshape(1 if shared else len(weights), -1)
    found = TERNARY_SCALE * sizes.mean(1) if bits == TERNARY else sizes.max(1)
    found = np.maximum(found / ((1 << (bits - 1)) - 1), 1e-6).astype(np.float32)
    scale = found.reshape((-1,) + (1,) * (weights.ndim - 1))
    return Grid(bits, scale, signed=True, narrow=True)


class Normalisation:
    """Batch normalisation over the rows of [N, C]."""

    def __init__(self, channels: int) -> None:
        self.gamma, self.beta = np.ones(channels, np.float32), np.zeros(channels, np.float32)
        self.mean, self.variance = np.zeros(channels, np.float32), np.ones(channels, np.float32)

    def forward(self, x: Floats, *, training: bool) -> Floats:
        """By the batch's moments, which are remembered, or by the remembered ones."""
        mean, variance = self.mean, self.variance
        if training:
            mean, variance = x.mean(0), x.var(0)
            self.mean += MOMENTUM * (mean - self.mean)
            self.variance += MOMENTUM * (variance - self.variance)
        self.deviation = np.sqrt(variance + EPSILON)
        self.normal = (x - mean) / self.deviation
        return np.asarray(self.gamma * self.normal + self.beta, np.float32)

    def backward(self, slope: Floats) -> tuple[Floats, list[Floats]]:
        """Gradients of the operand; of gamma and beta."""
        own = [(slope * self.normal).sum(0), slope.sum(0)]
        scaled = slope * self.gamma
        common = scaled.mean(0) + self.normal * (scaled * self.normal).mean(0)
        return (scaled - common) / self.deviation, own


class Layer:
    """A dense layer, or a convolution of 3 by 3 with padding and 2 by 2 maximum pooling.

    Args:
        rng: draws the first weights.
        inputs: elements of a row, or channels of a map.
        outputs: likewise.
        bits: of the weights; of the result, None for the last layer, which has a bias instead.
        image: whether it is a convolution.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        inputs: int,
        outputs: int,
        bits: tuple[int, int | None],
        *,
        image: bool = False,
    ) -> None:
        shape = (outputs, inputs, 3, 3) if image else (outputs, inputs)
        deviation = np.sqrt(2 / np.prod(shape[1:]))
        self.weights = rng.normal(0, deviation, shape).astype(np.float32)
        self.bias = np.zeros(outputs, np.float32)
        self.image, self.bits = image, bits[0]
        self.norm = Normalisation(outputs) if bits[1] else None
        self.grid = Grid(bits[1], np.float32(2 / ((1 << bits[1]) - 1))) if bits[1] else None

    @property
    def parameters(self) -> list[Floats]:
        """What training changes."""
        own = [self.bias] if self.norm is None else [self.norm.gamma, self.norm.beta]
        return [self.weights, *own]

    @property
    def weight_grid(self) -> Grid:
        """What the weights are rounded to."""
        return weight_grid(self.weights, self.bits, shared=self.norm is None)

    def forward(self, x: Floats, *, training: bool = False) -> Floats:
        """The layer's result for a batch."""
        self.shape = x.shape
        self.rows = _windows(x) if self.image else x.reshape(len(x), -1)
        self.kernel = self.weight_grid.round(self.weights).reshape(len(self.weights), -1)
        sums = self.rows @ self.kernel.T
        if self.norm is None or self.grid is None:
            return sums + self.bias
        self.sums = self.norm.forward(sums, training=training)
        active = self.grid.round(self.sums)
        return self._pool(active) if self.image else active

    def backward(self, slope: Floats) -> tuple[Floats, list[Floats]]:
        """Gradients of the operand; of the parameters, in their order."""
        own = [slope.sum(0)]
        if self.norm is not None and self.grid is not None:
            spread = self._unpool(slope) if self.image else slope
            slope, own = self.norm.backward(spread * self.grid.inside(self.sums))
        weights = (slope.T @ self.rows).reshape(self.weights.shape)
        back = slope @ self.kernel
        x = _unwindows(back, self.shape) if self.image else back.reshape(self.shape)
        return x, [weights, *own]

    def _pool(self, rows: Floats) -> Floats:
        n, _, h, w = self.shape
        cells = rows.reshape(n, h // 2, 2, w // 2, 2, -1)
        pooled = cells.max(axis=(2, 4), keepdims=True)
        chosen = cells == pooled
        self.chosen = chosen / chosen.sum(axis=(2, 4), keepdims=True)
        return pooled[:, :, 0, :, 0].transpose(0, 3, 1, 2)

    def _unpool(self, slope: Floats) -> Floats:
        spread = slope.transpose(0, 2, 3, 1)[:, :, None, :, None, :] * self.chosen
        return spread.reshape(-1, slope.shape[1]).astype(np.float32)


def _windows(x: Floats) -> Floats:
    """Neighbourhoods of 3 by 3, as rows [N H W, 9 C]."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    view = sliding_window_view(padded, (3, 3), axis=(2, 3))
    return view.transpose(0, 2, 3, 1, 4, 5).reshape(-1, x.shape[1] * 9)


def _unwindows(rows: Floats, shape: Sequence[int]) -> Floats:
    """The sum of what all neighbourhoods say of an element [N, C, H, W]."""
    n, c, h, w = shape
    back = rows.reshape(n, h, w, c, 3, 3)
    x = np.zeros((n, c, h + 2, w + 2), np.float32)
    for i in range(3):
        for j in range(3):
            x[:, :, i : i + h, j : j + w] += back[..., i, j].transpose(0, 3, 1, 2)
    return x[:, :, 1:-1, 1:-1]


@dataclass(slots=True)
class Network:
    """Layers behind a quantizer of the input."""

    name: str
    shape: tuple[int, ...]
    grid: Grid
    layers: list[Layer]
    moments: list[tuple[Floats, Floats]] = field(default_factory=list[tuple[Floats, Floats]])
    steps: int = 0

    def forward(self, x: Floats, *, training: bool = False) -> Floats:
        """Scores [N, classes]."""
        x = self.grid.round(x)
        for layer in self.layers:
            x = layer.forward(x, training=training)
        return x

    def classify(self, x: Floats) -> Labels:
        """The class of the largest score."""
        return self.forward(x).argmax(axis=1)

    def learn(self, x: Floats, y: Labels, rate: float) -> None:
        """One step of Adam against the gradient of the mean cross entropy."""
        scores = self.forward(x, training=True)
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        slope = odds / odds.sum(axis=1, keepdims=True)
        slope[np.arange(len(y)), y] -= 1
        slope /= len(y)
        found: list[Floats] = []
        for layer in reversed(self.layers):
            slope, own = layer.backward(slope)
            found = own + found
        parameters = [p for layer in self.layers for p in layer.parameters]
        self.moments = self.moments or [(np.zeros_like(p), np.zeros_like(p)) for p in parameters]
        self.steps += 1
        for parameter, own, (mean, square) in zip(parameters, found, self.moments, strict=True):
            mean += 0.1 * (own - mean)
            square += 0.001 * (own * own - square)
            step = mean / (1 - 0.9**self.steps)
            parameter -= rate * step / (np.sqrt(square / (1 - 0.999**self.steps)) + 1e-8)

    def train(
        self,
        rng: np.random.Generator,
        x: Floats,
        y: Labels,
        epochs: int,
        *,
        batch: int = 64,
        rate: float = 5e-3,
    ) -> None:
        """So many rounds over the data, with a falling rate."""
        for epoch in range(epochs):
            for chosen in _batches(rng.permutation(len(x)), batch):
                self.learn(x[chosen], y[chosen], rate * (1 - epoch / epochs))

    def to_qonnx(self) -> onnx.ModelProto:
        """The network with its quantizers as nodes, for one sample."""
        return _Writer().write(self)


def _batches(order: Labels, size: int) -> Iterator[Labels]:
    for start in range(0, len(order) - size + 1, size):
        yield order[start : start + size]


class _Writer:
    """Nodes and parameters of a model under construction."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.parameters: list[onnx.TensorProto] = []

    def write(self, network: Network) -> onnx.ModelProto:
        last = self.quant("x", "x", network.grid)
        for index, layer in enumerate(network.layers):
            last = self.layer(f"layer{index}", last, layer)
        self.nodes[-1].output[0] = "scores"
        classes = len(network.layers[-1].bias)
        graph = helper.make_graph(
            self.nodes,
            network.name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, *network.shape])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, classes])],
            self.parameters,
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=8, producer_name="binpoint"
        )

    def parameter(self, name: str, array: Any) -> str:
        stored = np.ascontiguousarray(array, dtype=np.float32)
        self.parameters.append(numpy_helper.from_array(stored, name))
        return name

    def node(self, op: str, name: str, inputs: Sequence[str], **attributes: Any) -> str:
        node = helper.make_node(op, inputs, [f"{name}_out"], name=name, **attributes)
        self.nodes.append(node)
        return node.output[0]

    def quant(self, name: str, x: str, grid: Grid) -> str:
        scale = self.parameter(f"{name}_scale", grid.scale)
        zero = self.parameter(f"{name}_zero", 0.0)
        bits = self.parameter(f"{name}_bits", float(grid.bits))
        flags = {
            "signed": int(grid.signed), "narrow": int(grid.narrow), "rounding_mode": "ROUND"
        }  # fmt: skip
        return self.node("Quant", f"{name}_quant", [x, scale, zero, bits], domain=DOMAIN, **flags)

    def layer(self, name: str, x: str, layer: Layer) -> str:
        stored = self.parameter(f"{name}_weights", layer.weights)
        weights = self.quant(f"{name}_weights", stored, layer.weight_grid)
        if layer.norm is None or layer.grid is None:
            if len(layer.shape) > 2:
                x = self.node("Flatten", f"{name}_flat", [x])
            bias = self.parameter(f"{name}_bias", layer.bias)
            return self.node("Gemm", name, [x, weights, bias], transB=1)
        if layer.image:
            x = self.node("Conv", name, [x, weights], pads=[1, 1, 1, 1])
        else:
            x = self.node("Gemm", name, [x, weights], transB=1)
        norm = layer.norm
        names = ("gamma", "beta", "mean", "variance")
        own = [self.parameter(f"{name}_{key}", getattr(norm, key)) for key in names]
        x = self.node("BatchNormalization", f"{name}_norm", [x, *own], epsilon=EPSILON)
        x = self.quant(name, self.node("Relu", f"{name}_relu", [x]), layer.grid)
        if not layer.image:
            return x
        return self.node("MaxPool", f"{name}_pool", [x], kernel_shape=[2, 2], strides=[2, 2])


def by_class(
    names: Sequence[str], y: Labels, found: Labels, show: Callable[[str], object] = print
) -> None:
    """Show how many samples of each class are found as what they are."""
    for index, name in enumerate(names):
        of, right = y == index, (y == index) & (found == index)
        show(f"{name:10} {right.sum()} of {of.sum()}, {right.sum() / max(of.sum(), 1):.4f}")
    show(f"{'all':10} {(y == found).sum()} of {len(y)}, {(y == found).mean():.4f}")
