"""The emitted C, built by the host compiler: under sanitizers as a witness, else for speed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from binpoint.emit.environment import render_template
from binpoint.emit.project import Project
from binpoint.options import CompileOptions
from binpoint.plan.program import Program
from binpoint.sim.interface import Codes, Interface, pack, split, unpack
from binpoint.sim.tools import HOST_COMPILERS, find, run_tool

WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wcast-qual", "-Werror")
SANITIZERS = (
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
)
_CHECKED = ("-O1", "-g1", *SANITIZERS)
_FAST = ("-O2",)


@dataclass(frozen=True, slots=True)
class HostBuild:
    """How to build: with which compiler (None: the first found), under sanitizers or for speed."""

    compiler: str | None = None
    sanitize: bool = True


def run_host(
    program: Program,
    project: Project,
    options: CompileOptions,
    samples: Sequence[Codes],
    *,
    deep: bool = False,
    compiler: str | None = None,
) -> list[dict[str, NDArray[Any]]]:
    """Outputs (with `deep` every computed value) by name for each sample, under sanitizers.

    Raises:
        ToolNotFound: no host compiler.
        ToolFailed: a warning, or a sanitizer's finding.
    """
    interface = Interface.of(program, options)
    return run_project(interface, project.files, samples, deep=deep, build=HostBuild(compiler))


def run_project(
    interface: Interface,
    files: Mapping[str, bytes],
    samples: Sequence[Codes],
    *,
    deep: bool = False,
    build: HostBuild | None = None,
) -> list[dict[str, NDArray[Any]]]:
    """The same for the files of a project, known by its interface.

    Raises:
        ToolNotFound: no host compiler.
        ToolFailed: a warning, or a sanitizer's finding.
    """
    chosen = build or HostBuild()
    compiler = chosen.compiler or find(HOST_COMPILERS, package="gcc")
    with tempfile.TemporaryDirectory(prefix="binpoint-host-") as scratch:
        folder = Path(scratch)
        _write(folder, interface, files)
        flags = [*WARNINGS, *(_CHECKED if chosen.sanitize else _FAST)]
        hook = [f"-D{interface.name.upper()}_HOOK"] if deep else []
        sources = sorted(folder.glob("*.c"))
        program = folder / "main"
        run_tool(
            [compiler, "-std=c99", *flags, *hook, "-I", folder, *sources, "-o", program],
            timeout=300,
        )
        (folder / "in.bin").write_bytes(pack(interface.inputs, samples))
        names = ["in.bin", "out.bin", *(["values.bin"] if deep else [])]
        run_tool([program, *(folder / name for name in names)], timeout=600)
        found = unpack(interface.results, (folder / "out.bin").read_bytes())
        if deep and interface.values:
            values = split(interface.values, (folder / "values.bin").read_bytes())
            found = [{**more, **known} for known, more in zip(found, values, strict=True)]
    return found


def _write(folder: Path, interface: Interface, files: Mapping[str, bytes]) -> None:
    """The model's sources, and beside them the harness."""
    for path, data in files.items():
        if "/" not in path and path.endswith((".c", ".h")):
            (folder / path).write_bytes(data)
    main = render_template("harness", "host.c.j2", **interface.views())
    (folder / "bp_harness_main.c").write_text(main)
