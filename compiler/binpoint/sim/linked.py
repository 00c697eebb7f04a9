"""What a linked program holds, read from the texts of nm, objdump and the linker's map.

Every function takes text and returns facts; none runs a program.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from binpoint.errors import ToolFailed


class Kind(StrEnum):
    """What a section is for: flash holds the first three, RAM the last two."""

    CODE = "code"
    CONSTANTS = "constants"
    DATA = "data"
    BSS = "bss"


@dataclass(frozen=True, slots=True)
class Piece:
    """One input section in the program; ``file`` as the linker names it."""

    kind: Kind
    start: int
    bytes: int
    file: str

    @property
    def archive(self) -> str | None:
        """The library it comes from (``libgcc.a``), None if from an object file."""
        member = re.search(r"([^/]+\.a)\([^)]+\)$", self.file)
        return None if member is None else member[1]


# Run-time support for floats in libgcc (Arm's names, then GCC's own) and the functions of libm.
_FLOAT_ROUTINE = re.compile(
    r"__aeabi_(?:c?[dfh](?:add|r?sub|mul|div|neg|r?cmp\w+)|u?[il]2[df]|[dfh]2\w+)"
    r"|__(?:add|sub|mul|div|neg|eq|ne|lt|le|gt|ge|unord|cmp|powi)[hsdt]f[23]"
    r"|__(?:fix|fixuns|float|floatun|extend|trunc)[hsdt][fi][hsdt][fi]2?"
    r"|(?:__ieee754_)?(?:a?(?:sin|cos|tan)h?|atan2|exp2?|expm1|log(?:2|10|1p|b)?|pow|sqrt|cbrt"
    r"|hypot|floor|ceil|l?l?round|l?l?rint|nearbyint|trunc|fabs|fmod|fmin|fmax|fma|ldexp|scalbl?n"
    r"|frexp|modf|erfc?|[lt]gamma)f?"
)
_HEAP_ROUTINE = re.compile(
    r"_*(?:malloc|calloc|realloc|free|memalign|sbrk)(?:_r)?|aligned_alloc|posix_memalign|strn?dup"
)
_INSTRUCTION = re.compile(r" *[0-9a-f]+:\t[0-9a-f ]+\t(\S+)")
# Moves through floating-point registers carry integers and vectors too.
_ARM_FLOAT = re.compile(r"v(?!mov\b|dup\b)\w+(?:\.\w+)*\.b?f\d\d(?:\.\w+)*")
_RISCV_FLOAT = re.compile(r"(?:c\.)?f(?!ence)\w.*|vm?f(?!irst)\w.*")


def section_kinds(headers: str) -> tuple[dict[str, Kind], dict[Kind, int]]:
    """Kind of every output section that is in memory, and bytes by kind.

    Args:
        headers: what ``objdump -h -w`` prints.

    Raises:
        ToolFailed: writable data in a section of its own, which no start-up code initialises.
    """
    kinds: dict[str, Kind] = {}
    total = dict.fromkeys(Kind, 0)
    row = re.compile(r"^ *\d+ (\S+) +([0-9a-f]+) .*\*\*\d+ +(.*)$", re.MULTILINE)
    for name, size, flags in row.findall(headers):
        words = set(re.findall(r"\w+", flags))
        if "ALLOC" not in words or name == ".tbss" or int(size, 16) == 0:
            continue
        kind = _kind(words)
        if kind in (Kind.DATA, Kind.BSS) and name != f".{kind}":
            raise ToolFailed(
                f"section `{name}` would hold no data at start", want="`.data`, `.bss` or constants"
            )
        kinds[name] = kind
        total[kind] += int(size, 16)
    return kinds, total


def _kind(flags: set[str]) -> Kind:
    if "CODE" in flags:
        return Kind.CODE
    if "LOAD" not in flags:
        return Kind.BSS
    return Kind.CONSTANTS if "READONLY" in flags else Kind.DATA


def pieces_of(link_map: str, kinds: Mapping[str, Kind]) -> tuple[Piece, ...]:
    """Input sections from the linker's map, those left out that were dropped."""
    text = link_map.split("Linker script and memory map", 1)[1]
    text = re.sub(r"^( ?\S+)\n +0x", r"\1 0x", text, flags=re.MULTILINE)  # long names wrap
    pieces: list[Piece] = []
    kind: Kind | None = None
    for line in text.splitlines():
        if outer := re.match(r"\S+", line):
            kind = kinds.get(outer[0])
        inner = re.match(r" \S+ +0x([0-9a-f]+) +0x([0-9a-f]+) (\S.*)", line)
        if inner is not None and kind is not None and int(inner[2], 16) > 0:
            pieces.append(Piece(kind, int(inner[1], 16), int(inner[2], 16), inner[3]))
    return tuple(pieces)


def sizes_by_source(
    pieces: Iterable[Piece], objects: Mapping[str, str]
) -> dict[str, dict[str, int]]:
    """Bytes of each kind by source: the values of ``objects`` (object file: name), and archives."""
    sizes = {name: Counter[str]() for name in objects.values()}
    for piece in pieces:
        name = piece.archive or objects.get(piece.file, piece.file)
        sizes.setdefault(name, Counter())[piece.kind] += piece.bytes
    return {name: {str(kind): sizes[name][kind] for kind in Kind} for name in sorted(sizes)}


@dataclass(frozen=True, slots=True)
class Symbol:
    """A defined name; bit 0 of an address, which marks Thumb code, is cleared."""

    name: str
    address: int
    is_code: bool


def symbols_of(listing: str) -> tuple[Symbol, ...]:
    """Symbols from what ``nm --defined-only`` prints, by address."""
    rows = [line.split() for line in listing.splitlines()]
    found = [
        Symbol(name, int(at, 16) & (~1 if kind in "tTwW" else ~0), kind in "tTwW")
        for at, kind, name in rows
    ]
    return tuple(sorted(found, key=lambda s: (s.address, s.name)))


def float_routines(symbols: Iterable[Symbol], pieces: Iterable[Piece]) -> tuple[str, ...]:
    """Library routines that compute in floating point; a program's own names do not count."""
    library = [piece for piece in pieces if piece.archive is not None]
    found = {
        symbol.name
        for symbol in symbols
        if _FLOAT_ROUTINE.fullmatch(symbol.name)
        and any(piece.start <= symbol.address < piece.start + piece.bytes for piece in library)
    }
    return tuple(sorted(found))


def heap_routines(symbols: Iterable[Symbol]) -> tuple[str, ...]:
    """Routines that allocate or release memory."""
    return tuple(sorted({s.name for s in symbols if _HEAP_ROUTINE.fullmatch(s.name)}))


def float_instructions(listing: str, runtime: Literal["arm", "riscv"]) -> tuple[str, ...]:
    """Floating-point instructions in what ``objdump -d -w`` prints, as ``function: mnemonic``."""
    pattern = _ARM_FLOAT if runtime == "arm" else _RISCV_FLOAT
    found: set[str] = set()
    function = "?"
    for line in listing.splitlines():
        if label := re.match(r"[0-9a-f]+ <(.+)>:$", line):
            function = label[1]
        row = _INSTRUCTION.match(line)
        if row is not None and pattern.fullmatch(row[1]):
            found.add(f"{function}: {row[1]}")
    return tuple(sorted(found))
