"""Compare the resource model with yosys: ``python -m benchmarks.fpga_calibration layers``.

Prints a table of model and synthesis for every datapath. It needs yosys; a run takes some minutes.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import click

from benchmarks import fpga_cases
from benchmarks.fpga_cases import Case
from benchmarks.yosys import Counts, synthesise

HEAD = ("datapath", "LUT", "model", "error", "DSP", "model", "FF", "model", "BRAM18", "model")
LEAST = 16


def error(case: Case, found: Counts) -> float | None:
    """How far the model's look-up tables are off, in percent; None where there are next to none."""
    if found.lut < LEAST:
        return None
    return 100 * (case.model.lut - found.lut) / found.lut


def row(case: Case, found: Counts) -> str:
    """One line of the table."""
    off = error(case, found)
    cells = [
        case.name, str(found.lut), f"{case.model.lut:.0f}", "-" if off is None else f"{off:+.1f} %",
        str(found.dsp), str(case.model.dsp), str(found.ff), f"{case.model.ff:.0f}",
        str(found.bram18), str(case.model.bram18),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def summary(cases: Sequence[Case], found: Sequence[Counts]) -> str:
    """Errors of all datapaths in one line."""
    pairs = list(zip(cases, found, strict=True))
    errors = [abs(e) for c, f in pairs if (e := error(c, f)) is not None]
    slices = sum(c.model.dsp == f.dsp for c, f in pairs)
    return (
        f"LUT: median error {statistics.median(errors):.1f} %, largest {max(errors):.1f} %, of "
        f"{len(errors)} datapaths with {LEAST} or more; DSP: {slices} of {len(pairs)} exact"
    )


@click.command()
@click.argument("which", type=click.Choice(["primitives", "layers"]), default="layers")
@click.option("--jobs", default=2, show_default=True, help="Syntheses at a time.")
@click.option("--match", default="", help="Only datapaths whose name contains this.")
def main(which: Literal["primitives", "layers"], jobs: int, match: str) -> None:
    """Print model and synthesis of every datapath, then the errors."""
    cases = fpga_cases.primitives() if which == "primitives" else fpga_cases.layers()
    chosen = [case for case in cases if match in case.name]
    click.echo("| " + " | ".join(HEAD) + " |\n" + "| --- " * len(HEAD) + "|")
    found: list[Counts] = []
    with ThreadPoolExecutor(jobs) as pool:
        for case, counts in zip(
            chosen, pool.map(lambda c: synthesise(c.datapath), chosen), strict=True
        ):
            found.append(counts)
            click.echo(row(case, counts))
    click.echo("\n" + summary(chosen, found))


if __name__ == "__main__":
    main()
