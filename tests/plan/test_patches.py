"""The choice of stages: as much memory as there is, for as little work as does."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import mobilenet_v2
from binpoint import CompileOptions, compile_model, load_target
from binpoint.errors import DoesNotFit
from binpoint.frontend.load import load
from binpoint.frontend.samples import RANDOM, read_samples
from binpoint.ir.graph import Graph
from binpoint.ops.patched import Patched
from binpoint.passes.base import Context
from binpoint.passes.manager import run
from binpoint.pipelines import choose
from binpoint.plan.arrange import arrange
from binpoint.plan.halos import Estimates
from binpoint.plan.patches import PatchStage, divided, undivided
from binpoint.target import microcontroller

HOST = microcontroller(load_target("host"))
RAM = CompileOptions(optimize="ram")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nets") / "small.onnx"
    path.write_bytes(mobilenet_v2.build(32, 0.25, blocks=3).SerializeToString())
    return path


@pytest.fixture(scope="module")
def plain(model: Path) -> Graph:
    graph = load(model)
    context = Context(HOST, CompileOptions(), read_samples(RANDOM, graph))
    return run(choose(None, HOST), graph, context)


def small(folder: Path, ram: int) -> str:
    path = folder / "small.toml"
    path.write_text(
        'schema = 1\nname = "small"\nfamily = "mcu"\nextends = "cortex-m0plus"\n'
        'summary = "a core with little memory"\nsource = "made up"\n'
        f'[memory.flash]\nbytes = 1000000\nholds = ["code", "constants"]\n'
        f'[memory.sram]\nbytes = {ram}\nholds = ["arena", "stack"]\n',
        encoding="utf-8",
    )
    return str(path)


def stages(graph: Graph) -> list[Patched]:
    return [n.op for n in graph.nodes() if isinstance(n.op, Patched)]


def test_less_work_is_allowed_less_memory_is_saved(plain: Graph) -> None:
    program = arrange(plain, RAM, HOST)
    estimates = Estimates(plain, program)
    found = [estimates.least_memory(extra) for extra in (0.0, 0.03, 0.12, 0.5)]
    peaks = [division.peak for division in found if division is not None]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] > 2 * peaks[2] > 2 * peaks[3]


def test_extra_work_and_memory_are_as_estimated(plain: Graph) -> None:
    program = arrange(plain, RAM, HOST)
    estimates = Estimates(plain, program)
    division = estimates.least_memory(0.12)
    assert division is not None
    made = divided(plain, division)
    total = sum(estimates.macs.values())
    counts = [op.extra_macs() for op in stages(made)]
    extra = sum(macs - once for macs, once in counts) / total
    assert extra == pytest.approx(division.extra, abs=1e-4)
    assert extra <= 0.12
    assert arrange(made, RAM, HOST).arena_bytes == pytest.approx(division.peak, rel=0.15)


def test_a_graph_is_put_together_again(plain: Graph) -> None:
    context = Context(HOST, RAM, None)
    patched = PatchStage().run(plain.copy(), context)
    assert stages(patched)
    again = undivided(patched)
    kinds = [sorted(type(n.op).__name__ for n in g.nodes()) for g in (again, plain)]
    assert kinds[0] == kinds[1]


@pytest.mark.slow
@pytest.mark.needs("cc")
def test_patches_are_verified_and_reported(model: Path) -> None:
    result = compile_model(model, HOST, RAM, verify="host", verify_samples=3, curve=True)
    report = result.report
    assert report.verdict == "equal"
    assert report.patches is not None
    assert report.patches.arena_patched_bytes == report.arena_bytes
    assert report.patches.arena_plain_bytes > 2 * report.patches.arena_patched_bytes
    assert 0 < report.patches.extra_macs_fraction <= 0.12
    assert report.patches.bitops_mixed == report.patches.bitops_uniform8
    assert report.patch_curve[0].arena_bytes == report.patches.arena_plain_bytes


def test_patches_only_where_the_plain_plan_does_not_fit(plain: Graph, tmp_path: Path) -> None:
    options = CompileOptions()
    needed = arrange(plain, options, HOST).arena_bytes
    for part, patched in ((1.0, False), (0.8, True), (0.5, True), (0.01, False)):
        target = microcontroller(load_target(small(tmp_path, int(needed * part))))
        made = PatchStage().run(plain.copy(), Context(target, options, None))
        assert bool(stages(made)) == patched, part
        if patched:
            assert arrange(made, options, target).arena_bytes <= needed * part


@pytest.mark.slow
def test_less_work_is_done_where_more_memory_is_there(plain: Graph, tmp_path: Path) -> None:
    options = CompileOptions()
    needed = arrange(plain, options, HOST).arena_bytes
    work: list[int] = []
    for part in (0.8, 0.6, 0.4):
        target = load_target(small(tmp_path, int(needed * part)))
        made = PatchStage().run(plain.copy(), Context(target, options, None))
        counts = [op.extra_macs() for op in stages(made)]
        work.append(sum(macs - once for macs, once in counts))
    assert work == sorted(work)


@pytest.mark.slow
def test_what_does_not_fit_in_patches_either_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(DoesNotFit):
        compile_model(model, load_target(small(tmp_path, 900)), CompileOptions(), verify="none")
