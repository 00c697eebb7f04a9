"""The emitted C on an emulated core: the fourth witness, and what it needs there."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import Any

from numpy.typing import NDArray

from binpoint.emit.environment import render_template
from binpoint.errors import ToolFailed
from binpoint.sim import emulator
from binpoint.sim.emulator import EmulatorRun, Image
from binpoint.sim.interface import Codes, Interface, pack, unpack
from binpoint.target import McuTarget

_MAIN = "bp_harness_main.c"


@dataclass(frozen=True, slots=True)
class Measurement:
    """Bytes of the model's own sources and the library parts they need; instructions of a run.

    Flash is code, constants and initial values of data. Stack and instructions are None where the
    program was built but not run.
    """

    code_bytes: int
    constant_bytes: int
    flash_bytes: int
    static_bytes: int
    library_bytes: int
    float_parts: tuple[str, ...]
    heap_parts: tuple[str, ...]
    compiler: str
    stack_bytes: int | None = None
    instructions: int | None = None
    instructions_min: int | None = None
    instructions_max: int | None = None


def emulate(
    interface: Interface,
    files: Mapping[str, bytes],
    target: McuTarget,
    samples: Sequence[Codes],
    *,
    run: bool,
) -> tuple[list[dict[str, NDArray[Any]]], Measurement]:
    """Build for the target, and with `run` execute: outputs by name for each sample, figures.

    Raises:
        ToolNotFound: the target's compiler or emulator is missing.
        InvalidTarget: the target names no emulator.
        ToolFailed: the compiler refused, or the program stopped early.
    """
    main = render_template("harness", "emulator.c.j2", samples=len(samples), **interface.views())
    sources = {p: d for p, d in files.items() if "/" not in p and p.endswith((".c", ".h"))}
    with tempfile.TemporaryDirectory(prefix="binpoint-emulator-") as scratch:
        image = emulator.build(target, {**sources, _MAIN: main.encode()}, Path(scratch))
        if not run:
            return [], _figures(image, sources, None)
        done = emulator.run(image, target, {"input.bin": pack(interface.inputs, samples)})
    if done.fault is not None or done.exit_code != 0:
        have = done.fault or f"exit status {done.exit_code}"
        raise ToolFailed("the emulated program stopped early", at=target.name, have=have)
    found = unpack(interface.outputs, done.outputs.get("output.bin", b""))
    return found, _figures(image, sources, done)


def _figures(image: Image, sources: Mapping[str, bytes], done: EmulatorRun | None) -> Measurement:
    libraries = [s for n, s in image.sizes_by_source.items() if n.endswith(".a")]
    own = [*(image.sizes_by_source[n] for n in sources if n.endswith(".c")), *libraries]
    code, constants, data, bss = (
        sum(sizes[kind] for sizes in own) for kind in ("code", "constants", "data", "bss")
    )
    counts = sorted(r.instructions for r in done.regions) if done is not None else []
    return Measurement(
        code_bytes=code,
        constant_bytes=constants,
        flash_bytes=code + constants + data,
        static_bytes=data + bss,
        library_bytes=sum(sum(sizes.values()) for sizes in libraries),
        float_parts=image.float_routines + image.float_instructions,
        heap_parts=image.heap_routines,
        compiler=image.compiler,
        stack_bytes=done.stack_bytes if done is not None else None,
        instructions=median_low(counts) if counts else None,
        instructions_min=counts[0] if counts else None,
        instructions_max=counts[-1] if counts else None,
    )
