"""The self-test that goes with the C: golden vectors as C and as bytes, and a main for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.emit.detect_c import detector_view
from binpoint.emit.environment import render_template
from binpoint.emit.mcu_c import port_views
from binpoint.numeric.fixed import IntType
from binpoint.options import CompileOptions
from binpoint.plan.memory import ALIGNMENT
from binpoint.plan.program import Port, Program, boxes_port

VECTORS = 4
"""Golden vectors at most; fewer where they would take more than `VECTOR_BYTES`, but one."""
VECTOR_BYTES = 64 * 1024

Codes = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class _Vector:
    """One port over all golden samples."""

    name: str
    elem: IntType
    size: int
    rows: tuple[NDArray[Any], ...]


def golden(ports: Sequence[Port], inputs: Sequence[Codes]) -> Sequence[Codes]:
    """The first inputs, as many as become golden vectors of these inputs and outputs."""
    size = sum(port.bytes for port in ports)
    return inputs[: max(1, min(VECTORS, VECTOR_BYTES // max(1, size)))]


def selftest(
    program: Program, options: CompileOptions, inputs: Sequence[Codes], outputs: Sequence[Codes]
) -> dict[str, bytes]:
    """Files of the self-test by path; `inputs` and `outputs` hold stored integers by value name."""
    vectors = [_vector(p, inputs) for p in program.inputs]
    vectors += [_vector(p, outputs) for p in program.outputs]
    detector = program.detector
    if detector is not None:
        told = [{detector.value.name: detector.told(sample)} for sample in outputs]
        vectors.append(_vector(boxes_port(detector), told))
    into, out = port_views(program.inputs, program.outputs)
    views = {
        "prefix": program.name,
        "macro": program.name.upper(),
        "version": metadata.version("binpoint"),
        "count": len(inputs),
        "vectors": vectors,
        "inputs": into,
        "outputs": out,
        "detector": detector_view(detector, program.outputs),
        "caller_arena": options.arena == "caller",
        "inputs_in_arena": options.io == "arena",
        "arena_storage": max(program.arena_bytes, ALIGNMENT),
    }
    names = ("selftest.c", "vectors.c", "vectors.h")
    texts = {f"test/{n}": render_template("mcu-c", f"{n}.j2", **views).encode() for n in names}
    return {
        **texts,
        **binaries(program.inputs, program.outputs, inputs, outputs),
    }


def binaries(
    into: Sequence[Port], out: Sequence[Port], inputs: Sequence[Codes], outputs: Sequence[Codes]
) -> dict[str, bytes]:
    """The golden vectors as bytes, by path: from them a folder is verified again."""
    return {
        "test/inputs.bin": _bytes([_vector(p, inputs) for p in into], len(inputs)),
        "test/outputs.bin": _bytes([_vector(p, outputs) for p in out], len(outputs)),
    }


def _vector(port: Port, samples: Sequence[Codes]) -> _Vector:
    rows = tuple(np.asarray(sample[port.value.name]).reshape(-1) for sample in samples)
    return _Vector(port.name, port.value.elem.storage, port.value.type.size, rows)


def _bytes(vectors: Sequence[_Vector], count: int) -> bytes:
    """All ports of all samples, one after the other, little-endian."""
    return b"".join(
        v.rows[i].astype(v.elem.dtype.newbyteorder("<")).tobytes()
        for i in range(count)
        for v in vectors
    )
