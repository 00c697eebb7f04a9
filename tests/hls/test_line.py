"""The whole line for an FPGA: compile, report, verify the folder again, refuse what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from binpoint.driver import Result, compile_model, verify_folder
from binpoint.errors import BadOption, BinpointError, DoesNotFit, Mismatch
from binpoint.options import CompileOptions, Fold
from binpoint.plan.folding import Choice
from binpoint.sim.emitted import EmittedHls
from binpoint.sim.interface import Codes
from binpoint.target import FpgaTarget, load_target
from tests import models
from tests.hls.designs import residual_net

pytestmark = pytest.mark.needs("g++")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    models.save_quantized(folder / "qnet.onnx")
    models.save_samples(folder / "net.npz")
    return folder


def compiled(
    folder: Path, target: str = "zynq-7020", verify: str = "all", **options: object
) -> Result:
    return compile_model(
        folder / "qnet.onnx",
        load_target(target),
        CompileOptions(**options),  # pyright: ignore[reportArgumentType]
        samples=folder / "net.npz",
        verify=verify,
        verify_samples=20,
    )


@pytest.fixture(scope="module")
def fast(folder: Path) -> Result:
    return compiled(folder, fps=1e6)


def test_every_witness_agrees(fast: Result) -> None:
    found = {w.name: (w.verdict, w.samples) for w in fast.report.witnesses}
    for name in ("interpreter", "onnxruntime", "native integers", "ap_types", "source"):
        assert found[name] == ("equal", 20)
    assert fast.report.verdict == "equal"


def test_the_report_tells_pace_resources_units_and_streams(fast: Result) -> None:
    assert isinstance(fast.plan, Choice)
    found = fast.report.fpga
    assert found is not None
    assert (found.part, found.top, found.notice) == ("xc7z020clg400-1", "stream", None)
    assert found.inferences_per_second >= 1e6
    assert found.interval_cycles == round(found.clock_mhz * 1e6 / found.inferences_per_second)
    assert [row.resource for row in found.resources] == ["LUT", "FF", "DSP", "BRAM18"]
    assert all(0 <= row.used <= row.available for row in found.resources)
    assert sum(unit.dsp for unit in found.units) == found.resources[2].used
    assert {fifo.name: fifo.depth for fifo in found.fifos} == {
        name: stream.depth for name, stream in fast.plan.design.streams.items()
    }
    assert fast.report.arena_bytes is fast.report.instructions is None
    assert fast.report.macs == models.INPUT * models.HIDDEN + models.HIDDEN * models.CLASSES
    assert fast.report.accuracy.integer == fast.report.accuracy.onnxruntime


def test_a_written_folder_verifies_again_and_a_change_is_found(
    fast: Result, tmp_path: Path
) -> None:
    fast.project.write(tmp_path / "out")
    again = verify_folder(tmp_path / "out").report
    assert again.verdict == "equal"
    assert {w.name for w in again.witnesses} == {
        *("vectors", "onnxruntime", "native integers", "ap_types")
    }
    source = tmp_path / "out" / "src" / "parameters.hpp"
    text = source.read_text()
    start = text.index("{", text.index("bias")) + 1
    source.write_text(f"{text[:start]}{{9999}}, {text[start:].split(',', 1)[1]}")
    with pytest.raises(BinpointError) as caught:
        verify_folder(tmp_path / "out", "host")
    assert isinstance(caught.value, Mismatch) or "status" in str(caught.value)


def test_the_same_input_gives_the_same_bytes(folder: Path) -> None:
    first, second = (compiled(folder, verify="none", fps=1e6) for _ in range(2))
    assert first.project.digest() == second.project.digest()


def test_a_build_that_computes_something_else_is_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = EmittedHls.build

    def off_by_one(self: EmittedHls, inputs: list[Codes], *rest: object, **more: object) -> object:
        found = real(self, inputs, *rest, **more)  # pyright: ignore[reportArgumentType]
        (name,) = found[3]
        found[3][name] = found[3][name] + 1
        return found

    monkeypatch.setattr(EmittedHls, "build", off_by_one)
    with pytest.raises(Mismatch, match="native integers differs") as caught:
        compiled(folder)
    assert "sample 3" in (caught.value.have or "")


def test_only_a_parallel_top_takes_an_input_every_cycle(folder: Path) -> None:
    found = compiled(folder, target="xcvu9p", verify="host", fps=150e6).report.fpga
    assert found is not None
    assert (found.top, found.interval_cycles, found.fifos) == ("parallel", 1, ())
    assert found.notice is None


def test_a_pace_out_of_reach_says_how_far_it_gets(folder: Path) -> None:
    found = compiled(folder, verify="none", fps=1e12, top="stream").report.fpga
    assert found is not None
    assert found.notice is not None
    assert "asked for 1e+12 inferences/s" in found.notice


def test_a_folding_is_taken_as_given(folder: Path) -> None:
    base = compiled(folder, verify="none").report.fpga
    assert base is not None
    layer = next(unit.name for unit in base.units if unit.kind == "dense")
    found = compiled(folder, verify="host", folding={layer: Fold(pe=3, simd=4)}).report.fpga
    assert found is not None
    unit = next(unit for unit in found.units if unit.name == layer)
    assert (unit.pe, unit.simd) == (3, 4)
    assert unit.cycles == models.INPUT * models.HIDDEN // 12
    with pytest.raises(BadOption, match="does not divide"):
        compiled(folder, folding={layer: Fold(pe=5)})


def test_a_part_that_is_too_small_is_refused_with_figures(folder: Path) -> None:
    target = load_target("artix7-35t")
    assert isinstance(target, FpgaTarget)
    small = msgspec.structs.replace(target.fabric, lut=100)
    tiny = msgspec.structs.replace(target, fabric=small)
    with pytest.raises(DoesNotFit, match="does not fit the part") as caught:
        compile_model(folder / "qnet.onnx", tiny, CompileOptions(), samples=folder / "net.npz")
    assert "LUT" in (caught.value.have or "")


def test_an_image_goes_in_with_the_axes_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(residual_net().SerializeToString())
    x = np.random.default_rng(3).normal(0, 1, (12, 2, 10, 10)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    result = compile_model(
        tmp_path / "net.onnx",
        load_target("zu3eg"),
        CompileOptions(),
        samples=tmp_path / "x.npz",
        verify="none",
        verify_samples=6,
    )
    ports = json.loads(result.project.files["manifest.json"])["inputs"]
    assert ports[0]["shape"] == [1, 2, 10, 10]
    assert ports[0]["wire"]["view"]["order"] == [0, 2, 3, 1]
    result.project.write(tmp_path / "out")
    assert verify_folder(tmp_path / "out").report.verdict == "equal"
