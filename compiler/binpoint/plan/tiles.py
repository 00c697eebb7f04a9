"""Weights below a byte, packed in flash and unpacked before their layer is computed.

Planes of bits (`numeric.planes`) hold what a kernel wants as bytes, of any instruction set. A call
unpacks its weights into memory of its own, all at once, or the channels in slices, one after the
other; so the cost is shared by all windows. Memory is what the plan leaves free while the step
runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.constant import Constant
from binpoint.ir.graph import Graph
from binpoint.ir.kernel import Buffer, Expanded, KernelCall, Number, Table
from binpoint.numeric.fixed import I8, U8
from binpoint.numeric.planes import BLOCK, pack, planes
from binpoint.options import CompileOptions
from binpoint.plan.bill import bill
from binpoint.plan.fuse import Modelled, Step
from binpoint.plan.layout import Layout
from binpoint.plan.program import constant_of
from binpoint.target import Price

_EXTRA = 0.1
"""Of all cycles, what unpacking may add."""
_PAYS = 0.98
"""Of the cycles of digits, what planes that save no flash may take."""
_FEW = 0.01
"""Of all cycles, what a function must save that saves no flash."""
_LEAST = 256
"""Bytes that layers save together by one function, which has about as many."""
_STEP = 8
"""Channels of a slice are a multiple of this; kernels make four or eight at a time."""
_WIDEST = 7
_ANY = 2**31
_WORD, _VECTOR = 4, 16
_GROWTH, _WORTH = (64, 32, 16), 4
"""What the arena may grow by: one part in so many, for so many times as much flash."""
_PARTS = (1, 0.75, 0.5, 0.25)
"""Of the memory that is free, what is used: less where buffers cannot be placed otherwise."""
_STEMS = ("conv", "dense", "depthwise", "depthwise_lines", "conv_transpose")
_CHANNELS = ("channels", "out_c")
_SLICED = ("w", "bias", "c", "k")
"""Arrays of the calls' own, all of which have the channels in order."""


@dataclass(frozen=True, slots=True)
class Codes:
    """Weights as a kernel has them, less `least`, the value of code zero; `lanes` of `Expanded`."""

    values: NDArray[np.uint8]
    least: int
    bits: int
    lanes: str


@dataclass(frozen=True, slots=True)
class Tile:
    """A step that unpacks its weights: what it takes more than the step as it was, and saves."""

    step: Step
    cycles: int
    saved: int


def codes_of(call: KernelCall, graph: Graph) -> Codes | None:
    """The weights of a call, if they have less than eight bits."""
    weights = next((a for a in call.arguments if a.name == "w"), None)
    if call.stem not in _STEMS or weights is None or isinstance(weights, Number):
        return None
    found = constant_of(graph, weights)
    packing = dict(call.traits).get("pack", "bytes")
    if found is None or packing not in ("", "bytes"):
        return None
    array = found[0].array
    if weights.elem in (I8, U8):
        values = array.reshape(-1).astype(np.int64)
    elif call.variant == "dsp":
        values = _pairs(array, apart=packing == "bytes")
    else:
        return None
    least = min(0, int(values.min()))
    bits = (int(values.max()) - least).bit_length()
    if not 1 <= bits <= _WIDEST:
        return None
    lanes = "bytes" if packing else "halfwords"
    return Codes((values - least).astype(np.uint8), least, bits, lanes)


def _pairs(words: NDArray[np.integer], *, apart: bool) -> NDArray[np.int64]:
    """The bytes of halfwords ``256 a + b``, b and a in turn; or of two bytes each."""
    halves = np.ascontiguousarray(words.reshape(-1), "<u4").view("<i2").astype(np.int64)
    low = ((halves & 0xFF) ^ 0x80) - 0x80
    high = halves >> 8 if apart else (halves - low) >> 8
    return np.stack([low, high], axis=1).reshape(-1)


def tile(step: Step, graph: Graph, price: Price, room: int, *, forced: bool = False) -> Tile | None:
    """The step with its weights unpacked, in as few slices as `room` for them allows.

    In as many as there can be if there is too little room for all, but it is `forced`.
    """
    codes = codes_of(step.call, graph)
    if codes is None:
        return None
    counts = tuple(_counts(step.call))
    for count in counts:
        last = forced and count == counts[-1]
        if codes.values.size // count > room and not last:
            continue
        call = _sliced(step.call, graph, codes, count)
        if call is None:
            return tile(step, graph, price, _ANY) if forced else None
        assert call.expanded is not None
        if call.expanded.bytes > room and not last:
            continue
        made = replace(step, call=call)
        cycles = _expanding(call.expanded, price) * count + _again(step, made, graph, price)
        saved = codes.values.size - call.expanded.array.array.size * 4
        if (kernel := step.modelled) is not None:
            made = replace(made, modelled=Modelled(kernel.kernel, kernel.cycles + cycles))
        return Tile(made, cycles, saved)
    return None


def _counts(call: KernelCall) -> Iterator[int]:
    """In how many slices the channels of a call can be unpacked."""
    yield 1
    traits, numbers = dict(call.traits), call.numbers
    whole = "into" in traits or traits.get("groups") or numbers.get("groups", 1) != 1
    if call.stem not in ("conv", "dense") or whole:
        return
    channels = next(numbers[n] for n in _CHANNELS if n in numbers)
    for count in range(2, channels // _STEP + 1):
        if channels % (count * _STEP) == 0:
            yield count


def _sliced(call: KernelCall, graph: Graph, codes: Codes, count: int) -> KernelCall | None:
    unit = _VECTOR if call.variant == "mve" else _WORD
    slices = codes.values.reshape(count, -1)
    words = np.stack([pack(s, codes.bits, unit) for s in slices])
    weights = next(a for a in call.arguments if a.name == "w")
    assert not isinstance(weights, Number)
    packed = Expanded(
        "w", Constant(words), weights.elem, codes.bits, codes.least, codes.lanes, unit
    )
    arguments = tuple(packed if a.name == "w" else a for a in call.arguments)
    note = f"weights of {codes.bits} bits are unpacked first"
    note = f"{call.note}; {note}" if call.note else note
    call = replace(call, arguments=arguments, note=note)
    if count == 1:
        return call
    (name,) = (n for n in _CHANNELS if n in call.numbers)
    channels = call.numbers[name]
    strides = _strides(call, graph, channels, count)
    if strides is None:
        return None
    arguments = tuple(
        replace(a, value=channels // count) if isinstance(a, Number) and a.name == name else a
        for a in arguments
    )
    traits = call.traits
    if _positions(call.numbers) > 1:
        arguments = (*arguments, Number("pixel", channels))
        traits = (*traits, ("apart", "apart"))
    note = f"{note}, {channels // count} channels at a time"
    return replace(
        call, arguments=arguments, traits=traits, slices=count, strides=strides, note=note
    )


def _positions(numbers: Mapping[str, int]) -> int:
    rows = numbers.get("rows", numbers.get("count", 1))
    return rows * numbers.get("batches", 1) * numbers.get("out_h", 1) * numbers.get("out_w", 1)


def _strides(
    call: KernelCall, graph: Graph, channels: int, count: int
) -> tuple[tuple[str, int], ...] | None:
    """How far pointers move from slice to slice; None where that is not known of one."""
    found: list[tuple[str, int]] = []
    for a in call.arguments:
        if isinstance(a, Number | Expanded):
            continue
        constant = constant_of(graph, a)
        if isinstance(a, Buffer) and a.written:
            found.append((a.name, channels // count))
        elif constant is not None:
            if a.name not in _SLICED or constant[0].array.size % count:
                return None
            found.append((a.name, constant[0].array.size // count))
    epilogue = call.epilogue
    by_channel = epilogue is not None and epilogue.per_channel
    for a in epilogue.arguments if epilogue is not None else ():
        if not isinstance(a, Table) or (not by_channel and a.name != "moved"):
            continue
        if a.array.array.size % channels:
            return None
        found.append((a.name, a.array.array.size // count))
    return tuple(found)


# ---- prices


def _expanding(found: Expanded, price: Price) -> int:
    """Cycles to unpack a slice: masks and shifts of planes, and an offset and a store of units."""
    cycles = price.cycles
    each, last = (4, 1) if found.unit > _WORD else (2, 2)
    operations = BLOCK * (each * len(planes(found.bits)) + last)
    block = operations * cycles.get("other", 1) + BLOCK * cycles.get("store", 1)
    block += found.bits * cycles.get("load", 1) + cycles.get("taken", 1)
    return round(found.blocks * block)


def _again(step: Step, made: Step, graph: Graph, price: Price) -> int:
    """What a kernel does anew for each slice."""
    count = made.call.slices
    if count == 1 or not step.call.variant:
        return 0
    whole, part = (bill(s, graph) for s in (step, made))
    terms = {t: n * (1 if t == "output" else count) for t, n in part.terms.items()}
    more = replace(part, terms=terms).modelled(price).cycles - whole.modelled(price).cycles
    return max(0, more)


# ---- choice


@dataclass(frozen=True, slots=True)
class Chooser:
    """Which weights lie packed: as `packed_weights` tells, those that save most for their cycles.

    Args:
        plain: the same step with its weights as bytes, where it has them as digits; by name.
    """

    graph: Graph
    options: CompileOptions
    price: Price
    plain: Callable[[Step], Step | None]

    def choose(self, steps: Sequence[Step], rooms: Sequence[int]) -> list[Tile]:
        """The steps that unpack their weights in `rooms` beside what is live."""
        found = [
            made
            for step, room in zip(steps, rooms, strict=True)
            if not step.alias and (made := self._tile(step, room)) is not None
        ]
        found.sort(key=lambda t: (t.cycles > 0, t.cycles / max(1, t.saved), t.step.name))
        any_price = self.always or self.options.optimize == "size"
        total = sum(self._cycles(s) for s in steps if not s.alias)
        budget = _EXTRA * total
        taken: list[Tile] = []
        for one in found:
            if any_price or one.cycles <= budget:
                budget -= max(0, one.cycles)
                taken.append(one)
        return taken if self.always else _worth(taken, total)

    @property
    def always(self) -> bool:
        """Whether neither memory nor cycles matter."""
        return self.options.packed_weights == "always"

    def _tile(self, step: Step, room: int) -> Tile | None:
        made = tile(step, self.graph, self.price, room, forced=self.always)
        if made is not None and made.saved > 0:
            return made
        plain = self.plain(step)
        if plain is None:
            return None
        room += step.call.memory - plain.call.memory
        made = tile(plain, self.graph, self.price, room, forced=self.always)
        if made is None:
            return None
        before, after = self._cycles(step), self._cycles(plain) + made.cycles
        saved = made.saved - _weights(plain, self.graph) + _weights(step, self.graph)
        if saved < 0 or (saved == 0 and after > _PAYS * before):
            return None
        return Tile(made.step, after - before, saved)

    def _cycles(self, step: Step) -> int:
        if step.modelled is not None:
            return step.modelled.cycles
        return bill(step, self.graph).modelled(self.price).cycles


def _weights(step: Step, graph: Graph) -> int:
    found = (constant_of(graph, a) for a in step.call.arguments if not isinstance(a, Number))
    return sum(a.array.size * elem.dtype.itemsize for a, elem in filter(None, found))


def _worth(taken: Sequence[Tile], cycles: int) -> list[Tile]:
    """Without those whose function takes more memory than they save; `cycles` are of the net."""
    kinds: dict[str, list[Tile]] = {}
    for one in taken:
        assert one.step.call.expanded is not None
        kinds.setdefault(one.step.call.expanded.symbol, []).append(one)
    return [
        one
        for kind in kinds.values()
        if sum(t.saved for t in kind) >= _LEAST or sum(t.cycles for t in kind) <= -_FEW * cycles
        for one in kind
    ]


def with_tiles(layout: Layout, chooser: Chooser, *, grows: bool) -> Layout:
    """The layout with packed weights.

    If it `grows`, the arena may do so a little, for several times as much flash.
    """
    least = layout.placement.total
    limits = [least, *(least + least // part for part in _GROWTH if grows)]
    found = [_within(layout, chooser, limit) for limit in limits[: 1 if chooser.always else None]]
    (inside, saved), *others = found

    def gain(made: Layout, more: int) -> int:
        return more - saved - _WORTH * max(0, made.placement.total - inside.placement.total)

    return max(((inside, saved), *others), key=lambda one: gain(*one))[0]


def _within(layout: Layout, chooser: Chooser, limit: int) -> tuple[Layout, int]:
    """The layout with packed weights in an arena of this size, and bytes that they save."""
    rooms = layout.rooms(limit)
    for part in _PARTS:
        found = chooser.choose(layout.steps, [int(room * part) for room in rooms])
        made = layout.having({t.step.name: t.step for t in found})
        if made.placement.total <= limit or chooser.always:
            return made, sum(t.saved for t in found)
    return layout, 0
