# pyright: basic, reportMissingImports=false
"""Normalisations folded into the layers before them."""

from __future__ import annotations

import copy
from typing import Any

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d)


def fold_norms(module: nn.Module) -> fx.GraphModule:
    """A copy, for evaluation, whose batch normalisations are part of the layers that they follow.

    A normalisation of anything but a linear layer that nobody else reads stays.
    """
    traced = fx.symbolic_trace(copy.deepcopy(module).eval())
    layers = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        norm = layers.get(node.target) if node.op == "call_module" else None
        if not isinstance(norm, _BatchNorm):
            continue
        (before,) = node.all_input_nodes
        layer = layers.get(before.target) if before.op == "call_module" else None
        fused = _fused(layer, norm) if len(before.users) == 1 else None
        if fused is None:
            continue
        _put(traced, before.target, fused)
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _fused(layer: Any, norm: Any) -> nn.Module | None:
    match layer:
        case nn.Linear():
            return fuse_linear_bn_eval(layer, norm)
        case _ if isinstance(layer, _CONVOLUTIONS):
            return fuse_conv_bn_eval(layer, norm)
        case _ if isinstance(layer, _TRANSPOSED):
            return fuse_conv_bn_eval(layer, norm, transpose=True) if layer.groups == 1 else None
        case _:
            return None


def _put(module: fx.GraphModule, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, layer)
