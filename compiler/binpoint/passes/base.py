"""What a pass is: a frozen dataclass with a name, two stages and a promise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from typing import ClassVar, cast

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
    assigns: ClassVar[bool] = False
    """Whether it gives real values integer types: what stands before it is the float model."""

    def __str__(self) -> str:
        """Name, and the options that differ from their defaults: ``assign-types{samples=20}``."""
        if not is_dataclass(self):
            return self.name
        pairs = ((f, getattr(self, f.name)) for f in fields(self))
        given = [f"{option(f.name)}={_text(value)}" for f, value in pairs if value != f.default]
        return self.name + (f"{{{' '.join(given)}}}" if given else "")

    @abstractmethod
    def run(self, graph: Graph, context: Context) -> Graph:
        """Return the rewritten graph; `graph` is the pass's own copy."""


def option(field: str) -> str:
    """The name of the option that a field is: an underscore only keeps Python's words apart."""
    return field.rstrip("_")


def _text(value: object) -> str:
    """An option as `passes/spec.py` reads it."""
    match value:
        case bool():
            return str(value).lower()
        case tuple():
            return ",".join(_text(item) for item in cast("tuple[object, ...]", value))
        case _:
            return str(value)
