"""Design → HLS C++ project: views of its parts for the templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from binpoint.emit.environment import comment, render_template
from binpoint.emit.hls_arrays import initialiser, int_name
from binpoint.emit.hls_views import LayerView, layer_view
from binpoint.emit.project import Project
from binpoint.ir.graph import Value
from binpoint.plan.dataflow import slot_bits
from binpoint.plan.design import Design, StreamPort, Style
from binpoint.plan.fabric import SHIFT_WORDS
from binpoint.plan.program import Port
from binpoint.plan.shifts import is_without, shifts
from binpoint.target import FpgaTarget

_FOLDER = "fpga-hls"
_HOST = ("hls_stream.h", "ap_axi_sdata.h")
_TOGETHER = MappingProxyType(
    {
        "widen": "lanes",
        "narrow": "lanes",
        "reduce_kinds": "reduce",
        "reduce_memory": "reduce_held",
    }
)
_PROCESSORS = MappingProxyType({"xc7z": "processing_system7", "xczu": "zynq_ultra_ps_e"})
_LEAST_MEMORY_BITS = 32
Values = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class StreamView:
    """A stream: its type's alias with what is known of it."""

    name: str
    elem: str
    lanes: int
    depth: int
    words: int
    note: str
    impl: str


@dataclass(frozen=True, slots=True)
class PortView:
    """An input or output: beats, elements, and how to read its numbers, as Python text."""

    name: str
    source: str
    stream: str
    elem: str
    slot: int
    lanes: int
    beat_bits: int
    beats: int
    size: int
    shape: tuple[int, ...]
    order: tuple[int, ...]
    scale: str
    zero_point: str
    offset: str
    type: str
    dtype: str
    storage: str
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class DmaView:
    """The DMA of a port in the block design: what it moves, and where it is joined."""

    port: PortView
    sends: int
    receives: int
    way: str
    memory_bits: int
    register: str
    memory: str
    source: str
    sink: str


def render(
    design: Design,
    target: FpgaTarget,
    golden: Sequence[Values] = (),
) -> Project:
    """All files of the HLS project.

    Args:
        design: layers and streams.
        target: part, clock and interface.
        golden: values by name, as the interpreter has them, of samples for the testbench.
    """
    inputs, outputs = port_views(design)
    layers = [layer_view(design, layer) for layer in design.layers]
    views: dict[str, object] = {
        "prefix": design.name,
        "macro": design.name.upper(),
        "version": metadata.version("binpoint"),
        "digest": design.graph.digest,
        "target": target,
        "control": target.interface.control,
        "inputs": inputs,
        "outputs": outputs,
        "ports": [*inputs, *outputs],
        "streams": [_stream(design, name) for name in design.streams],
        "layers": layers,
        "kernels": _kernels(design, layers),
        "parallel": design.style is Style.PARALLEL,
        "shifts": any(is_without(layer.unit) or shifts(layer.unit) for layer in design.layers),
        "interval": design.interval,
        "samples": len(golden),
        "processor": None if design.style is Style.PARALLEL else _processor(target.fabric.part),
        "dmas": [_dma(design.name, i, p, p in inputs) for i, p in enumerate([*inputs, *outputs])],
    }
    paths = _files(design)
    if views["shifts"]:
        paths["src/shifts.hpp"] = "shifts.hpp"
    if views["processor"] is not None:
        paths["vivado/bitstream.tcl"] = "bitstream.tcl"
    files = {path: render_template(_FOLDER, f"{t}.j2", **views) for path, t in paths.items()}
    files["tb/vectors.hpp"] = _vectors(views, inputs, outputs, design, golden)
    folder = resources.files("binpoint.templates") / _FOLDER / "host"
    for name in _HOST:
        files[f"host/{name}"] = (folder / name).read_text(encoding="utf-8")
    files["LICENSE.generated"] = render_template(_FOLDER, "LICENSE.generated.j2", **views)
    return Project({path: text.encode() for path, text in files.items()})


def _processor(part: str) -> str | None:
    """The IP of the processor on a part; None if there is none."""
    return next((ip for start, ip in _PROCESSORS.items() if part.startswith(start)), None)


def _dma(prefix: str, index: int, port: PortView, sends: bool) -> DmaView:
    dma, own = f"dma_{port.name}", f"{prefix}/{port.name}"
    source, sink = (f"{dma}/M_AXIS_MM2S", own) if sends else (own, f"{dma}/S_AXIS_S2MM")
    return DmaView(
        port=port,
        sends=int(sends),
        receives=int(not sends),
        way="mm2s" if sends else "s2mm",
        memory_bits=max(_LEAST_MEMORY_BITS, port.beat_bits),
        register=f"M{index:02}_AXI",
        memory=f"S{index:02}_AXI",
        source=source,
        sink=sink,
    )


def _files(design: Design) -> dict[str, str]:
    top = "parallel/" if design.style is Style.PARALLEL else ""
    files = {
        f"src/{design.name}.hpp": f"{top}model.hpp",
        f"src/{design.name}.cpp": f"{top}model.cpp",
        "src/types.hpp": "types.hpp",
        "src/parameters.hpp": "parameters.hpp",
        "src/layers.hpp": "layers.hpp",
        "src/kernels.hpp": "kernels.hpp",
        "src/runtime.hpp": "runtime.hpp",
        "tb/testbench.cpp": f"{top}testbench.cpp",
        "run_hls.tcl": "run_hls.tcl",
        "options.tcl": "options.tcl",
        "hls_config.cfg": "hls_config.cfg",
        "CMakeLists.txt": "CMakeLists.txt",
        "README.md": "README.md",
    }
    if design.style is Style.STREAM:
        files |= {"src/ports.hpp": "ports.hpp", f"driver/{design.name}_pynq.py": "pynq.py"}
    return files


def _kernels(design: Design, layers: Sequence[LayerView]) -> list[str]:
    """The text of every kernel in use.

    Concat and fork are written for each number of streams, a recurrent layer for each of its forms.
    """
    folder = "parallel" if design.style is Style.PARALLEL else "ops"
    names: dict[str, set[str]] = {}
    for view in layers:
        name = view.parts.kernel.rstrip("0123456789")
        stem = "recurrent" if name.startswith("recurrent_") else _TOGETHER.get(name, name)
        names.setdefault(stem, set()).add(name)
    return [
        render_template(
            _FOLDER,
            f"{folder}/{stem}.hpp.j2",
            counts=_counts(design, stem),
            names=sorted(names[stem]),
        )
        for stem in sorted(names)
    ]


def _counts(design: Design, stem: str) -> list[int]:
    """Numbers of operands of the concats, of results of the forks."""
    layers = [layer for layer in design.layers if layer.unit.stem == stem]
    return sorted({max(len(layer.reads), len(layer.writes)) for layer in layers})


def _stream(design: Design, name: str) -> StreamView:
    stream = design.streams[name]
    note = f"range {stream.bounds}"
    if stream.value:
        note = f"{stream.value} {design.graph.value(stream.value).type}, {note}"
    if stream.bipolar:
        note += ", 1 for 1 and 0 for -1"
    impl = "srl" if stream.depth <= SHIFT_WORDS else "bram"
    return StreamView(
        name, int_name(stream.elem), stream.lanes, stream.depth, stream.words, comment(note), impl
    )


def port_views(design: Design) -> tuple[list[PortView], list[PortView]]:
    """Inputs and outputs as templates see them."""
    graph = design.graph
    inputs = zip(design.inputs, graph.inputs, strict=True)
    outputs = zip(design.outputs, graph.outputs, strict=True)
    return (
        [_port(design, port, graph.value(name)) for port, name in inputs],
        [_port(design, port, graph.value(name)) for port, name in outputs],
    )


def model_ports(design: Design) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Inputs and outputs with the model's values, whose axes the host may have to reorder."""
    graph = design.graph
    into = zip(design.inputs, graph.inputs, strict=True)
    out = zip(design.outputs, graph.outputs, strict=True)
    return (
        tuple(Port(port.name, port.source, graph.value(name)) for port, name in into),
        tuple(Port(port.name, port.source, graph.value(name)) for port, name in out),
    )


def _port(design: Design, port: StreamPort, own: Value) -> PortView:
    stream, value = design.streams[port.stream], _carried(design, port)
    scale, zero_point, offset = _numbers(own)
    slot = slot_bits(stream.elem.width)
    dtype = ("int" if stream.elem.signed else "uint") + str(slot)
    kind = value.elem
    return PortView(
        name=port.name,
        source=port.source,
        stream=port.stream,
        elem=int_name(stream.elem),
        slot=slot,
        lanes=stream.lanes,
        beat_bits=slot * stream.lanes,
        beats=stream.words,
        size=value.type.size,
        shape=value.shape,
        order=port.order,
        scale=scale,
        zero_point=zero_point,
        offset=offset,
        type=str(kind),
        dtype=dtype,
        storage=f"{dtype}_t",
        low=stream.bounds.lo,
        high=stream.bounds.hi,
    )


def _numbers(value: Value) -> tuple[str, str, str]:
    """Scale, zero point and offset of the model's own value; lists lie along their axis."""
    kind, reading = value.elem, value.reading
    axis = reading.axis if reading is not None else kind.axis or 0
    shape = tuple(-1 if i == axis else 1 for i in range(len(value.shape)))

    def text(numbers: Sequence[float]) -> str:
        alike = len(set(numbers)) == 1
        return str(numbers[0]) if alike else f"np.array({list(numbers)}).reshape({shape})"

    scales = [float(s) for s in kind.scales] if reading is None else reading.scales
    offsets = (0.0,) if reading is None else reading.offsets
    return text(scales), text(kind.zero_points), text(offsets)


def _carried(design: Design, port: StreamPort) -> Value:
    return design.graph.value(port.value)


def _vectors(
    views: Mapping[str, object],
    inputs: Sequence[PortView],
    outputs: Sequence[PortView],
    design: Design,
    golden: Sequence[Values],
) -> str:
    """Inputs and expected outputs of the testbench, one row a sample."""
    arrays: list[tuple[PortView, str]] = []
    ports = [*design.inputs, *design.outputs]
    for view, port in zip([*inputs, *outputs], ports, strict=True):
        rows = [np.asarray(values[port.value]).astype(np.int64).reshape(-1) for values in golden]
        table = np.stack(rows) if rows else np.zeros((1, view.size), np.int64)
        arrays.append((view, initialiser(table)))
    return render_template(_FOLDER, "vectors.hpp.j2", **views, arrays=arrays)
