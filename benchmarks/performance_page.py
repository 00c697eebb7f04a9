"""The page on performance: what was measured, as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks import layers, tables
from benchmarks.visual_wake_words import NAME as VISUAL_WAKE_WORDS
from binpoint.report.schema import Layer, Report

CORES = (
    "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55", "cortex-m3", "cortex-m0plus", "rv32imc",
)  # fmt: skip
DETAILED = ("cortex-m4", "cortex-m55", "rv32imc", "cortex-m0plus")

Reports = Mapping[tuple[str, str], Report]


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the tables.

    Args:
        name: of its file.
        what: in words.
        peer: instructions per multiply-accumulate of TFLM with CMSIS-NN, by core.
        size_too: whether it is shown with `--optimize size`.
    """

    name: str
    what: str
    peer: Mapping[str, float] | None = None
    size_too: bool = False


MODELS = (
    Model(
        "ic_resnet8_qdq", "MLPerf Tiny image classification, int8 QDQ",
        {"cortex-m4": 2.39, "cortex-m55": 0.385}, size_too=True,
    ),
    Model(
        "kws_dscnn_qdq", "MLPerf Tiny keyword spotting, int8 QDQ",
        {"cortex-m4": 2.90, "cortex-m55": 0.673}, size_too=True,
    ),
    Model(
        VISUAL_WAKE_WORDS,
        "MobileNetV1 0.25 of MLPerf Tiny visual wake words, random int8 weights, half of them dead",
        {"cortex-m4": 3.22, "cortex-m55": 0.859}, size_too=True,
    ),
    Model(
        "ad_autoencoder_qdq", "MLPerf Tiny anomaly detection, int8 QDQ",
        {"cortex-m4": 2.21, "cortex-m55": 0.568}, size_too=True,
    ),
    Model("ic_resnet8_tflite_int8", "image classification, from the reference int8 file"),
    Model("kws_dscnn_tflite_int8", "keyword spotting, from the reference int8 file"),
    Model("ad_autoencoder_tflite_int8", "anomaly detection, from the reference int8 file"),
    Model("digits", "the convolutional network of the digits example, from float"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Figures:
    """Reports by model and core: of models, of models made small, of the single layers."""

    reports: Reports
    small: Reports
    layers: Reports


_PAGE = """\
# Performance

`make bench` writes this page. It compiles each model for each core, runs one inference on an
emulated core and counts its instructions. Counts are exact: the same compiler gives the same
numbers on every machine. The outputs are those of all other witnesses, bit by bit. Instructions
are not cycles, and the emulator has neither caches nor wait states.

{compilers}

## Models

{models}

Instructions of one inference, every operator among them, per nominal multiply-accumulate: one of
the model as it was given, before multiply-accumulates that nothing needs are dropped.

{instructions}

TFLM with CMSIS-NN was measured with the same emulator and compiler on the MLPerf Tiny reference
int8 files, the whole inference as well, at its better level of optimisation: `-O2` on Cortex-M4,
`-O3` on Cortex-M55. For visual wake words that is the trained network of the same shape.

Modelled cycles per nominal multiply-accumulate, by the `[price]` table of each
[target](targets.md) and with memory that never waits. The tables of Cortex-M0+, M3, M4 and of
RV32IMC (the Ibex core) are the designers' timings; those of M7, M33 and M55 are means fitted to a
scoreboard, by `make bench-prices`. They are models, to compare code with code, and no times.

{cycles}

## Memory

Bytes. Code is the model's own with the library routines that it calls; constants are weights,
biases and tables; the arena holds all intermediate values and scratch, and the bound is what no
order and placement of the same program's values needs less than; the stack is the deepest use
below the caller.

{memory}

With `--optimize size`, on Cortex-M4:

{small}

## Layers

Instructions per multiply-accumulate of one layer with its requantization; of the sum, per
element. Weights are random, the rest is as in quantized networks: int8, a scale for every channel
of weights, and a rectifier except after fully connected layers.

{layers}
"""


def page(figures: Figures, cores: Sequence[str]) -> str:
    """The text of the page; a figure that was not measured is a dash."""
    names = [m for m in MODELS if any(key[0] == m.name for key in figures.reports)]
    detailed = [core for core in DETAILED if core in cores]
    return _PAGE.format(
        compilers=_compilers(figures.reports.values()),
        models=_models(names, figures.reports),
        instructions=_instructions(names, figures.reports, cores),
        cycles=_cycles(names, figures.reports, cores),
        memory=_memory(names, figures.reports, detailed),
        small=_small(names, figures),
        layers=_layers(figures.layers, cores),
    )


def table(rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A table whose first row is its head and whose first columns hold words."""
    head, *body = rows
    rule = ["---"] * words + ["---:"] * (len(head) - words)
    return "\n".join(map(tables.line, (head, rule, *body)))


def _compilers(reports: Iterable[Report]) -> str:
    found = sorted({report.compiler for report in reports if report.compiler is not None})
    return "Compilers, at `-O2`: " + "; ".join(f"`{name}`" for name in found) + "."


def _nominal(report: Report) -> int:
    return report.macs + report.macs_removed


def _per(count: int | None, work: int) -> str:
    return "-" if count is None or not work else f"{count / work:.3f}"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}".replace(",", " ")


def _models(names: Sequence[Model], reports: Reports) -> str:
    rows = [["model", "what", "MACs", "of them dropped"]]
    for model in names:
        report = next(r for key, r in reports.items() if key[0] == model.name)
        counts = (_count(_nominal(report)), _count(report.macs_removed))
        rows.append([f"`{model.name}`", model.what, *counts])
    return table(rows, 2)


def _instructions(names: Sequence[Model], reports: Reports, cores: Sequence[str]) -> str:
    compared = [core for core in ("cortex-m4", "cortex-m55") if core in cores]
    peers = [f"TFLM + CMSIS-NN, {core}" for core in compared]
    rows = [["model", *cores, *peers]]
    for model in names:
        theirs = model.peer or {}
        rows.append([
            f"`{model.name}`",
            *(_each(reports, model.name, core, "instructions") for core in cores),
            *(f"{theirs[core]:.3f}" if core in theirs else "-" for core in compared),
        ])  # fmt: skip
    return table(rows)


def _cycles(names: Sequence[Model], reports: Reports, cores: Sequence[str]) -> str:
    rows = [["model", *cores]]
    for model in names:
        cells = (_each(reports, model.name, core, "modelled_cycles") for core in cores)
        rows.append([f"`{model.name}`", *cells])
    return table(rows)


def _each(reports: Reports, name: str, core: str, what: str) -> str:
    report = reports.get((name, core))
    if report is None:
        return "-"
    count = report.instructions if what == "instructions" else report.modelled_cycles
    return _per(count, _nominal(report))


_MEMORY = ("code", "constants", "arena", "bound", "stack")


def _sizes(report: Report) -> list[str]:
    found = (
        report.code_bytes, report.constant_bytes, report.arena_bytes,
        report.arena_lower_bound_bytes, report.stack_bytes,
    )  # fmt: skip
    return [_count(size) for size in found]


def _memory(names: Sequence[Model], reports: Reports, cores: Sequence[str]) -> str:
    rows = [["model", "core", *_MEMORY]]
    for model in names:
        rows += [
            [f"`{model.name}`", core, *_sizes(reports[model.name, core])]
            for core in cores
            if (model.name, core) in reports
        ]
    return table(rows, 2)


def _small(names: Sequence[Model], figures: Figures) -> str:
    rows = [["model", *_MEMORY, "instructions per MAC"]]
    for model in names:
        report = figures.small.get((model.name, "cortex-m4"))
        if report is not None:
            cost = _per(report.instructions, _nominal(report))
            rows.append([f"`{model.name}`", *_sizes(report), cost])
    return table(rows)


def _layers(reports: Reports, cores: Sequence[str]) -> str:
    found = {core: report for (_, core), report in reports.items()}
    rows = [["layer", *cores]]
    rows += [[t, *(_layer(found.get(core), t) for core in cores)] for t in layers.titles()]
    return table(rows)


def _layer(report: Report | None, title: str) -> str:
    """What a layer costs: the rows that come from its node, without those that only move."""
    found = () if report is None else report.layers
    rows = [row for row in found if title in row.origin and row.op != "IntCopy"]
    if not rows:
        return "-"
    return _per(_sum(rows), sum(row.macs for row in rows) or _elements(rows[-1]))


def _sum(rows: Sequence[Layer]) -> int | None:
    counts = [row.instructions for row in rows if row.instructions is not None]
    return sum(counts) if len(counts) == len(rows) else None


def _elements(row: Layer) -> int:
    size = 1
    for count in row.shape:
        size *= count
    return size
