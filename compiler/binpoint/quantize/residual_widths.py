"""residual-widths: sums that only sums and norms read, in 16 bits where the outputs gain by it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import msgspec
import numpy as np

from binpoint.ir.evaluate import constant_array
from binpoint.ir.graph import Graph, Node
from binpoint.ir.op import FloatOp
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I16, FixedType
from binpoint.ops.elementwise import Binary, Kind
from binpoint.ops.exactnorm import most_reach
from binpoint.ops.groupnorm import GroupNorm
from binpoint.ops.layernorm import LayerNorm
from binpoint.passes.base import Context, Effect, Pass, Stage
from binpoint.passes.samples import Samples
from binpoint.quantize.assign_types import AssignTypes, plain_types, set_type
from binpoint.quantize.choose_type import scale_of
from binpoint.quantize.groups import Group, find_groups
from binpoint.quantize.observe import observe
from binpoint.quantize.outputs import Outputs
from binpoint.quantize.weights import replace_operand

_log = logging.getLogger(__name__)
_HEADROOM = 2
"""Of what samples show: the bits are there, and a sum beyond its type saturates."""

WIDE = "wide"
"""The figure that tells how many streams have 16 bits."""


@dataclass(frozen=True, slots=True)
class ResidualWidths(Pass):
    """Give residual sums 16 bits, those that are worth it or, with ``residuals=wide``, all.

    1. A residual sum is a sum or difference of two values that only sums, differences, products of
       elements and norms read, perhaps through ops that move or clamp elements; no output. Those of
       one another form a stream.
    2. A stream's unit is the power of two with which 16 bits, or as many as a norm of long rows
       takes, hold twice what the samples show of any of its sums. A constant that is added has that
       unit, and the scale of another addend is the next multiple of it: such a sum is exact.
    3. ``residuals=auto``: the outputs over `samples` samples are computed with all values rounded
       and all streams wide, and again with one of them as narrow as the rest. It is wide if that
       adds a larger part of the error's power, with all of them narrow, than second bytes of its
       elements add to the bytes that all ops read and write, weights among them. A microcontroller
       that has no room for the second bytes gets narrow ones (`driver.compile_model`).

    How many streams there are and how many became wide are figures of the graph, with
    ``residuals=auto`` also the relative squared errors with all narrow and with all wide.
    Models that came quantized, and those without samples, are left alone.
    """

    name: ClassVar[str] = "residual-widths"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.CHANGES_VALUES
    assigns: ClassVar[bool] = True

    samples: int = 16

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        options, samples = context.options, context.samples
        follows = options.semantics not in ("auto", "dyadic")
        if options.residuals == "narrow" or follows or graph.quantized or graph.rational:
            return graph
        if samples is None or not samples.count:
            return graph
        bare = graph.copy()
        plain_types(bare, options.activation_bits)
        sums = tuple(g for g in find_groups(bare) if _is_residual(bare, g))
        if not sums:
            return graph
        # Biases that make up for narrow sums would be wrong for wide ones.
        plain = msgspec.structs.replace(options, bias_correction=False)
        typed = AssignTypes().run(graph.copy(), replace(context, options=plain))
        trial = _Trial(bare, typed, _streams(graph, sums, samples))
        chosen, errors = trial.streams, dict[str, float]()
        if options.residuals == "auto":
            chosen, errors = trial.worthwhile(samples.spread(self.samples))
        trial.widen(graph, chosen)
        figures = {"streams": len(trial.streams), WIDE: len(chosen), **errors}
        graph.figures = {**graph.figures, self.name: figures}
        return graph


@dataclass(frozen=True, slots=True)
class _Stream:
    """Sums of sums, and their wide type."""

    sums: tuple[Group, ...]
    type: FixedType

    @property
    def members(self) -> tuple[str, ...]:
        """The values that have the type."""
        return tuple(name for group in self.sums for name in group.members)

    def __str__(self) -> str:
        """Its first sum, and how many there are."""
        return f"`{self.members[0]}`, {len(self.sums)} sums"


def _is_residual(graph: Graph, group: Group) -> bool:
    """Rule 1."""
    members = frozenset(group.members)
    if group.constants or not members.isdisjoint((*graph.inputs, *graph.outputs)):
        return False
    for name in group.members:
        producer = graph.producer(name)
        assert producer is not None
        assert isinstance(producer.op, FloatOp)
        moved = producer.op.keeps_type
        if not moved and not _is_sum(producer):
            return False
        for reader in graph.consumers(name):
            assert isinstance(reader.op, FloatOp)
            inside = reader.op.keeps_type and members.issuperset(reader.outputs)
            if not inside and not reader.op.reads_wide:
                return False
    return any(_is_sum(graph.producer(name)) for name in group.members)


def _is_sum(node: Node | None) -> bool:
    return node is not None and isinstance(node.op, Binary) and node.op.kind in (Kind.ADD, Kind.SUB)


def _addends(graph: Graph, group: Group) -> Iterable[tuple[Node, int]]:
    """The operands of the sums of a group."""
    for name in group.members:
        node = graph.producer(name)
        if node is not None and _is_sum(node):
            yield from ((node, index) for index in range(len(node.inputs)))


def _streams(graph: Graph, sums: Sequence[Group], samples: Samples) -> tuple[_Stream, ...]:
    """The streams of sums, by rule 2."""
    of = {name: group for group in sums for name in group.members}
    seen = observe(graph, of, samples, bins=False)
    joined: dict[Group, list[Group]] = {group: [group] for group in sums}
    for group in sums:
        for node, index in _addends(graph, group):
            above = of.get(node.inputs[index])
            if above is not None and joined[above] is not joined[group]:
                joined[group] += joined[above]
                joined |= dict.fromkeys(joined[above], joined[group])
    streams: list[_Stream] = []
    for group, stream in joined.items():
        if group is not stream[0]:
            continue
        ranges = [seen[name].range for part in stream for name in part.members]
        reach = max(max(-r.lo, r.hi) for r in ranges)
        for node, index in (pair for part in stream for pair in _addends(graph, part)):
            addend = graph.value(node.inputs[index])
            if addend.constant is not None:
                reach = max(reach, float(np.abs(constant_array(addend)).max(initial=0.0)))
        unit = scale_of(_HEADROOM * reach / _most_code(graph, stream), power_of_two=True)
        kind = FixedType.per_tensor(I16, Dyadic.from_float(unit))
        streams.append(_Stream(tuple(stream), kind))
    return tuple(streams)


def _most_code(graph: Graph, stream: Sequence[Group]) -> int:
    """The largest code that all readers of a stream can take: a norm of long rows takes less."""
    names = (name for group in stream for name in group.members)
    pairs = ((reader.op, graph.value(name)) for name in names for reader in graph.consumers(name))
    norms = (
        most_reach(op.row_length(x)) for op, x in pairs if isinstance(op, LayerNorm | GroupNorm)
    )
    return min((I16.max, *norms))


@dataclass(frozen=True, slots=True)
class _Trial:
    """A float graph with types that its ops prescribe, with all types narrow, and its streams."""

    real: Graph
    typed: Graph
    streams: tuple[_Stream, ...]

    def widen(self, graph: Graph, chosen: Sequence[_Stream]) -> None:
        """Give sums their wide types, and what is added to them types with the same unit.

        Args:
            graph: changed in place; the real one or a copy of the typed one.
            chosen: of the streams.
        """
        groups = {name: group for group in find_groups(self.real) for name in group.members}
        done = {name for stream in chosen for name in stream.members}
        for stream in chosen:
            unit = stream.type
            for name in stream.members:
                graph.set_value(replace(graph.value(name), fixed=unit))
            for node, index in (pair for part in stream.sums for pair in _addends(self.real, part)):
                addend = self.real.value(node.inputs[index])
                if addend.constant is not None:
                    codes = unit.quantize(constant_array(addend)).astype(unit.storage.dtype)
                    replace_operand(graph, node, index, codes, unit)
                elif addend.name not in done and addend.name in groups:
                    members = groups[addend.name].members
                    self._align(graph, members, unit)
                    done.update(members)

    def _align(self, graph: Graph, names: Iterable[str], unit: FixedType) -> None:
        """Give values that share a type one whose scale is a multiple of a unit."""
        for name in names:
            narrow, real = self.typed.value(name).fixed, self.real.value(name)
            assert narrow is not None
            value = replace(graph.value(name), constant=real.constant)
            set_type(graph, value, _multiple(narrow, unit))

    def worthwhile(self, samples: Samples) -> tuple[tuple[_Stream, ...], dict[str, float]]:
        """The streams that get 16 bits, by rule 3, and the errors with none and all of them."""
        outputs = Outputs(self.real, samples)
        narrow, wide = (self._error(chosen, outputs) for chosen in ((), self.streams))
        whole = _moved(self.real, (v.name for v in self.real.values()))
        chosen: list[_Stream] = []
        for stream in self.streams:
            others = tuple(s for s in self.streams if s is not stream)
            error = self._error(others, outputs) if others else narrow
            gain, cost = error - wide, _moved(self.real, stream.members) / whole
            _log.debug("%s: %.3g of %.3g, for %.3g of the bytes", stream, gain, narrow, cost)
            if gain > cost * narrow:
                chosen.append(stream)
        power = sum(outputs.powers)
        errors = {"error_narrow": narrow, "error_wide": wide} if power else {}
        return tuple(chosen), {name: float(f"{e / power:.4g}") for name, e in errors.items()}

    def _error(self, chosen: Sequence[_Stream], outputs: Outputs) -> float:
        """The power of the outputs' error with these streams wide and all else narrow."""
        graph = self.typed.copy()
        self.widen(graph, chosen)
        return sum(outputs.errors(graph))


def _moved(graph: Graph, names: Iterable[str]) -> int:
    """How often elements of values are written and read, constants among them."""
    values = (graph.value(name) for name in names)
    return sum(v.type.size * ((v.constant is None) + len(graph.consumers(v.name))) for v in values)


def _multiple(kind: FixedType, unit: FixedType) -> FixedType:
    """The type with the next scale that is a multiple of a unit, a power of two if it is one."""
    ratio = kind.scale.as_fraction() / unit.scale.as_fraction()
    factor = math.ceil(ratio)
    if kind.scale.is_power_of_two:
        factor = 1 << (factor - 1).bit_length()
    zero = round(kind.zero_point * ratio / factor)
    return FixedType.per_tensor(kind.storage, Dyadic.of(factor, 0) * unit.scale, zero)
