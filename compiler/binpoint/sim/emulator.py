"""Firmware built for a microcontroller, and what it does and needs when an emulator runs it.

`build` compiles C sources together with a small runtime (``templates/emulator``) and reads off the
linked program what it holds; `run` executes it under QEMU, exchanging files and text with it
through semihosting, while a plugin counts the instructions between ``bpe_begin()`` and
``bpe_end()``, and between marks in there. Counts are exact: the same image on the same files
gives the same numbers everywhere.

What emulation does not show: caches, wait states, and the stack of an array that is never written.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath

from binpoint.errors import InternalError, InvalidTarget, ToolFailed, ToolNotFound
from binpoint.sim import linked
from binpoint.sim.counts import Region, read_counts
from binpoint.sim.linked import Kind
from binpoint.target import Emulator, McuTarget

STACK_BYTES = 64 * 1024
"""RAM set aside for the stack; a region that needs more ends as a fault."""

WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wcast-qual", "-Werror")
_COMPILE = ("-O2", "-ffunction-sections", "-fdata-sections", "-std=c99")
_RUNTIME = ("-ffreestanding", "-fno-tree-loop-distribute-patterns", *WARNINGS)
_VECTORS_BYTES = 0x400

_PACKAGES = {
    "arm-none-eabi-": "gcc-arm-none-eabi",
    "riscv64-unknown-elf-": "gcc-riscv64-unknown-elf",
    "qemu-system-arm": "qemu-system-arm",
    "qemu-system-riscv32": "qemu-system-misc",
    "nano.specs": "libnewlib-arm-none-eabi",
    "picolibc.specs": "picolibc-riscv64-unknown-elf",
    "cc": "gcc libc6-dev",
}

_TROUBLE = {0x100: "bpe_begin() and bpe_end() are not paired", 0x101: "stack overflow"}


@dataclass(frozen=True, slots=True)
class EmulatorRun:
    """One run of an image.

    ``stack_bytes`` is the deepest stack use of any region, below the frame of the function that
    called ``bpe_begin()``. ``outputs`` holds the files that the program made or changed. A program
    that was stopped has a ``fault`` saying why and where, and exit code 128.
    """

    exit_code: int
    stdout: str
    regions: tuple[Region, ...]
    stack_bytes: int
    outputs: Mapping[str, bytes]
    fault: str | None


@dataclass(frozen=True, slots=True)
class Image:
    """A linked program and what it holds, in bytes: of the whole, and by source.

    ``sizes_by_source`` has for every source, under its name as given to `build`, and for
    ``runtime`` and each library (``libgcc.a``) the linked ``code``, ``constants``, ``data`` and
    ``bss``. Padding between sections belongs to the whole only. Unwind tables are not linked.
    """

    elf: Path
    code_bytes: int
    constant_bytes: int
    data_bytes: int
    bss_bytes: int
    float_instructions: tuple[str, ...]
    float_routines: tuple[str, ...]
    heap_routines: tuple[str, ...]
    sizes_by_source: Mapping[str, Mapping[str, int]]
    compiler: str


# ---- tools


def find_tools(target: McuTarget) -> None:
    """Check that the target's compiler, C library and emulator, and the host's ``cc``, are there.

    Raises:
        ToolNotFound: with the Debian package to install.
        InvalidTarget: the target names no emulator.
    """
    chain, emulator = target.toolchain, _emulator(target)
    needed = {chain.prefix + "gcc": chain.prefix, chain.prefix + "objdump": chain.prefix}
    needed |= {emulator.command[0]: emulator.command[0], "cc": "cc"}
    for program, key in needed.items():
        if shutil.which(program) is None:
            raise _missing(f"`{program}` is not installed", key)
    if chain.specs is None:
        return
    found = _tool([chain.prefix + "gcc", f"-print-file-name={chain.specs}"]).strip()
    if found == chain.specs:
        raise _missing(f"`{chain.prefix}gcc` has no C library `{chain.specs}`", chain.specs)


def _missing(message: str, key: str) -> ToolNotFound:
    package = _PACKAGES.get(key)
    return ToolNotFound(
        message,
        want="a program in PATH",
        hint=None if package is None else f"on Debian: apt-get install {package}",
    )


def _emulator(target: McuTarget) -> Emulator:
    emulator = target.toolchain.emulator
    if emulator is None:
        raise InvalidTarget(
            f"target `{target.name}` names no emulator",
            want="`[toolchain.emulator]` in the target's file",
        )
    return emulator


def _tool(command: Sequence[str], folder: Path | None = None) -> str:
    """Standard output of a program that must succeed."""
    untranslated = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(
        command, cwd=folder, env=untranslated, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return done.stdout
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"error|undefined|overflowed|too small", line)]
    raise ToolFailed(
        f"`{command[0]}` stopped with status {done.returncode}",
        at=" ".join(command),
        have=next(iter(telling or lines), None),
    )


# ---- building


def build(target: McuTarget, sources: Mapping[str, bytes], folder: Path) -> Image:
    """Compile and link ``sources`` (relative path: text) with the runtime, inside ``folder``.

    Every ``*.c`` is compiled with the target's flags, ``-O2`` and `WARNINGS`; folders that hold a
    ``*.h`` are searched for headers. One source has ``main`` and includes ``bpe_emulator.h``.

    Raises:
        ToolNotFound: a tool is missing.
        ToolFailed: the compiler or linker refused.
    """
    find_tools(target)
    emulator = _emulator(target)
    for name, text in sources.items():
        _write(folder / "src", name, text)
    _write_runtime(folder / "bpe")
    headers = sorted({str(PurePosixPath("src", n).parent) for n in sources if n.endswith(".h")})
    flags = (*WARNINGS, *(f"-I{path}" for path in (*headers, "bpe")))
    objects: dict[str, str] = {}
    for name in ("bpe_runtime.c", f"bpe_{emulator.runtime}.S"):
        objects[_compile(target, f"bpe/{name}", folder, len(objects), _RUNTIME)] = "runtime"
    for name in sorted(n for n in sources if n.endswith(".c")):
        objects[_compile(target, f"src/{name}", folder, len(objects), flags)] = name
    _link(target, list(objects), folder)
    _build_counter(emulator.command[0], folder)
    return _examine(target, objects, folder)


def _write(folder: Path, name: str, content: bytes) -> None:
    """Write ``folder/name``; the name may not lead out of the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise InternalError("a file's name leads out of its folder", have=name)
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(content)


def _write_runtime(folder: Path) -> None:
    for item in resources.files("binpoint.templates").joinpath("emulator").iterdir():
        if item.name.startswith("bpe_"):
            _write(folder, item.name, item.read_bytes())


def _driver(target: McuTarget) -> list[str]:
    chain = target.toolchain
    specs = () if chain.specs is None else (f"--specs={chain.specs}",)
    return [chain.prefix + "gcc", *chain.flags, *specs]


def _compile(
    target: McuTarget, source: str, folder: Path, number: int, flags: Iterable[str]
) -> str:
    """Compile one source; paths are relative to ``folder``, so that no image holds its path."""
    target_file = f"obj/{number:02d}_{PurePosixPath(source).stem}.o"
    (folder / "obj").mkdir(exist_ok=True)
    _tool([*_driver(target), *_COMPILE, *flags, "-c", source, "-o", target_file], folder)
    return target_file


def _link(target: McuTarget, objects: Sequence[str], folder: Path) -> None:
    emulator = _emulator(target)
    flash_start, flash_bytes = emulator.flash.start, emulator.flash.bytes
    if flash_start == emulator.vectors:
        flash_start, flash_bytes = flash_start + _VECTORS_BYTES, flash_bytes - _VECTORS_BYTES
    layout = {
        "vectors_start": emulator.vectors,
        "vectors_bytes": _VECTORS_BYTES,
        "flash_start": flash_start,
        "flash_bytes": flash_bytes,
        "ram_start": emulator.ram.start,
        "ram_bytes": emulator.ram.bytes,
        "stack_bytes": STACK_BYTES,
    }
    symbols = [f"-Wl,--defsym=bpe_{name}={value:#x}" for name, value in layout.items()]
    options = ["-nostartfiles", "-Wl,--gc-sections", "-Wl,-Map=image.map", *symbols]
    script = ["-T", "bpe/bpe_layout.ld"]
    links = target.toolchain.link_flags
    _tool([*_driver(target), *links, *options, *script, *objects, "-o", "image.elf"], folder)


def _build_counter(emulator: str, folder: Path) -> None:
    """Compile the counting plugin for the version of the plugin interface that the emulator has."""
    version = re.search(r"version (\d+)", _tool([emulator, "--version"]))
    if version is None:
        raise ToolFailed(f"`{emulator}` does not say its version")
    api = 1 if int(version[1]) < 9 else 2
    flags = ["-O2", "-shared", "-fPIC", "-fvisibility=hidden", f"-DBPE_PLUGIN_API={api}"]
    _tool(["cc", *flags, "bpe/bpe_counter.c", "-o", "bpe_counter.so"], folder)


def _examine(target: McuTarget, objects: Mapping[str, str], folder: Path) -> Image:
    prefix, elf = target.toolchain.prefix, folder / "image.elf"
    kinds, total = linked.section_kinds(_tool([prefix + "objdump", "-h", "-w", str(elf)]))
    pieces = linked.pieces_of((folder / "image.map").read_text(), kinds)
    symbols = _symbols(prefix, elf)
    return Image(
        elf=elf,
        code_bytes=total[Kind.CODE],
        constant_bytes=total[Kind.CONSTANTS],
        data_bytes=total[Kind.DATA],
        bss_bytes=total[Kind.BSS],
        float_instructions=linked.float_instructions(
            _disassembled(target, elf), _emulator(target).runtime
        ),
        float_routines=linked.float_routines(symbols, pieces),
        heap_routines=linked.heap_routines(symbols),
        sizes_by_source=linked.sizes_by_source(pieces, objects),
        compiler=_tool([prefix + "gcc", "--version"]).splitlines()[0],
    )


def _symbols(prefix: str, elf: Path) -> tuple[linked.Symbol, ...]:
    return linked.symbols_of(_tool([prefix + "nm", "--defined-only", str(elf)]))


def listing(image: Image, target: McuTarget) -> str:
    """The program as ``objdump -d -w`` prints it."""
    return _disassembled(target, image.elf)


def _disassembled(target: McuTarget, elf: Path) -> str:
    """The program's instructions; of Helium objdump must be told, as it trusts no attribute."""
    helium = ("-m", "armv8.1-m.main") if "mve" in target.arithmetic.features else ()
    return _tool([target.toolchain.prefix + "objdump", "-d", "-w", *helium, str(elf)])


# ---- running


def run(
    image: Image,
    target: McuTarget,
    files: Mapping[str, bytes],
    *,
    marks: Sequence[int] = (),
    timeout: float = 300,
) -> EmulatorRun:
    """Run ``image`` in a folder of its own that holds ``files``; ``timeout`` is in seconds.

    The addresses ``marks`` divide the regions into parts.

    Raises:
        ToolFailed: the program took longer than ``timeout``, or the emulator failed.
    """
    with tempfile.TemporaryDirectory(prefix="binpoint-") as scratch:
        folder = Path(scratch)
        (folder / "files").mkdir()
        for name, content in files.items():
            _write(folder / "files", name, content)
        command = _command(image, target, folder / "counts", marks)
        done = _execute(command, folder / "files", timeout)
        fault, code, stack = _read_report(folder / "report", done, image, target)
        regions = read_counts((folder / "counts").read_text())
        left = {p.name: p.read_bytes() for p in sorted((folder / "files").iterdir()) if p.is_file()}
    return EmulatorRun(
        exit_code=code,
        stdout=done.stdout.decode(errors="replace"),
        regions=regions,
        stack_bytes=stack,
        outputs={name: content for name, content in left.items() if files.get(name) != content},
        fault=fault,
    )


def _command(image: Image, target: McuTarget, counts: Path, marks: Sequence[int]) -> list[str]:
    symbols = _symbols(target.toolchain.prefix, image.elf)
    address = {symbol.name: symbol.address for symbol in symbols}
    options = {
        # Without markers in the program there is nothing to count.
        "begin": f"{address.get('bpe_opened', 0):#x}",
        "end": f"{address.get('bpe_end', 0):#x}",
        "marks": ":".join(f"{at:#x}" for at in marks),
        "out": str(counts),
    }
    # A comma in an option's value is written twice.
    counter = str(image.elf.with_name("bpe_counter.so").resolve()).replace(",", ",,")
    plugin = ",".join([counter, *(f"{k}={v.replace(',', ',,')}" for k, v in options.items())])
    quiet = ["-display", "none", "-monitor", "none", "-serial", "none"]
    semihosting = ["-semihosting-config", "enable=on,target=native"]
    kernel = ["-kernel", str(image.elf.resolve())]
    return [*_emulator(target).command, *quiet, *semihosting, *kernel, "-plugin", plugin]


def _execute(
    command: Sequence[str], folder: Path, timeout: float
) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            command,
            cwd=folder,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ToolFailed(
            f"the program did not end within {timeout:g} seconds", at=command[0]
        ) from None
    except FileNotFoundError:
        raise _missing(f"`{command[0]}` is not installed", command[0]) from None


def _read_report(
    path: Path, done: subprocess.CompletedProcess[bytes], image: Image, target: McuTarget
) -> tuple[str | None, int, int]:
    """Fault, exit code and stack bytes, as the runtime wrote them on its way out."""
    if path.is_file() and done.returncode == 0:
        code, number, at, status, stack = struct.unpack("<iIIII", path.read_bytes())
        return _fault(number, at, status, image, target), code, stack
    errors = done.stderr.decode(errors="replace")
    if "Lockup" in errors:
        return "an exception within an exception: the stack pointer was lost", 128, 0
    raise ToolFailed(
        f"the emulator stopped with status {done.returncode}",
        at=_emulator(target).command[0],
        have=next(iter(errors.splitlines()), None),
    )


def _fault(number: int, at: int, status: int, image: Image, target: McuTarget) -> str | None:
    if number == 0:
        return None
    if number in _TROUBLE:
        return _TROUBLE[number]
    symbols = _symbols(target.toolchain.prefix, image.elf)
    where = next((s.name for s in reversed(symbols) if s.is_code and s.address <= at), "?")
    cause = number if _emulator(target).runtime == "arm" else number - 1
    return f"exception {cause} at {at:#010x} in `{where}`, status {status:#010x}"
