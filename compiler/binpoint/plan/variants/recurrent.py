"""Recurrent layers whose products with the state are instructions for several bytes.

The gates stay plain C: their tables are read one by one.
"""

from __future__ import annotations

from dataclasses import replace

from binpoint.ir.graph import Graph
from binpoint.ir.kernel import Buffer
from binpoint.numeric.fixed import I8
from binpoint.ops.cell import IntRecurrent
from binpoint.options import CompileOptions
from binpoint.plan.fuse import Step

_FEW = 4


def dsp(step: Step, graph: Graph, options: CompileOptions) -> Step | None:
    """Four products of bytes by four SXTB16 and two SMLAD; four rows share two of the SXTB16."""
    if options.optimize == "size" or not _of_bytes(step, graph):
        return None
    note = "SMLAD adds two products; four rows share each word of the state"
    return replace(step, call=replace(step.call, variant="dsp", note=note))


def mve(step: Step, graph: Graph, options: CompileOptions) -> Step | None:
    """Sixteen products of bytes by one VMLADAVA."""
    if options.optimize == "size" or not _of_bytes(step, graph):
        return None
    note = "VMLADAVA adds sixteen products; four rows share each vector of the state"
    return replace(step, call=replace(step.call, variant="mve", note=note))


def _of_bytes(step: Step, graph: Graph) -> bool:
    """Whether state and weights are signed bytes, and rows no shorter than a word."""
    op = step.nodes[0].op
    if not isinstance(op, IntRecurrent):
        return False
    kinds = {a.name: a.elem for a in step.call.arguments if isinstance(a, Buffer)}
    return kinds["r"] == kinds["y"] == I8 and graph.value(step.writes[0]).shape[-1] >= _FEW
