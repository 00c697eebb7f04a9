"""What the counting plugin wrote, and the events in it that a core's price list has prices for.

An event is what takes time: an instruction by its class, a register that a block transfer moves, a
branch that is taken. Counts of events are exact; a price is a model's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from binpoint.errors import ToolFailed
from binpoint.target import Event, McuTarget, Price


@dataclass(frozen=True, slots=True)
class Piece:
    """Straight-line code: how often it ran, and of these how often on into what lies behind it."""

    address: int
    instructions: int
    runs: int
    fell: int


@dataclass(frozen=True, slots=True)
class Part:
    """What was executed up to a mark, None for the end of the region."""

    mark: int | None
    pieces: tuple[Piece, ...]

    @property
    def instructions(self) -> int:
        """Instructions executed."""
        return sum(piece.instructions * piece.runs for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Region:
    """What was executed between one ``bpe_begin()`` and its ``bpe_end()``."""

    instructions: int
    parts: tuple[Part, ...]


def read_counts(text: str) -> tuple[Region, ...]:
    """Regions from the plugin's lines; one that the program did not end is left out.

    Raises:
        ToolFailed: the parts of a region do not add up to it.
    """
    regions: list[Region] = []
    parts: list[Part] = []
    pieces: list[Piece] = []
    for line in text.splitlines():
        word, first, *rest = line.split()
        if word == "piece":
            pieces.append(Piece(int(first, 16), *map(int, rest)))
            continue
        mark = int(first, 16) if word == "mark" else None
        parts.append(Part(mark, tuple(sorted(pieces, key=lambda p: (p.address, p.instructions)))))
        pieces = []
        if word == "region":
            regions.append(Region(int(first), tuple(parts)))
            parts = []
    for region in regions:
        total = sum(part.instructions for part in region.parts)
        if total != region.instructions:
            raise ToolFailed("counts differ", have=str(total), want=str(region.instructions))
    return tuple(regions)


# ---- events


@dataclass(frozen=True, slots=True)
class Opcode:
    """An instruction: its class, registers moved by a block transfer, address of the next one."""

    event: Event
    moved: int
    jumps: bool
    """It may continue elsewhere, at the price of `taken` if its class has none of its own."""
    after: int


def opcodes_of(listing: str, target: McuTarget) -> dict[int, Opcode]:
    """Instructions by address from what ``objdump -d -w`` prints."""
    found: dict[int, Opcode] = {}
    before: Opcode | None = None
    board = target.toolchain.emulator
    riscv = board is not None and board.runtime == "riscv"
    for row in rows_of(listing):
        event = _first(_RISCV, row.mnemonic) if riscv else _arm(row)
        behind = before if before is not None and before.after == row.address else None
        if event == "load" and behind is not None and behind.event in ("load", "next_load"):
            event = "next_load"
        moved = _moved(row) if event == "block" else 0
        jumps = event == "branch" or (event in ("load", "next_load", "block") and _into_pc(row))
        before = found[row.address] = Opcode(event, moved, jumps, row.after)
    return found


@dataclass(frozen=True, slots=True)
class Row:
    """An instruction as objdump prints it."""

    address: int
    after: int
    mnemonic: str
    operands: str


def rows_of(listing: str) -> list[Row]:
    """All instructions of what ``objdump -d -w`` prints."""
    form = r"^ *([0-9a-f]+):\t([0-9a-f ]+?)\s*\t(\S+)(.*)$"
    return [
        Row(int(at, 16), int(at, 16) + len(code.replace(" ", "")) // 2, mnemonic, operands)
        for at, code, mnemonic, operands in re.findall(form, listing, re.MULTILINE)
    ]


def returns_into(function: str, listing: str) -> tuple[int, ...]:
    """The addresses to which the calls in a function return, as they stand in its code."""
    body = re.search(rf"^[0-9a-f]+ <{re.escape(function)}>:\n((?:.+\n)*)", listing, re.MULTILINE)
    if body is None:
        return ()
    rows = rows_of(body[1])
    return tuple(row.after for row in rows if re.fullmatch(r"blx?(?:\.w)?|jalr?", row.mnemonic))


_CONDITION = r"(?:eq|ne|cs|hs|cc|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)"
_ARM: tuple[tuple[str, Event], ...] = (
    # Whole mnemonics, the first match counts; widths `.w`, `.n` are cut off.
    (rf"b{_CONDITION}|cbn?z", "branch"),
    (rf"(?:b|bl|bx|blx){_CONDITION}?|tbb|tbh", "jump"),
    (r"(?:le|letp|dls|dlstp|wls|wlstp)(?:\.\d+)?|lctp", "loop"),
    (r"v(?:pst|pt|pnot|ctp|msr|mrs).*", "predicate"),
    (r"v(?:ld|st|push|pop).*", "vector_memory"),
    (r"v(?:ml|mul|rml|qdm|qrdm|qml|qrml|mull|rmul|addv|addlv|cmp|cmul).*", "vector_multiply"),
    (r"v.*", "vector"),
    (r"(?:ldm|stm|push|pop|ldrd|strd).*", "block"),
    (r"ldr.*", "load"),
    (r"str.*", "store"),
    (r"[su]div.*", "divide"),
    (r"(?:[su]mull|[su]mlal|umaal|smlsl).*", "long_multiply"),
    (r"(?:mla|mls|smla|smls|smmla|smmls|usada).*", "multiply_add"),
    (r"(?:mul|smu|smmul|usad).*", "multiply"),
    (r"(?:[su]sat|q[ads]|[su]xta?b16|pkh|[su]h?(?:add|sub)(?:8|16)|[su](?:asx|sax)|sel).*", "simd"),
)
_RISCV: tuple[tuple[str, Event], ...] = (
    (r"b(?:eq|ne|lt|ge|le|gt)u?z?", "branch"),
    (r"j|jal|jr|jalr|ret|call|tail", "jump"),
    (r"l(?:b|h|w)u?", "load"),
    (r"s(?:b|h|w)", "store"),
    (r"(?:div|rem)u?", "divide"),
    (r"mulh(?:u|su)?", "long_multiply"),
    (r"mul", "multiply"),
)


def _arm(row: Row) -> Event:
    event = _first(_ARM, re.sub(r"\.[wn]$", "", row.mnemonic))
    gathers = event == "vector_memory" and re.search(r"\[\w+, q\d|\[q\d", row.operands)
    return "gather" if gathers else event


def _first(table: Iterable[tuple[str, Event]], mnemonic: str) -> Event:
    for form, event in table:
        if re.fullmatch(form, mnemonic):
            return event
    return "other"


def _moved(row: Row) -> int:
    """Registers that a block transfer moves."""
    if row.mnemonic.startswith(("ldrd", "strd")):
        return 2
    listed = row.operands.partition("{")[2].partition("}")[0]
    spans = [item.strip().partition("-") for item in listed.split(",")]
    return sum(_number(last) - _number(first) + 1 if dash else 1 for first, dash, last in spans)


def _number(register: str) -> int:
    named = {"sl": 10, "fp": 11, "ip": 12, "sp": 13, "lr": 14, "pc": 15}
    return named[register] if register in named else int(register[1:])


def _into_pc(row: Row) -> bool:
    loads = row.mnemonic.startswith(("ldm", "pop", "ldr"))
    return loads and re.search(r"^\s*pc\b|\bpc}", row.operands) is not None


def events_of(parts: Iterable[Part], opcodes: Mapping[int, Opcode]) -> Counter[Event]:
    """How often each event happened."""
    found = Counter[Event]()
    for piece in (piece for part in parts for piece in part.pieces):
        at = piece.address
        last: Opcode | None = None
        for _ in range(piece.instructions):
            last = opcodes[at]
            found[last.event] += piece.runs
            found["moved"] += last.moved * piece.runs
            at = last.after
        if last is not None and last.jumps:
            found["taken"] += piece.runs - piece.fell
    return found


def modelled_cycles(events: Mapping[Event, int], price: Price) -> int | None:
    """Cycles by the price list, None where it lacks an event that happened."""
    happened: dict[Event, int] = {event: count for event, count in events.items() if count}
    if not set(happened) <= set(price.cycles):
        return None
    return round(sum(price.cycles[event] * count for event, count in happened.items()))
