"""Dense layers and convolutions whose weights are signed powers of two: additions, no products.

A weight is its canonical signed digits. Of each channel the positions of operands are listed by the
power that they have, from the largest on, first those added, then those taken off; between two
powers the sum is doubled. So every digit costs one addition, and no weight a product or a shift of
its own. Lists are of whole fours, the rest of which is the position of a zero behind the operands.
Groups are windows in which a channel lists but its own positions; windows are copied side by side
first, with the zero point in place of padding, and zero points are folded into the biases.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from binpoint.errors import BadOption
from binpoint.ir.constant import Constant
from binpoint.ir.graph import Graph
from binpoint.ir.kernel import Argument, Epilogue, KernelCall, Number, Table
from binpoint.numeric.digits import parts, terms
from binpoint.numeric.fixed import I32, U8, U16
from binpoint.numeric.float32 import Ints
from binpoint.ops.conv import IntConv, IntDepthwise
from binpoint.ops.dense import IntDense
from binpoint.plan.fuse import Step
from binpoint.plan.variants.block_matrix import WINDOW
from binpoint.plan.variants.weighted import Weighted

_FREE = frozenset({
    "arg", "banded", "channel_lookup", "clamp", "concat", "copy", "extreme", "gather", "lookup",
    "matmul", "maxpool", "minmax", "outliers", "pack", "pad", "patched", "requantize", "sum",
    "unpack",
})  # fmt: skip
"""Kernels that multiply no value by a constant, but for requantizers that they store through."""
_REPLACED = frozenset({("add", "narrow"), ("add", "wide"), ("average", ""), ("mul", "narrow")})
"""Kernels, and their forms, whose templates have products as additions as well."""
_MULTIPLYING = frozenset({"fpu", "wide", "wider"})
"""Requantizers that have no form without products."""
POSITIONS = 2
"""Of a convolution or of rows, which share the reading of a list."""
_LIMIT = 2**31 - 1
_WORD_BITS, _FOUR = 32, 4


def bare(step: Step, graph: Graph) -> Step:
    """The step with all products with constants made of shifts and additions.

    Raises:
        BadOption: its kernel has no such form.
    """
    call = step.call
    form = dict(call.traits).get("form", "")
    if step.alias:
        return step
    found = None
    if call.epilogue is not None and call.epilogue.form in _MULTIPLYING:
        form = call.epilogue.form
    elif call.stem in _FREE or (call.stem, form) in _REPLACED:
        found = step
    else:
        found = additions(step, graph)
    if found is None:
        raise BadOption(
            f"`{step.name}` has no kernel without products with constants",
            at=", ".join(step.origin.names) or step.name,
            have=f"multipliers=none, {' '.join(w for w in (call.stem, form) if w)}",
            want="dense layers and convolutions without dilated columns, whose sums fit 32 bits; "
            "sums, averages and products of values that are not rounded as float32",
            hint="leave multipliers=auto, or compute the function by another method, as "
            "methods.all=table",
        )
    stored = found.call.epilogue
    if stored is not None and graph.value(step.nodes[0].outputs[0]).interval.hi < _LIMIT:
        stored = _shifted(stored)
    traits = found.call.traits
    if stored is not None or (call.stem, form) in _REPLACED:
        traits = (*traits, ("product", "bare"))
    return replace(found, call=replace(found.call, traits=traits, epilogue=stored))


def _shifted(stored: Epilogue) -> Epilogue:
    """Rescaling by powers of two as a shift; by others as it is."""
    named = {a.name: a for a in stored.arguments}
    if stored.form not in {"mulshift", "mulhi"}:
        return stored
    multiplier, shift = (_numbers(named[name]) for name in ("multiplier", "shift"))
    places = np.array([int(m).bit_length() - 1 for m in multiplier])
    by = shift + (_WORD_BITS if stored.form == "mulhi" else 0) - places
    if (multiplier != 1 << places).any() or by.min() < 1:
        return stored
    # A sum of 32 bits has nothing left behind so many places.
    by = np.minimum(by, _WORD_BITS) - 1
    column: Argument = Number("shift", int(by[0]), "uint32_t")
    if stored.per_channel:
        column = Table("shift", Constant(by.astype(U8.dtype)), U8)
    rest = tuple(named[name] for name in ("zero", "lo", "hi"))
    return replace(stored, form="shift", arguments=(column, *rest))


def _numbers(argument: Argument) -> Ints:
    if isinstance(argument, Number):
        return np.array([argument.value])
    assert isinstance(argument, Table)
    return argument.array.array.astype(np.int64)


def additions(step: Step, graph: Graph) -> Step | None:
    """The step without products.

    None for what is no dense layer or convolution with constant weights, for dilated columns, and
    for sums that may leave 32 bits on the way.
    """
    call, op = step.call, step.nodes[0].op
    if not isinstance(op, IntDense | IntConv):
        return None
    found, numbers = Weighted.of(step, graph), call.numbers
    if found is None or numbers.get("dilation_w", 1) != 1:
        return None
    x, codes = found.x, _rows(op, found.codes, numbers)
    folded = found.bias - numbers.get("zero_x", 0) * codes.sum(axis=1)
    plus, minus = parts(codes)
    largest = max(abs(x.elem.min), abs(x.elem.max))
    if ((plus + minus).sum(axis=1) * largest + np.abs(folded)).max() > _LIMIT:
        return None
    tables = (_terms(plus, minus), Table("bias", Constant(folded.astype(np.int32)), I32))
    channels, length = codes.shape
    depth = -(-(length + 1) // _FOUR) * _FOUR
    shape, places = _shape(op, numbers, length)
    sizes = shape | {"channels": channels, "depth": depth}
    arguments: tuple[Argument, ...] = (
        x, *tables, found.y, *(Number(n, v) for n, v in sizes.items()),
    )  # fmt: skip
    positions = min(POSITIONS, places)
    made = KernelCall(
        "dense" if isinstance(op, IntDense) else "conv",
        arguments,
        (("positions", str(positions)), ("row", f"{x.elem}_{tables[0].elem}_{positions}")),
        epilogue=call.epilogue,
        formula=call.formula,
        scratch=positions * depth * x.elem.dtype.itemsize,
        variant="shifts",
        note=f"{int(np.count_nonzero(codes))} weights as {int(terms(codes).sum())} signed powers "
        "of two, each added in its turn, zero points in the biases",
    )
    return replace(step, call=made)


def _shape(
    op: IntDense | IntConv, numbers: dict[str, int], length: int
) -> tuple[dict[str, int], int]:
    """The numbers that the template wants, and how many windows or rows there are."""
    if isinstance(op, IntDense):
        return {"rows": numbers["rows"], "length": length}, numbers["rows"]
    shape = {name: numbers[name] for name in WINDOW} | {"fill": numbers["zero_x"]}
    return shape, numbers["out_h"] * numbers["out_w"]


def _rows(op: IntDense | IntConv, weights: Ints, numbers: dict[str, int]) -> Ints:
    """The weights of every channel for a whole window, ``[O, K]``, zero outside of its group."""
    if isinstance(op, IntDense):
        return weights
    if isinstance(op, IntDepthwise):
        weights = np.moveaxis(weights, -1, 0)[..., None]
    channels, groups = weights.shape[0], numbers["groups"]
    own = weights.reshape(channels, -1, weights.shape[-1])
    whole = np.zeros((channels, own.shape[1], groups, own.shape[2]), np.int64)
    places = np.repeat(np.arange(groups), channels // groups)
    whole[np.arange(channels), :, places] = own
    return whole.reshape(channels, -1)


def _listed(plus: Ints, minus: Ints) -> list[int]:
    """A channel: how many powers and the least one, then of each, the largest first, both lists.

    Before a list stands how many fours it has.
    """
    both = int(np.bitwise_or.reduce(plus | minus, initial=0))
    if not both:
        return [0, 0]
    least, top = (both & -both).bit_length() - 1, both.bit_length()
    found = [top - least, least]
    for power in reversed(range(least, top)):
        for side in (plus, minus):
            places: list[int] = np.flatnonzero(side >> power & 1).tolist()
            rest = -len(places) % _FOUR
            found += [(len(places) + rest) // _FOUR, *places, *[len(side)] * rest]
    return found


def _terms(plus: Ints, minus: Ints) -> Table:
    """The lists of all channels, in bytes where they are short."""
    codes = [code for row in zip(plus, minus, strict=True) for code in _listed(*row)]
    kind = U8 if max(codes) <= U8.max else U16
    return Table("terms", Constant(np.array(codes, kind.dtype)), kind)
