"""Element by element on Helium: sums of two maps, sums over positions; four 32-bit lanes."""

from __future__ import annotations

from dataclasses import replace

from binpoint.ir.graph import Graph
from binpoint.ir.kernel import Buffer, Number
from binpoint.numeric.fixed import I8, U8
from binpoint.options import CompileOptions
from binpoint.plan.fuse import Step

_BYTES = (I8, U8)
_LANES = 4


def add(step: Step, _: Graph, __: CompileOptions) -> Step | None:
    """A sum of two maps of one shape, all of whose steps fit 32 bits."""
    call = step.call
    traits = dict(call.traits)
    kinds = {a.elem for a in call.arguments if isinstance(a, Buffer)}
    flat = traits.get("rank") == "1d" and traits.get("inner") == "ab"
    narrow = call.stem == "add" and traits.get("form") == "narrow"
    if not (flat and narrow and len(kinds) == 1 and kinds <= set(_BYTES)):
        return None
    note = "four elements at a time, no step of a sum leaves 32 bits"
    return replace(step, call=replace(call, variant="mve", note=note))


def column_sum(step: Step, _: Graph, __: CompileOptions) -> Step | None:
    """A sum over positions, channels side by side."""
    call = step.call
    if call.stem != "sum":
        return None
    kinds = {a.elem for a in call.arguments if isinstance(a, Buffer) and not a.written}
    if not kinds <= set(_BYTES):
        return None
    if call.epilogue is not None and call.epilogue.per_channel:
        return None
    inner = next(a.value for a in call.arguments if isinstance(a, Number) and a.name == "inner")
    if inner < _LANES:
        return None
    note = "sixteen columns at a time, summed in 32 bits"
    return replace(step, call=replace(call, variant="mve", note=note, scratch=4 * inner))
