"""What the tests of element-moving ops share: import of one node, and the three witnesses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from binpoint import ort
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import evaluate
from binpoint.ir.exchange import OnnxNode, OnnxWriter, Tensor
from binpoint.ir.graph import Graph, Value
from binpoint.ir.op import FloatOp, IntegerOp, Semantics
from binpoint.ir.verify import verify
from binpoint.lower.to_integers import ToIntegers
from binpoint.numeric.fixed import FixedType, FloatType, TensorType
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.target import load_target

Array = NDArray[Any]


def imported(
    kind: type[FloatOp],
    op: str,
    operands: Sequence[tuple[int, ...] | Array | None],
    *,
    outputs: int = 1,
    opset: int = 21,
    domain: str = "",
    types: Mapping[int, FixedType] | None = None,
    codes: Sequence[int] = (),
    **attributes: Any,
) -> Graph:
    """The float graph of one node: shapes are inputs `x0`, `x1`, …, arrays constants."""
    graph = Graph("one")
    build = GraphBuilder(graph, op)
    known = types or {}
    values: list[Value | None] = []
    for index, operand in enumerate(operands):
        if operand is None:
            values.append(None)
        elif isinstance(operand, tuple):
            source = TensorType(operand, FloatType())
            values.append(build.input(f"x{index}", source, fixed=known.get(index)))
        else:
            values.append(build.constant(operand, fixed=known.get(index), hint=f"c{index}"))
    names = ["" if v is None else v.name for v in values]
    results = tuple(f"y{i}" for i in range(outputs))
    proto = helper.make_node(op, names, list(results), domain=domain, name="node", **attributes)
    flags = tuple(i in codes for i in range(len(values)))
    node = OnnxNode(proto, tuple(values), opset, 0, results, flags)
    found = kind.from_onnx(node, build)
    graph.outputs = tuple(v.name for v in found)
    return graph


def run_float(graph: Graph, inputs: Sequence[Array]) -> list[Array]:
    """Results of a float graph."""
    arrays = evaluate(graph, dict(zip(graph.inputs, inputs, strict=True)))
    return [arrays[name] for name in graph.outputs]


def same_as_runtime(
    kind: type[FloatOp],
    op: str,
    operands: Sequence[tuple[int, ...] | Array | None],
    rng: np.random.Generator,
    *,
    outputs: int = 1,
    opset: int = 21,
    exact: bool = True,
    **attributes: Any,
) -> Graph:
    """Import a node and compare its float reference with onnxruntime."""
    graph = imported(kind, op, operands, outputs=outputs, opset=opset, **attributes)
    given = [rng.normal(size=o).astype(np.float32) if isinstance(o, tuple) else o for o in operands]
    inputs = [
        g for g, o in zip(given, operands, strict=True) if isinstance(o, tuple) and g is not None
    ]
    wanted = ort.evaluate(op, given, outputs=outputs, opset=opset, **attributes)
    for found, want in zip(run_float(graph, inputs), wanted, strict=True):
        assert found.shape == want.shape
        if exact:
            np.testing.assert_array_equal(found, want)
        else:
            np.testing.assert_allclose(found, want, rtol=0, atol=2e-5)
    return graph


def typed(graph: Graph, types: Mapping[str, FixedType]) -> Graph:
    """A copy with types on inputs and results by name; ops that keep their type pass it on."""
    from dataclasses import replace

    graph = graph.copy()
    for name, kind in types.items():
        graph.set_value(replace(graph.value(name), fixed=kind))
    return graph


def lowered(graph: Graph, semantics: Semantics) -> Graph:
    """The integer graph."""
    context = Context(load_target("host"), CompileOptions(semantics=semantics.value))
    result = ToIntegers().run(graph.copy(), context)
    verify(result, "integer")
    return result


def codes_for(graph: Graph, rng: np.random.Generator) -> dict[str, Array]:
    """Random codes for every input, the ends of the range among them."""
    arrays: dict[str, Array] = {}
    for name in graph.inputs:
        value = graph.value(name)
        storage = value.elem.storage
        codes = rng.integers(storage.min, storage.max, value.shape, endpoint=True)
        flat = codes.reshape(-1)
        flat[:2] = [storage.min, storage.max][: flat.size]
        arrays[name] = codes
    return arrays


def witnessed(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Evaluate an integer graph; every value must equal that of the ONNX check graph."""
    arrays = evaluate(graph, inputs)
    writer = OnnxWriter()
    tensors: dict[str, Tensor] = {}
    for value in graph.values():
        if value.constant is not None:
            tensors[value.name] = writer.const(value.constant.array)
    for name in graph.inputs:
        tensors[name] = Tensor(name, graph.value(name).shape, graph.value(name).interval)
    computed: list[str] = []
    for node in graph.nodes():
        assert isinstance(node.op, IntegerOp)
        results = node.op.to_onnx(writer, *(tensors[name] for name in node.inputs))
        for name, tensor in zip(node.outputs, results, strict=True):
            assert tensor.shape == graph.value(name).shape
            tensors[name] = tensor
            computed.append(name)
    session = ort.plain(_model(writer, graph, [tensors[n].name for n in computed]))
    found = session.run({n: np.asarray(a, np.int64) for n, a in inputs.items()})
    for name in computed:
        want = (
            found[tensors[name].name] if tensors[name].name in found else inputs[tensors[name].name]
        )
        np.testing.assert_array_equal(arrays[name], want, err_msg=name)
    return arrays


def _model(writer: OnnxWriter, graph: Graph, outputs: Sequence[str]) -> Any:
    infos = [
        helper.make_tensor_value_info(
            n, helper.np_dtype_to_tensor_dtype(np.dtype(np.int64)), graph.value(n).shape
        )
        for n in graph.inputs
    ]
    made = {o for node in writer.nodes for o in node.output}
    results = [helper.make_empty_tensor_value_info(n) for n in dict.fromkeys(outputs) if n in made]
    body = helper.make_graph(
        writer.nodes, "check", infos, results, list(writer.initializers.values())
    )
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(body, opset_imports=domains, ir_version=10)
