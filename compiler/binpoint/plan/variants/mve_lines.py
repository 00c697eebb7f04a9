"""Depthwise convolution on Helium with all taps of a position in one vector.

The lines of x under the window lie interleaved, channel by channel, so that the taps of a position
are at most 16 bytes side by side, and one multiplication across the vector is the whole sum. The
axis that runs along a line is the one that fills vectors of four positions better.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
from binpoint.plan.variants.mve_lanes import LANES, REQUANTIZED, lanes
from binpoint.plan.variants.weighted import Weighted, moved

_TAPS = 16
_VECTOR = 8
_SCRATCH = 3584
_SLOTS = (1, 2, 4)
_MOST_POSITIONS = 100
_LINE = 40
_FOUR = 25
"""Instructions of a line, and of four positions."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One spatial axis, h or w: sizes, and the distances between neighbours in bytes."""

    name: str
    size: int
    out: int
    kernel: int
    stride: int
    pad: int
    x_step: int
    y_step: int

    @property
    def width(self) -> int:
        """Positions of x that windows reach, padding included."""
        return (self.out - 1) * self.stride + self.kernel


def depthwise_lines(step: Step, graph: Graph, _: CompileOptions) -> Step | None:
    """The step with one output a channel, without dilation, where a window has 16 taps at most."""
    call, op = step.call, step.nodes[-1].op
    if call.stem != "depthwise" or call.epilogue is None or not isinstance(op, Requantize):
        return None
    operands, numbers = Weighted.of_bytes(step, graph), call.numbers
    if operands is None:
        return None
    plain = numbers["dilation_h"] == numbers["dilation_w"] == 1
    chosen = _axes(numbers)
    if numbers["out_c"] != numbers["groups"] or not plain or chosen is None:
        return None
    fast, slow, slots = chosen
    codes = operands.codes.reshape(*_kernel(numbers), -1)
    zero = numbers["zero_x"] - moved(operands.x.elem)
    folded = operands.bias - zero * codes.sum(axis=(0, 1))
    acc = graph.value(step.nodes[0].outputs[0]).interval
    found = lanes(op, folded, acc, range(-(-len(folded) // LANES) * LANES))
    if found is None:
        return None
    along = codes if fast.name == "w" else np.moveaxis(codes, 0, 1)
    packed = _pack(along, slots)
    chunk = _chunk(numbers["in_c"], fast.width * slots)
    pieces = {"chunk": chunk, "pieces": -(-numbers["in_c"] // chunk)}
    shape = _shape(numbers, fast, slow) | {"fill": zero} | pieces
    tables = Table("w", Constant(packed), I8), Table("k", Constant(found.columns(len(folded))), I32)
    arguments: tuple[Argument, ...] = (
        operands.x, *tables, operands.y, *(Number(n, v) for n, v in shape.items()), *found.numbers,
    )  # fmt: skip
    advance = slots * fast.stride
    tie = "tie" if found.form.endswith("tie") else ""
    traits = (
        ("kernel", "_".join(filter(None, (str(slots), str(advance), tie)))),
        ("slots", str(slots)),
        ("step", str(advance)),
        ("lanes", tie),
    )
    variant = KernelCall(
        "depthwise_lines",
        arguments,
        traits,
        formula=call.formula,
        scratch=(fast.width * slots + 1) * chunk + _TAPS,
        variant="mve",
        note=f"all taps of a position in one vector, zero points in the biases; {REQUANTIZED}",
    )
    return replace(step, call=variant)


def _kernel(numbers: dict[str, int]) -> tuple[int, int]:
    return numbers["kernel_h"], numbers["kernel_w"]


def _axis(numbers: dict[str, int], name: str, x_step: int, y_step: int) -> Axis:
    size, out, kernel, stride, pad = (
        numbers[f"{n}_{name}"] for n in ("in", "out", "kernel", "stride", "pad")
    )
    return Axis(name, size, out, kernel, stride, pad, x_step, y_step)


def _axes(numbers: dict[str, int]) -> tuple[Axis, Axis, int] | None:
    """The axis along a line, the other, and how many lines lie interleaved; the cheapest pair."""
    channels = numbers["in_c"]
    down = _axis(numbers, "h", numbers["in_w"] * channels, numbers["out_w"] * channels)
    across = _axis(numbers, "w", channels, channels)
    best: tuple[Axis, Axis, int] | None = None
    least = 0
    for fast, slow in ((across, down), (down, across)):
        slots = next((s for s in _SLOTS if s >= slow.kernel), None)
        cost = slow.out * (_LINE + _FOUR * -(-fast.out // LANES))
        if slots is None or slots * fast.kernel > _TAPS or fast.out < LANES:
            continue
        if best is not None and cost >= least:
            continue
        # Distances of eight channels and of positions are 16-bit numbers and small literals.
        if slots * fast.stride > _MOST_POSITIONS or 8 * slots * fast.width >= 1 << 16:
            continue
        best, least = (fast, slow, slots), cost
    return best


def _chunk(channels: int, line: int) -> int:
    """How many channels are spread at a time: vectors of eight, as far as the scratch allows."""
    vectors = max(1, _SCRATCH // (_VECTOR * (line + 1)))
    return min(channels, _VECTOR * vectors)


def _shape(numbers: dict[str, int], fast: Axis, slow: Axis) -> dict[str, int]:
    return {
        "batches": numbers["batches"], "channels": numbers["in_c"],
        "in_fast": fast.size, "in_slow": slow.size, "out_fast": fast.out, "out_slow": slow.out,
        "kernel_slow": slow.kernel, "stride_slow": slow.stride,
        "pad_fast": fast.pad, "pad_slow": slow.pad, "width": fast.width,
        "x_fast": fast.x_step, "x_slow": slow.x_step,
        "y_fast": fast.y_step, "y_slow": slow.y_step,
    }  # fmt: skip


def _pack(codes: Ints, slots: int) -> NDArray[np.int8]:
    """``[slow, fast, C]`` to ``[C, 16]``, lines interleaved, padded with zeros."""
    slow, fast, channels = codes.shape
    packed = np.zeros((channels, _TAPS // slots, slots), np.int8)
    packed[:, :fast, :slow] = codes.T
    return packed.reshape(channels, _TAPS)
