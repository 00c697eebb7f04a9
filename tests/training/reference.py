# pyright: basic, reportMissingImports=false
"""A Brevitas module in float64: its own layers and quantizers, which give each code they compute.

A scale is what the float32 module computes, and so are codes of weights and biases: both are what
an export stores. Everything else is in float64, where sums of these are exact.
"""

from __future__ import annotations

import copy
import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from brevitas.proxy.parameter_quant import ParameterQuantProxyFromInjector
from torch import nn

from binpoint.frontend.load import load
from binpoint.frontend.qonnx import is_quantizer
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph, Reading, Value
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.passes.convert import stored
from binpoint.passes.manager import run
from binpoint.pipelines import mcu
from binpoint.target import load_target

Semantics = Literal["auto", "rational"]
_NOISE = 1e-4
"""Of float64, in steps of a sum; what is meant is a whole number of them."""

_CALLS = (
    "input_acc", "input_sigmoid", "forget_acc", "forget_sigmoid", "cell_acc", "cell_tanh",
    "output_acc", "output_sigmoid", "kept", "entered", "cell", "hidden_state_tanh", "hidden",
)  # fmt: skip
"""Quantizers of a step of Brevitas's LSTM, in the order of their calls, by our names."""
_UNCOMPUTED = {f"_t0_{call}" for call in ("forget_acc", "forget_sigmoid", "kept", "cell")}
"""What the first step need not compute, since the state before it is zero."""


@dataclass
class Trace:
    """What a module computed.

    Attributes:
        codes: of quantizers of activations in the order of their calls, each ``[N, …]``.
        parameters: codes of weights and biases, and their scales.
        outputs: ``[N, …]``.
    """

    codes: list[Any]
    parameters: list[tuple[Any, Any]]
    outputs: Any


class _Spy(nn.Module):
    """A quantizer of Brevitas in float64, scale and zero point those of the float32 one."""

    def __init__(self, original: nn.Module, ran: list[Any], *, parameter: bool) -> None:
        super().__init__()
        # Hidden from `double()`.
        self.__dict__["original"] = copy.deepcopy(original).float()
        self.ran, self.parameter = ran, parameter

    def forward(self, x: Any, *args: Any) -> Any:
        narrow = [a.float() if torch.is_tensor(a) and a.is_floating_point() else a for a in args]
        value, scale, zero, bits = self.original(x.float(), *narrow)[:4]
        scale, zero, bits = (t.double() for t in (scale, zero, bits))
        if not self.parameter and not self.ran and hasattr(self.original, "int_quant"):
            # The input: real numbers are divided in float32, as QuantizeLinear has it.
            inner = self.original.int_quant
            codes = torch.round(x.float() / scale.float()).double() + zero
            codes = codes.clamp(inner.min_int(bits), inner.max_int(bits))
            self.ran.append(codes.detach().numpy().astype(np.int64))
        elif self.parameter:
            codes = torch.round(value.double() / scale + zero)
            self.ran.append((codes.detach().numpy().astype(np.int64), scale.detach().numpy()))
        else:
            codes = self.codes(x, scale, zero, bits, args)
            self.ran.append(codes.detach().numpy().astype(np.int64))
        return (codes - zero) * scale, scale, zero, bits

    def codes(self, x: Any, scale: Any, zero: Any, bits: Any, args: Any) -> Any:
        kind = type(self.original).__name__
        if kind in ("BinaryQuant", "ClampedBinaryQuant"):
            return torch.where(x >= 0, 1.0, -1.0).double()
        if kind == "TernaryQuant":
            return torch.where(x.abs() > self.original.threshold * scale, torch.sign(x), 0.0)
        if kind == "TruncIntQuant":
            return torch.round(self.original(x, *args)[0] / scale + zero)
        return self.original.int_quant.to_int(scale, zero, bits, x)


@torch.no_grad()
def traced(module: nn.Module, x: Any) -> Trace:
    """Run a module in float64 on samples ``[N, …]``."""
    ran: list[Any] = []
    parameters: list[Any] = []
    exact = _spied(module, ran, parameters).double().eval()
    y = exact(x.double()).numpy()
    return Trace(ran, parameters, y)


def _spied(module: nn.Module, ran: list[Any], parameters: list[Any]) -> nn.Module:
    """A copy with spies for quantizers."""
    net = copy.deepcopy(module)
    done: dict[int, _Spy] = {}
    for part in list(net.modules()):
        quantizer = part._modules.get("tensor_quant")
        if quantizer is None or isinstance(quantizer, _Spy):
            continue
        parameter = isinstance(part, ParameterQuantProxyFromInjector)
        if id(quantizer) not in done:
            into = parameters if parameter else ran
            done[id(quantizer)] = _Spy(quantizer, into, parameter=parameter)
        part.tensor_quant = done[id(quantizer)]
    return net


# ---- beside the interpreter


def compare(path: Path, trace: Trace, x: Any, *, semantics: Semantics = "auto") -> Graph:
    """Assert that an export of a batch has the codes of a trace at every quantizer.

    Args:
        path: of the export, whose batch are all samples.
        trace: of the module in float64.
        x: the samples.
        semantics: the option.

    Returns:
        The integer graph.
    """
    imported = load(path, exact=semantics == "rational")
    _compare_parameters(imported, trace)
    context = Context(
        load_target("host"),
        CompileOptions(check=False, packed_maps="never", semantics=semantics),
        None,
    )
    graph = run(mcu(), imported, context)
    names = _quantizers(onnx.load(path), x.shape[1])
    assert len(names) == len(trace.codes)
    (source,), (result,) = graph.inputs, graph.outputs
    ours = evaluate(graph, {source: stored(graph.value(source), x.numpy())})
    last = {n.origin.names[-1]: n.outputs[0] for n in graph.nodes() if n.origin.names}
    last |= {f"_{m[0]}": n for n in ours if (m := re.search(r"t\d+_[a-z_]+(?=_out$)", n))}
    for index, (name, codes) in enumerate(zip(names, trace.codes, strict=True)):
        place = last.get(name) or (source if index == 0 else None)
        if place is None and name in _UNCOMPUTED:
            continue
        assert place is not None, f"{name} is not found among the integers"
        assert _same(ours[place], codes, len(x)), f"{name}: codes differ"
    _compare_output(graph.value(result), ours[result], trace.outputs)
    return graph


def _quantizers(model: onnx.ModelProto, steps: int) -> list[str]:
    """Names of the nodes that quantize what is computed."""
    known = {t.name for t in model.graph.initializer}
    found: list[str] = []
    for node in model.graph.node:
        if all(name in known for name in node.input if name):
            known.update(node.output)
        elif is_quantizer(node) or node.op_type == "QuantizeLinear":
            found.append(node.name)
        elif node.op_type == "QuantLSTMCell":
            found += [f"_t{step}_{call}" for step in range(steps) for call in _CALLS]
    return found


def _same(ours: Any, theirs: Any, samples: int) -> bool:
    """Whether codes are equal; here axes may stand in another order, or be joined or parted."""
    joined = {n // samples for n in (*ours.shape, *theirs.shape) if n % samples == 0} - {0, 1}
    split = theirs.reshape([n for size in theirs.shape for n in _parts(size, samples, joined)])
    orders = itertools.permutations(range(split.ndim))
    flat = ours.reshape(-1)
    return any(np.array_equal(flat, split.transpose(order).reshape(-1)) for order in orders)


def _parts(size: int, samples: int, joined: set[int]) -> tuple[int, ...]:
    """An axis of samples and others, or of heads and others, as two."""
    if size > samples and size % samples == 0:
        return samples, size // samples
    found = [n for n in joined if size != samples and size > n and size % n == 0]
    return (found[0], size // found[0]) if found else (size,)


def _compare_parameters(graph: Graph, trace: Trace) -> None:
    """Assert that codes and scales of all weights and biases are constants of the model."""
    held = [
        (v.constant.array.reshape(-1), v.fixed) for v in graph.values() if v.constant and v.fixed
    ]
    for codes, scale in trace.parameters:
        scales = {float(s) for s in scale.reshape(-1)}
        assert any(
            np.array_equal(array, codes.reshape(-1)) and {float(s) for s in kind.scales} == scales
            for array, kind in held
        ), "the codes of a parameter are not found"


def _compare_output(value: Value, ours: Any, real: Any) -> None:
    """Assert that an output's integers are the real numbers, by its scale and offset."""
    kind, reading = value.elem, value.reading
    axis = reading.axis if reading is not None else kind.axis or 0
    scales = reading.scales if reading is not None else tuple(map(float, kind.scales))
    offsets = reading.offsets if reading is not None else (0.0,)
    spread = Reading(scales, offsets, axis)
    steps = (real - spread.spread(offsets, real.ndim)) / spread.spread(scales, real.ndim)
    steps = steps + kind.zero_points[0]
    assert np.abs(steps - np.rint(steps)).max() < _NOISE
    assert np.array_equal(np.rint(steps), ours)
