"""Figures of fidelity: task accuracy over all samples, signal to noise of every value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.errors import InvalidModel, Mismatch, ToolNotFound
from binpoint.ir.evaluate import constant_array, evaluate
from binpoint.ir.graph import Graph
from binpoint.ir.op import FloatOp, Role
from binpoint.numeric.fixed import FixedType
from binpoint.ops.conv_transpose import ConvTranspose
from binpoint.ops.unary import Clip
from binpoint.passes.convert import real, stored_inputs
from binpoint.passes.samples import Samples
from binpoint.report.accuracy import Score, Task, task_of
from binpoint.sim.interface import Codes
from binpoint.sim.source import run_source
from binpoint.sim.verify import Subject, reference

_NOISE_SAMPLES = 20

Outputs = Mapping[str, NDArray[Any]]


def score(subject: Subject, samples: Samples | None) -> Score:
    """Accuracy over all samples, where labels or the shape of the output give it a meaning.

    For a model that came quantized, there is no float model to compare with: `floating` is None.
    """
    task = None if samples is None else task_of(subject.graph, samples)
    if task is None or samples is None:
        return Score()
    graph, name = subject.graph, task.output
    ours = all_outputs(subject, samples)
    integer = task.score([real(graph.value(name), o[name]) for o in ours])
    theirs = _original(subject, task, samples)
    return Score(
        metric=task.metric.value,
        floating=None if graph.quantized else theirs,
        integer=integer,
        onnxruntime=theirs,
        samples=samples.count,
    )


def _original(subject: Subject, task: Task, samples: Samples) -> float | None:
    """The score of the user's own file in onnxruntime, None where that cannot load it."""
    graph = subject.graph
    source = graph.output_names[graph.outputs.index(task.output)]
    value = graph.value(task.output)
    try:
        outputs = [out[source] for out in run_source(subject.model, graph, samples)]
    except InvalidModel:
        return None
    return task.score([o if o.dtype.kind == "f" else real(value, o) for o in outputs])


def all_outputs(subject: Subject, samples: Samples) -> Sequence[Codes]:
    """Output codes of all samples: of the code, or of the interpreter without a host compiler.

    Raises:
        Mismatch: the optimised code differs from the interpreter on the first sample.
    """
    inputs = list(stored_inputs(subject.graph, samples))
    try:
        found = subject.emitted.outputs(inputs)
    except ToolNotFound:
        return reference(subject.graph, inputs)
    first = reference(subject.graph, inputs[:1])[0]
    for name, expected in first.items():
        if not np.array_equal(expected.reshape(-1), found[0][name].reshape(-1)):
            raise Mismatch("the optimised code differs from the interpreter", at=name)
    return found


def noise(floating: Graph, graph: Graph, samples: Samples | None) -> dict[str, float]:
    """Signal to noise in dB of every computed value, by name.

    Args:
        floating: the float graph whose values have the names of the integer graph's.
        graph: the integer graph.
        samples: real inputs; a few are taken.

    Values without counterpart, without signal or without noise are left out.
    """
    if samples is None:
        return {}
    signals: dict[str, float] = {}
    noises: dict[str, float] = {}
    few = samples.spread(_NOISE_SAMPLES)
    for sample, codes in zip(_real_samples(graph, few), stored_inputs(graph, few), strict=True):
        expected, found = _evaluate_real(floating, sample), evaluate(graph, codes)
        for name in _comparable(floating, graph):
            want = np.asarray(expected[_clamped(floating, name)], np.float64)
            have = _dequantized(graph, name, found[name])
            signals[name] = signals.get(name, 0.0) + float(np.sum(want**2))
            noises[name] = noises.get(name, 0.0) + float(np.sum((want - have) ** 2))
    both = [name for name in signals if signals[name] > 0 and noises[name] > 0]
    return {name: round(float(10 * np.log10(signals[name] / noises[name])), 2) for name in both}


def _real_samples(graph: Graph, samples: Samples) -> Iterator[dict[str, NDArray[Any]]]:
    """Inputs of the float graph: reals, also where the model takes stored integers."""
    for sample in samples.inputs():
        yield {
            name: (array if array.dtype.kind == "f" else real(graph.value(name), array)).reshape(
                graph.value(name).shape
            )
            for name, array in sample.items()
        }


def macs(graph: Graph) -> int:
    """Multiply-accumulates with weights in a float graph, taps on the padding among them."""
    total = 0
    for node in graph.nodes():
        assert isinstance(node.op, FloatOp)
        roles = node.op.roles(len(node.inputs))
        weights = [v for v, r in zip(graph.arguments(node), roles, strict=True) if r is Role.WEIGHT]
        spread = isinstance(node.op, ConvTranspose)
        for weight in weights:
            positions = (graph.arguments(node) if spread else graph.results(node))[0].shape[:-1]
            total += prod(positions) * weight.type.size
    return total


def _evaluate_real(graph: Graph, inputs: Outputs) -> dict[str, NDArray[Any]]:
    """Values of a float graph; where it came quantized, saturated as its types are.

    A quantized model relies on that: tools drop a Relu whose lower end the type's range is.
    """
    arrays = dict(inputs)
    for value in graph.values():
        if value.constant is not None:
            arrays[value.name] = constant_array(value)
    for node in graph.nodes():
        assert isinstance(node.op, FloatOp)
        results = node.op.reference(*(arrays[name] for name in node.inputs))
        for value, result in zip(graph.results(node), results, strict=True):
            arrays[value.name] = result if value.fixed is None else _saturated(value.fixed, result)
    return arrays


def _saturated(kind: FixedType, array: NDArray[Any]) -> NDArray[Any]:
    if kind.axis is not None:
        return array
    ends = kind.dequantize(np.array([kind.storage.min, kind.storage.max]))
    return np.clip(array, ends[0], ends[1]).astype(np.float32)


def _comparable(floating: Graph, graph: Graph) -> list[str]:
    names = [name for node in graph.nodes() for name in node.outputs]
    return [
        n for n in names
        if floating.has_value(n)
        and floating.value(n).constant is None
        and floating.value(n).shape == graph.value(n).shape
    ]  # fmt: skip


def _clamped(floating: Graph, name: str) -> str:
    """The clamp's result, where only a clamp reads a value: its type has the clamp's range."""
    reader = floating.sole_consumer(name)
    if reader is None or not isinstance(reader.op, Clip):
        return name
    return _clamped(floating, reader.outputs[0])


def _dequantized(graph: Graph, name: str, codes: NDArray[Any]) -> NDArray[np.float64]:
    kind = graph.value(name).elem
    assert isinstance(kind, FixedType)
    return kind.dequantize(codes)
