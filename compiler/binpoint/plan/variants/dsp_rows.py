"""Softmax and layer norm of rows with DSP instructions: the portable integers, cheaper.

Layer norm: sums and squares of four bytes take two SXTB16 and four SMLAD, those of two halfwords
SMLAD and SMLALD; an element is MLA, SMMUL, SMMLA and a saturating shift, the formula itself. About
a constant c in place of the mean (RMS norm) squares are those of x - c: Σx² - 2c·Σx + n·c². In
norms of groups multiplier and offset stay in registers for all places of a channel.

Softmax of powers of two: a code is the difference of two numbers of leading zeros, or one less.

Softmax, of terms t up to 2^b with the sum S: y = floor((256·t + ⌊S/2⌋) / S) is 256·t/S to the
nearest integer, a half up, for odd S as well, as 512·t + S is odd then and no multiple of 2·S. With
R = ⌊(2^32 − 1) / ⌈S/256⌉⌉ ≤ 2^40/S the rounded high word q of t·R never exceeds y. It lacks
t·(2^40/S − R) / 2^32: as ⌈S/256⌉ < S/256 + 1 and S ≥ 2^b at most 256·t/S·2^(8−b) + 2^-8, less than
1/16 + 1/256 for b ≥ 20. So y is q or q + 1, and q + 1 where the rest 256·t + ⌊S/2⌋ − q·S is S or
more; the rest is below S·(1 + 1/14), which is to fit 32 bits.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from binpoint.ir.constant import Constant
from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Graph
from binpoint.ir.kernel import Argument, Buffer, KernelCall, Table
from binpoint.numeric.fixed import I8, I16, I32, U8
from binpoint.numeric.float32 import Ints
from binpoint.ops.distances import CODES
from binpoint.ops.exactnorm import IntLayerNorm
from binpoint.ops.logshares import LOG2, IntLogShares
from binpoint.ops.softmax import IntSoftmax
from binpoint.options import CompileOptions
from binpoint.plan.fuse import Step
from binpoint.plan.spans import ROWS, traits_of
from binpoint.plan.variants.rounding import saturation

_BYTES = (I8, U8)
_LEAST_TERM = 2**20
_LARGEST_SUM = 2**32 * 14 // 15
_FEW = 8


def layernorm(step: Step, graph: Graph, options: CompileOptions) -> Step | None:
    """Rows of bytes, whose squares add up in 32 bits, or of halfwords, in 64."""
    op, call = step.nodes[0].op, step.call
    if not normalizes(step, graph, options):
        return None
    assert isinstance(op, IntLayerNorm)
    name, lo, hi = saturation(op.lo, op.hi)
    pairs = np.stack(parameters(step, graph), axis=1)
    traits = (
        ("saturation", name), ("least", str(op.lo)), ("most", str(op.hi)),
        ("narrow", "narrow" if lo or hi else ""), ("shift", str(op.shift)), *forms(op),
    )  # fmt: skip
    note = "SMLAD adds two squares; SMMUL, SMMLA and a saturating shift are the formula itself"
    arguments = with_constants(call, pairs)
    found = replace(call, arguments=arguments, traits=traits, variant="dsp", note=note, shared=True)
    return replace(step, call=found)


def forms(op: IntLayerNorm) -> tuple[tuple[str, str], ...]:
    """From what a row's distances are taken, its mean or a code; and whether channels are runs."""
    about = ("form", "mean" if op.centre is None else "centre")
    return (about,) if op.plain else (about, ("channels", op.channels))


def with_constants(call: KernelCall, constants: Ints) -> tuple[Argument, ...]:
    """A layer norm's arguments with its multipliers and offsets in one table."""
    own = {a.name: a for a in call.arguments}
    table = Table("constants", Constant(constants.astype(np.int32)), I32)
    kept = ("outer", "n", "spare", "epsilon", "up", "centre", "groups", "each")
    return (own["x"], own["y"], table, *(own[name] for name in kept if name in own))


def normalizes(step: Step, graph: Graph, options: CompileOptions) -> bool:
    """Whether a step is a norm of such rows to bytes."""
    op = step.nodes[0].op
    if not isinstance(op, IntLayerNorm) or options.optimize == "size":
        return False
    x, y = graph.arguments(step.nodes[0])[0].elem.storage, graph.value(step.writes[0]).elem.storage
    narrow = dict(step.call.traits)["sums"] == "narrow"
    kinds = y in _BYTES and (x == I16 or (x in _BYTES and narrow))
    return kinds and op.block.inner == 1 and op.block.n >= _FEW


def parameters(step: Step, graph: Graph) -> tuple[Ints, Ints]:
    """Multipliers and offsets of a layer norm."""
    m, k = (constant_array(v).astype(np.int64) for v in graph.arguments(step.nodes[0])[1:])
    return m, k


def softmax(step: Step, graph: Graph, options: CompileOptions) -> Step | None:
    """Rows of bytes, with the terms in the order of elements in place of distances."""
    if options.optimize == "size" or not is_quick(step, graph):
        return None
    note = "the high word of a product with 2^40 / sum, or one more, as the rest proves"
    return replace(step, call=_with_terms(step.call, ROWS, terms_of(step, graph), note))


def is_quick(step: Step, graph: Graph) -> bool:
    """Whether shares can be made from a reciprocal: rows of bytes in steps of 2^-8."""
    op = step.nodes[0].op
    if not isinstance(op, IntSoftmax) or not _of_bytes(step.call, "x", "y"):
        return False
    table = terms_of(step, graph)
    storage, top, n = op.result.storage, int(table[0]), op.block.n
    plain = dict(step.call.traits)["form"] == "table"
    whole = op.result.zero_point == storage.min and top == int(table.max())
    return (
        plain and whole and op.block.inner == 1 and _FEW <= n < 2 * CODES
        and top >= _LEAST_TERM and top * n < _LARGEST_SUM
    )  # fmt: skip


def log_shares(step: Step, graph: Graph, options: CompileOptions) -> Step | None:
    """Codes of powers of two of rows of bytes."""
    op = step.nodes[0].op
    if not isinstance(op, IntLogShares) or options.optimize == "size" or op.base != LOG2:
        return None
    if not _of_bytes(step.call, "x") or op.block.inner != 1 or op.block.n < _FEW:
        return None
    kept = (*ROWS, "mark0")
    note = "halvings by leading zeros, of a term that stays below twice the mark"
    return replace(step, call=_with_terms(step.call, kept, terms_of(step, graph), note))


def terms_of(step: Step, graph: Graph) -> Ints:
    """The terms of a softmax's bytes by distance, without those that a mask has."""
    return constant_array(graph.arguments(step.nodes[0])[1])[:CODES].astype(np.int64)


def _with_terms(call: KernelCall, kept: tuple[str, ...], terms: Ints, note: str) -> KernelCall:
    """A call with some of its arguments, and terms in the order of elements."""
    table = Table("table", Constant(terms[::-1].astype(np.int32)), I32)
    arguments = (*(a for a in call.arguments if a.name in kept), table)
    return replace(
        call, arguments=arguments, traits=traits_of(call), variant="dsp", note=note, shared=True
    )


def _of_bytes(call: KernelCall, *names: str) -> bool:
    """Whether operands and results of a kernel are bytes, by their names."""
    ends = (a for a in call.arguments if isinstance(a, Buffer) and a.name in names)
    return all(a.elem in _BYTES for a in ends)
