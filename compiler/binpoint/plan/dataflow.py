"""design(): Graph[INTEGER] → Design."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from binpoint import toml
from binpoint.errors import BadOption, NoIntegerForm
from binpoint.ir.graph import Graph, Node
from binpoint.ir.names import prefix_of, unique
from binpoint.numeric.interval import Interval
from binpoint.ops.copy import IntCopy, IntReshape, transposed
from binpoint.options import CompileOptions
from binpoint.plan import units
from binpoint.plan.bipolar import bipolar_values
from binpoint.plan.design import Design, Folding, Layer, Stream, StreamPort, Style
from binpoint.plan.fuse import Step, fuse
from binpoint.plan.layers import drafts
from binpoint.plan.parallel import parallel
from binpoint.plan.place import Draft, End, Place
from binpoint.plan.shifts import without_multipliers
from binpoint.plan.store import as_it_is
from binpoint.target import FpgaTarget

_SLACK = 2
_RESERVED = frozenset(
    {
        *("begin", "case", "end", "entity", "in", "inout", "input"),
        *("module", "out", "output", "port", "reg", "signal", "wire"),
    }
)
"""Words of hardware languages, which tools would rename."""


def design(
    graph: Graph,
    target: FpgaTarget,
    options: CompileOptions,
    folding: Mapping[str, Folding] | None = None,
    style: Style = Style.STREAM,
) -> Design:
    """Units joined by streams, folded as given (by layer name), else with one element at a time.

    Every stream is as deep as an inference has words, which no order of execution can exceed.

    Raises:
        NoIntegerForm: an op has no form as a unit.
        BadOption: a folding names no layer or does not divide it; or the style is parallel and the
            design is folded, too large, or more than dense layers.
    """
    bare = options.multipliers == "none"
    builder = _Builder(graph, folding or {}, target.interface.beat_bits, bare)
    made = builder.build(options.name or prefix_of(graph.name))
    return made if style is Style.STREAM else parallel(made, folding or {})


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a value's words come from: the index of a draft; None for an input."""

    draft: int | None
    end: End


@dataclass(slots=True)
class _Builder:
    graph: Graph
    folding: Mapping[str, Folding]
    beat_bits: int
    bare: bool
    drafts: list[Draft] = field(default_factory=list[Draft])
    steps: dict[str, Step] = field(default_factory=dict[str, Step])
    sources: dict[str, _Source] = field(default_factory=dict[str, _Source])
    roots: dict[str, str] = field(default_factory=dict[str, str])
    orders: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    layers: list[Layer] = field(default_factory=list[Layer])
    streams: dict[str, Stream] = field(default_factory=dict[str, Stream])
    taken: set[str] = field(default_factory=set[str])
    bipolar: frozenset[str] = frozenset()

    def build(self, name: str) -> Design:
        """Draft every step, then connect."""
        for value in self.graph.inputs:
            self._input(value)
        steps = fuse(self.graph)
        self.bipolar = bipolar_values(self.graph, steps)
        for step in steps:
            self._step(step)
        self._check_names()
        readers = self._readers()
        ends = self._connect(readers)
        return Design(
            name,
            self.graph,
            tuple(self._ordered()),
            self.streams,
            self._inputs(ends),
            self._outputs(ends),
        )

    # ---- drafting

    def _input(self, name: str) -> None:
        value = self.graph.value(name)
        self.sources[name] = _Source(None, End(name, 1, value.interval, value.type.size))

    def _step(self, step: Step) -> None:
        op, result = step.nodes[0].op, step.writes[0]
        root = self._root(step.reads[0]) if step.reads else ""
        if len(step.nodes) == 1 and self._moves_nothing(step.nodes[0]):
            self.roots[result] = root
            return
        order = self._border(step) if isinstance(op, IntCopy) else None
        if order is not None:
            self.roots[result], self.orders[result] = root, order
            return
        lanes = tuple(self.sources[self._root(n)].end.lanes for n in step.reads)
        place = Place(self.graph, step, lanes, self.folding.get(step.name), self.bipolar)
        for draft in drafts(place):
            for end in draft.writes:
                self.sources[end.value] = _Source(len(self.drafts), end)
            unit = without_multipliers(draft.unit) if self.bare else draft.unit
            self.drafts.append(replace(draft, unit=unit))
            self.steps[draft.name] = step

    def _root(self, value: str) -> str:
        while value in self.roots:
            value = self.roots[value]
        return value

    def _moves_nothing(self, node: Node) -> bool:
        """Whether the result has the operand's elements in the same order."""
        if isinstance(node.op, IntReshape):
            return True
        if not isinstance(node.op, IntCopy):
            return False
        size = self.graph.arguments(node)[0].type.size
        plain = (node.op.sizes, node.op.strides, node.op.offset) == ((size,), (1,), 0)
        return plain and self._root(node.inputs[0]) not in self.graph.inputs

    def _border(self, step: Step) -> tuple[int, ...] | None:
        """The order of a transposition right at an input or output, which is left to the host."""
        (x,), (y,) = self.graph.arguments(step.nodes[0]), self.graph.results(step.nodes[0])
        alone = self.graph.sole_consumer(x.name) is not None
        first = x.name in self.graph.inputs and y.name not in self.graph.outputs
        last = y.name in self.graph.outputs and x.name not in self.graph.inputs
        if not alone or not (first or last) or len(x.shape) > len(y.shape):
            return None
        orders = itertools.permutations(range(len(x.shape)))
        return next((o for o in orders if transposed(x, o) == step.nodes[0].op), None)

    def _check_names(self) -> None:
        known = [draft.name for draft in self.drafts if draft.name in self.steps]
        for name in self.folding:
            if name not in known:
                raise BadOption(
                    f"a folding names the layer `{name}`, which is not there",
                    hint=toml.nearest(name, known),
                )

    # ---- connecting

    def _readers(self) -> dict[str, list[tuple[int, int]]]:
        """For each value: the drafts that read it, by index and operand; outputs as -1."""
        readers: dict[str, list[tuple[int, int]]] = {name: [] for name in self.sources}
        for index, draft in enumerate(self.drafts):
            for position, end in enumerate(draft.reads):
                readers[end.value if end.between else self._root(end.value)].append(
                    (index, position)
                )
        for index, name in enumerate(self.graph.outputs):
            readers[self._root(name)].append((-1, index))
        return readers

    def _connect(self, readers: Mapping[str, list[tuple[int, int]]]) -> dict[tuple[int, int], str]:
        """Make all streams; returns the one of each reader, and for inputs (-2, index) theirs."""
        ends: dict[tuple[int, int], str] = {}
        writes: dict[int, list[str]] = {}
        for value, source in self.sources.items():
            wanted, end = readers[value], source.end
            if source.draft is None:
                if not wanted:
                    raise NoIntegerForm(
                        "an input that nothing reads has no port on an FPGA",
                        at=self.graph.value(value).source or value,
                        hint="remove it from the model",
                    )
                lanes = [self._lanes(reader, end) for reader in wanted]
                end = replace(end, lanes=port_lanes(math.gcd(*lanes), end.bounds, self.beat_bits))
            first = self._stream(end)
            if source.draft is None:
                ends[-2, self.graph.inputs.index(value)] = first
            else:
                writes.setdefault(source.draft, []).append(first)
            branches = self._forked(value, end, first, len(wanted))
            for reader, branch in zip(wanted, branches, strict=True):
                ends[reader] = self._adapted(branch, self._lanes(reader, end))
        self._drain(ends)
        for index, draft in enumerate(self.drafts):
            reads = tuple(ends[index, position] for position in range(len(draft.reads)))
            self.layers.append(self._layer(draft, reads, tuple(writes[index])))
        return ends

    def _layer(self, draft: Draft, reads: tuple[str, ...], writes: tuple[str, ...]) -> Layer:
        step = self.steps[draft.name]
        own = draft.name == step.name
        nodes = tuple(n.name for n in step.nodes) if own else ()
        formulas = [step.call.formula, *(str(getattr(n.op, "formula", "")) for n in step.nodes[1:])]
        shown = tuple(f for f in formulas if f) if own else ()
        return Layer(draft.name, draft.unit, reads, writes, nodes, step.origin, shown)

    def _lanes(self, reader: tuple[int, int], source: End) -> int:
        index, position = reader
        if index == -1:
            return self._port_lanes(source)
        return self.drafts[index].reads[position].lanes

    def _port_lanes(self, end: End) -> int:
        """As the producer writes them, if a beat of the port has room."""
        return port_lanes(end.lanes, end.bounds, self.beat_bits)

    def _stream(self, end: End, lanes: int | None = None) -> str:
        name = unique(f"s_{end.value}", self.taken)
        self.taken.add(name)
        width = lanes or end.lanes
        words = end.elements // width
        value = "" if end.between else end.value
        elem = end.bounds.int_type()
        bits, depth = value in self.bipolar, max(words, _SLACK)
        self.streams[name] = Stream(name, value, elem, end.bounds, width, words, depth, bits)
        return name

    def _forked(self, value: str, end: End, stream: str, count: int) -> list[str]:
        """One stream for each reader."""
        if count <= 1:
            return [stream] * count
        branches = [self._stream(end) for _ in range(count)]
        unit = units.Fork(end.elements // end.lanes, count, end.bounds.int_type(), end.lanes)
        self.layers.append(Layer(f"{value}_fork", unit, (stream,), tuple(branches)))
        return branches

    def _adapted(self, stream: str, lanes: int) -> str:
        """The same elements in words of `lanes`: at most two units, by way of a common divisor."""
        have = self.streams[stream]
        if have.lanes == lanes:
            return stream
        common = math.gcd(have.lanes, lanes)
        if common not in (have.lanes, lanes):
            return self._adapted(self._adapted(stream, common), lanes)
        elements = have.lanes * have.words
        end = End(
            have.value or stream.removeprefix("s_"), lanes, have.bounds, elements, not have.value
        )
        result = self._stream(end)
        unit = units.Lanes(elements, have.lanes, lanes, have.elem)
        name = f"{result}_lanes"
        self.layers.append(Layer(name, unit, (stream,), (result,)))
        return result

    def _drain(self, ends: dict[tuple[int, int], str]) -> None:
        """An output that is an input gets a unit of its own between the two ports."""
        inputs = {stream for (kind, _), stream in ends.items() if kind == -2}
        for (kind, index), stream in list(ends.items()):
            if kind != -1 or stream not in inputs:
                continue
            have = self.streams[stream]
            end = End(have.value, have.lanes, have.bounds, have.lanes * have.words)
            result = self._stream(end)
            unit = units.Map(have.words, 1, have.elem, as_it_is(have.bounds), have.lanes)
            self.layers.append(Layer(f"{result}_through", unit, (stream,), (result,)))
            ends[kind, index] = result

    def _ordered(self) -> list[Layer]:
        """Each layer after those it reads from, by name among equals."""
        written = {s: layer.name for layer in self.layers for s in layer.writes}
        rest = {layer.name: layer for layer in self.layers}
        order: list[Layer] = []
        while rest:
            ready = [
                layer
                for layer in rest.values()
                if not any(written.get(s) in rest for s in layer.reads)
            ]
            order.extend(rest.pop(layer.name) for layer in ready)
        return order

    # ---- ports

    def _inputs(self, ends: Mapping[tuple[int, int], str]) -> tuple[StreamPort, ...]:
        ports: list[StreamPort] = []
        names = self._port_names([self.graph.value(n).source or n for n in self.graph.inputs])
        for index, value in enumerate(self.graph.inputs):
            moved = next(
                (v for v, root in self.roots.items() if root == value and v in self.orders), value
            )
            source = self.graph.value(value).source or value
            order = self.orders.get(moved, ())
            ports.append(StreamPort(names[index], source, moved, ends[-2, index], order))
        return tuple(ports)

    def _outputs(self, ends: Mapping[tuple[int, int], str]) -> tuple[StreamPort, ...]:
        ports: list[StreamPort] = []
        sources = self.graph.output_names or self.graph.outputs
        names = self._port_names(sources)
        for index, (value, source) in enumerate(zip(self.graph.outputs, sources, strict=True)):
            order = self.orders.get(value, ())
            carried = self.roots[value] if order else value
            ports.append(StreamPort(names[index], source, carried, ends[-1, index], order))
        return tuple(ports)

    def _port_names(self, sources: Sequence[str]) -> list[str]:
        names: list[str] = []
        for source in sources:
            word = f"{source}_port" if source in _RESERVED else source
            names.append(unique(word, self.taken))
            self.taken.add(names[-1])
        return names


def port_lanes(lanes: int, bounds: Interval, beat_bits: int) -> int:
    """Elements of a beat of a port, for words of `lanes` behind it: as many as it has room for.

    A power of two, as the widths of DMAs are.
    """
    return math.gcd(lanes, max(1, beat_bits // slot_bits(bounds.int_type().width)))


def slot_bits(width: int) -> int:
    """Bits that an element takes in a beat of a port: 8, 16, 32 or 64."""
    return max(8, 1 << (width - 1).bit_length())
