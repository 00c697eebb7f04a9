from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def test_a_pass_of_ones_own_takes_fewer_than_forty_lines_and_does_what_it_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = EXAMPLES / "06_own_pass" / "own_pass.py"
    assert len(script.read_text(encoding="utf-8").splitlines()) < 40
    capsys.readouterr()
    runpy.run_path(str(script))
    lines = capsys.readouterr().out.splitlines()
    names = ["cut-weights{deviations=9.0}", "cut-weights", "cut-weights{deviations=1.0}"]
    assert [line.partition(":")[0] for line in lines] == names
    assert all(": equal, accuracy 0." in line for line in lines)
    first, _, last = (float(re.findall(r"0\.\d+", line)[0]) for line in lines)
    assert first > 0.97
    assert last < first - 0.01
