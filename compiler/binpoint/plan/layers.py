"""Steps of the integer graph as hardware units: one function for each kind of kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from binpoint.errors import BadOption, NoIntegerForm
from binpoint.ir.constant import Constant
from binpoint.ir.graph import Graph, Value
from binpoint.ir.op import IntArray, IntegerOp
from binpoint.numeric.fixed import IntType
from binpoint.numeric.interval import Interval
from binpoint.numeric.mulshift import MulShift
from binpoint.ops.blocks import IntArgExtreme, IntExtreme, IntSum
from binpoint.ops.concat import IntConcat
from binpoint.ops.conv import IntConv
from binpoint.ops.conv_transpose import IntConvTranspose
from binpoint.ops.copy import IntCopy, row_major
from binpoint.ops.pad import IntPad
from binpoint.ops.pairwise import Pairwise
from binpoint.ops.pooling import IntAverage, IntMaxPool, counts_of
from binpoint.ops.requantize import Clamp, Requantize
from binpoint.ops.softmax import IntSoftmax, OnnxruntimeSoftmax
from binpoint.ops.window import Window as Slide
from binpoint.plan import units
from binpoint.plan.design import Folding
from binpoint.plan.fuse import Step
from binpoint.plan.store import Store, as_it_is, clamped, looked_up, mulshift, requantized
from binpoint.plan.units import Unit, narrowest

_NARROW = 8


@dataclass(frozen=True, slots=True)
class End:
    """One end of a stream as a unit wants it: the value, elements of a word, and their range.

    `between` names a stream inside of one step that is no value of the graph.
    """

    value: str
    lanes: int
    bounds: Interval
    elements: int
    between: bool = False


@dataclass(frozen=True, slots=True)
class Draft:
    """A unit before it is connected."""

    name: str
    unit: Unit
    reads: tuple[End, ...]
    writes: tuple[End, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A step to be turned into units: where it stands and how it is folded.

    `lanes` are those of the operands as their producers write them; `folding` is None unless given.
    """

    graph: Graph
    step: Step
    lanes: tuple[int, ...]
    folding: Folding | None

    @property
    def name(self) -> str:
        """Name of the step and of its own unit."""
        return self.step.name

    @property
    def op(self) -> IntegerOp:
        """The first node's op."""
        return cast("IntegerOp", self.step.nodes[0].op)

    @property
    def inputs(self) -> tuple[Value, ...]:
        """All operands, constants too."""
        return self.graph.arguments(self.step.nodes[0])

    @property
    def result(self) -> Value:
        """What the step computes."""
        return self.graph.value(self.step.writes[0])

    def numbers(self) -> dict[str, int]:
        """Literal arguments of the kernel by name."""
        arguments = self.step.call.arguments
        return {a.name: int(getattr(a, "value", 0)) for a in arguments if hasattr(a, "kind")}

    def refuse(self, what: str, hint: str) -> NoIntegerForm:
        """An error that names the step."""
        at = ", ".join(self.step.origin.names) or self.name
        return NoIntegerForm(f"{what} on an FPGA", at=at, hint=hint)

    def fold(self, *, pe: int, simd: int = 1, default: int = 1) -> Folding:
        """The folding given, checked against what it must divide; else `default` elements a word."""
        if self.folding is None:
            return Folding(default if pe % default == 0 else 1)
        for key, have, whole in (("pe", self.folding.pe, pe), ("simd", self.folding.simd, simd)):
            if have < 1 or whole % have:
                raise BadOption(
                    f"a folding does not divide the layer `{self.name}`",
                    at=f"folding, {self.name}.{key}",
                    have=str(have),
                    want=", ".join(str(n) for n in range(1, whole + 1) if whole % n == 0),
                )
        return self.folding

    def end(self, value: Value, lanes: int) -> End:
        """A value of the graph as an end."""
        return End(value.name, lanes, value.interval, value.type.size)


def drafts(place: Place) -> list[Draft]:
    """The units of one step.

    Raises:
        NoIntegerForm: the step has no form as a dataflow unit.
        BadOption: its folding does not divide.
    """
    op = place.op
    match place.step.call.stem:
        case "dense":
            return [_dense(place)]
        case "conv" | "depthwise":
            return _conv(place, cast("IntConv", op))
        case "conv_transpose":
            return _conv_transpose(place, cast("IntConvTranspose", op))
        case "requantize":
            assert isinstance(op, Requantize)
            return [_map(place, requantized(op, place.inputs[0].interval))]
        case "clamp":
            assert isinstance(op, Clamp)
            return [_map(place, clamped(place.inputs[0].interval, op.lo, op.hi))]
        case "lookup" | "channel_lookup" | "prelu":
            return [_map(place, _tabulated(place))]
        case "add" | "mul" | "chain" | "minmax":
            return [_pair(place, cast("Pairwise", op))]
        case "maxpool":
            return _maxpool(place, cast("IntMaxPool", op))
        case "average":
            return _average(place)
        case "sum" | "extreme" | "arg":
            return [_block(place)]
        case "softmax":
            return [_softmax(place)]
        case "concat":
            return [_concat(place, cast("IntConcat", op))]
        case "copy":
            return [_copy(place, cast("IntCopy", op))]
        case "pad":
            return [_frame(place, cast("IntPad", op))]
        case stem:
            raise place.refuse(f"`{stem}` has no form", "compile for a microcontroller, or cut the model there")


# ---- sums of products


def _store(place: Place, acc: Value) -> Store:
    """What the step does with its sums."""
    if len(place.step.nodes) == 1:
        return as_it_is(acc.interval)
    return requantized(cast("Requantize", place.step.nodes[1].op), acc.interval)


@dataclass(frozen=True, slots=True)
class _Products:
    """Weights ``[O, K]`` and bias ``[O]`` of sums over operands in `x`, with all types proven."""

    weights: IntArray
    bias: IntArray
    x: Interval

    def fields(self) -> dict[str, object]:
        """The fields that all units with sums have."""
        codes = Interval.of(self.weights)
        lo, hi = min(self.x.lo, 0), max(self.x.hi, 0)
        positive = np.maximum(self.weights, 0).sum(axis=1)
        negative = np.minimum(self.weights, 0).sum(axis=1)
        low, high = self.bias + positive * lo + negative * hi, self.bias + positive * hi + negative * lo
        return {
            "weights": Constant(self.weights),
            "bias": Constant(self.bias),
            "x": self.x.int_type(),
            "weight": codes.int_type(),
            "acc": Interval(int(low.min()), int(high.max())).int_type(),
            "product": narrowest(self.x * codes),
            "arithmetic": _arithmetic(self.weights),
        }


def _arithmetic(weights: IntArray) -> str:
    if set(np.unique(weights).tolist()) <= {-1, 1}:
        return "signs"
    return "planes" if Interval.of(weights).int_type().width <= 2 else "multiply"


def _array(value: Value) -> IntArray:
    assert value.constant is not None
    return value.constant.array.astype(np.int64)


def _dense(place: Place) -> Draft:
    x, w, bias = place.inputs
    acc = place.graph.value(place.step.nodes[0].outputs[0])
    rows = math.prod(x.shape[:-1])
    fold = place.fold(pe=w.shape[0], simd=w.shape[1])
    products = _Products(_array(w), _array(bias), x.interval)
    unit = units.Dense(
        rows=rows, groups=1, store=_store(place, acc), pe=fold.pe, simd=fold.simd, **products.fields()
    )  # pyright: ignore[reportArgumentType]
    return Draft(place.name, unit, (place.end(x, fold.simd),), (place.end(place.result, fold.pe),))


def rows_first(window: Slide, spatial: Sequence[int]) -> tuple[Slide, tuple[int, int]]:
    """The same window over rows and columns: a signal becomes a column, of one element a row."""
    if len(spatial) == 2:
        return window, (spatial[0], spatial[1])
    one, zero = (1,), (0,)
    flat = Slide(
        window.kernel + one, window.strides + one, window.before + zero, window.after + zero, window.dilations + one
    )
    return flat, (spatial[0], 1)


def window_unit(
    place: Place, slide: Slide, x: Value, *, groups: int, words: int, lanes: int, fill: int
) -> Draft:
    """The unit that sends every window over `x`; padding is `fill`."""
    bounds = x.interval.union(Interval(fill, fill)) if slide.padded else x.interval
    return _slide(place, slide, x.shape[1:-1], bounds, place.end(x, lanes), (groups, words, fill))


def _slide(
    place: Place,
    slide: Slide,
    spatial: Sequence[int],
    bounds: Interval,
    operand: End,
    rest: tuple[int, int, int],
) -> Draft:
    """The same over a map of `spatial` elements that `operand` brings; `rest` is groups, words, fill."""
    window, size = rows_first(slide, spatial)
    rows, columns = window.outputs(size)
    groups, words, fill = rest
    unit = units.Window(
        size=size,
        outputs=(rows, columns),
        kernel=(window.kernel[0], window.kernel[1]),
        strides=(window.strides[0], window.strides[1]),
        dilations=(window.dilations[0], window.dilations[1]),
        before=(window.before[0], window.before[1]),
        groups=groups,
        words=words,
        lanes=operand.lanes,
        elem=bounds.int_type(),
        fill=fill,
    )
    name = f"{place.name}_window"
    elements = rows * columns * groups * window.taps * words * operand.lanes
    return Draft(name, unit, (operand,), (End(name, operand.lanes, bounds, elements, between=True),))


def _conv(place: Place, op: IntConv) -> list[Draft]:
    """A window, then sums over its words; the operand's zero point goes into the bias and the padding."""
    x, w, bias = place.inputs
    if x.shape[0] != 1:
        raise place.refuse("a batch of more than one has no form", "export the model for a batch of one")
    acc = place.graph.value(place.step.nodes[0].outputs[0])
    codes = _array(w)
    if place.step.call.stem == "depthwise":
        codes = np.moveaxis(codes, -1, 0)
    rows = codes.reshape(codes.shape[0], -1)
    bounds = x.interval.union(Interval(op.zero, op.zero)) if op.window.padded else x.interval
    products = _Products(rows, _array(bias) - op.zero * rows.sum(axis=1), bounds)
    depth = x.shape[-1] // op.groups
    alone = depth == 1 and rows.shape[0] == op.groups
    fold = place.fold(pe=rows.shape[0] if alone else rows.shape[0] // op.groups, simd=1 if alone else depth)
    positions = math.prod(place.result.shape[:-1])
    lanes = fold.pe if alone else fold.simd
    groups, words = (op.groups // lanes, 1) if alone else (op.groups, depth // lanes)
    window = window_unit(place, op.window, x, groups=groups, words=words, lanes=lanes, fill=op.zero)
    store = _store(place, acc)
    if alone:
        unit: Unit = units.Depthwise(rows=positions, store=store, pe=fold.pe, **products.fields())  # pyright: ignore[reportArgumentType]
    else:
        unit = units.Dense(
            rows=positions, groups=op.groups, store=store, pe=fold.pe, simd=fold.simd, **products.fields()
        )  # pyright: ignore[reportArgumentType]
    return [window, Draft(place.name, unit, window.writes, (place.end(place.result, fold.pe),))]


def _conv_transpose(place: Place, op: IntConvTranspose) -> list[Draft]:
    """Zeros between the elements, then a convolution with the taps reversed."""
    x, w, bias = place.inputs
    codes = _array(w)
    window, before, after = op.spread.as_convolution(x.shape[1:-1])
    if x.shape[0] != 1 or min(before + after) < 0:
        raise place.refuse(
            "a transposed convolution of a batch, or that cuts its border, has no form",
            "export it for a batch of one, with paddings below the size of the kernel",
        )
    lanes = math.gcd(place.lanes[0], x.shape[-1] // op.groups)
    spread = _spread(place, op, before, after, lanes)
    for axis in range(1, codes.ndim - 1):
        codes = np.flip(codes, axis)
    rows = np.ascontiguousarray(codes).reshape(codes.shape[0], -1)
    bounds = x.interval.union(Interval(op.zero, op.zero))
    products = _Products(rows, _array(bias) - op.zero * rows.sum(axis=1), bounds)
    depth = x.shape[-1] // op.groups
    fold = place.fold(pe=rows.shape[0] // op.groups, simd=depth)
    wide = tuple(n * s for n, s in zip(x.shape[1:-1], op.spread.window.strides, strict=True))
    wide = tuple(n + b + a for n, b, a in zip(wide, before, after, strict=True))
    end = replace(spread.writes[0], lanes=fold.simd)
    slide = _slide(place, window, wide, bounds, end, (op.groups, depth // fold.simd, op.zero))
    acc = place.graph.value(place.step.nodes[0].outputs[0])
    unit = units.Dense(
        rows=math.prod(place.result.shape[:-1]),
        groups=op.groups,
        store=_store(place, acc),
        pe=fold.pe,
        simd=fold.simd,
        **products.fields(),
    )  # pyright: ignore[reportArgumentType]
    return [spread, slide, Draft(place.name, unit, slide.writes, (place.end(place.result, fold.pe),))]


def _spread(
    place: Place, op: IntConvTranspose, before: Sequence[int], after: Sequence[int], lanes: int
) -> Draft:
    """The operand with its zero point between its elements and around them."""
    x = place.inputs[0]
    strides = op.spread.window.strides
    words = x.shape[-1] // lanes
    axes = zip(x.shape[1:-1], strides, before, after, strict=True)
    whole = (*(n * s + b + a for n, s, b, a in axes), words)
    bounds = x.interval.union(Interval(op.zero, op.zero))
    sizes = (*x.shape[1:-1], words)
    unit = units.Frame((*before, 0), sizes, whole, (*strides, 1), op.zero, bounds.int_type(), lanes)
    name = f"{place.name}_spread"
    return Draft(name, unit, (place.end(x, lanes),), (End(name, lanes, bounds, math.prod(whole) * lanes, between=True),))


# ---- windows without weights


def _maxpool(place: Place, op: IntMaxPool) -> list[Draft]:
    """The largest of each window; padding is the least element there is."""
    x = place.inputs[0]
    pe = place.fold(pe=x.shape[-1], default=place.lanes[0]).pe
    words = x.shape[-1] // pe
    window = window_unit(place, op.window, x, groups=words, words=1, lanes=pe, fill=x.interval.lo)
    rows = math.prod(place.result.shape[:-1])
    store, kind = as_it_is(x.interval), x.interval.int_type()
    unit = units.Reduce("max", rows, words, op.window.taps, kind, kind, store, pe)
    return [window, Draft(place.name, unit, window.writes, (place.end(place.result, pe),))]


def _average(place: Place) -> list[Draft]:
    """The sum of each window, rounded once."""
    x, op = place.inputs[0], place.op
    if not isinstance(op, IntAverage):
        raise place.refuse(
            "an average that onnxruntime adds in float32 has no form",
            "use a global average, or set the option semantics to dyadic",
        )
    counts = np.unique(counts_of(op.window, op.edge, x.shape[1:-1]))
    if counts.size != 1:
        raise place.refuse(
            "an average whose windows count different numbers of elements has no form",
            "count the padding, or choose one that does not reach beyond the edge",
        )
    pe = place.fold(pe=x.shape[-1], default=place.lanes[0]).pe
    words = x.shape[-1] // pe
    window = window_unit(place, op.window, x, groups=words, words=1, lanes=pe, fill=op.zero)
    taps = op.window.taps
    bounds = x.interval.union(Interval(op.zero, op.zero)) if op.window.padded else x.interval
    start, total = -op.zero * taps, (bounds - op.zero) * taps
    offset = (op.result.zero_point << op.shift) + (1 << (op.shift - 1))
    form = MulShift(op.multipliers[int(counts[0]) - op.least], op.shift, offset)
    store = mulshift([form], ((total.lo, total.hi),), op.lo, op.hi)
    rows = math.prod(place.result.shape[:-1])
    acc = _partial_sums(bounds, taps, start)
    unit = units.Reduce("sum", rows, words, taps, bounds.int_type(), acc, store, pe, start=start)
    return [window, Draft(place.name, unit, window.writes, (place.end(place.result, pe),))]


def _partial_sums(x: Interval, count: int, start: int) -> IntType:
    whole = x.union(Interval(0, 0)) * count + start
    return whole.union(Interval(start, start)).int_type()


def _block(place: Place) -> Draft:
    """The middle of ``[outer, n, inner]``: the results of all inner elements are held."""
    x, op = place.inputs[0], place.op
    assert isinstance(op, IntSum | IntExtreme | IntArgExtreme)
    outer, n, inner = op.block.outer, op.block.n, op.block.inner
    pe = place.fold(pe=inner, default=place.lanes[0]).pe
    ends = (place.end(x, pe),), (place.end(place.result, pe),)
    folds, kind = inner // pe, x.interval.int_type()
    match op:
        case IntSum():
            start = -op.zero * n
            acc = place.graph.value(place.step.nodes[0].outputs[0])
            sums = _partial_sums(x.interval, n, start)
            unit: Unit = units.Reduce(
                "sum", outer, folds, n, kind, sums, _store(place, acc), pe, held=True, start=start
            )
        case IntExtreme():
            name = "max" if op.largest else "min"
            unit = units.Reduce(name, outer, folds, n, kind, kind, as_it_is(x.interval), pe, held=True)
        case IntArgExtreme():
            relation = (">" if op.largest else "<") + ("=" if op.last else "")
            unit = units.Arg(relation, outer, folds, n, kind, pe)
    return Draft(place.name, unit, *ends)


def _softmax(place: Place) -> Draft:
    x, table = place.inputs
    op = place.op
    assert isinstance(op, IntSoftmax | OnnxruntimeSoftmax)
    if op.block.inner != 1:
        raise place.refuse("a softmax along another than the last axis has no form", "transpose it before export")
    n = place.numbers()
    entries = _array(table)
    storage = op.result.storage
    exact = isinstance(op, OnnxruntimeSoftmax)
    unit = units.Softmax(
        rows=op.block.outer,
        count=op.block.n,
        x=x.interval.int_type(),
        table=Constant(entries if exact else entries[::-1]),
        form="float" if exact else "table",
        factor=n["factor"] if exact else 1 << 8,
        zero=n["zero"],
        lo=n.get("lo", storage.min),
        hi=n["hi"],
    )
    return Draft(place.name, unit, (place.end(x, 1),), (place.end(place.result, 1),))


# ---- element by element


def _map(place: Place, store: Store) -> Draft:
    x, y = place.inputs[0], place.result
    channels = x.shape[-1] if store.per_channel else x.type.size
    pe = place.fold(pe=channels, default=place.lanes[0]).pe
    folds = channels // pe if store.per_channel else 1
    unit = units.Map(x.type.size // pe, folds, x.interval.int_type(), store, pe)
    return Draft(place.name, unit, (place.end(x, pe),), (place.end(y, pe),))


def _tabulated(place: Place) -> Store:
    """Any function of one narrow operand and of the channel: its definition on all codes that occur."""
    x, *parameters = place.inputs
    if x.elem.storage.width > _NARROW:
        raise place.refuse("a function of a wide operand has no form", "quantize its operand to 8 bits")
    channels = 1 if place.step.call.stem == "lookup" else x.shape[-1]
    codes = np.arange(x.interval.lo, x.interval.hi + 1, dtype=np.int64)
    grid = np.broadcast_to(codes[:, None], (len(codes), channels))
    (table,) = place.op.reference(grid, *(_array(p) for p in parameters))
    return looked_up(x.interval, np.ascontiguousarray(table.T), x.interval.lo)


# ---- pairs


def _pair(place: Place, op: Pairwise) -> Draft:
    a, b = place.inputs
    sizes = op.axes.sizes
    dense = row_major(sizes)
    repeated = [_repeated_axes(place, strides, dense) for strides in (op.axes.left, op.axes.right)]
    outer = max(repeated)
    if min(repeated) > 0:
        raise place.refuse("operands that are repeated in turn have no form", "expand one operand before export")
    row = math.prod(sizes[outer:])
    held = None if outer == 0 else repeated.index(outer)
    fixed = next((i for i, v in enumerate((a, b)) if v.constant is not None), None)
    streams = [v for v in (a, b) if v.constant is None]
    if held is not None and fixed is not None and held != fixed:
        raise place.refuse("a constant that is larger than its operand has no form", "expand the operand before export")
    width = row if outer else (a.shape[-1] if a.shape else 1)
    pe = place.fold(pe=width, default=max(place.lanes)).pe
    rows, folds = math.prod(sizes) // row, row // pe
    constant = None if fixed is None else Constant(_array((a, b)[fixed]).reshape(1, -1))
    if constant is not None and constant.array.shape[1] != row:
        constant = Constant(np.broadcast_to(constant.array, (1, row)))
    form, numbers, product, store = _pair_form(place, op, a, b)
    unit = units.Pair(
        form=form,
        rows=rows,
        folds=folds,
        a=a.interval.int_type(),
        b=b.interval.int_type(),
        product=product.int_type(),
        store=store,
        pe=pe,
        numbers=numbers,
        constant=constant,
        constant_first=fixed == 0,
        held=held if fixed is None else None,
    )
    return Draft(place.name, unit, tuple(place.end(v, pe) for v in streams), (place.end(place.result, pe),))


def _repeated_axes(place: Place, strides: Sequence[int], dense: Sequence[int]) -> int:
    """How many leading axes repeat the operand; the others must lie as in memory."""
    outer = next((i for i, s in enumerate(strides) if s), len(strides))
    if tuple(strides[outer:]) != tuple(dense[outer:]):
        raise place.refuse(
            "an operand that is repeated along an inner axis has no form",
            "expand it before export, or give it one element per channel",
        )
    return outer


def _pair_form(
    place: Place, op: Pairwise, a: Value, b: Value
) -> tuple[str, tuple[tuple[str, int], ...], Interval, Store]:
    """Form, its numbers, the range of what is stored, and how it is stored."""
    traits, n = dict(place.step.call.traits), place.numbers()
    match (place.step.call.stem, traits["form"]):
        case (_, "max" | "min" as form):
            both = a.interval.union(b.interval)
            return form, (), both, as_it_is(both)
        case ("add" | "chain", "narrow" | "wide"):
            total = a.interval * n["ma"] + b.interval * n["mb"]
            numbers = (("ma", n["ma"]), ("mb", n["mb"]))
            return "linear", numbers, total, _shifted(place, 1, n, total)
        case ("mul", "narrow" | "wide"):
            product = (a.interval - n["zero_a"]) * (b.interval - n["zero_b"])
            numbers = (("zero_a", n["zero_a"]), ("zero_b", n["zero_b"]))
            return "product", numbers, product, _shifted(place, n["multiplier"], n, product)
        case _:
            return _pair_table(place, op, a, b)


def _shifted(place: Place, multiplier: int, n: dict[str, int], x: Interval) -> Store:
    total = (x * multiplier + n["offset"]).union(x * multiplier)
    column = [Constant(np.array([v], np.int64)) for v in (multiplier, n["offset"], n["shift"])]
    return Store(
        "mulshift",
        place.result.interval.int_type(),
        n["lo"],
        n["hi"],
        multiplier=column[0],
        offset=column[1],
        shift=column[2],
        total=total.int_type(),
    )


def _pair_table(
    place: Place, op: Pairwise, a: Value, b: Value
) -> tuple[str, tuple[tuple[str, int], ...], Interval, Store]:
    """The definition on all pairs that occur, for float chains that no formula equals."""
    if max(a.elem.storage.width, b.elem.storage.width) > _NARROW:
        raise place.refuse("a function of two wide operands has no form", "quantize the operands to 8 bits")
    left, right = (np.arange(v.interval.lo, v.interval.hi + 1, dtype=np.int64) for v in (a, b))
    table: NDArray[np.int64] = op.codes(left[:, None], right[None, :]).reshape(1, -1)
    numbers = (("low_a", a.interval.lo), ("low_b", b.interval.lo), ("count_b", len(right)))
    index = Interval(0, table.size - 1)
    return "table", numbers, index, looked_up(index, table, 0)


# ---- moves


def _concat(place: Place, op: IntConcat) -> Draft:
    parts = place.inputs
    if any(v.constant is not None for v in parts):
        raise place.refuse("a constant operand of Concat has no form", "fold the constant into the layers that read it")
    counts = [math.prod(v.shape[op.axis :]) for v in parts]
    lanes = place.fold(pe=math.gcd(*counts), default=math.gcd(*place.lanes)).pe
    outer = math.prod(place.result.shape[: op.axis])
    unit = units.Concat(outer, tuple(c // lanes for c in counts), place.result.interval.int_type(), lanes)
    return Draft(place.name, unit, tuple(place.end(v, lanes) for v in parts), (place.end(place.result, lanes),))


def _copy(place: Place, op: IntCopy) -> Draft:
    (x,) = place.inputs
    whole = math.gcd(op.sizes[-1], op.offset, x.type.size, *op.strides[:-1]) if op.strides[-1] == 1 else 1
    lanes = place.fold(pe=whole, default=math.gcd(place.lanes[0], whole)).pe
    sizes = (*op.sizes[:-1], op.sizes[-1] // lanes)
    strides = (*(s // lanes for s in op.strides[:-1]), op.strides[-1])
    unit = units.Copy(
        x.type.size // lanes, sizes, strides, op.offset // lanes, x.interval.int_type(), lanes
    )
    return Draft(place.name, unit, (place.end(x, lanes),), (place.end(place.result, lanes),))


def _frame(place: Place, op: IntPad) -> Draft:
    (x,) = place.inputs
    whole = math.gcd(op.before[-1], x.shape[-1], op.after[-1])
    lanes = place.fold(pe=whole, default=math.gcd(place.lanes[0], whole)).pe
    before, sizes, wide = ((*w[:-1], w[-1] // lanes) for w in (op.before, x.shape, place.result.shape))
    one = (1,) * len(sizes)
    unit = units.Frame(before, sizes, wide, one, op.code, place.result.interval.int_type(), lanes)
    return Draft(place.name, unit, (place.end(x, lanes),), (place.end(place.result, lanes),))
