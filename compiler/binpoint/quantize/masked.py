"""Scores that are masked at run time: how far below the largest of a row they matter."""

from __future__ import annotations

from collections.abc import Mapping

from binpoint.ir.graph import Graph
from binpoint.ops.softmax import Softmax
from binpoint.passes.samples import Samples
from binpoint.quantize.observe import Range
from binpoint.quantize.simulate import Simulation

_FAR = 64.0
"""A range as wide as no scores are that nothing masks."""
_BELOW = 12.0
"""Scores lower than the largest of their row by more have shares below 2^-17."""


def above_masks(graph: Graph, ranges: Mapping[str, Range], samples: Samples) -> Mapping[str, Range]:
    """The ranges, those of masked scores without what has no share anyway.

    A mask that is an input is added as 0 or as a number like -10000. In eight bits such a range has
    no room for the scores, and where only a softmax reads them, all that lies far below the largest
    of each row may saturate.

    Args:
        graph: the float one.
        ranges: what samples show, by name of values.
        samples: the same ones.
    """
    axes = {
        name: axis
        for name, found in ranges.items()
        if found.hi - found.lo > _FAR and (axis := _softmax_axis(graph, name)) is not None
    }
    if not axes:
        return ranges
    simulation = Simulation(graph, rounded=False)
    least = dict.fromkeys(axes, float("inf"))
    for inputs in samples.inputs():
        for name, array in simulation.outputs(inputs, frozenset(axes)).items():
            least[name] = min(least[name], float(array.max(axis=axes[name]).min()))
    low = {name: min(0.0, max(ranges[name].lo, least[name] - _BELOW)) for name in axes}
    return {**ranges, **{name: Range(low[name], ranges[name].hi) for name in axes}}


def _softmax_axis(graph: Graph, name: str) -> int | None:
    """The axis of the softmaxes, if they alone read a value."""
    axes: set[int] = set()
    for reader in graph.consumers(name):
        if not isinstance(reader.op, Softmax):
            return None
        axes.add(reader.op.axis)
    return axes.pop() if len(axes) == 1 and name not in graph.outputs else None
