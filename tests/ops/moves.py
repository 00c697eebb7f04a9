"""What tests of single operators share: import, witnesses, the run of the user's model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from binpoint import ort
from binpoint.emit.mcu_c import render
from binpoint.frontend.layout import SinkTransposes
from binpoint.frontend.types import PropagateTypes
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph, Value
from binpoint.ir.onnx_node import OnnxNode
from binpoint.ir.op import IntegerOp, Reader
from binpoint.ir.verify import verify
from binpoint.lower.simplify import MergeClamps, ProveRequantizers, SimplifyIntegers
from binpoint.lower.to_integers import ToIntegers
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import FixedType, FloatType, IntType, TensorType
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.passes.manager import Pipeline, run
from binpoint.plan.arrange import arrange
from binpoint.sim.check_graph import run_onnx, write_onnx
from binpoint.sim.host_c import run_host
from binpoint.target import load_target

Array = NDArray[Any]
Operand = tuple[int, ...] | Array | None
"""The shape of an input, a constant, or an operand that is left out."""


def kind(storage: IntType, scale: float, zero: int = 0) -> FixedType:
    """A per-tensor type with a float32 scale."""
    return FixedType.per_tensor(storage, Dyadic.from_float(float(np.float32(scale))), zero)


@dataclass(frozen=True)
class Case:
    """One ONNX node: its class here, its operands, its attributes."""

    op: str
    importer: type[Reader]
    operands: tuple[Operand, ...]
    outputs: int = 1
    opset: int = 21
    attributes: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def names(self) -> list[str]:
        """The operands' names in ONNX; empty where left out."""
        return ["" if o is None else f"x{i}" for i, o in enumerate(self.operands)]

    def results(self) -> list[str]:
        """The results' names in ONNX."""
        return [f"y{i}" for i in range(self.outputs)]

    def node(self) -> NodeProto:
        """The ONNX node."""
        attributes = dict(self.attributes)
        return helper.make_node(self.op, self.names(), self.results(), name="node", **attributes)

    def graph(
        self,
        types: Mapping[int, FixedType] | None = None,
        result: FixedType | None = None,
        codes: Sequence[int] = (),
    ) -> Graph:
        """The float graph; operands get `types` by index, results `result`."""
        graph = Graph("one")
        build = GraphBuilder(graph, "node")
        known = types or {}
        values: list[Value | None] = []
        for index, operand in enumerate(self.operands):
            if operand is None:
                values.append(None)
            elif isinstance(operand, tuple):
                shape = TensorType(operand, FloatType())
                values.append(build.input(f"x{index}", shape, fixed=known.get(index)))
            else:
                values.append(build.constant(operand, fixed=known.get(index), hint=f"x{index}"))
        flags = tuple(i in codes for i in range(len(values)))
        results = tuple(self.results())
        node = OnnxNode(self.node(), tuple(values), self.opset, 0, results, flags)
        found = self.importer.from_onnx(node, build)
        for value in found:
            current = graph.value(value.name)
            graph.set_value(replace(current, fixed=result or current.fixed))
        graph.outputs = tuple(v.name for v in found)
        return graph

    def runtime(self, inputs: Sequence[Array]) -> list[Array]:
        """What onnxruntime computes in float32."""
        rest = iter(inputs)
        given = [next(rest) if isinstance(o, tuple) else o for o in self.operands]
        named = {n: a for n, a in zip(self.names(), given, strict=True) if a is not None}
        return list(ort.run_node(self.node(), named, self.opset))

    def run_float(self, inputs: Sequence[Array]) -> list[Array]:
        """What the float ops compute."""
        graph = self.graph()
        arrays = evaluate(graph, dict(zip(graph.inputs, inputs, strict=True)))
        return [arrays[name] for name in graph.outputs]

    def samples(self, rng: np.random.Generator) -> list[Array]:
        """Random float32 inputs."""
        shapes = [o for o in self.operands if isinstance(o, tuple)]
        return [rng.normal(size=shape).astype(np.float32) for shape in shapes]

    def quantized_model(self, types: Mapping[int, FixedType], result: FixedType) -> ModelProto:
        """DequantizeLinear, the node, QuantizeLinear."""
        nodes: list[NodeProto] = []
        constants: list[TensorProto] = []
        infos: list[Any] = []
        for index, operand in enumerate(self.operands):
            if operand is None or (isinstance(operand, np.ndarray) and index not in types):
                if operand is not None:
                    constants.append(numpy_helper.from_array(operand, f"x{index}"))
                continue
            constants += _quantizer(types[index], f"x{index}")
            code = helper.np_dtype_to_tensor_dtype(types[index].storage.dtype)
            if isinstance(operand, tuple):
                infos.append(helper.make_tensor_value_info(f"q{index}", code, operand))
            else:
                constants.append(numpy_helper.from_array(operand, f"q{index}"))
            axis = types[index].axis
            quantizers = [f"q{index}", f"x{index}_scale", f"x{index}_zero"]
            node = helper.make_node("DequantizeLinear", quantizers, [f"x{index}"])
            if axis is not None:
                node.attribute.append(helper.make_attribute("axis", axis))
            nodes.append(node)
        nodes.append(self.node())
        outputs: list[Any] = []
        for name in self.results():
            constants += _quantizer(result, name)
            quantizers = [name, f"{name}_scale", f"{name}_zero"]
            nodes.append(helper.make_node("QuantizeLinear", quantizers, [f"{name}_q"]))
            code = helper.np_dtype_to_tensor_dtype(result.storage.dtype)
            outputs.append(helper.make_tensor_value_info(f"{name}_q", code, None))
        body = helper.make_graph(nodes, "user", infos, outputs, constants)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(body, opset_imports=opsets, ir_version=10)


def _quantizer(kind: FixedType, name: str) -> list[TensorProto]:
    scales = np.array([float(s) for s in kind.scales], np.float32)
    zeros = np.array(kind.zero_points * (len(scales) // len(kind.zero_points)), kind.storage.dtype)
    if kind.axis is None:
        scales, zeros = scales.reshape(()), zeros.reshape(())
    return [
        numpy_helper.from_array(scales, f"{name}_scale"),
        numpy_helper.from_array(zeros, f"{name}_zero"),
    ]


def runtime_codes(
    case: Case,
    types: Mapping[int, FixedType],
    result: FixedType,
    codes: Mapping[str, Array],
) -> list[Array]:
    """The results of the quantized model in onnxruntime."""
    session = ort.reference(case.quantized_model(types, result))
    feeds = {
        f"q{i}": codes[f"x{i}"].astype(types[i].storage.dtype)
        for i, operand in enumerate(case.operands)
        if isinstance(operand, tuple)
    }
    found = session.run(feeds)
    return [found[f"{name}_q"].astype(np.int64) for name in case.results()]


def lowered(graph: Graph, semantics: Literal["dyadic", "onnxruntime"]) -> Graph:
    """The integer graph by the passes that every model goes through."""
    context = Context(load_target("host"), CompileOptions(semantics=semantics))
    typed = run(Pipeline(SinkTransposes(), PropagateTypes()), graph, context)
    verify(typed, "typed")
    integer = Pipeline(ToIntegers(), MergeClamps(), SimplifyIntegers(), ProveRequantizers())
    return run(integer, typed, context)


def codes_for(graph: Graph, rng: np.random.Generator) -> dict[str, Array]:
    """Random codes for every input, the ends of the range among them."""
    found: dict[str, Array] = {}
    for name in graph.inputs:
        value = graph.value(name)
        low, high = value.elem.storage.min, value.elem.storage.max
        codes = rng.integers(low, high, value.shape, endpoint=True)
        codes.reshape(-1)[:2] = [low, high][: codes.size]
        found[name] = codes
    return found


def agreed(graph: Graph, rng: np.random.Generator, *, count: int = 3) -> None:
    """Interpreter, check graph in onnxruntime and C under sanitizers give the same values."""
    samples = [codes_for(graph, rng) for _ in range(count)]
    options = CompileOptions()
    program = arrange(graph, options)
    project = render(program, load_target("host"), options)
    checked = run_onnx(write_onnx(graph, deep=True), graph, samples)
    emitted = run_host(program, project, options, samples, deep=True)
    for sample, onnx_values, c_values in zip(samples, checked, emitted, strict=True):
        arrays = evaluate(graph, sample)
        assert set(graph.outputs) <= set(c_values)
        for witness in (onnx_values, c_values):
            for name, array in witness.items():
                np.testing.assert_array_equal(arrays[name], array.reshape(arrays[name].shape), name)


def results(graph: Graph, codes: Mapping[str, Array]) -> list[Array]:
    """Outputs of an integer graph."""
    arrays = evaluate(graph, codes)
    return [arrays[name] for name in graph.outputs]


def ops(graph: Graph) -> list[IntegerOp]:
    """The ops of an integer graph, in order."""
    return [node.op for node in graph.nodes() if isinstance(node.op, IntegerOp)]
