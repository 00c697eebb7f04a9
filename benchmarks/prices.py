"""Price lists of cores without a published table of timings: ``python -m benchmarks.prices``.

Two networks are compiled and run on the emulated core, and a scoreboard says what each layer takes;
prices are what brings the sums over a layer's events nearest, by least squares of relative errors.
Events that are rare in these layers stay near what passes on the scoreboard behind them.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, get_args

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks import layers, visual_wake_words
from benchmarks.__main__ import ROOT
from benchmarks.scoreboard import CORES, decode, part_cycles, shares
from binpoint import CompileOptions, compile_model, load_target
from binpoint.emit.environment import render_template
from binpoint.errors import ToolFailed
from binpoint.sim import emulator
from binpoint.sim.counts import Part, events_of, opcodes_of, returns_into
from binpoint.sim.interface import Interface, pack
from binpoint.target import Event, McuTarget, Price, microcontroller

_EVENTS: tuple[Event, ...] = get_args(Event)
_VECTORS = ("loop", "vector", "vector_memory", "vector_multiply", "gather", "predicate")
_OWN = re.compile(r"\[price\](?s:.*?)(?=\n\[price\.kernels\]|\Z)")
"""What of a target's file is written here."""
_WEIGHT = 0.1
"""Of the squared distance from the first guess, beside a layer's squared relative error."""
_LEAST = 2000
"""Cycles of a layer below which its errors count for less."""


@dataclass(frozen=True, slots=True)
class Layer:
    """What happened in a layer, and what that takes on the scoreboard."""

    network: str
    events: Mapping[Event, int]
    cycles: int
    shares: Mapping[Event, int]

    def error(self, prices: Mapping[Event, float]) -> float:
        """By which part the sum over the events is more than the scoreboard's cycles."""
        return _sum([self], prices) / self.cycles - 1


def _sum(rows: Sequence[Layer], prices: Mapping[Event, float]) -> float:
    return sum(prices[event] * count for row in rows for event, count in row.events.items())


# ---- layers


def traced(network: Path, target: McuTarget) -> list[Layer]:
    """The layers of a network, run once on noise.

    Raises:
        ToolFailed: the program stopped early, or its calls cannot be told apart.
        ToolNotFound: the compiler or the emulator is missing.
    """
    options = CompileOptions()
    made = compile_model(network, target, options, verify="none")
    interface = Interface.of(made.program, options)
    listing, parts = run(interface, made.project.files, target)
    code, opcodes = decode(listing, target), opcodes_of(listing, target)
    core = CORES[target.name]
    return [
        Layer(
            network.stem,
            events_of([part], opcodes),
            part_cycles(part, code, core),
            shares(part, code, core),
        )
        for part in parts
    ]


def run(
    interface: Interface, files: Mapping[str, bytes], target: McuTarget
) -> tuple[str, Sequence[Part]]:
    """The program as text, and its run from call to call."""
    main = render_template("harness", "emulator.c.j2", samples=1, **interface.views())
    sources = {p: d for p, d in files.items() if "/" not in p and p.endswith((".c", ".h"))}
    with tempfile.TemporaryDirectory(prefix="binpoint-prices-") as scratch:
        image = emulator.build(
            target, {**sources, "bp_harness_main.c": main.encode()}, Path(scratch)
        )
        listing = emulator.listing(image, target)
        marks = returns_into(f"{interface.name}_run", listing)
        inputs = {"input.bin": pack(interface.inputs, [_noise(interface)])}
        done = emulator.run(image, target, inputs, marks=marks)
    if done.exit_code != 0 or len(done.regions) != 1 or len(marks) != len(interface.values):
        raise ToolFailed("no layers to be told apart", at=target.name, have=done.fault)
    return listing, [part for part in done.regions[0].parts if part.mark is not None]


def _noise(interface: Interface) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(5)
    kinds = [(port.value, port.value.elem.storage) for port in interface.inputs]
    return {v.name: rng.integers(kind.min, kind.max + 1, v.shape) for v, kind in kinds}


# ---- prices


def first_guess(rows: Sequence[Layer], target: McuTarget) -> dict[Event, float]:
    """What passes in the mean before the next issue, for all events that a core can have.

    One cycle for what did not happen. Of divisions there are few, and behind gathers others wait
    later: theirs is what they take alone.
    """
    total, passed = Counter[Event](), Counter[Event]()
    for row in rows:
        total.update(row.events)
        passed.update(row.shares)
    found: dict[Event, float] = {e: passed[e] / total[e] if total[e] else 1 for e in _EVENTS}
    each = passed["block"] / max(total["block"] + total["moved"], 1)
    taken = CORES[target.name].taken
    found |= {"block": each, "moved": each, "taken": taken, "divide": 7, "gather": 8}
    vectors = "mve" in target.arithmetic.features
    return {e: price for e, price in found.items() if vectors or e not in _VECTORS}


def fit(rows: Sequence[Layer], guess: Mapping[Event, float]) -> dict[Event, float]:
    """Prices of the events that have a guess, none negative."""
    events = list(guess)
    counts = np.array([[row.events.get(e, 0) for e in events] for row in rows], dtype=np.float64)
    goal = np.array([row.cycles for row in rows], dtype=np.float64)
    weight = 1 / np.maximum(goal, _LEAST)
    start = np.array([guess[e] for e in events])
    matrix = (counts * weight[:, None]).T @ (counts * weight[:, None])
    matrix += _WEIGHT * np.eye(len(events))
    right = (counts * weight[:, None]).T @ (goal * weight) + _WEIGHT * start
    found = not_negative(matrix, right, start)
    return {e: round(float(x), 2) for e, x in zip(events, found, strict=True)}


def not_negative(
    matrix: NDArray[np.float64], right: NDArray[np.float64], start: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Least x @ matrix @ x - 2 * right @ x without negative x, one coordinate after the other."""
    x = start.copy()
    for _ in range(100_000):
        before = x.copy()
        for i in range(len(x)):
            x[i] = max(0.0, x[i] + float(right[i] - matrix[i] @ x) / float(matrix[i, i]))
        if float(np.abs(x - before).max()) < 1e-10:
            break
    return x


def summary(rows: Sequence[Layer], prices: Mapping[Event, float]) -> str:
    """How near the prices come: by layer, by network."""
    large = [abs(row.error(prices)) for row in rows if row.cycles >= _LEAST]
    names = sorted({row.network for row in rows})
    networks = [[row for row in rows if row.network == name] for name in names]
    off = max(abs(_sum(n, prices) / sum(row.cycles for row in n) - 1) for n in networks)
    return (
        f"of {len(large)} layers half come within {_percent(median(large))}, "
        f"all within {_percent(max(large))}, networks within {_percent(off)}"
    )


def _percent(part: float) -> str:
    return f"{int(np.ceil(100 * part))} %"


def section(core: str, rows: Sequence[Layer], prices: Mapping[Event, float]) -> str:
    """The table of a target's file."""
    model = "Cortex-M7" if core == "cortex-m7" else "Cortex-M55"
    also = ", without vectors" if core == "cortex-m33" else ""
    lines = [f"{event} = {price:g}" for event, price in prices.items()]
    return "\n".join([
        "[price]",
        'basis = "fitted"',
        f'source = "LLVM\'s scheduling model of {model}{also}, as the scoreboard of '
        f'benchmarks/scoreboard.py; {summary(rows, prices)}"',
        "",
        "[price.cycles]",
        *lines,
        "",
    ])  # fmt: skip


def _compared(shipped: Price | None, rows: Sequence[Layer], prices: object) -> str:
    """What the prices in the target's file are beside those found now."""
    if shipped is None or not {e for row in rows for e in row.events} <= set(shipped.cycles):
        return "they lack events"
    return "the same" if shipped.cycles == prices else f"others, {summary(rows, shipped.cycles)}"


@click.command()
@click.option("--core", "cores", multiple=True, type=click.Choice(tuple(CORES)))
@click.option("--write", is_flag=True, help="Change the files of the targets.")
def main(cores: tuple[str, ...], *, write: bool) -> None:
    """Fit the price lists of CORES, by default all, and print them."""
    with tempfile.TemporaryDirectory(prefix="binpoint-prices-") as folder:
        scratch = Path(folder)
        networks = (layers.save(scratch), visual_wake_words.save(scratch))
        for core in cores or tuple(CORES):
            target = microcontroller(load_target(core))
            rows = [row for network in networks for row in traced(network, target)]
            prices = fit(rows, first_guess(rows, target))
            text = section(core, rows, prices)
            print(f"# {core}: shipped prices: {_compared(target.price, rows, prices)}")
            print(text, flush=True)
            path = ROOT / "targets" / f"{core}.toml"
            if write:
                known = path.read_text("utf-8")
                path.write_text(_OWN.sub(lambda _, t=text: t, known), encoding="utf-8")


if __name__ == "__main__":
    main()
