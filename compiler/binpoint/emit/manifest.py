"""manifest.json: what was compiled, for what, with what, and the digest of every file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Any

import msgspec

from binpoint.emit.fpga_hls import PortView, model_ports, port_views
from binpoint.emit.mcu_c import coded_steps
from binpoint.emit.project import Project
from binpoint.ir.graph import Graph, Value
from binpoint.options import CompileOptions
from binpoint.plan.design import Design, StreamPort
from binpoint.plan.program import Port, Program
from binpoint.target import Target

SCHEMA = 1


def manifest(program: Program, project: Project, target: Target, options: CompileOptions) -> bytes:
    """The text of manifest.json of a C project; the digests are those of its files so far."""
    nodes = [
        {"step": step.name, **_value(program.graph.value(step.writes[0]))}
        for step in coded_steps(program)
    ]
    own = {
        "arena_bytes": program.arena_bytes,
        "arena_lower_bound_bytes": program.arena_bound,
        "inputs": _ports(program.inputs),
        "outputs": _ports(program.outputs),
        "nodes": nodes,
    }
    return _text(program.graph, program.name, own, project, target, options)


def hls_manifest(
    design: Design, macs: int, project: Project, target: Target, options: CompileOptions
) -> bytes:
    """The text of manifest.json of an HLS project.

    A port's `wire` is what the top function takes: its value, and its elements.
    """
    inputs, outputs = model_ports(design)
    into, out = port_views(design)
    own = {
        "top": design.style.value,
        "macs": macs,
        "inputs": _wired(inputs, design.inputs, into),
        "outputs": _wired(outputs, design.outputs, out),
    }
    return _text(design.graph, design.name, own, project, target, options)


def _text(
    graph: Graph,
    prefix: str,
    own: Mapping[str, object],
    project: Project,
    target: Target,
    options: CompileOptions,
) -> bytes:
    content = {
        "schema": SCHEMA,
        "model": {"name": graph.name, "sha256": graph.digest},
        "prefix": prefix,
        "target": target.name,
        "family": target.family,
        "binpoint": metadata.version("binpoint"),
        **own,
        "options": msgspec.to_builtins(options),
        "files": {path: digest(data) for path, data in sorted(project.files.items())},
    }
    return (json.dumps(content, indent=2, ensure_ascii=True) + "\n").encode()


def _wired(
    ports: Sequence[Port], carried: Sequence[StreamPort], views: Sequence[PortView]
) -> list[dict[str, Any]]:
    rows = zip(_ports(ports), carried, views, strict=True)
    return [{**row, "wire": {"value": c.value, "view": asdict(v)}} for row, c, v in rows]


def digest(data: bytes) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(data).hexdigest()


def _ports(ports: Sequence[Port]) -> list[dict[str, Any]]:
    return [{"name": p.name, "source": p.source, **_value(p.value)} for p in ports]


def _value(value: Value) -> dict[str, Any]:
    return {"value": value.name, "shape": list(value.shape), "type": str(value.elem)}
