"""Steps of the integer graph as hardware units, by the kernel that computes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from binpoint.plan import blocks, elements, moves, recurrent, resizing, slides, sums
from binpoint.plan.place import Draft, Place

_UNITS: Mapping[str, Callable[[Place], list[Draft]]] = MappingProxyType(
    {
        "dense": sums.dense,
        "matmul": sums.matmul,
        "shift_matmul": sums.matmul,
        "conv": sums.conv,
        "depthwise": sums.conv,
        "conv_transpose": sums.conv_transpose,
        "requantize": elements.requantize,
        "clamp": elements.clamp,
        "lookup": elements.function,
        "channel_lookup": elements.function,
        "prelu": elements.function,
        "add": elements.pair,
        "mul": elements.pair,
        "chain": elements.pair,
        "minmax": elements.pair,
        "maxpool": slides.maxpool,
        "average": slides.average,
        "sum": blocks.block,
        "extreme": blocks.block,
        "arg": blocks.block,
        "softmax": blocks.softmax,
        "shares": blocks.shares,
        "logshares": blocks.log_shares,
        "shiftgelu": blocks.shiftgelu,
        "gated": elements.function,
        "layernorm": blocks.layernorm,
        "resize_linear": resizing.resize_linear,
        "interpolate": resizing.interpolate,
        "concat": moves.concat,
        "copy": moves.copy,
        "gather": moves.gather,
        "pad": moves.pad,
        "recurrent": recurrent.recurrent,
    }
)


def drafts(place: Place) -> list[Draft]:
    """The units of one step.

    Raises:
        NoIntegerForm: the step has no form as a dataflow unit.
        BadOption: its folding does not divide.
    """
    stem = place.step.call.stem
    make = _UNITS.get(stem)
    if make is None:
        hint = "compile for a microcontroller, or cut the model there"
        raise place.refuse(f"`{stem}` has no form", hint)
    return make(place)
