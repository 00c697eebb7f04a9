"""Design: layers joined by streams. The only input of emission for FPGAs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from binpoint.ir.graph import Graph, Origin
from binpoint.numeric.fixed import IntType
from binpoint.numeric.interval import Interval
from binpoint.plan.units import Unit


class Style(StrEnum):
    """How layers are joined at the top."""

    STREAM = "stream"
    """By FIFOs, each layer at its own pace; ports are AXI4-Stream."""
    PARALLEL = "parallel"
    """By wires, everything computed at once and a new input every cycle; for small dense nets."""


@dataclass(frozen=True, slots=True)
class Folding:
    """How much of a layer is computed side by side.

    Args:
        pe: output channels; elements of a word for units without sums.
        simd: products of one sum.
    """

    pe: int = 1
    simd: int = 1


@dataclass(frozen=True, slots=True)
class Stream:
    """A FIFO from one layer to one other, or to or from a port of the design.

    Args:
        name: unique, an identifier.
        value: the value of the graph whose elements it carries, in row-major order.
        elem: narrowest type of the elements.
        bounds: their proven range.
        lanes: elements of a word.
        words: words of one inference.
        depth: words that it holds; a writer waits while it is full.
        bipolar: whether a bit is carried in place of each element: 1 for 1, 0 for -1.
    """

    name: str
    value: str
    elem: IntType
    bounds: Interval
    lanes: int
    words: int
    depth: int
    bipolar: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """A unit with the streams it reads and writes, in order.

    Args:
        name: unique; a node's own unit has the node's name, which is also the key of its folding.
        nodes: the nodes of the graph that it computes; none for what only moves words.
        formulas: what it computes, for comments.
    """

    name: str
    unit: Unit
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    nodes: tuple[str, ...] = ()
    origin: Origin = field(default_factory=Origin)
    formulas: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamPort:
    """An input or output of the design.

    Args:
        name: an identifier.
        source: the model's own name.
        value: the value it carries; where `order` is set, that is the model's value transposed so.
        stream: of the design.
        order: of the model's axes, where the transposition is left to the host; else empty.
    """

    name: str
    source: str
    value: str
    stream: str
    order: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Design:
    """Layers in an order in which each comes after those it reads from."""

    name: str
    graph: Graph
    layers: tuple[Layer, ...]
    streams: Mapping[str, Stream]
    inputs: tuple[StreamPort, ...]
    outputs: tuple[StreamPort, ...]
    style: Style = Style.STREAM

    def producer(self, stream: str) -> Layer | None:
        """The layer that writes a stream; None for an input."""
        return next((layer for layer in self.layers if stream in layer.writes), None)

    def consumer(self, stream: str) -> Layer | None:
        """The layer that reads a stream; None for an output."""
        return next((layer for layer in self.layers if stream in layer.reads), None)

    @property
    def interval(self) -> int:
        """Cycles between inferences if no stream ever stalls: the slowest layer's iterations."""
        if self.style is Style.PARALLEL:
            return 1
        return max(layer.unit.iterations for layer in self.layers)

    def with_depths(self, depths: Mapping[str, int]) -> Design:
        """The design with other depths of some streams."""
        streams = {n: replace(s, depth=depths.get(n, s.depth)) for n, s in self.streams.items()}
        return replace(self, streams=streams)
