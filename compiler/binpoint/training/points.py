# pyright: basic, reportMissingImports=false
"""Binary points of a prepared module by the pass `binary-points`, which needs no training."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx

from binpoint.errors import NotTrainable
from binpoint.frontend.load import load
from binpoint.ir.graph import Graph
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.passes.manager import run
from binpoint.passes.samples import Samples
from binpoint.pipelines import mcu
from binpoint.quantize.binary_points import BinaryPoints
from binpoint.quantize.simulate import Simulation
from binpoint.target import load_target
from binpoint.training.calibrate import activations
from binpoint.training.quantizers import FixedPoint, fixed_points, weight_point

_CLOSE = 1e-3
"""Of the largest value: how much a tensor may differ from the same one elsewhere."""


def place_points(module: fx.GraphModule, x: Any, *, joint: bool = True) -> None:
    """Choose all binary points of a prepared module, and correct its biases, in place.

    The module's real form is exported, `binary-points` chooses types for it, and what it chose for
    a tensor goes to the quantizer of the same tensor: that which holds the same numbers.

    Args:
        module: what `prepare` made, without normalisations (`fold_norms` comes first), with a point
            per weight channel.
        x: samples, [N, …].
        joint: whether points are refined by the error of the outputs, or are those of least error.

    Raises:
        NotTrainable: a tensor of the module has no counterpart of its width.
    """
    module.to("cpu").eval()
    twin = copy.deepcopy(module)
    for _, part in fixed_points(twin):
        part.open = True
    graph, seen = _real(twin, x[:1]), _seen(twin, x[:1])
    layers = {m: part for m in module.modules() if (part := weight_point(m)) is not None}
    parts = dict(activations(module))
    border = {p.bits for n, p in parts.items() if torch.equal(seen[n], x[:1])}
    inner = {p.bits for n, p in parts.items() if not torch.equal(seen[n], x[:1])}
    options = CompileOptions(
        scales="power-of-two",
        binary_points="joint" if joint else "mse",
        activation_bits=_only(inner, "activations"),
        weight_bits=_only({p.bits for p in layers.values()}, "weights"),
        equalize=False,
    )
    samples = Samples({graph.inputs[0]: x.numpy()})
    context = Context(load_target("host"), options, samples)
    typed = BinaryPoints(border_bits=_only(border, "inputs")).run(graph.copy(), context)
    (inputs,) = samples.part(0, 1).inputs()
    _place_activations(parts, seen, typed, Simulation(graph, rounded=False).run(inputs))
    for layer, part in layers.items():
        _place_layer(layer, part, graph, typed)


def _only(found: set[int], what: str) -> int:
    if len(found) != 1:
        raise NotTrainable(f"{what} of several widths", have=f"{sorted(found)}", want="one width")
    return next(iter(found))


@torch.no_grad()
def _seen(twin: Any, x: Any) -> dict[str, Any]:
    """What reaches each quantizer of activations first."""
    parts = dict(activations(twin))
    for part in parts.values():
        part.seen = []
    twin(x)
    return {name: (part.seen or [x])[0] for name, part in parts.items()}


def _same(array: Any, tensor: Any) -> bool:
    """Whether a value, channels last, holds the numbers of a tensor, channels on axis 1."""
    if array.size != tensor.numel():
        return False
    last = tensor.movedim(1, -1) if tensor.dim() > 1 else tensor
    close = _CLOSE * float(tensor.abs().max())
    return any(
        np.allclose(array.reshape(-1), t.reshape(-1).numpy(), rtol=0, atol=close)
        for t in (tensor, last)
    )


def _real(twin: Any, example: Any) -> Graph:
    """The real graph of a module whose quantizers are open, as `binary-points` gets it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "real.onnx"
        torch.onnx.export(twin, (example,), str(path), dynamo=False, verbose=False)
        graph = load(path)
    context = Context(load_target("host"), CompileOptions(equalize=False), None)
    return run(mcu().until("equalize"), graph, context)


def _place_activations(
    parts: dict[str, FixedPoint], seen: dict[str, Any], typed: Graph, values: dict[str, Any]
) -> None:
    """Points of casts, from the values that hold what reaches them."""
    kinds = {n: typed.value(n).fixed for n in values if typed.has_value(n)}
    for name, part in parts.items():
        same = (k for n, k in kinds.items() if k is not None and _same(values[n], seen[name]))
        kind = next(same, None)
        if kind is None or kind.storage.width != part.bits:
            raise NotTrainable(
                "a cast of the module has no counterpart among the pass's values", at=name,
                hint="fold normalisations first, by binpoint.training.fold_norms",
            )  # fmt: skip
        wider = part.signed and kind.zero_point != 0
        part.set_points(torch.tensor(float(-kind.scale.exponent - wider)))


def _place_layer(layer: Any, part: FixedPoint, graph: Graph, typed: Graph) -> None:
    """Points and the corrected bias of a layer, from the node with the same weights."""
    weights = layer.weight.detach().movedim(layer.output_channel_dim, 0)
    rows = np.sort(weights.reshape(len(weights), -1).numpy(), axis=1)
    close = _CLOSE * float(np.abs(rows).max())
    for node in graph.nodes():
        array = _constant(graph, node.inputs[1]) if len(node.inputs) > 1 else None
        if array is None or array.size != rows.size or len(array) != len(rows):
            continue
        if np.allclose(np.sort(array.reshape(rows.shape), axis=1), rows, rtol=0, atol=close):
            _take(layer, part, typed, typed.node(node.name).inputs)
            return
    raise NotTrainable(
        "a layer of the module has no counterpart in the pass's graph", have=str(layer),
        hint="fold normalisations first, by binpoint.training.fold_norms",
    )  # fmt: skip


def _constant(graph: Graph, name: str) -> Any:
    constant = graph.value(name).constant
    return None if constant is None else constant.array


@torch.no_grad()
def _take(layer: Any, part: FixedPoint, typed: Graph, inputs: tuple[str, ...]) -> None:
    kind = typed.value(inputs[1]).fixed
    assert kind is not None
    points = torch.tensor([float(-s.exponent) for s in kind.scales])
    if points.numel() != part.point.numel():
        raise NotTrainable("weights without a binary point per channel", have=str(layer))
    part.set_points(points.reshape(part.point.shape))
    bias = _constant(typed, inputs[2]) if len(inputs) > 2 else None
    if layer.bias is not None and bias is not None:
        layer.bias.copy_(torch.from_numpy(bias.copy()))
        layer.bias_quant.tensor_quant.fit(layer.bias)
