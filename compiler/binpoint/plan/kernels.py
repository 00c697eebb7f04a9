"""choose(): the kernel of each step, by the target's instruction set and prices.

A family is a function that returns the step with the call of its variant, or None where the shapes,
types or values are not for it. Of all that take a step, and portable C, which takes every step, the
one with the lowest modelled cost wins (`bill`), or the first where size counts. Every variant
computes the portable kernel's integers bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from binpoint.ir.graph import Graph
from binpoint.options import CompileOptions
from binpoint.plan.bill import bill
from binpoint.plan.fuse import Step
from binpoint.plan.variants import (
    block_matrix,
    dsp_depthwise,
    dsp_elements,
    dsp_matmul,
    dsp_matrix,
    dsp_rows,
    mve_depthwise,
    mve_lines,
    mve_maps,
    mve_matmul,
    mve_matrix,
    mve_rows,
    outliers,
    recurrent,
    shifts,
)
from binpoint.target import Feature, McuTarget, Price

Family = Callable[[Step, Graph, CompileOptions], Step | None]

FAMILIES: tuple[tuple[Feature, Family], ...] = (
    ("mve", mve_matrix.matrix),
    ("mve", mve_lines.depthwise_lines),
    ("mve", mve_depthwise.depthwise),
    ("mve", mve_maps.add),
    ("mve", mve_maps.column_sum),
    ("mve", mve_maps.maximum),
    ("mve", mve_maps.lookup),
    ("mve", mve_maps.copy),
    ("mve", outliers.mve),
    ("mve", mve_matmul.matmul),
    ("mve", mve_rows.layernorm),
    ("mve", mve_rows.softmax),
    ("mve", mve_rows.log_shares),
    ("mve", recurrent.mve),
    ("dsp", dsp_matrix.matrix),
    ("dsp", dsp_depthwise.depthwise),
    ("dsp", dsp_elements.add),
    ("dsp", dsp_elements.mul),
    ("dsp", dsp_elements.lookup),
    ("dsp", dsp_elements.maxpool),
    ("dsp", dsp_elements.average),
    ("dsp", dsp_elements.total),
    ("dsp", dsp_elements.concat),
    ("dsp", dsp_elements.copy),
    ("dsp", outliers.dsp),
    ("dsp", dsp_elements.packed),
    ("dsp", dsp_matmul.matmul),
    ("dsp", dsp_rows.layernorm),
    ("dsp", dsp_rows.softmax),
    ("dsp", dsp_rows.log_shares),
    ("dsp", recurrent.dsp),
    ("dsp", block_matrix.narrow),
    ("registers", block_matrix.wide),
    ("registers", block_matrix.pair),
    ("mla", block_matrix.narrow),
)
"""The families with the feature that they need."""

_EVEN = Price(basis="published", source="every instruction as one", cycles={})
"""For targets without a price list."""


def choose(
    steps: tuple[Step, ...], graph: Graph, target: McuTarget, options: CompileOptions
) -> tuple[Step, ...]:
    """The steps, each with the kernel that is modelled to take the fewest cycles.

    Without multipliers there is one of each.

    Of kernels that cost the same it is the first of `FAMILIES`, then portable C. Where size counts
    it always is the first, so that layers share their kernels.
    """
    if options.multipliers == "none":
        return tuple(shifts.bare(step, graph) for step in steps)
    price = price_of(target)
    found: list[Step] = []
    for step in steps:
        made = offers(step, graph, target, options)
        costs = [bill(s, graph).modelled(price) for s in made]
        pairs = list(zip(costs, made, strict=True))
        cost, best = pairs[0]
        if options.optimize != "size":
            cost, best = min(pairs, key=lambda pair: pair[0].cycles)
        known = cost if target.price is not None else None
        found.append(step if step.alias else replace(best, modelled=known))
    return tuple(found)


def without_digits(
    step: Step, graph: Graph, target: McuTarget, options: CompileOptions
) -> Step | None:
    """The step, not chosen yet, by the kernel that has digits of its weights, but with bytes."""
    made = dsp_matrix.matrix(step, graph, options, digits=False)
    if made is None or target.price is None:
        return made
    return replace(made, modelled=bill(made, graph).modelled(target.price))


def price_of(target: McuTarget) -> Price:
    """The target's prices; without any every instruction is as dear."""
    return target.price or _EVEN


def offers(step: Step, graph: Graph, target: McuTarget, options: CompileOptions) -> list[Step]:
    """All ways to compute a step on a target, portable C as the last."""
    families = (f for feature, f in FAMILIES if feature in target.arithmetic.features)
    made = (family(step, graph, options) for family in families) if not step.alias else ()
    return [*(s for s in made if s is not None), step]
