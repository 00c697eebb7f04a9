"""Kernels that read or write packed maps themselves: nothing is unpacked beside them.

The DSP kernels of matrix products and convolutions widen what they read into scratch memory anyway,
as fast from digits as from bytes; and they make a row of results at a time, which is packed as it
is complete. Depthwise ones do so channel by channel. So a step between an `IntUnpack` and an
`IntPack` becomes one call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from binpoint.ir.graph import Graph
from binpoint.ir.kernel import Argument, Block, Buffer, KernelCall, Number
from binpoint.numeric.fixed import U8
from binpoint.ops.packed import Digits, IntPack, IntUnpack
from binpoint.plan.fuse import Modelled, Step
from binpoint.plan.memory import aligned
from binpoint.plan.variants.dsp_elements import by_words, packing_block


def joined(steps: tuple[Step, ...], graph: Graph) -> tuple[Step, ...]:
    """The steps, those that unpack or pack for one kernel alone as part of it where it can."""
    made = {step.name: step for step in steps}
    for step in steps:
        op = step.nodes[0].op
        if isinstance(op, IntUnpack):
            reader = _other(made, graph, step.writes[0], "reads")
            if reader is not None and reads_digits(reader.call, op.digits):
                made[reader.name] = _reading(reader, step, op.digits)
                del made[step.name]
        elif isinstance(op, IntPack):
            writer = _other(made, graph, step.reads[0], "writes")
            if writer is not None and writes_digits(writer.call, op.digits):
                made[writer.name] = _writing(writer, step, op.digits)
                del made[step.name]
    return tuple(made[step.name] for step in steps if step.name in made)


def _other(made: dict[str, Step], graph: Graph, value: str, side: str) -> Step | None:
    """The step that reads, or writes, a value that no other step or caller needs."""
    ends = value in graph.outputs or value in graph.inputs or len(graph.consumers(value)) != 1
    found = [s for s in made.values() if value in (s.reads if side == "reads" else s.writes)]
    return found[0] if len(found) == 1 and not ends and not found[0].alias else None


def reads_digits(call: KernelCall, digits: Digits) -> bool:
    """Whether the kernel can widen its operand from digits."""
    traits = dict(call.traits)
    if call.variant != "dsp" or traits.get("groups"):
        return False
    match call.stem:
        case "depthwise":
            return True
        case "dense":
            return digits.words
        case "conv":
            return digits.words and traits["layout"] != "columns"
        case "sum":
            return digits.words and call.numbers["inner"] == digits.channels
        case _:
            return False


def writes_digits(call: KernelCall, digits: Digits) -> bool:
    """Whether the kernel can pack its results a row at a time."""
    traits = dict(call.traits)
    if call.variant != "dsp" or traits.get("groups"):
        return False
    match call.stem:
        case "depthwise":
            return True
        case "dense":
            return by_words(digits) and traits["shape"] == "wide"
        case "conv":
            return by_words(digits)
        case _:
            return False


def held(call: KernelCall, digits: Digits) -> int:
    """Bytes of results that such a kernel holds in scratch before they are packed."""
    numbers = call.numbers
    traits = dict(call.traits)
    if call.stem == "depthwise":
        return numbers["across"] * numbers["along"]
    if "few" in numbers:
        return numbers["few"] * digits.channels
    return numbers["out_w"] * (2 if traits.get("pairs") == "across" else 1) * digits.channels


def _reading(step: Step, unpack: Step, digits: Digits) -> Step:
    source = unpack.reads[0]
    old = unpack.writes[0]
    moved = tuple(
        replace(a, value=source, elem=U8) if isinstance(a, Buffer) and a.value == old else a
        for a in step.call.arguments
    )
    call = replace(
        step.call,
        arguments=moved,
        traits=(*step.call.traits, ("source", digits.name)),
        note=f"{step.call.note}; reads codes of {digits.bits} bits",
    )
    call = _SOURCES[call.stem](call, digits)
    reads = tuple(source if name == old else name for name in step.reads)
    return replace(step, call=call, reads=reads, in_place=())


def _widening(call: KernelCall, digits: Digits) -> KernelCall:
    """A matrix kernel: its own function widens digits."""
    order = dict(call.traits)["order"]
    widen = Block("widen_digits", (("digits", digits.name), ("order", order)))
    return replace(
        call,
        arguments=(*call.arguments, Number("x_plane", digits.plane)),
        blocks=(*(b for b in call.blocks if b.stem != "widen"), widen),
    )


def _planes(call: KernelCall, digits: Digits) -> KernelCall:
    """A depthwise kernel: pixels are as many bytes apart as they have."""
    spans = ("image", "src_across", "src_along")
    arguments = tuple(
        replace(a, value=a.value // digits.channels * digits.pixel)
        if isinstance(a, Number) and a.name in spans
        else a
        for a in call.arguments
    )
    return replace(call, arguments=(*arguments, *_fields("x", digits)))


def _fields(operand: str, digits: Digits) -> tuple[Number, ...]:
    """The bytes of a pixel's fields."""
    names = (f"{operand}_plane", f"{operand}_above")
    return tuple(Number(n, f.plane) for n, f in zip(names, digits.fields, strict=False))


def _by_channel(call: KernelCall, digits: Digits) -> KernelCall:
    """A depthwise kernel whose results of a channel are neighbours."""
    positions = call.numbers["across"] * call.numbers["along"]
    arguments: list[Argument] = []
    for a in call.arguments:
        if isinstance(a, Number) and a.name == "dst_across":
            arguments.append(replace(a, value=a.value // digits.channels))
        elif not isinstance(a, Number) or a.name != "result":
            arguments.append(a)
    traits = tuple(
        (name, str(int(value) // digits.channels) if name == "step" else value)
        for name, value in call.traits
    )
    numbers = (*arguments, Number("positions", positions))
    return replace(call, arguments=numbers, traits=traits)


def _totals(call: KernelCall, digits: Digits) -> KernelCall:
    """Sums of digits: of codes that are moved up to no less than zero."""
    moved = call.numbers["n"] * digits.offset
    arguments = tuple(
        replace(a, value=a.value - moved) if isinstance(a, Number) and a.name == "start" else a
        for a in call.arguments
    )
    return replace(call, stem="sum_digits", arguments=(*arguments, Number("plane", digits.plane)))


_SOURCES: Mapping[str, Callable[[KernelCall, Digits], KernelCall]] = MappingProxyType(
    {"dense": _widening, "conv": _widening, "depthwise": _planes, "sum": _totals}
)
"""By stem: how a kernel reads digits."""


def _writing(step: Step, pack: Step, digits: Digits) -> Step:
    (result,) = pack.writes
    at = aligned(step.call.scratch)
    arguments: list[Argument] = [
        replace(a, value=result, elem=U8) if isinstance(a, Buffer) and a.written else a
        for a in step.call.arguments
    ]
    call = replace(
        step.call,
        arguments=(*arguments, Number("codes_at", at), *_fields("y", digits)),
        traits=(*step.call.traits, ("into", digits.name)),
        scratch=at + held(step.call, digits),
        note=f"{step.call.note}; writes codes of {digits.bits} bits",
    )
    if call.stem == "depthwise":
        call = _by_channel(call, digits)
    else:
        call = replace(call, blocks=(*call.blocks, packing_block(digits)))
    modelled = step.modelled
    if modelled is not None and pack.modelled is not None:
        modelled = Modelled(modelled.kernel, modelled.cycles + pack.modelled.cycles)
    return replace(step, call=call, writes=pack.writes, in_place=(), modelled=modelled)
