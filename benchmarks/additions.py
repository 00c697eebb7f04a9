"""Layers in C without products beside those with: ``python -m benchmarks.additions``.

One dense layer and one convolution of random weights are run on an emulated core: as products, and
as lists of signed powers of two, for codes of some bits and some powers a weight. Cycles are those
of the target's price list, once more with products of `--product` cycles. Of the dense layer, the
last columns are straight-line code of its graph of adders, as a compiler makes it.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import click
import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks import tables
from binpoint import CompileOptions, load_target
from binpoint.emit.mcu_c import render
from binpoint.ir.build import GraphBuilder
from binpoint.ir.graph import Graph, Origin, Value
from binpoint.numeric.adders import adder_graph
from binpoint.numeric.digits import grid, nearest, terms
from binpoint.numeric.dyadic import Dyadic
from binpoint.numeric.fixed import I8, I32, FixedType, TensorType
from binpoint.ops.conv import IntConv
from binpoint.ops.dense import IntDense
from binpoint.ops.requantize import DyadicRequantize
from binpoint.ops.window import Window
from binpoint.plan.arrange import arrange
from binpoint.sim.interface import Interface
from binpoint.sim.measure import Measurement, emulate
from binpoint.target import McuTarget, microcontroller

Codes = NDArray[np.int64]
DENSE, CONV = (32, 64), (16, 3, 3, 16)
SIDE, SHIFT = 8, 9
CASES: tuple[tuple[int, int | None], ...] = ((4, None), (4, 1), (6, None), (6, 1), (6, 2))
"""Bits of a weight, and the powers of two that it is the sum of, at most."""
X, SUM, Y = (FixedType.per_tensor(k, Dyadic(1, e)) for k, e in ((I8, -4), (I32, -12), (I8, -3)))
COLUMNS = (
    "layer", "bits", "K", "digits", "form", "instructions", "flash", "cycles", "slow products",
    "straight-line: instructions", "bytes",
)  # fmt: skip


def weights(shape: tuple[int, ...], bits: int, most: int | None) -> Codes:
    """Codes of a normal distribution that uses the range, the nearest of so many powers."""
    top = (1 << (bits - 1)) - 1
    real = np.random.default_rng(1).normal(0, top / 2.5, shape).clip(-top, top)
    return np.rint(real).astype(np.int64) if most is None else nearest(real, grid(most, top))


def layer(codes: Codes) -> Graph:
    """A dense layer for one sample, or a convolution with padding, rescaled by a power of two."""
    graph = Graph("additions")
    build = GraphBuilder(graph, "layer", Origin(("layer",)))
    shape = (1, codes.shape[1]) if codes.ndim == 2 else (1, SIDE, SIDE, codes.shape[-1])
    x = graph.add_value(Value("x", TensorType(shape, X)))
    graph.inputs = ("x",)
    w = build.constant(codes, FixedType.per_tensor(I8, Dyadic(1, -8)), hint="w")
    bias = build.constant(np.arange(len(codes)), SUM, hint="bias")
    same = (1, 1)
    op = IntDense(SUM) if codes.ndim == 2 else IntConv(
        Window((3, 3), same, same, same, same), 1, 0, SUM
    )  # fmt: skip
    acc = build.one(op, x, w, bias)
    y = build.one(DyadicRequantize((1,), (SHIFT,), Y, I8.min, I8.max), acc)
    graph.outputs = (y.name,)
    return graph


def measured(graph: Graph, target: McuTarget, options: CompileOptions) -> Measurement:
    """A run on the emulated core."""
    program = arrange(graph, options, target)
    shape = graph.value("x").shape
    inputs = [{"x": np.random.default_rng(2).integers(-128, 128, shape)}]
    files = render(program, target, options).files
    return emulate(Interface.of(program, options), files, target, inputs, run=True)[1]


def straight(codes: Codes, target: McuTarget) -> tuple[int, int]:
    """Instructions and bytes of a function with one statement an addition."""
    graph = adder_graph(codes)
    lines = [f"const int32_t n{i} = x[{i}];" for i in range(graph.operands)]
    for index, adder in enumerate(graph.adders, graph.operands):
        left, right = (
            f"(int32_t)((uint32_t)n{n} << {s})"
            for n, s in ((adder.left, adder.up), (adder.right, adder.down))
        )
        lines.append(f"const int32_t n{index} = {left} {'-' if adder.minus else '+'} {right};")
    for place, row in enumerate(graph.rows):
        text = "0" if row is None else f"(int32_t)((uint32_t)n{row.number} << {row.shift})"
        sign = "-" if row is not None and row.negative else ""
        lines.append(f"y[{place}] = {sign}{text};")
    body = "\n".join(lines)
    tools = target.toolchain
    assert tools is not None
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "f.c", str(Path(folder) / "f.o")
        source.write_text(f"#include <stdint.h>\nvoid f(const int8_t *x, int32_t *y)\n{{{body}}}\n")
        words = [f"{tools.prefix}gcc", *tools.flags, "-O2", "-c", str(source), "-o", made]
        subprocess.run(words, check=True)
        text = _said(f"{tools.prefix}objdump", "-d", made)
        size = int(_said(f"{tools.prefix}size", made).splitlines()[1].split()[0])
    rows = [line for line in text.splitlines() if ":\t" in line and ".word" not in line]
    return len(rows), size


def _said(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@click.command()
@click.option("--target", "name", default="cortex-m0plus", show_default=True)
@click.option("--product", default=32, show_default=True, help="Cycles of a slow multiplication.")
def main(name: str, product: int) -> None:
    """Print the table."""
    target = microcontroller(load_target(name))
    assert target.price is not None
    prices = {**target.price.cycles, "multiply": product}
    slow = msgspec.structs.replace(
        target, price=msgspec.structs.replace(target.price, cycles=prices)
    )
    tables.begin(COLUMNS)
    for shape in (DENSE, CONV):
        for bits, most in CASES:
            codes = weights(shape, bits, most)
            words = ["dense" if shape == DENSE else "convolution", bits, most or "any"]
            apart = straight(codes, target) if shape == DENSE else ("-", "-")
            for multipliers in ("auto", "none"):
                options = CompileOptions(multipliers=multipliers)
                found, late = (measured(layer(codes), t, options) for t in (target, slow))
                cells = [*words, int(terms(codes).sum()), multipliers, found.instructions]
                cells += [found.flash_bytes, found.modelled_cycles, late.modelled_cycles, *apart]
                tables.add(cells)


if __name__ == "__main__":
    main()
