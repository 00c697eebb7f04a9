"""Pipeline: a tuple of passes; run(): check, copy, run, verify, trace."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from binpoint.blas import one_thread
from binpoint.errors import BinpointError, InvariantBroken, PassFailed, UnknownPass
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.ir.text import dump
from binpoint.ir.verify import verify
from binpoint.numeric.fixed import FixedType
from binpoint.passes.base import Context, Effect, Pass, Stage

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, init=False)
class Pipeline:
    """Passes in order; each method returns a new pipeline."""

    passes: tuple[Pass, ...]

    def __init__(self, *passes: Pass) -> None:
        """Check that stages join."""
        for first, second in itertools.pairwise(passes):
            if first.after is not second.before:
                raise UnknownPass(
                    f"`{second.name}` cannot follow `{first.name}`",
                    have=f"a graph at stage {first.after}",
                    want=f"stage {second.before}",
                )
        object.__setattr__(self, "passes", passes)

    def __iter__(self) -> Iterator[Pass]:
        """The passes in order."""
        return iter(self.passes)

    def __str__(self) -> str:
        """The passes, as `passes/spec.py` reads them."""
        return ",".join(map(str, self.passes))

    def __add__(self, other: Pipeline) -> Pipeline:
        """One pipeline after the other."""
        return Pipeline(*self.passes, *other.passes)

    def insert_before(self, name: str, new: Pass) -> Pipeline:
        """The pipeline with `new` before the first pass of this name."""
        index = self._index(name)
        return Pipeline(*self.passes[:index], new, *self.passes[index:])

    def insert_after(self, name: str, new: Pass) -> Pipeline:
        """The pipeline with `new` after the last pass of this name."""
        index = self._last(name)
        return Pipeline(*self.passes[: index + 1], new, *self.passes[index + 1 :])

    def replace(self, name: str, new: Pass) -> Pipeline:
        """The pipeline with `new` in place of every pass of this name."""
        self._index(name)
        return Pipeline(*(new if p.name == name else p for p in self.passes))

    def without(self, name: str) -> Pipeline:
        """The pipeline without the passes of this name."""
        self._index(name)
        return Pipeline(*(p for p in self.passes if p.name != name))

    def until(self, name: str) -> Pipeline:
        """The pipeline up to and with the first pass of this name."""
        return Pipeline(*self.passes[: self._index(name) + 1])

    def _index(self, name: str) -> int:
        for index, item in enumerate(self.passes):
            if item.name == name:
                return index
        names = ", ".join(dict.fromkeys(p.name for p in self.passes))
        raise UnknownPass(f"there is no pass `{name}` in this pipeline", have=name, want=names)

    def _last(self, name: str) -> int:
        self._index(name)
        return max(index for index, item in enumerate(self.passes) if item.name == name)


@one_thread
def run(pipeline: Pipeline, graph: Graph, context: Context, *, trace: Path | None = None) -> Graph:
    """Return the graph after all passes; it is verified after each.

    With the option `check`, passes that promise to keep values are tried on seeded inputs.
    `trace` is a folder for the text of the graph after each pass.

    Raises:
        PassFailed: a pass raised something other than a BinpointError, or broke its promise.
    """
    done: list[str] = []
    for item in pipeline:
        before = graph
        try:
            graph = item.run(graph.copy(), context)
            verify(graph, item.after.value)
        except InvariantBroken as error:
            raise PassFailed(
                f"after `{item.name}`: {error.message}",
                at=error.at,
                have=error.have,
                want=error.want,
            ) from error
        except BinpointError:
            raise
        except Exception as error:
            raise PassFailed(
                f"the pass `{item.name}` failed: {type(error).__name__}: {error}",
                at=f"after {', '.join(done) or 'import'}",
                hint="use --dump-ir to see the graph before it, and report this",
            ) from error
        if (
            context.options.check
            and item.effect is Effect.KEEPS_VALUES
            and item.before is item.after
        ):
            check_values(item, before, graph, context)
        if trace is not None:
            _write(trace, len(list(trace.glob("*.txt"))), item.name, graph)
        done.append(item.name)
    return graph


def _write(folder: Path, index: int, name: str, graph: Graph) -> None:
    (folder / f"{index:02d}-{name}.txt").write_text(dump(graph), encoding="utf-8")


def check_values(item: Pass, before: Graph, after: Graph, context: Context) -> None:
    """Evaluate both graphs on seeded inputs; raise PassFailed if an output differs.

    Integer graphs must be equal; float graphs may differ by rounding (1e-3 of the largest value).
    """
    rng = np.random.default_rng(context.options.seed)
    inputs: dict[str, np.ndarray] = {}
    for name in before.inputs:
        value = before.value(name)
        if isinstance(value.type.elem, FixedType):
            inputs[name] = rng.integers(value.interval.lo, value.interval.hi + 1, value.shape)
        else:
            inputs[name] = rng.normal(size=value.shape).astype(np.float32)
    first, second = evaluate(before, inputs), evaluate(after, inputs)
    for old, new in zip(before.outputs, after.outputs, strict=True):
        a, b = first[old], second[new]
        equal = np.array_equal(a, b)
        if item.before is not Stage.INTEGER and a.shape == b.shape:
            equal = bool(
                np.allclose(a, b, rtol=1e-3, atol=1e-3 * float(np.abs(a).max(initial=1.0)))
            )
        if not equal:
            raise PassFailed(
                f"the pass `{item.name}` changed the output `{new}`, which it promised to keep"
            )
