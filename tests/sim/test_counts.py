"""Counts of the parts of a run, and what they are worth at a core's prices."""

from __future__ import annotations

from pathlib import Path

import pytest

from binpoint.errors import ToolFailed
from binpoint.sim import emulator
from binpoint.sim.counts import (
    Part,
    Piece,
    Region,
    events_of,
    modelled_cycles,
    opcodes_of,
    read_counts,
    returns_into,
)
from binpoint.target import Event, McuTarget, Price, load_target, microcontroller

LINES = """piece 10 3 2 1
mark 16
piece 16 2 5 0
piece 4 1 5 5
region 21
"""

ARM = """
00000100 <net_run>:
 100:\tb5f8      \tpush\t{r3, r4, r5, r6, r7, lr}
 102:\t6808      \tldr\tr0, [r1, #0]
 104:\t6849      \tldr\tr1, [r1, #4]
 106:\tf000 f803 \tbl\t200 <node>
 10a:\tfb21 0103 \tsmlad\tr1, r1, r3, r0
 10e:\tf322 010f \tsxtb16\tr1, r2
 112:\td1f5      \tbne.n\t100 <net_run>
 114:\tbdf8      \tpop\t{r3, r4, r5, r6, r7, pc}

00000200 <node>:
 200:\tfb80 2301 \tsmull\tr2, r3, r0, r1
 204:\tf000 f804 \tb.w\t100 <net_run>
"""


def core(name: str) -> McuTarget:
    return microcontroller(load_target(name))


def test_parts_are_read_and_add_up() -> None:
    first = Part(0x16, (Piece(0x10, 3, 2, 1),))
    last = Part(None, (Piece(4, 1, 5, 5), Piece(0x16, 2, 5, 0)))
    assert read_counts(LINES) == (Region(21, (first, last)),)
    assert [part.instructions for part in (first, last)] == [6, 15]


def test_a_region_that_its_parts_do_not_add_up_to_is_refused() -> None:
    with pytest.raises(ToolFailed, match="counts differ"):
        read_counts(LINES.replace("21", "22"))


def test_a_region_without_an_end_is_left_out() -> None:
    assert read_counts("piece 10 3 2 1\n") == ()


def test_events_of_straight_code_and_of_its_branch() -> None:
    opcodes = opcodes_of(ARM, core("cortex-m4"))
    runs = (Piece(0x100, 4, 1, 0), Piece(0x10A, 3, 10, 1), Piece(0x114, 1, 1, 0))
    expected: dict[Event, int] = {
        "block": 2,
        "moved": 12,
        "load": 1,
        "next_load": 1,
        "jump": 1,
        "multiply_add": 10,
        "simd": 10,
        "branch": 10,
        "taken": 9 + 1,
    }
    assert +events_of([Part(None, runs)], opcodes) == expected


def test_calls_return_behind_themselves() -> None:
    assert returns_into("net_run", ARM) == (0x10A,)
    assert returns_into("node", ARM) == ()
    assert returns_into("run", ARM) == ()


def test_cycles_are_events_at_their_prices() -> None:
    price = Price(basis="published", source="none", cycles={"load": 2, "other": 0.5})
    assert modelled_cycles({"load": 3, "other": 2, "divide": 0}, price) == 7
    assert modelled_cycles({"load": 3, "divide": 1}, price) is None


LOOPS = """
#include "bpe_emulator.h"
#if defined(__riscv)
__asm__(".text; .globl turns; .type turns, @function\\n"
        "turns: addi a0, a0, -1; bnez a0, turns; ret; .size turns, . - turns");
#else
__asm__(".syntax unified; .text; .thumb_func; .globl turns; .type turns, %function\\n"
        "turns: subs r0, r0, #1; bne turns; bx lr; .size turns, . - turns");
#endif
void turns(int count);
__attribute__((noinline)) int net_run(void)
{
    turns(10);
    turns(200);
    return 3;
}
int main(void)
{
    bpe_begin();
    const int status = net_run();
    bpe_end();
    return status;
}
"""


@pytest.mark.needs("arm-none-eabi-gcc", "riscv64-unknown-elf-gcc", "cc")
@pytest.mark.parametrize("name", ["cortex-m0plus", "cortex-m4", "cortex-m55", "rv32imc"])
def test_marks_cost_nothing_and_divide_exactly(name: str, tmp_path: Path) -> None:
    target = core(name)
    image = emulator.build(target, {"main.c": LOOPS.encode()}, tmp_path)
    listing = emulator.listing(image, target)
    marks = returns_into("net_run", listing)
    plain = emulator.run(image, target, {}).regions[0]
    region = emulator.run(image, target, {}, marks=marks).regions[0]
    assert region.instructions == plain.instructions
    assert [part.mark for part in region.parts] == [*marks, None]
    # Argument, call, loop and return; the first part has the way into net_run() as well.
    assert region.parts[1].instructions == 2 * 200 + 3
    assert region.parts[0].instructions in {2 * 10 + 3 + extra for extra in range(1, 8)}
    events = events_of(region.parts[1:2], opcodes_of(listing, target))
    assert (events["branch"], events["taken"]) == (200, 199)


HELIUM = """
#include "bpe_emulator.h"
__asm__(".syntax unified; .text; .thumb_func; sum: vldrb.u8 q0, [r0], #16; vmlava.s8 r2, q0, q0;"
        "vldrb.u8 q1, [r0, q0]; vpst; vaddt.i32 q0, q0, q1; bx lr");
void sum(const void *bytes, int count, int acc);
int main(void)
{
    static int8_t bytes[512];
    bpe_begin();
    sum(bytes, 16, 0);
    bpe_end();
    return 0;
}
"""


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm", "cc")
def test_instructions_of_helium_are_told_apart(tmp_path: Path) -> None:
    target = core("cortex-m55")
    image = emulator.build(target, {"main.c": HELIUM.encode()}, tmp_path)
    parts = emulator.run(image, target, {}).regions[0].parts
    events = events_of(parts, opcodes_of(emulator.listing(image, target), target))
    helium: tuple[Event, ...] = ("vector_memory", "vector_multiply", "gather", "predicate")
    assert [events[event] for event in (*helium, "vector")] == [1, 1, 1, 1, 1]
