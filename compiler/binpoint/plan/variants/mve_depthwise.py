"""Depthwise convolution on Helium: eight channels of two positions at a time.

Bytes are widened to halves as they are loaded; products of the even and of the odd channels add up
in 32-bit lanes. The rows under the window lie in a ring, padded with the zero point.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.constant import Constant
from binpoint.ir.graph import Graph
from binpoint.ir.kernel import Argument, KernelCall, Number, Table
from binpoint.numeric.fixed import I8, I32
from binpoint.numeric.float32 import Ints
from binpoint.ops.requantize import Requantize
from binpoint.options import CompileOptions
from binpoint.plan.fuse import Step
from binpoint.plan.variants.mve_lanes import REQUANTIZED, lanes
from binpoint.plan.variants.weighted import Weighted, moved

_CHANNELS = 8


def depthwise(step: Step, graph: Graph, _: CompileOptions) -> Step | None:
    """The step with one output a channel, without dilation, if lanes hold its requantizer."""
    call = step.call
    op = step.nodes[-1].op
    if call.stem != "depthwise" or call.epilogue is None or not isinstance(op, Requantize):
        return None
    operands, numbers = Weighted.of_bytes(step, graph), call.numbers
    if operands is None:
        return None
    plain = numbers["dilation_h"] == numbers["dilation_w"] == 1
    if numbers["out_c"] != numbers["groups"] or not plain:
        return None
    channels = numbers["out_c"]
    codes = operands.codes.reshape(-1, channels)
    zero = numbers["zero_x"] - moved(operands.x.elem)
    folded = operands.bias - zero * codes.sum(axis=0)
    blocks = np.arange(-(-channels // _CHANNELS) * _CHANNELS).reshape(-1, _CHANNELS // 2, 2)
    order = np.moveaxis(blocks, 2, 1).reshape(-1).tolist()
    found = lanes(op, folded, graph.value(step.nodes[0].outputs[0]).interval, order)
    if found is None:
        return None
    width = (numbers["out_w"] - 1) * numbers["stride_w"] + numbers["kernel_w"]
    names = ("batches", "in_h", "in_w", "out_h", "out_w", "kernel_h", "kernel_w")
    names += ("stride_h", "stride_w", "pad_h", "pad_w")
    shape = {n: numbers[n] for n in names} | {"fill": zero, "channels": channels, "width": width}
    arguments: tuple[Argument, ...] = (
        operands.x, Table("w", Constant(_pack(codes)), I8), Table("k", found.packed, I32),
        operands.y,
        *(Number(n, v) for n, v in shape.items()), *found.numbers,
    )  # fmt: skip
    variant = KernelCall(
        call.stem,
        arguments,
        (("lanes", found.form),),
        formula=call.formula,
        scratch=(4 + width * channels) * numbers["kernel_h"] + _CHANNELS,
        variant="mve",
        note=f"16-bit products summed in 32 bits, zero points in the biases; {REQUANTIZED}",
    )
    return replace(step, call=variant)


def _pack(codes: Ints) -> NDArray[np.int8]:
    """``[taps, C]`` to ``[C/8, taps, 8]``, padded with zeros."""
    taps, channels = codes.shape
    count = -(-channels // _CHANNELS)
    padded = np.zeros((taps, count * _CHANNELS), np.int8)
    padded[:, :channels] = codes
    return np.moveaxis(padded.reshape(taps, count, _CHANNELS), 1, 0)
