"""choose(): the kernel of each step, by the target's instruction set.

A family is a function that returns the step with the call of its variant, or None where the shapes,
types or values are not for it; the first that takes a step wins, and what none takes stays portable
C. Every variant computes the portable kernel's integers bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable

from binpoint.ir.graph import Graph
from binpoint.options import CompileOptions
from binpoint.plan.fuse import Step
from binpoint.plan.variants import (
    block_matrix,
    dsp_depthwise,
    dsp_elements,
    dsp_matmul,
    dsp_matrix,
    mve_depthwise,
    mve_lines,
    mve_maps,
    mve_matrix,
)
from binpoint.target import Feature, McuTarget

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
    ("dsp", dsp_matmul.matmul),
    ("registers", block_matrix.wide),
    ("mla", block_matrix.narrow),
)
"""The families in the order in which they are asked, with the feature that they need."""


def choose(
    steps: tuple[Step, ...], graph: Graph, target: McuTarget, options: CompileOptions
) -> tuple[Step, ...]:
    """The steps, each with the first variant that takes it."""
    features = target.arithmetic.features
    families = tuple(family for feature, family in FAMILIES if feature in features)
    return tuple(_chosen(step, graph, options, families) for step in steps)


def _chosen(
    step: Step, graph: Graph, options: CompileOptions, families: tuple[Family, ...]
) -> Step:
    if step.alias:
        return step
    found = (family(step, graph, options) for family in families)
    return next((s for s in found if s is not None), step)
