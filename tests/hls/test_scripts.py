"""Scripts for the vendor's tools run through with every command of theirs recorded."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from binpoint.emit.fpga_hls import render
from binpoint.options import CompileOptions
from binpoint.plan.dataflow import design
from binpoint.plan.design import Design
from binpoint.target import FpgaTarget, load_target
from tests.hls.designs import lowered, residual_net

OPTIONS = CompileOptions(name="net")
_RECORDER = """
proc unknown {name args} {
    global fails
    puts "$name $args"
    if {$name eq $fails} { error "$name failed" }
    if {$name eq "get_property" && [lindex $args 0] eq "PROGRESS"} { return "100%" }
    if {$name eq "get_property" && [lindex $args 0] eq "DIRECTORY"} { return [pwd]/run }
    return $name:$args
}
"""


def _written(name: str, folder: Path) -> tuple[Design, FpgaTarget]:
    target = load_target(name)
    assert isinstance(target, FpgaTarget)
    plan = design(lowered(residual_net(), OPTIONS), target, OPTIONS)
    render(plan, target).write(folder)
    return plan, target


def _ran(folder: Path, script: str, fails: str = "") -> tuple[int, list[str]]:
    runner = folder / "runner.tcl"
    runner.write_text(f'set fails "{fails}"\n{_RECORDER}\nsource {script}\n')
    done = subprocess.run(
        ["tclsh", runner], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout.splitlines()


@pytest.mark.needs("tclsh")
def test_the_script_simulates_synthesises_and_packages(tmp_path: Path) -> None:
    _, target = _written("zynq-7020", tmp_path / "hls")
    status, said = _ran(tmp_path / "hls", "run_hls.tcl")
    assert status == 0
    steps = [line.split()[0] for line in said if re.match(r"(csim|csynth|cosim|export)_", line)]
    assert steps == ["csim_design", "csynth_design", "export_design"]
    assert f"set_part {target.fabric.part}" in said
    sources = [line for line in said if line.startswith("add_files")]
    assert all(Path(re.findall(r"\S+\.cpp", line)[0]).is_file() for line in sources)


@pytest.mark.needs("tclsh")
@pytest.mark.parametrize("step", ["csim_design", "csynth_design", "export_design"])
def test_a_step_that_fails_ends_the_script(step: str, tmp_path: Path) -> None:
    _written("zynq-7020", tmp_path / "hls")
    status, said = _ran(tmp_path / "hls", "run_hls.tcl", fails=step)
    assert status != 0
    assert said[-1].startswith(step)


@pytest.mark.needs("tclsh")
@pytest.mark.parametrize("name", ["zynq-7020", "zu3eg"])
def test_the_block_design_joins_every_port(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "hls"
    plan, _ = _written(name, folder)
    handoff = folder / "vivado/build/net_vivado.gen/sources_1/bd/system/hw_handoff/system.hwh"
    for path in (folder / "hls/solution/impl/ip", folder / "run", handoff.parent):
        path.mkdir(parents=True)
    (folder / "run/system_wrapper.bit").write_bytes(b"bits")
    handoff.write_text("hwh")
    status, said = _ran(folder, "vivado/bitstream.tcl")
    assert status == 0, said[-3:]
    assert (folder / "net.bit").read_bytes() == b"bits"
    assert (folder / "net.hwh").read_text() == "hwh"
    joined = [line for line in said if line.startswith("connect_bd_intf_net")]
    pairs = [re.findall(r"get_bd_intf_pins:([^\s}]+)", line) for line in joined]
    for port in plan.inputs:
        assert [f"dma_{port.name}/M_AXIS_MM2S", f"net/{port.name}"] in pairs
    for port in plan.outputs:
        assert [f"net/{port.name}", f"dma_{port.name}/S_AXIS_S2MM"] in pairs
    ends = [end for pair in pairs for end in pair]
    assert len(set(ends)) == len(ends) == 2 * len(pairs)
    assert "net/s_axi_control" in ends


def test_a_part_without_a_processor_has_no_block_design(tmp_path: Path) -> None:
    _written("artix7-35t", tmp_path / "hls")
    assert not (tmp_path / "hls/vivado").exists()
    assert "processor" not in (tmp_path / "hls/options.tcl").read_text()
