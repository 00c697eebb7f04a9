"""A stage's layers between maps of fewer bits, with weights of fewer: what rounds has other scales.

    acc in units of s'·sw':  bias' = rint((bias + (z − zero)·Σw) · s·sw/(s'·sw')) − (z' − zero')·Σw'

for a linear op whose operand changes from (s, z) to (s', z') and its weights from (sw, w) to
(sw', w'); the Requantize behind it is scaled by s'·sw'/(s·sw) and by the ratio of the result's
scales.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeVar

import numpy as np

from binpoint.errors import AccumulatorOverflow
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Node, Value
from binpoint.ir.op import IntegerOp
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I32, FixedType, IntType
from binpoint.numeric.interval import Interval
from binpoint.ops.concat import IntConcat
from binpoint.ops.conv import IntConv, IntDepthwise
from binpoint.ops.dense import IntDense
from binpoint.ops.lookup import IntLookup
from binpoint.ops.pairwise import IntAdd
from binpoint.ops.pooling import IntMaxPool
from binpoint.ops.requantize import DyadicRequantize, OnnxruntimeRequantize, Requantize
from binpoint.ops.rescale import accumulator, dyadic
from binpoint.ops.runtime_pair import OnnxruntimeAdd
from binpoint.quantize.coarsen import recoded, steps_of
from binpoint.quantize.compensate import Rounded

_LINEAR = (IntConv, IntDense)
_ROUNDING = (DyadicRequantize, OnnxruntimeRequantize)
_MOVES = (IntMaxPool, IntConcat)
"""Ops whose operands and result have one type."""
_SUMS = (IntAdd, OnnxruntimeAdd)
_WORD = 2**31 - 1
_BITS = 31
_A = TypeVar("_A")
_B = TypeVar("_B")
Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Maps:
    """Maps of a stage that have one type, by name in order.

    `free` ones may have any type, which what the stage reads may not, as it would be copied for
    that, nor its result; `apart` ones a scale for each channel, as only depthwise convolutions read
    them.
    """

    names: tuple[str, ...]
    free: bool
    apart: bool


def maps_of(body: Graph) -> tuple[Maps, ...]:
    """All maps of a stage in order; sums that are rounded as they come are none."""
    order = [*body.inputs, *(name for node in body.nodes() for name in node.outputs)]
    group = {name: name for name in order if not _is_sum(body, name)}
    for node in body.nodes():
        if isinstance(node.op, _MOVES):
            tied = {group[v.name] for v in body.arguments(node) if v.name in group}
            tied.add(group[node.outputs[0]])
            group = {n: node.outputs[0] if g in tied else g for n, g in group.items()}
    roots = dict.fromkeys(group.values())
    members = {root: tuple(n for n in group if group[n] == root) for root in roots}
    return tuple(
        Maps(names, all(_is_free(body, n) for n in names), _is_apart(body, names))
        for names in members.values()
    )


def _is_apart(body: Graph, names: Sequence[str]) -> bool:
    maker = body.producer(names[0])
    if len(names) > 1 or maker is None or not isinstance(maker.op, _ROUNDING):
        return False
    return all(isinstance(node.op, IntDepthwise) for node in body.consumers(names[0]))


def _is_sum(body: Graph, name: str) -> bool:
    maker = body.producer(name)
    return maker is not None and isinstance(maker.op, IntegerOp) and maker.op.accumulates


def _is_free(body: Graph, name: str) -> bool:
    """Whether all that computes and reads the map can do so in another type."""
    value, maker = body.value(name), body.producer(name)
    if (
        name in (*body.inputs, *body.outputs)
        or value.elem.storage.width > 8
        or value.elem.axis is not None
    ):
        return False
    assert maker is not None
    made = isinstance(maker.op, (*_ROUNDING, *_SUMS, *_MOVES, IntLookup))
    return made and all(_reads(body, node, name) for node in body.consumers(name))


def _reads(body: Graph, node: Node, name: str) -> bool:
    if isinstance(node.op, _LINEAR):
        reader = body.sole_consumer(node.outputs[0])
        return name == node.inputs[0] and reader is not None and isinstance(reader.op, _ROUNDING)
    moved = [v for v in body.arguments(node) if v.constant is None]
    if isinstance(node.op, IntConcat) and len(moved) < len(node.inputs):
        return False
    return isinstance(node.op, (*_SUMS, *_MOVES, IntLookup))


def linear_of(body: Graph) -> tuple[Node, ...]:
    """The layers whose weights may be others, in order: their sums are rounded next."""
    found: list[Node] = []
    for node in body.nodes():
        reader = body.sole_consumer(node.outputs[0]) if isinstance(node.op, _LINEAR) else None
        if reader is not None and isinstance(reader.op, _ROUNDING):
            found.append(node)
    return tuple(found)


def narrowed(
    body: Graph,
    types: Mapping[str, FixedType],
    shifts: Mapping[str, Floats] | None = None,
    weights: Mapping[str, Rounded] | None = None,
) -> Graph:
    """The stage with other types for some maps; the result's stays.

    Args:
        body: a stage.
        types: of maps that are free, those that share a type alike.
        shifts: for a linear op by name, ``[O]``: what is to be added to its sums, in units of the
            stage as it was.
        weights: of the layers of `linear_of`, by name.
    """
    return _Rewriter(body, types, shifts or {}, weights or {}).run()


class _Rewriter:
    def __init__(
        self,
        body: Graph,
        types: Mapping[str, FixedType],
        shifts: Mapping[str, Floats],
        weights: Mapping[str, Rounded],
    ) -> None:
        self.body, self.types, self.shifts, self.weights = body, types, shifts, weights
        self.made = Graph(body.name)
        self.made.inputs, self.made.outputs = body.inputs, body.outputs

    def run(self) -> Graph:
        """The graph, node by node."""
        for value in self.body.values():
            if value.constant is not None or value.name in self.body.inputs:
                _ = self.made.add_value(value)
        for node in self.body.nodes():
            self._add(node, self._op(node))
        for value in list(self.made.values()):
            unused = value.constant is not None and not self.made.consumers(value.name)
            if unused:
                self.made.drop_value(value.name)
        return self.made

    def _add(self, node: Node, change: tuple[IntegerOp, Sequence[Value]]) -> None:
        """A node that computes the same maps, with constants in place of its own."""
        op, constants = change
        if constants:
            moved = node.inputs[: len(node.inputs) - len(constants)]
            node = replace(node, inputs=(*moved, *(v.name for v in constants)))
        operands = self.made.arguments(node)
        results = [
            replace(self.body.value(name), type=kind, bounds=bounds)
            for name, kind, bounds in zip(
                node.outputs, op.infer(*operands), op.bounds(*operands), strict=True
            )
        ]
        _ = self.made.add(replace(node, op=op), results)

    def _kind(self, name: str) -> FixedType:
        """The type of a map that is still to be computed."""
        return self.types.get(name, self.body.value(name).elem)

    def _steps(self, name: str) -> tuple[Fraction, ...]:
        """How many of its old steps a step of the map is, for all or for each channel."""
        old = self.body.value(name).elem
        return (Fraction(1),) if self._kind(name) == old else steps_of(old, self._kind(name))

    def _step(self, name: str) -> Fraction:
        """The same where it is one."""
        (step,) = self._steps(name)
        return step

    def _op(self, node: Node) -> tuple[IntegerOp, Sequence[Value]]:
        """The op between maps of the new types, and constants that replace the last operands."""
        op = node.op
        assert isinstance(op, IntegerOp)
        moved = [v.name for v in self.body.arguments(node) if v.constant is None]
        if not any(n in self.types for n in (*moved, *node.outputs)) and not self._scaled(node):
            return op, ()
        match op:
            case IntConv() | IntDense():
                return self._linear(node, op)
            case DyadicRequantize() | OnnxruntimeRequantize():
                return self._requantize(node, op), ()
            case IntAdd():
                return self._sum(node, op), ()
            case OnnxruntimeAdd():
                a, b = (self.made.value(n) for n in node.inputs)
                kind = self._kind(node.outputs[0])
                lo, hi = self._ends(node, op.lo, op.hi)
                pair = replace(
                    op, a=a.elem, b=b.elem, reach_a=a.interval, reach_b=b.interval,
                    result=kind, lo=lo, hi=hi,
                )  # fmt: skip
                return pair, ()
            case IntLookup():
                return self._lookup(node, op)
            case IntConcat():
                return replace(op, result=self._kind(node.outputs[0])), ()
            case _:
                return op, ()

    def _scaled(self, node: Node) -> bool:
        """Whether the node has or rounds sums whose bias or unit is another now."""
        if not isinstance(node.op, Requantize):
            return node.name in self.shifts or node.name in self.weights
        maker = self.body.producer(node.inputs[0])
        return maker is not None and (maker.inputs[0] in self.types or self._scaled(maker))

    def _linear(self, node: Node, op: IntConv | IntDense) -> tuple[IntegerOp, Sequence[Value]]:
        old, w, bias = self.body.arguments(node)
        new = self.made.value(old.name)
        steps = self._units(node)
        build = GraphBuilder(self.made, f"{node.name}_coarser")
        sums = now_sums = op.rows(w).sum(axis=1)
        other = self.weights.get(node.name)
        if other is not None:
            now_sums = other.codes.sum(axis=1)
            kind = FixedType.per_tensor(IntType(other.bits, signed=True), Dyadic.one())
            codes = op.unrowed(other.codes, w.shape)
            w = build.constant(codes, kind, hint=f"{node.name}_weights")
        assert bias.constant is not None
        was = op.zero if isinstance(op, IntConv) else 0
        padded = isinstance(op, IntConv) and op.window.padded
        now = new.elem.zero_points[0] if padded else 0
        whole = bias.constant.array + (old.elem.zero_point - was) * sums
        whole = whole + self.shifts.get(node.name, 0.0)
        codes = np.rint(whole / np.array([float(s) for s in steps])).astype(np.int64)
        codes -= (new.elem.zero_points[0] - now) * now_sums
        reach = Interval.of(codes)
        if not Interval.of_type(I32).contains(reach):
            raise AccumulatorOverflow("a bias leaves 32 bits", at=node.name, have=str(reach))
        constant = build.constant(codes, bias.elem, hint=f"{node.name}_bias")
        kinds = zip(*_wide(op.result.scales, steps), strict=True)
        units = [_times(scale, step) for scale, step in kinds]
        result = accumulator(units, len(old.shape))
        changed = replace(op, result=result, **({"zero": now} if isinstance(op, IntConv) else {}))
        return changed, (w, constant)

    def _units(self, linear: Node) -> tuple[Fraction, ...]:
        """How many of its old units a unit of the sums is: for all, or for each channel."""
        steps = self._steps(linear.inputs[0])
        if len(steps) > 1:
            (acc,) = self.body.results(linear)
            repeat = acc.shape[-1] // len(steps)
            steps = tuple(step for step in steps for _ in range(repeat))
        other = self.weights.get(linear.name)
        if other is None:
            return steps
        pairs = zip(*_wide(steps, [Fraction(float(s)) for s in other.steps]), strict=True)
        return tuple(a * b for a, b in pairs)

    def _requantize(self, node: Node, op: DyadicRequantize | OnnxruntimeRequantize) -> Requantize:
        (acc,) = node.inputs
        maker = self.made.producer(acc)
        assert maker is not None
        origin = self.body.producer(acc)
        assert origin is not None
        units, steps = _wide(self._units(origin), self._steps(node.outputs[0]))
        ratios = [unit / step for unit, step in zip(units, steps, strict=True)]
        kind = self._kind(node.outputs[0])
        lo, hi = self._ends(node, op.lo, op.hi)
        if isinstance(op, DyadicRequantize):
            was = [Fraction(m, 1 << s) for m, s in zip(op.multipliers, op.shifts, strict=True)]
            pairs = zip(*_wide(was, ratios), strict=True)
            return dyadic([a * b for a, b in pairs], kind, _BITS).clamped(lo, hi)
        linear = maker.op
        assert isinstance(linear, _LINEAR)
        reach = linear.reach(*self.made.arguments(maker))
        pairs = zip(*_wide([Fraction(s) for s in op.scales], ratios), strict=True)
        scales = tuple(float(np.float32(float(a * b))) for a, b in pairs)
        if len(scales) == 1:
            reach = ((min(a for a, _ in reach), max(b for _, b in reach)),)
        return OnnxruntimeRequantize(scales, reach, kind, lo, hi)

    def _ends(self, node: Node, lo: int, hi: int) -> tuple[int, int]:
        """The clamp of a result, in its new codes."""
        old, new = self.body.value(node.outputs[0]).elem, self._kind(node.outputs[0])
        if old == new:
            return lo, hi
        ends = [recoded(np.array([lo, hi]), old, new, step) for step in steps_of(old, new)]
        low, high = min(int(e[0]) for e in ends), max(int(e[1]) for e in ends)
        first, last = old.storage.min, old.storage.max
        return (
            new.storage.min if lo == first else low,
            new.storage.max if hi == last else high,
        )

    def _sum(self, node: Node, op: IntAdd) -> IntAdd:
        a, b = (self.made.value(n) for n in node.inputs)
        kind = self._kind(node.outputs[0])
        down = self._step(node.outputs[0])
        ratios = [
            Fraction(m, 1 << op.shift) * self._step(n) / down
            for m, n in zip((op.ma, op.mb), node.inputs, strict=True)
        ]
        old = zip((a, b), node.inputs, (op.zero_a, op.zero_b), strict=True)
        zeros = [v.elem.zero_point if n in self.types else zero for v, n, zero in old]
        reach = [
            max(abs(v.interval.lo - z), abs(v.interval.hi - z)) + abs(z)
            for v, z in zip((a, b), zeros, strict=True)
        ]
        ma, mb, shift = _multipliers(ratios, reach, abs(kind.zero_point))
        lo, hi = self._ends(node, op.lo, op.hi)
        return IntAdd(op.axes, ma, mb, shift, zeros[0], zeros[1], kind, lo, hi)

    def _lookup(self, node: Node, op: IntLookup) -> tuple[IntegerOp, Sequence[Value]]:
        old, table = self.body.arguments(node)
        new, result = self.made.value(old.name), self.body.value(node.outputs[0])
        storage, kind = new.elem.storage, self._kind(result.name)
        codes = np.arange(storage.min, storage.max + 1)
        assert table.constant is not None
        if new.elem != old.elem:
            codes = recoded(codes, new.elem, old.elem, 1 / self._step(old.name))
        entries = table.constant.array.astype(np.int64)[codes - op.low]
        if kind != result.elem:
            entries = recoded(entries, result.elem, kind, self._step(result.name))
        build = GraphBuilder(self.made, f"{node.name}_coarser")
        constant = build.constant(entries, kind, hint=f"{node.name}_table")
        return IntLookup(kind, storage.min), (constant,)


def _multipliers(
    ratios: Sequence[Fraction], reach: Sequence[int], zero: int
) -> tuple[int, int, int]:
    """The nearest multipliers at the largest shift for which sums stay within 32 bits."""
    for shift in range(30, 0, -1):
        pair = [round(r * 2**shift) for r in ratios]
        total = sum(abs(m) * n for m, n in zip(pair, reach, strict=True))
        if total + ((zero + 1) << shift) <= _WORD:
            return pair[0], pair[1], shift
    return round(2 * ratios[0]), round(2 * ratios[1]), 1


def _wide(first: Sequence[_A], second: Sequence[_B]) -> tuple[list[_A], list[_B]]:
    """Both for as many channels; what there is one of is that of all."""
    count = max(len(first), len(second))
    return [*first] * (count // len(first)), [*second] * (count // len(second))


def _times(scale: Dyadic, ratio: Fraction) -> Dyadic:
    """The product, exact where it is dyadic, else the nearest float."""
    found = scale.as_fraction() * ratio
    if found.denominator & (found.denominator - 1):
        return Dyadic.from_float(float(found))
    return Dyadic.from_fraction(found)
