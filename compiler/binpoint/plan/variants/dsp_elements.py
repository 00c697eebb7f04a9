"""Element by element with DSP instructions: pairs, lookups, maxima, totals, copies, packed maps.

Four elements at a time, so that the loop costs little beside them; where size counts, one, and no
kernel that is larger than the portable one. Sums end in one saturating shift
(SSAT or USAT with its built-in shift); products in the high word of one more product, proved over
all products that occur (`numeric.highword`); maxima take four bytes by USUB8 or SSUB8 with SEL, and
totals four bytes by two SXTAB16, whose halfwords hold 256 of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from binpoint.ir.graph import Graph
from binpoint.ir.kernel import Argument, Block, KernelCall, Number
from binpoint.numeric.float32 import Ints
from binpoint.numeric.highword import Staircase, high_word, thresholds_of
from binpoint.ops.blocks import IntSum
from binpoint.ops.concat import IntConcat
from binpoint.ops.copy import IntCopy
from binpoint.ops.packed import Digits, IntPack, IntUnpack
from binpoint.ops.pairwise import Clamped, IntMul
from binpoint.ops.pooling import IntAverage, IntMaxPool
from binpoint.ops.runtime_pair import OnnxruntimeMul
from binpoint.options import CompileOptions
from binpoint.plan.fuse import Step
from binpoint.plan.variants.rounding import saturation

_BYTE = 8
_HALF = 16
_FEW = 8
_CODES = 4
"""That a word has, of as many neighbouring channels."""
_PRODUCT_PRESCALE = 14
_UNROLLED_TAPS = 9
_MOST_ADDED = 256


def add(step: Step, graph: Graph, options: CompileOptions) -> Step | None:
    """Sums of two, bytes or halfwords, in 32 bits: two MLA and a saturating shift."""
    op, call = step.nodes[0].op, step.call
    if call.stem != "add" or dict(call.traits)["form"] != "narrow" or not isinstance(op, Clamped):
        return None
    if _short(call, graph, step, _HALF):
        return None
    return _saturated(step, op, options, "two MLA and a saturating shift: the formula itself")


def mul(step: Step, graph: Graph, options: CompileOptions) -> Step | None:
    """Products of two bytes: MUL, SMMLA and a saturating shift."""
    op, call = step.nodes[0].op, step.call
    if not isinstance(op, IntMul | OnnxruntimeMul) or _short(call, graph, step, _BYTE):
        return None
    a, b = graph.arguments(step.nodes[0])
    zeros = (op.zero_a, op.zero_b) if isinstance(op, IntMul) else (op.a.zero_point, op.b.zero_point)
    product = (a.interval - zeros[0]) * (b.interval - zeros[1])
    low, high = np.array([product.lo], np.int64), np.array([product.hi], np.int64)

    def codes(products: Ints) -> Ints:
        return op.codes(products + zeros[0], np.array(zeros[1] + 1))

    if max(-product.lo, product.hi) >> (31 - _PRODUCT_PRESCALE):
        return None
    table = thresholds_of(codes, low, high, op.lo, op.hi)
    stairs = Staircase(table, low, high, op.lo, op.result.zero_point, _slope(op))
    form = high_word(stairs, _PRODUCT_PRESCALE, None)
    if form is None or form.bases[0]:
        return None
    kept = [n for n in call.arguments if not isinstance(n, Number) or n.name[0] in "nab"]
    numbers: list[Argument] = [
        *(n for n in kept),
        Number("zero_a", zeros[0]),
        Number("zero_b", zeros[1] << _PRODUCT_PRESCALE),
        Number("multiplier", form.multipliers[0]),
        Number("offset", form.offsets[0]),
        Number("shift", form.shift, "uint32_t"),
    ]
    moved = replace(step, call=replace(call, arguments=tuple(numbers)))
    note = f"y = (high word of 2^{_PRODUCT_PRESCALE} (a - za)(b - zb) m + offset) >> shift, proved"
    return _saturated(moved, op, options, f"{note} at every step of the result")


def _slope(op: IntMul | OnnxruntimeMul) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Steps of the result per step of the product."""
    if isinstance(op, IntMul):
        return np.array([op.multiplier * 2.0**-op.shift])
    return np.array([float(op.a.scale) * float(op.b.scale) / float(op.result.scale)])


def lookup(step: Step, graph: Graph, options: CompileOptions) -> Step | None:
    """A table of bytes, four elements at a time."""
    if (
        options.optimize == "size"
        or step.call.stem != "lookup"
        or graph.value(step.writes[0]).type.size < _FEW
    ):
        return None
    return _plain(step, (), "four elements at a time")


def maxpool(step: Step, graph: Graph, options: CompileOptions) -> Step | None:
    """Maxima of four channels at a time."""
    op = step.nodes[0].op
    if options.optimize == "size" or not isinstance(op, IntMaxPool):
        return None
    (x,) = graph.arguments(step.nodes[0])
    if x.elem.storage.width > _BYTE or x.shape[-1] < 4:
        return None
    window = op.window.planar(x.shape[1:-1])[0]
    whole = not window.padded and 1 < window.taps <= _UNROLLED_TAPS
    taps = (("rows", str(window.kernel[0])), ("columns", str(window.kernel[1]))) if whole else ()
    sign = "s" if x.elem.storage.signed else "u"
    traits = (*step.call.traits, ("sign", sign), *taps)
    dropped = ("kernel_h", "kernel_w") if whole else ()
    arguments = tuple(a for a in step.call.arguments if a.name not in dropped)
    moved = replace(step, call=replace(step.call, arguments=arguments))
    return _plain(moved, traits, f"{sign.upper()}SUB8 and SEL keep the larger of four bytes")


def average(step: Step, graph: Graph, options: CompileOptions) -> Step | None:
    """Averages of four channels at a time."""
    op = step.nodes[0].op
    if options.optimize == "size" or not isinstance(op, IntAverage):
        return None
    (x,) = graph.arguments(step.nodes[0])
    taps = op.window.taps
    if x.elem.storage.width > _BYTE or x.shape[-1] < 4 or taps > _MOST_ADDED:
        return None
    sign = "s" if x.elem.storage.signed else "u"
    traits = (*step.call.traits, ("sign", sign))
    return _plain(step, traits, f"two {sign.upper()}XTAB16 add four bytes")


def total(step: Step, graph: Graph, options: CompileOptions) -> Step | None:
    """Totals of four channels at a time."""
    op = step.nodes[0].op
    if options.optimize == "size" or not isinstance(op, IntSum):
        return None
    (x,) = graph.arguments(step.nodes[0])
    inner = next(
        a.value for a in step.call.arguments if isinstance(a, Number) and a.name == "inner"
    )
    if x.elem.storage.width > _BYTE or inner < 4:
        return None
    sign = "s" if x.elem.storage.signed else "u"
    traits = (*step.call.traits, ("sign", sign))
    return _plain(
        step, traits, f"two {sign.upper()}XTAB16 add four bytes; 256 of them fit halfwords"
    )


def concat(step: Step, graph: Graph, options: CompileOptions) -> Step | None:
    """Rows of operands by words."""
    op = step.nodes[0].op
    if options.optimize == "size" or not isinstance(op, IntConcat) or _wide(graph, step):
        return None
    rows = [a.value for a in step.call.arguments if isinstance(a, Number) and a.name[0] == "n"]
    return _plain(step, step.call.traits, "by words") if max(rows) >= _FEW else None


def copy(step: Step, graph: Graph, options: CompileOptions) -> Step | None:
    """Runs of memory by words."""
    op = step.nodes[0].op
    if options.optimize == "size" or not isinstance(op, IntCopy) or _wide(graph, step):
        return None
    if op.strides[-1] != 1 or op.sizes[-1] < _FEW:
        return None
    arguments = tuple(a for a in step.call.arguments if a.name != f"s{len(op.sizes) - 1}")
    moved = replace(step, call=replace(step.call, arguments=arguments))
    return _plain(moved, step.call.traits, "by words")


def packed(step: Step, graph: Graph, _: CompileOptions) -> Step | None:
    """Digits of four bytes at a time."""
    op = step.nodes[0].op
    if not isinstance(op, IntPack | IntUnpack) or not by_words(op.digits):
        return None
    values = (*graph.arguments(step.nodes[0]), graph.value(step.writes[0]))
    if any(v.elem.storage.width > _BYTE for v in values):
        return None
    digits, note = ("digits", op.digits.name), "a mask and a shift of a word for four codes"
    made = _plain(step, (digits,), note)
    blocks = (packing_block(op.digits),) if isinstance(op, IntPack) else ()
    stem = op.stem if op.digits.words else f"{op.stem}_digits"
    return replace(made, call=replace(made.call, stem=stem, blocks=blocks))


def by_words(digits: Digits) -> bool:
    """Whether every digit has enough channels that four codes make a word."""
    return digits.least >= _CODES


def packing_block(digits: Digits) -> Block:
    """What packs pixels: words that are full, or any number of channels."""
    return Block("pack_words" if digits.words else "pack_fields", (("digits", digits.name),))


def _wide(graph: Graph, step: Step) -> bool:
    """Whether elements are wider than bytes."""
    return graph.value(step.writes[0]).elem.storage.width > _BYTE


def _short(call: KernelCall, graph: Graph, step: Step, widest: int) -> bool:
    """Whether elements have more bits than `widest`, or the innermost loop is too short to gain."""
    values = (*graph.arguments(step.nodes[0]), graph.value(step.writes[0]))
    numbers = call.numbers
    last = int(dict(call.traits)["rank"][0]) - 1
    return any(v.elem.storage.width > widest for v in values) or numbers[f"n{last}"] < 4


def _plain(step: Step, traits: Sequence[tuple[str, str]], note: str) -> Step:
    call = replace(step.call, variant="dsp", note=note, traits=tuple(traits))
    return replace(step, call=call)


def _saturated(step: Step, op: Clamped, options: CompileOptions, note: str) -> Step:
    """The clamp as traits, and the shift with it where kernels are inlined."""
    call = step.call
    numbers = call.numbers
    literal = options.optimize != "size" and 0 < numbers["shift"] < 32
    dropped = ("lo", "hi", "shift") if literal else ("lo", "hi")
    arguments = tuple(
        a for a in call.arguments if not isinstance(a, Number) or a.name not in dropped
    )
    name, lo, hi = saturation(op.lo, op.hi)
    kept = tuple(t for t in call.traits if t[0] in ("rank", "inner"))
    traits = (
        *kept,
        ("saturation", name),
        ("least", str(op.lo)),
        ("most", str(op.hi)),
        ("narrow", "narrow" if lo or hi else ""),
        ("shift", str(numbers["shift"]) if literal else ""),
        ("unroll", "x4" if options.optimize != "size" else ""),
    )
    changed = replace(call, arguments=arguments, traits=traits, variant="dsp", note=note)
    return replace(step, call=changed)
