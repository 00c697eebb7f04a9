from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest

from binpoint.errors import BinpointError, InputNotFound, InvalidTarget, UnknownTarget
from binpoint.target import FpgaTarget, list_targets, load_target, microcontroller

FPGAS = tuple(n for n in list_targets() if load_target(n).family == "fpga")
MICROCONTROLLERS = tuple(n for n in list_targets() if n not in FPGAS)
CORES = (
    "cortex-m0plus",
    "cortex-m3",
    "cortex-m33",
    "cortex-m4",
    "cortex-m55",
    "cortex-m7",
    "rv32imc",
)

BOARD = """
schema = 1
name = "my-board"
family = "mcu"
extends = "cortex-m4"
summary = "Own board"
source = "its schematic"

[memory.flash]
bytes = 1000
holds = ["code", "constants"]

[memory.sram]
bytes = 500
holds = ["arena", "stack"]
reserve = 100
"""


@pytest.fixture
def board(tmp_path: Path) -> Path:
    path = tmp_path / "my-board.toml"
    path.write_text(BOARD)
    return path


def refused(path: Path, old: str, new: str) -> BinpointError:
    """Return the error for the board file with ``old`` replaced."""
    assert old in BOARD
    path.write_text(BOARD.replace(old, new))
    with pytest.raises(InvalidTarget) as caught:
        load_target(path)
    assert caught.value.at is not None
    assert path.name in caught.value.at
    return caught.value


@pytest.mark.parametrize("name", list_targets())
def test_every_shipped_target_loads_under_its_own_name(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert target.source
    assert target.limits.accumulator_bits == 64


@pytest.mark.parametrize("name", MICROCONTROLLERS)
def test_every_microcontroller_multiplies_words(name: str) -> None:
    assert load_target(name).limits.multiplier_bits == 31


@pytest.mark.parametrize("name", FPGAS)
def test_every_fpga_states_its_fabric_clock_and_documents(name: str) -> None:
    target = load_target(name)
    assert isinstance(target, FpgaTarget)
    fabric = target.fabric
    assert fabric.ff == 2 * fabric.lut
    assert fabric.part.startswith("xc")
    assert fabric.dsp_b == 18
    assert (fabric.dsp_a, target.clock.period_ns) in ((25, 10.0), (27, 5.0))
    assert target.limits.multiplier_bits == fabric.dsp_a - 1
    assert re.search(r"DS\d+.*UG\d+", target.source)
    with pytest.raises(InvalidTarget):
        microcontroller(target)


def test_an_unknown_key_of_an_fpga_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    text = resources.files("binpoint.targets").joinpath("zynq-7020.toml").read_text()
    path = tmp_path / "zynq-7020.toml"
    path.write_text(text.replace("bram18 =", "bram36 ="))
    with pytest.raises(InvalidTarget, match="bram36") as caught:
        load_target(path)
    assert caught.value.hint is not None
    assert "bram18" in caught.value.hint


@pytest.mark.parametrize("name", CORES)
def test_a_core_has_an_emulator_with_apart_memories_and_no_memory_limit(name: str) -> None:
    target = microcontroller(load_target(name))
    emulator = target.toolchain.emulator
    assert emulator is not None
    flash, ram = emulator.flash, emulator.ram
    assert flash.start + flash.bytes <= ram.start or ram.start + ram.bytes <= flash.start
    assert target.memory == {}
    assert target.budget("arena") is None


@pytest.mark.parametrize("name", CORES)
def test_a_core_has_prices_and_says_from_where(name: str) -> None:
    price = microcontroller(load_target(name)).price
    assert price is not None
    assert price.source
    assert {"load", "next_load", "store", "branch", "taken", "jump", "other"} <= set(price.cycles)


def test_a_device_has_its_core_s_prices() -> None:
    device = microcontroller(load_target("stm32f446re"))
    assert device.price == microcontroller(load_target("cortex-m4")).price


def test_the_host_has_neither_prefix_nor_emulator() -> None:
    host = microcontroller(load_target("host"))
    assert host.toolchain.prefix == ""
    assert host.toolchain.emulator is None


def test_at_least_three_devices_state_their_memory() -> None:
    devices = [t for t in map(load_target, MICROCONTROLLERS) if microcontroller(t).extends]
    assert len(devices) >= 3
    for device in map(microcontroller, devices):
        core = microcontroller(load_target(str(device.extends)))
        assert set(device.memory) == {"flash", "sram"}
        assert device.toolchain == core.toolchain
        assert device.arithmetic == core.arithmetic


def test_a_path_works_wherever_a_name_does(board: Path) -> None:
    target = microcontroller(load_target(str(board)))
    assert target == load_target(board)
    assert target.budget("code") == 1000
    assert target.budget("stack") == 400
    assert target.toolchain == microcontroller(load_target("cortex-m4")).toolchain


def test_a_table_of_the_file_replaces_only_the_keys_it_states(board: Path) -> None:
    board.write_text(BOARD + "[arithmetic]\nmultiplier_bits = 15\n")
    target = microcontroller(load_target(board))
    assert target.arithmetic.multiplier_bits == 15
    assert target.arithmetic.features == ("dsp",)


def test_an_unknown_target_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(UnknownTarget, match="cortex-m44") as caught:
        load_target("cortex-m44")
    assert caught.value.hint is not None
    assert "cortex-m4" in caught.value.hint


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputNotFound, match="no-board") as caught:
        load_target(tmp_path / "no-board.toml")
    assert caught.value.at == str(tmp_path / "no-board.toml")


def test_a_folder_is_no_target(tmp_path: Path) -> None:
    with pytest.raises(InputNotFound):
        load_target(tmp_path)


def test_a_binary_file_is_no_target(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputNotFound, match="not UTF-8"):
        load_target(path)


def test_a_syntax_error_names_file_and_line(board: Path) -> None:
    error = refused(board, "schema = 1", "schema = ")
    assert "line 2" in str(error.have)


def test_an_unknown_key_is_refused_with_the_nearest_key(board: Path) -> None:
    error = refused(board, "bytes = 500", "byte = 500")
    assert "`byte`" in error.message
    assert "`bytes`" in str(error.hint)
    assert "memory" in str(error.at)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("bytes = 500", 'bytes = "0.5k"', "int"),
        ("bytes = 500", "bytes = 0", "int"),
        ("bytes = 500", "bytes = -1", "int"),
        ("bytes = 500", "bytes = true", "int"),
        ("bytes = 500", "", "bytes"),
        ("schema = 1", "schema = 2", "2"),
        ('family = "mcu"', 'family = "gpu"', "gpu"),
        ('source = "its schematic"', "", "source"),
        ("[memory.sram]", "[memory.sramm]", "sramm"),
        ('"arena", "stack"', '"arena", "heap"', "heap"),
        ('"arena", "stack"', '"arena", "code"', "held twice"),
        ('"arena", "stack"', "", "length"),
        ("reserve = 100", "reserve = 500", "500 of 500"),
        ('"my-board"', '"other"', "other"),
        ('"my-board"', '"../x"', "str"),
        ('"cortex-m4"', '"cortex-m5"', "cortex-m55"),
        ('"cortex-m4"', '"stm32f446re"', "one level"),
        ('"cortex-m4"', "4", "unknown target"),
    ],
)
def test_a_wrong_value_is_refused(board: Path, old: str, new: str, word: str) -> None:
    assert word in str(refused(board, old, new))


def test_loading_twice_gives_equal_immutable_targets() -> None:
    target = load_target("stm32f446re")
    assert target == load_target("stm32f446re")
    with pytest.raises(AttributeError):
        target.name = "other"  # pyright: ignore[reportAttributeAccessIssue]
