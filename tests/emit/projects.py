"""Compiled projects on disk, and the compilers that read them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import onnx

from binpoint import pipelines
from binpoint.emit.mcu_c import render
from binpoint.emit.project import Project
from binpoint.emit.selftest import golden, selftest
from binpoint.frontend.load import load
from binpoint.frontend.samples import read_samples
from binpoint.options import CompileOptions
from binpoint.passes.base import Context
from binpoint.passes.convert import stored_inputs
from binpoint.passes.manager import run
from binpoint.plan.arrange import arrange
from binpoint.plan.program import Program
from binpoint.sim.verify import reference
from binpoint.target import load_target
from tests.build import save

WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wcast-qual", "-Werror")
STRICT = (*WARNINGS, "-pedantic", "-Wstrict-prototypes", "-Wundef")
HOST = load_target("host")


def compiled(
    made: onnx.ModelProto, folder: Path, options: CompileOptions, *, file: str = "net.onnx"
) -> tuple[Program, Project]:
    """The program of a model and its C, self-test included."""
    graph = load(save(made, folder / file))
    samples = read_samples("random", graph)
    assert samples is not None
    graph = run(pipelines.mcu(), graph, Context(HOST, options, samples.part(0, 8)))
    program = arrange(graph, options)
    project = render(program, HOST, options)
    inputs = golden(
        program.inputs + program.outputs, list(stored_inputs(graph, samples.part(0, 4)))
    )
    outputs = reference(graph, inputs)
    return program, project.with_files(selftest(program, options, inputs, outputs))


def check_syntax(folder: Path, prefix: str) -> None:
    """Let both compilers read all sources as C99, and C++ read the public headers."""
    sources = sorted([*folder.glob("*.c"), *folder.glob("test/*.c")])
    for compiler in ("gcc", "clang"):
        flags = [compiler, "-std=c99", "-fsyntax-only", *STRICT, "-I", folder]
        command([*flags, *sources])
        command([*flags, f"-D{prefix.upper()}_HOOK", folder / f"{prefix}.c"])
    user = folder / "user.cpp"
    user.write_text(
        f'#include "{prefix}.h"\n#include "{prefix}_convert.h"\nint main() {{ return 0; }}\n'
    )
    for compiler in ("g++", "clang++"):
        for standard in ("c++11", "c++17"):
            command([compiler, f"-std={standard}", "-fsyntax-only", *WARNINGS, "-pedantic", user])


def build(folder: Path, program: Path, sources: Sequence[Path], *flags: str) -> Path:
    """Build with all warnings and sanitizers."""
    sanitize = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    command(
        [
            "gcc",
            "-std=c99",
            "-O1",
            *WARNINGS,
            *sanitize,
            *flags,
            "-I",
            folder,
            *sources,
            "-o",
            program,
        ]
    )
    return program


def command(words: Sequence[str | Path]) -> str:
    """Standard output of a program that ends well; else a failure with what it said."""
    done = subprocess.run(list(map(str, words)), capture_output=True, check=False)
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, f"{' '.join(map(str, words))}\n{said}"
    return done.stdout.decode()
