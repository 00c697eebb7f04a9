"""Verify again what a compilation wrote: the C of a folder, its check graph, its golden vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from binpoint.emit.manifest import SCHEMA, digest
from binpoint.errors import InputNotFound, UnknownTarget, UsageError
from binpoint.ir.graph import Value
from binpoint.numeric.fixed import FixedType, TensorType
from binpoint.plan.program import Port
from binpoint.sim.check_graph import run_values
from binpoint.sim.compare import Place, first_of
from binpoint.sim.interface import Codes, Interface, unpack
from binpoint.sim.verify import (
    EMULATED_SAMPLES,
    Answer,
    Verdict,
    Witness,
    WitnessResult,
    ask,
    emulated,
    host_builds,
)
from binpoint.target import McuTarget, load_target, microcontroller


class _Entry(msgspec.Struct, frozen=True):
    """A value, with the name of its port or step."""

    value: str
    shape: tuple[int, ...]
    type: str
    name: str = ""
    source: str = ""
    step: str = ""

    @property
    def tensor(self) -> Value:
        """The value."""
        kind = TensorType(self.shape, FixedType.parse(self.type))
        return Value(self.value, kind, source=self.source)

    @property
    def port(self) -> Port:
        """The port of this value."""
        return Port(self.name, self.source, self.tensor)


class _Manifest(msgspec.Struct, frozen=True):
    """What is needed of manifest.json."""

    schema: int
    prefix: str
    target: str
    arena_bytes: int
    inputs: tuple[_Entry, ...]
    outputs: tuple[_Entry, ...]
    nodes: tuple[_Entry, ...]
    options: dict[str, Any]
    files: dict[str, str]

    @property
    def interface(self) -> Interface:
        """The interface of the C."""
        return Interface(
            name=self.prefix,
            inputs=tuple(entry.port for entry in self.inputs),
            outputs=tuple(entry.port for entry in self.outputs),
            values=tuple(entry.tensor for entry in self.nodes),
            arena_bytes=self.arena_bytes,
            caller_arena=self.options.get("arena") == "caller",
            inputs_in_arena=self.options.get("io") == "arena",
        )


@dataclass(frozen=True, slots=True)
class Written:
    """A folder as it is now: its manifest, its files, and those that changed since."""

    manifest: _Manifest
    files: Mapping[str, bytes]
    changed: tuple[str, ...]


def read_folder(folder: Path) -> Written:
    """Read what a compilation wrote.

    Raises:
        InputNotFound: the folder, or a file of it, is not there.
        UsageError: it is no folder that a compilation wrote.
    """
    text = _read(folder, "manifest.json")
    try:
        manifest = msgspec.json.decode(text, type=_Manifest)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise UsageError(
            "manifest.json is none that a compilation wrote", at=str(folder), have=str(error)
        ) from error
    if manifest.schema != SCHEMA:
        raise UsageError(
            "manifest.json is of another version", have=str(manifest.schema), want=str(SCHEMA)
        )
    files = {name: _read(folder, name) for name in sorted(manifest.files)}
    changed = tuple(name for name, data in files.items() if digest(data) != manifest.files[name])
    return Written(manifest, files, changed)


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise InputNotFound(
            f"`{name}` cannot be read",
            at=str(folder),
            have=error.strerror,
            want="a folder that `binpoint compile` wrote",
        ) from error


def verify_written(written: Written, witnesses: Sequence[Witness], *, deep: bool) -> Verdict:
    """Compare the C and the check graph of a folder with its golden vectors.

    With `deep`, the host build is compared with onnxruntime at every value.
    """
    manifest, interface = written.manifest, written.manifest.interface
    inputs = unpack(interface.inputs, written.files["test/inputs.bin"])
    expected: list[dict[str, NDArray[Any]]] = unpack(
        interface.outputs, written.files["test/outputs.bin"]
    )
    places = _places(manifest, interface, deep=deep)
    results = [WitnessResult("vectors", Answer.EQUAL, len(inputs), "the reference")]
    if deep:
        values = _run_lowered(written, interface, inputs, deep=True)
        expected = [{**more, **known} for more, known in zip(values, expected, strict=True)]
    asked = {
        Witness.ORT: lambda: _run_lowered(written, interface, inputs, deep=False),
        **host_builds(interface, written.files, inputs, deep=deep),
    }
    results += [
        ask(witness, compute, partial(first_of, places, expected), witnesses)
        for witness, compute in asked.items()
    ]
    target = _target(manifest.target)
    if target is None:
        reason = f"no target is named `{manifest.target}`"
        results.append(WitnessResult("emulator", Answer.NOT_RUN, reason=reason))
        return Verdict(tuple(results), unmeasured=reason)
    few = inputs[:EMULATED_SAMPLES]
    answer, figures, unmeasured = emulated(
        interface,
        written.files,
        target,
        few,
        partial(first_of, places, expected[: len(few)]),
        asked=Witness.EMULATOR in witnesses,
    )
    return Verdict((*results, answer), figures, unmeasured)


def _target(name: str) -> McuTarget | None:
    try:
        return microcontroller(load_target(name))
    except UnknownTarget:
        return None


def _places(manifest: _Manifest, interface: Interface, *, deep: bool) -> list[Place]:
    nodes = {entry.value: entry.step for entry in manifest.nodes}
    ports = [port.value for port in interface.outputs]
    values = [*interface.values, *ports] if deep else ports
    return [Place(v, nodes.get(v.name, v.name)) for v in {v.name: v for v in values}.values()]


def _run_lowered(
    written: Written, interface: Interface, inputs: Sequence[Codes], *, deep: bool
) -> list[dict[str, NDArray[Any]]]:
    """What lowered.onnx gives: outputs, and with `deep` the values that the C's hook reports."""
    model = onnx.load_model_from_string(written.files["lowered.onnx"])
    ports = [port.value for port in interface.outputs]
    wanted = [*ports, *interface.values] if deep else ports
    values = {value.name: value for value in wanted}
    found = run_values(model, list(values.values()), inputs)
    return [{n: _shaped(a, values[n]) for n, a in sample.items()} for sample in found]


def _shaped(array: NDArray[Any], value: Value) -> NDArray[Any]:
    return np.asarray(array).reshape(value.shape)
