"""Layers without multipliers, beside those with: ``python -m benchmarks.multiplierless MODEL``.

A float model of dense layers is compiled for a parallel top with weights of any codes of `--bits`
bits, and of sums of 3, 2 and 1 signed powers of two. Printed are accuracy, the estimate, and what
yosys finds for the sums of one layer, written as Verilog: as a graph of adders and, with weights of
any codes, as products, with slices and without. Every level of additions is registered.
"""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from benchmarks import tables
from benchmarks.__main__ import SHARED, text
from benchmarks.yosys import SCRIPT, Counts, counted
from binpoint import CompileOptions, compile_model, load_target
from binpoint.driver import Result
from binpoint.plan import units
from binpoint.plan.estimate_sums import adders
from binpoint.plan.folding import Choice
from binpoint.plan.shifts import graph_of, ranges

COLUMNS = (
    "weights", "accuracy", "design: LUT", "FF", "DSP", "additions", "graph: LUT", "yosys", "FF",
    "yosys", "DSP, yosys", "products: LUT, yosys", "DSP", "without slices: LUT",
)  # fmt: skip
TARGET = "xcvu9p"
KINDS = ("LUT", "FF", "DSP")


def graph_verilog(unit: units.Sums) -> str:
    """The sums of a unit without their biases: every number registered, and delayed where late."""
    graph, types = graph_of(unit.weights), [r.int_type() for r in ranges(unit)]
    sizes = [t.width + (not t.signed) for t in types]
    levels = graph.levels()
    end = max(levels)
    lines = _head(unit)
    lines += [f"wire signed [{sizes[i] - 1}:0] n{i}_0 = x[{i}];" for i in range(graph.operands)]
    late = _late(unit)
    for index, adder in enumerate(graph.adders, graph.operands):
        at = levels[index] - 1
        left, right = (
            f"(n{n}_{at - levels[n]} <<< {s})"
            for n, s in ((adder.left, adder.up), (adder.right, adder.down))
        )
        sign = "-" if adder.minus else "+"
        lines.append(f"reg signed [{sizes[index] - 1}:0] n{index}_0;")
        lines.append(f"always @(posedge clk) n{index}_0 <= {left} {sign} {right};")
    for index, size in enumerate(sizes):
        for step in range(1, late[index] - levels[index] + 1):
            lines.append(f"reg signed [{size - 1}:0] n{index}_{step};")
            lines.append(f"always @(posedge clk) n{index}_{step} <= n{index}_{step - 1};")
    for place, row in enumerate(graph.rows):
        text = "0" if row is None else f"n{row.number}_{end - levels[row.number]} <<< {row.shift}"
        lines.append(f"assign y[{place}] = {text};")
    return _whole(unit, lines)


def _late(unit: units.Sums) -> list[int]:
    """The level at which each number is last read."""
    graph = graph_of(unit.weights)
    levels = graph.levels()
    late = list(levels)
    for index, adder in enumerate(graph.adders, graph.operands):
        for number in (adder.left, adder.right):
            late[number] = max(late[number], levels[index] - 1)
    for row in graph.rows:
        if row is not None:
            late[row.number] = max(levels)
    return late


def products_verilog(unit: units.Sums) -> str:
    """The same sums as registered products and binary trees of registered additions."""
    lines = _head(unit)
    width = unit.acc.width
    for place, row in enumerate(unit.weights.array.tolist()):
        names: list[str] = []
        for column, weight in enumerate(row):
            if not weight:
                continue
            names.append(f"p{place}_{column}")
            bits = unit.x.width + abs(weight).bit_length() + 1
            lines.append(f"reg signed [{bits - 1}:0] {names[-1]};")
            number = f"{'-' if weight < 0 else ''}{bits}'sd{abs(weight)}"
            lines.append(f"always @(posedge clk) {names[-1]} <= x[{column}] * {number};")
        lines += _tree(names, f"t{place}", width)
        lines.append(f"assign y[{place}] = {names[0] if names else '0'};")
    return _whole(unit, lines)


def _tree(names: list[str], stem: str, width: int) -> list[str]:
    """Additions of neighbours, level by level; `names` is left with the sum alone."""
    lines: list[str] = []
    level = 0
    while len(names) > 1:
        level += 1
        pairs = [names[i : i + 2] for i in range(0, len(names), 2)]
        names[:] = []
        for place, pair in enumerate(pairs):
            names.append(f"{stem}_{level}_{place}")
            lines.append(f"reg signed [{width - 1}:0] {names[-1]};")
            lines.append(f"always @(posedge clk) {names[-1]} <= {' + '.join(pair)};")
    return lines


def _head(unit: units.Sums) -> list[str]:
    wide = unit.x.width + (not unit.x.signed)
    lines = [f"wire signed [{wide - 1}:0] x [0:{unit.simd - 1}];"]
    lines += [f"wire signed [{unit.acc.width - 1}:0] y [0:{unit.pe - 1}];"]
    sign = "" if unit.x.signed else "1'b0, "
    for index in range(unit.simd):
        held = f"in[{index * unit.x.width} +: {unit.x.width}]"
        lines.append(f"reg signed [{wide - 1}:0] h{index};")
        lines.append(f"always @(posedge clk) h{index} <= {{{sign}{held}}};")
        lines.append(f"assign x[{index}] = h{index};")
    for index in range(unit.pe):
        lines.append(f"assign out[{index * unit.acc.width} +: {unit.acc.width}] = y[{index}];")
    return lines


def _whole(unit: units.Sums, lines: list[str]) -> str:
    inputs, outputs = unit.simd * unit.x.width, unit.pe * unit.acc.width
    ports = f"input clk, input [{inputs - 1}:0] in, output [{outputs - 1}:0] out"
    return "\n".join([f"module sums({ports});", *lines, "endmodule", ""])


def synthesised(verilog: str, options: str = "") -> Counts:
    """What yosys finds."""
    with tempfile.TemporaryDirectory(prefix="binpoint-yosys-") as scratch:
        folder = Path(scratch)
        (folder / "sums.v").write_text(verilog)
        lines = ["read_verilog sums.v", f"{SCRIPT} -top sums {options}"]
        (folder / "run.ys").write_text("\n".join([*lines, "tee -q -o stat.json stat -json", ""]))
        subprocess.run(["yosys", "-q", "run.ys"], cwd=folder, check=True, capture_output=True)
        return counted(folder / "stat.json")


@dataclass(frozen=True, slots=True)
class Weights:
    """A row of the table: how weights are quantized, how products are made."""

    name: str
    terms: int | None
    multipliers: Literal["auto", "none"]


ROWS = (
    Weights("any, multiplied", None, "auto"),
    Weights("any, canonical digits", None, "none"),
    *(Weights(f"{k}-hot", k, "none") for k in (3, 2, 1)),
)


Scales = Literal["free", "power-of-two"]


def compiled(
    model: Path, bits: int, few: Weights, calibrate_with: int, scales: Scales = "free"
) -> Result:
    """The model, computed at once."""
    options = CompileOptions(
        top="parallel", weight_bits=bits, weight_terms=few.terms, multipliers=few.multipliers,
        scales=scales,
    )  # fmt: skip
    samples = model.with_suffix(".npz")
    return compile_model(
        model, load_target(TARGET), options, samples=samples, calibrate_with=calibrate_with,
        verify="ort",
    )  # fmt: skip


def row(result: Result, few: Weights, layer: int | None) -> list[str]:
    """The cells of a row."""
    fpga = result.report.fpga
    assert fpga is not None
    assert isinstance(result.plan, Choice)
    used = {r.resource: r.used for r in fpga.resources}
    cells: list[object] = [few.name, result.report.accuracy.integer, *(used[k] for k in KINDS)]
    found = [u.unit for u in result.plan.design.layers if isinstance(u.unit, units.Sums)]
    if layer is None or not found:
        return [text(c) for c in cells] + ["-"] * (len(COLUMNS) - len(cells))
    unit = found[layer]
    model_of, graph = adders(unit), synthesised(graph_verilog(unit))
    cells += [len(graph_of(unit.weights).adders), round(model_of.lut), graph.lut]
    cells += [round(model_of.ff), graph.ff, graph.dsp]
    if few.terms is not None:
        return [text(c) for c in cells] + ["-"] * (len(COLUMNS) - len(cells))
    products = products_verilog(unit)
    wide, bare = synthesised(products), synthesised(products, "-nodsp")
    return [text(c) for c in (*cells, wide.lut, wide.dsp, bare.lut)]


@click.command()
@click.argument("model", type=click.Path(path_type=Path), default=SHARED / "pendigits_mlp.onnx")
@click.option("--bits", default=6, show_default=True, help="Of weights.")
@click.option("--calibrate-with", default=500, show_default=True)
@click.option("--scales", type=click.Choice(["free", "power-of-two"]), default="free")
@click.option("--layer", type=int, default=None, help="Whose sums yosys is given; none by default.")
def main(model: Path, bits: int, calibrate_with: int, scales: Scales, layer: int | None) -> None:
    """Print the table of MODEL."""
    tables.begin(COLUMNS)
    for few in ROWS:
        result = compiled(model, bits, few, calibrate_with, scales)
        tables.add(row(result, few, layer))


if __name__ == "__main__":
    main()
