"""Products of two computed matrices with DSP instructions.

Both operands lie in scratch as int16 without their zero points, in words of two steps of the depth:
columns of the right one, as many at a time as scratch holds, and two rows of the left one, or the
powers of two that its codes stand for. Then two
rows by four columns take three double loads and eight SMLAD for sixteen products, in assembly.
Where the requantizer has a proof in the high word (`numeric.highword`), sums are scaled up by 2^7.
"""

from __future__ import annotations

from dataclasses import replace

from binpoint.ir.graph import Graph
from binpoint.ir.kernel import KernelCall, Number
from binpoint.numeric.interval import Interval
from binpoint.ops.dense import IntMatMul
from binpoint.ops.logshares import IntShiftMatMul
from binpoint.options import CompileOptions
from binpoint.plan.fuse import Step
from binpoint.plan.variants.rounding import high_word_of, saturation

_BYTE = 8
_PRESCALE = 7
_SCRATCH = 4096
_MOST_SCRATCH = 8192
_TOGETHER = 4


def matmul(step: Step, graph: Graph, options: CompileOptions) -> Step | None:
    """The step with DSP instructions, where both operands are bytes."""
    op = step.nodes[0].op
    if not isinstance(op, IntMatMul | IntShiftMatMul) or options.optimize == "size":
        return None
    a, b = graph.arguments(step.nodes[0])
    depth, columns = a.shape[-1], b.shape[-1]
    half = -(-depth // _TOGETHER) * 2
    chunk = max(_SCRATCH // (4 * half) - 2, _TOGETHER) // _TOGETHER * _TOGETHER
    chunk = min(chunk, -(-columns // _TOGETHER) * _TOGETHER)
    narrow = all(v.elem.storage.width <= _BYTE for v in (a, b))
    scratch = 4 * half * (chunk + 2)
    if not narrow or min(depth, columns) < _TOGETHER or a.shape[-2] < 2 or scratch > _MOST_SCRATCH:
        return None
    powers = isinstance(op, IntShiftMatMul)
    numbers = (Number("chunk", chunk), Number("half", half))
    if powers:
        numbers = (Number("zero_a", 0), *numbers)
    traits = (("left", "powers" if powers else ""), ("form", "any"), ("finish", ""))
    call = replace(
        step.call, stem="matmul", arguments=(*step.call.arguments, *numbers), variant="dsp",
        traits=(*step.call.traits, *traits),
        scratch=scratch, note="SMLAD on words of two int16", shared=True,
    )  # fmt: skip
    (acc,) = graph.results(step.nodes[0])
    found = _proved(call, step, acc.interval)
    return replace(step, call=found or call)


def _proved(call: KernelCall, step: Step, reach: Interval) -> KernelCall | None:
    """With one SMMLA and a saturating shift as epilogue, if that is proved."""
    requantizer = step.requantizer
    if requantizer is None or requantizer.channels > 1:
        return None
    form = high_word_of(requantizer, ((reach.lo, reach.hi),), _PRESCALE)
    if form is None or form.windows[0] or form.bases[0]:
        return None
    name, lo, hi = saturation(requantizer.lo, requantizer.hi)
    numbers = (
        Number("multiplier", form.multipliers[0]),
        Number("offset", form.offsets[0]),
    )
    traits = (
        *call.traits[:2],
        ("form", "high"),
        ("saturation", name),
        ("least", str(requantizer.lo)),
        ("most", str(requantizer.hi)),
        ("narrow", "narrow" if lo or hi else ""),
        ("shift", str(form.shift)),
        ("finish", "" if lo or hi else "finish"),
    )
    note = (
        f"{call.note}; y = (high word of 2^{_PRESCALE} acc m + offset) >> shift, "
        "proved at every step of the result"
    )
    arguments = (*call.arguments, *numbers)
    return replace(call, arguments=arguments, traits=traits, epilogue=None, note=note)
