"""What packed maps save and cost: ``python -m benchmarks.packed_maps``.

Arena, flash and instructions of real models of few bits, with a byte for every code and with packed
maps. All witnesses agree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from benchmarks import tables
from benchmarks.__main__ import SHARED
from binpoint import CompileOptions, compile_model, load_target
from binpoint.report.schema import Report

NETS = (
    ("cnv_half_w2a2", 8), ("kws_dscnn_w4a4", 8), ("tfc_2w2a", 8), ("ic_resnet8_float", 4),
    ("keras_mnist_bn_dw", 4), ("mnist_unet_seg", 4),
)  # fmt: skip
"""Models, and the bits of activations and weights of those that come without quantizers."""
_HEAD = (
    "net", "maps", "arena, bytes", "arena, packed", "factor", "flash, bytes", "flash, packed",
    "instructions, bytes", "instructions, packed",
)  # fmt: skip


def report(path: Path, core: str, bits: int, packed: Literal["auto", "never"]) -> Report:
    """What compiling and emulating the model gives."""
    options = CompileOptions(activation_bits=bits, weight_bits=bits, packed_maps=packed)
    target = load_target(core)
    return compile_model(path, target, options, samples="random", verify_samples=2).report


def row(path: Path, core: str, bits: int) -> tuple[str, ...]:
    """The figures of one net."""
    plain, packed = (report(path, core, bits, way) for way in ("never", "auto"))
    before, after = plain.arena_bytes or 0, packed.arena_bytes or 0
    counts = (plain.instructions or 0, packed.instructions or 0)
    maps = len(packed.packed_maps.maps) if packed.packed_maps is not None else 0
    return (
        path.stem, f"{maps}", f"{before:,}", f"{after:,}", f"{before / max(1, after):.2f}",
        f"{plain.flash_bytes:,}", f"{packed.flash_bytes:,}",
        f"{counts[0]:,}", f"{counts[1]:,} ({counts[1] / max(1, counts[0]):.3f})",
    )  # fmt: skip


@click.command()
@click.option("--core", default="cortex-m4", show_default=True)
@click.option("--net", "nets", multiple=True, help="By default all.")
def main(core: str, nets: tuple[str, ...]) -> None:
    """Print the table, a row as it is known."""
    tables.begin(_HEAD)
    for name, bits in NETS:
        if not nets or name in nets:
            tables.add(row(SHARED / f"{name}.onnx", core, bits))


if __name__ == "__main__":
    main()
