"""Values outside of a range, counted as bytes: four at a time with DSP instructions, or sixteen.

A byte less the least one inside, modulo 256, is above the span of the range where it is outside,
whether bytes are signed or not: one comparison for both ends.
"""

from __future__ import annotations

from dataclasses import replace

from binpoint.ir.graph import Graph
from binpoint.ir.kernel import Number
from binpoint.ops.outliers import IntOutliers
from binpoint.options import CompileOptions
from binpoint.plan.fuse import Step

_FEW = 8
_FOUR = 0x01010101


def mve(step: Step, graph: Graph, _: CompileOptions) -> Step | None:
    """Sixteen bytes at a time."""
    note = "sixteen bytes at a time: those outside are predicated, and ones of them added"
    return _counted(step, graph, "mve", (1, "int32_t"), note)


def dsp(step: Step, graph: Graph, _: CompileOptions) -> Step | None:
    """Four bytes at a time."""
    note = "four bytes at a time: USUB8 finds those outside, SEL and USADA8 count them"
    return _counted(step, graph, "dsp", (_FOUR, "uint32_t"), note)


def _counted(
    step: Step, graph: Graph, variant: str, lanes: tuple[int, str], note: str
) -> Step | None:
    """The step by a variant that takes a byte of both numbers for each of its lanes."""
    op, call = step.nodes[0].op, step.call
    if not isinstance(op, IntOutliers) or op.run < _FEW:
        return None
    if graph.value(step.reads[0]).elem.storage.dtype.itemsize != 1:
        return None
    each, kind = lanes
    numbers = {"lo": ("low", op.lo & 0xFF), "hi": ("span", op.hi - op.lo)}
    arguments = tuple(
        Number(numbers[a.name][0], numbers[a.name][1] * each, kind) if a.name in numbers else a
        for a in call.arguments
        if a.name != f"s{len(op.sizes) - 1}"
    )
    made = replace(call, variant=variant, arguments=arguments, note=note)
    return replace(step, call=made)
