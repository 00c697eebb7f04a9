"""What weights of less than a byte cost and save by layer: ``python -m benchmarks.narrow``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from benchmarks import layers, tables
from binpoint import CompileOptions, compile_model, load_target
from binpoint.report.schema import Layer

WIDTHS = (8, 6, 5, 4, 3, 2)


def measure(core: str, bits: int) -> dict[str, Layer]:
    """The rows of the layers by title, for weights of `bits`; all witnesses agree."""
    with tempfile.TemporaryDirectory() as scratch:
        report = compile_model(
            layers.save(Path(scratch), bits),
            load_target(core),
            CompileOptions(),
            samples="random",
            verify="all",
            verify_samples=1,
        ).report
    titles = layers.titles()
    rows = ((next((t for t in titles if t in row.origin), ""), row) for row in report.layers)
    return {title: row for title, row in rows if title and row.macs}


def table(found: dict[int, dict[str, Layer]]) -> str:
    """Instructions, their ratio to those of eight bits, and bytes, a row for each layer."""
    widths = tuple(found)
    heads = [f"instructions, {b} bits" for b in widths] + [f"bytes, {b} bits" for b in widths]
    lines = [tables.head(["layer", *heads])]
    for title, first in found[widths[0]].items():
        rows = [found[b][title] for b in widths]
        counts = [row.instructions or 0 for row in rows]
        cells = [f"{n:,} ({n / (first.instructions or 1):.3f})" for n in counts]
        lines.append(tables.line([title, *cells, *(f"{row.bytes:,}" for row in rows)]))
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--core", default="cortex-m4", show_default=True)
@click.option("--bits", "widths", multiple=True, type=int, default=WIDTHS, show_default=True)
def main(core: str, widths: tuple[int, ...]) -> None:
    """Print the table."""
    print(table({bits: measure(core, bits) for bits in widths}))


if __name__ == "__main__":
    main()
