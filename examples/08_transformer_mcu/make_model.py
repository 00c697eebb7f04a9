"""Fit the small transformer of this example, and write transformer.onnx.

Data: the handwritten digits that come with scikit-learn, as in examples/02_digits_mcu, whose
samples this example shares. A digit is eight tokens, its rows. The encoder keeps random weights;
the linear layer behind it is fitted to its outputs by least squares with a penalty, so that NumPy
and onnxruntime are all it takes:

    python examples/08_transformer_mcu/make_model.py [FOLDER]
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession
from sklearn.datasets import load_digits

Floats = NDArray[np.float32]
TEST = 597
TOKENS, SIZE, WIDTH, HEADS, HIDDEN, CLASSES = 8, 8, 32, 4, 64, 10
PENALTY = 3.0


def encoder(rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Random weights, each sum of variance about one."""

    def normal(*shape: int) -> Floats:
        return (rng.normal(size=shape) / math.sqrt(shape[0])).astype(np.float32)

    return {
        "embed": normal(SIZE, WIDTH) * np.float32(2),
        "place": rng.normal(0, 0.5, (1, TOKENS, WIDTH)).astype(np.float32),
        "qkv": normal(WIDTH, 3 * WIDTH),
        "out": normal(WIDTH, WIDTH),
        "up": normal(WIDTH, HIDDEN),
        "down": normal(HIDDEN, WIDTH),
        "one": np.ones(WIDTH, np.float32),
        "rows": np.array([1, TOKENS, SIZE], np.int64),
        "heads": np.array([1, TOKENS, HEADS, WIDTH // HEADS], np.int64),
        "joined": np.array([1, TOKENS, WIDTH], np.int64),
        "flat": np.array([1, TOKENS * WIDTH], np.int64),
        "scale": np.array(math.sqrt(HEADS / WIDTH), np.float32),
    }


def nodes() -> list[onnx.NodeProto]:
    """The network up to its flattened outputs: one block, norms before its two halves."""

    def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(op, inputs.split(), outputs.split(), **attributes)

    heads = [
        step
        for name, order in (("q", (0, 2, 1, 3)), ("k", (0, 2, 3, 1)), ("v", (0, 2, 1, 3)))
        for step in (
            node("Reshape", f"{name} heads", f"{name}_apart"),
            node("Transpose", f"{name}_apart", f"{name}_heads", perm=order),
        )
    ]
    return [
        node("Reshape", "image rows", "tokens"),
        node("MatMul", "tokens embed", "embedded"),
        node("Add", "embedded place", "x0"),
        node("LayerNormalization", "x0 one", "n0"),
        node("MatMul", "n0 qkv", "packed"),
        node("Split", "packed", "q k v", axis=-1, num_outputs=3),
        *heads,
        node("MatMul", "q_heads k_heads", "scores"),
        node("Mul", "scores scale", "scaled"),
        node("Softmax", "scaled", "shares", axis=-1),
        node("MatMul", "shares v_heads", "mixed"),
        node("Transpose", "mixed", "mixed_rows", perm=(0, 2, 1, 3)),
        node("Reshape", "mixed_rows joined", "attended"),
        node("MatMul", "attended out", "projected"),
        node("Add", "x0 projected", "x1"),
        node("LayerNormalization", "x1 one", "n1"),
        node("MatMul", "n1 up", "wide"),
        node("Gelu", "wide", "active"),
        node("MatMul", "active down", "narrow"),
        node("Add", "x1 narrow", "x2"),
        node("LayerNormalization", "x2 one", "n2"),
        node("Reshape", "n2 flat", "features"),
    ]


def model(
    steps: list[onnx.NodeProto], arrays: dict[str, NDArray[Any]], result: str, count: int
) -> onnx.ModelProto:
    """A model of one image."""
    graph = helper.make_graph(
        steps,
        "transformer",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, SIZE, TOKENS])],
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, [1, count])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    cast("Any", onnx.checker).check_model(made)
    return made


def main(folder: Path) -> None:
    """Fit and write."""
    data = cast("Any", load_digits())
    order = np.random.default_rng(1).permutation(len(data.target))  # As the example of the samples.
    images = (data.images[order].astype(np.float32) / 16).reshape(-1, 1, SIZE, TOKENS)
    labels = data.target[order]
    arrays = encoder(np.random.default_rng(1))
    part = model(nodes(), arrays, "features", TOKENS * WIDTH)
    features = cast("Any", InferenceSession(part.SerializeToString()))
    found = [features.run(None, {"image": image[None]})[0][0] for image in images]
    x = np.stack(found).astype(np.float64)
    seen, wanted = x[:-TEST], np.eye(CLASSES)[labels[:-TEST]]
    offset = seen.mean(axis=0)
    spread = seen - offset
    gram = spread.T @ spread + PENALTY * np.eye(x.shape[1])
    weights: NDArray[np.float64] = cast("Any", np.linalg).solve(
        gram, spread.T @ (wanted - wanted.mean(axis=0))
    )
    bias = wanted.mean(axis=0) - offset @ weights
    right = (x[-TEST:] @ weights + bias).argmax(axis=1) == labels[-TEST:]
    print(f"{right.mean():.1%} of {TEST} digits that it has never seen")
    steps = [*nodes(), helper.make_node("Gemm", ["features", "head", "bias"], ["logits"])]
    head = {"head": weights.astype(np.float32), "bias": bias.astype(np.float32)}
    made = model(steps, arrays | head, "logits", CLASSES)
    (folder / "transformer.onnx").write_bytes(made.SerializeToString())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent)
