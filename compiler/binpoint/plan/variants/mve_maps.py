"""Maps on Helium: sums of two, sums over positions, extremes, tables, and moved bytes."""

from __future__ import annotations

from dataclasses import replace

from binpoint.ir.graph import Graph
from binpoint.ir.kernel import Buffer
from binpoint.numeric.fixed import I8, I16, U8
from binpoint.options import CompileOptions
from binpoint.plan.fuse import Step

_BYTES = (I8, U8)
_LANES = 4
_SHORT = 8
_FARTHEST = 255 // 15


def add(step: Step, _: Graph, __: CompileOptions) -> Step | None:
    """A sum of two maps of one shape, all of whose steps fit 32 bits."""
    call = step.call
    traits = dict(call.traits)
    kinds = {a.elem for a in call.arguments if isinstance(a, Buffer)}
    stored = kinds <= {I8, I16} or kinds == {U8}
    flat = traits.get("rank") == "1d" and traits.get("inner") == "ab"
    narrow = call.stem == "add" and traits.get("form") == "narrow"
    if not (flat and narrow and stored):
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
    inner = call.numbers["inner"]
    if inner < _LANES:
        return None
    note = "sixteen columns at a time, summed in 32 bits"
    return replace(step, call=replace(call, variant="mve", note=note, scratch=4 * inner))


def maximum(step: Step, _: Graph, __: CompileOptions) -> Step | None:
    """A max pool over bytes."""
    if step.call.stem != "maxpool" or not _all_bytes(step):
        return None
    note = "sixteen channels at a time"
    return replace(step, call=replace(step.call, variant="mve", note=note))


def lookup(step: Step, _: Graph, __: CompileOptions) -> Step | None:
    """A table of 256 bytes."""
    if step.call.stem != "lookup" or not _all_bytes(step):
        return None
    note = "sixteen codes at a time are distances from the table's first entry"
    return replace(step, call=replace(step.call, variant="mve", note=note))


def copy(step: Step, _: Graph, __: CompileOptions) -> Step | None:
    """Bytes that lie or come to lie in runs, or at most seventeen apart."""
    call = step.call
    if call.stem != "copy" or not _all_bytes(step):
        return None
    numbers = call.numbers
    last = int(dict(call.traits)["rank"][0]) - 1
    size, stride = numbers[f"n{last}"], numbers[f"s{last}"]
    if stride == 1 and size >= _SHORT:
        form = "runs"
    elif 1 < stride <= _FARTHEST and size >= _SHORT:
        form = "gather"
    elif last and numbers[f"s{last - 1}"] == 1 and size <= _FARTHEST:
        form = "spread"
    else:
        return None
    note = "sixteen bytes at a time"
    traits = (*call.traits, ("form", form))
    return replace(step, call=replace(call, variant="mve", traits=traits, note=note))


def _all_bytes(step: Step) -> bool:
    return all(a.elem in _BYTES for a in step.call.arguments if isinstance(a, Buffer))
