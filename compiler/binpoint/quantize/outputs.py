"""What a float graph gives for samples, and how far rounded graphs are from it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.ir.graph import Graph
from binpoint.passes.samples import Samples
from binpoint.quantize.simulate import Simulation


class Outputs:
    """The outputs of a float graph for samples, as they are.

    Attributes:
        powers: their squares summed, of each sample.
    """

    def __init__(self, graph: Graph, samples: Samples) -> None:
        """Run the graph."""
        self._inputs = list(samples.inputs())
        self._wanted = self._run(graph, rounded=False)
        self.powers = [sum(map(_power, arrays)) for arrays in self._wanted]

    def errors(self, graph: Graph) -> list[float]:
        """The squared errors summed, of each sample, of a graph with as many outputs.

        Its values with types are rounded to them.
        """
        pairs = zip(self._run(graph, rounded=True), self._wanted, strict=True)
        return [sum(_power(a - b) for a, b in zip(*pair, strict=True)) for pair in pairs]

    def _run(self, graph: Graph, *, rounded: bool) -> list[list[NDArray[Any]]]:
        simulation, names = Simulation(graph, rounded=rounded), frozenset(graph.outputs)
        runs = (simulation.outputs(inputs, names) for inputs in self._inputs)
        return [[arrays[name] for name in graph.outputs] for arrays in runs]


def _power(array: NDArray[Any]) -> float:
    return float(np.square(array, dtype=np.float64).sum())
