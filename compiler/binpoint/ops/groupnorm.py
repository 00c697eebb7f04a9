"""Normalization of groups of channels over all their places; of single channels: InstanceNorm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import FloatArray, FloatOp, Role, Site
from binpoint.numeric.fixed import FloatType, TensorType
from binpoint.ops.blocks import Block
from binpoint.ops.layernorm import Rows, normalized_real
from binpoint.ops.methods import Method


@dataclass(frozen=True, slots=True)
class GroupNorm(FloatOp):
    """Groups of channels of ``[N, C, …]`` normalized; gamma and beta ``[C]`` are constants.

    Args:
        groups: into which the channels are divided; C of them are single channels.
        epsilon: added to variances.
        method: as of a layer norm.
    """

    reads_wide: ClassVar[bool] = True
    onnx: ClassVar[tuple[str, ...]] = ("GroupNormalization", "InstanceNormalization")

    groups: int
    epsilon: float
    method: Method = Method.TABLE

    def roles(self, count: int) -> tuple[Role, ...]:
        """Data and two parameters."""
        return (Role.ACTIVATION, Role.PARAMETER, Role.PARAMETER)[:count]

    @classmethod
    def from_onnx(cls, node: OnnxNode, build: GraphBuilder) -> tuple[Value, ...]:
        """Before opset 21 a group has one gamma and one beta."""
        x = node.operand(0)
        if len(x.shape) < 2:
            node.refuse(f"an operand of shape {list(x.shape)}", want="[N, C, …]")
        if math.prod(x.shape) == 0:
            node.refuse("no element to normalize")
        channels = x.shape[1]
        groups = channels if node.op == "InstanceNormalization" else node.int("num_groups", 0)
        if groups < 1 or channels % groups:
            node.refuse(f"{channels} channels in {groups} groups")
        parameters = [_parameter(node, build, i, channels, groups) for i in (1, 2)]
        op = cls(groups, float(np.float32(node.float("epsilon", 1e-5))))
        return (build.one(op, x, *parameters),)

    def row_length(self, x: Value) -> int:
        """Elements that are normalized together."""
        return x.shape[1] // self.groups * math.prod(x.shape[2:])

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The operand's shape."""
        x, gamma, beta = inputs
        assert gamma.shape == beta.shape == x.shape[1:2], f"{gamma.shape} and {beta.shape}"
        return (TensorType(x.shape, FloatType()),)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """In float64."""
        x, gamma, beta = (v.astype(np.float64) for v in inputs)
        rows = x.reshape(x.shape[0] * self.groups, -1)
        y = normalized_real(rows, 1, self.epsilon, centred=True).reshape(x.shape)
        each = (-1, *[1] * (x.ndim - 2))
        return ((y * gamma.reshape(each) + beta.reshape(each)).astype(inputs[0].dtype),)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """One op on rows of whole groups."""
        x = build.integer(site.inputs[0])
        each = math.prod(x.shape[2:])
        block = Block(x.shape[0] * self.groups, self.row_length(x), 1, x.shape)
        rows = Rows(block, self.epsilon, self.method, groups=self.groups, each=each)
        return (rows.lower(site, build, x),)


def _parameter(
    node: OnnxNode, build: GraphBuilder, index: int, channels: int, groups: int
) -> Value:
    """Gamma or beta, a number for each channel."""
    node.array(index)
    array: NDArray[np.float32] = constant_array(node.operand(index)).astype(np.float32).reshape(-1)
    if array.size == groups and node.opset < 21:
        array = np.repeat(array, channels // groups)
    if array.size != channels:
        node.refuse(f"{array.size} parameters", want=f"{channels}, one for each channel")
    if not np.isfinite(array).all():
        node.refuse("a parameter is not finite")
    return build.constant(array, hint=f"{build.hint}_{('gamma', 'beta')[index - 1]}")
