"""The report as JSON for machines and as tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import cleandoc
from pathlib import Path
from typing import cast

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from binpoint.errors import InputNotFound, UsageError
from binpoint.ir.text import describe_figures
from binpoint.report.detections import Detecting
from binpoint.report.maps import PackedMaps
from binpoint.report.patches import CurvePoint, Patches
from binpoint.report.schema import Fpga, Layer, Report


def json(report: Report) -> str:
    """The text of report.json: keys in their fixed order."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n"


def read(path: Path) -> Report:
    """Undo `json`.

    Raises:
        InputNotFound: the file cannot be read.
        UsageError: it is no report.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except OSError as error:
        raise InputNotFound("cannot read the report", at=str(path), have=error.strerror) from error
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise UsageError("the file is no report", at=str(path), have=str(error)) from error


def schema() -> str:
    """The JSON schema of the report."""
    text = msgspec.json.encode(_tidy(msgspec.json.schema(Report)), order="sorted")
    return msgspec.json.format(text, indent=2).decode() + "\n"


def _tidy(part: object) -> object:
    """The schema without the indentation of docstrings."""
    match part:
        case str():
            return cleandoc(part)
        case list():
            return [_tidy(item) for item in cast("list[object]", part)]
        case dict():
            return {key: _tidy(item) for key, item in cast("dict[str, object]", part).items()}
        case _:
            return part


def console(report: Report, console: Console) -> None:
    """Print the report as tables."""
    console.print(f"[bold]{report.model.name}[/] for {report.target}", highlight=False)
    console.print(_figures(report))
    console.print(_witnesses(report))
    if report.layers:
        console.print(_layers(report, console.width))
    if report.packed_maps is not None:
        console.print(_packed_maps(report.packed_maps))
    if report.patches is not None:
        console.print(_patches(report.patches))
    if report.patch_curve:
        console.print(_curve(report.patch_curve))
    if report.fpga is not None:
        console.print(_units(report.fpga))
        console.print(_fifos(report.fpga))


def _figures(report: Report) -> Table:
    table = Table.grid(padding=(0, 2))
    for key, value in _facts(report):
        table.add_row(key, value)
    return table


def _facts(report: Report) -> list[tuple[str, str]]:
    rows = _code(report) if report.fpga is None else _design(report.fpga)
    rows += [
        ("work", f"{number(report.macs)} MACs, {number(report.macs_removed)} MACs removed"),
        ("accuracy", _accuracy(report)),
        ("samples", _samples(report)),
        ("requantizers", _requantizers(report)),
        *(("departure", text) for text in _departures(report)),
        *(("boxes", _boxes(found)) for found in (report.detections,) if found is not None),
        *((name, describe_figures(found)) for name, found in report.passes.items()),
    ]  # fmt: skip
    rows += [
        (f"{row.memory} budget", _memory(row.used_bytes, row.available_bytes, row.unmeasured))
        for row in report.budget
    ]
    for what, found in (("float", report.float_linked), ("heap", report.heap_linked)):
        if found is not None:
            rows.append((what, ", ".join(found) or "none linked"))
    if report.changed_files:
        rows.append(("changed", ", ".join(report.changed_files)))
    return rows


def _boxes(found: Detecting) -> str:
    """What the head costs."""
    cost = "" if found.instructions is None else f", {number(found.instructions)} instructions"
    return (
        f"at most {found.most} of {number(found.candidates)} of `{found.output}`{cost}; "
        f"{number(found.result_bytes)} bytes of the caller's"
    )


def _code(report: Report) -> list[tuple[str, str]]:
    """Bytes and instructions."""
    measured = "" if report.unmeasured is None else f" (not measured: {report.unmeasured})"
    met = "" if report.arena_bytes == report.arena_lower_bound_bytes else " (not met)"
    bound = f"{number(report.arena_lower_bound_bytes)} lower bound{met}"
    code, constants = number(report.code_bytes), number(report.constant_bytes)
    parts = f"{code} code, {constants} constants{measured}"
    return [
        ("flash", f"{number(report.flash_bytes)} bytes: {parts}"),
        ("arena", f"{number(report.arena_bytes)} bytes, {bound}"),
        ("stack", f"{number(report.stack_bytes)} bytes"),
        ("instructions", number(report.instructions)),
        ("modelled cycles", number(report.modelled_cycles)),
    ]  # fmt: skip


def _design(found: Fpga) -> list[tuple[str, str]]:
    """Pace and resources, estimated."""
    pace = f"{number(round(found.inferences_per_second))} inferences/s"
    cycles = f"{number(found.interval_cycles)} cycles between inferences"
    rows = [
        ("part", f"{found.part} at {found.clock_mhz:g} MHz, {found.top} top"),
        ("pace", f"{pace}: {cycles} (estimated)"),
        ("latency", f"{found.latency_us:g} us: {number(found.latency_cycles)} cycles (estimated)"),
    ]
    if found.notice is not None:
        rows.append(("notice", found.notice))
    for row in found.resources:
        share = 100 * row.used / row.available
        text = f"{number(row.used)} of {number(row.available)}, {share:.1f} % (estimated)"
        rows.append((row.resource, text))
    return rows


def _memory(used: int, available: int, unmeasured: tuple[str, ...]) -> str:
    without = f", without {', '.join(unmeasured)}" if unmeasured else ""
    return f"{number(used)} of {number(available)} bytes{without}"


def _accuracy(report: Report) -> str:
    found = report.accuracy
    if found.metric is None:
        return "unknown"
    kinds = {"float": found.floating, "integer": found.integer, "onnxruntime": found.onnxruntime}
    if found.floating is not None:
        del kinds["onnxruntime"]
    parts = [f"{name} {value:.4f}" for name, value in kinds.items() if value is not None]
    return f"{found.metric} of {found.samples} samples: {', '.join(parts)}"


def _samples(report: Report) -> str:
    use = report.samples
    if use.source is None and not use.random:
        return "none given"
    what = "random noise" if use.random else use.source
    both = ", the same for both" if use.shared else ""
    return (
        f"{what}: {use.calibration} to calibrate, {use.scored} to score{both}, "
        f"{use.verified} to verify"
    )


def _requantizers(report: Report) -> str:
    counts = msgspec.to_builtins(report.requantizers)
    return ", ".join(f"{count} {form}" for form, count in counts.items()) + " (channels)"


def _departures(report: Report) -> list[str]:
    """One line a reason: how many values, and the first of them."""
    places: dict[str, list[str]] = {}
    for row in report.departures:
        places.setdefault(row.reason, []).append(", ".join(row.origin) or row.value)
    return [f"{reason} ({_some(names)})" for reason, names in places.items()]


def _some(names: list[str]) -> str:
    first = names[0] or "all values"
    return first if len(names) == 1 else f"{len(names)} values, the first at {first}"


def number(value: int | None) -> str:
    """A figure as it is printed, ``-`` where nothing was measured."""
    return "-" if value is None else f"{value:,}".replace(",", " ")


def _witnesses(report: Report) -> Table:
    table = Table(
        "witness", "verdict", "samples", "reason",
        box=box.SIMPLE_HEAD, title=f"verdict: {report.verdict}", title_justify="left",
    )  # fmt: skip
    for row in report.witnesses:
        table.add_row(row.name, row.verdict, str(row.samples), row.reason or "")
    return table


def _units(found: Fpga) -> Table:
    heads = ("unit", "kind", "PE", "SIMD", "cycles", "latency", "LUT", "FF", "DSP", "BRAM18")
    table = Table(box=box.SIMPLE_HEAD, title="units, estimated", title_justify="left")
    for head in heads:
        table.add_column(head, justify="left" if head in ("unit", "kind") else "right")
    for row in found.units:
        figures = (
            *(row.pe, row.simd, row.cycles, row.latency),
            *(row.lut, row.ff, row.dsp, row.bram18),
        )
        table.add_row(row.name, row.kind, *(number(n) for n in figures))
    return table


def _fifos(found: Fpga) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="streams", title_justify="left")
    table.add_column("stream")
    table.add_column("bits", justify="right")
    table.add_column("depth", justify="right")
    for row in found.fifos:
        table.add_row(row.name, number(row.bits), number(row.depth))
    return table


_WIDE = {"op": 100, "bytes": 110, "modelled cycles": 120, "SNR dB": 90}
"""Columns of layers that only a console of so many characters shows."""
_NAME = 12
"""Characters of a layer's name that are always shown."""


def _packed_maps(found: PackedMaps) -> Table:
    """One row a map, and in the title what packing saves."""
    plain, packed = number(found.arena_plain_bytes), number(found.arena_packed_bytes)
    title = f"packed maps: arena {packed} in place of {plain} bytes"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for name in ("map", "bits", "codes", "bytes"):
        table.add_column(name)
    for row in found.maps:
        table.add_row(row.map, str(row.bits), number(row.codes), number(row.bytes))
    return table


def _patches(found: Patches) -> Table:
    """One row a stage, and in the title what they save together."""
    plain, patched = number(found.arena_plain_bytes), number(found.arena_patched_bytes)
    title = f"patches: arena {patched} in place of {plain} bytes, "
    title += f"{100 * found.extra_macs_fraction:.1f} % more MACs"
    if found.bitops_mixed < found.bitops_uniform8:
        title += (
            f", BitOPs of the stages {found.bitops_uniform8 / found.bitops_mixed:.2f} times less"
        )
    if found.bitops_mixed < found.bitops_worst:
        title += (
            f" in the mean of samples, at least {found.bitops_uniform8 / found.bitops_worst:.2f}"
        )
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for name in (
        "split",
        "grid",
        "patch",
        "pieces",
        "MACs",
        "without halos",
        "bits of maps, of weights: share",
    ):
        table.add_column(name)
    for stage in found.stages:
        shares = "; ".join(
            f"{_widths(c.bits)}, {_widths(c.weights)}: {100 * c.share:.0f} %" for c in stage.classes
        )
        if stage.test is not None:
            shares += f"; with outliers outside {stage.test.lo} to {stage.test.hi} by the device"
        table.add_row(
            stage.split,
            "x".join(map(str, stage.grid)),
            "x".join(map(str, stage.extents)),
            str(stage.pieces),
            number(stage.macs),
            number(stage.macs_once),
            shares,
        )
    return table


def _widths(bits: Sequence[int]) -> str:
    """Bits one by one, or once where all have as many."""
    return "-".join(map(str, bits[:1] if len(set(bits)) == 1 else bits))


def _curve(points: tuple[CurvePoint, ...]) -> Table:
    """Memory against extra work."""
    title = "arena against extra work, by patches (estimated)"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for name in ("arena", "more MACs", "stages"):
        table.add_column(name, justify="right")
    for point in points:
        share = f"{100 * point.extra_macs_fraction:.1f} %"
        table.add_row(number(point.arena_bytes), share, str(point.stages))
    return table


def _layers(report: Report, width: int) -> Table:
    """One row a layer; a column in which nothing was measured is left out."""
    rows = [_layer(row) for row in report.layers]
    shown = [
        head
        for head in rows[0]
        if width >= _WIDE.get(head, 0) and any(row[head] not in ("", "-") for row in rows)
    ]
    table = Table(box=box.SIMPLE_HEAD, title="layers", title_justify="left")
    widths = {head: max(len(head), *(len(row[head]) for row in rows)) for head in shown}
    room = width - 1 - 3 * len(shown) - sum(widths.values()) + widths["layer"]
    widths["layer"] = max(_NAME, min(widths["layer"], room))
    for head in shown:
        left = head in ("layer", "op", "shape", "type", "requantizer")
        table.add_column(
            head, justify="left" if left else "right", no_wrap=True, width=widths[head]
        )
    for row in rows:
        table.add_row(*(row[head] for head in shown))
    return table


def _layer(row: Layer) -> dict[str, str]:
    """The cells of a layer by column."""
    proved = ", proved" if row.proved else ""
    return {
        "layer": row.name,
        "op": row.op.partition(" ")[0],
        "shape": "x".join(map(str, row.shape)),
        "type": row.type.partition("@")[0],
        "MACs": number(row.macs),
        "bytes": number(row.bytes),
        "instructions": number(row.instructions),
        "modelled cycles": number(row.modelled_cycles),
        "requantizer": "" if row.requantizer is None else row.requantizer + proved,
        "SNR dB": "-" if row.snr_db is None else f"{row.snr_db:.1f}",
    }
