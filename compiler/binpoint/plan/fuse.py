"""Fuse: one call for a producer of sums and the Requantize that reads them.

So no int32 map is stored.
"""

from __future__ import annotations

from dataclasses import dataclass

from binpoint.ir.graph import Graph, Node, Origin, Value
from binpoint.ir.kernel import Buffer, KernelCall
from binpoint.ir.op import IntegerOp
from binpoint.ops.blocks import IntSum
from binpoint.ops.requantize import Requantize


@dataclass(frozen=True, slots=True)
class Modelled:
    """The kernel of a call as prices know it (`plan/bill.py`), and what it is modelled to take."""

    kernel: str
    cycles: int


@dataclass(frozen=True, slots=True)
class Step:
    """One call: the nodes it computes, what it reads and writes.

    `alias` is set for a step without code: its result is its operand's memory. `modelled` is
    what the target's prices make of the call, once its kernel is chosen.
    """

    name: str
    nodes: tuple[Node, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    call: KernelCall
    origin: Origin
    alias: bool = False
    in_place: tuple[str, ...] = ()
    modelled: Modelled | None = None

    @property
    def requantizer(self) -> Requantize | None:
        """What its sums are stored through."""
        op = self.nodes[1].op if len(self.nodes) > 1 else None
        return op if isinstance(op, Requantize) else None


def fuse(graph: Graph) -> tuple[Step, ...]:
    """All steps in the graph's order."""
    steps: list[Step] = []
    done: set[str] = set()
    groups = AliasGroups(graph)
    for node in graph.nodes():
        if node.name in done:
            continue
        step = _step(graph, node, groups)
        done.update(n.name for n in step.nodes)
        steps.append(step)
    return tuple(steps)


class AliasGroups:
    """Values that share memory: at most one of them is the caller's, an input or an output."""

    def __init__(self, graph: Graph) -> None:
        """Start with every value alone."""
        self._graph = graph
        self._root: dict[str, str] = {}
        self._foreign: set[str] = {*graph.inputs, *graph.outputs}

    def root(self, value: Value) -> str:
        """The first of the values that share its memory."""
        return self._root.get(value.name, value.name)

    def join(self, operand: Value, result: Value) -> bool:
        """Let `result` share the memory of `operand`, if it may."""
        if operand.constant is not None:
            return False
        root = self.root(operand)
        if result.name in self._foreign and root in self._foreign:
            return False
        self._root[result.name] = root
        if result.name in self._foreign:
            self._foreign.add(root)
        return True


def _step(graph: Graph, node: Node, groups: AliasGroups) -> Step:
    assert isinstance(node.op, IntegerOp)
    inputs, outputs = graph.arguments(node), graph.results(node)
    call = node.op.kernel(inputs, outputs)
    reads = tuple(dict.fromkeys(v.name for v in inputs if v.constant is None))
    follower = graph.sole_consumer(node.outputs[0]) if len(node.outputs) == 1 else None
    if follower is not None and _fuses(node.op, follower.op):
        assert isinstance(follower.op, Requantize)
        (result,) = graph.results(follower)
        call = call.fused(
            follower.op.epilogue(), Buffer("y", result.name, result.elem.storage, written=True)
        )
        return Step(
            node.name, (node, follower), reads, (result.name,), call, node.origin + follower.origin
        )
    alias = node.op.alias() and groups.join(inputs[0], outputs[0])
    places = _in_place(node.op, inputs, outputs[0], groups)
    return Step(node.name, (node,), reads, node.outputs, call, node.origin, alias, places)


def _fuses(op: IntegerOp, follower: object) -> bool:
    """Whether the sums may be requantized as they come; a total knows its channel by its place."""
    if not (op.accumulates and isinstance(follower, Requantize)):
        return False
    return not isinstance(op, IntSum) or follower.channels in (1, op.block.inner)


def _in_place(
    op: IntegerOp, inputs: tuple[Value, ...], result: Value, groups: AliasGroups
) -> tuple[str, ...]:
    """Operands to take over; none whose memory another operand reads in another order."""
    taken = op.in_place()
    others = {groups.root(v) for i, v in enumerate(inputs) if i not in taken}
    found = (inputs[i] for i in taken)
    return tuple(v.name for v in found if same_bytes(v, result) and groups.root(v) not in others)


def same_bytes(a: Value, b: Value) -> bool:
    """Whether a result may lie in an operand's memory, as it takes the same."""
    return (
        a.constant is None
        and a.elem.storage.dtype.itemsize == b.elem.storage.dtype.itemsize
        and a.type.size == b.type.size
    )
