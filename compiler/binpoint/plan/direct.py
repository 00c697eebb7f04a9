"""Kernels that read or write packed maps themselves: nothing is unpacked beside them.

The DSP kernels of matrix products and convolutions widen what they read into scratch memory anyway, as
fast from digits as from bytes; and they make a row of results at a time, which is packed as it is
complete. So a step between an `IntUnpack` and an `IntPack` becomes one call.
"""

from __future__ import annotations

from dataclasses import replace

from binpoint.ir.graph import Graph
from binpoint.ir.kernel import Argument, Block, Buffer, KernelCall, Number
from binpoint.numeric.fixed import U8
from binpoint.ops.packed import Digits, IntPack, IntUnpack
from binpoint.plan.fuse import Modelled, Step
from binpoint.plan.memory import aligned


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
    if call.variant != "dsp" or traits.get("groups") or not _words(digits):
        return False
    return call.stem == "dense" or (call.stem == "conv" and traits["layout"] != "columns")


def writes_digits(call: KernelCall, digits: Digits) -> bool:
    """Whether the kernel can pack its results a row at a time."""
    traits = dict(call.traits)
    if call.variant != "dsp" or traits.get("groups") or not _words(digits):
        return False
    return call.stem == "conv" or (call.stem == "dense" and traits["shape"] == "wide")


def written(call: KernelCall) -> int:
    """Positions of the result that such a kernel holds in scratch before they are packed."""
    numbers = {a.name: a.value for a in call.arguments if isinstance(a, Number)}
    traits = dict(call.traits)
    if "few" in numbers:
        return numbers["few"]
    return numbers["out_w"] * (2 if traits.get("pairs") == "across" else 1)


def _words(digits: Digits) -> bool:
    return digits.whole and digits.plane % 4 == 0


def _reading(step: Step, unpack: Step, digits: Digits) -> Step:
    source = unpack.reads[0]
    old = unpack.writes[0]
    order = dict(step.call.traits)["order"]
    widen = Block("widen_digits", (("digits", digits.name), ("order", order)))
    moved = tuple(
        replace(a, value=source, elem=U8) if isinstance(a, Buffer) and a.value == old else a
        for a in step.call.arguments
    )
    call = replace(
        step.call,
        arguments=(*moved, Number("x_plane", digits.plane)),
        traits=(*step.call.traits, ("source", digits.name)),
        blocks=(*(b for b in step.call.blocks if b.stem != "widen"), widen),
        note=f"{step.call.note}; reads codes of {digits.bits} bits",
    )
    reads = tuple(source if name == old else name for name in step.reads)
    return replace(step, call=call, reads=reads, in_place=())


def _writing(step: Step, pack: Step, digits: Digits) -> Step:
    (result,) = pack.writes
    at = aligned(step.call.scratch)
    arguments: list[Argument] = [
        replace(a, value=result, elem=U8) if isinstance(a, Buffer) and a.written else a
        for a in step.call.arguments
    ]
    call = replace(
        step.call,
        arguments=(*arguments, Number("codes_at", at), Number("y_plane", digits.plane)),
        traits=(*step.call.traits, ("into", digits.name)),
        blocks=(*step.call.blocks, Block("pack_words", (("digits", digits.name),))),
        scratch=at + written(step.call) * digits.channels,
        note=f"{step.call.note}; writes codes of {digits.bits} bits",
    )
    modelled = step.modelled
    if modelled is not None and pack.modelled is not None:
        modelled = Modelled(modelled.kernel, modelled.cycles + pack.modelled.cycles)
    return replace(step, call=call, writes=pack.writes, in_place=(), modelled=modelled)
