"""Depthwise convolution with DSP instructions: each channel as a padded plane of int16.

Once a channel lies in scratch as int16 values with its padding around it, two neighbouring outputs
take one SMLAD for each pair of taps and one half multiplication for a tap left over; the window
needs no test for padding, and outputs may overwrite the input. The longer axis of the result is the
one along which pairs lie. Weights stay bytes in flash and are multiplied by 256 where they are
unpacked, which brings the requantizer's binary point into the high word (`numeric.highword`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from binpoint.ir.constant import Constant
from binpoint.ir.graph import Graph, Value
from binpoint.ir.kernel import Buffer, KernelCall, Number, Table
from binpoint.ir.op import IntArray
from binpoint.numeric.fixed import I8, I32
from binpoint.numeric.highword import HighWord
from binpoint.numeric.interval import Interval
from binpoint.ops.conv import IntDepthwise
from binpoint.ops.linear import Weights, channel_reach
from binpoint.ops.requantize import DyadicRequantize, OnnxruntimeRequantize, Requantize
from binpoint.options import CompileOptions
from binpoint.plan.fuse import Step
from binpoint.plan.memory import aligned
from binpoint.plan.variants.rounding import high_word_of, saturation

_BYTE = 8
_PRESCALE = 8
_GRID = 2
_CHUNK = 28
_WINDOWED = 1 << 31
_PLANE_BYTES = 4096
_OFFSET = 4095
_STEP = 2047


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of the window: sizes of input and result, and the window on it."""

    size: int
    result: int
    kernel: int
    stride: int
    dilation: int
    pad: int
    spacing: int
    """Elements of the input between neighbours."""
    result_spacing: int

    @property
    def reach(self) -> int:
        """Elements from the first window's start to the last window's end, padding included."""
        return (self.result - 1) * self.stride + (self.kernel - 1) * self.dilation + 1

    @property
    def taken(self) -> int:
        """Elements of the input that any window covers."""
        return max(0, min(self.size, self.reach - self.pad))

    @property
    def even(self) -> int:
        """Words of two taps for a window that starts at a word."""
        return (self.kernel + 1) // 2

    @property
    def first(self) -> int:
        """The first word of the second window of a pair."""
        return self.stride // 2

    @property
    def last(self) -> int:
        """Past its last word."""
        return self.first + (self.kernel // 2 + 1 if self.stride % 2 else self.even)


@dataclass(frozen=True, slots=True)
class Shape:
    """Pairs of outputs lie along `along`; `across` counts the rows of the plane.

    `turned`: these are the horizontal and the vertical axis, else the vertical and the horizontal.
    """

    across: Axis
    along: Axis
    turned: bool
    band: int = 1

    @property
    def packed(self) -> bool:
        """Whether the window's words fit registers: three taps a row, three rows at most."""
        return self.along.kernel == 3 and self.across.kernel <= 3 and self.along.stride <= 2

    @property
    def pitch(self) -> int:
        """Elements of a row of the plane: those of all words that a row of pairs reads, even."""
        pairs = self.along.result + self.along.result % 2
        last = (pairs - 2) * self.along.stride + 2 * max(self.along.even, self.along.last)
        return aligned(2 * max(last, self.along.pad + self.along.taken)) // 2

    @property
    def rows(self) -> int:
        """Rows of the plane: what a band of result rows reads."""
        across = self.across
        return (self.band - 1) * across.stride + (across.kernel - 1) * across.dilation + 1

    @property
    def together(self) -> int:
        """Pairs in a turn of the loop."""
        return 2 if self.along.result % 4 == 0 else 1

    @property
    def chunk(self) -> int:
        """Elements widened at once."""
        parts = -(-self.along.taken // _CHUNK)
        return -(-self.along.taken // parts) if parts else 0

    @property
    def plane(self) -> int:
        """Bytes of the plane, and of unpacked weights where they do not fit registers."""
        words = 0 if self.packed else self.across.kernel * (self.along.kernel + 1)
        return 2 * self.rows * self.pitch + 4 * words


def depthwise(step: Step, graph: Graph, options: CompileOptions) -> Step | None:
    """The step with DSP instructions, where it is a requantized depthwise convolution of bytes."""
    op, requantizer = step.nodes[0].op, step.nodes[-1].op
    if not isinstance(op, IntDepthwise) or not isinstance(requantizer, Requantize):
        return None
    x, w, bias = graph.arguments(step.nodes[0])
    y = graph.value(step.writes[0])
    if x.constant is not None or x.elem.storage.width > _BYTE:
        return None
    assert w.constant is not None
    assert bias.constant is not None
    codes = w.constant.array.astype(np.int64)
    if not Interval.of_type(I8).contains(Interval.of(codes)):
        return None
    shape = _shape(op, x, y)
    if shape is None:
        return None
    folded = bias.constant.array - op.zero * codes.reshape(-1, codes.shape[-1]).sum(axis=0)
    rows = np.moveaxis(codes, -1, 0).reshape(codes.shape[-1], -1)
    weights = Weights(rows, bias.constant.array.astype(np.int64), w.elem)
    reach = channel_reach(weights, x, padded=op.window.padded, zero=op.zero)
    grid = _GRID if options.optimize != "size" else 2 * _GRID
    form = high_word_of(requantizer, reach, _PRESCALE, grid)
    if form is None:
        return None
    if max(form.windows) and 4 * max(form.windows) >= 1 << form.shift:
        return None
    sums = (folded - np.array(form.bases)) << _PRESCALE
    operands = (_transposed(codes, op, shape), sums)
    call = _call(step, op, shape, operands, form, requantizer, options)
    in_place = step.reads if _overwrites(shape, x, y) else ()
    return replace(step, call=call, in_place=in_place)


def _axes(op: IntDepthwise, x: Value, y: Value) -> tuple[Axis, Axis]:
    """Vertical and horizontal."""
    window, size = op.window.planar(x.shape[1:-1])
    _, out = op.window.planar(y.shape[1:-1])
    spacing = (size[1] * x.shape[-1], x.shape[-1])
    result_spacing = (out[1] * y.shape[-1], y.shape[-1])
    vertical, horizontal = (
        Axis(
            size[i], out[i], window.kernel[i], window.strides[i], window.dilations[i],
            window.before[i], spacing[i], result_spacing[i],
        )
        for i in (0, 1)
    )  # fmt: skip
    return vertical, horizontal


def _shape(op: IntDepthwise, x: Value, y: Value) -> Shape | None:
    """Pairs along the axis that leaves the fewest over; None if no axis has pairs."""
    vertical, horizontal = _axes(op, x, y)
    choices = Shape(vertical, horizontal, False), Shape(horizontal, vertical, True)
    fitting = [_banded(c) for c in choices if _fits(c)]
    return min(fitting, key=_cost, default=None)


def _cost(shape: Shape) -> int:
    """Pairs computed, and what a row of them costs beside, in pairs."""
    return shape.across.result * ((shape.along.result + 1) // 2 + 1)


def _fits(shape: Shape) -> bool:
    along, across = shape.along, shape.across
    farthest = 2 * shape.pitch * ((across.kernel - 1) * across.dilation + 1) + 4 * along.stride
    return (
        along.result > 1
        and along.dilation == 1
        and farthest <= _OFFSET
        and 2 * shape.pitch * across.stride <= _OFFSET
        and along.result_spacing <= _STEP
        and 4 * across.kernel * (along.kernel + 1) <= _OFFSET
    )


def _banded(shape: Shape) -> Shape:
    """As many rows at once as the plane may have, at least one."""
    whole = replace(shape, band=shape.across.result)
    if whole.plane <= _PLANE_BYTES:
        return whole
    bands = range(2, shape.across.result + 1)
    sizes = (replace(shape, band=-(-shape.across.result // n)) for n in bands)
    return next((s for s in sizes if s.plane <= _PLANE_BYTES), shape)


def _overwrites(shape: Shape, x: Value, y: Value) -> bool:
    """Whether the result may take the operand's memory.

    A channel's row is read before any element of the channel at or before it is written: the plane
    holds all rows up to the last one that a band needs.
    """
    if x.type.size != y.type.size:
        return False
    across, along = shape.across, shape.along
    same = across.size == across.result and along.size == along.result
    read = (shape.band - 1) * across.stride + (across.kernel - 1) * across.dilation - across.pad
    return same and read >= shape.band - 1


def _transposed(codes: IntArray, op: IntDepthwise, shape: Shape) -> IntArray:
    """``[O, across, along]``, and three bytes that a word load past the end may read."""
    window = op.window.planar((1,) * len(op.window.kernel))[0].kernel
    planes = np.moveaxis(codes, -1, 0).reshape(-1, *window)
    rows = np.swapaxes(planes, 1, 2) if shape.turned else planes
    return np.concatenate([rows.reshape(-1), np.zeros(3, np.int64)])


def _call(
    step: Step,
    op: IntDepthwise,
    shape: Shape,
    operands: tuple[IntArray, IntArray],
    form: HighWord,
    requantizer: Requantize,
    options: CompileOptions,
) -> KernelCall:
    weights, bias = operands
    x, y = (a for a in step.call.arguments if isinstance(a, Buffer) and a.name in ("x", "y"))
    window = max(form.windows)
    window = 1 << (window - 1).bit_length() if window else 0
    rows = zip(bias.tolist(), form.multipliers, form.offsets, form.windows, strict=True)
    constants = [(b, m - _WINDOWED, o + window - w) if w else (b, m, o) for b, m, o, w in rows]
    tables = [
        Table("w", Constant(weights.astype(np.int8)), I8),
        Table("constants", Constant(np.array(constants, np.int64).astype(np.int32)), I32),
    ]
    if window:
        tables.append(Table("ties", Constant(_ties(form, requantizer).astype(np.int32)), I32))
    zero = (Number("zero_y", requantizer.result.zero_points[0]),) if window else ()
    return KernelCall(
        "depthwise",
        (x, y, *tables, *_numbers(op, shape, step), *zero),
        _traits(shape, (form.shift, window), requantizer, fast=options.optimize != "size"),
        formula=step.call.formula,
        scratch=shape.plane,
        variant="dsp",
        note=_note(form),
        shared=True,
    )


def _numbers(op: IntDepthwise, shape: Shape, step: Step) -> tuple[Number, ...]:
    given = step.call.numbers
    across, along = shape.across, shape.along
    numbers = {
        "batches": given["batches"], "image": given["in_h"] * given["in_w"] * given["in_c"],
        "channels": given["out_c"], "repeat": given["out_c"] // given["in_c"],
        "across": across.result, "along": along.result, "in_across": across.size,
        "taken": along.taken, "src_across": across.spacing, "src_along": along.spacing,
        "dst_across": across.result_spacing, "pad_across": across.pad, "pad_along": along.pad,
        "rows": shape.rows, "band": shape.band, "zero_x": op.zero,
        "result": across.result * along.result * given["out_c"],
    }  # fmt: skip
    return tuple(Number(name, value) for name, value in numbers.items())


def _traits(
    shape: Shape, finish: tuple[int, int], requantizer: Requantize, *, fast: bool
) -> tuple[tuple[str, str], ...]:
    across, along = shape.across, shape.along
    shift, window = finish
    turn = (along.even if along.stride % 2 else 0) - along.first
    numbers = {
        "rows": across.kernel, "taps": along.kernel, "stride": along.stride,
        "down": across.stride, "dilation": across.dilation, "pitch": shape.pitch,
        "step": along.result_spacing, "shift": shift,
    }  # fmt: skip
    general = {"even": along.even, "first": along.first, "last": along.last, "turn": turn}
    runtime = isinstance(requantizer, OnnxruntimeRequantize)
    saturating, lo, hi = saturation(requantizer.lo, requantizer.hi)
    return (
        ("form", "packed" if shape.packed else "general"),
        *((name, str(value)) for name, value in numbers.items()),
        *(() if shape.packed else ((name, str(value)) for name, value in general.items())),
        ("together", "x2" if fast and shape.together == 2 else ""),
        ("chunk", str(shape.chunk) if fast and shape.chunk else ""),
        ("odd", "odd" if along.result % 2 else ""),
        ("saturation", saturating),
        ("narrow", ("lo" if lo else "") + ("hi" if hi else "")),
        ("lo", lo),
        ("hi", hi),
        ("limit", str(2 * window << (32 - shift)) if window else ""),
        ("ties", ("float" if runtime else "whole") if window else ""),
    )


def _ties(form: HighWord, requantizer: Requantize) -> IntArray:
    """Of each channel with a window, in order: base, and what its own rounding needs.

    The float32 bits of a scale, or multiplier and shift.
    """
    match requantizer:
        case OnnxruntimeRequantize():
            own = [np.array(requantizer.scales, np.float32).view(np.int32)]
        case DyadicRequantize():
            own = [np.array(c) for c in zip(*_mulshifts(requantizer), strict=True)]
        case _:
            raise AssertionError("a requantizer without windows")
    count = len(form.windows)
    rows = np.stack([np.array(form.bases), *(np.broadcast_to(c, (count,)) for c in own)], axis=1)
    return rows[np.array(form.windows) > 0].astype(np.int64)


def _mulshifts(op: DyadicRequantize) -> list[tuple[int, int]]:
    """Multipliers and shifts, the latter at least one."""
    return list(zip(op.form.multipliers, op.form.shifts, strict=True))


def _note(form: HighWord) -> str:
    exact = sum(1 for w in form.windows if w)
    rest = f", {exact} decide near ties by the definition" if exact else ""
    return (
        f"SMLAD on int16 planes; y = (high word of 256 acc m + offset) >> {form.shift}, "
        f"proved at every step of {len(form.windows) - exact} channels{rest}"
    )
