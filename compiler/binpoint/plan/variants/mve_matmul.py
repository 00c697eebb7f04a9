"""Products of two computed matrices on Helium: sixteen 8-bit products an instruction.

Columns of the right operand are packed at run time as weights are (`mve_matrix`): four columns
meet two rows, eight sums share six loads. Unsigned bytes are moved by 128 on the way. Of
Σ (a − za)·(b − zb) the part with za is a bias of each column, the part with zb a term of each row.

Results are ``(high(sum·2^up·m) + offset) >> shift`` as in `mve_lanes`, the offset being a half and
the zero point. With 17 ≤ shift ≤ 24 it is a multiple of 2^16, so that the low halves of the high
words do not matter: the others of two rows lie side by side in 16 bits, where the zero point is
added and the rest of the shift rounds and saturates ("by"). A smaller shift rounds and saturates to
16 bits before the zero point is added ("at").
"""

from __future__ import annotations

from dataclasses import replace

from binpoint.ir.graph import Graph
from binpoint.ir.kernel import Argument, Number
from binpoint.numeric.fixed import I8, U8
from binpoint.numeric.interval import Interval
from binpoint.ops.dense import IntMatMul
from binpoint.ops.requantize import Requantize
from binpoint.options import CompileOptions
from binpoint.plan.fuse import Step
from binpoint.plan.variants.mve_lanes import LANES, reaches, rows_of
from binpoint.plan.variants.weighted import moved

_VECTOR = 16
_HALF = 16
_MOST_DOWN = 8
_SCRATCH = 4096
_LEAST = 4
_LONGEST = 2**10
"""Vectors of a column: four of them are to lie within the reach of 16-bit distances."""


def matmul(step: Step, graph: Graph, _: CompileOptions) -> Step | None:
    """The step for bytes whose results are bytes of the whole range."""
    op, requantizer = step.nodes[0].op, step.requantizer
    if not isinstance(op, IntMatMul) or requantizer is None:
        return None
    (a, b), y = graph.arguments(step.nodes[0]), graph.value(step.writes[0])
    if any(v.elem.storage not in (I8, U8) for v in (a, b, y)):
        return None
    (acc,) = graph.results(step.nodes[0])
    found = _finish(requantizer, acc.interval)
    depth, columns = a.shape[-1], b.shape[-1]
    steps = -(-depth // _VECTOR)
    if found is None or min(depth, columns, a.shape[-2]) < _LEAST or steps >= _LONGEST:
        return None
    multiplier, up, shift, down, zero = found
    least = LANES * (_VECTOR * steps + 4)
    chunk = LANES * min(-(-columns // LANES), max(_SCRATCH // least, 1))
    direct = a.elem.storage == I8 and depth % _VECTOR == 0
    shifted = [z - moved(v.elem.storage) for z, v in ((op.zero_a, a), (op.zero_b, b))]
    arguments: tuple[Argument, ...] = (
        *(x for x in step.call.arguments if not x.name.startswith("zero")),
        Number("zero_a", shifted[0]), Number("zero_b", shifted[1]), Number("steps", steps),
        Number("chunk", chunk), Number("multiplier", multiplier), Number("up", up),
        Number("zero", zero),
    )  # fmt: skip
    traits = (
        *step.call.traits, ("down", down), ("thin", "thin" if steps == 1 else ""),
        ("direct", "direct" if direct else ""),
    )  # fmt: skip
    scratch = chunk * (_VECTOR * steps + 4) + (0 if direct else 2 * _VECTOR * steps)
    call = replace(
        step.call, arguments=arguments, traits=traits, epilogue=None, variant="mve",
        scratch=scratch, shared=True,
        note=f"y = (high word of 2^{up} acc m + offset) >> {shift}, proved",
    )  # fmt: skip
    return replace(step, call=call)


def _finish(op: Requantize, acc: Interval) -> tuple[int, int, int, str, int] | None:
    """Multiplier, shift up, shift, where it rounds, and the zero point as it is added there."""
    storage, zero = op.result.storage, op.result.zero_points[0]
    if op.channels > 1 or (op.lo, op.hi) != (storage.min, storage.max):
        return None
    (reach,), rows = reaches(op, acc, 1), rows_of(op, 1)
    for row in rows[0] if rows else ():
        for up in range(31 - reach.bit_length(), -1, -1):
            high = row.high(up, reach)
            if high is None or row.multiplier < 0:
                continue
            offset, shift, window = high
            if window or offset != (zero << shift) + (1 << (shift - 1)):
                continue
            if shift <= _HALF:
                return row.multiplier, up, shift, f"at{shift}", zero
            down = shift - _HALF
            if down <= _MOST_DOWN and -(2**15) <= zero << down < 2**15:
                return row.multiplier, up, shift, f"by{down}", zero << down
    return None
