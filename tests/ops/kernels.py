"""A bench for integer ops: the interpreter, the check graph and sanitized C must agree."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from binpoint.emit.mcu_c import render
from binpoint.emit.project import Project
from binpoint.ir.build import GraphBuilder
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph, Value
from binpoint.ir.op import FloatOp, IntArray, IntegerOp, Limits, Semantics, Site
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import FixedType, IntType, TensorType
from binpoint.options import CompileOptions
from binpoint.plan.arrange import arrange
from binpoint.plan.program import Program
from binpoint.sim.check_graph import run_onnx, write_onnx
from binpoint.sim.host_c import WARNINGS, run_host
from binpoint.target import load_target

Arrays = Sequence[npt.NDArray[np.int64]]


class Bench:
    """An integer graph under test; its inputs are given as arrays of codes, in order."""

    def __init__(self) -> None:
        """Start with an empty graph."""
        self.graph = Graph("bench")
        self.build = GraphBuilder(self.graph, "op")

    def input(self, shape: Sequence[int], kind: FixedType) -> Value:
        """A graph input of an integer type."""
        return self.build.input("x", TensorType(tuple(shape), kind))

    def lower(
        self,
        op: FloatOp,
        inputs: Sequence[Value],
        result: FixedType | None,
        semantics: Semantics,
        limits: Limits | None = None,
    ) -> Value:
        """Lower a float op; its result becomes one more output."""
        shapes = tuple(kind.shape for kind in op.infer(*inputs))
        origin = self.build.origin
        site = Site("op", tuple(inputs), (result,), shapes, semantics, limits or Limits(), origin)
        (value,) = op.lower(site, self.build)
        assert value.shape == shapes[0]
        assert result in (None, value.elem)
        self.graph.outputs = (*self.graph.outputs, value.name)
        return value

    def ops(self) -> list[IntegerOp]:
        """All ops, in order."""
        return [node.op for node in self.graph.nodes() if isinstance(node.op, IntegerOp)]

    def prove(self) -> list[str]:
        """Give every op that can be proved its proved form; returns the names of the forms."""
        forms: list[str] = []
        for node in self.graph.nodes():
            proved = getattr(node.op, "proved", None)
            if proved is not None:
                op = proved()
                forms.append(op.form.name)
                self.graph.replace(replace(node, op=op))
        return forms

    def codes(self, rng: np.random.Generator) -> list[npt.NDArray[np.int64]]:
        """Codes for every input, of all its range."""
        return [
            random_codes(rng, v.shape, v.elem.storage)
            for v in (self.graph.value(name) for name in self.graph.inputs)
        ]

    def reference(self, arrays: Arrays) -> list[IntArray]:
        """The outputs by the interpreter, which also checks bounds."""
        values = evaluate(self.graph, dict(zip(self.graph.inputs, arrays, strict=True)))
        return [values[name] for name in self.graph.outputs]

    def witness(self, arrays: Arrays) -> list[npt.NDArray[np.generic]]:
        """The outputs of the check graph, run by onnxruntime."""
        sample = dict(zip(self.graph.inputs, arrays, strict=True))
        (found,) = run_onnx(write_onnx(self.graph), self.graph, [sample])
        return [found[name] for name in self.graph.outputs]

    def project(self) -> tuple[Program, Project]:
        """The emitted C."""
        program = arrange(self.graph, CompileOptions())
        return program, render(program, load_target("host"), CompileOptions())

    def run_c(self, arrays: Arrays) -> list[npt.NDArray[np.generic]]:
        """The outputs of the emitted C, built under sanitizers."""
        program, project = self.project()
        sample = dict(zip(self.graph.inputs, arrays, strict=True))
        (found,) = run_host(program, project, CompileOptions(), [sample])
        return [found[name] for name in self.graph.outputs]

    def warns(self, compiler: str, folder: Path) -> str:
        """What a compiler says to the emitted C."""
        self.project()[1].write(folder)
        flags = ("-std=c99", "-fsyntax-only", *WARNINGS)
        sources = sorted(folder.glob("*.c"))
        words = [compiler, *flags, *(str(s) for s in sources)]
        return subprocess.run(words, capture_output=True, text=True, check=False).stderr

    def agree(self, arrays: Arrays) -> list[IntArray]:
        """The outputs, after checking that all three are equal."""
        expected = self.reference(arrays)
        for other in (self.witness(arrays), self.run_c(arrays)):
            for found, wanted in zip(other, expected, strict=True):
                np.testing.assert_array_equal(found, wanted)
        return expected


def random_codes(
    rng: np.random.Generator, shape: Sequence[int], storage: IntType
) -> npt.NDArray[np.int64]:
    """Codes of a type, all of its range."""
    return rng.integers(storage.min, storage.max + 1, tuple(shape), dtype=np.int64)


def random_type(rng: np.random.Generator, storage: IntType, size: float = 1.0) -> FixedType:
    """A type with a float32 scale near 2^-6 times `size` and any zero point."""
    scale = np.float32(2.0 ** rng.uniform(-8, -4) * size)
    zero = int(rng.integers(storage.min, storage.max + 1))
    return FixedType.per_tensor(storage, Dyadic.from_float(scale), zero)


def parameters(kind: FixedType) -> list[npt.NDArray[np.generic]]:
    """Scale and zero point as onnxruntime's quantized operators take them."""
    return [
        np.array(float(kind.scale), np.float32),
        np.array(kind.zero_point, kind.storage.dtype),
    ]
