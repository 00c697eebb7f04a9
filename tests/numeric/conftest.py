"""A one-operator model run by onnxruntime, the witness of the float32 definitions."""

# onnxruntime has no type stubs.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

Runner = Callable[..., npt.NDArray[np.int64]]


def run_operator(
    operator: str,
    inputs: Sequence[tuple[npt.ArrayLike, str]],
    attributes: Mapping[str, Any] | None = None,
    *,
    domain: str = "com.microsoft",
    data: Sequence[int] = (0,),
) -> npt.NDArray[np.int64]:
    """Return the output of one node; ``data`` are fed, the other inputs are initializers."""
    arrays = {f"x{i}": np.asarray(value, dtype=kind) for i, (value, kind) in enumerate(inputs)}
    fed = {f"x{i}": arrays[f"x{i}"] for i in data}
    output = arrays["x7" if operator in ("QLinearAdd", "QLinearMul") else f"x{data[0]}"].dtype
    kind = {"QuantizeLinear": arrays[f"x{len(arrays) - 1}"].dtype}.get(operator, output)
    tensor = TensorProto.FLOAT if operator == "DequantizeLinear" else _tensor_type(kind)
    graph = helper.make_graph(
        [helper.make_node(operator, list(arrays), ["y"], domain=domain, **dict(attributes or {}))],
        "one",
        [helper.make_tensor_value_info(n, _tensor_type(a.dtype), a.shape) for n, a in fed.items()],
        [helper.make_tensor_value_info("y", tensor, None)],
        [numpy_helper.from_array(a, n) for n, a in arrays.items() if n not in fed],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, fed)[0])


def _tensor_type(kind: np.dtype[np.generic]) -> int:
    return onnx.helper.np_dtype_to_tensor_dtype(kind)


@pytest.fixture
def run_onnxruntime() -> Runner:
    """Return ``run_operator``."""
    return run_operator


@pytest.fixture
def generator() -> np.random.Generator:
    """Return a generator with a fixed seed."""
    return np.random.default_rng(20240229)
