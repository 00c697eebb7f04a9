# pyright: basic, reportMissingImports=false
"""Is it the same? A trained module beside the interpreter, integer by integer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from binpoint.errors import Mismatch
from binpoint.frontend.load import load
from binpoint.frontend.qonnx import is_quantizer
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.passes.convert import real, stored
from binpoint.passes.manager import run
from binpoint.pipelines import mcu
from binpoint.target import load_target
from binpoint.training.export import frozen
from binpoint.training.quantizers import fixed_points


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was compared.

    Attributes:
        samples: how many.
        quantizers: of activations, whose codes were compared.
        codes: compared, over all samples.
        outputs: numbers of the last layer compared, as exact sums.
    """

    samples: int
    quantizers: int
    codes: int
    outputs: int


def integers(path: Path) -> Graph:
    """The integer graph of an exported module."""
    # A map of packed codes is none that a quantizer gives.
    options = CompileOptions(check=False, packed_maps="never")
    context = Context(load_target("host"), options, None)
    return run(mcu(), load(path), context)


def compare(module: nn.Module, path: Path, x: Any) -> Comparison:
    """Run a module in float64, where its sums are exact, and its export by the interpreter.

    Args:
        module: what was exported.
        path: of the export.
        x: samples, [N, …].

    Raises:
        Mismatch: a code at a quantizer, or an output, differs; or a quantizer is not found again.
    """
    traces, outputs = _module_codes(module, x)
    model = onnx.load_model_from_string(path.read_bytes())
    names = _activation_nodes(model)
    if len(names) != len(traces):
        raise Mismatch("the export has another number of quantizers",
                       have=str(len(names)), want=str(len(traces)))  # fmt: skip
    graph = integers(path)
    places = _places(graph, names)
    (source,), (result,) = graph.inputs, graph.outputs
    for index in range(len(x)):
        given = stored(graph.value(source), x[index : index + 1].numpy())
        ours = evaluate(graph, {source: given})
        for name, value, codes in zip(names, places, traces, strict=True):
            _same(graph, value, ours[value], codes[index], f"{name}, sample {index}")
        found = real(graph.value(result), ours[result]).reshape(-1)
        if not np.array_equal(found, outputs[index].reshape(-1)):
            raise Mismatch("an output differs", at=f"sample {index}")
    return Comparison(len(x), len(names), sum(c.size for c in traces), outputs.size)


@torch.no_grad()
def _module_codes(module: nn.Module, x: Any) -> tuple[list[Any], Any]:
    """Codes of each quantizer of activations in the order of their calls, and the outputs."""
    # Casts of parameters near a tie may differ in float64: they are those of the export.
    exact = frozen(module, x[:1]).double()
    ran: list[Any] = []
    for name, part in fixed_points(exact):
        if name.endswith("fused_activation_quant_proxy.tensor_quant"):
            part.ran = ran
    pieces: list[list[Any]] = []
    outputs: list[Any] = []
    for batch in x.split(100):
        ran.clear()
        outputs.append(exact(batch.double()).numpy())
        pieces.append([c.numpy().astype(np.int64) for c in ran])
    traces = [np.concatenate(column) for column in zip(*pieces, strict=True)]
    return traces, np.concatenate(outputs)


def _activation_nodes(model: onnx.ModelProto) -> list[str]:
    constants = {t.name for t in model.graph.initializer}
    return [n.name for n in model.graph.node if is_quantizer(n) and n.input[0] not in constants]


def _places(graph: Graph, names: list[str]) -> list[str]:
    """The values that hold what the quantizers give; the first one's are the input's codes."""
    last = {n.origin.names[-1]: n.outputs[0] for n in graph.nodes() if n.origin.names}
    found: list[str] = []
    for index, name in enumerate(names):
        value = last.get(name) or (graph.inputs[0] if index == 0 else None)
        if value is None:
            raise Mismatch("a quantizer is not found among the integers", at=name)
        found.append(value)
    return found


def _same(graph: Graph, value: str, ours: Any, theirs: Any, place: str) -> None:
    """Compare one sample's codes; here channels may stand last."""
    mine = ours - graph.value(value).elem.zero_points[0]
    layouts = [theirs, np.moveaxis(theirs, 0, -1)] if theirs.ndim > 1 else [theirs]
    if mine.size != theirs.size or not any(
        np.array_equal(mine.reshape(-1), layout.reshape(-1))
        for layout in layouts
        if mine.size == mine.shape[-1] or mine.shape[1:] == layout.shape
    ):
        differ = [int((mine.reshape(-1) != t.reshape(-1)).sum()) for t in layouts
                  if t.size == mine.size]  # fmt: skip
        raise Mismatch("codes differ", at=place, have=f"{min(differ, default=0)} of {mine.size}")
