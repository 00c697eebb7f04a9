# pyright: basic, reportMissingImports=false
"""A trained fixed-point module as QONNX, which `binpoint compile` reads."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from brevitas.export import export_qonnx
from onnx import helper, numpy_helper
from torch import nn

from binpoint.errors import NotTrainable
from binpoint.training.cast import Overflow, Rounding
from binpoint.training.norm import FixedBatchNorm, Line
from binpoint.training.quantizers import QONNX_RULES, FixedPoint, fixed_points

_KINDS = ("weight", "bias")


class _Plus(nn.Module):
    """Half a step added after an activation: its floor is then half up."""

    def __init__(self, before: Any, half: float) -> None:
        super().__init__()
        self.before, self.half = before, half

    def forward(self, x: Any) -> Any:
        return self.before(x) + self.half


def export(module: nn.Module, example: Any, path: Path) -> onnx.ModelProto:
    """Write a prepared module as QONNX and return it.

    Weights and biases are stored as they are after their casts, normalisations as constants a and
    b; half up is written as half a step added, then floor.

    Args:
        module: what `prepare` made, trained or calibrated; it is not changed.
        example: an input, [1, …].
        path: of the file.

    Raises:
        NotTrainable: a quantizer of activations is not ready, or wraps; or quantizers of one bit
            round by several rules.
    """
    constant = frozen(module, example)
    with torch.no_grad():
        _freeze_activations(constant)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = export_qonnx(constant, args=example.to("cpu").float(), dynamo=False)
    _name_single_bits(model, constant)
    onnx.save(model, str(path))
    return model


@torch.no_grad()
def frozen(module: nn.Module, example: Any) -> nn.Module:
    """A copy with parameters and normalisations as they are after their casts, in float32.

    Args:
        module: what `prepare` made, trained or calibrated.
        example: an input, [1, …].

    Raises:
        NotTrainable: a quantizer of activations is not ready.
    """
    made = copy.deepcopy(module).to("cpu").float().eval()
    for name, part in fixed_points(made):
        if not part.ready:
            raise NotTrainable(
                "a quantizer has seen no data yet", at=name, hint="calibrate before exporting"
            )
    _freeze_parameters(made)
    _freeze_lines(made, example)
    return made


def _name_single_bits(model: onnx.ModelProto, module: nn.Module) -> None:
    """Quantizers of one bit give 0 and 1; Brevitas takes every such for one of -1 and 1."""
    rules = {QONNX_RULES[part.rounding] for _, part in fixed_points(module) if part.bits == 1}
    if len(rules) > 1:
        raise NotTrainable(
            "quantizers of one bit that round by several rules", have=" and ".join(sorted(rules))
        )
    for index, node in enumerate(model.graph.node):
        if node.op_type != "BipolarQuant":
            continue
        others = [f"{node.output[0]}_{key}" for key in ("zero", "bits")]
        for name, number in zip(others, (0.0, 1.0), strict=True):
            array = np.array(number, np.float32)
            model.graph.initializer.append(numpy_helper.from_array(array, name))
        unsigned = helper.make_node(
            "Quant", [*node.input, *others], node.output, node.name, domain=node.domain,
            signed=0, narrow=0, rounding_mode=next(iter(rules)),
        )  # fmt: skip
        model.graph.node[index].CopyFrom(unsigned)


def _freeze_parameters(module: nn.Module) -> None:
    """Weights and biases become what their casts give."""
    for part in module.modules():
        for kind in _KINDS:
            proxy: Any = getattr(part, f"{kind}_quant", None)
            tensor = getattr(part, kind, None)
            if tensor is None or not isinstance(getattr(proxy, "tensor_quant", None), FixedPoint):
                continue
            tensor.data.copy_(proxy.tensor_quant(tensor)[0])


def _freeze_lines(module: nn.Module, example: Any) -> None:
    ranks: dict[nn.Module, int] = {}
    norms = [p for p in module.modules() if isinstance(p, FixedBatchNorm)]
    handles = [
        n.register_forward_pre_hook(lambda m, args: ranks.__setitem__(m, args[0].dim()))
        for n in norms
    ]
    module(example.to("cpu").float())
    for handle in handles:
        handle.remove()
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, FixedBatchNorm):
                setattr(parent, name, Line(*child.casted(), ranks[child]))


def _freeze_activations(module: nn.Module) -> None:
    done: set[int] = set()
    for name, proxy in module.named_modules():
        fused: Any = getattr(proxy, "fused_activation_quant_proxy", None)
        part = getattr(fused, "tensor_quant", None)
        if not isinstance(part, FixedPoint) or id(part) in done:
            continue
        done.add(id(part))
        if part.overflow is Overflow.WRAP:
            raise NotTrainable(
                "an activation that wraps cannot be written as QONNX",
                at=name,
                hint="saturate where values leave their range",
            )
        if part.rounding is Rounding.HALF_UP:
            half = float(torch.exp2(-part.points - 1))
            fused.activation_impl = _Plus(fused.activation_impl, half)
