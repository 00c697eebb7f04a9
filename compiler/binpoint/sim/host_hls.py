"""The emitted HLS C++, built by the host compiler, as a witness: three ways of one source.

``native``   the next larger integers of C++, under sanitizers
``ap``       AMD's arbitrary precision integers, of the exact widths
``bounded``  native, every process in a thread, streams that block at their depth: shows deadlock
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import util
from pathlib import Path
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from binpoint.emit.environment import render_template
from binpoint.emit.fpga_hls import PortView, port_views
from binpoint.emit.project import Project
from binpoint.errors import ToolFailed, ToolNotFound
from binpoint.plan.design import Design, Style
from binpoint.sim.tools import find, run_tool

WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
SANITIZERS = (
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
)
# What the vendor's headers do, inlined into our code: they clear bits of numbers that are not set
# yet, and shift negative numbers to the left. So no sanitizer watches them: it would find what the
# build with native integers finds, at three times the compile time.
_VENDOR = ("-Wno-maybe-uninitialized", "-Wno-uninitialized")
_COMPILERS = ("g++", "c++", "clang++")
_WHEELS = {
    "da4ml": "codegen/hls/source/ap_types/include",
    "hls4ml": "templates/vivado/ap_types",
}
Values = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Wire:
    """A port as the harness sees it: the name of the value it carries, and its elements."""

    value: str
    view: PortView


@dataclass(frozen=True, slots=True)
class HlsInterface:
    """What a caller of the top function must know, from a design or from a manifest."""

    name: str
    parallel: bool
    inputs: tuple[Wire, ...]
    outputs: tuple[Wire, ...]

    @classmethod
    def of(cls, design: Design) -> HlsInterface:
        """The interface of a design."""
        inputs, outputs = port_views(design)
        into = [Wire(p.value, v) for p, v in zip(design.inputs, inputs, strict=True)]
        out = [Wire(p.value, v) for p, v in zip(design.outputs, outputs, strict=True)]
        return cls(design.name, design.style is Style.PARALLEL, tuple(into), tuple(out))

    def views(self) -> dict[str, object]:
        """What the harness templates see."""
        inputs, outputs = [w.view for w in self.inputs], [w.view for w in self.outputs]
        ports = [*inputs, *outputs]
        return {"prefix": self.name, "inputs": inputs, "outputs": outputs, "ports": ports}


class Build(StrEnum):
    """How the source is compiled."""

    NATIVE = "native"
    AP = "ap"
    BOUNDED = "bounded"


@dataclass(frozen=True, slots=True)
class Headers:
    """Where AMD's arbitrary precision headers are."""

    folder: Path


def find_headers(given: Path | None = None) -> Headers:
    """The folder given, else that of a vendor tool, else the copy inside an installed wheel.

    Raises:
        ToolNotFound: there is none.
    """
    places: list[Path] = [] if given is None else [given]
    if given is None and "XILINX_HLS" in os.environ:
        places.append(Path(os.environ["XILINX_HLS"]) / "include")
    for package, inside in _WHEELS.items():
        spec = util.find_spec(package) if given is None else None
        if spec is not None and spec.submodule_search_locations:
            places.append(Path(spec.submodule_search_locations[0]) / inside)
    for place in places:
        if (place / "ap_int.h").is_file():
            return Headers(place)
    raise ToolNotFound(
        "the arbitrary precision headers are not there",
        have=None if given is None else str(given),
        want="a folder with ap_int.h",
        hint="pip install 'binpoint[hls]', or name the folder",
    )


def run_native(
    design: Design,
    project: Project,
    samples: Sequence[Values],
    *,
    deep: bool = False,
    checked: bool = True,
) -> list[dict[str, NDArray[Any]]]:
    """Outputs by name for each sample, with native integers; with `deep` all streamed values.

    Args:
        design: what `project` was rendered from.
        project: the HLS project.
        samples: for each the values of the design's inputs by name, as `ir.evaluate` has them.
        deep: whether to return every value of the graph that a stream carries; a parallel top has
            no streams, and gives its outputs only.
        checked: under sanitizers; without them some ten times faster, for whole data sets.

    Raises:
        ToolNotFound: no host compiler.
        ToolFailed: a warning, or a sanitizer's finding.
    """
    return _run(_flags(Build.NATIVE, checked=checked), design, project, samples, deep=deep)


def run_files(
    interface: HlsInterface,
    files: Mapping[str, bytes],
    samples: Sequence[Values],
    build: Build,
    *,
    checked: bool = True,
) -> list[dict[str, NDArray[Any]]]:
    """Outputs by the name of the carried value, of the files of a project.

    Raises:
        ToolNotFound: no host compiler, or no headers of arbitrary precision.
        ToolFailed: a warning, or a sanitizer's finding.
    """
    headers = find_headers() if build is Build.AP else None
    return _build_and_run(_flags(build, headers, checked=checked), interface, files, samples)[0]


def run_ap(
    design: Design,
    project: Project,
    samples: Sequence[Values],
    *,
    deep: bool = False,
    checked: bool = True,
    headers: Path | None = None,
) -> list[dict[str, NDArray[Any]]]:
    """The same with AMD's arbitrary precision integers of the exact widths.

    Raises:
        ToolNotFound: no host compiler, or no headers.
        ToolFailed: a warning in the emitted code.
    """
    flags = _flags(Build.AP, find_headers(headers), checked=checked)
    return _run(flags, design, project, samples, deep=deep)


def run_bounded(
    design: Design, project: Project, samples: Sequence[Values]
) -> list[dict[str, NDArray[Any]]] | str:
    """The same with streams that hold no more than their depth; in a deadlock, who waits for what.

    Raises:
        ToolNotFound: no host compiler.
        ToolFailed: anything but a deadlock.
    """
    try:
        return _run(_flags(Build.BOUNDED), design, project, samples)
    except ToolFailed as failure:
        _, found, what = (failure.have or "").partition("deadlock:")
        if not found:
            raise
        return what.strip()


def _run(
    flags: list[str | Path],
    design: Design,
    project: Project,
    samples: Sequence[Values],
    *,
    deep: bool = False,
) -> list[dict[str, NDArray[Any]]]:
    interface = HlsInterface.of(design)
    traced = deep and not interface.parallel
    found, trace = _build_and_run(flags, interface, project.files, samples, trace=traced)
    _add_streams(design, trace, found)
    return found


def _build_and_run(
    flags: list[str | Path],
    interface: HlsInterface,
    files: Mapping[str, bytes],
    samples: Sequence[Values],
    *,
    trace: bool = False,
) -> tuple[list[dict[str, NDArray[Any]]], bytes]:
    """Outputs for each sample, and what the streams carried."""
    compiler = find(_COMPILERS, package="g++")
    harness = "host_hls_parallel.cpp.j2" if interface.parallel else "host_hls.cpp.j2"
    with tempfile.TemporaryDirectory(prefix="binpoint-hls-") as scratch:
        folder = Path(scratch)
        Project(files).write(folder / "hls")
        main = folder / "hls" / "main.cpp"
        main.write_text(render_template("harness", harness, **interface.views()))
        program = folder / "main"
        sources = (folder / "hls" / "src" / f"{interface.name}.cpp", main)
        options = [*WARNINGS, *flags, *(["-DBP_TRACE"] if trace else [])]
        paths = ["-I", folder / "hls" / "host", *sources, "-o", program]
        run_tool([compiler, "-std=c++14", *options, *paths], timeout=600)
        (folder / "in.bin").write_bytes(_pack(interface.inputs, samples))
        env = ["env", f"BP_TRACE_FILE={folder / 'trace.bin'}"] if trace else []
        run_tool([*env, program, folder / "in.bin", folder / "out.bin"], timeout=600)
        found = _unpack(interface.outputs, (folder / "out.bin").read_bytes(), len(samples))
        return found, (folder / "trace.bin").read_bytes() if trace else b""


def _flags(
    build: Build, headers: Headers | None = None, *, checked: bool = True
) -> list[str | Path]:
    match build:
        case Build.NATIVE:
            checks = ("-Og", "-g1", *SANITIZERS) if checked else ("-O2",)
            return [*checks, "-DBP_NATIVE"]
        case Build.AP:
            assert headers is not None
            return ["-Og" if checked else "-O2", "-isystem", headers.folder, *_VENDOR]
        case Build.BOUNDED:
            return ["-Og", "-DBP_NATIVE", "-DBP_BOUNDED", "-pthread"]
        case _:
            assert_never(build)


def _pack(wires: Sequence[Wire], samples: Sequence[Values]) -> bytes:
    """Inputs of all samples, one after the other, in the order of the ports."""
    parts: list[bytes] = []
    for sample in samples:
        for wire in wires:
            array = np.ascontiguousarray(sample[wire.value])
            parts.append(array.astype(np.dtype(wire.view.dtype).newbyteorder("<")).tobytes())
    return b"".join(parts)


def _unpack(wires: Sequence[Wire], data: bytes, count: int) -> list[dict[str, NDArray[Any]]]:
    """Outputs of all samples, by value name."""
    size = sum(wire.view.size * wire.view.slot // 8 for wire in wires)
    if len(data) != size * count:
        have, want = str(len(data)), str(size * count)
        raise ToolFailed(
            "the design wrote another number of bytes than it should", have=have, want=want
        )
    found: list[dict[str, NDArray[Any]]] = []
    offset = 0
    for _ in range(count):
        values: dict[str, NDArray[Any]] = {}
        for wire in wires:
            kind, size = np.dtype(wire.view.dtype).newbyteorder("<"), wire.view.size
            array = np.frombuffer(data, kind, size, offset)
            values[wire.value] = array.reshape(wire.view.shape)
            offset += size * kind.itemsize
        found.append(values)
    return found


def _add_streams(design: Design, data: bytes, found: list[dict[str, NDArray[Any]]]) -> None:
    """What the streams carried: records of a line with name and count, then elements as int64."""
    seen: dict[str, int] = {}
    offset = 0
    while offset < len(data):
        end = data.index(b"\n", offset)
        name, text = data[offset:end].decode().split(" ")
        count = int(text)
        elements = np.frombuffer(data, "<i8", count, end + 1)
        offset = end + 1 + 8 * count
        stream = design.streams[name]
        if stream.lanes * stream.words != count:
            raise ToolFailed(f"the stream `{name}` carried another number of elements", have=text)
        if stream.value:
            shape = design.graph.value(stream.value).shape
            if stream.bipolar:
                elements = 2 * elements - 1
            found[seen.get(name, 0)][stream.value] = elements.reshape(shape)
        seen[name] = seen.get(name, 0) + 1
