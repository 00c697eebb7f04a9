"""The report on an FPGA design: pace, resources, units and streams."""

from __future__ import annotations

import math

import msgspec

from binpoint.ir.graph import Graph, Node
from binpoint.numeric.interval import Interval
from binpoint.plan.design import Layer as Loop
from binpoint.plan.design import Style
from binpoint.plan.estimate import LayerEstimate
from binpoint.plan.folding import Choice
from binpoint.report.schema import (
    Fifo,
    Fpga,
    Layer,
    Report,
    ResourceUse,
    Unit,
)
from binpoint.report.summary import Findings, known, layer_row
from binpoint.sim.witness import Verdict
from binpoint.target import FpgaTarget


def summarize_design(
    choice: Choice, target: FpgaTarget, verdict: Verdict, findings: Findings
) -> Report:
    """Put together what is known of an HLS project."""
    made = choice.design
    layers = tuple(_layer(made.graph, loop, findings) for loop in made.layers if loop.nodes)
    report = known(made.graph, target.name, verdict, findings, layers)
    return msgspec.structs.replace(report, fpga=_fpga(choice, target))


def _fpga(choice: Choice, target: FpgaTarget) -> Fpga:
    streams, total = choice.design.streams.values(), choice.estimate.total
    part = target.fabric
    uses = (
        ("LUT", math.ceil(total.lut), part.lut),
        ("FF", math.ceil(total.ff), part.ff),
        ("DSP", total.dsp, part.dsp),
        ("BRAM18", total.bram18, part.bram18),
    )
    rows = [ResourceUse(resource=r, used=u, available=a) for r, u, a in uses]
    wired = choice.design.style is Style.PARALLEL
    fifos = (
        []
        if wired
        else [Fifo(name=s.name, bits=s.lanes * s.elem.width, depth=s.depth) for s in streams]
    )
    return Fpga(
        top=choice.design.style.value,
        part=part.part,
        clock_mhz=choice.clock_hz / 1e6,
        interval_cycles=choice.sizing.interval,
        latency_cycles=choice.sizing.latency,
        inferences_per_second=round(choice.fps, 1),
        latency_us=round(choice.latency * 1e6, 3),
        notice=choice.notice,
        resources=tuple(rows),
        units=tuple(_unit(row) for row in choice.estimate.layers),
        fifos=tuple(fifos),
    )


def _unit(row: LayerEstimate) -> Unit:
    need = row.resources
    return Unit(
        name=row.name,
        kind=row.stem,
        pe=row.pe,
        simd=row.simd,
        cycles=row.cycles,
        interval=row.interval,
        latency=row.latency,
        lut=math.ceil(need.lut),
        ff=math.ceil(need.ff),
        dsp=need.dsp,
        bram18=need.bram18,
    )


def _layer(graph: Graph, loop: Loop, findings: Findings) -> Layer:
    nodes = [graph.node(name) for name in loop.nodes]
    result = graph.value(nodes[-1].outputs[0])
    return layer_row(graph, loop.name, nodes, result, _stored(graph, nodes), findings.snr_db)


def _stored(graph: Graph, nodes: list[Node]) -> int:
    """Bytes of the constants in words of the width that they need."""
    values = {v.name: v for node in nodes for v in graph.arguments(node)}
    arrays = [v.constant.array for v in values.values() if v.constant is not None]
    bits = sum(array.size * Interval.of(array).int_type().width for array in arrays)
    return math.ceil(bits / 8)
