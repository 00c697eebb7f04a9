"""Softmax and layer norm of rows with DSP instructions: the portable integers, cheaper.

Layer norm: sums and squares of four bytes take two SXTB16 and four SMLAD, those of two halfwords
SMLAD and SMLALD; an element is MLA, SMMUL, SMMLA and a saturating shift, the formula itself. About
a constant c in place of the mean (RMS norm) squares are those of x - c: Σx² - 2c·Σx + n·c². In
norms of groups multiplier and offset stay in registers for all places of a channel.

Softmax of powers of two: of v with z leading zeros and the 23 bits f behind its one it takes
K(v) = z·2^23 + 2^23 − 1 − f. A term t has no more bits, so t·2^m ≤ M exactly where
m ≤ ⌊(K(t) − K(M)) / 2^23⌋, whatever follows in M. K(t) is a table, K(M) is made once a row.

Softmax, of terms t up to 2^b with the sum S: y = floor((256·t + ⌊S/2⌋) / S) is 256·t/S to the
nearest integer, a half up, for odd S as well, as 512·t + S is odd then and no multiple of 2·S. So
terms, of a table of exponentials or what shifts and polynomials give, may be raised by a power of
two. With R = ⌊(2^32 − 1) / ⌈S/256⌉⌉ ≤ 2^40/S the rounded high word q of t·R never exceeds y. It
lacks t·(2^40/S − R) / 2^32: as ⌈S/256⌉ < S/256 + 1 and S ≥ t at most 256·t/S·2^8/S + 2^-8, less
than 1/16 + 1/256 for S ≥ 2^20. So y is q or q + 1, and q + 1 where the rest 256·t + ⌊S/2⌋ − q·S is
S or more; the rest is below S·(1 + 1/14), which is to fit 32 bits.
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
from binpoint.options import CompileOptions
from binpoint.plan.fuse import Step
from binpoint.plan.spans import ROWS, traits_of
from binpoint.plan.variants.rounding import saturation

_BYTES = (I8, U8)
_LEAST_TERM = 2**20
_TOP_BITS = 24
_REST_BITS = 23
_REST = 2**_REST_BITS - 1
LOG_ARGUMENTS = (*ROWS, "mark0", "mark1")
"""The arguments of a kernel of logarithms that it has in all variants."""
_LOG_NOTE = "halvings are the distance of two logarithms with a straight line for their fraction"
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
    return replace(step, call=_with_terms(step.call, ROWS, raised_terms(step, graph), note))


def is_quick(step: Step, graph: Graph) -> bool:
    """Whether shares can be made from a reciprocal: rows of bytes in steps of 2^-8."""
    call = step.call
    plain = call.stem == "softmax" and dict(call.traits)["form"] == "table"
    if not plain or not _of_bytes(call, "x", "y"):
        return False
    numbers, terms = call.numbers, raised_terms(step, graph)
    top, n = int(terms.max()), row_of(call)
    return (
        numbers["zero"] == graph.value(step.writes[0]).elem.storage.min
        and numbers.get("inner", 1) == 1 and _FEW <= n < 2 * CODES
        and terms[0] == top and top >= _LEAST_TERM and top * n < _LARGEST_SUM
    )  # fmt: skip


def row_of(call: KernelCall) -> int:
    """Elements of a row, masked ones among them."""
    return call.numbers.get("columns") or call.numbers["n"]


def log_shares(step: Step, graph: Graph, options: CompileOptions) -> Step | None:
    """Codes of powers of two, or of its root, of rows of bytes."""
    if options.optimize == "size" or not is_logarithmic(step, graph):
        return None
    terms = terms_of(step, graph)
    keys = Table("keys", Constant(keys_of(terms)[::-1].astype(np.int32)), I32)
    call = _with_terms(step.call, LOG_ARGUMENTS, terms, _LOG_NOTE)
    return replace(step, call=with_keys(call, step.call, keys))


def is_logarithmic(step: Step, graph: Graph) -> bool:
    """Whether a step makes such codes, of terms that a key holds."""
    call = step.call
    if call.stem != "logshares" or not _of_bytes(call, "x") or row_of(call) < _FEW:
        return False
    return call.numbers.get("inner", 1) == 1 and terms_of(step, graph).max() < 1 << _TOP_BITS


def with_keys(call: KernelCall, portable: KernelCall, keys: Table) -> KernelCall:
    """A call with the terms' keys in a table, and the portable call's base."""
    base = ("base", dict(portable.traits)["base"])
    return replace(call, arguments=(*call.arguments, keys), traits=(base, *call.traits))


def keys_of(terms: Ints) -> Ints:
    """K of terms, which falls as they rise; of a term of zero 32·2^23."""
    bits = np.frexp(terms.astype(np.float64))[1]
    rest = (terms << (32 - np.maximum(bits, 1))) >> 8 & _REST
    return np.where(bits > 0, ((32 - bits) << _REST_BITS) + _REST - rest, 32 << _REST_BITS)


def terms_of(step: Step, graph: Graph) -> Ints:
    """The terms of a softmax's bytes by distance."""
    (table,) = (a for a in step.call.arguments if a.name == "table")
    if isinstance(table, Buffer):
        return constant_array(graph.value(table.value)).astype(np.int64)
    assert isinstance(table, Table)
    return table.array.array.astype(np.int64)


def raised_terms(step: Step, graph: Graph) -> Ints:
    """The same by a power of two, as far as sums have room; shares in proportion stay the same."""
    terms = terms_of(step, graph)
    top = int(terms.max())
    room = _LARGEST_SUM // row_of(step.call)
    powers = range(max(0, _TOP_BITS - top.bit_length()), -1, -1)
    return terms << next((r for r in powers if top << r < room), 0)


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
