"""Operators that have no integer form here, with the way out for each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_GENERAL = "`binpoint list ops` shows what is; cut the model before this node, or rewrite it"
_HINTS: Mapping[str, str] = MappingProxyType(
    {
        "Col2Im": "use ConvTranspose, or Reshape and Transpose where blocks do not overlap",
        "Hardmax": "use ArgMax",
        "ReduceProd": "write it with Mul",
        "LpPool": "write it with Mul, AveragePool and Sqrt",
        "GlobalLpPool": "write it with Mul, GlobalAveragePool and Sqrt",
        "TopK": "cut the model before it, and choose where the outputs are read",
        "MaxUnpool": "use Resize or ConvTranspose",
        "MaxRoiPool": "cut the model before this node",
        "com.microsoft.SkipLayerNormalization": "write it with Add and LayerNormalization: switch "
        "off the transformer optimizations of the exporter",
        "com.microsoft.EmbedLayerNormalization": "write it with Gather, Add and LayerNormalization",
        "NonMaxSuppression": "cut the model before its boxes are decoded; the option `detections` "
        "emits a function that decodes and suppresses them",
        "com.microsoft.QLinearReduceMean": "use QLinearGlobalAveragePool, which is defined exactly",
    }
)
"""What to do instead, by the operator's name."""


def hint_for(operator: str) -> str:
    """The way out for an operator that is not supported."""
    return _HINTS.get(operator, _GENERAL)
