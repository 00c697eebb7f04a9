"""Verify again what a compilation wrote: the code of a folder, its check graph, golden vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from binpoint.emit.manifest import SCHEMA, digest
from binpoint.errors import InputNotFound, UnknownTarget, UsageError
from binpoint.ir.graph import Value
from binpoint.numeric.fixed import FixedType, TensorType
from binpoint.options import Detections
from binpoint.plan.design import Style
from binpoint.plan.detector import Detector, build
from binpoint.plan.program import Port
from binpoint.sim.check_graph import run_values
from binpoint.sim.compare import Difference, Place, first_of
from binpoint.sim.emitted import Emitted, EmittedC, EmittedHls, Trial
from binpoint.sim.host_hls import HlsInterface, Wire
from binpoint.sim.interface import Codes, Interface, unpack, with_boxes
from binpoint.sim.verify import answers
from binpoint.sim.witness import Answer, Verdict, Witness, WitnessResult
from binpoint.target import McuTarget, load_target, microcontroller


class _Entry(msgspec.Struct, frozen=True):
    """A value, with the name of its port or step, and of a port of HLS what it takes."""

    value: str
    shape: tuple[int, ...]
    type: str
    name: str = ""
    source: str = ""
    step: str = ""
    wire: Wire | None = None

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
    """What is needed of manifest.json: of C the arena and nodes, of HLS the top and its work."""

    schema: int
    prefix: str
    target: str
    family: Literal["mcu", "fpga"]
    inputs: tuple[_Entry, ...]
    outputs: tuple[_Entry, ...]
    options: dict[str, Any]
    files: dict[str, str]
    nodes: tuple[_Entry, ...] = ()
    arena_bytes: int = 0
    top: str = ""
    macs: int = 0

    @property
    def interface(self) -> Interface:
        """The interface of the C; of HLS the ports alone."""
        return Interface(
            name=self.prefix,
            inputs=tuple(entry.port for entry in self.inputs),
            outputs=tuple(entry.port for entry in self.outputs),
            values=tuple(entry.tensor for entry in self.nodes),
            arena_bytes=self.arena_bytes,
            caller_arena=self.options.get("arena") == "caller",
            inputs_in_arena=self.options.get("io") == "arena",
            detector=self.detector,
        )

    @property
    def detector(self) -> Detector | None:
        """The head, if there is one."""
        asked = self.options.get("detections")
        if asked is None:
            return None
        names, values = [e.source for e in self.outputs], [e.tensor for e in self.outputs]
        return build(msgspec.convert(asked, Detections), names, values)

    def emitted(self, files: Mapping[str, bytes]) -> Emitted:
        """What the witnesses build."""
        if self.family == "fpga":
            into, out = _wires(self.inputs), _wires(self.outputs)
            interface = HlsInterface(self.prefix, self.top == Style.PARALLEL, into, out)
            inputs, outputs = _tensors(self.inputs), _tensors(self.outputs)
            return EmittedHls(interface, files, inputs, outputs, self.macs)
        target = _target(self.target)
        unknown = f"no target is named `{self.target}`" if target is None else ""
        return EmittedC(self.interface, files, target, unknown)


def _wires(entries: Sequence[_Entry]) -> tuple[Wire, ...]:
    return tuple(entry.wire for entry in entries if entry.wire is not None)


def _tensors(entries: Sequence[_Entry]) -> tuple[Value, ...]:
    return tuple(entry.tensor for entry in entries)


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
    """Compare the code and the check graph of a folder with its golden vectors.

    With `deep`, the host build is compared with onnxruntime at every value.
    """
    manifest, interface = written.manifest, written.manifest.interface
    inputs = unpack(interface.inputs, written.files["test/inputs.bin"])
    expected = unpack(interface.outputs, written.files["test/outputs.bin"])
    expected = with_boxes(interface.detector, expected)
    places = _places(manifest, interface, deep=deep)
    emitted = manifest.emitted(written.files)
    results = [WitnessResult("vectors", Answer.EQUAL, len(inputs), "the reference")]
    if deep:
        values = _run_lowered(written, interface, inputs, deep=True)
        expected = [{**more, **known} for more, known in zip(values, expected, strict=True)]
    ort = Trial(lambda: _run_lowered(written, interface, inputs, deep=False), len(inputs))
    judge = partial(_compared, places, expected)
    found = answers({Witness.ORT: ort}, emitted, inputs, judge, witnesses, deep=deep)
    return replace(found, witnesses=(*results, *found.witnesses))


def _compared(
    places: Sequence[Place], expected: Sequence[Codes], count: int, found: Sequence[Codes]
) -> Difference | None:
    return first_of(places, expected[:count], found)


def _target(name: str) -> McuTarget | None:
    try:
        return microcontroller(load_target(name))
    except UnknownTarget:
        return None


def _places(manifest: _Manifest, interface: Interface, *, deep: bool) -> list[Place]:
    nodes = {entry.value: entry.step for entry in manifest.nodes}
    ports = [port.value for port in interface.results]
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
    shaped = [{n: _shaped(a, values[n]) for n, a in sample.items()} for sample in found]
    return with_boxes(interface.detector, shaped)


def _shaped(array: NDArray[Any], value: Value) -> NDArray[Any]:
    return np.asarray(array).reshape(value.shape)
