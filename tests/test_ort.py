"""The session that counts gives the same bytes on every processor."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from binpoint import ort

_Code = np.uint8 | np.int8
_DEPTH = 64


def _product(left: type[_Code], right: type[_Code]) -> onnx.ModelProto:
    """QLinearMatMul of [2, 64] and [64, 3], both at the ends of their ranges."""
    weights: NDArray[_Code] = np.full((_DEPTH, 3), np.iinfo(right).max, right)
    scales = {name: np.array(value, np.float32) for name, value in (("s", 1.0), ("t", 2.0**15))}
    zeros: dict[str, NDArray[_Code]] = {"za": np.array(0, left), "zb": np.array(0, right)}
    node = helper.make_node("QLinearMatMul", ["a", "s", "za", "b", "s", "zb", "t", "za"], ["y"])
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(left))
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("a", kind, [2, _DEPTH])],
        [helper.make_tensor_value_info("y", kind, [2, 3])],
        [
            numpy_helper.from_array(array, name)
            for name, array in {**scales, **zeros, "b": weights}.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize(
    ("left", "right"), [(np.uint8, np.int8), (np.uint8, np.uint8), (np.int8, np.int8)]
)
def test_products_do_not_saturate(left: type[_Code], right: type[_Code]) -> None:
    ends = np.iinfo(left).max, np.iinfo(right).max
    a: NDArray[_Code] = np.full((2, _DEPTH), ends[0], left)
    found = ort.reference(_product(left, right)).run({"a": a})["y"]
    exact = round(ends[0] * ends[1] * _DEPTH / 2**15)
    assert (found == exact).all(), exact


def test_a_damaged_model_is_refused_by_name() -> None:
    model = _product(np.uint8, np.int8)
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ort.InvalidModel, match="cannot load"):
        ort.reference(model)
