"""parallel(): a design whose layers are all computed at once, if it is small enough for that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from binpoint.errors import BadOption
from binpoint.plan import units
from binpoint.plan.design import Design, Folding, Layer, Style

_MOST_PRODUCTS = 4096
"""Of one layer: what synthesis tools unroll."""


def parallel(design: Design, folding: Mapping[str, Folding]) -> Design:
    """The design with a parallel top.

    Raises:
        BadOption: it is folded, a layer is too large, or has no parallel form.
    """
    if folding:
        raise BadOption("a parallel top is not folded", have=", ".join(sorted(folding)))
    for layer in design.layers:
        _check(layer)
    return replace(design, style=Style.PARALLEL)


def _check(layer: Layer) -> None:
    unit = layer.unit
    at, hint = layer.name, "leave the top streaming"
    match unit:
        case units.Dense(rows=1, groups=1):
            products = unit.channels * unit.depth
            if products > _MOST_PRODUCTS:
                raise BadOption(
                    "a layer is too large for a parallel top",
                    at=at,
                    have=f"{products} products",
                    want=f"at most {_MOST_PRODUCTS}",
                    hint=hint,
                )
        case units.Map() | units.Pair() | units.Fork() | units.Arg(rows=1, folds=1):
            pass
        case _:
            raise BadOption(f"`{unit.stem}` has no parallel form", at=at, hint=hint)
