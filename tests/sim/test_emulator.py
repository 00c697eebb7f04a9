"""Every board runs the same programs, counts them exactly and says what is in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from binpoint.errors import InternalError, InvalidTarget, ToolFailed, ToolNotFound
from binpoint.sim.emulator import EmulatorRun, Image, build, find_tools, run
from binpoint.target import McuTarget, load_target, microcontroller

TOOLS = ("arm-none-eabi-gcc", "riscv64-unknown-elf-gcc", "qemu-system-arm", "qemu-system-riscv32")
pytestmark = pytest.mark.needs(*TOOLS, "cc")

CORES = (
    "cortex-m0plus",
    "cortex-m3",
    "cortex-m4",
    "cortex-m7",
    "cortex-m33",
    "cortex-m55",
    "rv32imc",
)
TURNS = (100, 1100)

# `turn` measures a call and a loop of two instructions a turn; `sink` uses 256 bytes of stack and
# writes only to the deepest of them.
PARTS = """
#if defined(__riscv)
__asm__(".text; loop: addi a0, a0, -1; bnez a0, loop; ret\\n"
        "turn: addi sp, sp, -16; sw ra, 12(sp); sw s0, 8(sp); mv s0, a0; jal bpe_begin;"
        "mv a0, s0; jal loop; jal bpe_end; lw ra, 12(sp); lw s0, 8(sp); addi sp, sp, 16; ret");
__asm__(".text; sink: addi sp, sp, -256; sw zero, 0(sp); addi sp, sp, 256; ret");
#else
__asm__(".syntax unified; .text; .thumb_func; loop: subs r0, r0, #1; bne loop; bx lr\\n"
        ".thumb_func; turn: push {r4, lr}; mov r4, r0; bl bpe_begin;"
        "mov r0, r4; bl loop; bl bpe_end; pop {r4, pc}");
__asm__(".text; .thumb_func; sink: sub sp, #256; str r0, [sp]; add sp, #256; bx lr");
#endif
void turn(int count);
void sink(void);
"""

MEASURED = f"""
#include "bpe_emulator.h"
{PARTS}
static uint8_t bytes[64];
static uint16_t started = 0x1234;

int main(void)
{{
    bpe_puts("one, ");
    bpe_puts("two\\n");
    int32_t count = bpe_read("in.bin", bytes, sizeof bytes);
    if (count != 20 || started != 0x1234 || bpe_write("copy.bin", bytes, 20) != 20)
        return 1;
    if (bpe_read("in.bin", bytes, 19) != -1 || bpe_read("none.bin", bytes, 64) != -1)
        return 2;
    for (uint32_t at = 0; at < 20; at += 5)
        if (bpe_read_at("in.bin", at, bytes, 4) != 4 || bpe_append("some.bin", bytes, 4) != 4)
            return 3;
    if (bpe_read_at("in.bin", 18, bytes, 3) != -1)
        return 4;
    turn({TURNS[0]});
    turn({TURNS[1]});
    bpe_begin();
    sink();
    bpe_end();
    return -3;
}}
"""

# What happens depends on the first letter of `mode`.
TROUBLED = """
#include "bpe_emulator.h"

static uint32_t words[4];
static volatile uintptr_t unaligned = (uintptr_t)words;

__attribute__((noinline)) static uint32_t dig(volatile uint32_t *above)
{
    volatile uint32_t mine[64];
    mine[0] = above[0];
    return mine[0] == 1 ? 0 : dig(mine) + mine[0];
}

int main(void)
{
    char mode[16];
    if (bpe_read("mode", mode, sizeof mode) < 1)
        return 1;
    switch (mode[0]) {
    case 't':
        __builtin_trap();
    case 'n':
        bpe_begin();
        bpe_begin();
        return 0;
    case 'e':
        bpe_end();
        return 0;
    case 'o':
        bpe_begin();
        return 0;
    case 's':
        bpe_begin();
        words[0] = dig(words);
        bpe_end();
        return 0;
    case 'u':
        return (int)*(uint32_t *)(unaligned + 1);
    case 'l':
        for (;;)
            __asm__ volatile("");
    case 'x':
        bpe_exit(300);
    default:
        return 5;
    }
}
"""


def core_of(name: str) -> McuTarget:
    return microcontroller(load_target(name))


@dataclass(frozen=True, slots=True)
class Program:
    """An image and the core that it is for."""

    target: McuTarget
    image: Image

    def run(self, mode: str, timeout: float = 60) -> EmulatorRun:
        return run(self.image, self.target, {"mode": mode.encode()}, timeout=timeout)


def make(target: McuTarget, folder: Path, text: str, **others: str) -> Program:
    sources = {"main.c": text} | {name.replace("_", "."): other for name, other in others.items()}
    return Program(target, build(target, {n: t.encode() for n, t in sources.items()}, folder))


@pytest.fixture(scope="module", params=CORES)
def target(request: pytest.FixtureRequest) -> McuTarget:
    return core_of(str(request.param))


@pytest.fixture(scope="module")
def measured(target: McuTarget, tmp_path_factory: pytest.TempPathFactory) -> Program:
    return make(target, tmp_path_factory.mktemp("measured"), MEASURED)


@pytest.fixture(scope="module")
def measured_runs(measured: Program) -> tuple[EmulatorRun, EmulatorRun]:
    files = {"in.bin": bytes(range(20)), "other.bin": b"left alone"}
    first, second = (run(measured.image, measured.target, files) for _ in range(2))
    return first, second


@pytest.fixture(scope="module")
def troubled(target: McuTarget, tmp_path_factory: pytest.TempPathFactory) -> Program:
    return make(target, tmp_path_factory.mktemp("troubled"), TROUBLED)


def changed(target: McuTarget, *flags: str, command: tuple[str, ...] | None = None) -> McuTarget:
    """A core with other compiler flags, and perhaps another board."""
    chain, emulator = target.toolchain, target.toolchain.emulator
    assert emulator is not None
    if command is not None:
        emulator = msgspec.structs.replace(emulator, command=command)
    chain = msgspec.structs.replace(chain, flags=flags or chain.flags, emulator=emulator)
    return msgspec.structs.replace(target, toolchain=chain)


# ---- what a program does


def test_text_exit_code_and_files(measured_runs: tuple[EmulatorRun, EmulatorRun]) -> None:
    done = measured_runs[0]
    assert (done.exit_code, done.stdout, done.fault) == (-3, "one, two\n", None)
    some = bytes(n for n in range(20) if n % 5 != 4)
    assert done.outputs == {"copy.bin": bytes(range(20)), "some.bin": some}


def test_two_runs_are_the_same(measured_runs: tuple[EmulatorRun, EmulatorRun]) -> None:
    assert measured_runs[0] == measured_runs[1]


def test_instructions_are_exact(measured_runs: tuple[EmulatorRun, EmulatorRun]) -> None:
    loops = [region.instructions for region in measured_runs[0].regions[:2]]
    # The loop, the return from it, the argument, the call of it and that of bpe_end().
    assert loops == [2 * turns + 4 for turns in TURNS]


def test_stack_of_a_known_frame_is_exact(
    measured_runs: tuple[EmulatorRun, EmulatorRun],
) -> None:
    assert measured_runs[0].stack_bytes == 256


# ---- trouble


def test_exit_code_is_not_cut(troubled: Program) -> None:
    assert troubled.run("x").exit_code == 300


def test_trap_is_a_fault_that_names_the_function(troubled: Program) -> None:
    done = troubled.run("trap")
    assert done.exit_code == 128
    assert done.fault is not None
    assert done.fault.startswith("exception ")
    assert "in `main`" in done.fault


@pytest.mark.parametrize("mode", ["nested", "end alone", "open at exit"])
def test_markers_that_are_not_paired_are_a_fault(troubled: Program, mode: str) -> None:
    assert troubled.run(mode).fault == "bpe_begin() and bpe_end() are not paired"


def test_endless_recursion_is_a_fault(troubled: Program) -> None:
    done = troubled.run("sink")
    assert done.exit_code == 128
    assert done.fault is not None


@pytest.mark.parametrize("core", ["cortex-m0plus", "cortex-m3"])
def test_armv6m_refuses_an_unaligned_word(core: str, tmp_path: Path) -> None:
    fault = make(core_of(core), tmp_path, TROUBLED).run("unaligned").fault
    assert (fault is None) == (core == "cortex-m3")


def test_stack_overflow_is_a_fault(tmp_path: Path) -> None:
    text = """
    #include "bpe_emulator.h"
    static int fill(void)
    {
        volatile char all[65536];
        for (int i = 0; i < 65536; i++)
            all[i] = 1;
        return all[7];
    }
    int main(void) { bpe_begin(); int one = fill(); bpe_end(); return one; }
    """
    done = make(core_of("cortex-m4"), tmp_path, text).run("")
    assert (done.exit_code, done.fault) == (128, "stack overflow")


def test_endless_loop_is_ended(tmp_path: Path) -> None:
    program = make(core_of("cortex-m4"), tmp_path, TROUBLED)
    with pytest.raises(ToolFailed, match="did not end within 1 seconds"):
        program.run("loop", timeout=1)


def test_emulator_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    target = core_of("cortex-m4")
    image = make(target, tmp_path, TROUBLED).image
    other = changed(target, command=("qemu-system-arm", "-M", "no-such-board"))
    with pytest.raises(ToolFailed, match="unsupported machine"):
        run(image, other, {})


@pytest.mark.parametrize("name", ["../main.c", "/main.c", "."])
def test_names_stay_inside_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="out of its folder"):
        build(core_of("cortex-m4"), {name: b""}, tmp_path)


# ---- what is in a program


def test_sizes_by_source(target: McuTarget, tmp_path: Path) -> None:
    table = """
    #include "table.h"
    __attribute__((section("model_weights"))) const unsigned char table[5000] = {1};
    unsigned char area[3000];
    unsigned short start[500] = {7};
    const unsigned char unused[100] = {1};
    """
    main = """
    #include "table.h"
    int main(void) { return area[1] + table[start[2]] - 1 + start[0] - 7; }
    """
    header = """
    extern const unsigned char table[5000], unused[100];
    extern unsigned char area[3000];
    extern unsigned short start[500];
    """
    program = make(target, tmp_path, main, table_c=table, table_h=header)
    assert program.run("").exit_code == 0
    image, sizes = program.image, program.image.sizes_by_source
    assert sizes["table.c"] == {"code": 0, "constants": 5000, "data": 1000, "bss": 3000}
    assert sizes["main.c"]["code"] > 0
    whole = {
        "code": image.code_bytes,
        "constants": image.constant_bytes,
        "data": image.data_bytes,
        "bss": image.bss_bytes,
    }
    for kind, size in whole.items():
        padding = size - sum(row[kind] for row in sizes.values())
        assert 0 <= padding < 32


def test_integer_program_has_no_float_and_no_heap(measured: Program) -> None:
    image = measured.image
    assert (image.float_instructions, image.float_routines, image.heap_routines) == ((), (), ())
    assert "gcc" in image.compiler


def test_soft_float_and_heap_are_found(target: McuTarget, tmp_path: Path) -> None:
    text = """
    #include <stdlib.h>
    int main(void) { volatile float f = 3; f = f * f; return (int)f == 9 && malloc(9) == NULL; }
    """
    program = make(target, tmp_path, text)
    names = ("__mulsf3",) if target.name == "rv32imc" else ("__aeabi_f2iz", "__aeabi_fmul")
    assert set(names) <= set(program.image.float_routines)
    assert "malloc" in program.image.heap_routines
    assert program.run("").exit_code == 1


FPU = {
    "cortex-m4": ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
    "cortex-m55": ("-mcpu=cortex-m55", "-mthumb", "-mfloat-abi=hard"),
    "rv32imc": ("-march=rv32imfc", "-mabi=ilp32f"),
}


@pytest.mark.parametrize("core", FPU)
def test_float_instructions_are_found(core: str, tmp_path: Path) -> None:
    text = "int main(void) { volatile float f = 3; f = f * f; return (int)f; }"
    program = make(changed(core_of(core), *FPU[core]), tmp_path, text)
    multiply = "main: fmul.s" if core == "rv32imc" else "main: vmul.f32"
    assert multiply in program.image.float_instructions
    assert program.image.float_routines == ()
    assert program.run("").exit_code == 9


def test_two_builds_are_the_same(tmp_path: Path) -> None:
    target = core_of("cortex-m4")
    first, second = (make(target, tmp_path / n, MEASURED).image for n in ("a", "b,c"))
    assert first.elf.read_bytes() == second.elf.read_bytes()
    assert b"a/" not in first.elf.read_bytes()


def test_folder_with_a_comma_runs(tmp_path: Path) -> None:
    assert make(core_of("rv32imc"), tmp_path / "b,c", TROUBLED).run("d").exit_code == 5


# ---- refusals


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("int main(void) { return nonsense; }", "nonsense"),
        ("signed char c; int n; int main(void) { c = n; return c; }", "conversion"),
        ("int f(void); int main(void) { return f(); }", "undefined reference to `f'"),
        ("char a[5000000]; int main(void) { return a[1]; }", "RAM"),
    ],
)
def test_what_the_compiler_or_linker_refuses_is_told(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ToolFailed) as caught:
        make(core_of("cortex-m4"), tmp_path, text)
    assert told in str(caught.value.have)


def test_data_that_nobody_initialises_is_refused(tmp_path: Path) -> None:
    text = '__attribute__((section("mine"))) int a = 3; int main(void) { return a; }'
    with pytest.raises(ToolFailed, match="section `mine`"):
        make(core_of("cortex-m4"), tmp_path, text)


def test_missing_tools_are_named_with_their_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolNotFound, match="arm-none-eabi-gcc") as caught:
        find_tools(core_of("cortex-m4"))
    assert caught.value.hint == "on Debian: apt-get install gcc-arm-none-eabi"


def test_missing_c_library_is_named_with_its_package() -> None:
    target = core_of("cortex-m4")
    chain = msgspec.structs.replace(target.toolchain, specs="absent.specs")
    with pytest.raises(ToolNotFound, match=r"no C library `absent\.specs`"):
        find_tools(msgspec.structs.replace(target, toolchain=chain))


def test_target_without_emulator_is_refused() -> None:
    with pytest.raises(InvalidTarget, match="names no emulator"):
        find_tools(core_of("host"))
