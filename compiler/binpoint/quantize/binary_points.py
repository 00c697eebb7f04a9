"""binary-points: a binary point for every tensor and weight channel, by the error it leaves."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import msgspec
import numpy as np

from binpoint.errors import BadOption
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph
from binpoint.ir.op import FloatOp, Role
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import FixedType, IntType
from binpoint.passes.base import Context, Effect, Pass, Stage
from binpoint.quantize.assign_types import AssignTypes, plain_types, set_type
from binpoint.quantize.choose_type import least_step
from binpoint.quantize.correction import correct
from binpoint.quantize.groups import find_groups
from binpoint.quantize.least_error import least_errors, shifted
from binpoint.quantize.rounded_net import (
    Place,
    RoundedNet,
    Slot,
    weight_codes,
    weights_of,
)
from binpoint.quantize.simulate import Simulation
from binpoint.quantize.weights import open_weights, real_bias, replace_operand

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Points:
    """Types whose scales are powers of two, and what the joint search gained.

    Attributes:
        types: of values that share one, and of weights per channel.
        before: relative squared error of the outputs before the joint search; None without one.
        after: the same afterwards.
        moved: how many of the types the search changed.
    """

    types: dict[Place, FixedType]
    before: float | None = None
    after: float | None = None
    moved: int = 0

    def values(self) -> dict[str, FixedType]:
        """The types of values by name."""
        return {name: kind for place, kind in self.types.items() for name in place.values}

    def weights(self) -> dict[Slot, FixedType]:
        """The types of weight operands."""
        return {p.slot: kind for p, kind in self.types.items() if p.slot is not None}

    def figures(self) -> dict[str, float]:
        """How many types there are; of a joint search what it moved, and the errors."""
        found: dict[str, float] = {"types": len(self.types)}
        if self.before is not None and self.after is not None:
            errors = {"error_before": self.before, "error_after": self.after}
            found |= {"moved": self.moved, **{k: float(f"{e:.4g}") for k, e in errors.items()}}
        return found


@dataclass(frozen=True, slots=True)
class BinaryPoints(Pass):
    """Choose power-of-two scales by the error that they leave.

    Does nothing unless the option `binary_points` is `mse` or `joint`, on models that came
    quantized, and without samples.

    1. What shares a type is what `assign-types` finds, with the widths of the options; the model's
       inputs and outputs have `border_bits`. A type is unsigned where no sample is below zero, else
       signed: the least code, or zero, stands for 0.
    2. `mse`: of a tensor's scales, from the one that holds all values to 2^-5 of it, that with the
       least squared error over `samples` samples; of a weight channel's, that of the layer's sums.
    3. `joint`: then every type is moved by one bit, finer and coarser, all channels of weights
       together, and stays where the squared error of the model's outputs over `joint_samples`
       samples becomes less; one after the other in the order of computation, `sweeps` times over
       all of them or until none moves.
    4. With the option `bias_correction` biases are corrected as `assign-types` does, before each
       sweep and at the end, over `corrections` samples.
    """

    name: ClassVar[str] = "binary-points"
    before: ClassVar[Stage] = Stage.FLOAT
    after: ClassVar[Stage] = Stage.FLOAT
    effect: ClassVar[Effect] = Effect.CHANGES_VALUES
    assigns: ClassVar[bool] = True

    samples: int = 100
    joint_samples: int = 100
    sweeps: int = 3
    corrections: int = 32
    border_bits: int = 8

    def run(self, graph: Graph, context: Context) -> Graph:
        """See the class.

        Raises:
            BadOption: binary points are to be chosen, but scales may be any.
        """
        options, samples = context.options, context.samples
        if options.binary_points == "range":
            return graph
        if options.scales != "power-of-two":
            raise BadOption(
                "binary points are chosen only for scales that are powers of two",
                have=f"binary_points={options.binary_points}, scales={options.scales}",
                hint="set scales=power-of-two, too",
            )
        if graph.quantized or samples is None or not samples.count:
            return graph
        points = self.choose(graph, context)
        real = graph.copy()
        if not points.types:
            return graph
        _annotate(graph, points)
        graph.figures = {**graph.figures, self.name: points.figures()}
        if options.bias_correction:
            correct(real, graph, samples.spread(self.corrections))
        return graph

    def choose(self, graph: Graph, context: Context) -> Points:
        """The points of a real graph, which is not changed; `context` has samples."""
        assert context.samples is not None
        types = least_errors(
            graph, self._ranged(graph, context), context.samples.spread(self.samples)
        )
        points = Points(types)
        if context.options.binary_points == "joint":
            points = self._refined(graph, points, context)
        return _widened(graph, points)

    def _ranged(self, graph: Graph, context: Context) -> dict[Place, FixedType]:
        """Types by range, without zero points other than the least code."""
        options = msgspec.structs.replace(
            context.options, bias_correction=False, binary_points="range"
        )
        chooser = AssignTypes(samples=self.samples)
        typed = chooser.run(graph.copy(), replace(context, options=options))
        bare = _bare(graph, context)
        border = frozenset((*graph.inputs, *graph.outputs))
        types: dict[Place, FixedType] = {}
        for group in find_groups(bare):
            kind = _pointed(typed.value(group.members[0]).fixed)
            if not border.isdisjoint(group.members):
                kind = _of_bits(kind, self.border_bits)
            types[Place(group.members)] = kind
        for node in graph.nodes():
            for index in open_weights(graph, node):
                kind = typed.value(typed.node(node.name).inputs[index]).fixed
                assert kind is not None
                types[Place(slot=(node.name, index))] = kind
        return types

    def _refined(self, graph: Graph, points: Points, context: Context) -> Points:
        assert context.samples is not None
        samples = context.samples.spread(self.joint_samples)
        exact = Simulation(graph, rounded=False)
        outputs = [exact.outputs(i, frozenset(graph.outputs)) for i in samples.inputs()]
        bare = _bare(graph, context)
        stated = {Place((v.name,)): v.fixed for v in bare.values() if v.fixed and not v.constant}
        types = dict(points.types)
        moved: set[Place] = set()
        before = after = None
        for sweep in range(self.sweeps):
            trial = self._corrected(graph, replace(points, types=types), context)
            net = RoundedNet(trial, samples, stated | types, outputs)
            before = net.error if before is None else before
            found = [place for place in _ordered(graph, types) if _moved(net, types, place)]
            moved.update(found)
            after = net.error
            _log.info("sweep %d: %d of %d types moved, error %.4g",
                      sweep + 1, len(found), len(types), after)  # fmt: skip
            if not found:
                break
        return Points(types, before, after, len(moved))

    def _corrected(self, graph: Graph, points: Points, context: Context) -> Graph:
        """The graph with real weights, and the biases that suit these points."""
        trial = graph.copy()
        if not context.options.bias_correction:
            return trial
        assert context.samples is not None
        _annotate(trial, points)
        correct(graph, trial, context.samples.spread(self.corrections))
        result = graph.copy()
        for slot in points.weights():
            node, twin = result.node(slot[0]), trial.node(slot[0])
            for name in twin.inputs[2:3]:
                constant = trial.value(name).constant
                assert constant is not None
                build = GraphBuilder(result, name, node.origin)
                bias = build.constant(constant.array, hint=name)
                result.replace(replace(node, inputs=(*node.inputs[:2], bias.name)))
        return result


def _bare(graph: Graph, context: Context) -> Graph:
    """A copy with those types that follow without ranges."""
    bare = graph.copy()
    plain_types(bare, context.options.activation_bits)
    return bare


def _pointed(kind: FixedType | None) -> FixedType:
    """A type of values with the least code or zero for 0."""
    assert kind is not None
    if kind.zero_point == kind.storage.min:
        return kind
    wider = Dyadic(1, kind.scale.exponent + bool(kind.zero_point))
    return FixedType.per_tensor(kind.storage, wider)


def _of_bits(kind: FixedType, bits: int) -> FixedType:
    """A type of another width for the same range; zero stays where it is, or the least code."""
    storage = IntType(bits, kind.storage.signed)
    zero = storage.min if kind.zero_point else 0
    exponent = kind.scale.exponent + kind.storage.width - bits
    return FixedType.per_tensor(storage, Dyadic(1, exponent), zero)


def _ordered(graph: Graph, types: dict[Place, FixedType]) -> Iterable[Place]:
    """All places in the order of computation: of inputs, then of weights and results of nodes."""
    waiting = dict.fromkeys(types)
    order: list[tuple[str, tuple[str, ...]]] = [("", graph.inputs)]
    order += [(node.name, (*node.inputs, *node.outputs)) for node in graph.nodes()]
    for node, names in order:
        for place in tuple(waiting):
            own = place.slot is not None and place.slot[0] == node
            if own or not set(names).isdisjoint(place.values):
                del waiting[place]
                yield place


def _moved(net: RoundedNet, types: dict[Place, FixedType], place: Place) -> bool:
    """Move a type by one bit where that makes the error less; whether it did."""
    for by in (-1, 1):
        tried = net.tried(place, shifted(types[place], by))
        if tried is not None:
            net.keep(tried)
            types[place] = tried.kind
            return True
    return False


def _widened(graph: Graph, points: Points) -> Points:
    """Coarser weights where a bias in units of the sums could leave 32 bits."""
    types, values = dict(points.types), points.values()
    for slot, kind in points.weights().items():
        node = graph.node(slot[0])
        assert isinstance(node.op, FloatOp)
        pairs = tuple(zip(graph.arguments(node), node.op.roles(len(node.inputs)), strict=True))
        biases = [v for v, r in pairs if r is Role.BIAS and v.constant is not None]
        data = next(v for v, r in pairs if r is Role.ACTIVATION)
        stated = values.get(data.name, data.fixed)
        if stated is None or not biases:
            continue
        products = weights_of(graph, slot).size // kind.channels
        steps = least_step(real_bias(biases[0]), float(stated.scale), products, kind.storage)
        least = np.ceil(np.log2(np.maximum(steps, float(np.finfo(np.float32).tiny))))
        wide = (max(s.exponent, int(e)) for s, e in zip(kind.scales, least, strict=True))
        types[Place(slot=slot)] = replace(kind, scales=tuple(Dyadic(1, e) for e in wide))
    return replace(points, types=types)


def _annotate(graph: Graph, points: Points) -> None:
    for name, kind in points.values().items():
        set_type(graph, graph.value(name), kind)
    for slot, kind in points.weights().items():
        codes = weight_codes(weights_of(graph, slot), kind)
        replace_operand(graph, graph.node(slot[0]), slot[1], codes, kind)
