"""Interface: what a caller of the emitted C must know, from the program or from a manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.emit.detect_c import detector_view
from binpoint.emit.mcu_c import coded_steps, port_views
from binpoint.errors import ToolFailed
from binpoint.ir.graph import Value
from binpoint.options import CompileOptions
from binpoint.plan.detector import Detector
from binpoint.plan.program import Port, Program, boxes_port

Array = NDArray[Any]
Codes = Mapping[str, Array]
"""Stored integers by value name: one sample of inputs, or what was computed from one."""


@dataclass(frozen=True, slots=True)
class Interface:
    """Prefix, ports, arena, head of a C project; `values` are what its hook reports, in order."""

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    values: tuple[Value, ...]
    arena_bytes: int
    caller_arena: bool
    inputs_in_arena: bool
    detector: Detector | None = None

    @classmethod
    def of(cls, program: Program, options: CompileOptions) -> Interface:
        """The interface of a program that is emitted with these options."""
        return cls(
            name=program.name,
            inputs=program.inputs,
            outputs=program.outputs,
            values=tuple(program.graph.value(s.writes[0]) for s in coded_steps(program)),
            arena_bytes=program.arena_bytes,
            caller_arena=options.arena == "caller",
            inputs_in_arena=options.io == "arena",
            detector=program.detector,
        )

    @property
    def results(self) -> tuple[Port, ...]:
        """The outputs, then the boxes that a head makes of them."""
        made = () if self.detector is None else (boxes_port(self.detector),)
        return self.outputs + made

    def views(self) -> dict[str, object]:
        """What the harness templates see."""
        inputs, outputs = port_views(self.inputs, self.outputs)
        return {
            "prefix": self.name,
            "macro": self.name.upper(),
            "inputs": inputs,
            "outputs": outputs,
            "ports": [*inputs, *outputs],
            "arena_bytes": self.arena_bytes,
            "arena_storage": max(self.arena_bytes, 4),
            "caller_arena": self.caller_arena,
            "inputs_in_arena": self.inputs_in_arena,
            "detector": detector_view(self.detector, self.outputs),
        }


def with_boxes(detector: Detector | None, samples: Sequence[Codes]) -> list[dict[str, Array]]:
    """The same samples, each with the boxes that a head makes of its outputs."""
    made = () if detector is None else (detector,)
    return [{**sample, **{d.value.name: d.told(sample) for d in made}} for sample in samples]


def pack(ports: Sequence[Port], samples: Sequence[Codes]) -> bytes:
    """All ports of all samples, one after the other, little-endian."""
    return b"".join(
        np.ascontiguousarray(sample[port.value.name]).astype(_kind(port.value)).tobytes()
        for sample in samples
        for port in ports
    )


def unpack(ports: Sequence[Port], data: bytes) -> list[dict[str, Array]]:
    """Undo `pack`: arrays by value name, for each sample.

    Raises:
        ToolFailed: the bytes are no whole number of samples.
    """
    return list(split([port.value for port in ports], data))


def split(values: Sequence[Value], data: bytes) -> Iterator[dict[str, Array]]:
    """Arrays of these values, by name, as often as they are in the bytes."""
    size = sum(value.type.size * _kind(value).itemsize for value in values)
    if size == 0 or len(data) % size:
        raise ToolFailed(
            "the program wrote another number of bytes than it should",
            have=str(len(data)),
            want=f"a multiple of {size}",
        )
    for start in range(0, len(data), size):
        offset, found = start, dict[str, Array]()
        for value in values:
            kind, count = _kind(value), value.type.size
            found[value.name] = np.frombuffer(data, kind, count, offset).reshape(value.shape)
            offset += count * kind.itemsize
        yield found


def _kind(value: Value) -> np.dtype[Any]:
    return value.elem.storage.dtype.newbyteorder("<")
