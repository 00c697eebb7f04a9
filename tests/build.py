"""Small ONNX models as functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from binpoint.errors import BinpointError, Exit
from binpoint.frontend.load import load

Arrays = Mapping[str, NDArray[Any]]
Shape = Sequence[int | str | None]

FLOAT, INT8, UINT8 = TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8


def node(op: str, inputs: str, outputs: str, name: str = "", **attributes: Any) -> onnx.NodeProto:
    """A node; operands and results are words."""
    return helper.make_node(op, inputs.split(), outputs.split(), name or None, **attributes)


def info(name: str, shape: Shape | None, kind: int = FLOAT) -> onnx.ValueInfoProto:
    """An input or output."""
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    arrays: Arrays | None = None,
    *,
    opset: int = 17,
) -> onnx.ModelProto:
    """A model, not checked."""
    constants = [numpy_helper.from_array(np.asarray(a), n) for n, a in (arrays or {}).items()]
    graph = helper.make_graph(list(nodes), "net", list(inputs), list(outputs), constants)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def tiny() -> onnx.ModelProto:
    """Convolution, Relu, pooling, matrix product: a valid model of a few operators."""
    rng = np.random.default_rng(3)
    nodes = [
        node("Conv", "x w b", "h", "conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Relu", "h", "r", "relu"),
        node("MaxPool", "r", "p", "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Reshape", "p shape", "f", "flatten"),
        node("Gemm", "f v c", "y", "dense", transB=1),
    ]
    arrays = {
        "w": rng.normal(size=(3, 2, 3, 3)).astype(np.float32),
        "b": rng.normal(size=3).astype(np.float32),
        "shape": np.array([1, -1], np.int64),
        "v": rng.normal(size=(4, 12)).astype(np.float32),
        "c": rng.normal(size=4).astype(np.float32),
    }
    return model(nodes, [info("x", ["N", 2, 4, 4])], [info("y", ["N", 4])], arrays)


def save(made: onnx.ModelProto, path: Path) -> Path:
    """Write a model as it is."""
    path.write_bytes(made.SerializeToString())
    return path


def refused(made: onnx.ModelProto | bytes, folder: Path) -> BinpointError:
    """The one error that a file gives."""
    path = folder / "model.onnx"
    path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    with pytest.raises(BinpointError) as caught:
        load(path)
    assert caught.value.exit is Exit.MODEL
    return caught.value
