"""How a gated function stores its products: rounded once to the type of the result."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from binpoint.ir.graph import Value
from binpoint.ir.kernel import Number
from binpoint.ir.onnx_writer import OnnxWriter, Tensor
from binpoint.ir.op import IntArray, Site
from binpoint.numeric.fixed import FixedType
from binpoint.ops.rescale import dyadic


@dataclass(frozen=True, slots=True)
class Product:
    """y = clamp(⌊(v·m + 2^(s−1)) / 2^s⌋ + zp) of whole numbers v.

    Args:
        multiplier, shift: m and s.
        result: type of y.
    """

    multiplier: int
    shift: int
    result: FixedType

    @classmethod
    def to(cls, site: Site, x: Value, unit: Fraction) -> Product:
        """For codes of x times gates in steps of `unit`."""
        return cls.of(x.elem.scale.as_fraction() * unit, site.result)

    @classmethod
    def of(cls, step: Fraction, result: FixedType) -> Product:
        """For whole numbers in steps of `step`."""
        form = dyadic([step / result.scale.as_fraction()], result, 31).form
        return cls(form.multipliers[0], form.shifts[0], result)

    def prove(self) -> None:
        """Check the multiplier's width."""
        assert self.multiplier < 2**31, "the multiplier leaves 31 bits"

    def stored(self, v: IntArray) -> IntArray:
        """The definition."""
        storage = self.result.storage
        y = v * self.multiplier + (1 << (self.shift - 1)) >> self.shift
        return np.clip(y + self.result.zero_point, storage.min, storage.max)

    def to_onnx(self, w: OnnxWriter, v: Tensor) -> Tensor:
        """The same in the check graph."""
        storage, scaled = self.result.storage, w.mul(v, w.const(self.multiplier))
        rounded = w.floor_shift(w.add(scaled, w.const(1 << (self.shift - 1))), self.shift)
        moved = w.add(rounded, w.const(self.result.zero_point))
        return w.clamp(moved, storage.min, storage.max)

    def numbers(self) -> tuple[Number, ...]:
        """Arguments of the kernel."""
        storage = self.result.storage
        return (
            Number("scale", self.multiplier),
            Number("down", self.shift, "uint32_t"),
            Number("origin", self.result.zero_point),
            Number("lo", storage.min),
            Number("hi", storage.max),
        )
