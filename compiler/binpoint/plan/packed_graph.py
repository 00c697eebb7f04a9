"""The graph with maps packed, layers that touch them in bands of rows; and the way back.

Which maps, and how high the bands, is chosen by `plan/packing.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from binpoint.ir.graph import Graph, Node, Origin, Value
from binpoint.numeric.fixed import TensorType
from binpoint.ops.banded import Banded
from binpoint.ops.packed import PACKED, Digits, IntPack, IntUnpack
from binpoint.ops.patched import Patched, View
from binpoint.plan.fuse import Step
from binpoint.plan.packing import Names, Packing, staged


def with_packed(packing: Packing, packed: Names, rows: Mapping[str, int]) -> Graph:
    """The graph with these maps packed; bands are of `rows` by step."""
    made, digits = packing.graph.copy(), packing.digits
    names: dict[str, str] = {}
    for name in sorted(packed):
        names[name] = made.fresh(f"{name}_packed")
        _ = made.add_value(_bytes(digits, made.value(name), names[name]))
    for step in packing.program.steps:
        touched = packed & {*step.reads, *step.writes}
        if step.name in rows:
            _band(packing, made, step, names, rows[step.name])
        elif touched and staged(step):
            _stage(digits, made, step, names)
        elif touched:
            for name in sorted(touched):
                _unpack_for(digits, made, step.nodes, name, names[name])
    for name, source in names.items():
        # Moves that no step has, as products do them by strides.
        _unpack_for(digits, made, made.consumers(name), name, source)
        made.drop_value(name)
    return made


def _bytes(digits: Mapping[str, Digits], value: Value, name: str) -> Value:
    shape = digits[value.name].packed(value.shape)
    kind = TensorType(shape, PACKED)
    found = replace(value, name=name, type=kind, fixed=None, bounds=None, source="")
    (bounds,) = IntPack(digits[value.name]).bounds(value)
    return replace(found, bounds=bounds)


def _band(packing: Packing, graph: Graph, step: Step, names: dict[str, str], rows: int) -> None:
    """Put a `Banded` node in place of a step's nodes; `graph` is edited."""
    body, digits = Graph(graph.name), packing.digits
    reads = tuple(names.get(n, n) for n in step.reads)
    (result,) = step.writes
    for name in reads:
        value = graph.value(name)
        _ = body.add_value(replace(value, bounds=value.interval))
    for name in step.reads:
        if name in names:
            _unpack(digits, body, names[name], packing.graph.value(name))
    for node in step.nodes:
        for value in packing.graph.arguments(node):
            if value.constant is not None and not body.has_value(value.name):
                _ = body.add_value(value)
        _ = body.add(node, packing.graph.results(node))
    output = names.get(result, result)
    if result in names:
        pack = Node(body.fresh(f"{result}_pack"), IntPack(digits[result]), (result,), (output,))
        _ = body.add(pack, [graph.value(output)])
    body.inputs, body.outputs = reads, (output,)
    _discard(graph, step)
    banded = Node(graph.fresh(f"{step.name}_bands"), Banded(body, rows), reads, (output,))
    graph.set_producer(replace(banded, origin=step.origin))


def _stage(digits: Mapping[str, Digits], graph: Graph, step: Step, names: dict[str, str]) -> None:
    """Let a stage of patches read and write packed maps; `graph` is edited."""
    (node,) = step.nodes
    op, (source,), (result,) = node.op, step.reads, step.writes
    assert isinstance(op, Patched)
    bodies = tuple(body.copy() for body in op.bodies)
    for body in bodies:
        if source in names:
            (codes,) = body.inputs
            whole = body.value(codes)
            bytes_ = graph.value(names[source])
            _ = body.add_value(replace(bytes_, bounds=bytes_.interval))
            unpack = IntUnpack(digits[source], whole.elem)
            fresh = body.fresh(f"{codes}_unpack")
            body.set_producer(Node(fresh, unpack, (bytes_.name,), (codes,)))
            body.inputs = (bytes_.name,)
        if result in names:
            (codes,) = body.outputs
            pack = IntPack(digits[result])
            fresh = body.fresh(f"{codes}_pack")
            output = graph.value(names[result])
            _ = body.add(Node(fresh, pack, (codes,), (output.name,)), [output])
            body.outputs = (output.name,)
    view = View.dense(bodies[0].value(bodies[0].inputs[0]).shape) if source in names else op.view
    inputs, outputs = (names.get(source, source),), (names.get(result, result),)
    graph.remove(node.name)
    made = replace(op, bodies=bodies, view=view)
    graph.set_producer(replace(node, op=made, inputs=inputs, outputs=outputs))


def _unpack(digits: Mapping[str, Digits], graph: Graph, source: str, value: Value) -> None:
    """Add the node that brings a map back, and the map."""
    op = IntUnpack(digits[value.name], value.elem)
    node = Node(graph.fresh(f"{value.name}_unpack"), op, (source,), (value.name,))
    _ = graph.add(node, [replace(value, bounds=value.interval)])


def _unpack_for(
    digits: Mapping[str, Digits], graph: Graph, nodes: Sequence[Node], name: str, source: str
) -> None:
    """Let those of the nodes that read a map read it whole, unpacked for them alone."""
    readers = [node for node in nodes if name in node.inputs]
    if not readers:
        return
    value = graph.value(name)
    own = replace(value, name=graph.fresh(f"{name}_codes"), bounds=value.interval, source="")
    op = IntUnpack(digits[name], value.elem)
    origin = sum((reader.origin for reader in readers), Origin())
    node = Node(graph.fresh(f"{name}_unpack"), op, (source,), (own.name,), origin)
    _ = graph.add(node, [own])
    for reader in readers:
        inputs = tuple(own.name if n == name else n for n in reader.inputs)
        graph.replace(replace(reader, inputs=inputs))


def _discard(graph: Graph, step: Step) -> None:
    """Remove a step's nodes, and the values that are inside of it or read by it alone."""
    names: set[str] = set()
    for node in step.nodes:
        names |= {*node.inputs, *node.outputs}
        graph.remove(node.name)
    for name in sorted(names - {*step.reads, *step.writes}):
        if not graph.consumers(name) and graph.producer(name) is None:
            graph.drop_value(name)


def _unstaged(graph: Graph, node: Node, op: Patched) -> dict[str, str]:
    """Let a stage of patches read and write bytes again; the codes by the name of their bytes."""
    codes: dict[str, str] = {}
    bodies = tuple(_restored(body) for body in op.bodies)
    for body in bodies:
        for inner in body.nodes():
            if isinstance(inner.op, IntPack | IntUnpack):
                body.remove(inner.name)
                (first,), (second,) = inner.inputs, inner.outputs
                if isinstance(inner.op, IntPack):
                    body.outputs, packed, plain = (first,), second, first
                else:
                    body.inputs, packed, plain = (second,), first, second
                body.drop_value(packed)
                codes[packed] = plain
    for body in bodies[:1]:
        for name in codes.values():
            if not graph.has_value(name):
                _ = graph.add_value(body.value(name))
    inputs, outputs = (tuple(codes.get(n, n) for n in ns) for ns in (node.inputs, node.outputs))
    view = View.dense(bodies[0].value(bodies[0].inputs[0]).shape)
    made = replace(op, bodies=bodies, view=view if inputs != node.inputs else op.view)
    graph.remove(node.name)
    graph.set_producer(replace(node, op=made, inputs=inputs, outputs=outputs))
    (bounds,) = made.bounds()
    graph.set_value(replace(graph.value(outputs[0]), bounds=bounds))
    return codes


def _restored(body: Graph) -> Graph:
    """A body of a stage with its bands as layers again."""
    made = body.copy()
    for name in _unbanded(made, body.nodes()):
        made.drop_value(name)
    return made


def _unbanded(graph: Graph, nodes: Sequence[Node]) -> dict[str, str]:
    """Put the layers of bands back; the codes by the name of their bytes."""
    bodies = [(n.name, n.op.body) for n in nodes if isinstance(n.op, Banded)]
    codes: dict[str, str] = {}
    for name, body in bodies:
        graph.remove(name)
        for value in body.values():
            if not graph.has_value(value.name):
                _ = graph.add_value(value)
    for _, body in bodies:
        for node in body.nodes():
            if isinstance(node.op, IntPack):
                codes[node.outputs[0]] = node.inputs[0]
            elif not isinstance(node.op, IntUnpack):
                graph.set_producer(node)
    return codes


def unpacked(graph: Graph) -> Graph:
    """The graph with a byte for every code again: what `with_packed` was made of."""
    made = graph.copy()
    codes = _unbanded(made, graph.nodes())
    for node in graph.nodes():
        if isinstance(node.op, Patched):
            codes |= _unstaged(made, node, node.op)
    for node in made.nodes():
        if isinstance(node.op, IntUnpack):
            made.bypass(node, codes[node.inputs[0]])
    for name in codes:
        made.drop_value(name)
    return made
