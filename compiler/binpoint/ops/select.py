"""Selection by a computed condition: Where.

With the result's type T, and H(c) the largest code of T where the condition c holds and the
smallest elsewhere, y = max(min(a, H(c)), min(b, H(¬c))): exact, once both branches are of type T.
A condition holds where it is above one half; `compare` makes zeros and ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Value
from binpoint.ir.op import FloatArray, FloatOp, Permuted, Site
from binpoint.numeric.fixed import FixedType, FloatType, TensorType
from binpoint.ops.broadcast import Broadcast
from binpoint.ops.elementwise import converted
from binpoint.ops.lookup import codes_of, lookup
from binpoint.ops.pairwise import IntMinMax

HOLDS = 0.5
"""What a condition exceeds where it holds."""


@dataclass(frozen=True, slots=True)
class Select(FloatOp):
    """y = yes where the condition holds, else no; operands are the condition and computed branches.

    A branch that is one number is a field.
    """

    yes: float | None = None
    no: float | None = None

    def infer(self, *inputs: Value) -> tuple[TensorType, ...]:
        """The broadcast shape."""
        return (TensorType(np.broadcast_shapes(*(v.shape for v in inputs)), FloatType()),)

    def permuted(self, order: tuple[int, ...], *inputs: Value) -> Permuted | None:
        """The same."""
        return Permuted(self, order)

    def reference(self, *inputs: FloatArray) -> tuple[FloatArray, ...]:
        """numpy.where."""
        condition, *branches = inputs
        rest = iter(branches)
        yes = next(rest) if self.yes is None else np.full_like(condition, self.yes)
        no = next(rest) if self.no is None else np.full_like(condition, self.no)
        return (np.where(condition > HOLDS, yes, no),)

    def lower(self, site: Site, build: GraphBuilder) -> tuple[Value, ...]:
        """Tables of the condition, and extremes of them and the branches."""
        condition, *branches = site.inputs
        target = site.result
        kind = condition.elem
        holds = kind.dequantize(codes_of(kind.storage)) > HOLDS
        rest = iter(branches)
        parts: list[Value] = []
        for number, places in ((self.yes, holds), (self.no, ~holds)):
            reached = target.storage.max if number is None else int(target.quantize(number))
            codes = np.where(places, reached, target.storage.min)
            gate = lookup(build, condition, codes, target)
            if number is None:
                branch = converted(next(rest), target, site, build)
                gate = _extreme(build, branch, gate, target, site.name, largest=False)
            parts.append(gate)
        yes, no = parts
        return (_extreme(build, yes, no, target, site.name, largest=True),)


def _extreme(
    build: GraphBuilder, a: Value, b: Value, target: FixedType, where: str, *, largest: bool
) -> Value:
    axes = Broadcast.of(a.shape, b.shape, where)
    return build.one(IntMinMax(axes, largest, target), a, b)
