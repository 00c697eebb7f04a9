"""Numbers of a recurrent layer in integers: types of its states, steps of its sums, functions.

The sums of products have 16 bits in steps of 2^-f. f is the largest for which neither those of the
input with W nor those of the state with R can leave 16 bits, whatever the operands: gates saturate,
their operands do not.

The state lies between -1 and 1 wherever the layer starts there, so its type is known without
samples: 8 bits in steps of 2^-7, for every step, the initial state and the results alike. The state
of an LSTM's cell has 16 bits in steps of 2^-11, and saturates at ±16. Constant initial states
beyond these ends are refused; those that are inputs have these types.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType

import numpy as np

from binpoint.errors import NoIntegerForm
from binpoint.ir.op import FloatArray, IntArray
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I16, FixedType, IntType
from binpoint.ops.cell import REACH, SEGMENTS, UNIT
from binpoint.ops.linear import Weights

_MOST_FRACTION = 12
_LEAST_FRACTION = 5
_MOST_SHIFT = 62


def _sigmoid(x: FloatArray) -> FloatArray:
    return 0.5 + 0.5 * np.tanh(0.5 * x)


FUNCTIONS: Mapping[str, Callable[[FloatArray], FloatArray]] = MappingProxyType(
    {
        "sigmoid": _sigmoid,
        "tanh": np.tanh,
        "hardsigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    }
)
"""Those that gates may have, by name."""


def state_type(width: int = 8) -> FixedType:
    """Of the state: ±1."""
    return FixedType.per_tensor(IntType(width, signed=True), Dyadic(1, 1 - width))


def memory_type() -> FixedType:
    """Of an LSTM's cell: ±16."""
    return FixedType.per_tensor(I16, Dyadic(1, -11))


def _per_channel(scales: Sequence[Dyadic], count: int) -> list[Fraction]:
    found = [s.as_fraction() for s in scales]
    return found * (count // len(found))


def bound_of(reach: Sequence[tuple[int, int]], scales: Sequence[Dyadic]) -> float:
    """The largest real sum of codes within their reach."""
    pairs = zip(reach, _per_channel(scales, len(reach)), strict=True)
    return max(float(max(-lo, hi) * scale) for (lo, hi), scale in pairs)


def state_bound(weights: Weights, state: FixedType) -> float:
    """The largest real sum of products with any state, and bias."""
    sums = np.abs(weights.codes).sum(axis=1) * -state.storage.min + np.abs(weights.bias)
    scales = [state.scale * s for s in weights.type.scales]
    return bound_of([(0, int(v)) for v in sums], scales)


def fraction_of(of_input: float, of_state: float, where: str) -> int:
    """The most fraction bits with which both sums, and their rounding, fit 16 bits.

    Raises:
        NoIntegerForm: even the fewest are too many.
    """
    for fraction in range(_MOST_FRACTION, _LEAST_FRACTION - 1, -1):
        if max(of_input, of_state) * 2**fraction + 1 < I16.max:
            return fraction
    raise NoIntegerForm(
        "a gate's sums are too large",
        at=where,
        have=f"up to {max(of_input, of_state):g}",
        want=f"at most {2**15 >> _LEAST_FRACTION}",
        hint="scale the input, or give samples of its true range",
    )


def factors_of(weights: Weights, state: FixedType, fraction: int) -> tuple[IntArray, int]:
    """Factors of 31 bits per channel, and one shift, from sums to steps of 2^-fraction."""
    count = weights.codes.shape[0]
    ratios = [
        s * state.scale.as_fraction() * 2**fraction
        for s in _per_channel(weights.type.scales, count)
    ]
    shift = min(_MOST_SHIFT, 30 - math.floor(math.log2(max(ratios))))
    factors = [min(round(ratio * Fraction(2) ** shift), 2**31 - 1) for ratio in ratios]
    return np.array(factors, np.int64), shift


def entries(function: Callable[[FloatArray], FloatArray]) -> IntArray:
    """A function at the ends of all segments of ±8, in steps of 2^-15."""
    ends = np.linspace(-REACH, REACH, SEGMENTS + 1)
    return np.clip(np.rint(function(ends) * UNIT), 1 - UNIT, UNIT - 1).astype(np.int64)
