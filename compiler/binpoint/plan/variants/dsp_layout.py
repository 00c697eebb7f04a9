"""How the convolutions of `dsp_matrix` hold their input in scratch, widened to 16 bits."""

from __future__ import annotations

from dataclasses import dataclass

from binpoint.ops.window import Window

_PIECE = 512
"""Elements of a row that are widened together, where its windows are not longer."""


@dataclass(frozen=True, slots=True)
class Plane:
    """A window on `depth` of all `channels` of an input; `columns` are those that windows read."""

    window: Window
    size: tuple[int, ...]
    columns: int
    depth: int
    channels: int


@dataclass(frozen=True, slots=True)
class Layout:
    """How scratch is filled: numbers and traits of the kernel, and elements in scratch.

    `lines` of the input are as many inputs of their own.
    """

    traits: tuple[tuple[str, str], ...]
    numbers: dict[str, int]
    elements: int
    lines: int = 1


def by_columns(plane: Plane, *, odd: bool) -> Layout:
    """Columns of all rows of a window, so that a window is one run.

    Where a row has an odd number of windows, those of two rows make pairs.
    """
    window, columns, depth = plane.window, plane.columns, plane.depth
    out, height = window.outputs(plane.size), window.kernel[0]
    across = out[1] % 2 == 1 and out[0] > 1 and not odd
    pairs = ("pairs", "across" if across else "")
    numbers = {
        "in_h": plane.size[0], "line": plane.size[1] * depth, "out_h": out[0], "out_w": out[1],
        "kernel_h": height, "stride_h": window.strides[0], "pad_h": window.before[0],
        "columns": columns, "pad_w": window.before[1],
        "width": min(plane.size[1], columns - window.before[1]),
        "step": window.strides[1] * depth * height,
    }  # fmt: skip
    traits = (("layout", "columns"), ("depth", f"d{depth}"), pairs)
    return Layout(traits, numbers, columns * height * depth * (2 if across else 1))


def by_pieces(plane: Plane) -> Layout:
    """Windows of one row, from a piece of the row at a time."""
    window, depth = plane.window, plane.depth
    count, move, span = window.outputs(plane.size)[1], window.strides[1] * depth, window.reach[1]
    room = max(_PIECE, 3 * span * depth)
    few = min(count, max(2, (room - span * depth) // move // 2 * 2))
    numbers = {
        "line": plane.size[1] * depth, "out_w": count, "few": few, "step": move,
        "lead": window.before[1] * depth, "span": span * depth,
        **_runs(plane, 0),
    }  # fmt: skip
    elements = (few - 1) * move + span * depth
    return Layout((("layout", "pieces"),), numbers, elements, plane.size[0])


def _runs(plane: Plane, row: int) -> dict[str, int]:
    """The runs of a window: its rows, `row` elements apart, or the dilated taps of its one row."""
    window = plane.window
    if window.dilations[1] > 1 and window.kernel[0] == 1:
        return {"runs": window.kernel[1], "pitch": window.dilations[1] * plane.depth}
    return {"runs": window.kernel[0], "pitch": window.dilations[0] * row}


def by_phases(plane: Plane) -> Layout:
    """The rows of windows that are dilated in both directions.

    Windows whose columns have the same remainder by the dilation read columns of one remainder: as
    plain windows do, of every so many columns.
    """
    window, depth = plane.window, plane.depth
    out, phases, width = window.outputs(plane.size), window.dilations[1], window.kernel[1]
    span = (-(-out[1] // phases) + width - 1) * depth
    row = span + span % 2
    numbers = {
        "in_h": plane.size[0], "in_w": plane.size[1], "line": plane.size[1] * depth,
        "out_h": out[0], "out_w": out[1], "reach": window.reach[0],
        "stride_h": window.strides[0], "pad_h": window.before[0],
        "kernel_w": width, "pad_w": window.before[1], "phases": phases,
        "part": depth, "part_step": phases * depth, "row": row, "step": depth,
        **_runs(plane, row),
    }  # fmt: skip
    return Layout((("layout", "rows"),), numbers, row * window.reach[0])


def by_rows(plane: Plane) -> Layout:
    """The rows that windows of one row read; columns between windows are left out.

    A row comes in parts, which are its columns where windows have but some of the channels.
    """
    window, columns, depth = plane.window, plane.columns, plane.depth
    out, stride, reach = window.outputs(plane.size), window.strides[1], window.reach[0]
    parts, part, skipped = 1, min(plane.size[1], columns - window.before[1]), 0
    some = depth < plane.channels
    if window.reach[1] < stride and not window.padded and (not some or window.reach[1] == 1):
        parts, part, skipped = out[1], window.reach[1], stride
        columns, stride = out[1] * part, part
    elif some:
        parts, part, skipped = part, 1, 1
    row = columns * depth + columns * depth % 2
    numbers = {
        "in_h": plane.size[0], "line": plane.size[1] * plane.channels,
        "out_h": out[0], "out_w": out[1], "reach": reach,
        "stride_h": window.strides[0], "pad_h": window.before[0],
        "lead": window.before[1] * depth, "parts": parts, "part": part * depth,
        "part_step": skipped * plane.channels, "row": row, "step": stride * depth,
        **_runs(plane, row),
    }  # fmt: skip
    return Layout((("layout", "rows"),), numbers, row * reach)
