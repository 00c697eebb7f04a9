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
    """

    TABLE = "table"
    SHIFT = "shift"
    SHIFT_RELEASED = "shift-released"
    POLYNOMIAL = "polynomial"


Function = Literal["softmax", "gelu", "silu", "layer-norm"]

FUNCTIONS: Mapping[Function, tuple[Method, ...]] = MappingProxyType[Function, tuple[Method, ...]](
    {
        "softmax": tuple(Method),
        "gelu": tuple(Method),
        "silu": tuple(Method),
        "layer-norm": tuple(Method),
    }
)
"""The methods of each function; the first is the default."""
