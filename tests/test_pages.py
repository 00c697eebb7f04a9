from __future__ import annotations

import pytest

from benchmarks import fpga_calibration
from benchmarks.yosys import Counts
from docs.pages import REFERENCE, pages


@pytest.mark.parametrize("name", sorted(pages()))
def test_the_page_is_what_the_package_says(name: str) -> None:
    text = (REFERENCE / name).read_text(encoding="utf-8")
    assert text == pages()[name], "python docs/pages.py writes it anew"


@pytest.mark.parametrize("which", ["layers", "primitives"])
def test_the_page_on_estimates_shows_what_the_model_says(
    which: fpga_calibration.Which,
) -> None:
    table = fpga_calibration.table_of(fpga_calibration.PAGE, which)
    lines = [fpga_calibration.head(which)]
    pairs: list[tuple[fpga_calibration.Case, Counts]] = []
    for case, cells in zip(fpga_calibration.cases(which), _cells(table), strict=True):
        found = Counts(*(int(cells[key]) for key in ("LUT", "FF", "DSP", "BRAM18")))
        pairs.append((case, found))
        lines.append(fpga_calibration.row(which, case, found))
    lines += ["", fpga_calibration.summary(pairs), ""]
    assert table == "\n".join(lines), "python -m benchmarks.fpga_calibration writes it anew"


def _cells(table: str) -> list[dict[str, str]]:
    """Rows of a table by column, of columns of one name the last."""
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")]
    names = [cell.strip() for cell in rows[0]]
    return [dict(zip(names, (c.strip() for c in row), strict=True)) for row in rows[2:]]
