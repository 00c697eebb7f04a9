"""parallel(): a design whose layers are all computed at once, if it is small enough for that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from binpoint.errors import BadOption
from binpoint.plan import units
from binpoint.plan.design import Design, Folding, Layer, Style
from binpoint.plan.shifts import MOST_PRODUCTS, at_once


def parallel(design: Design, folding: Mapping[str, Folding]) -> Design:
    """The design with a parallel top.

    Raises:
        BadOption: it is folded, a layer is too large, or has no parallel form.
    """
    if folding:
        raise BadOption("a parallel top is not folded", have=", ".join(sorted(folding)))
    for layer in design.layers:
        _check(layer)
    layers = tuple(replace(layer, unit=_spread(layer.unit)) for layer in design.layers)
    return replace(design, layers=layers, style=Style.PARALLEL)


def _spread(unit: units.Unit) -> units.Unit:
    """A graph of adders in place of products with constants, if it is to have no multiplier."""
    if isinstance(unit, units.Dense):
        spread = at_once(replace(unit, pe=unit.channels, simd=unit.depth))
        return spread if isinstance(spread, units.Sums) else unit
    return unit


def _check(layer: Layer) -> None:
    unit = layer.unit
    at, hint = layer.name, "leave the top streaming"
    match unit:
        case units.Dense(rows=1, groups=1):
            products = unit.channels * unit.depth
            if products > MOST_PRODUCTS:
                raise BadOption(
                    "a layer is too large for a parallel top",
                    at=at,
                    have=f"{products} products",
                    want=f"at most {MOST_PRODUCTS}",
                    hint=hint,
                )
        case units.Map() | units.Pair() | units.Fork() | units.Arg(rows=1, folds=1):
            pass
        case _:
            raise BadOption(f"`{unit.stem}` has no parallel form", at=at, hint=hint)
