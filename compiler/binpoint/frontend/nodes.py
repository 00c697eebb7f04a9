"""Single nodes against the definition of their operator."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import defs, helper, numpy_helper, shape_inference

from binpoint.errors import InvalidModel
from binpoint.frontend.read import check_size, first_line
from binpoint.ir.graph import Value
from binpoint.ir.onnx_node import OnnxNode

_FEW = 64
"""Elements of a constant at most that may be a shape."""


def check_node(node: onnx.NodeProto, opsets: Mapping[str, int], place: str) -> None:
    """Refuse operands and attributes that a standard operator does not have.

    Raises:
        InvalidModel: names what is wrong.
    """
    if not _is_standard(node, opsets.get("", 1)):
        return
    context = onnx.checker.C.CheckerContext()
    context.ir_version = onnx.IR_VERSION
    context.opset_imports = dict(opsets)
    try:
        onnx.checker.check_node(node, context)
    except onnx.checker.ValidationError as error:
        raise InvalidModel(
            f"`{node.op_type}` is not used as it is defined",
            at=place,
            have=first_line(error),
        ) from error


def check_sizes(node: OnnxNode) -> None:
    """Refuse operands that do not fit and results that are too large, before anything is computed.

    Shape inference tells; where it cannot, the operator and the results are looked at later.

    Raises:
        InvalidModel: the shapes do not fit, or a result is too large.
    """
    if not _is_standard(node.proto, node.opset):
        return
    operands = {n: v for n, v in zip(node.proto.input, node.inputs, strict=True) if v is not None}
    stored = {n: v.constant.array for n, v in operands.items() if v.constant is not None}
    try:
        kinds = shape_inference.infer_node_outputs(
            defs.get_schema(node.proto.op_type, node.opset, ""),
            node.proto,
            {name: _type_of(value) for name, value in operands.items()},
            {n: numpy_helper.from_array(a, n) for n, a in stored.items() if a.size <= _FEW},
            opset_imports=[helper.make_opsetid("", node.opset)],
        )
    except (onnx.checker.ValidationError, shape_inference.InferenceError, RuntimeError) as error:
        if "ShapeInferenceError" in str(error):
            raise InvalidModel(
                f"the operands of `{node.op}` do not fit", at=node.place, have=first_line(error)
            ) from error
        return
    for name, kind in kinds.items():
        check_size([d.dim_value for d in kind.tensor_type.shape.dim], name)


def _is_standard(node: onnx.NodeProto, opset: int) -> bool:
    return node.domain in ("", "ai.onnx") and bool(defs.has(node.op_type, opset, ""))


def _type_of(value: Value) -> onnx.TypeProto:
    """A tensor type of its shape; of real numbers, half and double precision too, it says float."""
    code = onnx.TensorProto.FLOAT
    if value.constant is not None and value.constant.array.dtype.kind != "f":
        code = helper.np_dtype_to_tensor_dtype(value.constant.array.dtype)
    return helper.make_tensor_type_proto(code, value.shape)
