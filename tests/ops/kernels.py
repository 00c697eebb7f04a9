"""Runs one integer op in every form it has: reference, check graph, and its kernel as C."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import jinja2
import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from binpoint import ort
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import evaluate
from binpoint.ir.exchange import OnnxWriter, Tensor
from binpoint.ir.graph import Graph, Value
from binpoint.ir.kernel import Buffer, KernelCall, Number
from binpoint.ir.op import FloatOp, IntArray, IntegerOp, Limits, Semantics, Site
from binpoint.numeric.fixed import FixedType, IntType, TensorType

TEMPLATES = Path(__file__).resolve().parents[2] / "templates" / "mcu-c"
_RUNTIME = """
#include <stddef.h>
#include <stdint.h>
static inline int32_t bp_asr32(int32_t v, uint32_t s) { return v >> s; }
static inline int64_t bp_asr64(int64_t v, uint32_t s) { return v >> s; }
static inline int32_t bp_clamp(int32_t v, int32_t lo, int32_t hi) {
    return v < lo ? lo : v > hi ? hi : v; }
static inline int32_t bp_clamp64(int64_t v, int32_t lo, int32_t hi) {
    return v < lo ? lo : v > hi ? hi : (int32_t)v; }
static inline int32_t bp_first_tap(int32_t start, int32_t dilation) {
    return start >= 0 ? 0 : (-start + dilation - 1) / dilation; }
static inline int32_t bp_last_tap(int32_t start, int32_t dilation, int32_t size, int32_t taps) {
    const int32_t room = size <= start ? 0 : (size - start + dilation - 1) / dilation;
    return room < taps ? room : taps; }
"""
_FLAGS = (
    "-std=c99 -O1 -shared -fPIC -Wall -Wextra -Wconversion -Wshadow -Wcast-qual -Werror "
    "-Wno-unused-function -fsanitize=undefined -fno-sanitize-recover=all"
).split()


def environment() -> jinja2.Environment:
    """Jinja2 as the emitters set it up."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701  (C, not HTML)
    )


def c_type(elem: IntType) -> str:
    """The C type of stored integers."""
    return f"{'' if elem.signed else 'u'}int{elem.dtype.itemsize * 8}_t"


def render(calls: Sequence[KernelCall]) -> str:
    """One translation unit with the kernels of some calls, each once, not static."""
    env = environment()
    parts = [_RUNTIME, env.get_template("softfloat.h.j2").render()]
    for call in {call.symbol: call for call in calls}.values():
        parameters: list[str] = []
        kernel = SimpleNamespace(
            symbol=call.symbol, traits=SimpleNamespace(**dict(call.traits)), epilogue=call.epilogue
        )
        for argument in call.all_arguments:
            if isinstance(argument, Number):
                parameters.append(f"{argument.kind} {argument.name}")
                continue
            const = "" if isinstance(argument, Buffer) and argument.written else "const "
            ctype = c_type(argument.elem)
            parameters.append(f"{const}{ctype} *{argument.name}")
            shown = SimpleNamespace(ctype=ctype, elem=str(argument.elem))
            setattr(kernel, argument.name, shown)
        kernel.head = f"void {call.symbol}({', '.join(parameters)});\n"
        kernel.head += f"void {call.symbol}({', '.join(parameters)})"
        parts.append(env.get_template(f"ops/{call.stem}.c.j2").render(k=kernel))
    return "\n".join(parts)


def compile_c(text: str, compiler: str = "gcc") -> ctypes.CDLL:
    """Build a shared library under the undefined-behaviour sanitizer."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "kernels.c", Path(folder) / "kernels.so"
        source.write_text(text, encoding="utf-8")
        done = subprocess.run(
            [compiler, *_FLAGS, str(source), "-o", str(library)],
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[:3000]
        return ctypes.CDLL(str(library))


class Bench:
    """An integer graph under test; inputs are given as full arrays of codes."""

    def __init__(self, name: str = "bench") -> None:
        """Start with an empty graph."""
        self.graph = Graph(name)
        self.build = GraphBuilder(self.graph, "op")

    def input(self, shape: tuple[int, ...], kind: FixedType) -> Value:
        """A graph input of an integer type."""
        return self.build.input("x", TensorType(shape, kind))

    def lower(
        self,
        op: FloatOp,
        inputs: Sequence[Value],
        result: FixedType | None,
        semantics: Semantics,
        limits: Limits | None = None,
    ) -> Value:
        """Lower a float op; its result becomes the output."""
        shapes = tuple(kind.shape for kind in op.infer(*inputs))
        limits = limits if limits is not None else Limits()
        origin = self.build.origin
        site = Site("op", tuple(inputs), (result,), shapes, semantics, limits, origin)
        (value,) = op.lower(site, self.build)
        self.graph.outputs = (value.name,)
        return value

    def ops(self) -> list[IntegerOp]:
        """All ops, in order."""
        return [node.op for node in self.graph.nodes() if isinstance(node.op, IntegerOp)]

    def reference(self, arrays: Sequence[npt.NDArray[np.int64]]) -> IntArray:
        """The output by the interpreter, which also checks bounds."""
        named = dict(zip(self.graph.inputs, arrays, strict=True))
        return evaluate(self.graph, named)[self.graph.outputs[0]]

    def witness(self, arrays: Sequence[npt.NDArray[np.int64]]) -> IntArray:
        """The output of the check graph, run by onnxruntime."""
        w = OnnxWriter()
        tensors: dict[str, Tensor] = {}
        for value in self.graph.values():
            if value.constant is not None:
                tensors[value.name] = w.const(value.constant.array.astype(np.int64))
        for name in self.graph.inputs:
            value = self.graph.value(name)
            tensors[name] = Tensor(name, value.shape, value.interval)
        for node in self.graph.nodes():
            assert isinstance(node.op, IntegerOp)
            results = node.op.to_onnx(w, *(tensors[name] for name in node.inputs))
            for value, tensor in zip(self.graph.results(node), results, strict=True):
                assert tensor.shape == value.shape
            tensors.update(zip(node.outputs, results, strict=True))
        output = tensors[self.graph.outputs[0]].name
        info = [
            helper.make_tensor_value_info(n, onnx.TensorProto.INT64, self.graph.value(n).shape)
            for n in self.graph.inputs
        ]
        graph = helper.make_graph(
            w.nodes,
            "check",
            info,
            [helper.make_empty_tensor_value_info(output)],
            [*w.initializers.values()],
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        feed = {n: np.asarray(a, np.int64) for n, a in zip(self.graph.inputs, arrays, strict=True)}
        return ort.plain(model).run(feed)[output]

    def run_c(self, arrays: Sequence[npt.NDArray[np.int64]], compiler: str = "gcc") -> IntArray:
        """The output of the kernels, built under the sanitizer, one call a node."""
        nodes = self.graph.nodes()
        calls: list[KernelCall] = []
        memory: dict[str, npt.NDArray[np.generic]] = {}
        for value in self.graph.values():
            if value.constant is not None:
                memory[value.name] = np.ascontiguousarray(value.constant.array)
            else:
                memory[value.name] = np.zeros(value.shape, value.elem.storage.dtype)
        for name, array in zip(self.graph.inputs, arrays, strict=True):
            memory[name][...] = array
        for node in nodes:
            assert isinstance(node.op, IntegerOp)
            calls.append(node.op.kernel(self.graph.arguments(node), self.graph.results(node)))
        library = compile_c(render(calls), compiler)
        for call in calls:
            _invoke(library, call, memory)
        return memory[self.graph.outputs[0]].astype(np.int64)

    def agree(self, *arrays: npt.NDArray[np.int64], compiler: str = "gcc") -> IntArray:
        """The output, after checking that all three forms are equal."""
        expected = self.reference(arrays)
        np.testing.assert_array_equal(self.witness(arrays), expected)
        np.testing.assert_array_equal(self.run_c(arrays, compiler), expected)
        return expected


def _invoke(
    library: ctypes.CDLL, call: KernelCall, memory: dict[str, npt.NDArray[np.generic]]
) -> None:
    kept: list[npt.NDArray[np.generic]] = []
    arguments: list[object] = []
    for argument in call.all_arguments:
        if isinstance(argument, Number):
            kind = getattr(ctypes, f"c_{argument.kind.removesuffix('_t')}")
            assert kind(argument.value).value == argument.value, f"{argument} does not fit"
            arguments.append(kind(argument.value))
            continue
        array = memory[argument.value] if isinstance(argument, Buffer) else argument.array.array
        array = array if array.dtype == argument.elem.dtype else array.astype(argument.elem.dtype)
        kept.append(array)
        arguments.append(ctypes.c_void_p(array.ctypes.data))
    getattr(library, call.symbol)(*arguments)


def random_codes(
    rng: np.random.Generator, shape: Sequence[int], storage: IntType
) -> npt.NDArray[np.int64]:
    """Codes of a type, all of its range."""
    return rng.integers(storage.min, storage.max + 1, tuple(shape), dtype=np.int64)
