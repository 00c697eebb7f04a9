"""The option `streaming`: calls on pieces of a sequence give what one call on all of it gives."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from binpoint.driver import compile_model
from binpoint.emit.mcu_c import render
from binpoint.errors import BadOption
from binpoint.frontend.load import load
from binpoint.frontend.samples import read_samples
from binpoint.ir.evaluate import evaluate
from binpoint.ir.graph import Graph
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.passes.manager import run
from binpoint.pipelines import mcu
from binpoint.plan.arrange import arrange
from binpoint.sim.host_c import SANITIZERS, WARNINGS
from binpoint.sim.tools import run_tool
from binpoint.sim.witness import Answer
from binpoint.target import load_target
from tests.ops.test_recurrent import Layer

PIECES, STEPS = 3, 4
HOST = load_target("host")
MAIN = """\
#include <stdio.h>
#include "net.h"

{memory}
static int8_t x[{pieces}][NET_X_SIZE];

int main(void)
{{
    int8_t y[NET_Y_SIZE];
    net_state states[2];
    if (fread(x, 1, sizeof x, stdin) != sizeof x || net_reset(NULL) != NET_BAD_ARGUMENT) {{
        return 1;
    }}
    for (int s = 0; s < 2; ++s) {{ /* in turn; the second begins anew after a piece */
        if (net_reset(&states[s]) != NET_OK) {{
            return 2;
        }}
    }}
    for (int i = 0; i < {pieces}; ++i) {{
        for (int s = 0; s < 2; ++s) {{
            if (net_step(&states[s], {passed}x[i], y) != NET_OK) {{
                return 3;
            }}
            fwrite(y, 1, sizeof y, s == 0 ? stdout : stderr);
            if (s == 1 && i == 0 && net_reset(&states[s]) != NET_OK) {{
                return 4;
            }}
        }}
    }}
    if (net_step(NULL, {passed}x[0], y) != NET_BAD_ARGUMENT) {{
        return 5;
    }}
    return net_run({passed}x[0], y) == NET_OK ? 0 : 6;
}}
"""
LAYERS = {
    "gru": Layer("GRU", attributes=(("linear_before_reset", 1),), outputs=("Y",)),
    "gru_before": Layer("GRU", outputs=("Y",), batch=2),
    "lstm": Layer("LSTM", outputs=("Y",), starts="constant"),
    "rnn": Layer("RNN", outputs=("Y",)),
}
MEMORY = """\
static union {
    int64_t align;
    uint8_t bytes[NET_ARENA_BYTES];
} memory;
static net_context context = { memory.bytes, sizeof memory.bytes };
"""
Codes = NDArray[np.int64]


def _layer(kind: str, steps: int) -> Layer:
    return replace(LAYERS[kind], steps=steps)


def _options(*, streaming: bool, arena: Literal["static", "caller"] = "static") -> CompileOptions:
    return CompileOptions(
        name="net", streaming=streaming, arena=arena, bias_correction=False, equalize=False
    )


def _lowered(kind: str, steps: int, x: NDArray[np.float32], folder: Path) -> Graph:
    """The integer graph of a layer over so many steps, with weights that do not depend on them."""
    path = folder / "layer.onnx"
    path.write_bytes(_layer(kind, steps).model(np.random.default_rng(4)).SerializeToString())
    np.savez(folder / "samples.npz", x=x)
    graph = load(path)
    samples = read_samples(folder / "samples.npz", graph, 0)
    options = _options(streaming=steps == STEPS)
    return run(mcu(), graph, Context(HOST, options, samples))


@pytest.mark.needs("gcc")
@pytest.mark.parametrize(
    ("kind", "arena"),
    [
        ("lstm", "caller"),
        pytest.param("gru", "static", marks=pytest.mark.slow),
        pytest.param("gru_before", "caller", marks=pytest.mark.slow),
        pytest.param("rnn", "static", marks=pytest.mark.slow),
    ],
)
def test_pieces_give_what_the_whole_gives(
    kind: str, arena: Literal["static", "caller"], rng: np.random.Generator, tmp_path: Path
) -> None:
    batch, depth = LAYERS[kind].batch, LAYERS[kind].inputs
    x = rng.normal(0, 1, (4, batch, PIECES * STEPS, depth)).astype(np.float32)
    pieces = np.concatenate(np.split(x, PIECES, 2))
    whole = _lowered(kind, PIECES * STEPS, x, tmp_path)
    part = _lowered(kind, STEPS, pieces, tmp_path)
    name, result = whole.inputs[0], whole.outputs[0]
    assert part.value(part.inputs[0]).elem == whole.value(name).elem
    codes = whole.value(name).elem.quantize(x[0])
    wanted = evaluate(whole, {name: codes})[result]
    fresh = evaluate(part, {name: codes[:, STEPS : 2 * STEPS]})[result]
    first, second = _run(part, arena, np.split(codes, PIECES, 1), tmp_path)
    size = wanted.size // PIECES
    np.testing.assert_array_equal(first, wanted.reshape(-1))
    np.testing.assert_array_equal(second[:size], wanted.reshape(-1)[:size])
    np.testing.assert_array_equal(second[size : 2 * size], fresh.reshape(-1))
    assert (fresh.reshape(-1) != wanted.reshape(-1)[size : 2 * size]).any()


def _run(
    graph: Graph, arena: Literal["static", "caller"], pieces: list[Codes], folder: Path
) -> tuple[Codes, Codes]:
    """Results of both sequences of `MAIN`, under sanitizers."""
    options = _options(streaming=True, arena=arena)
    render(arrange(graph, options), HOST, options).write(folder / "net")
    caller = arena == "caller"
    words = {"memory": MEMORY if caller else "", "passed": "&context, " if caller else ""}
    (folder / "net" / "main.c").write_text(MAIN.format(pieces=PIECES, **words))
    program = folder / "main"
    sources = sorted((folder / "net").glob("*.c"))
    flags = ["-std=c99", "-O1", *WARNINGS, *SANITIZERS]
    run_tool(["gcc", *flags, "-I", folder / "net", *sources, "-o", program], timeout=300)
    given = b"".join(piece.astype(np.int8).tobytes() for piece in pieces)
    done = subprocess.run([program], input=given, capture_output=True, check=True)
    first, second = (np.frombuffer(out, np.int8) for out in (done.stdout, done.stderr))
    return first.astype(np.int64), second.astype(np.int64)


@pytest.mark.slow
@pytest.mark.needs("gcc", "arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("io", ["caller", "arena"])
def test_a_run_is_a_step_from_the_beginning(
    io: Literal["caller", "arena"], rng: np.random.Generator, tmp_path: Path
) -> None:
    layer = _layer("lstm", STEPS)
    (tmp_path / "layer.onnx").write_bytes(layer.model(rng).SerializeToString())
    np.savez(tmp_path / "samples.npz", **layer.samples(rng))  # pyright: ignore[reportArgumentType]
    result = compile_model(
        tmp_path / "layer.onnx",
        load_target("cortex-m4"),
        CompileOptions(name="layer", streaming=True, io=io),
        samples=tmp_path / "samples.npz",
    )
    found = {w.name: w.verdict for w in result.verdict.witnesses}
    names = ("interpreter", "onnxruntime", "host", "emulator")
    assert {found[n] for n in names} == {Answer.EQUAL}


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (Layer("GRU", direction="reverse"), "runs backwards"),
        (Layer("LSTM", direction="bidirectional"), "runs backwards"),
        (Layer("GRU", starts="input"), "means nothing for this model"),
    ],
)
def test_what_cannot_go_on_is_refused(
    layer: Layer, why: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    path = tmp_path / "layer.onnx"
    path.write_bytes(layer.model(rng).SerializeToString())
    np.savez(tmp_path / "samples.npz", **layer.samples(rng))  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadOption, match=why):
        compile_model(
            path, HOST, _options(streaming=True), samples=tmp_path / "samples.npz", verify="none"
        )
