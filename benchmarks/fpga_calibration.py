"""Compare the resource model with yosys: ``python -m benchmarks.fpga_calibration layers``.

Prints a table of synthesis and model for every datapath, then the errors; with ``--write`` these
become the tables of the page on estimates. It needs yosys; a run takes some minutes.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import click

from benchmarks import fpga_cases, tables
from benchmarks.fpga_cases import Case
from benchmarks.yosys import Counts, synthesise

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "fpga-estimates.md"
PRIMITIVES = (
    "datapath", "LUT", "model", "error", "FF", "model", "error", "DSP", "model", "BRAM18", "model"
)  # fmt: skip
LAYERS = (PRIMITIVES[0], "cycles", "latency", *PRIMITIVES[1:])
LEAST = 16
Which = Literal["primitives", "layers"]
Pairs = Sequence[tuple[Case, Counts]]


def cases(which: Which) -> tuple[Case, ...]:
    """The datapaths of a table."""
    return fpga_cases.primitives() if which == "primitives" else fpga_cases.layers()


def error(found: int, model: float) -> float | None:
    """How far the model is off, in percent; None where there is next to nothing."""
    return None if found < LEAST else 100 * (model - found) / found


def head(which: Which) -> str:
    """The first two lines of a table."""
    return tables.head(PRIMITIVES if which == "primitives" else LAYERS)


def row(which: Which, case: Case, found: Counts) -> str:
    """One line of a table."""
    model = case.model
    cells = [
        *_pair(found.lut, model.lut), _percent(error(found.lut, model.lut)),
        *_pair(found.ff, model.ff), _percent(error(found.ff, model.ff)),
        *_pair(found.dsp, model.dsp), *_pair(found.bram18, model.bram18),
    ]  # fmt: skip
    cycles = [] if which == "primitives" else [str(n) for n in case.cycles or ("-", "-")]
    return tables.line([case.name, *cycles, *cells])


def _pair(found: int, model: float) -> tuple[str, str]:
    return str(found), f"{model:.0f}"


def _percent(off: float | None) -> str:
    return "-" if off is None else f"{off:+.1f} %"


def summary(pairs: Pairs) -> str:
    """Errors of all datapaths; apart, of those that are fresh, if there are any."""
    fresh = [pair for pair in pairs if pair[0].fresh]
    lines = _errors("All", pairs) + (
        _errors(f"The last {len(fresh)} alone", fresh) if fresh else []
    )
    return "\n".join(f"* {line}" for line in lines)


def _errors(which: str, pairs: Pairs) -> list[str]:
    lut = [error(found.lut, case.model.lut) for case, found in pairs]
    ff = [error(found.ff, case.model.ff) for case, found in pairs]
    slices = sum(case.model.dsp == found.dsp for case, found in pairs)
    blocks = sum(case.model.bram18 == found.bram18 for case, found in pairs)
    return [
        f"{which}: LUT {_spread(lut)}; FF {_spread(ff)}; "
        f"DSP exact in {slices}, BRAM18 in {blocks} of {len(pairs)}."
    ]


def _spread(errors: Sequence[float | None]) -> str:
    sizes = [abs(e) for e in errors if e is not None]
    if not sizes:
        return "without error"
    middle, most = statistics.median(sizes), max(sizes)
    return f"median error {middle:.1f} %, largest {most:.1f} % ({len(sizes)} rows)"


def table_of(page: Path, which: Which) -> str:
    """What stands between the page's marks of this table."""
    return _parts(page, which)[1]


def write(page: Path, which: Which, text: str) -> None:
    """Put the text between the page's marks of this table."""
    before, _, after = _parts(page, which)
    page.write_text(before + text + after, encoding="utf-8")


def _parts(page: Path, which: Which) -> tuple[str, str, str]:
    marks = f"(<!-- {which}: begin -->\n)(.*)(<!-- {which}: end -->)"
    text = page.read_text(encoding="utf-8")
    found = re.search(marks, text, re.DOTALL)
    if found is None:
        raise click.ClickException(f"{page.name} has no place for {which}")
    return text[: found.start(2)], found[2], text[found.end(2) :]


@click.command()
@click.argument("which", type=click.Choice(["primitives", "layers"]), default="layers")
@click.option("--jobs", default=2, show_default=True, help="Syntheses at a time.")
@click.option("--match", default="", help="Only datapaths whose name contains this.")
@click.option("--write", "writes", is_flag=True, help="Put the table into the page on estimates.")
def main(which: Which, jobs: int, match: str, writes: bool) -> None:
    """Print synthesis and model of every datapath, then the errors."""
    if match and writes:
        raise click.UsageError("a page holds all datapaths: --write goes without --match")
    chosen = [case for case in cases(which) if match in case.name]
    lines = [head(which)]
    pairs: list[tuple[Case, Counts]] = []
    click.echo(lines[0])
    with ThreadPoolExecutor(jobs) as pool:
        results = pool.map(synthesise, [case.datapath for case in chosen])
        for case, counts in zip(chosen, results, strict=True):
            pairs.append((case, counts))
            lines.append(row(which, case, counts))
            click.echo(lines[-1])
    errors = summary(pairs)
    click.echo("\n" + errors)
    if writes:
        write(PAGE, which, "\n".join(lines) + "\n\n" + errors + "\n")


if __name__ == "__main__":
    main()
