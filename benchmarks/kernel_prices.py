"""What parts of kernels take on each core: ``python -m benchmarks.kernel_prices``.

Networks are compiled so that every kernel that can take a layer takes it once, and run on the
emulated core. The events of a layer at the core's prices are its cycles; the price of a kernel's
parts (`plan/bill.py`) is what brings the sums over them nearest, by least squares of relative
errors, without negative ones.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click
import msgspec
import numpy as np
import onnx

from benchmarks import layers
from benchmarks.__main__ import ROOT
from benchmarks.prices import not_negative, run
from benchmarks.quantized import Builder
from binpoint import CompileOptions, load_target
from binpoint.emit.mcu_c import coded_steps, render
from binpoint.frontend.load import load
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import FixedType, IntType, TensorType
from binpoint.ops.packed import PACKED, Digits, IntPack, IntUnpack
from binpoint.passes.base import Context
from binpoint.passes.manager import run as passes
from binpoint.pipelines import choose
from binpoint.plan.arrange import arrange
from binpoint.plan.bill import bill
from binpoint.plan.fuse import fuse
from binpoint.plan.kernels import offers
from binpoint.plan.spans import with_spans
from binpoint.sim.counts import events_of, modelled_cycles, opcodes_of
from binpoint.sim.interface import Interface
from binpoint.target import McuTarget, microcontroller

CORES = (
    "cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55",
    "rv32imc",
)  # fmt: skip
_FIRST = (
    (1, 49, 10, 32, (10, 4), 2), (3, 24, 24, 8, (3, 3), 2), (2, 20, 20, 12, (5, 5), 1),
    (1, 28, 28, 8, (3, 3), 1), (4, 15, 17, 9, (3, 3), 1), (3, 32, 32, 32, (5, 5), 2),
    (3, 96, 96, 8, (3, 3), 2), (3, 64, 48, 16, (3, 3), 2),
)  # fmt: skip
"""First layers: channels, height, width, channels of the result, kernel, stride."""
_FLAT = (
    (1, 187, 16, 7, 2), (16, 47, 32, 5, 1), (32, 23, 64, 3, 1), (6, 100, 24, 5, 2),
    (12, 61, 12, 9, 1), (24, 40, 8, 3, 1), (40, 30, 40, 1, 1), (8, 128, 13, 4, 3),
)  # fmt: skip
"""Convolutions of one axis: channels, width, channels of the result, kernel, stride."""
_DILATED = (
    (16, 20, 17, 16, 3, 2),
    (8, 12, 12, 20, 3, 3),
    (4, 9, 15, 8, 5, 2),
    (24, 7, 7, 24, 3, 2),
)
"""Dilated ones: channels, height, width, channels of the result, kernel, dilation."""
_LIKE = {"cortex-m4": ("cortex-m4f",)}
"""Cores that run the same instructions as another, at the same prices."""
_OPTIONS = CompileOptions(planner="greedy")
_MANY = 8
"""Layers from which on the price of a call can be told from that of its parts."""
_SMALL = 1e-4
"""Of the squared price, in the mean of its part's share: parts that never differ have one price."""


@dataclass(frozen=True, slots=True)
class Row:
    """A layer as a kernel took it."""

    kernel: str
    terms: Mapping[str, int]
    cycles: int

    def error(self, rates: Mapping[str, float]) -> float:
        """By which part the sum over its parts is more than its cycles."""
        return sum(rates.get(t, 0) * n for t, n in self.terms.items()) / self.cycles - 1


def shapes() -> onnx.ModelProto:
    """Layers whose sizes are no multiples of anything, beside those of `layers`."""
    rng = np.random.default_rng(11)
    net = Builder(rng)
    for i in range(28):
        height, width = (int(n) for n in rng.integers(3, 15, 2))
        depth, channels = (int(rng.choice([1, 3, 4, 6, 8, 13, 16, 24, 40])) for _ in range(2))
        kernel = min(int(rng.choice([1, 1, 3, 3, 5])), height, width)
        stride = int(rng.choice([1, 1, 2]))
        grouped = i % 4 == 0
        _conv(net, (depth, height, width), depth if grouped else channels, (kernel, kernel), stride,
              groups=depth if grouped else 1)  # fmt: skip
    for depth, height, width, channels, kernel, stride in _FIRST:
        _conv(net, (depth, height, width), channels, kernel, stride)
    for depth, width, channels, kernel, stride in _FLAT:
        _conv(net, (depth, 1, width), channels, (1, kernel), (1, stride))
    for depth, height, width, channels, kernel, dilation in _DILATED:
        _conv(net, (depth, height, width), channels, (kernel, kernel), 1, dilation=dilation)
    for depth, channels in ((10, 7), (33, 10), (64, 10), (300, 24)):
        x = net.input(f"in_{len(net.inputs)}", (depth,))
        net.output(net.dense(f"dense {depth} to {channels}", x, channels))
    for shape in ((3, 5, 7), (16, 10, 10), (64, 8, 8)):
        a, b = (net.input(f"in_{len(net.inputs)}_{side}", shape) for side in "ab")
        net.output(net.add(f"add {shape[0]}", a, b))
    return net.model()


def _conv(
    net: Builder, shape: tuple[int, int, int], channels: int, kernel: tuple[int, int],
    stride: int | tuple[int, int], groups: int = 1, dilation: int = 1,
) -> None:  # fmt: skip
    """A convolution of an input of this shape: channels, height, width."""
    depth, height, width = shape
    index = len(net.inputs)
    x = net.channels_first(net.input(f"in_{index}", (height, width, depth)))
    made = net.conv(
        f"conv {index}", x, channels, kernel, stride=stride, dilation=dilation, groups=groups
    )
    net.output(made)


def networks(scratch: Path) -> tuple[Path, ...]:
    """The files of all networks that are run."""
    path = scratch / "shapes.onnx"
    path.write_bytes(shapes().SerializeToString())
    return layers.save(scratch), path


def packed() -> Graph:
    """Maps of a few sizes, packed and unpacked."""
    graph = Graph("packed")
    build = GraphBuilder(graph)
    outputs: list[str] = []
    shapes = ((1, 4, 5, 16), (1, 8, 8, 32), (1, 3, 25, 64), (1, 12, 12, 24), (1, 10, 2, 96))
    for bits, signed in ((4, False), (4, True), (2, False), (2, True)):
        for shape in shapes:
            digits = Digits(bits, signed, shape[-1])
            kind = FixedType.per_tensor(IntType(bits, signed), Dyadic.one())
            x = build.input("x", TensorType(shape, kind))
            y = build.input("y", TensorType(digits.packed(shape), PACKED))
            made = (build.one(IntPack(digits), x), build.one(IntUnpack(digits, kind), y))
            outputs += [value.name for value in made]
    graph.outputs = tuple(outputs)
    return graph


def rows_of(graph: Graph, target: McuTarget, wanted: str) -> list[Row]:
    """What layers take where one kernel, or all of a variant, cost nothing.

    Raises:
        ToolFailed: the program stopped early, or its calls cannot be told apart.
        ToolNotFound: the compiler or the emulator is missing.
    """
    assert target.price is not None
    names = {name for name in kernels_of(graph, target) if wanted in (name, name.split()[0])}
    free = {name: {"call": 0.0} for name in names}
    price = msgspec.structs.replace(target.price, kernels={**target.price.kernels, **free})
    program = arrange(graph, _OPTIONS, msgspec.structs.replace(target, price=price))
    project = render(program, target, _OPTIONS)
    listing, parts = run(Interface.of(program, _OPTIONS), project.files, target)
    opcodes = opcodes_of(listing, target)
    found: list[Row] = []
    for step, part in zip(coded_steps(program), parts, strict=True):
        cycles = modelled_cycles(events_of([part], opcodes), price)
        assert cycles is not None
        one = bill(step, graph)
        found.append(Row(one.kernel, one.terms, cycles))
    return found


def kernels_of(graph: Graph, target: McuTarget) -> set[str]:
    """All kernels that can take a layer."""
    made = (
        s for step in with_spans(fuse(graph), graph) for s in offers(step, graph, target, _OPTIONS)
    )
    return {bill(step, graph).kernel for step in made}


def measured(files: Sequence[Path], target: McuTarget) -> list[Row]:
    """All kernels of a core, each on all layers that it can take."""
    context = Context(target, _OPTIONS, None)
    found: list[Row] = []
    for graph in (*(passes(choose(None, target), load(f), context) for f in files), packed()):
        names = kernels_of(graph, target)
        rows: list[Row] = []
        for wanted in sorted({name.split()[0] for name in names}):
            rows += rows_of(graph, target, wanted)
        for name in sorted(names - {row.kernel for row in rows}):
            rows += rows_of(graph, target, name)
        found += rows
    return found


def fit(rows: Sequence[Row]) -> dict[str, float]:
    """The prices of one kernel's parts; that of a call only where there are many."""
    terms = sorted({term for row in rows for term, count in row.terms.items() if count})
    if len(rows) < _MANY:
        terms.remove("call")
    counts = np.array([[row.terms.get(t, 0) / row.cycles for t in terms] for row in rows])
    scale = np.maximum(counts.mean(axis=0), 1e-12)
    matrix = (counts / scale).T @ (counts / scale) / len(rows) + _SMALL * np.eye(len(terms))
    right = (counts / scale).sum(axis=0) / len(rows)
    found = not_negative(matrix, right, np.zeros(len(terms))) / scale
    kept = {t: float(f"{x:.4g}") for t, x in zip(terms, found, strict=True)}
    return {t: x for t, x in kept.items() if x > 0}


def section(rows: Sequence[Row]) -> tuple[str, str]:
    """The table for a target's file, and how near it comes."""
    kernels = sorted({row.kernel for row in rows})
    tables = {k: fit([row for row in rows if row.kernel == k]) for k in kernels}
    lines = [
        f'"{kernel}" = {{ {", ".join(f"{t} = {x:g}" for t, x in rates.items())} }}'
        for kernel, rates in tables.items()
    ]
    errors = [abs(row.error(tables[row.kernel])) for row in rows if row.cycles >= 2000]
    near = f"half within {100 * median(errors):.1f} %, all within {100 * max(errors):.0f} %"
    return "\n".join(["[price.kernels]", *lines, ""]), f"{len(errors)} layers: {near}"


@click.command()
@click.option("--core", "cores", multiple=True, type=click.Choice(CORES), help="By default all.")
@click.option("--write", is_flag=True, help="Change the files of the targets.")
def main(cores: tuple[str, ...], *, write: bool) -> None:
    """Fit the prices of kernels on CORES and print them."""
    with tempfile.TemporaryDirectory(prefix="binpoint-prices-") as folder:
        files = networks(Path(folder))
        for core in cores or CORES:
            text, near = section(measured(files, microcontroller(load_target(core))))
            print(f"# {core}: {near}\n{text}", flush=True)
            for name in (core, *_LIKE.get(core, ())) if write else ():
                path = ROOT / "targets" / f"{name}.toml"
                rest = re.sub(r"\n*\[price\.kernels\](?s:.*)", "\n", path.read_text("utf-8"))
                path.write_text(f"{rest.rstrip()}\n\n{text}", encoding="utf-8")


if __name__ == "__main__":
    main()
