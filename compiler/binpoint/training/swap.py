# pyright: basic, reportMissingImports=false
"""Layers of torch and of Brevitas as Brevitas's layers with fixed-point quantizers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from brevitas import nn as qnn
from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer
from torch import nn

from binpoint.errors import NotTrainable

if TYPE_CHECKING:
    from binpoint.training.prepare import Formats

_FIELDS = ("stride", "padding", "dilation", "groups")


def fixed_layer(layer: Any, formats: Formats) -> nn.Module:
    """The layer of Brevitas with fixed-point weights and biases; parameters are taken over."""
    if isinstance(layer, QuantWeightBiasInputOutputLayer):
        return _requantized_layer(layer, formats)
    made = _made(layer, formats)
    made.weight.data = layer.weight.data.clone()
    if layer.bias is not None:
        made.bias.data = layer.bias.data.clone()
        made.bias_quant.init_tensor_quant()
    made.weight_quant.init_tensor_quant()
    return made


def _made(layer: Any, formats: Formats) -> Any:
    """A fresh layer of the same shape."""
    own: dict[str, Any] = {
        "bias": layer.bias is not None,
        "weight_quant": formats.weights(),
        "bias_quant": formats.biases() if layer.bias is not None else None,
    }
    if isinstance(layer, nn.Linear):
        return qnn.QuantLinear(layer.in_features, layer.out_features, **own)
    if layer.padding_mode != "zeros":
        raise NotTrainable("padding that is not with zeros", have=layer.padding_mode)
    own |= {name: getattr(layer, name) for name in _FIELDS}
    shape = (layer.in_channels, layer.out_channels, layer.kernel_size)
    match layer:
        case nn.Conv1d():
            return qnn.QuantConv1d(*shape, **own)
        case nn.Conv2d():
            return qnn.QuantConv2d(*shape, **own)
        case nn.ConvTranspose1d():
            return qnn.QuantConvTranspose1d(*shape, output_padding=layer.output_padding, **own)
        case nn.ConvTranspose2d():
            return qnn.QuantConvTranspose2d(*shape, output_padding=layer.output_padding, **own)
        case _:
            raise NotTrainable("a layer without fixed-point form", have=type(layer).__name__)


def _requantized_layer(layer: Any, formats: Formats) -> nn.Module:
    """Brevitas's layer with its quantizers changed for fixed-point ones of the same widths."""
    if layer.weight_quant.is_quant_enabled:
        bits = int(layer.weight_quant.bit_width())
        layer.weight_quant = _proxy(layer, formats.weights(bits))
    else:
        layer.weight_quant = _proxy(layer, formats.weights())
    if layer.bias is not None:
        layer.bias_quant = _proxy(layer, formats.biases())
    for name in ("input_quant", "output_quant"):
        proxy = getattr(layer, name)
        if proxy.is_quant_enabled:
            setattr(layer, name, _activation(layer, proxy, formats))
    return layer


def requantized(layer: Any, formats: Formats) -> Any:
    """Brevitas's activation with a fixed-point quantizer of the same width and sign."""
    if layer.input_quant.is_quant_enabled:
        layer.input_quant = _activation(layer, layer.input_quant, formats)
    if layer.act_quant.is_quant_enabled:
        layer.act_quant = _activation(layer, layer.act_quant, formats)
    return layer


def _activation(layer: Any, proxy: Any, formats: Formats) -> Any:
    bits = int(proxy.bit_width())
    chosen = formats.activations(signed=bool(proxy.is_signed), bits=bits)
    kept: dict[str, Any] = {}
    if "act_impl" in proxy.quant_injector:
        old = proxy.quant_injector.act_impl
        kept["act_impl"] = None if old is None else type(old)
    return _proxy(layer, chosen.let(**kept))


def _proxy(layer: Any, injector: Any) -> Any:
    return injector.proxy_class(layer, injector)
