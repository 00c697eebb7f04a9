"""The emitted C on an emulated core: the fourth witness, and what it needs there."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median_low
from typing import Any

from numpy.typing import NDArray

from binpoint.emit.environment import render_template
from binpoint.errors import ToolFailed
from binpoint.sim import emulator
from binpoint.sim.counts import (
    Opcode,
    Part,
    events_of,
    modelled_cycles,
    opcodes_of,
    returns_into,
)
from binpoint.sim.emulator import EmulatorRun, Image
from binpoint.sim.interface import Codes, Interface, pack, unpack
from binpoint.target import McuTarget, Price

_MAIN = "bp_harness_main.c"


@dataclass(frozen=True, slots=True)
class Cost:
    """Instructions executed, counted; and the cycles that the target's price list makes of them."""

    instructions: int
    modelled_cycles: int | None


@dataclass(frozen=True, slots=True)
class Measurement:
    """Bytes of the model's own sources and the library parts they need; instructions of a run.

    Flash is code, constants and initial values of data. Stack and instructions are None where the
    program was built but not run. `layers` has the parts of the run of `instructions`, in the order
    of the calls; none where they were not told apart. `detection` are those of the head, at most.
    """

    code_bytes: int
    constant_bytes: int
    flash_bytes: int
    float_parts: tuple[str, ...]
    heap_parts: tuple[str, ...]
    compiler: str
    stack_bytes: int | None = None
    instructions: int | None = None
    instructions_min: int | None = None
    instructions_max: int | None = None
    modelled_cycles: int | None = None
    layers: tuple[Cost, ...] = ()
    detection: int | None = None


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
            return [], _sizes(image, sources)
        listing = emulator.listing(image, target)
        marks = returns_into(f"{interface.name}_run", listing)
        files = {"input.bin": pack(interface.inputs, samples)}
        done = emulator.run(image, target, files, marks=marks)
    if done.fault is not None or done.exit_code != 0:
        have = done.fault or f"exit status {done.exit_code}"
        raise ToolFailed("the emulated program stopped early", at=target.name, have=have)
    found = unpack(interface.results, done.outputs.get("output.bin", b""))
    calls = marks if len(marks) == len(interface.values) else ()
    prices = _Prices(target.price, opcodes_of(listing, target))
    sizes = _sizes(image, sources)
    if interface.detector is not None:
        # Of each sample a run, then the head.
        detected = [region.instructions for region in done.regions[1::2]]
        done = replace(done, regions=done.regions[::2])
        sizes = replace(sizes, detection=max(detected, default=None))
    return found, _measured(sizes, done, prices, calls)


def _sizes(image: Image, sources: Mapping[str, bytes]) -> Measurement:
    libraries = [s for n, s in image.sizes_by_source.items() if n.endswith(".a")]
    own = [*(image.sizes_by_source[n] for n in sources if n.endswith(".c")), *libraries]
    code, constants, data = (
        sum(sizes[kind] for sizes in own) for kind in ("code", "constants", "data")
    )
    return Measurement(
        code_bytes=code,
        constant_bytes=constants,
        flash_bytes=code + constants + data,
        float_parts=image.float_routines + image.float_instructions,
        heap_parts=image.heap_routines,
        compiler=image.compiler,
    )


@dataclass(frozen=True, slots=True)
class _Prices:
    """What costs are made with: the target's price list, and the instructions by address."""

    list: Price | None
    opcodes: Mapping[int, Opcode]

    def cost(self, parts: Sequence[Part]) -> Cost:
        """The cost of these parts of a run."""
        counted = sum(part.instructions for part in parts)
        if self.list is None:
            return Cost(counted, None)
        return Cost(counted, modelled_cycles(events_of(parts, self.opcodes), self.list))


def _measured(
    sizes: Measurement, done: EmulatorRun, prices: _Prices, calls: Sequence[int]
) -> Measurement:
    """The sizes, completed by what the run tells; by nothing where it ended no region.

    A layer's part is what was executed before its call returned, to one of `calls`.
    """
    counts = sorted(region.instructions for region in done.regions)
    if not counts:
        return sizes
    median = median_low(counts)
    parts = next(r.parts for r in done.regions if r.instructions == median)
    return replace(
        sizes,
        stack_bytes=done.stack_bytes,
        instructions=median,
        instructions_min=counts[0],
        instructions_max=counts[-1],
        modelled_cycles=prices.cost(parts).modelled_cycles,
        layers=tuple(prices.cost([p for p in parts if p.mark == at]) for at in calls),
    )
