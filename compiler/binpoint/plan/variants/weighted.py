"""Weighted: operands of a call that sums products with constant weights, as variants pack them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from binpoint.ir.graph import Graph
from binpoint.ir.kernel import Buffer
from binpoint.numeric.fixed import I8, U8, IntType
from binpoint.numeric.float32 import Ints
from binpoint.plan.fuse import Step


@dataclass(frozen=True, slots=True)
class Weighted:
    """Operand, weights, result; the codes of the weights, and the biases, as they are stored."""

    x: Buffer
    w: Buffer
    y: Buffer
    codes: Ints
    bias: Ints

    @classmethod
    def of(cls, step: Step, graph: Graph) -> Self | None:
        """Those of a dense layer or convolution; None if its weights or biases are computed."""
        x, w, bias, y = (a for a in step.call.arguments if isinstance(a, Buffer))
        weights, biases = graph.value(w.value).constant, graph.value(bias.value).constant
        if weights is None or biases is None:
            return None
        return cls(x, w, y, weights.array.astype(np.int64), biases.array.astype(np.int64))

    @classmethod
    def of_bytes(cls, step: Step, graph: Graph) -> Self | None:
        """The same; None as well where the operand or the weights are no bytes."""
        found = cls.of(step, graph)
        if found is None or found.x.elem not in (I8, U8) or found.w.elem.dtype != np.int8:
            return None
        return found


def moved(elem: IntType) -> int:
    """What is taken off a byte so that it is signed, for products of signed bytes alone."""
    return 0 if elem == I8 else -I8.min
