"""The report on the head that makes boxes of an output."""

from __future__ import annotations

from binpoint.plan.program import Program
from binpoint.report.part import Part
from binpoint.sim.measure import Measurement


class Detecting(Part, frozen=True):
    """Boxes of an output.

    Attributes:
        output: the model's name of it.
        candidates: boxes of all cells.
        most: boxes that are kept of an image, at most.
        table_bytes: of the tables, part of the constants.
        result_bytes: of the caller's memory for the boxes.
        instructions: of one image, the most of the emulated runs; null where none was.
    """

    output: str
    candidates: int
    most: int
    table_bytes: int
    result_bytes: int
    instructions: int | None


def detecting_of(program: Program, figures: Measurement | None) -> Detecting | None:
    """What is told of a program's head, if it has one."""
    head = program.detector
    if head is None:
        return None
    return Detecting(
        output=program.outputs[head.index].source,
        candidates=head.candidates,
        most=head.limit,
        table_bytes=head.table_bytes,
        result_bytes=head.value.type.size * 4,
        instructions=figures and figures.detection,
    )
