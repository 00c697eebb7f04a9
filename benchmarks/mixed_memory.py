"""What patches of mixed precision need and take: ``python -m benchmarks.mixed_memory``.

For the nets of `benchmarks.patches`: the arena, flash and instructions of the plain plan, of
patches of 8 bits, and of patches of mixed precision with a byte for every code and with packed
maps. All witnesses agree.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from benchmarks import tables
from benchmarks.patches import nets
from binpoint import CompileOptions, compile_model, load_target
from binpoint.frontend.samples import RANDOM
from binpoint.report.patches import PatchStage
from binpoint.report.schema import Report

WAYS = (
    ("plain", CompileOptions()),
    ("patches", CompileOptions(optimize="ram")),
    ("mixed, bytes", CompileOptions(optimize="ram", patches="mixed", packed_maps="never")),
    ("mixed", CompileOptions(optimize="ram", patches="mixed")),
)
_HEAD = ("net", "way", "arena", "flash", "instructions", "witnesses", "narrow patches", "parts")


def report(model: Path, core: str, options: CompileOptions) -> Report:
    """What compiling and emulating the model gives."""
    source = model.with_suffix(".npz")
    samples = source if source.is_file() else RANDOM
    return compile_model(
        model, load_target(core), options, samples=samples, verify_samples=2
    ).report


def classes(stages: tuple[PatchStage, ...]) -> tuple[str, str]:
    """Of each stage how many patches are of fewer bits, and the parts that others are made in."""
    found: list[str] = []
    parts: list[str] = []
    for stage in stages:
        few = sum(c.patches for c in stage.classes if min(c.bits) < max(c.bits))
        found.append(f"{few} of {sum(c.patches for c in stage.classes)}")
        parts += ["x".join(map(str, c.parts)) for c in stage.classes if max(c.parts) > 1]
    return ", ".join(found), ", ".join(parts)


def row(model: Path, core: str, way: str, options: CompileOptions) -> tuple[str, ...]:
    """The figures of one way."""
    made = report(model, core, options)
    few, parts = classes(made.patches.stages) if made.patches is not None else ("", "")
    return (
        model.stem, way, f"{made.arena_bytes:,}", f"{made.flash_bytes:,}",
        f"{made.instructions or 0:,}", str(made.verdict), few, parts,
    )  # fmt: skip


@click.command()
@click.option("--core", default="cortex-m4", show_default=True)
@click.option("--net", "chosen", multiple=True, help="By default all.")
def main(core: str, chosen: tuple[str, ...]) -> None:
    """Print the table, a row as it is known."""
    tables.begin(_HEAD)
    with tempfile.TemporaryDirectory() as folder:
        for model in nets(Path(folder)):
            if chosen and model.stem not in chosen:
                continue
            for way, options in WAYS:
                tables.add(row(model, core, way, options))


if __name__ == "__main__":
    main()
