"""Operators that have no integer form here, with the way out for each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_GENERAL = "`binpoint list ops` shows what is; cut the model before this node, or rewrite it"
_HINTS: Mapping[str, str] = MappingProxyType(
    {
        "Hardmax": "use ArgMax",
        "ReduceL1": "write it with Abs and ReduceSum",
        "ReduceSumSquare": "write it with Mul and ReduceSum",
        "ReduceProd": "write it with Mul",
        "ReduceLogSum": "write it with ReduceSum and Log",
        "ReduceLogSumExp": "write it with Exp, ReduceSum and Log",
        "LpPool": "write it with Mul, AveragePool and Sqrt",
        "GlobalLpPool": "write it with Mul, GlobalAveragePool and Sqrt",
        "MaxUnpool": "use Resize or ConvTranspose",
        "MaxRoiPool": "cut the model before this node",
        "com.microsoft.SkipLayerNormalization": "write it with Add and LayerNormalization: switch "
        "off the transformer optimizations of the exporter",
        "com.microsoft.EmbedLayerNormalization": "write it with Gather, Add and LayerNormalization",
        "NonMaxSuppression": "cut the model before its boxes are decoded; the option `detections` "
        "emits a function that decodes and suppresses them",
        "Sum": "write it with Add",
        "Mean": "write it with Add and a Mul by a constant",
        "com.microsoft.QLinearReduceMean": "use QLinearGlobalAveragePool, which is defined exactly",
    }
)
"""What to do instead, by the operator's name."""


def hint_for(operator: str) -> str:
    """The way out for an operator that is not supported."""
    return _HINTS.get(operator, _GENERAL)
