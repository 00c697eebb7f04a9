"""The graph: values and nodes in a bipartite networkx DiGraph, keyed by name.

Payloads (Value, Node) are immutable, the container is not: a pass gets a copy and edits it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from binpoint.errors import InvariantBroken
from binpoint.ir.constant import Constant
from binpoint.ir.names import unique
from binpoint.numeric.fixed import FixedType, IntType, TensorType
from binpoint.numeric.interval import Interval

if TYPE_CHECKING:
    from binpoint.ir.op import FloatOp, IntegerOp

Key = tuple[Literal["value", "node"], str]


@dataclass(frozen=True, slots=True)
class Origin:
    """The ONNX nodes that something came from, for messages and comments."""

    names: tuple[str, ...] = ()

    def __add__(self, other: Origin) -> Origin:
        """Join, keeping the first of equal names."""
        return Origin(tuple(dict.fromkeys(self.names + other.names)))


@dataclass(frozen=True, slots=True)
class Reading:
    """What the stored integers of an output mean: real = (stored - zero point) * scale + offset.

    One entry, or one for each place along `axis`. The numbers are the nearest float64 of exact
    ones.
    """

    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    axis: int

    def spread(self, numbers: tuple[float, ...], rank: int) -> NDArray[np.float64]:
        """Scales or offsets in a shape that broadcasts to the output's."""
        array = np.array(numbers)
        return array.reshape([-1 if i == self.axis else 1 for i in range(rank)])


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor: an input, a constant, or what a node computes.

    In a float graph `fixed` is the integer type given to the value, if any; a constant with `fixed`
    holds stored integers, one without holds real numbers. In an integer graph the type itself is
    fixed and `bounds` is the proven range of the stored integers. `reading` tells what the integers
    of an output mean where their type cannot.
    """

    name: str
    type: TensorType
    fixed: FixedType | None = None
    bounds: Interval | None = None
    constant: Constant | None = None
    source: str = ""
    reading: Reading | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self.type.shape

    @property
    def elem(self) -> FixedType:
        """Element type in an integer graph."""
        if not isinstance(self.type.elem, FixedType):
            raise InvariantBroken(f"value `{self.name}` has no integer type")
        return self.type.elem

    @property
    def interval(self) -> Interval:
        """Proven range of stored integers; at worst that of the storage type."""
        return self.bounds if self.bounds is not None else Interval.of_type(self.elem.storage)


@dataclass(frozen=True, slots=True)
class Node:
    """An op applied to values."""

    name: str
    op: FloatOp | IntegerOp
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    origin: Origin = field(default_factory=Origin)


def _name_of(key: Key) -> str:
    return key[1]


class Graph:
    """A bipartite DiGraph: value → node → value. `Node.inputs` holds the order of operands.

    `output_names` are the model's own names of the outputs, `quantized` tells that the model came
    with quantizers of its own, `rational` that these are of any width and what lies between them is
    exact, `digest` is the SHA-256 of its file, `coded` the inputs that the model itself takes as
    stored integers, with their type, `filled` the values of a quantized model that got their types
    here because the model states none, `figures` what passes found out of their own work, by pass.
    """

    def __init__(self, name: str) -> None:
        """Make an empty graph."""
        self.name = name
        self.inputs: tuple[str, ...] = ()
        self.outputs: tuple[str, ...] = ()
        self.output_names: tuple[str, ...] = ()
        self.quantized = False
        self.rational = False
        self.digest = ""
        self.coded: Mapping[str, IntType] = {}
        self.filled: tuple[str, ...] = ()
        self.figures: Mapping[str, Mapping[str, float]] = {}
        self._graph: nx.DiGraph[Key] = nx.DiGraph()
        self._values: dict[str, Value] = {}
        self._nodes: dict[str, Node] = {}

    def __repr__(self) -> str:
        """Name and size: what a dump of an op that holds a graph shows."""
        return f"Graph({self.name}, {len(self._nodes)} nodes)"

    # ---- reading

    def value(self, name: str) -> Value:
        """The value of this name."""
        return self._values[name]

    def node(self, name: str) -> Node:
        """The node of this name."""
        return self._nodes[name]

    def values(self) -> Iterator[Value]:
        """All values by name."""
        return (self._values[name] for name in sorted(self._values))

    def has_value(self, name: str) -> bool:
        """Whether there is a value of this name."""
        return name in self._values

    def has_node(self, name: str) -> bool:
        """Whether there is a node of this name."""
        return name in self._nodes

    def nodes(self) -> tuple[Node, ...]:
        """All nodes in a topological order that depends on names alone."""
        order = nx.lexicographical_topological_sort(self._graph, key=_name_of)
        return tuple(self._nodes[name] for kind, name in order if kind == "node")

    def producer(self, value: str) -> Node | None:
        """The node that computes a value; None for inputs and constants."""
        for _, name in self._graph.predecessors(("value", value)):
            return self._nodes[name]
        return None

    def consumers(self, value: str) -> tuple[Node, ...]:
        """The nodes that read a value, by name."""
        return tuple(
            self._nodes[name]
            for name in sorted(n for _, n in self._graph.successors(("value", value)))
        )

    def sole_consumer(self, value: str) -> Node | None:
        """The one node that reads a value which is no output, if there is exactly one."""
        readers = self.consumers(value)
        if len(readers) != 1 or value in self.outputs:
            return None
        return readers[0]

    def arguments(self, node: Node) -> tuple[Value, ...]:
        """The values a node reads, in order."""
        return tuple(self._values[name] for name in node.inputs)

    def results(self, node: Node) -> tuple[Value, ...]:
        """The values a node computes, in order."""
        return tuple(self._values[name] for name in node.outputs)

    def fresh(self, text: str) -> str:
        """A name made from `text` that neither a value nor a node has."""
        return unique(text, self._values.keys() | self._nodes.keys())

    def is_acyclic(self) -> bool:
        """Whether there is no cycle."""
        return nx.is_directed_acyclic_graph(self._graph)

    # ---- editing

    def copy(self) -> Graph:
        """A graph of its own that shares the payloads."""
        other = Graph(self.name)
        other.inputs, other.outputs, other.output_names = (
            self.inputs,
            self.outputs,
            self.output_names,
        )
        other.quantized, other.digest, other.coded = self.quantized, self.digest, self.coded
        other.rational, other.filled, other.figures = self.rational, self.filled, self.figures
        other._graph = self._graph.copy()
        other._values = dict(self._values)
        other._nodes = dict(self._nodes)
        return other

    def add_value(self, value: Value) -> Value:
        """Add a value without producer: an input or a constant."""
        if value.name in self._values:
            raise InvariantBroken(f"value `{value.name}` is there already")
        self._values[value.name] = value
        self._graph.add_node(("value", value.name))
        return value

    def add(self, node: Node, results: Iterable[Value]) -> Node:
        """Add a node and the values it computes."""
        if node.name in self._nodes:
            raise InvariantBroken(f"node `{node.name}` is there already")
        for value in results:
            self.add_value(value)
        self._connect(node)
        return node

    def _connect(self, node: Node) -> None:
        """Add a node and its edges, or change nothing."""
        for name in (*node.inputs, *node.outputs):
            if name not in self._values:
                raise InvariantBroken(f"node `{node.name}` names `{name}`, which is not there")
        for name in node.outputs:
            if self.producer(name) is not None:
                raise InvariantBroken(f"value `{name}` has two producers")
        self._nodes[node.name] = node
        self._graph.add_node(("node", node.name))
        self._graph.add_edges_from((("value", name), ("node", node.name)) for name in node.inputs)
        self._graph.add_edges_from((("node", node.name), ("value", name)) for name in node.outputs)

    def remove(self, node: str) -> None:
        """Remove a node; its results stay as values without producer until dropped."""
        self._graph.remove_node(("node", node))
        del self._nodes[node]

    def drop_value(self, name: str) -> None:
        """Remove a value that nobody reads or computes."""
        if self.consumers(name) or self.producer(name) is not None:
            raise InvariantBroken(f"value `{name}` is still in use")
        self._graph.remove_node(("value", name))
        del self._values[name]

    def replace(self, node: Node) -> None:
        """Put a node in place of the one of the same name."""
        self.remove(node.name)
        self._connect(node)

    def set_producer(self, node: Node) -> None:
        """Add a node that computes values which are there and have no producer."""
        if node.name in self._nodes:
            raise InvariantBroken(f"node `{node.name}` is there already")
        self._connect(node)

    def set_value(self, value: Value) -> None:
        """Put a value in place of the one of the same name."""
        if value.name not in self._values:
            raise InvariantBroken(f"value `{value.name}` is not there")
        self._values[value.name] = value

    def rewire(self, old: str, new: str) -> None:
        """Let all readers of `old`, and the outputs, read `new` instead."""
        for node in self.consumers(old):
            inputs = tuple(new if name == old else name for name in node.inputs)
            self.replace(replace(node, inputs=inputs))
        self.outputs = tuple(new if name == old else name for name in self.outputs)

    def rename_value(self, old: str, new: str) -> None:
        """Give a value another name, which no other has."""
        if new in self._values and new != old:
            raise InvariantBroken(f"value `{new}` is there already")
        value = self._values.pop(old)
        self._values[new] = replace(value, name=new)
        nx.relabel_nodes(self._graph, {("value", old): ("value", new)}, copy=False)
        maker = self.producer(new)
        touched = (*self.consumers(new), *((maker,) if maker is not None else ()))
        for node in touched:
            inputs = tuple(new if name == old else name for name in node.inputs)
            outputs = tuple(new if name == old else name for name in node.outputs)
            self._nodes[node.name] = replace(node, inputs=inputs, outputs=outputs)
        self.inputs = tuple(new if name == old else name for name in self.inputs)
        self.outputs = tuple(new if name == old else name for name in self.outputs)

    def bypass(self, node: Node, source: str) -> None:
        """Remove a node of one result; its readers read `source` instead."""
        (result,) = node.outputs
        self.remove(node.name)
        self.rewire(result, source)
        self.drop_value(result)
