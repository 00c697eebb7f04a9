"""choose-bridges: types of values between convolutions and tokens, by the error of the outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from numpy.typing import NDArray

from binpoint.ir.graph import Graph, Node
from binpoint.ir.op import FloatOp
from binpoint.numeric.fixed import FixedType
from binpoint.ops.conv import Conv
from binpoint.ops.dense import Dense, MatMul
from binpoint.ops.layernorm import LayerNorm
from binpoint.ops.shape import Reshape, Transpose
from binpoint.ops.slices import Take
from binpoint.options import CompileOptions
from binpoint.passes.base import Context, Effect, Pass, Stage
from binpoint.passes.samples import Samples
from binpoint.quantize.choose_type import activation_type
from binpoint.quantize.observe import Range, observe
from binpoint.quantize.outputs import Outputs

_Array = NDArray[Any]
_MAPS = (Conv,)
_TOKENS = (Dense, MatMul, LayerNorm)
_MOVES = (Reshape, Transpose, Take)
_PARTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
_WORTHWHILE = 0.98


@dataclass(frozen=True, slots=True)
class ChooseBridges(Pass):
    """Choose types of values that go from convolutions to tokens, or back, by the outputs' error.

    1. A bridge is a value that came from a convolution and that a matrix product or layer norm
       reads, or the other way round; Reshape, Transpose and Take lie between.
    2. For each, with nothing else rounded: types with and without a zero point, of the whole range
       that the samples show and of parts of it, down to a half. The one whose rounding leaves the
       least squared error at the outputs for every other sample is taken, if for those between it
       leaves less by a fiftieth at least than the type that `assign-types` would choose; that is
       Q-HyViT's choice of scale and scheme (Lee et al. 2023), with the outputs themselves in place
       of their Hessian.

    Does nothing without the option `bridges`, and to a quantized model. `samples` is how many are
    used at most.
    """

    name: ClassVar[str] = "choose-bridges"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.KEEPS_VALUES

    samples: int = 32

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class."""
        options, samples = context.options, context.samples
        if not options.bridges or graph.quantized or samples is None or samples.count < 2:
            return graph
        names = tuple(_bridges(graph))
        if not names:
            return graph
        trial = _Trial(graph, samples.spread(self.samples))
        ranges = trial.ranges(names)
        before = after = 0.0
        changed: dict[str, FixedType] = {}
        for name in names:
            tried = [(trial.errors(name, k), k) for k in _candidates(ranges[name], options)]
            (_, wrong), _ = tried[0]
            (_, left), kind = min(tried, key=lambda pair: pair[0][0])
            if left < _WORTHWHILE * wrong:
                changed[name] = kind
            before, after = before + wrong, after + (left if name in changed else wrong)
        for name, kind in changed.items():
            graph.set_value(replace(graph.value(name), fixed=kind))
        figures = {"bridges": len(names), "changed": len(changed)}
        errors = {"error_before": before, "error_after": after}
        shown = {key: float(f"{error:.4g}") for key, error in errors.items()}
        graph.figures = {**graph.figures, self.name: {**figures, **shown}}
        return graph


def _bridges(graph: Graph) -> Iterator[str]:
    """Rule 1, in the graph's order."""
    for node in graph.nodes():
        if isinstance(node.op, _MOVES):
            continue
        for value in graph.results(node):
            if value.fixed is not None or value.name in graph.outputs:
                continue
            readers = tuple(_readers(graph, value.name))
            origin = _origin(graph, node)
            if (origin is _MAPS and any(isinstance(r.op, _TOKENS) for r in readers)) or (
                origin is _TOKENS and any(isinstance(r.op, _MAPS) for r in readers)
            ):
                yield value.name


def _readers(graph: Graph, name: str) -> Iterator[Node]:
    """Who reads a value, moves left out."""
    for reader in graph.consumers(name):
        if isinstance(reader.op, _MOVES):
            yield from _readers(graph, reader.outputs[0])
        else:
            yield reader


def _origin(graph: Graph, node: Node) -> tuple[type[FloatOp], ...] | None:
    """Whether the nearest convolution, product or norm that a node depends on is of maps."""
    todo, seen = [node], {node.name}
    for current in todo:
        for kinds in (_MAPS, _TOKENS):
            if isinstance(current.op, kinds):
                return kinds
        for name in current.inputs:
            above = graph.producer(name)
            if above is not None and above.name not in seen:
                seen.add(above.name)
                todo.append(above)
    return None


def _candidates(range_: Range, options: CompileOptions) -> list[FixedType]:
    """The type that `assign-types` would choose of a whole range first, then all others."""
    schemes = (True,) if options.activations == "symmetric" else (False, True)
    kinds = (
        activation_type(
            Range(range_.lo * part, range_.hi * part),
            symmetric=symmetric,
            power_of_two=options.scales == "power-of-two",
            bits=options.activation_bits,
        )
        for symmetric in schemes
        for part in _PARTS
    )
    return list(dict.fromkeys(kinds))


class _Trial:
    """A float graph whose outputs are compared with themselves after a value was rounded."""

    def __init__(self, graph: Graph, samples: Samples) -> None:
        """Run it once, with no value rounded."""
        self._graph = graph.copy()
        for value in graph.values():
            if value.constant is None and value.fixed is not None:
                self._graph.set_value(replace(value, fixed=None))
        self._samples = samples
        self._outputs = Outputs(self._graph, samples)

    def ranges(self, names: Sequence[str]) -> Mapping[str, Range]:
        """What the samples show of values; zero is among it."""
        seen = observe(self._graph, names, self._samples, bins=False)
        return {name: found.range for name, found in seen.items()}

    def errors(self, name: str, kind: FixedType) -> tuple[float, float]:
        """Relative squared errors of the outputs on even and on odd samples."""
        graph = self._graph.copy()
        graph.set_value(replace(graph.value(name), fixed=kind))
        apart, power = self._outputs.errors(graph), self._outputs.powers
        even, odd = (sum(apart[i::2]) / (sum(power[i::2]) or 1.0) for i in (0, 1))
        return even, odd
