"""manifest.json: what was compiled, for what, with what, and the digest of every file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from binpoint.emit.mcu_c import coded_steps
from binpoint.emit.project import Project
from binpoint.ir.graph import Value
from binpoint.options import CompileOptions
from binpoint.plan.program import Port, Program
from binpoint.target import Target

SCHEMA = 1


def manifest(program: Program, project: Project, target: Target, options: CompileOptions) -> bytes:
    """The text of manifest.json; the digests are those of the project's files so far."""
    nodes = [
        {"step": step.name, **_value(program.graph.value(step.writes[0]))}
        for step in coded_steps(program)
    ]
    content = {
        "schema": SCHEMA,
        "model": {"name": program.graph.name, "sha256": program.graph.digest},
        "prefix": program.name,
        "target": target.name,
        "binpoint": metadata.version("binpoint"),
        "arena_bytes": program.arena_bytes,
        "arena_lower_bound_bytes": program.arena_bound,
        "inputs": _ports(program.inputs),
        "outputs": _ports(program.outputs),
        "nodes": nodes,
        "options": {key: getattr(options, key) for key in options.__struct_fields__},
        "files": {path: digest(data) for path, data in sorted(project.files.items())},
    }
    return (json.dumps(content, indent=2, ensure_ascii=True) + "\n").encode()


def digest(data: bytes) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(data).hexdigest()


def _ports(ports: Sequence[Port]) -> list[dict[str, Any]]:
    return [{"name": p.name, "source": p.source, **_value(p.value)} for p in ports]


def _value(value: Value) -> dict[str, Any]:
    return {"value": value.name, "shape": list(value.shape), "type": str(value.elem)}
