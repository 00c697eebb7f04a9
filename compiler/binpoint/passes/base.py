"""What a pass is: a frozen dataclass with a name, two stages and a promise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from binpoint.ir.graph import Graph
from binpoint.options import CompileOptions
from binpoint.passes.samples import Samples
from binpoint.target import Target


class Stage(StrEnum):
    """What is true of a graph; checked by `ir/verify.py` after every pass."""

    FLOAT = "float"
    TYPED = "typed"
    INTEGER = "integer"


class Effect(StrEnum):
    """What a pass promises about the values at the outputs."""

    KEEPS_VALUES = "keeps-values"
    CHANGES_VALUES = "changes-values"


@dataclass(frozen=True, slots=True)
class Context:
    """What passes may know besides the graph."""

    target: Target
    options: CompileOptions
    samples: Samples | None = None
    """Calibration inputs, by the graph's input names."""


class Pass(ABC):
    """A rewrite of the graph. Subclasses are frozen dataclasses; their fields are the options."""

    name: ClassVar[str]
    before: ClassVar[Stage]
    after: ClassVar[Stage]
    effect: ClassVar[Effect]

    @abstractmethod
    def run(self, graph: Graph, context: Context) -> Graph:
        """Return the rewritten graph; `graph` is the pass's own copy."""
