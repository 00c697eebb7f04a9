"""Target: what is known of a device, a microcontroller or an FPGA, read from a TOML file.

A target file states facts and names the document they come from. What to do with a device (widths,
methods, budgets) is policy and lives in ``options.py``. A device file may extend one core file:
``extends = "cortex-m4"`` takes that file's tables and replaces the keys that it states itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, cast

import msgspec

from binpoint import toml
from binpoint.errors import InvalidTarget, UnknownTarget
from binpoint.ir.op import Limits

Feature = Literal["dsp", "mve", "fpu", "rvv", "registers", "mla"]
Region = Literal["flash", "sram"]
Content = Literal["code", "constants", "arena", "stack"]
Event = Literal[
    "load", "next_load", "store", "block", "moved", "multiply", "multiply_add", "long_multiply",
    "divide", "simd", "branch", "taken", "jump", "loop", "vector", "vector_memory",
    "vector_multiply", "gather", "predicate", "other",
]  # fmt: skip
"""What takes time: an instruction of a class, a register moved, a branch taken."""

Rate = Annotated[float, msgspec.Meta(ge=0)]
Address = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
Size = Annotated[int, msgspec.Meta(gt=0)]
Name = Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9_.-]*$")]
Words = tuple[Annotated[str, msgspec.Meta(min_length=1)], ...]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all tables of a target file: immutable, and strict about keys."""


class MemoryRegion(_Table, frozen=True):
    """An address range: first address, and length in bytes."""

    start: Address
    bytes: Size


class Emulator(_Table, frozen=True):
    """An emulated board that executes the target's instructions.

    Attributes:
        command: emulator and the arguments that choose the board.
        runtime: which start-up code the board needs.
        vectors: address at which the core starts after reset: vector table or first instruction.
        flash: where code and constants are placed, after the vectors.
        ram: where data and stack are placed.
    """

    command: Annotated[Words, msgspec.Meta(min_length=1)]
    runtime: Literal["arm", "riscv"]
    vectors: Address
    flash: MemoryRegion
    ram: MemoryRegion


class Toolchain(_Table, frozen=True):
    """How C is compiled and run for the target.

    Attributes:
        prefix: of the compiler and the binary utilities, ``arm-none-eabi-``; empty for the host.
        flags: choose core and calling convention, for compiling and linking.
        link_flags: for linking only.
        specs: library variant, passed as ``--specs=``.
        emulator: absent when there is none, as for the host.
    """

    prefix: str
    flags: Words
    link_flags: Words = ()
    specs: str | None = None
    emulator: Emulator | None = None


class Memory(_Table, frozen=True):
    """A memory of the device: bytes in all, what is kept in it, bytes left to the application."""

    bytes: Size
    holds: Annotated[tuple[Content, ...], msgspec.Meta(min_length=1)]
    reserve: Annotated[int, msgspec.Meta(ge=0)] = 0


class Arithmetic(_Table, frozen=True):
    """The core's integer arithmetic.

    Attributes:
        word_bits: width of a register.
        features: instruction set extensions that kernel variants may use; ``registers`` stands for
            some thirty general registers, ``mla`` for a multiplication that adds.
        multiplier_bits: rescale multiplier that stays in one word by word to double word product.
    """

    word_bits: Literal[32, 64]
    features: tuple[Feature, ...] = ()
    multiplier_bits: Annotated[int, msgspec.Meta(ge=1, le=31)] = 31


class Price(_Table, frozen=True):
    """Cycles that the core is modelled to take for each event, with memory that never waits.

    Attributes:
        basis: `published`, the designer's table of instruction timings with means where it states a
            range; `fitted`, means that bring the cycles of an in-order scoreboard nearest.
        source: the document that the table, or what the scoreboard knows, comes from.
        cycles: by event; one that is not there cannot happen on the core, or has no price.
        kernels: modelled cycles by kernel and part of it (`plan/bill.py`); fitted to what the
            events of emulated runs cost. A kernel that is not there is priced by its operations.
    """

    basis: Literal["published", "fitted"]
    source: str
    cycles: dict[Event, Rate]
    kernels: dict[str, dict[str, Rate]] = {}


class PipelineName(_Table, frozen=True):
    """The named pipeline that compiles for the target."""

    name: Literal["mcu"]


class McuTarget(_Table, frozen=True):
    """A microcontroller, a bare core, or the host: what runs C.

    Attributes:
        memory: by name; a core without a device has none, and then nothing is too large.
        price: absent where nothing is known of the core's timing.
        source: the document that the facts come from.
    """

    schema: Literal[1]
    name: Name
    family: Literal["mcu"]
    summary: str
    source: str
    arithmetic: Arithmetic
    toolchain: Toolchain
    pipeline: PipelineName
    extends: Name | None = None
    memory: dict[Region, Memory] = {}
    price: Price | None = None

    @property
    def limits(self) -> Limits:
        """What lowering may use; C99 has no integer type wider than 64 bits."""
        return Limits(self.arithmetic.multiplier_bits, min(64, 2 * self.arithmetic.word_bits))

    def budget(self, content: Content) -> int | None:
        """Return the bytes of the memory that holds ``content``, None where there is no limit."""
        sizes = [m.bytes - m.reserve for m in self.memory.values() if content in m.holds]
        return sizes[0] if sizes else None


class Fabric(_Table, frozen=True):
    """What the programmable logic holds.

    Attributes:
        part: the vendor's name of the device with package and speed grade.
        lut: six-input look-up tables.
        ff: flip-flops.
        dsp: multiply-add slices.
        bram18: block memories of 18 Kibit; one of 36 Kibit counts as two.
        uram: block memories of 288 Kibit.
        dsp_a: width of the slice's wider signed multiplier input, in bits.
        dsp_b: width of its narrower one.
    """

    part: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9-]+$")]
    lut: Size
    ff: Size
    dsp: Size
    bram18: Size
    uram: Annotated[int, msgspec.Meta(ge=0)]
    dsp_a: Size
    dsp_b: Size


class Clock(_Table, frozen=True):
    """The clock that the design is made for.

    Attributes:
        period_ns: length of a cycle, in nanoseconds.
        uncertainty_percent: part of it that is kept free for place and route.
    """

    period_ns: Annotated[float, msgspec.Meta(gt=0)]
    uncertainty_percent: Annotated[float, msgspec.Meta(ge=0, lt=100)] = 12.5


class Interface(_Table, frozen=True):
    """How the design is connected.

    Attributes:
        data: ports of inputs and outputs.
        control: start and stop through registers, or running freely.
        beat_bits: most data bits of one transfer of a port.
    """

    data: Literal["axis"]
    control: Literal["s_axilite", "ap_ctrl_none"]
    beat_bits: Literal[8, 16, 32, 64] = 32


class Synthesis(_Table, frozen=True):
    """The vendor's tool, which is never needed to compile or verify.

    Attributes:
        tool: its name.
        since: the first release that the project files are written for.
    """

    tool: Literal["vitis_hls"]
    since: str


class FpgaTarget(_Table, frozen=True):
    """An FPGA, or the programmable logic of a device: what HLS C++ is synthesised for.

    Attributes:
        source: the document that the facts come from.
        board: a board that carries the part; only text.
    """

    schema: Literal[1]
    name: Name
    family: Literal["fpga"]
    summary: str
    source: str
    fabric: Fabric
    clock: Clock
    interface: Interface
    toolchain: Synthesis
    board: str | None = None

    @property
    def limits(self) -> Limits:
        """What lowering may use: a rescale multiplier fits the wide input of a slice."""
        return Limits(self.fabric.dsp_a - 1, 64)


Target = McuTarget | FpgaTarget

_MCU_TABLES: tuple[type[_Table], ...] = (
    Arithmetic, Emulator, McuTarget, Memory, MemoryRegion, PipelineName, Price, Toolchain,
)  # fmt: skip
_FPGA_TABLES: tuple[type[_Table], ...] = (Clock, Fabric, FpgaTarget, Interface, Synthesis)


def microcontroller(target: Target) -> McuTarget:
    """Return the target, if it runs C.

    Raises:
        InvalidTarget: it is an FPGA.
    """
    if isinstance(target, McuTarget):
        return target
    raise InvalidTarget(
        f"`{target.name}` does not run C",
        have=f"family {target.family}",
        want="family mcu: `binpoint list targets`",
    )


def list_targets() -> tuple[str, ...]:
    """Return the names of the targets that come with binpoint, sorted."""
    files = resources.files("binpoint.targets").iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


def load_target(name_or_path: str | Path) -> Target:
    """Return a target by the name of a shipped file, or from the user's own ``.toml`` file.

    Raises:
        UnknownTarget: no shipped target has this name.
        InputNotFound: the file cannot be read.
        InvalidTarget: the file is wrong; names file, key and the nearest valid key.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, str) and not text.endswith(".toml") and "/" not in text:
        at, raw = f"{text}.toml", _shipped(text)
    else:
        at, raw = text, toml.parse(toml.read_text(Path(text)), at=text, error=InvalidTarget)
    return _decode(_extended(raw, at), at)


def _shipped(name: str) -> dict[str, object]:
    """Return the parsed file of a shipped target."""
    known = list_targets()
    if name not in known:
        hint = (
            toml.nearest(name, known)
            or "`binpoint list targets` names them; a path to a .toml file works too"
        )
        raise UnknownTarget(f"no target is named `{name}`", hint=hint)
    file = resources.files("binpoint.targets").joinpath(f"{name}.toml")
    return toml.parse(file.read_text(encoding="utf-8"), at=f"{name}.toml", error=InvalidTarget)


def _extended(raw: dict[str, object], at: str) -> dict[str, object]:
    """Return ``raw`` laid over the core that it extends, table by table."""
    if "extends" not in raw:
        return raw
    core = str(raw["extends"])
    if core not in list_targets():
        hint = toml.nearest(core, list_targets())
        raise InvalidTarget(f"extends an unknown target `{core}`", at=f"{at}, extends", hint=hint)
    base = _shipped(core)
    if "extends" in base:
        raise InvalidTarget(
            f"extends `{core}`, which itself extends another target",
            at=f"{at}, extends",
            want="a core, as extension goes one level",
            hint=f"extend `{base['extends']}`",
        )
    keys = ("arithmetic", "toolchain", "pipeline", "price")
    inherited = {key: base[key] for key in keys if key in base}
    return {**inherited, **{key: _laid_over(inherited.get(key), raw[key]) for key in raw}}


def _laid_over(base: object, own: object) -> object:
    """Return ``own``, completed by the keys of ``base`` where both are tables."""
    if not (isinstance(base, dict) and isinstance(own, dict)):
        return own
    return {**cast("dict[str, object]", base), **cast("dict[str, object]", own)}


def _decode(raw: Mapping[str, object], at: str) -> Target:
    """Convert and check what types alone cannot express."""
    target = _decode_fpga(raw, at) if raw.get("family") == "fpga" else _decode_mcu(raw, at)
    if target.name != Path(at).stem:
        raise InvalidTarget(
            "name and file name differ", at=f"{at}, name", have=target.name, want=Path(at).stem
        )
    return target


def _decode_fpga(raw: Mapping[str, object], at: str) -> FpgaTarget:
    keys = {field for table in _FPGA_TABLES for field in table.__struct_fields__}
    return toml.decode(raw, FpgaTarget, at=at, error=InvalidTarget, keys=keys)


def _decode_mcu(raw: Mapping[str, object], at: str) -> McuTarget:
    keys = {field for table in _MCU_TABLES for field in table.__struct_fields__}
    target = toml.decode(raw, McuTarget, at=at, error=InvalidTarget, keys=keys | {"flash", "sram"})
    for name, memory in target.memory.items():
        if memory.reserve >= memory.bytes:
            raise InvalidTarget(
                "the reserve leaves nothing",
                at=f"{at}, memory.{name}.reserve",
                have=f"{memory.reserve} of {memory.bytes} bytes",
            )
    held = [content for memory in target.memory.values() for content in memory.holds]
    for content in held:
        if held.count(content) > 1:
            raise InvalidTarget(f"`{content}` is held twice", at=f"{at}, memory")
    return target
