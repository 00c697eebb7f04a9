"""What is read off a linked program, on texts that show the edges of each rule."""

from __future__ import annotations

import pytest

from binpoint.errors import ToolFailed
from binpoint.sim.linked import (
    Kind,
    Piece,
    Symbol,
    float_instructions,
    float_routines,
    heap_routines,
    pieces_of,
    section_kinds,
    sizes_by_source,
    symbols_of,
)

HEADERS = """
Idx Name          Size      VMA       LMA       File off  Algn  Flags
  0 .vectors      00000040  00000000  00000000  00001000  2**0  CONTENTS, ALLOC, LOAD, READONLY, CODE
  1 .text         00000100  00000400  00000400  00001400  2**2  CONTENTS, ALLOC, LOAD, READONLY, CODE
  2 net_weights   00000009  00000500  00000500  00001500  2**2  CONTENTS, ALLOC, LOAD, READONLY, DATA
  3 .data         00000004  20000000  0000050c  00002000  2**3  CONTENTS, ALLOC, LOAD, DATA
  4 .tbss         00000004  20000008  20000008  00000000  2**2  ALLOC, THREAD_LOCAL
  5 .bss          00000008  20000008  20000008  00002008  2**3  ALLOC
  6 mine          00000000  20000010  20000010  00002008  2**3  CONTENTS, ALLOC, LOAD, DATA
  7 .comment      00000011  00000000  00000000  00002008  2**0  CONTENTS, READONLY
"""  # noqa: E501 - as printed

LINK_MAP = """
Discarded input sections

 .text.unused   0x00000000       0x10 obj/00_main.o

Linker script and memory map

.text           0x00000400      0x100
 *(.text .text.*)
 .text.main     0x00000400       0x20 obj/00_main.o
                                 0x24 (size before relaxing)
                0x00000400                main
 .text.a_function_of_a_long_name
                0x00000420       0x30 obj/00_main.o
 *fill*         0x00000450        0x2 
 .text.fmul     0x00000460       0x40 /usr/lib/gcc/libgcc.a(_arm_muldivsf3.o)

net_weights
                0x00000500        0x9
 net_weights    0x00000500        0x9 obj/01_net.o

.bss            0x20000008        0x8
 COMMON         0x20000008        0x8 obj/01_net.o

/DISCARD/
 .ARM.exidx     0x00000000        0x8 obj/01_net.o
"""  # noqa: W291 - as printed


def test_sections_and_sizes() -> None:
    kinds, total = section_kinds(HEADERS)
    assert kinds == {
        ".vectors": Kind.CODE,
        ".text": Kind.CODE,
        "net_weights": Kind.CONSTANTS,
        ".data": Kind.DATA,
        ".bss": Kind.BSS,
    }
    assert total == {Kind.CODE: 0x140, Kind.CONSTANTS: 9, Kind.DATA: 4, Kind.BSS: 8}
    pieces = pieces_of(LINK_MAP, kinds)
    assert sizes_by_source(pieces, {"obj/00_main.o": "main.c", "obj/01_net.o": "net.c"}) == {
        "libgcc.a": {"code": 0x40, "constants": 0, "data": 0, "bss": 0},
        "main.c": {"code": 0x50, "constants": 0, "data": 0, "bss": 0},
        "net.c": {"code": 0, "constants": 9, "data": 0, "bss": 8},
    }


def test_own_writable_section_is_refused() -> None:
    with pytest.raises(ToolFailed, match="section `mine`"):
        section_kinds(HEADERS.replace("mine          00000000", "mine          00000004"))


def test_thumb_bit_is_cleared_in_code_alone() -> None:
    found = symbols_of("00000401 T main\n20000001 b flag\n")
    assert found == (Symbol("main", 0x400, True), Symbol("flag", 0x2000_0001, False))


def test_float_routines_are_those_of_libraries() -> None:
    pieces = (
        Piece(Kind.CODE, 0x400, 0x20, "obj/00_main.o"),
        Piece(Kind.CODE, 0x420, 0x20, "/lib/libm.a(lib_a-s_round.o)"),
    )
    names = ("round", "__aeabi_fmul", "__mulsf3", "__aeabi_uldivmod", "__muldi3", "memcpy")
    own, library = (tuple(Symbol(n, at, True) for n in names) for at in (0x400, 0x420))
    assert float_routines(own, pieces) == ()
    assert float_routines(library, pieces) == ("__aeabi_fmul", "__mulsf3", "round")


@pytest.mark.parametrize(
    "name",
    [
        "__aeabi_dadd",
        "__aeabi_cfcmple",
        "__aeabi_cdrcmple",
        "__aeabi_fcmpun",
        "__aeabi_ui2d",
        "__aeabi_l2f",
        "__aeabi_f2ulz",
        "__aeabi_d2f",
        "__aeabi_h2f",
        "__divdf3",
        "__negsf2",
        "__unorddf2",
        "__gesf2",
        "__powidf2",
        "__fixunssfdi",
        "__fixdfsi",
        "__floatsisf",
        "__floatundidf",
        "__extendsfdf2",
        "__truncdfsf2",
        "expf",
        "tanh",
        "sqrt",
        "lround",
        "erff",
        "__ieee754_logf",
        "scalbn",
    ],
)
def test_float_routines_by_name(name: str) -> None:
    piece = Piece(Kind.CODE, 0, 4, "libgcc.a(x.o)")
    assert float_routines([Symbol(name, 0, True)], [piece]) == (name,)


@pytest.mark.parametrize("name", ["malloc", "_malloc_r", "free", "_free_r", "__sbrk", "strdup"])
def test_heap_routines_by_name(name: str) -> None:
    assert heap_routines([Symbol(name, 0, True), Symbol("freeze", 4, True)]) == (name,)


def _listing(*instructions: str) -> str:
    rows = [f"     {4 * n:x}:\teeb1 0ac0 \t{text}" for n, text in enumerate(instructions)]
    return "\n".join(["00000400 <kernel>:", *rows])


def test_float_instructions_of_arm() -> None:
    integer = (
        "vmov\ts0, r0",
        "vadd.i32\tq0, q1, q2",
        "vldr\ts0, [r0]",
        "vmov.f32\ts0, s1",
        "b.n\t4",
    )
    assert float_instructions(_listing(*integer), "arm") == ()
    floating = ("vmul.f32\ts0, s1, s2", "vcvt.s32.f32\ts0, s0", "vfma.f16\tq0, q1, q2")
    found = ("kernel: vcvt.s32.f32", "kernel: vfma.f16", "kernel: vmul.f32")
    assert float_instructions(_listing(*floating), "arm") == found


def test_float_instructions_of_riscv() -> None:
    integer = ("fence\tiorw,iorw", "addi\ta0,a0,1", "vfirst.m\ta0,v0", "vmv.v.x\tv0,a0")
    assert float_instructions(_listing(*integer), "riscv") == ()
    floating = ("fadd.s\tfa0,fa1,fa2", "c.flw\tfs0,0(a0)", "vfadd.vv\tv0,v1,v2")
    found = ("kernel: c.flw", "kernel: fadd.s", "kernel: vfadd.vv")
    assert float_instructions(_listing(*floating), "riscv") == found
