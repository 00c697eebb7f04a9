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
from binpoint.options import CompileOptions
from binpoint.plan.fuse import Step
from binpoint.plan.spans import behind, traits_of
from binpoint.plan.variants.dsp_rows import (
    LOG_ARGUMENTS,
    forms,
    is_logarithmic,
    is_quick,
    keys_of,
    normalizes,
    parameters,
    raised_terms,
    row_of,
    terms_of,
    with_constants,
    with_keys,
)

_GROUP = 8
_HALF = 16
_MOST_DOWN = 8
_WORD = 32
_SCRATCH = 1536
_BYTES = 3
_PLACES = 6
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
    if not is_quick(step, graph) or row_of(step.call) < _LONG:
        return None
    terms = raised_terms(step, graph)
    top = int(terms.max())
    if top >= 1 << 8 * _BYTES:
        return None
    rows, scratch = behind(step.call, _SCRATCH)
    arguments: tuple[Argument, ...] = (
        *rows, Table("table", Constant(terms.astype(np.int32)), I32),
        Table("forms", Constant(_forms(terms).astype(np.int32)), I32),
        Number("drop", (top - 1).bit_length() - _HALF, "uint32_t"),
    )  # fmt: skip
    found = replace(
        step.call, arguments=arguments, traits=traits_of(step.call), variant="mve", shared=True,
        scratch=scratch, note="shares of all distances, made once a row by a reciprocal, proved",
    )  # fmt: skip
    return replace(step, call=found)


def log_shares(step: Step, graph: Graph, options: CompileOptions) -> Step | None:
    """Codes of powers of two, or of its root, of rows of bytes."""
    if options.optimize == "size" or not is_logarithmic(step, graph):
        return None
    terms = terms_of(step, graph)
    table, keys = (
        Table(name, Constant(array.astype(np.int32)), I32)
        for name, array in (("table", terms), ("keys", keys_of(terms)))
    )
    kept = tuple(a for a in step.call.arguments if a.name in LOG_ARGUMENTS)
    found = replace(
        step.call, arguments=(*kept, table), traits=traits_of(step.call), variant="mve",
        shared=True, note="logarithms of four elements at a time, as `dsp_rows` has them",
    )  # fmt: skip
    return replace(step, call=with_keys(found, step.call, keys))


def _forms(terms: IntArray) -> IntArray:
    """How shares are made, by the leading zeros of the sum in 32 bits, which is a term at least.

    In fours: a half and two, then one, with p bits after the point; -p; and the groups of distances
    that may have a share.
    """
    top = int(terms.max())
    forms: list[tuple[int, int, int, int]] = []
    for k in range(_WORD, top.bit_length() - 1, -1):
        places = k + _PLACES - (top - 1).bit_length()
        (some,) = np.nonzero(1024 * terms >= 1 << k)
        last = min(int(some[-1]) + 1 if some.size else 0, len(terms) - 1)
        forms.append(((1 << (places - 1)) + 2, (1 << _HALF) >> places, -places, last // _GROUP + 1))
    return np.array(forms, np.int64).reshape(-1)
