"""The emitted C, built by the host compiler under sanitizers, as a witness."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.emit.environment import render_template
from binpoint.emit.mcu_c import port_views
from binpoint.emit.project import Project
from binpoint.errors import ToolFailed
from binpoint.options import CompileOptions
from binpoint.plan.program import Port, Program
from binpoint.sim.tools import HOST_COMPILERS, find, run_tool

WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wcast-qual", "-Werror")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
Sample = Mapping[str, NDArray[Any]]


def harness_views(program: Program, options: CompileOptions) -> dict[str, object]:
    """What the harness templates see."""
    inputs, outputs = port_views(program)
    return {
        "prefix": program.name,
        "macro": program.name.upper(),
        "inputs": inputs,
        "outputs": outputs,
        "ports": [*inputs, *outputs],
        "arena_bytes": program.arena_bytes,
        "arena_storage": max(program.arena_bytes, 4),
        "caller_arena": options.arena == "caller",
        "inputs_in_arena": options.io == "arena",
    }


def run_host(
    program: Program, project: Project, options: CompileOptions, samples: Sequence[Sample], *, deep: bool = False, compiler: str | None = None
) -> list[dict[str, NDArray[Any]]]:
    """Outputs (with `deep` every computed value) by name for each sample.

    Raises:
        ToolNotFound: no host compiler.
        ToolFailed: a warning, or a sanitizer's finding.
    """
    chosen = compiler or find(HOST_COMPILERS, package="gcc")
    with tempfile.TemporaryDirectory(prefix="binpoint-host-") as scratch:
        folder = Path(scratch)
        project.write(folder / "model")
        (folder / "main.c").write_text(render_template("harness", "host.c.j2", **harness_views(program, options)))
        hook = [f"-D{program.name.upper()}_HOOK"] if deep else []
        sources = sorted((folder / "model").glob("*.c"))
        program_file = folder / "main"
        run_tool(
            [chosen, "-std=c99", "-O1", "-g", *WARNINGS, *SANITIZERS, *hook, "-I", folder / "model", folder / "main.c", *sources, "-o", program_file],
            timeout=300,
        )
        (folder / "in.bin").write_bytes(pack(program.inputs, samples))
        run_tool([program_file, folder / "in.bin", folder / "out.bin", *([folder / "values.bin"] if deep else [])], timeout=600)
        found = unpack(program.outputs, (folder / "out.bin").read_bytes(), len(samples))
        if deep:
            _add_values(program, (folder / "values.bin").read_bytes(), found)
    return found


def pack(ports: Sequence[Port], samples: Sequence[Sample]) -> bytes:
    """Inputs of all samples, one after the other, little-endian."""
    parts: list[bytes] = []
    for sample in samples:
        for port in ports:
            kind = port.value.elem.storage.dtype.newbyteorder("<")
            parts.append(np.ascontiguousarray(sample[port.value.name]).astype(kind).tobytes())
    return b"".join(parts)


def unpack(ports: Sequence[Port], data: bytes, count: int) -> list[dict[str, NDArray[Any]]]:
    """Outputs of all samples, by value name."""
    size = sum(port.bytes for port in ports)
    if len(data) != size * count:
        raise ToolFailed("the program wrote another number of bytes than it should", have=str(len(data)), want=str(size * count))
    found: list[dict[str, NDArray[Any]]] = []
    offset = 0
    for _ in range(count):
        values: dict[str, NDArray[Any]] = {}
        for port in ports:
            values[port.value.name] = _array(data, offset, port.value.elem.storage.dtype, port.value.shape)
            offset += port.bytes
        found.append(values)
    return found


def _array(data: bytes, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    count = int(np.prod(shape, dtype=np.int64))
    return np.frombuffer(data, dtype.newbyteorder("<"), count, offset).reshape(shape)


def _add_values(program: Program, data: bytes, found: list[dict[str, NDArray[Any]]]) -> None:
    """What the hook wrote: the result of each step with code, in order, for each sample."""
    offset = 0
    for values in found:
        for step in program.steps:
            if step.alias:
                continue
            value = program.graph.value(step.writes[0])
            kind = value.elem.storage.dtype
            values[value.name] = _array(data, offset, kind, value.shape)
            offset += value.type.size * kind.itemsize
    if offset != len(data):
        raise ToolFailed("the program reported another number of values than it should")
