"""Write the reference pages whose source is the package: ``python docs/pages.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from binpoint import catalogue
from binpoint.report import render

REFERENCE = Path(__file__).resolve().parent / "reference"

_PIPELINES = """\
# Pipelines

A pipeline is a tuple of passes. Each pass rewrites the graph, which is checked after it. A target's
file names its pipeline; `--pipeline` takes another one, by name or as text:

```
binpoint compile … --pipeline "{example}"
```

Passes are separated by commas. Options stand in braces after the name, separated by spaces, as in
`assign-types{{samples=20}}`; the elements of a tuple are separated by commas. `str()` of a pass or
pipeline gives this text. A pipeline leads from stage float to stage integer, and each pass begins
at the stage where the one before ends.

In Python, `pipelines.PIPELINES["mcu"]` has the methods `insert_before`, `insert_after`, `replace`,
`without` and `until`, which take the name of a pass and return a new pipeline; the example
`06_own_pass` puts a pass of its own into one.

## Passes

{passes}

## Named pipelines

{pipelines}
"""

_OPERATORS = """\
# Operators

The ONNX operators that are read, with their domain if it is not the default one. `QuantizeLinear`
and `DequantizeLinear` become types; `Identity`, `Dropout` and `Cast` between real types vanish.
What is missing is refused by name.

The quantizers of QONNX are read from `qonnx.custom_op.general`, `finn.custom_op.general`,
`onnx.brevitas` and the default domain; in a model with any of them (`../decisions/0006-qonnx.md`),
operators between quantizers that are straight or bent lines stay exact.

{operators}
"""


def pages() -> Mapping[str, str]:
    """Return the text of each page, by its name in the reference."""
    passes = catalogue.rows("passes")
    pipelines = catalogue.rows("pipelines")
    return {
        "pipelines.md": _PIPELINES.format(
            example=_folded(pipelines[0]["passes"]),
            passes=_table(passes),
            pipelines=_table(pipelines),
        ),
        "operators.md": _OPERATORS.format(operators=_table(catalogue.rows("ops"))),
        "report-schema.json": render.schema(),
    }


def _folded(spec: str) -> str:
    """The first and last passes of a long pipeline."""
    names = spec.split(",")
    return ",".join([*names[:2], "…", names[-1]])


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of equal keys as a table; names are set as code."""
    heads = list(rows[0])
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |"]
    for row in rows:
        cells = [f"`{row[h]}`" if h != "meaning" else row[h] for h in heads]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")
