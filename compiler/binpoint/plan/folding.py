"""choose_folding(): PE and SIMD of every layer for an asked throughput or latency, within a part.

Every layer gets the cheapest folding with which it keeps the pace, so that all are balanced to the
slowest. Cheap is what takes the smallest share of the part. The choice is made on units alone; the
design is then built with it, its streams are sized, and the whole is estimated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from binpoint.errors import BadOption, DoesNotFit
from binpoint.ir.graph import Graph
from binpoint.numeric.interval import Interval
from binpoint.options import CompileOptions
from binpoint.plan import estimate, units
from binpoint.plan.dataflow import design, port_lanes
from binpoint.plan.design import Design, Folding, Layer
from binpoint.plan.estimate import DesignEstimate
from binpoint.plan.fabric import Resources
from binpoint.plan.fifo import Sizing, sized
from binpoint.plan.ways import Feeder, feeder_of, folded, folded_window, lanes_of, ways
from binpoint.target import Fabric, FpgaTarget

# Look-up tables beyond this share are seldom routed (AMD UG949, on congestion, advises 70 to 80 %).
FILL = 0.8
_SLOWER = 1.15
_ROUNDS = 12
_TRIES = 8
_STEP = 0.9
_ADAPTOR = 2
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Choice:
    """A folding, and the design that it makes.

    Args:
        folding: by layer.
        design: with its streams at the depths of `sizing`.
        estimate: of the design.
        clock_hz: cycles in a second.
        asked: cycles between inferences that were asked for; None for as few as fit.
        notice: what stands in the way, with figures, if the asked pace is not reached.
    """

    folding: Mapping[str, Folding]
    design: Design
    sizing: Sizing
    estimate: DesignEstimate
    clock_hz: float
    asked: int | None
    notice: str | None = None

    @property
    def fps(self) -> float:
        """Inferences in a second."""
        return self.clock_hz / self.sizing.interval

    @property
    def latency(self) -> float:
        """Seconds from the first word in to the last word out."""
        return self.sizing.latency / self.clock_hz


@dataclass(frozen=True, slots=True)
class _Option:
    """A way to fold a layer: cycles between inferences, and what it takes with its window.

    `lanes` are those of the words that it wants of each operand.
    """

    folding: Folding
    lanes: tuple[int, ...]
    interval: int
    resources: Resources
    share: float


@dataclass(frozen=True, slots=True)
class _Operand:
    """Where a layer's words come from: the layer, None for a port; elements of one inference.

    A beat of a port has at most `beat_bits`, which is 0 for other operands.
    """

    source: str | None
    elements: int
    bounds: Interval
    forked: bool
    beat_bits: int

    def given(self, lanes: int) -> int:
        """Elements of a beat of the port that words of `lanes` come from."""
        return port_lanes(lanes, self.bounds, self.beat_bits)


@dataclass(frozen=True, slots=True)
class _Place:
    """A layer: all ways to fold it, cheapest first, and its operands.

    Where there is one way only and the user does not ask for it, the layer follows its neighbours.
    """

    name: str
    options: tuple[_Option, ...]
    operands: tuple[_Operand, ...]
    follows: bool


def choose_folding(
    graph: Graph,
    target: FpgaTarget,
    options: CompileOptions,
    *,
    fps: float | None = None,
    latency: float | None = None,
    given: Mapping[str, Folding] | None = None,
) -> Choice:
    """The cheapest folding that meets `fps` or `latency` (seconds) at the target's clock.

    With neither, the fastest that fits the part. Layers in `given` are folded as it says. A pace
    that no folding within the part reaches is no error: `notice` says how far it gets and why.

    Raises:
        BadOption: both or a number that is not positive, or `given` does not divide.
        DoesNotFit: the design does not fit the part at any folding.
        NoIntegerForm: an op has no form as a unit.
    """
    hertz = 1e9 / target.clock.period_ns
    goal = _goal(fps, latency, hertz)
    base = design(graph, target, options, given)
    places = _places(base, target, given or {})
    floor = _floor(places)
    pace = _fitting(places, target.fabric, max(floor, goal or 0))
    build = partial(_built, graph, target, options, places, goal)
    choice = build(pace)
    for _ in range(_ROUNDS):
        slower = _slower(choice, target, pace)
        quicker = None if latency is None else _quicker(choice, places, target, pace, floor)
        if slower is None and quicker is None:
            break
        pace = slower or quicker or pace
        choice = build(pace)
    over = excess(choice.estimate.total, target.fabric)
    if over:
        raise DoesNotFit(
            "the design does not fit the part",
            at=target.name,
            have=over,
            hint="choose a larger part, or a smaller model",
        )
    choice = _kept_pace(choice, target, build, max(pace, goal or 0))
    return replace(choice, notice=_notice(choice, target, fps, latency, floor))


def _kept_pace(
    choice: Choice, target: FpgaTarget, build: Callable[[int], Choice], pace: int
) -> Choice:
    """The choice, or a quicker one made for a slower pace.

    Neighbours whose lanes have no common width wait for each other; at another pace they may fit.
    """
    for _ in range(_TRIES):
        if choice.sizing.interval <= pace * _SLOWER:
            break
        pace = math.ceil(pace * _SLOWER)
        other = build(pace)
        quicker = other.sizing.interval < choice.sizing.interval
        if quicker and excess(other.estimate.total, target.fabric) is None:
            choice = other
    return choice


def _slower(choice: Choice, target: FpgaTarget, pace: int) -> int | None:
    """The next pace to try if the built design, adaptors and streams included, is too large."""
    if excess(choice.estimate.total, target.fabric) is None:
        return None
    return math.ceil(max(pace, choice.sizing.interval) * _SLOWER)


def _quicker(
    choice: Choice, places: tuple[_Place, ...], target: FpgaTarget, pace: int, floor: int
) -> int | None:
    """The next pace to try if words take too long from end to end, and a quicker one fits."""
    assert choice.asked is not None
    share = choice.asked / choice.sizing.latency
    if share >= 1 or pace <= floor:
        return None
    wanted = max(floor, math.floor(pace * min(_STEP, share)))
    return wanted if _fitting(places, target.fabric, wanted) == wanted else None


def _goal(fps: float | None, latency: float | None, hertz: float) -> int | None:
    """Cycles between inferences that were asked for."""
    if fps is not None and latency is not None:
        raise BadOption("both a throughput and a latency are asked for", hint="give one of them")
    asked = fps if fps is not None else latency
    if asked is None:
        return None
    if not asked > 0 or math.isinf(asked):
        raise BadOption("an asked pace is not positive", have=str(asked))
    cycles = hertz / fps if fps is not None else asked * hertz
    return max(1, math.floor(cycles))


# ---- what can be folded


def _places(base: Design, target: FpgaTarget, given: Mapping[str, Folding]) -> tuple[_Place, ...]:
    """The layers that compute nodes, in order."""
    found: list[_Place] = []
    beat_bits = target.interface.beat_bits
    for layer in base.layers:
        if not layer.nodes:
            continue
        window = feeder_of(base, layer)
        first = layer if window is None else window
        operands = tuple(_operand(base, stream, beat_bits) for stream in first.reads)
        fixed = given.get(layer.name)
        tried = ways(base, layer) if fixed is None else [fixed]
        options = [_option(layer, window, way, target.fabric) for way in tried]
        options.sort(key=lambda o: (o.share, o.folding.pe * o.folding.simd, o.folding.simd))
        follows = len(options) == 1 and fixed is None
        found.append(_Place(layer.name, tuple(options), operands, follows))
    return tuple(found)


def _operand(base: Design, stream: str, beat_bits: int) -> _Operand:
    """The layer that computes what a stream carries, behind forks and changes of lanes."""
    elements = base.streams[stream].words * base.streams[stream].lanes
    bounds = base.streams[stream].bounds
    forked = False
    while (layer := base.producer(stream)) is not None and not layer.nodes:
        forked = forked or isinstance(layer.unit, units.Fork)
        if not isinstance(layer.unit, units.Fork | units.Lanes):
            break
        stream = layer.reads[0]
    known = layer is not None and layer.nodes
    source = layer.name if layer is not None and known else None
    room = beat_bits if layer is None else 0
    return _Operand(source, elements, bounds, forked, room)


def _option(layer: Layer, window: Layer | None, way: Folding, part: Fabric) -> _Option:
    """A folding with its cycles and resources."""
    parts = [folded(layer.unit, way)]
    lanes = lanes_of(layer.unit, way)
    if window is not None:
        assert isinstance(window.unit, Feeder)
        feeder = folded_window(window.unit, way, layer.unit)
        lanes = (feeder.lanes,)
        parts.append(feeder)
    interval = max(unit.iterations + estimate.latency(unit) for unit in parts)
    need = sum((estimate.resources(unit) for unit in parts), Resources())
    share = need.lut / part.lut + need.dsp / part.dsp + need.bram18 / part.bram18
    return _Option(way, lanes, interval, need, share)


# ---- choosing


def _floor(places: tuple[_Place, ...]) -> int:
    """The fewest cycles between inferences that any folding has."""
    ports = [
        min(operand.elements // operand.given(o.lanes[index]) for o in place.options)
        for place in places
        for index, operand in enumerate(place.operands)
        if operand.beat_bits
    ]
    return max([*(min(o.interval for o in place.options) for place in places), *ports])


def _chosen(places: tuple[_Place, ...], pace: int) -> dict[str, _Option]:
    """The cheapest option of each layer that keeps the pace, with streams that keep it too.

    Where no two options of neighbours have a common lane width that is wide enough, the fastest
    join that there is remains; the built design shows it.
    """
    chosen: dict[str, _Option] = {}
    for place in places:
        ways = [o for o in place.options if o.interval <= pace]
        ways = ways or [min(place.options, key=lambda o: o.interval)]
        chosen[place.name] = min(
            ways, key=lambda o: (_join(place, o, chosen) > pace, o.share, o.folding.simd)
        )
    return chosen


def _join(place: _Place, option: _Option, chosen: Mapping[str, _Option]) -> int:
    """Cycles of the slowest change of lanes between a layer and its producers."""
    slowest = 0
    for operand, wanted in zip(place.operands, option.lanes, strict=True):
        source = operand.source
        given = operand.given(wanted) if source is None else chosen[source].folding.pe
        if operand.forked or operand.beat_bits:
            slowest = max(slowest, operand.elements // given + _ADAPTOR)
        if given != wanted:
            slowest = max(slowest, operand.elements // math.gcd(given, wanted) + _ADAPTOR)
    return slowest


def _fitting(places: tuple[_Place, ...], part: Fabric, pace: int) -> int:
    """The fastest pace, no faster than asked, at which the layers fit; the slowest if none does."""

    def fits(cycles: int) -> bool:
        need = sum((o.resources for o in _chosen(places, cycles).values()), Resources())
        return excess(need, part) is None

    low, high = pace, max(pace, *(o.interval for place in places for o in place.options))
    if fits(low):
        return low
    while high - low > max(1, low // 1000):
        middle = (low + high) // 2
        if fits(middle):
            high = middle
        else:
            low = middle
    return high


def _built(
    graph: Graph,
    target: FpgaTarget,
    options: CompileOptions,
    places: tuple[_Place, ...],
    goal: int | None,
    pace: int,
) -> Choice:
    """The design at a pace, with streams sized."""
    chosen = _chosen(places, pace)
    folding = {place.name: chosen[place.name].folding for place in places if not place.follows}
    made = design(graph, target, options, folding)
    sizing = sized(made, estimate.latency)
    made = made.with_depths(sizing.depths)
    hertz = 1e9 / target.clock.period_ns
    return Choice(folding, made, sizing, estimate.estimate(made), hertz, goal)


def excess(need: Resources, part: Fabric) -> str | None:
    """What a part has too little of; None if it has enough."""
    rows = (
        ("LUT", need.lut, part.lut * FILL),
        ("FF", need.ff, part.ff),
        ("DSP", need.dsp, part.dsp),
        ("BRAM18", need.bram18, part.bram18),
    )
    over = [f"{name} {have:.0f} of {limit:.0f}" for name, have, limit in rows if have > limit]
    return ", ".join(over) or None


def _notice(
    choice: Choice, target: FpgaTarget, fps: float | None, latency: float | None, floor: int
) -> str | None:
    """Why the asked pace is not reached."""
    if latency is not None and choice.latency > latency:
        pace = f"asked for {latency:g} s, found {choice.latency:.3g} s"
    elif fps is not None and choice.fps < fps * (1 - _ROUNDING):
        pace = f"asked for {fps:.10g} inferences/s, found {choice.fps:.0f}"
    else:
        return None
    slow, part, need = choice.estimate.slowest, target.fabric, choice.estimate.total
    limit = "no folding is faster" if choice.sizing.interval <= floor else "no faster one fits"
    return (
        f"{pace}, as {limit}: {need.lut:.0f} of {part.lut} LUT, {need.dsp} of {part.dsp} DSP, "
        f"{need.bram18} of {part.bram18} BRAM18 of {target.name}; the slowest layer is "
        f"`{slow.name}` with PE {slow.pe}, SIMD {slow.simd} and {slow.interval} cycles"
    )
