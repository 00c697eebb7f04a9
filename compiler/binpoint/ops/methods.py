"""The methods by which an approximated function is computed in integers, named as in the papers."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Literal


class Method(StrEnum):
    """How a function that integers can only approximate is computed.

    ``TABLE``           a table of exact values; layer norms with an exact mean and root.
    ``SHIFT``           I-ViT's shifts, with rounded divisions and converged roots.
    ``SHIFT_RELEASED``  the same as released: reciprocals rounded down, roots after ten steps.
    ``POLYNOMIAL``      I-BERT's polynomials of second order.
    ``LOG2``            shares of softmax as powers of two, in 4-bit codes (FQ-ViT).
    ``LOG_SQRT2``       the same as powers of the root of two (RepQ-ViT).
    """

    TABLE = "table"
    SHIFT = "shift"
    SHIFT_RELEASED = "shift-released"
    POLYNOMIAL = "polynomial"
    LOG2 = "log2"
    LOG_SQRT2 = "log-sqrt2"


Function = Literal["softmax", "gelu", "silu", "layer-norm"]

_EVERYWHERE = (Method.TABLE, Method.SHIFT, Method.SHIFT_RELEASED, Method.POLYNOMIAL)

FUNCTIONS: Mapping[Function, tuple[Method, ...]] = MappingProxyType[Function, tuple[Method, ...]](
    {
        "softmax": tuple(Method),
        "gelu": _EVERYWHERE,
        "silu": _EVERYWHERE,
        "layer-norm": _EVERYWHERE,
    }
)
"""The methods of each function; the first is the default."""
