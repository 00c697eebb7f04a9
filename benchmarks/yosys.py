"""Counts of logic that yosys finds for a datapath written in Verilog."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

_FOLDER = Path(__file__).resolve().parent / "fpga"
SOURCES = (_FOLDER / "primitives.v", _FOLDER / "units.v")
SCRIPT = "synth_xilinx -family xc7 -flatten -noiopad -noclkbuf"
# LUTs of a memory or shift register made of LUTs: AMD UG474, tables 2-3 and 2-4.
_LUTS = {
    **{f"LUT{n}": 1 for n in range(1, 7)},
    "INV": 1, "SRL16E": 1, "SRLC16E": 1, "SRLC32E": 1,
    "RAM32X1S": 1, "RAM64X1S": 1, "RAM128X1S": 2, "RAM256X1S": 4,
    "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "RAM32M": 4, "RAM64M": 4,
}  # fmt: skip
_FLOPS = ("FDRE", "FDSE", "FDCE", "FDPE")
_BLOCKS = {"RAMB18E1": 1, "RAMB36E1": 2}
_FREE = ("CARRY4", "MUXF7", "MUXF8", "XORCY", "MUXCY", "VCC", "GND")


@dataclass(frozen=True, slots=True)
class Rom:
    """Contents of a memory: rows and bits of a row, random but always the same."""

    rows: int
    width: int

    def write(self, path: Path) -> None:
        """A line of hexadecimal digits for each row."""
        rng = np.random.default_rng(self.rows * 65537 + self.width)
        bits = rng.integers(0, 2, (self.rows, self.width))
        lines = [f"{int(''.join(map(str, row)), 2):x}" for row in bits.tolist()]
        path.write_text("\n".join(lines) + "\n")


@dataclass(frozen=True, slots=True)
class Datapath:
    """A module with values of its parameters; a file parameter names its contents."""

    module: str
    parameters: Mapping[str, int]
    files: Mapping[str, Rom] = field(default_factory=dict[str, Rom])
    options: str = ""


@dataclass(frozen=True, slots=True)
class Counts:
    """What a datapath takes; a block memory of 36 Kibit counts as two."""

    lut: int
    ff: int
    dsp: int
    bram18: int


def synthesise(datapath: Datapath, timeout: float = 1800) -> Counts:
    """Run yosys and count.

    Raises:
        CalledProcessError: yosys failed; its text is the output.
        ValueError: a cell that is not counted.
    """
    with tempfile.TemporaryDirectory(prefix="binpoint-yosys-") as scratch:
        folder = Path(scratch)
        words = [f"-chparam {k} {_number(v)}" for k, v in datapath.parameters.items()]
        for key, rom in datapath.files.items():
            rom.write(folder / f"{key}.hex")
            name = f"{key}.hex".encode()
            words.append(f"-chparam {key} {8 * len(name)}'h{name.hex()}")
        script = [
            *(f"read_verilog -defer {source}" for source in SOURCES),
            f"hierarchy -top {datapath.module} {' '.join(words)}",
            f"{SCRIPT} {datapath.options}",
            "tee -q -o stat.json stat -json",
        ]
        (folder / "run.ys").write_text("\n".join(script) + "\n")
        subprocess.run(
            ["yosys", "-q", "run.ys"],
            cwd=folder,
            check=True,
            timeout=timeout,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return counted(folder / "stat.json")


def counted(path: Path) -> Counts:
    """The counts in a file that `stat -json` wrote."""
    text = path.read_text()
    return count(json.loads(text[text.index("{") :])["design"]["num_cells_by_type"])


def _number(value: int) -> str:
    """As yosys reads it: it knows no minus."""
    return str(value) if value >= 0 else f"32'sh{value & 0xFFFFFFFF:x}"


def count(cells: Mapping[str, int]) -> Counts:
    """Add up cells by what they take of the fabric."""
    unknown = sorted(
        set(cells) - set(_LUTS) - set(_FLOPS) - set(_BLOCKS) - set(_FREE) - {"DSP48E1"}
    )
    if unknown:
        raise ValueError(f"cells that are not counted: {', '.join(unknown)}")
    return Counts(
        lut=sum(_LUTS.get(c, 0) * n for c, n in cells.items()),
        ff=sum(cells.get(c, 0) for c in _FLOPS),
        dsp=cells.get("DSP48E1", 0),
        bram18=sum(_BLOCKS.get(c, 0) * n for c, n in cells.items()),
    )
