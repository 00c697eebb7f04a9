"""accelerate(): Graph[INTEGER] → the design for an FPGA that the options ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from binpoint.errors import BadOption, DoesNotFit
from binpoint.ir.graph import Graph
from binpoint.options import CompileOptions
from binpoint.plan import estimate, fabric, units
from binpoint.plan.dataflow import design
from binpoint.plan.design import Design, Folding, Style
from binpoint.plan.estimate import DesignEstimate, LayerEstimate
from binpoint.plan.fifo import Sizing
from binpoint.plan.folding import Choice, choose_folding, excess
from binpoint.plan.ways import folded
from binpoint.target import FpgaTarget

_MICRO = 1e-6


def accelerate(graph: Graph, target: FpgaTarget, options: CompileOptions) -> Choice:
    """Layers, their folding and the depths of their streams, with what they take.

    Raises:
        BadOption: a folding names no layer or does not divide it; a parallel top was asked for
            where there is none.
        DoesNotFit: the design does not fit the part.
        NoIntegerForm: an op has no form as a unit.
    """
    latency = None if options.latency_us is None else options.latency_us * _MICRO
    given = {name: Folding(fold.pe, fold.simd) for name, fold in options.folding.items()}
    if options.top == "parallel":
        return _parallel(graph, target, options, given, latency)
    found = choose_folding(graph, target, options, fps=options.fps, latency=latency, given=given)
    if options.top == "stream" or found.notice is None or given:
        return found
    try:
        return _parallel(graph, target, options, given, latency)
    except (BadOption, DoesNotFit):
        return found


def _parallel(
    graph: Graph,
    target: FpgaTarget,
    options: CompileOptions,
    given: Mapping[str, Folding],
    latency: float | None,
) -> Choice:
    """The design whose layers are all computed at once: a new input every cycle."""
    made = design(graph, target, options, given, Style.PARALLEL)
    figures = _unrolled(made)
    hertz = 1e9 / target.clock.period_ns
    sizing = Sizing({}, 1, _depth(made, figures))
    over = excess(figures.total, target.fabric)
    if over:
        raise DoesNotFit(
            "the design does not fit the part with a parallel top",
            at=target.name,
            have=over,
            hint="leave the top streaming, or choose a larger part",
        )
    choice = Choice({}, made, sizing, figures, hertz, None)
    if latency is not None and choice.latency > latency:
        text = f"asked for {latency:g} s, found {choice.latency:.3g} s with a parallel top"
        return replace(choice, notice=text)
    if options.fps is not None and choice.fps < options.fps:
        text = f"asked for {options.fps:.10g} inferences/s, found {choice.fps:.0f}: one a cycle"
        return replace(choice, notice=text)
    return choice


def _unrolled(made: Design) -> DesignEstimate:
    """Layers with all lanes side by side; products with constants count as products.

    So this is more than a synthesis tool needs that knows the constants.
    """
    layers = tuple(_at_once(layer.name, layer.unit) for layer in made.layers)
    total = fabric.total([layer.resources for layer in layers])
    return DesignEstimate(layers, fabric.Resources(), total, 1)


def _at_once(name: str, unit: units.Unit) -> LayerEstimate:
    found = estimate.layer(name, folded(unit, _whole(unit)))
    copies = unit.taps if isinstance(unit, units.Arg) else 1
    return replace(found, cycles=1, interval=1, resources=found.resources * copies)


def _whole(unit: units.Unit) -> Folding:
    """The folding that leaves nothing for a second cycle."""
    match unit:
        case units.Dense():
            return Folding(unit.channels, unit.depth)
        case units.Map():
            return Folding(unit.words * unit.pe)
        case units.Pair():
            return Folding(unit.folds * unit.pe)
        case _:
            return Folding()


def _depth(made: Design, figures: DesignEstimate) -> int:
    """Cycles from inputs to outputs along the longest way."""
    late = {layer.name: layer.latency for layer in figures.layers}
    ready: dict[str, int] = {}
    for layer in made.layers:
        start = max((ready.get(stream, 0) for stream in layer.reads), default=0)
        ready |= dict.fromkeys(layer.writes, start + late[layer.name])
    return max(ready.get(port.stream, 0) for port in made.outputs) + 1
