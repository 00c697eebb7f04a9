"""Cycles of straight-line code on cores that issue in order, by a scoreboard.

Their designer publishes no table of timings. What is known of units, latencies and pairs is taken
from LLVM's scheduling models, `ARMScheduleM7.td` and `ARMScheduleM55.td` of
`llvm/lib/Target/ARM`. Assumptions that are not from there:

* Memory never waits. A block transfer moves two registers a cycle on Cortex-M7 and M55, whose
  memories are 64 bits wide, and one on Cortex-M33; a gather or scatter moves one element a cycle.
* A division takes 7 cycles.
* Cortex-M7 predicts branches, and the rarer way of each costs 6 cycles; on Cortex-M33 and M55 a
  taken branch costs one cycle more, the end of a hardware loop nothing.
* Cortex-M33 is as Cortex-M55 without vectors: that file says how much alike the two are.
* Flags never wait. A piece of code starts with all units free; one that jumps to its own start is
  timed as the loop it is.

The result is a model's, to compare code with code, and no time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from binpoint.sim.counts import Opcode, Part, Piece, Row, opcodes_of, rows_of
from binpoint.target import Event, McuTarget

_CORE = (*(f"r{n}" for n in range(10)), "sl", "fp", "ip", "sp", "lr", "pc")
_REGISTER = r"\b(?:r1[0-2]|r\d|sl|fp|ip|sp|lr|pc|[sdq]\d+)\b"
_FOLDED = ("le", "letp")
_LIGHT = r"nop|it[te]*|movs?|adds?|subs?|[su]xt[bh]|b(?:eq|ne|cs|cc|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)?"


@dataclass(frozen=True, slots=True)
class Instruction:
    """An instruction; registers are as objdump names them.

    Attributes:
        reads: for computing, in order; `addresses` are read for an address.
        writes: results; `updates` are addresses that change.
        sums: of `reads`, what a product is added to, or what is stored: wanted late.
    """

    row: Row
    opcode: Opcode
    reads: tuple[str, ...]
    addresses: tuple[str, ...]
    writes: tuple[str, ...]
    updates: tuple[str, ...]
    sums: tuple[str, ...]

    @property
    def name(self) -> str:
        """The mnemonic without its width and data type."""
        return self.row.mnemonic.partition(".")[0]

    @property
    def short(self) -> bool:
        """Whether it has 16 bits."""
        return self.row.after - self.row.address == 2


def decode(listing: str, target: McuTarget) -> dict[int, Instruction]:
    """The instructions of a program for an Arm core by address."""
    opcodes = opcodes_of(listing, target)
    return {row.address: _decoded(row, opcodes[row.address]) for row in rows_of(listing)}


def _decoded(row: Row, opcode: Opcode) -> Instruction:
    operands = re.split(r"[;@<]", row.operands)[0]
    bracket = re.search(r"\[([^\]]*)\]", operands)
    memory = bracket is not None and not re.search(r"q\d+\[", operands)
    addresses = _registers(bracket[1]) if memory and bracket is not None else ()
    rest = _registers(re.sub(r"\[[^\]]*\]", "", operands))
    moved = memory and re.search(r"\]!|\],", operands) is not None
    updates = addresses[:1] if moved else ()
    if opcode.event == "block" and not memory and "{" in operands:
        stack = row.mnemonic.startswith(("push", "pop"))
        base, rest = (("sp",), rest) if stack else (rest[:1], rest[1:])
        addresses, updates = base, base if stack or "!" in operands else ()
    count = min(_results(row, opcode), len(rest))
    sums, reads = _sources(row, opcode, rest, count)
    return Instruction(row, opcode, reads, addresses, rest[:count], updates, sums)


def _registers(text: str) -> tuple[str, ...]:
    """Registers in order, ranges written out."""

    def span(found: re.Match[str]) -> str:
        first, last = found[1], found[2]
        if first in _CORE:
            return ",".join(_CORE[_CORE.index(first) : _CORE.index(last) + 1])
        return ",".join(f"{first[0]}{n}" for n in range(int(first[1:]), int(last[1:]) + 1))

    return tuple(re.findall(_REGISTER, re.sub(r"(\w+)-(\w+)", span, text)))


def _results(row: Row, opcode: Opcode) -> int:
    """How many of the first registers are written."""
    name = row.mnemonic
    if opcode.event in ("store", "branch", "jump", "predicate") or re.match(
        r"cm[pn]|tst|teq|st|push|vst|vpush|vcmp", name
    ):
        return 0
    if opcode.event == "block" or re.match(r"vpop|vld[24]", name):
        return 99
    wide = re.match(r"ldrd|v?r?ml[as]l[dv]|vaddlv", name) is not None
    return 2 if wide or opcode.event == "long_multiply" else 1


def _sources(
    row: Row, opcode: Opcode, rest: tuple[str, ...], count: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is wanted late, and all that is read."""
    if row.mnemonic.startswith(("st", "vst", "push", "vpush")):
        return rest, rest
    if opcode.event == "multiply_add":
        return rest[3:], rest[1:]
    if re.match(r"[su]mlal|umaal|smlsl", row.mnemonic):
        return rest[:2], rest
    merges = r"v(?:r?mlal?d?v?a|mla|mlas|addl?va|q?movu?n|q?r?shru?n|sli|sri)|movt|bfi|bfc"
    two = opcode.event in ("other", "simd", "vector") and len(rest) <= count + 1
    changes = two and re.match(
        r"add|sub|and|orr|eor|bic|adc|sbc|ls|as|ror|vshl|vrshl", row.mnemonic
    )
    return (), rest if re.match(merges, row.mnemonic) or changes else rest[count:]


# ---- cores


@dataclass(frozen=True, slots=True)
class Slot:
    """How an instruction issues.

    Attributes:
        units: all that it takes; none, and it only takes a place.
        hold: cycles until they take another.
        latency: cycles until its results can be used.
        alone: it issues with no other.
        first: it issues as the first of two or alone.
        early: its last source is wanted a cycle early.
    """

    units: tuple[str, ...]
    hold: int = 1
    latency: int = 1
    alone: bool = False
    first: bool = False
    early: bool = False


@dataclass(frozen=True, slots=True)
class Core:
    """A core's rules.

    Attributes:
        slot: of an instruction.
        units: of which there are several.
        address: cycles by which addresses are wanted earlier than other sources, and sums later.
        taken: cycles that a taken branch costs.
        missed: cycles that the rarer way of a branch costs.
    """

    slot: Callable[[Instruction], Slot]
    units: Mapping[str, int]
    address: int
    taken: int = 0
    missed: int = 0


def _m7(i: Instruction) -> Slot:
    simple = _m7_simple(i)
    match i.opcode.event:
        case "load" | "next_load":
            return Slot(("load",), latency=2 if re.match(r"ldrs?[bh]", i.name) else 1)
        case "store":
            return Slot(("store",))
        case "block":
            unit = "store" if i.name.startswith(("st", "push")) else "load"
            return Slot((unit,), hold=(i.opcode.moved + 1) // 2, alone=True)
        case "multiply" | "multiply_add" | "long_multiply":
            return Slot(("multiply",), latency=2)
        case "divide":
            return Slot(("alu",), hold=7, latency=7, alone=True)
        case "branch" | "jump":
            table = i.name in ("tbb", "tbh")
            return Slot(("branch",), hold=2 if table else 1, alone=table)
        case _:
            return simple


_M7_SIMD: tuple[tuple[str, Slot], ...] = (
    (r"[su]sat|qd", Slot(("simd", "alu", "shift"), latency=2, first=True, early=True)),
    (r"u?q(?:add|sub|asx|sax)|usad", Slot(("simd", "alu"), latency=2, first=True)),
    (r"[su]bfx|pkh|[su]xta", Slot(("simd", "alu", "shift"), first=True, early=True)),
    (r"rbit|rev", Slot(("simd", "alu", "shift"), latency=0, first=True, early=True)),
    (r"[su]xt|[su]h?(?:add|sub)(?:8|16)|[su]h?(?:asx|sax)|sel", Slot(("simd", "alu"), first=True)),
    (r"bfi|bfc", Slot(("alu", "shift"), first=True)),
    (r"clz", Slot(("alu",), first=True)),
    (r"lsl|lsr|asr|ror", Slot(("alu", "shift"))),
    (r"it|nop", Slot(())),
)


def _m7_simple(i: Instruction) -> Slot:
    for form, slot in _M7_SIMD:
        if re.match(form, i.name):
            return slot
    if re.search(r"\b(?:lsl|lsr|asr|ror) #", i.row.operands):
        return Slot(("alu", "shift"), early=True)
    return Slot(("alu",))


def _m55(i: Instruction) -> Slot:
    if i.opcode.event.startswith("vector") or i.opcode.event in ("gather", "predicate"):
        return _m55_vector(i)
    return _narrow(i, 2)


def _m33(i: Instruction) -> Slot:
    return _narrow(i, 1)


def _narrow(i: Instruction, together: int) -> Slot:
    """Of an instruction without vectors; a block transfer moves so many registers at once."""
    alone = not i.short
    match i.opcode.event:
        case "load" | "next_load":
            return Slot(("alu",), latency=2, alone=alone)
        case "block":
            hold = -(-i.opcode.moved // together)
            return Slot(("alu",), hold=hold, latency=2, alone=True)
        case "multiply" if i.short:
            return Slot(("alu",))
        case "multiply" | "multiply_add" | "long_multiply":
            return Slot(("alu",), latency=2, alone=True)
        case "divide":
            return Slot(("alu",), hold=7, latency=7, alone=True)
        case "simd":
            return Slot(("alu",), latency=2, alone=True)
        case _:
            pass
    if i.short and re.fullmatch(_LIGHT, i.name):
        return Slot(())
    slow = r"\b(?:lsl|lsr|asr|ror) #|#.*#"
    late = alone and re.search(slow, i.row.operands) is not None and i.name not in ("movw", "movt")
    return Slot(("alu",), latency=2 if late else 1, alone=alone)


_M55_VECTOR: tuple[tuple[str, Slot], ...] = (
    (r"v(?:mov|q?movu?|q?r?shru?)n[bt]?|vqmovun[bt]", Slot(("integer",), hold=2, latency=3)),
    (r"v(?:max|min)a?v", Slot(("integer",), hold=2, latency=3)),
    (r"v(?:adc|sbc|[qr]+shl|rshr)", Slot(("integer",), hold=2, latency=2)),
    (r"v(?:cmp|pt)", Slot(("multiply",), hold=2)),
    (r"v(?:mul|q?r?d?mul|r?ml|qdm|qrdm|qml|addl?v)", Slot(("multiply",), hold=2, latency=2)),
    (r"v(?:pst|pnot|ctp|msr|mrs)", Slot(("control",))),
    (r"v", Slot(("integer",), hold=2)),
)


def _m55_vector(i: Instruction) -> Slot:
    unit = ("memory",)
    if i.opcode.event == "gather":
        lanes = 128 // int(i.row.mnemonic.rpartition(".")[2].lstrip("usf"))
        return Slot(unit, hold=lanes, latency=lanes, alone=True)
    if i.name in ("vpush", "vpop", "vldmia", "vstmia", "vldmdb", "vstmdb"):
        doubles = sum(2 if r[0] == "q" else 1 for r in i.reads or i.writes)
        return Slot(unit, hold=max(doubles, 1), latency=2, alone=True)
    if i.opcode.event == "vector_memory":
        return Slot(unit, hold=2, alone=True)
    if re.fullmatch(r"vp(?:st|t)[te]*", i.name) and i.name.startswith("vps"):
        return Slot(("control",), alone=True)
    slot = next(slot for form, slot in _M55_VECTOR if re.match(form, i.name))
    return Slot(slot.units, slot.hold, slot.latency, alone=True)


CORES: Mapping[str, Core] = {
    "cortex-m7": Core(_m7, {"alu": 2, "load": 2}, address=1, missed=6),
    "cortex-m33": Core(_m33, {}, address=0, taken=1),
    "cortex-m55": Core(_m55, {}, address=0, taken=1),
}


# ---- the scoreboard


class _Board:
    """What is under way: places left in cycle `now`, when registers can be read, units taken."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.now = 0
        self.places: Literal[0, 1, 2] = 2
        self.ready: dict[str, int] = {}
        self.free: dict[str, list[int]] = {u: [0] * n for u, n in core.units.items()}

    def issue(self, i: Instruction) -> None:
        """Let the next instruction go as soon as it can."""
        slot = self.core.slot(i)
        at = max(self.now, self._sources(i, slot))
        for unit in slot.units:
            at = max(at, min(self.free.setdefault(unit, [0])))
        whole = slot.alone or slot.first
        if at == self.now and (self.places == 0 or (whole and self.places < 2)):
            at = self._freed(slot, at + 1)
        if at > self.now:
            self.now, self.places = at, 2
        self.places = 0 if slot.alone or self.places == 1 else 1
        for unit in slot.units:
            slots = self.free[unit]
            slots[slots.index(min(slots))] = at + slot.hold
        self.ready.update(dict.fromkeys(i.writes, at + slot.latency))
        self.ready.update(dict.fromkeys(i.updates, at + (0 if self.core.address else 1)))

    def _freed(self, slot: Slot, at: int) -> int:
        return max([at, *(min(self.free[unit]) for unit in slot.units)])

    def _sources(self, i: Instruction, slot: Slot) -> int:
        """When all that it reads is there."""
        lead = self.core.address
        wanted = [self.ready.get(r, 0) + lead for r in i.addresses]
        wanted += [self.ready.get(r, 0) - (lead if r in i.sums else 0) for r in i.reads]
        if slot.early and i.reads:
            wanted.append(self.ready.get(i.reads[-1], 0) + lead)
        return max(wanted, default=0)


def cycles(code: Sequence[Instruction], core: Core) -> int:
    """Cycles until the last instruction has issued, that one's included."""
    return _issued(code, core)[-1][0] + 1


def piece_cycles(code: Sequence[Instruction], piece: Piece, core: Core) -> int:
    """Cycles of all runs of a piece of code."""
    last, taken = code[-1], piece.runs - piece.fell
    once = cycles(code, core)
    total = once * piece.runs
    if last.opcode.jumps and last.opcode.event == "branch":
        total += core.taken * taken + core.missed * min(taken, piece.fell)
    elif last.opcode.event != "loop":
        total += core.taken * taken
    if _target(last.row) == piece.address:
        total -= (2 * once - cycles([*code, *code], core)) * taken
    return total


def _target(row: Row) -> int | None:
    found = re.search(r"\b([0-9a-f]+) <", row.operands)
    return None if found is None else int(found[1], 16)


def part_cycles(part: Part, code: Mapping[int, Instruction], core: Core) -> int:
    """Cycles of a part of a run."""
    return sum(piece_cycles(_code_of(piece, code), piece, core) for piece in part.pieces)


def shares(part: Part, code: Mapping[int, Instruction], core: Core) -> dict[Event, int]:
    """Cycles by the class of the instruction behind whose issue they passed, jumps for free."""
    found = Counter[Event]()
    for piece in part.pieces:
        once = _code_of(piece, code)
        loops = _target(once[-1].row) == piece.address
        issued = _issued(once * 3 if loops else once, core)
        each = len(issued) // 3 if loops else len(issued)
        ends = [at for at, _ in issued[1:]] + [issued[-1][0] + 1]
        start = each if loops else 0
        for (at, event), end in list(zip(issued, ends, strict=True))[start : start + each]:
            found[event] += (end - at) * piece.runs
    return dict(found)


def _issued(code: Sequence[Instruction], core: Core) -> list[tuple[int, Event]]:
    """When each instruction issues, those left out that take no time."""
    board, found = _Board(core), list[tuple[int, Event]]()
    for i in code:
        if i.name not in _FOLDED:
            board.issue(i)
            found.append((board.now, i.opcode.event))
    return found or [(0, code[0].opcode.event)]


def _code_of(piece: Piece, code: Mapping[int, Instruction]) -> list[Instruction]:
    at, found = piece.address, list[Instruction]()
    for _ in range(piece.instructions):
        found.append(code[at])
        at = code[at].row.after
    return found
