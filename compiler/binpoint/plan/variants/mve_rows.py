"""Softmax and layer norm of rows on Helium: the portable integers in vectors.

Layer norm is the formula itself, in 32-bit lanes. Its last shift rounds, as the assembler of
binutils 2.40 takes VQSHRN for VQRSHRN, so half a step is taken off the offsets. Where it is by less
than 17 places, what is shifted is raised by the rest before, saturated: what that changes is far
beyond a byte.

In softmax a row has few shares, as its elements have few distances from the largest: they are made
once a row and gathered. Of a distance d with 256·t[d] below a quarter of 2^k there is none where
the sum S has k bits, so no further ones are made.

Shares are made in 16 bits. With terms up to 2^b, h = ⌊t / 2^(b−16)⌋ and p = k + 6 − b, the share
times 2^p is t·F / 2^b with F = 2^(k+14) / S, which is 2^15 or less. For F there is
R = ⌊(2^32 − 1) / (⌊S/2^(k−18)⌋ + 1)⌋, too small by less than 5/4 + 2^-16. So ⌊h·R / 2^16⌋ is too
small by less than 1/2 + 5/4 + 2^-16 + 1 < 3: with a half and 2 added it gives the share, unless the
bits after the point have come below 2. So near to a half all shares of the row are made by the
reciprocal of `dsp_rows`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from binpoint.ir.constant import Constant
from binpoint.ir.graph import Graph
from binpoint.ir.kernel import Argument, Number, Table
from binpoint.ir.op import IntArray
from binpoint.numeric.fixed import I32
from binpoint.ops.exactnorm import IntLayerNorm
from binpoint.ops.softmax import IntSoftmax
from binpoint.options import CompileOptions
from binpoint.plan.fuse import Step
from binpoint.plan.spans import behind, traits_of
from binpoint.plan.variants.dsp_rows import (
    forms,
    is_quick,
    normalizes,
    parameters,
    terms_of,
    with_constants,
)

_GROUP = 8
_HALF = 16
_MOST_DOWN = 8
_WORD = 32
_SCRATCH = 1536
_BYTES = 3
_UPPER = 17
_PLACES = 7
_LONG = 32
"""Elements of a row from which on it has about as many as distances with a share."""


def layernorm(step: Step, graph: Graph, options: CompileOptions) -> Step | None:
    """Rows of bytes or halfwords to bytes of the whole range."""
    op, call = step.nodes[0].op, step.call
    if not normalizes(step, graph, options):
        return None
    assert isinstance(op, IntLayerNorm)
    if not op.plain and op.each < _GROUP:
        return None
    storage = op.result.storage
    if (op.lo, op.hi) != (storage.min, storage.max) or op.shift > _HALF + _MOST_DOWN:
        return None
    m, k = parameters(step, graph)
    half = 1 << (op.shift - 1)
    if op.totals(m, k).lo - half < -(2**31):
        return None
    constants = np.stack([m, k - half], axis=1)
    if op.plain:
        padded = np.pad(constants, ((0, -len(m) % _GROUP), (0, 0)))
        constants = padded.reshape(-1, _GROUP // 2, 2, 2).transpose(0, 2, 3, 1)
    raised = max(0, _HALF + 1 - op.shift)
    traits = (
        ("shift", str(op.shift + raised)), ("raised", str(raised) if raised else ""), *forms(op),
    )  # fmt: skip
    found = replace(
        call, arguments=with_constants(call, constants.reshape(-1)), traits=traits,
        variant="mve", shared=True, note="the formula itself, eight elements at a time",
    )  # fmt: skip
    return replace(step, call=found)


def softmax(step: Step, graph: Graph, _: CompileOptions) -> Step | None:
    """Rows of bytes in steps of 2^-8."""
    op = step.nodes[0].op
    if not is_quick(step, graph) or not isinstance(op, IntSoftmax) or op.block.n < _LONG:
        return None
    table = terms_of(step, graph)
    bits = int(table.max()).bit_length()
    if table.max() != 1 << (bits - 1) or bits > 8 * _BYTES:
        return None
    rows, scratch = behind(step.call, _SCRATCH)
    arguments: tuple[Argument, ...] = (
        *rows, *(a for a in step.call.arguments if a.name == "table"),
        Table("forms", Constant(_forms(table, bits).astype(np.int32)), I32),
        Number("drop", bits - _UPPER, "uint32_t"),
    )  # fmt: skip
    found = replace(
        step.call, arguments=arguments, traits=traits_of(step.call), variant="mve", shared=True,
        scratch=scratch, note="shares of all distances, made once a row by a reciprocal, proved",
    )  # fmt: skip
    return replace(step, call=found)


def _forms(table: IntArray, bits: int) -> IntArray:
    """How shares are made, by the leading zeros of the sum in 32 bits, which has `bits` at least.

    In fours: a half and two, then one, with p bits after the point; -p; and the groups of distances
    that may have a share.
    """
    forms: list[tuple[int, int, int, int]] = []
    for k in range(_WORD, bits - 1, -1):
        places = k - bits + _PLACES
        (none,) = np.nonzero(1024 * table < 1 << k)
        last = int(none[0]) if none.size else len(table) - 1
        forms.append(((1 << (places - 1)) + 2, (1 << _HALF) >> places, -places, last // _GROUP + 1))
    return np.array(forms, np.int64).reshape(-1)
